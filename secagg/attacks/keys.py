"""Attacks on keys, masks and contexts (rows 5, 8, 12, 16, 22): what follows from bytes alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg_protocols.errors import AuthenticationError
from secagg_protocols.keys import KEY_SIZE, ExchangeKey, decrypt_once
from secagg_protocols.masked_sum import masks
from secagg_protocols.paillier import Layout
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.shamir import SHARE_SIZE
from secagg_protocols.wire import DIGEST_SIZE, SIGNATURE_SIZE, split_frame

from . import reading
from .attack import Attack, Evidence, Frame, Keys, Transcript
from .reading import ADVERT, INPUT, SHARES

Ints = npt.NDArray[np.int64]

#: Number of a site's message in a Paillier sum (``protocols/specs/paillier_sum.md``).
ENCRYPTED: Final = 16
_SEALED: Final = 2 * SHARE_SIZE + 16


def _contexts(plan: Plan, session: str, number: int, model: bytes) -> tuple[bytes, bytes]:
    setup = reading.setup_context(plan, session, number)
    return setup, reading.round_context(setup, model)


def _tails(plan: Plan, frames: list[Frame], kind: int) -> Iterator[tuple[Frame, bytes]]:
    """Frames of a kind with what follows their headers."""
    size = SIGNATURE_SIZE if plan.signed else DIGEST_SIZE
    for frame in frames:
        if len(frame.data) > 4 and frame.data[3] == kind:
            yield frame, bytes(split_frame(frame.data, trailer_size=size).tail)


def _centred(plan: Plan, ring: Ints) -> Ints:
    """Ring elements as the integers nearest to zero."""
    modulus = 1 << plan.wire_bits
    ring = np.asarray(ring, dtype=np.int64) % modulus
    return np.where(ring >= modulus // 2, ring - modulus, ring)


def _unpacked(plan: Plan, packed: bytes) -> Ints:
    """Ring elements of a packed vector, within 0..2^bits-1."""
    return reading.unpacked(packed, plan.ring_length, plan.wire_bits).astype(np.int64)


def _mask(plan: Plan, key: bytes) -> Ints:
    """The mask of a mask key, as ring elements."""
    lanes = reading.keystream(key, plan.ring_length, np.dtype(plan.lane))
    return (lanes % np.uint64(1 << plan.wire_bits)).astype(np.int64)


def _inputs(plan: Plan, frames: list[Frame]) -> dict[str, list[tuple[int, Ints]]]:
    """Per site, (round, what its input looks like), in the order of travel; repeats left out."""
    found: dict[str, list[tuple[int, Ints]]] = {}
    seen: set[bytes] = set()
    for frame, tail in _tails(plan, frames, INPUT):
        if frame.data not in seen:
            seen.add(frame.data)
            found.setdefault(frame.sender, []).append((frame.round, _unpacked(plan, tail)))
    return found


class KeySubstitution(Attack):
    """Keys of the server's own, in the place of those of a site's peers."""

    number = 5
    id = "key-substitution"
    title = "Public keys replaced by the server's own"
    source = "Bonawitz et al., CCS 2017, section 6; low-order points: RFC 7748, section 6.1"
    adversary = "malicious server"
    sees = "the victim's messages, and the private keys of the keys that it handed out"
    tests = ("client.advert-signatures", "server.low-order", "client.floors", "client.trailer")
    law = "exact where adverts are not signed; nothing where they are"
    remedy = (
        "Use a malicious-server plan: each site signs its keys, and the roster pins the signing "
        "keys. Under a semi-honest plan the transport and the server must be trusted to pass "
        "keys on unchanged. Of a Paillier sum, compare the key's id with its holders and pin it "
        "in the site's floors (paillier_key): a site without this accepts the key of its plan."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        plan = reading.plan_of(transcript.plan)
        if isinstance(plan.protocol, PaillierSum):
            return self._decrypt(plan, transcript, keys)
        victim = str(transcript.public["victim"])
        inputs = _inputs(plan, transcript.frames).get(victim)
        if not inputs:
            return Evidence(note="the victim sent no input")
        number, ring = inputs[-1]
        if not keys.values:
            return Evidence(vectors={victim: _centred(plan, ring).tolist()})
        setup, context = _contexts(
            plan, transcript.session, number, transcript.models.get(number, b"")
        )
        own = plan.roster.index(victim)
        advert = next(t for f, t in _tails(plan, transcript.frames, ADVERT) if f.sender == victim)
        mask_key, channel_key = advert[:KEY_SIZE], advert[KEY_SIZE : 2 * KEY_SIZE]
        sealed = next(t for f, t in _tails(plan, transcript.frames, SHARES) if f.sender == victim)
        peers = sorted(int(name.split()[1]) for name in keys.values if name.startswith("mask "))
        held: dict[int, bytes] = {}
        for place, peer in enumerate(peers):
            theirs = ExchangeKey(keys.values[f"mask {peer}"])
            pair = masks.pair_mask(
                theirs, (peer, theirs.public), (own, mask_key), context, sender=victim
            )
            ring = ring - masks.pair_sign(own, peer) * _mask(plan, pair)
            channel = ExchangeKey(keys.values[f"channel {peer}"])
            _, opening = masks.channel_keys(channel, peer, (own, channel_key), setup, sender=victim)
            try:
                held[peer] = decrypt_once(
                    opening,
                    sealed[place * _SEALED : (place + 1) * _SEALED],
                    masks.channel_info(setup, own, peer),
                    sender=victim,
                )[:SHARE_SIZE]
            except AuthenticationError:
                continue  # sealed under another key
        seed = reading.recovered(held, plan.protocol.share_threshold)
        if seed is None:
            return Evidence(note=f"{len(held)} shares of the self seed open, and give none")
        ring = ring - _mask(plan, masks.self_mask(seed, own, context))
        return Evidence(vectors={victim: _centred(plan, ring).tolist()})

    def _decrypt(self, plan: Plan, transcript: Transcript, keys: Keys) -> Evidence:
        victim = str(transcript.public["victim"])
        p, q = (int.from_bytes(keys.values[name], "little") for name in ("p", "q"))
        layout, plain = _layout(plan), list[int]()
        for frame, tail in _tails(plan, transcript.frames, ENCRYPTED):
            if frame.sender == victim:
                for value in _ciphertexts(plan, layout, tail):
                    plain.append(_opened(value, p, q))
                try:
                    return Evidence(vectors={victim: _read(plan, layout, plain)})
                except ValueError as error:
                    return Evidence(note=f"what opens is no vector: {error}")
        return Evidence(note="the victim sent nothing")


def _opened(value: int, p: int, q: int) -> int:
    """The plaintext of a ciphertext under ``p q``, modulo each prime and joined (Paillier 1999)."""

    def part(prime: int, other: int) -> int:
        logarithm = (pow(value, prime - 1, prime * prime) - 1) // prime
        return logarithm * pow(-other, -1, prime) % prime

    low, high = part(p, q), part(q, p)
    return low + (high - low) * pow(p, -1, q) % q * p


def _layout(plan: Plan) -> Layout:
    if not isinstance(plan.protocol, PaillierSum):
        raise TypeError("not the plan of a Paillier sum")
    return Layout(
        bits=plan.wire_bits,
        most=plan.clients,
        length=plan.ring_length,
        key_bits=plan.protocol.key.bits,
    )


def _read(plan: Plan, layout: Layout, plain: list[int]) -> list[int]:
    """The vector of one site in its plaintexts; ``ValueError`` where they hold none."""
    words = b"".join(value.to_bytes(8 * layout.words, "little") for value in plain)
    rows = np.frombuffer(words, "<u8").astype(np.uint64).reshape(len(plain), layout.words)
    ring = np.zeros(plan.ring_length, dtype=plan.lane)
    layout.unpack(rows, 1, ring)
    return list(_centred(plan, ring.astype(np.int64)).tolist())


def _ciphertexts(plan: Plan, layout: Layout, tail: bytes) -> list[int]:
    size = 2 * layout.words * 8
    return [int.from_bytes(tail[i * size : (i + 1) * size], "little") for i in range(layout.rows)]


class MaskReuse(Attack):
    """Two inputs under one mask: what is left of their difference is that of the vectors."""

    number = 8
    id = "mask-reuse"
    title = "Masks or random factors used twice"
    source = "Zhang et al., arXiv 2410.09676 (on MicroSecAgg, PoPETs 2024)"
    adversary = "whoever reads the messages of two rounds"
    sees = "all inputs of several rounds, or of one round"
    tests = (
        "feature: fresh keys each round",
        "feature: contexts in every key",
        "client.input-once",
        "journal.journal-once",
    )
    law = "y2 - y1 = x2 - x1 where a mask serves twice; uniform where it does not"
    remedy = (
        "Nothing to do: every round has keys of its own, which are bound to it. Keep the journal "
        "of each site on a disk of its own, and never restore it from an older copy."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        plan = reading.plan_of(transcript.plan)
        paillier = isinstance(plan.protocol, PaillierSum)
        found: dict[str, list[Any]] = {}
        for name, inputs in (self._encrypted if paillier else self._masked)(plan, transcript):
            for i in range(len(inputs)):
                for j in range(i + 1, len(inputs)):
                    difference = self._difference(plan, inputs[i], inputs[j])
                    if difference is not None:
                        found[f"{name} {i} {j}"] = difference
        note = "" if found else "no two inputs have anything in common"
        return Evidence(vectors=found, note=note)

    def _masked(self, plan: Plan, transcript: Transcript) -> Iterator[tuple[str, list[Any]]]:
        for name, inputs in _inputs(plan, transcript.frames).items():
            yield name, [ring for _, ring in inputs]

    def _encrypted(self, plan: Plan, transcript: Transcript) -> Iterator[tuple[str, list[Any]]]:
        layout, found = _layout(plan), dict[str, list[Any]]()
        seen: set[bytes] = set()
        for frame, tail in _tails(plan, transcript.frames, ENCRYPTED):
            # Holders get the same bytes again, with the server as their sender.
            if frame.to == "server" and frame.data not in seen:
                seen.add(frame.data)
                found.setdefault(frame.sender, []).append(_ciphertexts(plan, layout, tail))
        yield from found.items()

    def _difference(self, plan: Plan, first: Any, second: Any) -> list[int] | None:
        if not isinstance(plan.protocol, PaillierSum):
            return list(_centred(plan, second - first).tolist())
        n, layout = plan.protocol.key.n, _layout(plan)
        out: list[int] = []
        for a, b in zip(first, second, strict=True):
            quotient = b * pow(a, -1, n * n) % (n * n)
            if (quotient - 1) % n:
                return None
            plain = (quotient - 1) // n
            out += _balanced(plain if plain < n // 2 else plain - n, layout)
        return out[: plan.ring_length]


def _balanced(value: int, layout: Layout) -> list[int]:
    """Slots of a difference of two plaintexts, each nearer to zero than half a slot."""
    base, digits = 1 << layout.slot_bits, []
    for _ in range(layout.slots):
        digit = value % base
        digit -= base if digit >= base // 2 else 0
        digits.append(digit)
        value = (value - digit) // base
    return digits


class ModelInconsistency(Attack):
    """Models that leave all sites but one without a gradient."""

    number = 12
    id = "model-inconsistency"
    title = "Different models to different sites"
    source = "Pasquini, Francati, Ateniese, CCS 2022"
    adversary = "malicious server"
    sees = "the sum that it opens, the models that it sent"
    tests = (
        "feature: model hash in the contexts",
        "holder.trailer",
        "holder.knowledge",
        "client.consent-signatures",
    )
    law = "the sum is the victim's gradient in every coordinate before the dead units"
    remedy = (
        "Nothing to do: sites that are sent different models derive different masks, and their "
        "inputs cannot be added. A site that may choose should also allow only models that it "
        "knows (policy file: allowed model hashes)."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        victim = str(transcript.public["victim"])
        if "sum" not in transcript.arrays:
            return Evidence(note="no sum was opened")
        # The bias of the last layer has a gradient whatever its inputs are, so it stays a sum.
        silent = transcript.arrays["silent"].astype(bool)
        return Evidence(vectors={victim: transcript.arrays["sum"][silent].tolist()})


class WeakGenerator(Attack):
    """Masks that follow from few bits: try them all."""

    number = 16
    id = "weak-generator"
    title = "Masks from a weak generator"
    source = "Flower issue 7522 (masks from seeds of 32 bits)"
    adversary = "semi-honest server with all of the victim's peers but one or two"
    sees = "the victim's masked input, its self seed (revealed), the mask keys of its own sites"
    tests = ("feature: mask keys of full entropy",)
    law = "j unknown masks of s bits cost 2^(s j) trials"
    remedy = (
        "Nothing to do: a mask key is 128 bits of HKDF output, expanded by AES-128 in counter "
        "mode. Never expand masks with a generator that takes a seed of 32 bits."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        plan = reading.plan_of(transcript.plan)
        if isinstance(plan.protocol, PaillierSum):
            return self._exponents(plan, transcript)
        victim = str(transcript.public["victim"])
        low, high = transcript.public["window"]
        bits, weak = int(transcript.public["bits"]), bool(transcript.public["truncated"])
        number, ring = _inputs(plan, transcript.frames)[victim][-1]
        own = plan.roster.index(victim)
        _, context = _contexts(plan, transcript.session, number, transcript.models.get(number, b""))
        adverts = {
            plan.roster.index(f.sender): tail[:KEY_SIZE]
            for f, tail in _tails(plan, transcript.frames, ADVERT)
        }
        if not keys.values:
            return self._scan(plan, victim, ring, [], 0, (low, high))
        ring = ring - _mask(plan, masks.self_mask(keys.values["self"], own, context))
        known = {int(x.split()[1]): seed for x, seed in keys.values.items() if x != "self"}
        for peer, seed in known.items():
            pair = masks.pair_mask(
                seed, (peer, adverts[peer]), (own, adverts[own]), context, sender=victim
            )
            key = weakened(pair, bits) if weak else pair
            ring = ring - masks.pair_sign(own, peer) * _mask(plan, key)
        unknown = [peer for peer in transcript.public["peers"] if peer not in known]
        signs = [masks.pair_sign(own, peer) for peer in unknown]
        return self._scan(plan, victim, ring, signs, bits, (low, high))

    def _scan(
        self,
        plan: Plan,
        victim: str,
        ring: Ints,
        signs: list[int],
        bits: int,
        window: tuple[int, int],
    ) -> Evidence:
        """Try every seed of one unknown mask, or every pair of seeds of two."""
        low, high = window
        modulus = 1 << plan.wire_bits
        began, tried = time.process_time(), 0
        hits: list[Ints] = []

        def test(rows: Ints) -> None:
            nonlocal tried
            tried += len(rows)
            shifted = (rows - low) % modulus
            for at in np.flatnonzero((shifted <= high - low).all(axis=1)):
                found = shifted[at] + low
                # Two masks of one sign may be exchanged, so a pair of seeds is met twice.
                if not any(np.array_equal(found, hit) for hit in hits):
                    hits.append(found)

        if not signs:
            test(ring[None, :])
        elif len(signs) == 1:
            for table in _tables(plan, bits):
                test(ring - signs[0] * table)
        else:
            whole = np.concatenate(list(_tables(plan, bits)))
            for row in whole:
                test(ring - signs[0] * row - signs[1] * whole)
        seconds = time.process_time() - began
        values = {"tried": float(tried), "seconds": seconds, "hits": float(len(hits))}
        if len(hits) != 1:
            return Evidence(values=values, note=f"{len(hits)} of {tried} seeds fit")
        return Evidence(vectors={victim: hits[0].tolist()}, values=values)

    def _exponents(self, plan: Plan, transcript: Transcript) -> Evidence:
        """The same for the random factor h^r of a ciphertext: 1 + m n is left of the right one."""
        if not isinstance(plan.protocol, PaillierSum):
            raise TypeError("not the plan of a Paillier sum")
        key, layout = plan.protocol.key, _layout(plan)
        victim, bits = str(transcript.public["victim"]), int(transcript.public["bits"])
        square = key.n * key.n
        tail = next(t for f, t in _tails(plan, transcript.frames, ENCRYPTED) if f.sender == victim)
        back = pow(key.h_s, -1, square)
        began, tried, plain = time.process_time(), 0, list[int]()
        for value in _ciphertexts(plan, layout, tail):
            left = value
            for _ in range(1 << bits):
                tried += 1
                if left % key.n == 1:
                    plain.append((left - 1) // key.n)
                    break
                left = left * back % square
            else:
                break
        values = {"tried": float(tried), "seconds": time.process_time() - began}
        if len(plain) < layout.rows:
            return Evidence(values=values, note=f"none of {tried} exponents fits")
        return Evidence(vectors={victim: _read(plan, layout, plain)}, values=values)


def weakened(key: bytes, bits: int) -> bytes:
    """A mask key of ``bits`` bits of entropy: all that a weak build keeps of the full one."""
    seed = int.from_bytes(key[:8], "little") % (1 << bits)
    return seed.to_bytes(16, "little") + bytes(len(key) - 16)


def _tables(plan: Plan, bits: int) -> Iterator[Ints]:
    """The masks of all weak seeds, some thousands at a time."""
    lane = np.dtype(plan.lane)
    zeros = bytes(plan.ring_length * lane.itemsize)
    counter = modes.CTR(bytes(16))
    for start in range(0, 1 << bits, 1 << 13):
        streams = [
            Cipher(algorithms.AES128(seed.to_bytes(16, "little")), counter)
            .encryptor()
            .update(zeros)
            for seed in range(start, min(start + (1 << 13), 1 << bits))
        ]
        lanes = np.frombuffer(b"".join(streams), lane.newbyteorder("<"))
        yield lanes.astype(np.int64).reshape(len(streams), -1)


class Replay(Attack):
    """What a network learns that also drops, repeats, reorders, replays and damages messages."""

    number = 22
    id = "replay"
    title = "Messages lost, repeated, reordered, replayed, damaged; sites that say two things"
    source = "Bonawitz et al., CCS 2017, section 6; TigerBeetle's seeded schedules as the method"
    adversary = "network; site that equivocates"
    sees = "all messages, as they were sent"
    tests = (
        "server.trailer",
        "server.step-order",
        "server.equivocation",
        "server.sum-range",
        "client.trailer",
        "client.route",
    )
    law = "every schedule ends in the exact sum of its survivors, or in none"
    remedy = (
        "Nothing to do where the round ends: repeat it. Under a semi-honest plan the transport "
        "must be authenticated (TLS on both sides), since digests without keys stop faults and "
        "not forgeries."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Read each input as it stands, and the difference of any two of one site."""
        plan = reading.plan_of(transcript.plan)
        if isinstance(plan.protocol, PaillierSum):
            return self._ciphertexts(plan, transcript)
        found: dict[str, list[Any]] = {}
        for name, inputs in _inputs(plan, transcript.frames).items():
            found[name] = _centred(plan, inputs[0][1]).tolist()
            for _, ring in inputs[1:]:
                found[f"difference {name}"] = _centred(plan, ring - inputs[0][1]).tolist()
        return Evidence(vectors=found, note="" if found else "no inputs travelled")

    def _ciphertexts(self, plan: Plan, transcript: Transcript) -> Evidence:
        reuse = MaskReuse().run(transcript, Keys())
        return Evidence(vectors={f"difference {k}": v for k, v in reuse.vectors.items()})


__all__ = [
    "KeySubstitution",
    "MaskReuse",
    "ModelInconsistency",
    "Replay",
    "WeakGenerator",
    "weakened",
]
