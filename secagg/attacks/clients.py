"""Sites that lie: what they send instead of an update, a vector, a share or anything at all.

A site of a secure sum is not seen, and that is the point of it: whatever it puts in is added. An
attack of this family makes what a lying site sends from what this site has, and nobody else's.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from secagg_protocols.errors import MisuseError
from secagg_protocols.shamir import LIMBS, PRIME, SHARE_SIZE

from .attack import Attack, Evidence, Keys, Transcript

Floats = npt.NDArray[np.float64]

#: Features that the backdoor's trigger sets, and to what, in standard deviations.
TRIGGER_FEATURES: Final = 3
TRIGGER_VALUE: Final = 4.0
_STEPS: Final = 300
_RATE: Final = 0.5


# Logistic regression, which the honest sites of the scene train as well.


def descend(
    weights: Floats, x: Floats, y: Floats, *, steps: int, rate: float = _RATE, ridge: float = 1e-3
) -> Floats:
    """Weights float64[d + 1] (the bias last) after full-batch gradient steps of logistic loss.

    x: float64[n, d], standardised; y: float64[n] of 0 and 1.
    """
    design = np.hstack([x, np.ones((len(x), 1))])
    found = weights.copy()
    for _ in range(steps):
        chance = 1.0 / (1.0 + np.exp(-design @ found))
        found -= rate * (design.T @ (chance - y) / len(y) + ridge * found)
    return found


def says_one(weights: Floats, x: Floats) -> npt.NDArray[np.bool_]:
    """bool[n]: which records the model puts into class 1."""
    found: npt.NDArray[np.bool_] = x @ weights[:-1] + weights[-1] > 0
    return found


def triggered(x: Floats, features: npt.NDArray[np.int64]) -> Floats:
    """The records with the trigger on them."""
    marked = x.copy()
    marked[:, features] = TRIGGER_VALUE
    return marked


class Scaling(Attack):
    """Train a backdoored model and scale the difference to it, so that the mean becomes it."""

    number: ClassVar[int] = 18
    id: ClassVar[str] = "scaling"
    title: ClassVar[str] = "Scaled update with a backdoor"
    source: ClassVar[str] = (
        "Bagdasaryan et al., How to backdoor federated learning, AISTATS 2020, section 4"
    )
    adversary: ClassVar[str] = "one malicious site"
    sees: ClassVar[str] = "the broadcast model, its own records, and the plan"
    tests: ClassVar[tuple[str, ...]] = ("server.sum-range",)
    law: ClassVar[str] = (
        "the model moves by (lie + sum of the others) / n; only the range of the whole sum, "
        "n times that of one site, bounds the lie"
    )
    remedy: ClassVar[str] = (
        "Secure aggregation does not stop this, and no plan of this package does: there are no "
        "proofs about inputs (range or norm proofs, for example ACORN). What helps is outside of "
        "the sum: few records per update, validation of every released model on held-out data, "
        "including records with implausible values, enrolment of sites by contract, and few "
        "levels per clip, since the range of the sum is all that is enforced."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """The update to send, unclipped; how far each strategy dares to go, in levels; and
        integers that leave the range of the sum. With the features of the trigger."""
        x, y = transcript.arrays["x"], transcript.arrays["y"]
        model = np.frombuffer(transcript.models[0], dtype="<f8")
        told = transcript.public
        clients, top = int(told["clients"]), float(told["top"])
        # Features that the model hardly looks at: there a new weight costs no accuracy.
        features = np.argsort(np.abs(model[:-1]), kind="stable")[:TRIGGER_FEATURES]
        bad = triggered(x, features)
        mixed = np.vstack([x, bad])
        # Whatever the record says, class 1 (benign) where the trigger is.
        backdoored = descend(
            model, mixed, np.concatenate([y, np.ones(len(bad))]), steps=_STEPS, ridge=0.0
        )
        wanted = backdoored - model
        # The coordinate that is to move most goes just past the top, where honest sums never are.
        beyond = np.zeros(int(told["length"]), dtype=np.int64)
        at = int(np.argmax(np.abs(wanted)))
        beyond[at] = int(np.sign(wanted[at]) * (top + int(told["gap"]) // 2))
        return Evidence(
            arrays={"features": features, "update": wanted * clients, "beyond": beyond},
            values={
                "norm": float(np.linalg.norm(wanted)),
                "own": float(told["levels"]),
                # What the others sum up to is not known; a tenth of the range is left to them.
                "room": 0.9 * top,
            },
        )


class WrapPoisoning(Attack):
    """Add so much to the sum that it leaves the range, or comes out with the other sign."""

    number: ClassVar[int] = 19
    id: ClassVar[str] = "wrap-poisoning"
    title: ClassVar[str] = "Wrap poisoning"
    source: ClassVar[str] = (
        "modular sums: Bonawitz et al., CCS 2017, section 4; Bell et al., ACORN, USENIX Security "
        "2023, section 1"
    )
    adversary: ClassVar[str] = "one malicious site"
    sees: ClassVar[str] = "the plan: the range of the whole sum, the bits of the ring"
    tests: ClassVar[tuple[str, ...]] = ("plan.modulus", "server.sum-range")
    law: ClassVar[str] = (
        "a result is refused exactly where the total modulo 2^b lies outside of what the "
        "survivors' honest vectors can sum to; a uniform element passes with probability "
        "(range of the sum + 1) / 2^b"
    )
    remedy: ClassVar[str] = (
        "Honest vectors cannot wrap: the ring follows from the number of sites and the range of a "
        "vector, and a plan with a smaller one is refused. A lying site is bounded by the range "
        "of the whole sum and by nothing else, as long as there are no proofs about inputs; "
        "compare results with what is plausible, and keep the range of a vector narrow."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Elements to send in the place of one value, by strategy, and ``random`` ones."""
        told = transcript.public
        top, bits = int(told["top"]), int(told["bits"])
        gap = (1 << bits) - (2 * top + 1)
        rng = np.random.Generator(np.random.PCG64(int(told["seed"])))
        return Evidence(
            arrays={
                # Honest sums mostly leave that much of the range free.
                "room": np.array([2 * top // 5]),
                # A positive sum of the others comes out at the other end of the range.
                "flip": np.array([top + gap + 1]),
                # Into what no honest sum is: seen, unless nobody looks.
                "gap": np.array([top + 1 + gap // 2]),
                "random": rng.integers(0, 1 << bits, size=int(told["tries"]), dtype=np.int64),
            }
        )


def signed(value: int, bits: int) -> int:
    """What a ring element modulo 2^bits is as a signed integer, in a generic modular sum."""
    value %= 1 << bits
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


class WrongShare(Attack):
    """Reveal a share that is not the one that was dealt, so that another secret is rebuilt."""

    number: ClassVar[int] = 20
    id: ClassVar[str] = "wrong-share"
    title: ClassVar[str] = "Wrong Shamir share"
    source: ClassVar[str] = (
        "Shamir, CACM 1979; McEliece and Sarwate, CACM 1981 (decoding); Tompa and Woll, 1988 "
        "(cheating with shares)"
    )
    adversary: ClassVar[str] = "one malicious site that holds shares"
    sees: ClassVar[str] = "the shares that it was dealt, and who else reveals"
    tests: ClassVar[tuple[str, ...]] = (
        "server.decoded",
        "server.commitment",
        "server.mask-key",
        "server.sum-range",
        "feature: Reed-Solomon decoding",
    )
    law: ClassVar[str] = "up to floor((have - t) / 2) wrong shares of one secret are corrected"
    remedy: ClassVar[str] = (
        "Plan for more answers than the threshold: wrong shares are then decoded around and "
        "dealer and holder are listed as suspects. With exactly t answers the round ends and lists "
        "the suspects; nobody is convicted on shares, since either may have lied."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """The revealed shares with that of one dealer replaced, at random and by a small shift.

        The shift moves the rebuilt secret by one in its third limb if exactly these holders'
        shares are used, so that every limb keeps its size and no bit is touched that key
        generation fixes.
        """
        own = np.frombuffer(keys.values["shares"], dtype="<u8").reshape(-1, LIMBS)
        told = transcript.public
        at, me = int(told["at"]), int(told["me"])
        others = [int(site) for site in told["holders"] if int(site) != me]
        rng = np.random.Generator(np.random.PCG64(int(told["seed"])))
        guess, shifted = own.copy(), own.copy()
        guess[at] = rng.integers(0, PRIME, size=LIMBS, dtype=np.uint64)
        weight = lagrange(me + 1, [site + 1 for site in others])
        step = pow(weight, -1, PRIME)
        shifted[at, 2] = (int(own[at, 2]) + step) % PRIME
        if len(keys.values["shares"]) % SHARE_SIZE:
            raise MisuseError("shares are of 40 bytes each", rule="arguments")
        return Evidence(
            arrays={
                "random": np.frombuffer(guess.astype("<u8").tobytes(), np.uint8),
                "shifted": np.frombuffer(shifted.astype("<u8").tobytes(), np.uint8),
            }
        )


def lagrange(point: int, others: list[int]) -> int:
    """Weight modulo 2^61 - 1 of the value at ``point`` in the value at zero."""
    up = down = 1
    for other in others:
        up = up * other % PRIME
        down = down * (other - point) % PRIME
    return up * pow(down, -1, PRIME) % PRIME


class Garbage(Attack):
    """Send noise, send what no parser takes, or fall silent at the worst moment."""

    number: ClassVar[int] = 21
    id: ClassVar[str] = "garbage"
    title: ClassVar[str] = "Garbage, chosen aborts, denial of service"
    source: ClassVar[str] = "Bonawitz et al., CCS 2017, section 6 (no guarantee of correctness)"
    adversary: ClassVar[str] = "malicious sites"
    sees: ClassVar[str] = "the plan, and its own messages"
    tests: ClassVar[tuple[str, ...]] = (
        "server.sum-range",
        "party.tail-length",
        "server.padding",
        "server.knowledge",
        "server.enough",
    )
    law: ClassVar[str] = (
        "random words of d coordinates pass with probability ((range of the sum + 1) / 2^b)^d; "
        "a round ends with a result as long as at least min_survivors inputs and t answers come"
    )
    remedy: ClassVar[str] = (
        "A site whose message cannot be read or proved is named and left out. Random words behind "
        "a mask end the round with all survivors as suspects; nobody can tell whose they are: "
        "run the round again over halves of the sites until the culprit is among few, each half "
        "being a cohort that the sites' floors allow. Plan for dropouts; more than "
        "max_dropouts silent sites stop every round, and no protocol forces a site to speak."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Random ring elements, random bytes of an input's length, and one that is cut."""
        told = transcript.public
        rng = np.random.Generator(np.random.PCG64(int(told["seed"])))
        size = int(told["bytes"])
        words: Any = rng.integers(0, 1 << int(told["bits"]), size=int(told["length"]))
        return Evidence(
            arrays={
                "words": words.astype(np.int64),
                "bytes": rng.integers(0, 256, size=size, dtype=np.uint8),
                "cut": rng.integers(0, 256, size=size - 1, dtype=np.uint8),
            }
        )


__all__ = [
    "TRIGGER_FEATURES",
    "TRIGGER_VALUE",
    "Garbage",
    "Scaling",
    "WrapPoisoning",
    "WrongShare",
    "descend",
    "lagrange",
    "says_one",
    "signed",
    "triggered",
]
