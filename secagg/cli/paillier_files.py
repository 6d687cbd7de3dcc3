"""The files of ``secagg paillier``: keys, jobs, encrypted vectors, parts, arrays.

Every file is read whole, strictly, and within a limit where its size is not fixed by another; none
is ever overwritten, and none appears before it is complete.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import struct
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final

import msgspec
import numpy as np

from secagg.durable import sync_folder, write_durably
from secagg_protocols.errors import DecodeError, MisuseError, PeerError, PlanError
from secagg_protocols.keys import digest_of
from secagg_protocols.paillier import (
    Ciphertexts,
    FixedPoint,
    KeyShare,
    Layout,
    PrivateKey,
    PublicKey,
    modulus_proof,
    threshold,
)
from secagg_protocols.paillier._parts import MOST_PARTS
from secagg_protocols.paillier.keys import Words
from secagg_protocols.paillier.packing import MOST_WEIGHT
from secagg_protocols.wire import Header, decode_header, encode_header, flat_view

#: A key with the proof about its modulus and the values of all holders is far below this.
_MOST_KEY: Final = 1 << 21
_MOST_JOB: Final = 1 << 16
_KINDS: Final = {
    "public key": b"secagg paillier public key 1",
    "private key": b"secagg paillier private key 1",
    "share": b"secagg paillier key share 1",
    "vector": b"SAPV",
    "part": b"SAPP",
    "job": b"secagg paillier job 1",
}
_PART: Final = struct.Struct("<5sI")
_PART_MAGIC: Final = b"SAPP\x01"
_MOST_HEADER: Final = 1024
_JOB_MAGIC: Final = "secagg paillier job 1"


def reason(error: PlanError | PeerError | MisuseError) -> str:
    """The text of an error without the rule at its end."""
    return str(error).removesuffix(f" [{error.rule}]")


@contextmanager
def about(path: Path | str) -> Iterator[None]:
    """Name the file (or option) that a refusal is about: it is the caller's to replace."""
    try:
        yield
    except (PlanError, PeerError, MisuseError) as error:
        # The cause may hold the bytes of a secret.
        raise MisuseError(f"{path}: {reason(error)}", rule=error.rule) from None


# Reading.


def kind_of(path: Path) -> str:
    """Which of the files this is, by its magic; ``MisuseError`` (``frame``) for any other."""
    with path.open("rb") as file:
        # No more than this: a share has a public key in it, a little further on.
        start = file.read(32)
    for kind, magic in _KINDS.items():
        # Jobs and keys begin with a few bytes of TOML or msgpack.
        if start.startswith(magic) or (magic.startswith(b"secagg") and magic in start):
            return kind
    raise MisuseError(f"{path} is no file of secagg paillier", rule="frame")


def read_public(path: Path) -> PublicKey:
    """The public key in a file, whose proof about the modulus is checked.

    Raises :class:`MisuseError` where it is no key, and :class:`PeerError` (``modulus-proof``) where
    the proof is missing or wrong: then whoever made the key is at fault.
    """
    _expect(path, "public key")
    data = _read(path, _MOST_KEY)
    with about(path):
        key = PublicKey.from_bytes(data)
    check_modulus(key, path)
    return key


def check_modulus(key: PublicKey, path: Path) -> None:
    """Raise :class:`PeerError` (``modulus-proof``) unless the key carries a valid proof."""
    try:
        modulus_proof.check(key.n, key.proof)
    except PlanError as error:
        raise PeerError(f"{path}: {reason(error)}", rule=error.rule) from None


def use_of(key: PublicKey) -> str:
    """What a key was made for, in words."""
    return "rounds, with proofs" if key.knowledge_proofs else "sums by hand"


def check_by_hand(key: PublicKey, path: Path) -> None:
    """Raise :class:`MisuseError` (``key-use``) for a key that was made for rounds."""
    if key.knowledge_proofs:
        raise MisuseError(
            f"{path}: a key for rounds (secagg paillier keygen --rounds), where sites prove what "
            "they encrypt; for sums by hand make another one, without --rounds",
            rule="key-use",
        )


def read_private(path: Path) -> PrivateKey:
    """The private key in a file that only its owner may read."""
    data = _read_secret(path, "private key")
    with about(path):
        return PrivateKey.from_bytes(data)


def read_share(path: Path) -> KeyShare:
    """The share of a private key in a file that only its owner may read."""
    data = _read_secret(path, "share")
    with about(path):
        return KeyShare.from_bytes(data)


def read_vector(path: Path, key: PublicKey) -> tuple[Ciphertexts, bytes]:
    """The encrypted vector in a file, and the SHA-256 of the file."""
    data = path.read_bytes()
    with about(path):
        return Ciphertexts.from_bytes(key, data), hashlib.sha256(data).digest()


def read_array(path: Path) -> Any:
    """The array in a .npy file; nothing in it is executed."""
    with path.open("rb") as file:
        try:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:
                raise ValueError
            file.seek(0)
            return np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OverflowError, MemoryError, SyntaxError, TokenError):
            raise MisuseError(f"{path}: no .npy file of numbers", rule="input-dtype") from None


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise MisuseError(f"{path}: too large for a file of its kind", rule="key-bytes")
    return data


def _article(kind: str) -> str:
    return kind if kind == "something else" else f"a {kind}"


def _expect(path: Path, wanted: str) -> None:
    """Raise :class:`MisuseError` (``key-bytes``) for a file of another kind."""
    try:
        kind = kind_of(path)
    except MisuseError:
        kind = "something else"
    if kind != wanted:
        raise MisuseError(f"{path}: not a {wanted} but {_article(kind)}", rule="key-bytes")


def _read_secret(path: Path, kind: str) -> bytes:
    # First what it is: nobody should hide a public key because it was taken for a private one.
    _expect(path, kind)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise MisuseError(
            f"{path}: mode {mode:04o}, and only its owner may read it (chmod 600)",
            rule="key-bytes",
        )
    return _read(path, _MOST_KEY)


# Jobs.


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all sites of one sum agree on. Valid once constructed.

    name: 32 hexadecimal digits, drawn for this sum: vectors of two jobs cannot be added.
    key: id of the public key, 64 hexadecimal digits. key_bits: its length.
    sites: most vectors. max_weight: largest integer weight of one.
    length: numbers of a vector. places: binary places of each; 0 takes integers only.
    limit: largest size of a number.

    Raises :class:`MisuseError` (``layout``) for fields of another type or form, and
    :class:`PlanError` (``layout``, ``precision``) where no layout has room for such sums.
    """

    name: str
    key: str
    key_bits: int
    sites: int
    max_weight: int
    length: int
    places: int
    limit: int | float

    def __post_init__(self) -> None:
        for field, digits in (("name", 32), ("key", 64)):
            value = getattr(self, field)
            if type(value) is not str or len(value) != digits or set(value) - set(_DIGITS):
                raise MisuseError(f"{field}: {digits} hexadecimal digits", rule="layout")
        for field in ("key_bits", "sites", "max_weight", "length", "places"):
            if type(getattr(self, field)) is not int:
                raise MisuseError(f"{field}: an integer", rule="layout")
        if self.sites < 1 or self.max_weight < 1:
            raise MisuseError("sites and max_weight are at least 1", rule="layout")
        check_job_size(self.sites, self.max_weight)
        _ = self.layout

    @property
    def precision(self) -> FixedPoint:
        """How numbers become integers."""
        return FixedPoint(self.places, self.limit)

    @property
    def layout(self) -> Layout:
        """Where they lie; with the least ring in which no sum wraps."""
        most = self.sites * self.max_weight
        return Layout(self.precision.bits(most), most, self.length, self.key_bits)

    @property
    def context(self) -> bytes:
        """Digest of all fields, which every encrypted vector of the job carries."""
        return digest_of(b"secagg paillier job v1", msgspec.msgpack.encode(asdict(self)))

    def dump(self) -> str:
        """The job as TOML."""
        values = {"kind": _JOB_MAGIC, **asdict(self)}
        lines = [
            f"{name} = " + (f'"{value}"' if isinstance(value, str) else repr(value))
            for name, value in values.items()
        ]
        return "\n".join([*lines, "# Every site of this sum needs this same file.", ""])


def check_job_size(sites: int, max_weight: int) -> None:
    """Raise :class:`MisuseError` (``layout``) where no sum has so many vectors or such weights."""
    if sites > MOST_PARTS:
        raise MisuseError(f"sites: at most {MOST_PARTS:,} vectors are added by hand", rule="layout")
    if sites * max_weight > MOST_WEIGHT:
        raise MisuseError(
            f"sites times max_weight is at most {MOST_WEIGHT:,}, and not {sites} times "
            f"{max_weight}; choose fewer sites or a lower weight",
            rule="layout",
        )


_DIGITS: Final = "0123456789abcdef"


def read_job(path: Path, key: PublicKey) -> Job:
    """The job in a file; ``MisuseError`` where there is none, or it is for another key."""
    data = _read(path, _MOST_JOB)
    try:
        found = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        raise MisuseError(f"{path}: no job file (not TOML)", rule="layout") from None
    if found.pop("kind", None) != _JOB_MAGIC:
        raise MisuseError(f"{path}: no job file of this version", rule="layout")
    known = {field.name for field in fields(Job)}
    odd = sorted(known ^ set(found))
    if odd:
        word = "unknown" if odd[0] in found else "missing"
        raise MisuseError(f"{path}: {odd[0]!r} is {word}", rule="layout")
    with about(path):
        job = Job(**found)
    if job.key != key.digest.hex() or job.key_bits != key.bits:
        raise MisuseError(f"{path}: this job is for another key", rule="key")
    return job


# Parts.


class _PartHeader(Header, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What travels before the proof and the rows of a part."""

    key: bytes
    index: int
    total: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """One holder's part of an opening, unchecked but for its form.

    key: digest of the public key. index: the holder, 1..l. total: SHA-256 of the file of the sum.
    proof, rows: as ``threshold.partial`` makes them.
    """

    key: bytes
    index: int
    total: bytes
    proof: bytes
    rows: Words

    def to_bytes(self) -> bytes:
        """Magic, length of the header (u32), canonical msgpack header, proof, rows."""
        header = encode_header(_PartHeader(key=self.key, index=self.index, total=self.total))
        rows = np.ascontiguousarray(self.rows).astype("<u8", copy=False)
        prefix = _PART.pack(_PART_MAGIC, len(header))
        return b"".join((prefix, header, self.proof, rows.data))

    @classmethod
    def from_bytes(cls, data: bytes, key: PublicKey, total: Ciphertexts, digest: bytes) -> Part:
        """The part in ``data`` of the sum ``total``, whose file has this digest.

        Raises :class:`DecodeError`: ``frame``, ``header``, ``key``, ``combine`` (of another sum).
        """
        view = flat_view(data, _PART.size)
        magic, size = _PART.unpack_from(view)
        start = _PART.size + size
        if magic != _PART_MAGIC or size > _MOST_HEADER or start > view.nbytes:
            raise DecodeError("no part of an opening", rule="frame")
        header = decode_header(_PartHeader, view[_PART.size : start])
        if encode_header(header) != view[_PART.size : start]:
            raise DecodeError("the header is not canonically encoded", rule="header")
        if header.key != key.digest:
            raise DecodeError("made with a share of another key", rule="key")
        if not 1 <= header.index <= len(key.verification):
            raise DecodeError(f"there is no holder {header.index} of this key", rule="holder-index")
        if header.total != digest:
            raise DecodeError("a part of another sum", rule="combine")
        proof = threshold.proof_size(key)
        wanted = proof + total.rows.nbytes
        if view.nbytes - start != wanted:
            raise DecodeError(
                f"{view.nbytes - start} bytes of proof and rows, {wanted} expected", rule="frame"
            )
        rows = np.frombuffer(view, "<u8", offset=start + proof).reshape(total.rows.shape)
        return cls(
            header.key,
            header.index,
            header.total,
            bytes(view[start : start + proof]),
            # A copy: aligned, in the order of this machine.
            np.array(rows, dtype=np.uint64),
        )


# Writing.


def check_new(path: Path) -> None:
    """Refuse an output that exists, or has no folder, before the work for it begins."""
    if path.exists() or path.is_symlink():
        raise MisuseError(f"{path} exists; it is not overwritten", rule="output-file")
    if not path.absolute().parent.is_dir():
        raise MisuseError(f"{path.absolute().parent} is no folder", rule="output-file")


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a new file in one step."""
    check_new(path)
    try:
        # The name is reserved, so that of two writers one is refused.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise MisuseError(f"{path} exists; it is not overwritten", rule="output-file") from None
    try:
        write_durably(path, data)
        path.chmod(mode)
    except BaseException:
        path.unlink(missing_ok=True)
        path.with_name(f".{path.name}.new").unlink(missing_ok=True)
        raise


def write_array(path: Path, array: Any) -> None:
    """Write a new .npy file in one step, readable by its owner only."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    write_new(path, file.getvalue())


def write_folder(path: Path, contents: Mapping[str, tuple[bytes, int]]) -> None:
    """Make a new folder of mode 0700 with files (bytes, mode), all of them in one step."""
    check_new(path)
    parent = path.absolute().parent
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    try:
        for name, (data, mode) in contents.items():
            handle = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            (draft / name).chmod(mode)
        sync_folder(draft)
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(parent)


__all__ = [
    "Job",
    "Part",
    "about",
    "check_by_hand",
    "check_job_size",
    "check_modulus",
    "check_new",
    "kind_of",
    "read_array",
    "read_job",
    "read_private",
    "read_public",
    "read_share",
    "read_vector",
    "reason",
    "use_of",
    "write_array",
    "write_folder",
    "write_new",
]
