"""Rows 30-34: noise that hides less than it says.

What is released here is a sum with noise. Each attack looks for one way in which an implementation
gives away more than its epsilon: outputs that only one input can give, an input that moves the sum
further than was counted on, noise that some sites did not add or that insiders know, noise that
was used before, and noise that the ring of integers cuts off.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from secagg_protocols.keys import KEY_SIZE
from secagg_protocols.masked_sum.masks import SiteSecrets

from .attack import Attack, Evidence, Keys, Transcript
from .reading import INPUT, Reading, plan_of

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: A uniform double of the usual generators is a multiple of 2^-53.
UNIFORM_BITS: Final = 53
#: How many uniforms around the likeliest one are tried: rounding moves it by less.
_AROUND: Final = 8
#: What an attack says of an output: the first input, the second, neither is ruled out.
FIRST, SECOND, OPEN, NONE = 0, 1, -1, -2


def laplace_reaches(outputs: Floats, value: float, scale: float) -> npt.NDArray[np.bool_]:
    """Which outputs are ``value + scale * sign * -log(k / 2^53)`` in doubles for a whole k.

    The k that gives an output is known to within rounding, so that its neighbours alone are tried
    (Mironov, CCS 2012, section 4).
    """
    noise = outputs - value
    likeliest = np.rint(np.exp(-np.abs(noise) / scale) * 2.0**UNIFORM_BITS)
    found = np.zeros(len(outputs), dtype=bool)
    for step in range(-_AROUND, _AROUND + 1):
        k = likeliest + step
        valid = (k >= 1) & (k <= 2.0**UNIFORM_BITS)
        uniform = np.where(valid, k, 1.0) * 2.0**-UNIFORM_BITS
        made = value + np.copysign(-scale * np.log(uniform), noise)
        found |= valid & (made == outputs)
    return found


class FloatNoise(Attack):
    """Outputs that the noise of one of two inputs can never give."""

    number = 30
    id = "float-noise"
    title = "Impossible outputs of floating-point noise"
    source = "Mironov, CCS 2012, section 4; Haney et al., arXiv 2207.13793, 2022"
    adversary = "whoever reads the released sum, the semi-honest server included"
    sees = "released values, the plan, and two inputs of which one is the true one"
    tests: ClassVar[tuple[str, ...]] = ("feature: exact integer noise",)
    law = (
        "in doubles an output is possible under another input with probability "
        "min(1, gap of doubles at the output / gap of the noise there); integer noise reaches "
        "every integer under both inputs"
    )
    remedy = (
        "Draw noise over the integers by an exact sampler and add it to integers, before anything "
        "is turned into a floating-point number."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Test every output under both inputs. public: ``inputs`` (two numbers), ``sites`` that
        add integer noise, or ``scale`` of noise in doubles; ``others``: what else is in a sum;
        ``samples``: draws of the sampler by the attacker, from seeds of its own."""
        public, outputs = transcript.public, transcript.arrays["outputs"]
        low, high = (float(value) for value in public["inputs"])
        if transcript.plan:
            noise = plan_of(transcript.plan).pipeline.noise
            sites, samples = int(public["sites"]), transcript.arrays["samples"]
            # A sampler that leaves integers out shows it here: all its draws are apart by a step.
            step = max(1, int(np.gcd.reduce(samples - samples[0])))
            reach = 0 if noise is None else noise.tables().bound * sites * step
            left = outputs - transcript.arrays["others"]

            def possible(value: float) -> npt.NDArray[np.bool_]:
                drawn = left - value
                on: npt.NDArray[np.bool_] = (drawn - sites * int(samples[0])) % step == 0
                return on & (np.abs(drawn) <= reach)

            first, second = possible(low), possible(high)
        else:
            scale = float(public["scale"])
            first = laplace_reaches(outputs, low, scale)
            second = laplace_reaches(outputs, high, scale)
        says = np.full(len(outputs), OPEN, dtype=np.int8)
        says[first & ~second] = FIRST
        says[second & ~first] = SECOND
        says[~first & ~second] = NONE
        return Evidence(arrays={"says": says})


class UnderstatedSensitivity(Attack):
    """Inputs that move the sum further than the noise was made for."""

    number = 31
    id = "understated-sensitivity"
    title = "Understated sensitivity"
    source = (
        "Casacuberta et al., CCS 2022; Kairouz, Liu and Steinke, ICML 2021, Proposition 22 "
        "(what rounding adds)"
    )
    adversary = "semi-honest server that knows the inputs of all sites but one"
    sees = (
        "noisy sums with and without a vector it knows; and, where all other sites collude and "
        "there is no noise, the integers that this vector became"
    )
    tests: ClassVar[tuple[str, ...]] = ("feature: rounding counts in the sensitivity",)
    law = (
        "rounding to the nearest may double the norm of a clipped vector; noise for the norm "
        "before rounding gives the epsilon of noise half as large"
    )
    remedy = (
        "Count in the sensitivity what clipping and rounding can make of a vector in integers, as "
        "the plan's bounds do, and refuse or redraw what exceeds it."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Norms of ``encodings``, and a guess for each of ``unknown`` sums, from the sums that are
        known ``with`` and ``without`` the vector that points in ``direction``."""
        arrays = transcript.arrays
        found: dict[str, Array] = {}
        if "encodings" in arrays:
            rows = arrays["encodings"].astype(np.float64)
            found["l2"] = np.sqrt(np.sum(rows * rows, axis=1))
            found["l1"] = np.sum(np.abs(rows), axis=1)
        if "unknown" in arrays:
            where = arrays["direction"].astype(np.float64)
            inside, outside = (arrays[name] @ where for name in ("with", "without"))
            cut = _best_cut(inside, outside)
            found["guess"] = (arrays["unknown"] @ where > cut).astype(np.int8)
        return Evidence(arrays=found)


def _best_cut(inside: Floats, outside: Floats) -> float:
    """The threshold with the largest cautious ratio of rates: two standard errors to each side."""
    best, chosen = -np.inf, float(outside.max())
    for cut in np.unique(np.quantile(np.concatenate([inside, outside]), np.linspace(0, 1, 129))):
        rates = []
        for scores, sign in ((inside, -2.0), (outside, 2.0)):
            count = float(np.sum(scores > cut))
            rates.append((count + 2.0 + sign * np.sqrt(count + 1.0)) / (len(scores) + 4.0))
        if rates[0] > 0 and rates[0] / rates[1] > best:
            best, chosen = rates[0] / rates[1], float(cut)
    return chosen


class MissingNoise(Attack):
    """What the noise of the honest sites that are left hides."""

    number = 32
    id = "missing-noise"
    title = "Noise that dropouts and colluders do not add"
    source = "Jiang, Wang and Chen (Dordis), EuroSys 2024, section 3"
    adversary = "semi-honest server with c colluding sites, after the dropouts that a plan allows"
    sees = "the opened noisy sums, and what its colluding sites sent, their noise included"
    tests: ClassVar[tuple[str, ...]] = (
        "feature: noise for the fewest honest survivors",
        "server.enough",
    )
    law = (
        "residual variance / claimed variance = honest survivors / the number that noise was "
        "calibrated to"
    )
    remedy = (
        "Calibrate each site's noise to the fewest honest survivors that the plan allows, and "
        "refuse to open a sum of fewer."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """The honest sites' sums: ``sums`` int64[rounds, d] less the colluders' ``own``
        int64[rounds, c, d]."""
        sums, own = transcript.arrays["sums"], transcript.arrays["own"]
        return Evidence(arrays={"estimate": sums - own.sum(axis=1)})


class NoiseReuse(Attack):
    """Noise that cancels or can be computed: used twice, or from seeds that can be guessed."""

    number = 33
    id = "noise-reuse"
    title = "Reused or predictable noise"
    source = (
        "generator state duplicated by a fork or a restored state: Ristenpart and Yilek, NDSS "
        "2010; seeds of 32 bits: public code of Dordis, EuroSys 2024"
    )
    adversary = "semi-honest server"
    sees = "all frames, the opened sums of two rounds, and a list of round seeds that it tries"
    tests: ClassVar[tuple[str, ...]] = (
        "feature: fresh seeds of the operating system",
        "feature: noise bound to its round",
        "journal.journal-once",
    )
    law = "noise that is used twice cancels in a difference; noise of a known seed is subtracted"
    remedy = (
        "Take a fresh seed of the operating system for every round, derive noise from it together "
        "with the round's context, and keep a journal that refuses a second input of a round."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """The change between two opened ``sums``, that between two inputs of one site in one
        round, and a sum without its noise where round seeds are among ``guesses``."""
        vectors: dict[str, list[Any]] = {}
        sums = transcript.arrays.get("sums")
        if sums is not None and len(sums) == 2:
            vectors["two rounds"] = (sums[1] - sums[0]).tolist()
        if transcript.frames:
            vectors |= self._two_inputs(transcript, keys)
        if transcript.public.get("guesses"):
            vectors |= self._predicted(transcript, keys)
        return Evidence(vectors=vectors, note="" if vectors else "nothing is there twice")

    def _two_inputs(self, transcript: Transcript, keys: Keys) -> dict[str, list[Any]]:
        found = {}
        plan, number = plan_of(transcript.plan), int(transcript.public.get("round", 0))
        for site in plan.roster.names:
            sent = [f for f in transcript.frames if f.sender == site and f.data[3] == INPUT]
            if len(sent) < 2:
                continue
            # All have the same masks and the same noise.
            first, *more = (
                Reading.of(transcript, keys, round=number, frames=[frame]).masked(
                    plan.roster.index(site)
                )
                for frame in sent
            )
            size = 1 << plan.wire_bits
            for at, other in enumerate(more):
                if first is None or other is None:
                    continue
                change = (other - first) & np.uint64(size - 1)
                signed = [v - size if v >= size // 2 else v for v in change.tolist()]
                found[f"two inputs:{site}:{at}"] = signed
        return found

    def _predicted(self, transcript: Transcript, keys: Keys) -> dict[str, list[Any]]:
        """The opened sum of the first round without the noise of all sites whose seed is known."""
        number = int(transcript.public.get("round", 0))
        plan, reading = plan_of(transcript.plan), Reading.of(transcript, keys, round=number)
        noise = plan.pipeline.noise
        if noise is None or "sums" not in transcript.arrays:
            return {}
        keys_of = {advert[:KEY_SIZE]: site for site, advert in reading.adverts.items()}
        seeds: dict[int, SiteSecrets] = {}
        for guess in transcript.public["guesses"]:
            secrets = SiteSecrets.derive(guess, reading.setup)
            # An advertised key confirms a guess.
            if secrets.mask_key in keys_of:
                seeds[keys_of[secrets.mask_key]] = secrets
        if not set(reading.inputs) <= set(seeds):
            return {}
        total = transcript.arrays["sums"][0].copy()
        count = int(transcript.public.get("seed_count", 0))
        drawn = np.empty(plan.ring_length, dtype=np.int64)
        for site in reading.inputs:
            noise.draws(seeds[site].stage_seed(reading.context, count)).write(drawn, 0)
            total -= drawn
        return {"predicted": total.tolist()}


class NoiseWrap(Attack):
    """Noise whose tail leaves the ring and comes back at the other end."""

    number = 34
    id = "noise-wrap"
    title = "Noise that wraps in the ring"
    source = "Kairouz, Liu and Steinke, ICML 2021, section 4 (choice of the modulus)"
    adversary = "a colluding site that sends the largest value it may, and a server that reads"
    sees = "released sums, the ring's size, and what the sum is without noise"
    tests: ClassVar[tuple[str, ...]] = ("feature: room for the noise in the ring",)
    law = "a coordinate wraps with the probability that its noise exceeds the room that is left"
    remedy = (
        "Leave room for the tail of the noise in the ring: the plan's bits follow from a bound on "
        "the probability that any coordinate of a sum wraps, which the plan states."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Which of ``released`` cannot be ``expected`` plus noise that did not wrap, and what they
        were before. public: ``modulus``."""
        released, expected = transcript.arrays["released"], transcript.arrays["expected"]
        modulus = int(transcript.public["modulus"])
        off = released - expected
        # The nearest representative: more than half a ring away is less likely than a wrap.
        turns = np.rint(off / modulus).astype(np.int64)
        return Evidence(
            arrays={"wrapped": turns != 0, "before": released - turns * np.int64(modulus)}
        )


__all__ = [
    "FIRST",
    "NONE",
    "OPEN",
    "SECOND",
    "FloatNoise",
    "MissingNoise",
    "NoiseReuse",
    "NoiseWrap",
    "UnderstatedSensitivity",
    "laplace_reaches",
]
