"""Rows 35 and 36: what code gives away beside its results, and how it rounds."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from secagg_protocols.keys import hkdf

from .attack import Attack, Evidence, Keys, Transcript
from .reading import keystream

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: |t| beyond which two kinds of input take different times (Reparaz, Balasch and Verbauwhede,
#: DATE 2017, use 4.5 to 5). It must show in every batch with one sign: an interruption does not.
LIMIT: Final = 5.0
#: And the least difference of the medians: smaller ones come and go with what else the machine
#: does.
LEAST: Final = 0.05
#: Parts of the timings that are kept, the slowest left out: they are those that were interrupted.
CROPS: Final = (1.0, 0.95, 0.8, 0.7)
_FEWEST: Final = 8


def welch(first: Floats, second: Floats) -> float:
    """Welch's t of two samples (Welch, Biometrika 1947); 0 where nothing varies."""
    error = first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)
    return 0.0 if error == 0 else float((second.mean() - first.mean()) / np.sqrt(error))


def cropped(times: Floats, kinds: Array) -> float:
    """The largest |t| over crops of one batch, with its sign. kinds: 0 fixed, 1 random."""
    best = 0.0
    for part in CROPS:
        kept = times <= np.quantile(times, part)
        first, second = times[kept & (kinds == 0)], times[kept & (kinds == 1)]
        if min(len(first), len(second)) >= _FEWEST:
            found = welch(first, second)
            best = found if abs(found) > abs(best) else best
    return best


class Timing(Attack):
    """Welch's test on times of fixed and random inputs, mixed at random."""

    number = 35
    id = "timing"
    title = "Timing of operations on secrets"
    source = (
        "Reparaz, Balasch and Verbauwhede (dudect), DATE 2017; Jin et al., IEEE S&P 2022 (noise "
        "samplers)"
    )
    adversary = "a process on the same machine that can time single operations"
    sees = "times of operations, each with a fixed or with a random secret, in batches"
    tests: ClassVar[tuple[str, ...]] = (
        "feature: digests compared in constant time",
        "feature: kernels without branches on secrets",
    )
    law = (
        "|t| stays within chance if time does not follow the secret, and grows with the root of "
        "the number of timings if it does"
    )
    remedy = (
        "Compare digests with compare_digest, use kernels that neither branch nor index on "
        "secrets, and run what cannot be made so (big integers, large tables of noise) on machines "
        "that you do not share."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """By operation: t of the batch where it is smallest, 0 where batches disagree in sign, and
        how much slower the random kind is. arrays: NAME and NAME:kinds, [batches, timings]."""
        values: dict[str, float] = {}
        for name, times in transcript.arrays.items():
            if name.endswith(":kinds"):
                continue
            kinds = transcript.arrays[f"{name}:kinds"]
            found = [cropped(*batch) for batch in zip(times, kinds, strict=True)]
            agree = len({value > 0 for value in found}) == 1
            values[f"t:{name}"] = min(found, key=abs) if agree else 0.0
            values[f"largest:{name}"] = max(found, key=abs)
            middle = [float(np.median(times[kinds == kind])) for kind in (0, 1)]
            values[f"ratio:{name}"] = middle[1] / max(middle[0], 1.0)
            sure = abs(values[f"t:{name}"]) > LIMIT
            values[f"told:{name}"] = float(sure and abs(values[f"ratio:{name}"] - 1) > LEAST)
        return Evidence(values=values)


class Quantiser(Attack):
    """Rounding that can be predicted, that is biased, and numbers that are none."""

    number = 36
    id = "quantiser"
    title = "Biased or predictable rounding"
    source = "Kairouz, Liu and Steinke, ICML 2021, section 4; Casacuberta et al., CCS 2022"
    adversary = "server with n - 1 colluding sites, which sees the integers of the last one"
    sees = "integers, the reals in levels that they came from, and public strings of the round"
    tests: ClassVar[tuple[str, ...]] = (
        "feature: unbiased rounding",
        "feature: secret rounding seeds",
        "client.input-finite",
    )
    law = (
        "stochastic rounding is right on average: the mean error of N values lies within "
        "a few standard errors of zero; a direction is guessed as often as its chance"
    )
    remedy = (
        "Round at random from a fresh secret seed with 32 bits or more a coordinate, clip before "
        "rounding, and refuse NaN and infinity."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Bias in standard errors, overall and by part of a level; the best prediction from
        ``public["strings"]``; how many integers are beyond ``public["limit"]``."""
        levels, rounded = transcript.arrays["levels"], transcript.arrays["rounded"]
        values: dict[str, float] = {}
        low = np.floor(levels)
        part = levels - low
        error = rounded - levels
        spread = part * (1 - part)
        groups = transcript.arrays.get("group", np.zeros(len(levels), dtype=np.int64))
        worst = _z(error, spread)
        values["bias"], values["bias z"] = float(error.mean()), worst
        toward = np.where(levels < 0, -error, error)
        values["outward z"] = _z(toward, spread)
        values["group z"] = max(
            (_z(error[groups == g], spread[groups == g]) for g in np.unique(groups)), key=abs
        )
        values["moved"] = float(np.max(np.abs(error)))
        values["beyond"] = float(np.sum(np.abs(rounded) > float(transcript.public["limit"])))
        up = (rounded > low).astype(bool)
        values["chance"] = float(np.mean(np.maximum(part, 1 - part)))
        values["predicted"] = values["chance"]
        seeds = list(transcript.public.get("strings", ()))
        # Conditional rounding derives a seed for each of its attempts.
        seeds += [
            hkdf(seed, b"secagg conditional rounding v1" + bytes([attempt]), 32)
            for seed in seeds
            for attempt in range(4)
        ]
        for seed in seeds:
            key = hkdf(seed, b"secagg stochastic rounding v1", 24)
            lanes = keystream(key, len(levels), np.dtype(np.uint32))
            guess = lanes < np.floor(part * 2.0**32).astype(np.uint64)
            values["predicted"] = max(values["predicted"], float(np.mean(guess == up)))
        return Evidence(values=values)


def _z(error: Floats, spread: Floats) -> float:
    """Mean error over its standard error; the error itself in levels where there is no spread."""
    deviation = float(np.sqrt(spread.sum()))
    total = float(error.sum())
    return total / deviation if deviation > 0 else total


__all__ = ["CROPS", "LEAST", "LIMIT", "Quantiser", "Timing", "cropped", "welch"]
