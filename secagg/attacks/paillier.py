"""Attacks on sums under Paillier's encryption: rows 23 to 29 of the catalogue."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from secagg_protocols.paillier.primes import is_prime, power

from . import factoring
from .attack import Attack, Evidence, Keys, Transcript
from .paillier_numbers import (
    Public,
    ciphertexts,
    decrypt,
    opened,
    openings,
    packed,
    product,
    share_of,
    slots,
    to_array,
)
from .reading import Reading
from .server import in_clear

_PAILLIER: Final = "Paillier, EUROCRYPT 1999"


def _held(keys: Keys) -> dict[int, int]:
    """Shares of the key that the adversary's holders have, by number of the holder."""
    found = {}
    for name, value in keys.values.items():
        kind, _, number = name.partition(":")
        if kind == "share":
            found[int(number)] = int.from_bytes(value, "little")
    return found


def _open(
    rows: Sequence[int],
    held: Mapping[int, int],
    given: Mapping[int, Sequence[int]],
    public: Public,
) -> list[int] | None:
    """Plaintexts from the adversary's own shares and from what honest holders answered."""
    mine = list(held)[: max(0, public.threshold - len(given))]
    shares = {number: share_of(rows, held[number], public) for number in mine}
    return opened({**given, **shares}, public)


class KeyHolder(Attack):
    """Opens single vectors with the key, or with the shares of the holders that collude."""

    number = 23
    id = "key-holder"
    title = "Holders of the key open single vectors"
    source = "derived here from threshold decryption (Damgard and Jurik, PKC 2001, section 4.1)"
    adversary = "holders of the key, in threshold mode together with the server"
    sees = "every site's ciphertexts, as they are passed on to the holders, and its own key shares"
    tests = ("holder.cohort", "holder.given", "feature: threshold")
    law = "a site's vector is opened if and only if colluding holders >= threshold"
    remedy = (
        "Share the key among holders of different organisations and set the threshold above the "
        "number that could collude. With one key, its holder must be trusted with every site's "
        "data, and must be neither the server nor anybody who may not see single vectors."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Decrypt whatever the keys at hand open."""
        if transcript.public.get("protocol") == "plain":
            # Nothing is encrypted: whoever collects the messages reads the vectors in them.
            return Evidence(vectors=dict(in_clear(Reading.of(transcript, keys))))
        public = Public.of(transcript.public)
        sent = ciphertexts(transcript.frames, public)
        held, asked = _held(keys), transcript.public.get("asked", "")
        tricked = openings(transcript.frames, public)
        found: dict[str, list[Any]] = {}
        for site, (rows, _) in sent.items():
            plain: list[int] | None
            if "p" in keys.values:
                factors = [int.from_bytes(keys.values[name], "little") for name in ("p", "q")]
                plain = decrypt(rows, factors, public.n)
            else:
                plain = _open(rows, held, tricked if site == asked else {}, public)
            if plain is not None:
                found[site] = slots(plain, 1, public)
        note = "" if found else f"{len(held)} shares open nothing"
        return Evidence(vectors=found, note=note)


class RelatedCiphertexts(Attack):
    """Submits what it makes of another site's ciphertext, and reads that vector off the sum.

    ``how`` in the public part: "power", c^(2^k) with k bits beyond the slots, so that the sum's
    high digits are the victim's vector; "shifted", the same times (1 + n)^s; "cancel", the
    inverse of the product of all others, so that the sum is the victim's vector; "copy". The
    first run gives the rows to send and a proof made of the victim's; the second reads the sum.
    All but an exact copy are re-randomised, so that no two of them look alike.
    """

    number = 24
    id = "related-ciphertexts"
    title = "A ciphertext made from another site's"
    source = "WillowFold, ePrint 2026/264; malleability of Paillier's scheme (EUROCRYPT 1999)"
    adversary = "malicious server with one colluding site"
    sees = "the ciphertexts and proofs of all other sites before it sends its own"
    tests = ("holder.knowledge", "server.knowledge", "holder.repeated", "server.repeated")
    law = "without proofs of knowledge the sum divided by 2^k is the victim's vector, exactly"
    remedy = (
        "Keep the proofs of knowledge (a key made with them, the default): each site proves, "
        "under its own name and for this round, that it knows what it encrypted."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Make the ciphertexts to submit; or, once holders answered, read the sum."""
        given = transcript.public
        public = Public.of(given)
        shift = public.row_bits + 32
        answers = openings(transcript.frames, public)
        if not answers:
            return self._forge(transcript, public, shift)
        plain = opened(answers, public)
        if plain is None:
            return Evidence(note="the answers open nothing")
        victim, count = given["victim"], int(given["count"])
        if given["how"] in {"power", "shifted"}:
            return Evidence(vectors={victim: slots([m >> shift for m in plain], 1, public)})
        if given["how"] == "cancel":
            return Evidence(vectors={victim: slots(plain, 1, public)})
        return Evidence(vectors={"sum": slots(plain, count, public)})

    def _forge(self, transcript: Transcript, public: Public, shift: int) -> Evidence:
        given, square = transcript.public, public.n**2
        sent = ciphertexts(transcript.frames, public)
        rows, proof = sent[given["victim"]]
        salt = hashlib.shake_256(repr(given.get("trial", 0)).encode())
        how = given["how"]
        if how in {"power", "shifted"}:
            rows = [power(row, 1 << shift, square) for row in rows]
        if how == "shifted":
            s = int.from_bytes(salt.digest(4), "little")
            rows = [row * (1 + s * public.n) % square for row in rows]
        if how == "cancel":
            others = [numbers for site, (numbers, _) in sent.items() if site != given["victim"]]
            rows = [pow(row, -1, square) for row in product(others, public)]
        if how != "copy":
            # r^n for a random r: another ciphertext of the same plaintext.
            random = [int.from_bytes(salt.digest(public.size // 2), "little") for _ in rows]
            rows = [
                c * power(r, public.n, square) % square for c, r in zip(rows, random, strict=True)
            ]
        proof = self._proof(given.get("proof", "theirs"), proof, salt)
        arrays = {"rows": to_array(rows, public.size), "proof": to_array(proof, 1)}
        return Evidence(arrays=arrays)

    def _proof(self, kind: str, theirs: bytes, salt: Any) -> bytes:
        if kind == "theirs" or not theirs:
            return theirs
        noise = salt.digest(len(theirs))
        if kind == "random":
            return bytes(noise)
        # The victim's, with one bit changed.
        at = int.from_bytes(noise[:4], "little") % (8 * len(theirs))
        changed = bytearray(theirs)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)


class NoRerandomisation(Attack):
    """Reads ciphertexts whose random factor is 1, and differences of those that share one.

    c = (1 + m n) r^n modulo n^2, so that c modulo n is r^n: it is 1 for r = 1, and equal for
    equal r.
    """

    number = 25
    id = "no-rerandomisation"
    title = "Ciphertexts without fresh randomness"
    source = f"{_PAILLIER}: the case r = 1; issue threads of python-paillier on obfuscation"
    adversary = "whoever sees the ciphertexts: the server, a holder, the network"
    sees = "ciphertexts as sites send them, encrypted vectors as files, and sums of such files"
    tests = ("feature: random exponents",)
    law = "r = 1 gives m = (c - 1) / n, exactly; r of 512 random bits gives nothing"
    remedy = (
        "Use the sites of this package, which draw a fresh exponent of at least 512 bits for every "
        "ciphertext; do not accept ciphertexts made elsewhere without knowing how they were made."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Look at every ciphertext alone, and at all of them together."""
        public = Public.of(transcript.public)
        vectors = {site: rows for site, (rows, _) in ciphertexts(transcript.frames, public).items()}
        for name, blob in transcript.arrays.items():
            data = blob.tobytes()[-public.rows * public.size :]
            at = range(0, len(data), public.size)
            vectors[name] = [int.from_bytes(data[i : i + public.size], "little") for i in at]
        counts = transcript.public.get("counts", {})
        n = public.n
        found: dict[str, list[Any]] = {}
        seen: dict[tuple[int, ...], str] = {}
        looked = shared = 0
        factors_of: dict[int, str] = {}
        for name, rows in vectors.items():
            random = tuple(row % n for row in rows)
            looked += len(rows)
            shared += sum(factors_of.setdefault(r, name) != name for r in random)
            shared += len(random) - len(set(random))
            if all(r == 1 for r in random):
                plain = [(row - 1) // n for row in rows]
                found[name] = slots(plain, int(counts.get(name, 1)), public)
            elif random in seen:
                other = vectors[seen[random]]
                pairs = zip(rows, other, strict=True)
                gap = [(a * pow(b, -1, n * n) - 1) % (n * n) // n for a, b in pairs]
                found[f"{name} - {seen[random]}"] = _differences(gap, public)
            seen.setdefault(random, name)
        ones = sum(row % n == 1 for rows in vectors.values() for row in rows)
        values = {"looked": float(looked), "ones": float(ones), "shared": float(shared)}
        return Evidence(vectors=found, values=values)


def _differences(gap: Sequence[int], public: Public) -> list[int]:
    """Differences of coordinates from differences of plaintexts."""
    # With half of a slot added to every slot none of them borrows from the next.
    half = sum(1 << (i + 1) * public.slot_bits - 1 for i in range(public.slots))
    lifted = [(number + half) % public.n for number in gap]
    middle = 1 << (public.slot_bits - 1)
    raw = slots(lifted, 0, public)
    return [value - middle for value in raw]


class SlotOverflow(Attack):
    """Encrypts a number that does not fit its slot, with a good proof that it knows it.

    ``kind`` in the public part: "inside", the coordinate is ``amount`` larger than any site may
    send; "carry", the slot wraps to ``amount`` less and carries one into its neighbour; "top", a
    bit beyond all slots.
    """

    number = 26
    id = "slot-overflow"
    title = "A number too large for its slot"
    source = "derived here from packing (Damgard, Jurik, PKC 2001) and sums without range proofs"
    adversary = "a malicious site"
    sees = "the plan, the layout of the slots and its own vector"
    tests = ("server.slot-range", "server.sum-range", "feature: carry bits")
    law = (
        "noticed if and only if a slot of the sum is above count (2^b - 1), a bit is set beyond "
        "the slots, or a coordinate of the sum is outside the range of honest sums"
    )
    remedy = (
        "Accept and bound it: no proof shows that a site's numbers are in range, so one site can "
        "move a coordinate anywhere within the range of honest sums. Keep the bounds of the plan "
        "tight, compare rounds, and let enrolment decide who may send."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """The plaintexts to encrypt instead of one's own vector."""
        given = transcript.public
        public = Public.of(given)
        place, amount = int(given["coordinate"]), int(given["amount"])
        rows = packed(given["own"], public)
        row, slot = divmod(place, public.slots)
        weight = 1 << slot * public.slot_bits
        kinds: dict[str, Callable[[], int]] = {
            "inside": lambda: amount * weight,
            "carry": lambda: ((1 << public.slot_bits) - amount) * weight,
            "top": lambda: 1 << public.slots * public.slot_bits,
        }
        rows[row] += kinds[given["kind"]]()
        return Evidence(arrays={"rows": to_array(rows, public.size // 2)})


class BadModulus(Attack):
    """Factors the modulus of a public key, and opens what was encrypted under it."""

    number = 27
    id = "bad-modulus"
    title = "A modulus that can be factored"
    source = "BitForge, CVE-2023-33241; CGGMP, ePrint 2021/060, figures 16 and 28"
    adversary = "whoever sees the ciphertexts, after a careless or malicious dealer made the key"
    sees = "the public key and the sites' ciphertexts"
    tests = ("plan.modulus-proof", "feature: checks of the public key")
    law = (
        "one factor below 2^20 is found by division; a prime p with smooth p - 1 by Pollard's "
        "method; all factors open every ciphertext"
    )
    remedy = (
        "Take only keys that come with the proof about their modulus (every malicious-server plan "
        "asks for it), and only from a dealer who is trusted. No proof shows that the primes were "
        "drawn at random, and none helps against a dealer who keeps the key or gives it away. The "
        "key must be made by somebody who may see all data, with the code of this package, on a "
        "machine that is wiped."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Try to factor n; with all factors, decrypt."""
        n = int.from_bytes(transcript.public["n"], "little")
        began = time.process_time()
        found, how = factoring.split(n)
        seconds = time.process_time() - began
        prime = is_prime(n)
        values = {"found": float(found > 1 or prime), "seconds": seconds}
        values["factor bits"] = float(min(found, n // found).bit_length()) if found > 1 else 0.0
        if not transcript.frames or not values["found"]:
            return Evidence(values=values, note=how or "no factor")
        public = Public.of(transcript.public)
        try:
            factors = factoring.factors(n)
        except ValueError as error:
            return Evidence(values=values, note=f"{how}: {error}")
        sent = ciphertexts(transcript.frames, public)
        vectors: dict[str, list[Any]] = {
            site: slots(decrypt(rows, factors, n), 1, public) for site, (rows, _) in sent.items()
        }
        return Evidence(vectors=vectors, values=values, note=how or "prime")


class BadDecryption(Attack):
    """Changes a holder's answer so that the opened sum moves by a number of its choice.

    A share is multiplied by (1 + n)^k, which keeps all shares consistent, with k such that the
    combination with the other holders' shares moves the plaintext as wanted; a plaintext is
    changed directly. ``how``: "shift" keeps the proof, "random" draws another, "noise" replaces
    a share by a random number.
    """

    number = 28
    id = "bad-decryption"
    title = "A wrong answer of a holder"
    source = "Damgard and Jurik, PKC 2001, section 4.1; Chaum and Pedersen, CRYPTO 1992"
    adversary = "a malicious holder"
    sees = "its own answer, the public key, and which holders answer"
    tests = ("server.share-proof", "server.opening-proof")
    law = "without the proof the sum moves by exactly the number that the holder chose"
    remedy = (
        "Keep the proofs of the holders, and have more holders than the threshold: a wrong answer "
        "is refused with its holder's name, and the round is completed by the others."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """The rows and the proof to answer with."""
        given = transcript.public
        public = Public.of(given)
        ((number, rows),) = openings(transcript.frames, public).items()
        proof = bytes(given["proof"])
        salt = hashlib.shake_256(repr(given["trial"]).encode())
        wide = public.size if public.holders > 1 else public.size // 2
        n, how, at = public.n, given["how"], int(given["row"])
        move = int(given["move"]) << int(given["slot"]) * public.slot_bits
        if how == "noise":
            noise = int.from_bytes(salt.digest(wide), "little")
            rows[at] = noise % (n * n if public.holders > 1 else n)
        elif public.holders == 1:
            rows[at] = (rows[at] + move) % n
        else:
            rows[at] = self._moved(rows[at], number, given["with"], move, public)
        if how == "random":
            proof = salt.digest(len(proof))
        return Evidence(arrays={"rows": to_array(rows, wide), "proof": to_array(proof, 1)})

    def _moved(self, share: int, number: int, chosen: list[int], move: int, public: Public) -> int:
        delta, n = math.factorial(public.holders), public.n
        weight = delta
        for other in chosen:
            weight = weight if other == number else weight * other
        below = math.prod(other - number for other in chosen if other != number)
        # The plaintext moves by 2 lambda k / (4 Delta^2).
        k = move * 4 * delta**2 * pow(2 * (weight // below), -1, n) % n
        return share * (1 + k * n) % (n * n)


class TwoOpenings(Attack):
    """Has two sets of sites opened that differ by one site, and subtracts the sums."""

    number = 29
    id = "two-openings"
    title = "Two sums of one round"
    source = "differencing; the threshold bound of Bonawitz et al., CCS 2017, for holders"
    adversary = "malicious server with colluding holders"
    sees = "all ciphertexts, answers of honest holders to one of two sets, and colluders' shares"
    tests = ("plan.one-opening", "journal.journal-once", "holder.equivocation")
    law = "both sets are opened if and only if 2 threshold <= holders + colluding holders"
    remedy = (
        "Choose the threshold above half of holders and colluders together (plans against a "
        "malicious server insist on it), and give every holder a journal on durable storage: it "
        "opens one sum in a round, whatever it is restarted with."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Open the first set and the second, and subtract."""
        given = transcript.public
        if transcript.arrays:
            left = transcript.arrays["first"] - transcript.arrays["second"]
            return Evidence(vectors={given["victim"]: left.tolist()})
        public = Public.of(given)
        sent = ciphertexts(transcript.frames, public)
        held = _held(keys)
        sums = []
        for name in ("first", "second"):
            sites: list[str] = given[name]
            answers = [transcript.frames[at] for at in given[f"{name} answers"]]
            rows = product((sent[site][0] for site in sites), public)
            plain = _open(rows, held, openings(answers, public), public)
            if plain is None:
                return Evidence(note=f"the {name} set is not opened")
            sums.append(slots(plain, len(sites), public))
        gap = [a - b for a, b in zip(*sums, strict=True)]
        return Evidence(vectors={given["victim"]: gap})


__all__ = [
    "BadDecryption",
    "BadModulus",
    "KeyHolder",
    "NoRerandomisation",
    "RelatedCiphertexts",
    "SlotOverflow",
    "TwoOpenings",
]
