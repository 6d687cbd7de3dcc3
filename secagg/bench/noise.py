"""Cases of the noise sampler: beside OpenDP's exact one, beside NumPy's, and with two threads."""

from __future__ import annotations

from typing import Final

from secagg_native import sampler

from . import machine, peers
from .measure import Work, spread
from .results import Bar
from .sheet import Case, NotHereError, Sheet

#: Standard deviations, in levels, at which every sampler is timed.
SIGMAS: Final = (2, 100)
_LARGE: Final = 10_000
_COUNTS: Final = {"full": {"count": 1_000_000}, "quick": {"count": 50_000}, "tiny": {"count": 1000}}


def sampled(law: sampler.Law, count: int, *, threads: int = 1) -> Work:
    """``count`` samples from a fresh seed of the operating system, in a new array.

    The tables are built before: they belong to a law, which a plan fixes for all rounds.
    """
    _ = law.tables
    return lambda: sampler.sample(law, count, threads=threads)


def _gaussian(sheet: Sheet) -> None:
    count = sheet.sizes["count"]
    reason = peers.left_out(sheet.given).get("opendp", "")
    for sigma in SIGMAS:
        ours, peer = f"secagg, sigma {sigma}", f"OpenDP, make_gaussian, sigma {sigma}"
        group = {ours: sampled(sampler.discrete_gaussian(sigma**2), count)}
        if not reason:
            group[peer] = peers.opendp_gaussian(count, sigma)
        found = sheet.alternate(group)
        for name, samples in found.items():
            sheet.timed(name, samples, count, "samples")
        if not reason:
            sheet.compare(f"noise-gaussian/opendp-{sigma}", found[peer], found[ours])
    large = {f"secagg, sigma {_LARGE}": sampled(sampler.discrete_gaussian(_LARGE**2), count)}
    for name, samples in sheet.alternate(large).items():
        sheet.timed(name, samples, count, "samples")
    if reason:
        raise NotHereError(reason)


def _skellam(sheet: Sheet) -> None:
    count = sheet.sizes["count"]
    for sigma in SIGMAS:
        ours, peer = f"secagg, sigma {sigma}", f"NumPy, two Poisson variables, sigma {sigma}"
        found = sheet.alternate(
            {
                ours: sampled(sampler.skellam(sigma**2), count),
                peer: peers.numpy_skellam(count, sigma),
            }
        )
        for name, samples in found.items():
            sheet.timed(name, samples, count, "samples")
        sheet.compare(f"noise-skellam/numpy-{sigma}", found[peer], found[ours])
    sheet.notes.append("NumPy's samples come from PCG64, which is no cryptographic generator")


def _threads(sheet: Sheet) -> None:
    count = sheet.sizes["count"]
    if machine.cores() < 2:
        raise NotHereError("one core only")
    for sigma in (*SIGMAS, _LARGE):
        law = sampler.discrete_gaussian(sigma**2)
        names = {1: f"sigma {sigma}, 1 thread", 2: f"sigma {sigma}, 2 threads"}
        found = sheet.alternate(
            {name: sampled(law, count, threads=threads) for threads, name in names.items()}
        )
        for name, samples in found.items():
            sheet.timed(name, samples, count, "samples")
        times = spread(found[names[1]]).median / spread(found[names[2]]).median
        speed = count / spread(found[names[2]]).median / 1e6
        sheet.notes.append(
            f"sigma {sigma}: two threads draw {speed:.0f} million samples a second, "
            f"{times:.2f} times as many as one"
        )


def _bars(stem: str, text: str, bar: float, peer: str = "") -> tuple[Bar, ...]:
    return tuple(
        Bar(id=f"{stem}-{sigma}", text=f"{text}, sigma {sigma}", bar=bar, peer=peer)
        for sigma in SIGMAS
    )


CASES: Final = (
    Case(
        "noise-gaussian",
        "Discrete Gaussian samples",
        _gaussian,
        _COUNTS,
        _bars(
            "noise-gaussian/opendp",
            "a million discrete Gaussian samples, one core: times as fast as OpenDP",
            2000,
            peer="opendp",
        ),
    ),
    Case(
        "noise-skellam",
        "Skellam samples",
        _skellam,
        _COUNTS,
        _bars(
            "noise-skellam/numpy",
            "a million Skellam samples, one core: times as fast as NumPy's Poisson difference",
            10,
        ),
    ),
    Case(
        "noise-threads",
        "Discrete Gaussian samples with two threads",
        _threads,
        {**_COUNTS, "full": {"count": 10_000_000}},
    ),
)

__all__ = ["CASES", "SIGMAS", "sampled"]
