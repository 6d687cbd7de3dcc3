"""Encrypted vectors that are added by hand: one key, a few sites, no rounds.

A round adds signatures, floors, journals and proofs; this module is what is below it, for those
who exchange files. Whoever adds sees how often and with which weights, but no values; whoever has
the private key sees every vector that reaches it unadded.

Nothing here is authenticated. Bytes are checked to be ciphertexts of the key under one layout, and
not to come from the site that they should come from. A sum names the vectors in it, so that one
that is added twice or opened alone is found: an honest mistake, since that is a claim as well.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secagg_native import MAX_THREADS
from secagg_native.paillier import from_words, to_words

from ..errors import DecodeError, MisuseError, PeerError, PlanError
from ..wire import Buffer, Header, decode_header, encode_header, flat_view
from ._arguments import check_type
from ._parts import MOST_PARTS, PART_SIZE, check_apart, check_parts, name_of
from .keys import PrivateKey, PublicKey
from .packing import MOST_WEIGHT, Layout, SlotRangeError, Words

Progress = Callable[[int], None]

MOST_CONTEXT: Final = 64
#: Largest number of binary places: 2^-1022 is the least real that float64 holds in full.
MOST_PLACES: Final = 1022
#: Rows that are packed, encrypted or opened at a time: below 1 MiB for a key of 3072 bits.
BATCH: Final = 1024

_MAGIC: Final = b"SAPV\x01"
_PREFIX: Final = struct.Struct("<5sI")
#: msgpack takes two bytes more for each digest; all other fields are below 1 KiB.
_MOST_HEADER: Final = 1024 + MOST_PARTS * (PART_SIZE + 2)
_MOST_LEVELS: Final = 1 << 62


class _Header(Header, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What travels before the rows."""

    key: bytes
    bits: int
    most: int
    length: int
    key_bits: int
    count: int
    places: int
    context: bytes
    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Ciphertexts:
    """One encrypted vector, or a weighted sum of some. Valid once constructed, never changed.

    key: the public key, with ``knowledge_proofs=False``.
    rows: ciphertexts, uint64 [layout.rows, 2 * key.words], little-endian words; kept read-only.
    layout: where the elements of the vector lie.
    count: sum of the integer weights of what was added, 1 to ``layout.most``.
    context: up to 64 bytes that say which sum this is for; only equal ones add.
    places: binary places of the reals that the elements encode (:class:`FixedPoint`), 0 for
        integers. All vectors of a sum have the same, so it tells nothing of the values.
    parts: names of the vectors that were added, sorted; none is there twice. The name of a vector
        is the first 16 bytes of SHA-256 over its rows when it was encrypted. Where none is given,
        this is a new vector. At most 65,536, and not more than ``count``.

    Raises :class:`MisuseError` naming the broken rule (``key-use`` for a key whose ciphertexts come
    with proofs, ``layout``, ``count``, ``context``, ``precision``, ``parts``, ``arguments``), and
    :class:`DecodeError` (``ciphertext``) where a row is 0, not below n^2 or shares a factor with n.
    """

    key: PublicKey = field(repr=False)
    rows: Words = field(repr=False)
    layout: Layout
    count: int = 1
    context: bytes = b""
    places: int = 0
    parts: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _check_use(self.key)
        _check_layout(self.key, self.layout)
        _check_labels(self.layout, self.count, self.context, self.places)
        self.key.check_rows(self.rows, sender=None)
        if len(self.rows) != self.layout.rows:
            raise MisuseError(
                f"{len(self.rows)} rows, and the layout has {self.layout.rows}", rule="layout"
            )
        rows = np.ascontiguousarray(self.rows).view()
        rows.flags.writeable = False
        object.__setattr__(self, "rows", rows)
        if self.parts == ():
            object.__setattr__(self, "parts", (name_of(rows),))
        check_parts(self.parts, self.count)

    def add(self, other: Ciphertexts, *, threads: int = 1) -> Ciphertexts:
        """The encrypted sum of both vectors.

        Raises :class:`MisuseError` where they do not belong together (``key``, ``layout``,
        ``context``, ``precision``), where the weights would exceed the layout (``count``), and
        where one vector is in both (``parts``).
        """
        return Ciphertexts.sum_of((self, other), threads=threads)

    @staticmethod
    def sum_of(vectors: Iterable[Ciphertexts], *, threads: int = 1) -> Ciphertexts:
        """The encrypted sum of all ``vectors``, of which one at a time is in memory.

        Raises as :meth:`add` does; ``count`` also for no vector at all. A vector is refused
        before it is added.
        """
        _check_threads(threads)
        check_type("vectors", vectors, Iterable)
        first = total = product = None
        parts: set[bytes] = set()
        for each in vectors:
            check_type("vectors", each, Ciphertexts)
            if first is None or total is None or product is None:
                first, total = each, each.count
                parts.update(each.parts)
                product = each.key.squares.product(each.rows)
                continue
            _check_together(first, each)
            total += each.count
            check_apart(parts, each.parts)
            _check_count(first.layout, total)
            parts.update(each.parts)
            product.multiply(each.rows, threads=threads)
        if first is None or total is None or product is None:
            raise MisuseError("there is nothing to add", rule="count")
        return replace(first, rows=product.value(), count=total, parts=tuple(sorted(parts)))

    def scale(
        self, weight: int, *, threads: int = 1, progress: Progress | None = None
    ) -> Ciphertexts:
        """The encrypted vector times an integer ``weight`` of at least 1, which is public.

        Raises :class:`MisuseError` (``count``) where the weights would exceed the layout.
        """
        _check_threads(threads)
        weight = _weight(weight)
        _check_count(self.layout, weight * self.count)
        rows = self.key.squares.power(self.rows, weight, threads=threads, progress=progress)
        return replace(self, rows=rows, count=weight * self.count)

    def rerandomise(self, *, threads: int = 1) -> Ciphertexts:
        """Fresh ciphertexts of the same vector. It costs as much as encrypting.

        Rows of a sum follow from its addends; fresh ones do not. ``parts`` stay, and name them.
        """
        _check_threads(threads)
        return replace(self, rows=self.key.rerandomise(self.rows, threads=threads))

    def to_bytes(self) -> bytes:
        """Magic, length of the header (u32), canonical msgpack header, raw little-endian rows."""
        header = encode_header(
            _Header(
                key=self.key.digest,
                bits=self.layout.bits,
                most=self.layout.most,
                length=self.layout.length,
                key_bits=self.layout.key_bits,
                count=self.count,
                places=self.places,
                context=self.context,
                parts=self.parts,
            )
        )
        rows = self.rows.astype("<u8", copy=False)
        return b"".join((_PREFIX.pack(_MAGIC, len(header)), header, rows.data))

    @classmethod
    def from_bytes(
        cls,
        key: PublicKey,
        data: Buffer,
        *,
        layout: Layout | None = None,
        sender: str | None = None,
    ) -> Ciphertexts:
        """The vector in ``data``, encrypted under ``key``; of ``layout`` where one is expected.

        Raises :class:`DecodeError` naming ``sender`` and the rule: ``frame``, ``header``,
        ``key``, ``layout``, ``count``, ``context``, ``precision``, ``parts``, ``ciphertext``. What
        is in the header is the sender's claim. Raises :class:`MisuseError` (``key-use``) for a key
        under which nothing is added by hand, and (``arguments``) for arguments of another type.
        """
        _check_use(key)
        if layout is not None:
            check_type("layout", layout, Layout)
        try:
            return cls._decode(key, data, layout)
        except (DecodeError, MisuseError, PlanError) as error:
            # The same checks hold for one's own vectors; here the mistake is the sender's.
            text = str(error).removesuffix(f" [{error.rule}]")
            raise DecodeError(text, rule=error.rule, sender=sender) from None

    @classmethod
    def _decode(cls, key: PublicKey, data: Buffer, layout: Layout | None) -> Ciphertexts:
        view = flat_view(data, _PREFIX.size)
        magic, size = _PREFIX.unpack_from(view)
        start = _PREFIX.size + size
        if magic != _MAGIC or size > _MOST_HEADER or start > view.nbytes:
            raise DecodeError("not an encrypted vector of this version", rule="frame")
        header = decode_header(_Header, view[_PREFIX.size : start])
        if encode_header(header) != view[_PREFIX.size : start]:
            raise DecodeError("the header is not canonically encoded", rule="header")
        if header.key != key.digest:
            raise DecodeError("encrypted under another key", rule="key")
        found = Layout(header.bits, header.most, header.length, header.key_bits)
        if layout is not None and found != layout:
            raise DecodeError("another layout than the one expected", rule="layout")
        _check_layout(key, found)
        # The length is known before anything is allocated.
        width = 2 * key.words
        if view.nbytes - start != 8 * found.rows * width:
            raise DecodeError(
                f"{view.nbytes - start} bytes of ciphertexts, {8 * found.rows * width} expected",
                rule="frame",
            )
        rows = np.frombuffer(view, "<u8", offset=start).reshape(found.rows, width)
        if not header.parts:
            raise DecodeError("the header names no vector", rule="parts")
        # A copy: aligned, in the order of this machine, and nobody else's to change.
        copied = np.array(rows, dtype=np.uint64)
        return cls(key, copied, found, header.count, header.context, header.places, header.parts)


def encrypt(
    key: PublicKey,
    ring: npt.NDArray[Any],
    layout: Layout,
    *,
    context: bytes = b"",
    places: int = 0,
    weight: int = 1,
    threads: int = 1,
    progress: Progress | None = None,
) -> Ciphertexts:
    """Encrypt one vector, batch by batch, with fresh randomness from the operating system.

    ring: uint16, uint32 or uint64 [layout.length], below 2^layout.bits.
    context, places: as of :class:`Ciphertexts`.
    weight: what the vector is multiplied by; it is public, and counts in the sum of weights.
    progress: called with the number of rows that are done, from time to time.

    Raises :class:`MisuseError`: ``input-dtype``, ``input-shape``, ``input-range`` (of the ring),
    ``layout``, ``count``, ``context``, ``precision``, ``key-use``, ``arguments``.
    """
    _check_threads(threads)
    _check_use(key)
    weight = _weight(weight)
    _check_layout(key, layout)
    _check_labels(layout, weight, context, places)
    ring = _ring(ring, layout)
    rows = np.empty((layout.rows, 2 * key.words), np.uint64)
    for start in range(0, layout.rows, BATCH):
        stop = min(start + BATCH, layout.rows)
        first, last = layout.span(start, stop - start)
        messages = layout.pack(ring[first:last], start)
        if weight > 1:
            # No slot carries: the layout has room for this weight.
            messages = to_words([weight * each for each in from_words(messages)], key.words)
        rows[start:stop], _ = key.encrypt_rows(messages, threads=threads)
        if progress is not None:
            progress(stop)
    return Ciphertexts(key, rows, layout, weight, context, places)


def open_with(
    private: PrivateKey,
    ciphertexts: Ciphertexts,
    *,
    single: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
) -> npt.NDArray[np.uint64]:
    """The vector modulo 2^bits, uint64 [length]: the weighted sum of what was encrypted.

    single: open one site's vector too, which is no sum, where the layout has room for more.

    Raises :class:`MisuseError` (``key``) for another key's ciphertexts, (``parts``) for a single
    vector unless it was asked for, (``arguments``) for other types, and :class:`PeerError`
    (``slot-range``) where a plaintext is none that a sum of this layout and count can have: then
    something was encrypted that is no vector, or the header does not belong to the rows.
    """
    _check_threads(threads)
    check_type("private", private, PrivateKey)
    check_type("ciphertexts", ciphertexts, Ciphertexts)
    if private.public.digest != ciphertexts.key.digest:
        raise MisuseError("these are encrypted under another key", rule="key")
    if not single:
        check_sum(ciphertexts)
    layout = ciphertexts.layout
    out = np.empty(layout.length, np.uint64)
    for start in range(0, layout.rows, BATCH):
        stop = min(start + BATCH, layout.rows)
        plain = private.decrypt(ciphertexts.rows[start:stop], threads=threads)
        first, last = layout.span(start, stop - start)
        try:
            layout.unpack(plain, ciphertexts.count, out[first:last], start)
        except SlotRangeError as error:
            raise PeerError(str(error), rule="slot-range") from None
        if progress is not None:
            progress(stop)
    return out


def check_sum(vector: Ciphertexts) -> None:
    """Raise :class:`MisuseError` (``parts``) for one site's vector, which is no sum.

    It passes where the layout has room for no other. The number of vectors is a claim.
    """
    if len(vector.parts) == 1 < vector.layout.most:
        raise MisuseError("one site's vector and no sum; add first", rule="parts")


def signed(ring: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int64]:
    """Integers from -2^(bits-1) to 2^(bits-1) - 1, int64, of elements modulo 2^bits."""
    spare = np.int64(64 - bits)
    lifted = ring.astype(np.uint64).view(np.int64)
    # The sign bit moves to the top, and is copied on the way back.
    lifted <<= spare
    lifted >>= spare
    return lifted


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Reals as integers: multiples of 2^-places, at most ``limit`` in size.

    places: binary places, 0 to 1022, agreed by all: a precision chosen by each value, as in
        floating point, would be seen by everybody. 0 takes integers as they are.
    limit: largest size of a value, above 0.

    Raises :class:`PlanError` (``precision``) where a value is out of range, and where ``limit``
    is less than a half or more than 2^62 of such multiples.
    """

    places: int
    limit: float

    def __post_init__(self) -> None:
        if type(self.places) is not int or not 0 <= self.places <= MOST_PLACES:
            raise PlanError(f"an integer from 0 to {MOST_PLACES}", rule="precision", field="places")
        if type(self.limit) not in (int, float) or not 0 < self.limit < math.inf:
            raise PlanError("a finite number above 0", rule="precision", field="limit")
        # In this order: what comes first keeps what follows from overflowing.
        fits = self.limit <= _MOST_LEVELS and math.frexp(self.limit)[1] + self.places <= 64
        if not fits or not 1 <= self.levels <= _MOST_LEVELS:
            raise PlanError(
                "a limit between 2^-places and 2^(62 - places)", rule="precision", field="limit"
            )

    @property
    def levels(self) -> int:
        """Largest integer that encodes a value: ``limit`` rounded like any other."""
        if isinstance(self.limit, int):
            return self.limit << self.places
        return round(math.ldexp(self.limit, self.places))

    def bits(self, most: int) -> int:
        """Least bits of a ring in which no sum with weights of up to ``most`` wraps.

        Raises :class:`PlanError` (``precision``) where that is more than 64, and for another
        ``most`` than an integer from 1 to 2^32.
        """
        if type(most) is not int or not 1 <= most <= MOST_WEIGHT:
            raise PlanError(f"an integer from 1 to {MOST_WEIGHT}", rule="precision", field="most")
        found = (most * self.levels).bit_length() + 1
        if found > 64:
            raise PlanError(
                f"sums need {found} bits, a ring has 64: choose fewer places, a lower limit or "
                "fewer sites",
                rule="precision",
                field="places",
            )
        return found

    def encode(self, x: npt.NDArray[Any], layout: Layout) -> npt.NDArray[np.uint64]:
        """Ring elements uint64 of ``x``, each rounded to the nearest multiple, half to even.

        x: floats of at most 64 bits, rounded exactly, or integers, taken as they are; [length].
        Raises :class:`MisuseError`: ``input-dtype``, ``input-shape``, ``input-finite``,
        ``input-range`` (naming the first index at fault, and no value), and ``precision`` where a
        sum could wrap in the ring of ``layout``.
        """
        if not isinstance(x, np.ndarray) or x.dtype.kind not in "iuf" or x.dtype.itemsize > 8:
            raise MisuseError("a vector has integers or floats up to 64 bits", rule="input-dtype")
        check_type("layout", layout, Layout)
        if x.shape != (layout.length,):
            raise MisuseError(
                f"a vector of {layout.length} numbers is needed, not an array of shape {x.shape}",
                rule="input-shape",
            )
        if self.bits(layout.most) > layout.bits:
            raise MisuseError(
                f"a sum could wrap: it needs {self.bits(layout.most)} bits, and the ring has "
                f"{layout.bits}",
                rule="precision",
            )
        whole = self._floats(x) if x.dtype.kind == "f" else self._integers(x)
        return whole.view(np.uint64) & np.uint64((1 << layout.bits) - 1)

    def _floats(self, x: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        _refuse_first(~np.isfinite(x), "is NaN or infinity", "input-finite")
        wide = x.astype(np.float64)
        top = float(self.limit)
        if top > self.limit:  # An integer that float64 does not hold.
            top = math.nextafter(top, 0)
        _refuse_first(np.abs(wide) > top, "is beyond the limit", "input-range")
        # A product with a power of two is exact: values become larger, and none overflows.
        return np.rint(np.ldexp(wide, self.places)).astype(np.int64)

    def _integers(self, x: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        top = math.floor(self.limit)
        _refuse_first((x > top) | (x < -top), "is beyond the limit", "input-range")
        return x.astype(np.int64) << np.int64(min(self.places, 63))

    def decode(self, ring: npt.NDArray[Any], bits: int) -> npt.NDArray[np.float64]:
        """Sums as float64: exact up to 2^53 multiples, and correctly rounded above.

        Raises :class:`MisuseError` (``arguments``) for anything but integers and 1 to 64 bits.
        """
        check_type("ring", ring, np.ndarray)
        if ring.dtype.kind not in "iu" or type(bits) is not int or not 1 <= bits <= 64:
            raise MisuseError("an array of integers, and 1 to 64 bits of each", rule="arguments")
        return np.ldexp(signed(ring, bits).astype(np.float64), -self.places)


def _refuse_first(bad: npt.NDArray[np.bool_], what: str, rule: str) -> None:
    if bad.any():
        raise MisuseError(f"the number at index {int(bad.argmax())} {what}", rule=rule)


def _ring(ring: object, layout: Layout) -> npt.NDArray[Any]:
    """``ring`` as contiguous lanes, or :class:`MisuseError`."""
    if not isinstance(ring, np.ndarray) or ring.dtype not in (np.uint16, np.uint32, np.uint64):
        raise MisuseError("elements are uint16, uint32 or uint64", rule="input-dtype")
    if ring.shape != (layout.length,):
        raise MisuseError(
            f"a vector of {layout.length} elements, and not of shape {ring.shape}",
            rule="input-shape",
        )
    width = 8 * ring.dtype.itemsize
    if layout.bits > width:
        raise MisuseError(f"elements of {layout.bits} bits need wider lanes", rule="input-dtype")
    if layout.bits < width and int(ring.max()) >> layout.bits:
        raise MisuseError(f"an element has more than {layout.bits} bits", rule="input-range")
    return np.ascontiguousarray(ring)


def _weight(weight: object) -> int:
    if isinstance(weight, bool | np.bool_) or not isinstance(weight, int | np.integer):
        raise MisuseError("a weight is an integer", rule="count")
    if weight < 1:
        raise MisuseError("a weight is at least 1", rule="count")
    return int(weight)


def _check_threads(threads: object) -> None:
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise MisuseError(f"threads are from 1 to {MAX_THREADS}", rule="threads")


def _check_count(layout: Layout, count: int) -> None:
    if type(count) is not int or not 1 <= count <= layout.most:
        raise MisuseError(
            f"the weights add up to {count}, and the layout has room for {layout.most}",
            rule="count",
        )


def _check_use(key: PublicKey) -> None:
    check_type("key", key, PublicKey)
    if key.knowledge_proofs:
        raise MisuseError(
            "what is opened under this key comes with proofs, which vectors that are added by hand "
            "have not; make another key for them, with knowledge_proofs=False",
            rule="key-use",
        )


def _check_layout(key: PublicKey, layout: Layout) -> None:
    check_type("layout", layout, Layout)
    if layout.key_bits != key.bits:
        raise MisuseError(
            f"a layout for keys of {layout.key_bits} bits, and this one has {key.bits}",
            rule="layout",
        )


def _check_labels(layout: Layout, count: int, context: bytes, places: int) -> None:
    _check_count(layout, count)
    if type(context) is not bytes or len(context) > MOST_CONTEXT:
        raise MisuseError(f"a context has up to {MOST_CONTEXT} bytes", rule="context")
    if type(places) is not int or not 0 <= places <= MOST_PLACES:
        raise MisuseError(f"binary places are from 0 to {MOST_PLACES}", rule="precision")


def _check_together(one: Ciphertexts, other: Ciphertexts) -> None:
    """Raise :class:`MisuseError` unless both may be added."""
    if one.key.digest != other.key.digest:
        raise MisuseError("encrypted under different keys", rule="key")
    if one.layout != other.layout:
        raise MisuseError("their layouts differ", rule="layout")
    if one.context != other.context:
        raise MisuseError("they are for different sums", rule="context")
    if one.places != other.places:
        raise MisuseError("their precisions differ", rule="precision")
