"""Reads the frames of a masked sum as an adversary does: what they say, and what they open.

For attacks: no party is loaded, and nothing but public data, the frames and the keys that the
adversary holds is used. Formats: ``protocols/specs/masked_sum.md`` and ``wire.md``. What takes
kernels elsewhere is plain numpy and integers here: a child starts for each cell, and its vectors
are short.
"""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg_protocols import plan_file, shamir, wire
from secagg_protocols.errors import DecodeError, PlanError, SecAggError
from secagg_protocols.keys import (
    KEY_SIZE,
    SEED_SIZE,
    TAG_SIZE,
    ExchangeKey,
    decrypt_once,
    digest_of,
)
from secagg_protocols.lift import lift
from secagg_protocols.masked_sum import masks
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import load_plan
from secagg_protocols.roster import Roster

from .attack import Frame, Keys, Transcript

#: Numbers of the messages (``protocols/specs/masked_sum.md``).
ADVERT, ADVERTS, SHARES, SHARES_FOR, INPUT, SURVIVORS, CONSENT, CONSENTS, REVEAL, RESULT = range(
    1, 11
)
_SEALED: Final = 2 * shamir.SHARE_SIZE + TAG_SIZE
#: dealer -> holder -> share of one of its two secrets.
Shares = dict[int, dict[int, bytes]]


def setup_context(plan: Plan, session: str, round: int) -> bytes:
    """What binds adverts and shares (``masked_sum.md``, contexts). All of it is public."""
    return digest_of(
        b"secagg setup context v1",
        bytes([wire.VERSION]),
        plan.digest,
        plan.roster.epoch.to_bytes(4, "little"),
        session.encode(errors="surrogatepass"),
        round.to_bytes(8, "little"),
    )


def round_context(setup: bytes, model: bytes, parameters: bytes = b"") -> bytes:
    """What binds masks, inputs, consents and reveals: the same with the broadcast model."""
    return digest_of(b"secagg round context v1", setup, hashlib.sha256(model).digest(), parameters)


@lru_cache(maxsize=64)
def plan_of(text: str) -> Plan:
    """The plan of a transcript; `DecodeError` where it has none."""
    if not text:
        raise DecodeError("this transcript has no plan", rule="laboratory", sender="")
    try:
        return load_plan(text)
    except PlanError:
        # A control's plan breaks a rule of plans; its sites follow it all the same.
        return _any_plan(text)


def _any_plan(text: str) -> Plan:
    values = tomllib.loads(text)
    made: Plan = _AnyPlan(
        **values
        | {
            "roster": Roster.from_dict(values["roster"]),
            "protocol": plan_file._protocol(dict(values["protocol"])),
            "stages": tuple(plan_file._stage(dict(stage)) for stage in values["stages"]),
        }
    )
    return made


class _AnyPlan(Plan):
    """A plan that may break the rules that controls switch off."""

    __slots__ = ()

    def _check_one_survivor_set(self) -> None:
        """Everything passes."""


def unpacked(packed: bytes, count: int, bits: int) -> npt.NDArray[np.uint64]:
    """Ring elements from their packed form: ``bits`` bits each, least significant first."""
    flat = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
    rows = flat[: count * bits].reshape(count, bits).astype(np.uint64)
    found: npt.NDArray[np.uint64] = rows @ (np.uint64(1) << np.arange(bits, dtype=np.uint64))
    return found


def keystream(key: bytes, count: int, lane: np.dtype[Any]) -> npt.NDArray[np.uint64]:
    """The mask of a mask key of 24 bytes: AES-128-CTR read as little-endian lanes."""
    start = modes.CTR(key[16:] + bytes(8))
    stream = (
        Cipher(algorithms.AES(key[:16]), start).encryptor().update(bytes(count * lane.itemsize))
    )
    return np.frombuffer(stream, dtype=lane.newbyteorder("<")).astype(np.uint64)


def recovered(shares: Mapping[int, bytes], threshold: int) -> bytes | None:
    """A secret from shares by holder (Lagrange at 0); ``None`` where they are too few or wrong."""
    if len(shares) < threshold:
        return None
    holders = sorted(shares)[:threshold]
    prime, points = shamir.PRIME, [h + 1 for h in holders]
    rows = [np.frombuffer(shares[h], dtype="<u8").tolist() for h in holders]
    value = 0
    weights = []
    for x in points:
        above = below = 1
        for other in points:
            if other != x:
                above = above * other % prime
                below = below * (other - x) % prime
        weights.append(above * pow(below, -1, prime) % prime)
    for limb in range(shamir.LIMBS):
        found = sum(w * row[limb] for w, row in zip(weights, rows, strict=True)) % prime
        if found >> shamir.LIMB_BITS:
            return None
        value |= found << (shamir.LIMB_BITS * limb)
    return None if value >> (8 * SEED_SIZE) else value.to_bytes(SEED_SIZE, "little")


class Reading:
    """One round of a masked sum, read frame by frame in the order in which they travelled.

    Sites are indices of the roster. What a site was told is kept by site; what it was told last
    counts. Frames that are none, or of another round, are passed over.
    """

    def __init__(self, plan: Plan, session: str, round: int, model: bytes, keys: Keys) -> None:
        self.plan, self.round, self.keys = plan, round, keys
        self.need = plan.protocol.share_threshold
        self.setup = setup_context(plan, session, round)
        self.context = round_context(self.setup, model)
        self.adverts: dict[int, bytes] = {}
        self.u1: dict[int, tuple[int, ...]] = {}
        self.u2: dict[int, tuple[int, ...]] = {}
        self.u3: dict[int, tuple[int, ...]] = {}
        #: What each site was told to be the size of U3.
        self.cohort: dict[int, int] = {}
        self.sealed: dict[int, dict[int, bytes]] = {}
        self.commitments: dict[int, bytes] = {}
        self.inputs: dict[int, bytes] = {}
        #: (site, survivors it consented to), in order.
        self.consents: list[tuple[int, tuple[int, ...]]] = []
        #: (site, survivors it revealed for), in order.
        self.reveals: list[tuple[int, tuple[int, ...]]] = []
        self.self_shares: Shares = {}
        self.mask_shares: Shares = {}
        self._seeds: dict[tuple[bool, int, int], bytes | None] = {}
        self._exchange: dict[bytes, ExchangeKey] = {}
        names = plan.roster.names
        self._index = {name: i for i, name in enumerate(names)}
        self._names = names

    @classmethod
    def of(
        cls,
        transcript: Transcript,
        keys: Keys,
        *,
        round: int = 0,
        frames: Iterable[Frame] | None = None,
    ) -> Self:
        """The reading of a transcript's frames of one round, with what colluders hold."""
        plan = plan_of(transcript.plan)
        reading = cls(plan, transcript.session, round, transcript.models.get(round, b""), keys)
        return reading.take(transcript.frames if frames is None else frames)

    def take(self, frames: Iterable[Frame]) -> Self:
        """Read more frames."""
        size = wire.SIGNATURE_SIZE if self.plan.signed else wire.DIGEST_SIZE
        for frame in frames:
            if frame.round != self.round:
                continue
            try:
                self._take(frame, wire.split_frame(frame.data, trailer_size=size))
            except (SecAggError, msgspec.MsgspecError, ValueError, KeyError, IndexError):
                continue  # not a frame of this protocol, or one that no site would have taken
        return self

    def fork(self) -> Self:
        """The same, to be read on another way."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        for name in ("adverts", "u1", "u2", "u3", "cohort", "sealed", "commitments", "inputs"):
            setattr(other, name, dict(getattr(self, name)))
        other.consents, other.reveals = list(self.consents), list(self.reveals)
        other.self_shares = {d: dict(row) for d, row in self.self_shares.items()}
        other.mask_shares = {d: dict(row) for d, row in self.mask_shares.items()}
        other._seeds = dict(self._seeds)
        return other

    def _take(self, frame: Frame, parts: wire.Frame) -> None:
        fields = msgspec.msgpack.decode(parts.header, type=list[Any])
        tail = bytes(parts.tail)
        if frame.sender == "server":
            self._from_server(parts.kind, self._index[frame.to], fields, tail)
        else:
            self._from_site(parts, self._index[frame.sender], fields, tail)

    def _from_server(self, kind: int, site: int, fields: list[Any], tail: bytes) -> None:
        if kind == ADVERTS:
            self.u1[site] = self._sites(fields[1])
        elif kind == SHARES_FOR:
            self.u2[site] = self._sites(fields[0])
            self._open_dealt(site, tail)
        elif kind == SURVIVORS:
            self.u3[site], self.cohort[site] = self._sites(fields[0]), fields[1]

    def _from_site(self, parts: wire.Frame, site: int, fields: list[Any], tail: bytes) -> None:
        kind = parts.kind
        if kind == ADVERT:
            self.adverts[site] = tail
        elif kind == SHARES:
            self.commitments[site] = fields[0]
            self.sealed[site] = {
                holder: tail[at * _SEALED : (at + 1) * _SEALED]
                for at, holder in enumerate(self.u1[site])
            }
        elif kind == INPUT:
            self.inputs[site] = tail
        elif kind == CONSENT:
            self.consents.append((site, self.u3[site]))
        elif kind == REVEAL:
            self._revealed(site, set(self._sites(fields[0])), tail)

    def _revealed(self, site: int, missing: set[int], tail: bytes) -> None:
        survivors = self.u3[site]
        given = [dealer for dealer in self.u2[site] if dealer not in missing]
        size = shamir.SHARE_SIZE
        self.reveals.append((site, survivors))
        for at, dealer in enumerate(given):
            alive = dealer in survivors
            self._keep(alive, dealer, site, tail[at * size : (at + 1) * size])

    def _keep(self, alive: bool, dealer: int, holder: int, share: bytes) -> None:
        table = self.self_shares if alive else self.mask_shares
        table.setdefault(dealer, {})[holder] = share

    def _open_dealt(self, site: int, tail: bytes) -> None:
        """Shares that were dealt to a colluding site, opened with its channel key."""
        channel = self.keys.values.get(f"{self._names[site]}/channel")
        if channel is None:
            return
        own = self._pair(channel)
        dealers = [dealer for dealer in self.u2[site] if dealer != site]
        for at, dealer in enumerate(dealers):
            if dealer not in self.adverts:
                continue
            peer = (dealer, self.adverts[dealer][KEY_SIZE:])
            _, opening = masks.channel_keys(own, site, peer, self.setup, sender="")
            associated = masks.channel_info(self.setup, dealer, site)
            sealed = tail[at * _SEALED : (at + 1) * _SEALED]
            try:
                shares = decrypt_once(opening, sealed, associated, sender="")
            except SecAggError:
                continue  # dealt wrong, or replaced by the server itself
            self._keep(True, dealer, site, shares[: shamir.SHARE_SIZE])
            self._keep(False, dealer, site, shares[shamir.SHARE_SIZE :])

    def _pair(self, private: bytes) -> ExchangeKey:
        return self._exchange.setdefault(private, ExchangeKey(private))

    def _sites(self, bitmap: bytes) -> tuple[int, ...]:
        return wire.from_bitmap(bitmap, self.plan.clients)

    # What it opens.

    def index(self, name: str) -> int:
        """Of a site in the roster."""
        return self._index[name]

    def self_seed(self, site: int) -> bytes | None:
        """The self seed of a site, if it meets its commitment."""
        held = self.keys.values.get(f"{self._names[site]}/self")
        if held is not None:
            return held
        shares = self.self_shares.get(site, {})
        known = self._known(True, site, len(shares))
        if known is not None or len(shares) < self.need:
            return known
        seed = recovered(shares, self.need)
        right = seed is not None and hmac.compare_digest(
            masks.commitment(self.setup, site, seed), self.commitments.get(site, b"")
        )
        self._seeds[True, site, len(shares)] = seed if right else None
        return seed if right else None

    def mask_seed(self, site: int) -> bytes | None:
        """The mask seed of a site, if it belongs to the key that the site advertised."""
        held = self.keys.values.get(f"{self._names[site]}/mask")
        if held is not None:
            return held
        shares = self.mask_shares.get(site, {})
        known = self._known(False, site, len(shares))
        if known is not None or len(shares) < self.need:
            return known
        seed = recovered(shares, self.need)
        right = seed is not None and self._pair(seed).public == self.adverts[site][:KEY_SIZE]
        self._seeds[False, site, len(shares)] = seed if right else None
        return seed if right else None

    def _known(self, alive: bool, site: int, count: int) -> bytes | None:
        return self._seeds.get((alive, site, count))

    def masked(self, site: int) -> npt.NDArray[np.uint64] | None:
        """A site's masked input as ring elements: all that the frame itself says."""
        packed = self.inputs.get(site)
        if packed is None:
            return None
        return unpacked(packed, self.plan.ring_length, self.plan.wire_bits)

    def without_pairs(self, sites: Collection[int]) -> npt.NDArray[np.uint64] | None:
        """Sum of the inputs of ``sites`` without the masks they share with others.

        ``None`` where an input or a mask seed is missing. Their self masks are still in it.
        """
        total = np.zeros(self.plan.ring_length, dtype=np.uint64)
        for site in sites:
            ring = self.masked(site)
            if ring is None or site not in self.u2:
                return None
            total += ring
            for peer in self.u2[site]:
                if peer == site or peer in sites:
                    continue
                mask = self._pair_mask(site, peer)
                if mask is None:
                    return None
                if masks.pair_sign(site, peer) > 0:
                    total -= mask
                else:
                    total += mask
        return total

    def _pair_mask(self, site: int, peer: int) -> npt.NDArray[np.uint64] | None:
        """The mask of two sites, from the mask seed of either."""
        for one, other in ((site, peer), (peer, site)):
            seed = self.mask_seed(one)
            if seed is not None and {one, other} <= set(self.adverts):
                key = masks.pair_mask(
                    self._pair(seed),
                    (one, self.adverts[one][:KEY_SIZE]),
                    (other, self.adverts[other][:KEY_SIZE]),
                    self.context,
                    sender="",
                )
                return keystream(key, self.plan.ring_length, self.plan.lane)
        return None

    def open_sum(self, sites: Collection[int]) -> list[int] | None:
        """Sum of the vectors of ``sites`` as integers, where the secrets for it are there."""
        seeds = {site: self.self_seed(site) for site in sites}
        if any(seed is None for seed in seeds.values()):
            return None
        total = self.without_pairs(sites)
        if total is None:
            return None
        for site, seed in seeds.items():
            if seed is not None:
                key = masks.self_mask(seed, site, self.context)
                total -= keystream(key, self.plan.ring_length, self.plan.lane)
        return self.lifted(total)

    def open_vector(self, site: int) -> list[int] | None:
        """The vector of one site, where both its secrets are there."""
        return self.open_sum([site])

    def lifted(self, ring: npt.NDArray[np.uint64]) -> list[int]:
        """Signed integers of ring elements."""
        words = (ring & np.uint64((1 << self.plan.wire_bits) - 1)).astype(self.plan.lane)
        found: list[int] = lift(self.plan, words).tolist()
        return found

    def both_secrets(self) -> Iterator[int]:
        """Sites of which both secrets can be opened and that no key of the adversary's names."""
        for site in sorted(self.inputs):
            if f"{self._names[site]}/self" in self.keys.values:
                continue
            if self.self_seed(site) is not None and self.mask_seed(site) is not None:
                yield site


def views(transcript: Transcript, keys: Keys) -> Iterator[tuple[str, Reading]]:
    """The views of a transcript: (prefix of what is claimed of it, reading).

    A transcript may hold several ways in which one server went on from the same beginning, each
    judged alone: ``public["views"]`` are the (first, last) frames of each, and what comes before
    the first belongs to all. Without it there is one view, of all frames.
    """
    spans: Sequence[Sequence[int]] = transcript.public.get("views", ())
    if not spans:
        yield "", Reading.of(transcript, keys)
        return
    frames = transcript.frames
    common = Reading.of(transcript, keys, frames=frames[: spans[0][0]])
    for number, (first, last) in enumerate(spans):
        yield f"{number}:", common.fork().take(frames[first:last])


__all__ = [
    "Reading",
    "Shares",
    "keystream",
    "plan_of",
    "recovered",
    "round_context",
    "setup_context",
    "unpacked",
    "views",
]
