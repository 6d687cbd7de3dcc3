"""``dp account``: what epsilon rounds spend."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secagg_protocols.errors import MisuseError
from secagg_protocols.plan import Plan

from . import dp_view
from .common import ExitCode, counted, fail, write_json
from .dp_view import Adjacency, Adversary, AsJson, Charged, Law, Plot, number, usage, without
from .plan import read_plan

if TYPE_CHECKING:
    from secagg.dp.ledger import Ledger
    from secagg.dp.mechanisms import Mechanism


def account(
    plans: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PLAN.toml...]", help="Plans with noise; several are composed."),
    ] = None,
    rounds: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="One plan: a row for each (default: 1, 2, 5, ... up to its own). Several: one "
            "each, in their order (default: their own).",
        ),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Over all rounds together (default: the plan's).")
    ] = None,
    adjacency: Annotated[
        Adjacency | None, typer.Option(help="Of plans and ledger (default: the plan's; zero-out).")
    ] = None,
    mechanism: Annotated[
        Law | None, typer.Option(help="Instead of a plan: this law, with numbers in levels.")
    ] = None,
    variance: Annotated[
        int | None,
        typer.Option(min=1, help="With --mechanism: variance of one share, levels squared."),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="With --mechanism: its root; the square is whole.")
    ] = None,
    scale: Annotated[
        int | None, typer.Option(min=1, help="With discrete-laplace: scale of the summed noise.")
    ] = None,
    sensitivity: Annotated[
        float | None,
        typer.Option(
            help="With --mechanism: L2 norm by which one input moves the sum, in levels, under "
            "the adjacency meant; for discrete-laplace the L1 norm."
        ),
    ] = None,
    l1: Annotated[
        float | None,
        typer.Option("--l1", help="With skellam: the L1 norm (default: what L2 and --length give)"),
    ] = None,
    shares: Annotated[
        int | None, typer.Option(min=1, help="With --mechanism: honest sites whose noise counts.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="With --mechanism: coordinates that carry noise.")
    ] = None,
    sampling_rate: Annotated[
        float | None,
        typer.Option(help="With --mechanism: each site is in a round with this chance."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="JOURNAL", help="Show what a site spent, from its journal; plans: inputs left."
        ),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="With --ledger: the site's name in the roster.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="With --ledger: the name of the data (default: none).")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="With --ledger: the budget, which the site configures.")
    ] = None,
    adversary: Annotated[
        Adversary | None, typer.Option(help="With --ledger: whom the budget is held against.")
    ] = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Tell what epsilon rounds spend: of plans, of noise as typed, or of a site's ledger.

    secagg dp account noisy.toml --rounds 10 --rounds 100 --plot epsilon.png

    secagg dp account first.toml second.toml --delta 1e-5

    secagg dp account --mechanism skellam --variance 400 --shares 50 --length 4096
    --sensitivity 100 --delta 1e-5 --rounds 10

    secagg dp account --ledger a.journal --site a --epsilon 4 --delta 1e-5
    """
    typed: dict[str, object] = {
        "--variance": variance,
        "--sigma": sigma,
        "--scale": scale,
        "--sensitivity": sensitivity,
        "--l1": l1,
        "--shares": shares,
        "--length": length,
        "--sampling-rate": sampling_rate,
    }
    kept: dict[str, object] = {
        "--site": site,
        "--data": data,
        "--epsilon": epsilon,
        "--adversary": adversary,
    }
    if delta is not None:
        number("--delta", delta, above=0, below=1)
    files = [(str(path), read_plan(path)) for path in plans or ()]
    if ledger is not None:
        without(
            typed | {"--mechanism": mechanism, "--rounds": rounds, "--plot": plot},
            "a ledger is shown as it is",
        )
        if site is None or epsilon is None or delta is None:
            raise usage("--ledger goes with --site, --epsilon and --delta: a budget is not stored")
        shown = dp_view.ledger_report(
            _ledger(ledger, site, data, epsilon, delta, adjacency, adversary), files
        )
        if as_json:
            write_json(shown)
        else:
            dp_view.show_ledger(shown)
        return
    without(kept, "goes with --ledger")
    if mechanism is not None:
        if files or adjacency is not None:
            raise usage("--mechanism stands for itself, without a plan or an adjacency")
        noise = _typed(mechanism, variance, sigma, scale, sensitivity, l1, shares, length)
        rate = 1.0 if sampling_rate is None else sampling_rate
        number("--sampling-rate", rate, above=0, below=math.nextafter(1, 2))
        charged = [Charged(name=mechanism, mechanism=noise, sampling_rate=rate)]
    else:
        without(typed, "goes with --mechanism")
        if not files:
            raise usage("give a plan file, --mechanism or --ledger")
        charged = [_of_plan(name, plan, adjacency) for name, plan in files]
    if plot is not None:
        from secagg.dp.plots import check_path

        check_path(plot)
    _account(charged, rounds or [], delta, plot, as_json=as_json)


def _account(
    charged: list[Charged],
    rounds: list[int],
    delta: float | None,
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    from secagg.dp.accounting import compose
    from secagg.dp.mechanisms import CentralDiscreteGaussian

    notes = []
    if len(charged) > 1:
        if len({one.adjacency for one in charged}) > 1:
            raise usage("these plans have several adjacencies; --adjacency takes one for all")
        if any(one.sampling_rate < 1 for one in charged):
            # An accountant of mixtures knows sites that are surely drawn.
            notes.append("Together: sampling is not counted, so this is more than is spent.")
        if rounds and len(rounds) != len(charged):
            raise usage(f"--rounds: one for each of {counted(len(charged), 'plan')}, or none")
    deltas = {one.delta for one in charged}
    at = delta if delta is not None else deltas.pop() if len(deltas) == 1 else None
    if at is None:
        raise usage("--delta is needed: there is no one delta that is claimed")
    if not rounds and any(one.rounds is None for one in charged):
        rounds = [one.rounds or 1 for one in charged]
    if len(charged) == 1:
        (only,) = charged
        pairs = [(only, n) for n in rounds or dp_view.round_numbers(only.rounds or 1)]
    else:
        pairs = list(zip(charged, rounds or [one.rounds or 1 for one in charged], strict=True))
    rows = [
        {
            "name": one.name,
            "rounds": n,
            "epsilon": one.epsilon(at, n),
            "claimed": one.claimed if (at, n) == (one.delta, one.rounds) else None,
        }
        for one, n in pairs
    ]
    together = None
    if len(charged) > 1:
        together = compose([(one.mechanism, n) for one, n in pairs], delta=at)
    if plot is not None:
        from secagg.dp.plots import draw

        most = [max(n for other, n in pairs if other is one) for one in charged]
        draw([dp_view.rounds_panel(charged, most, at)], plot)
    if any(isinstance(one.mechanism, CentralDiscreteGaussian) for one in charged):
        notes.append("Noise that the server adds hides nothing from the server.")
    report: dict[str, Any] = {
        "delta": at,
        "adjacency": charged[0].adjacency,
        "rows": rows,
        "together": together,
        "mechanisms": [
            {"name": one.name, "sampling_rate": one.sampling_rate}
            | dp_view.described(one.mechanism)
            for one in charged
        ],
        "notes": notes,
        "plot": plot and str(plot),
    }
    if as_json:
        write_json(report)
    else:
        dp_view.show_account(report)
    for row in filter(dp_view.overspent, rows):
        fail(
            f"{row['name']}: the plan claims epsilon {row['claimed']:g}, its noise gives "
            f"{row['epsilon']:.6g}",
            ExitCode.MISMATCH,
        )


def _of_plan(name: str, plan: Plan, adjacency: Adjacency | None) -> Charged:
    """What one masked input under a plan gives away at worst, with what the plan claims."""
    from secagg.dp.claims import Claims
    from secagg.dp.plan_noise import mechanism_of

    if plan.pipeline.noise is None:
        raise usage(f"{name}: the plan has no noise; secagg dp calibrate puts some in")
    claims: dict[str, object] = dict(plan.privacy or ())
    if "epsilon" in claims:
        Claims.of(plan)  # refuses claims that no noise can keep
    mechanism = mechanism_of(plan, adjacency=adjacency)
    told = adjacency or claims["adjacency"]

    def real(key: str) -> float | None:
        value = claims.get(key)
        return value if isinstance(value, float) else None

    delta, rounds, rate = real("delta"), claims.get("rounds"), real("sampling_rate")
    # Amplification holds for whom the plan names, and is proven for zero-out.
    sampled = claims.get("adversary") == "model-consumer" and told == "zero-out"
    return Charged(
        name=name,
        mechanism=mechanism,
        adjacency=str(told),
        delta=delta,
        rounds=rounds if isinstance(rounds, int) else None,
        sampling_rate=rate if sampled and rate is not None else 1.0,
        claimed=real("epsilon") if told == claims.get("adjacency") else None,
    )


def _typed(
    law: Law,
    variance: int | None,
    sigma: float | None,
    scale: int | None,
    sensitivity: float | None,
    l1: float | None,
    shares: int | None,
    length: int | None,
) -> Mechanism:
    """The mechanism that was typed; every number in levels."""
    from secagg.dp import mechanisms
    from secagg.dp.rounding import l1_of

    if sensitivity is None:
        raise usage("--mechanism goes with --sensitivity")
    number("--sensitivity", sensitivity, above=0)
    dimension = length or 1
    if law != "skellam":
        without({"--l1": l1}, "goes with skellam")
    if law == "discrete-laplace":
        without({"--variance": variance, "--sigma": sigma, "--shares": shares}, f"not with {law}")
        if scale is None:
            raise usage("discrete-laplace goes with --scale")
        return mechanisms.DiscreteLaplaceSum(
            scale_levels=scale, l1_levels=sensitivity, dimension=dimension
        )
    without({"--scale": scale}, "goes with discrete-laplace")
    if (variance is None) == (sigma is None):
        raise usage("give one of --variance and --sigma")
    local = variance if variance is not None else _square(sigma or 0.0)
    if law == "central-discrete-gaussian":
        without({"--shares": shares}, "the server adds this noise once")
        return mechanisms.CentralDiscreteGaussian(
            variance_levels2=local, l2_levels=sensitivity, dimension=dimension
        )
    if law == "skellam":
        most = l1_of(sensitivity, dimension=dimension)
        return mechanisms.SkellamSum(
            local_variance_levels2=local,
            shares=shares or 1,
            l1_levels=most if l1 is None else number("--l1", l1, above=0),
            l2_levels=sensitivity,
            dimension=dimension,
        )
    return mechanisms.DiscreteGaussianSum(
        local_variance_levels2=local,
        shares=shares or 1,
        l2_levels=sensitivity,
        dimension=dimension,
    )


def _square(sigma: float) -> int:
    """The whole square of a standard deviation."""
    square = number("--sigma", sigma, above=0, below=2.0**32) ** 2
    if round(square) < 1 or not math.isclose(square, round(square), rel_tol=1e-12):
        raise usage(
            f"the variance {square:g} of --sigma {sigma:g} is not whole; a level is as small as "
            "you like, so multiply --sigma and --sensitivity by one number"
        )
    return round(square)


def _ledger(
    path: Path,
    site: str,
    data: str | None,
    epsilon: float,
    delta: float,
    adjacency: Adjacency | None,
    adversary: Adversary | None,
) -> Ledger:
    from secagg.dp.ledger import Ledger
    from secagg_protocols.journal import FileJournal

    if not path.is_file():
        # A journal that is opened is made; one that is only looked at is there.
        raise MisuseError(f"{path} is not a file", rule="options")
    return Ledger(
        FileJournal(path),
        site,
        data=data or "",
        epsilon=number("--epsilon", epsilon, above=0),
        delta=delta,
        adjacency=adjacency or "zero-out",
        adversary=adversary or "server",
    )


__all__ = ["account"]
