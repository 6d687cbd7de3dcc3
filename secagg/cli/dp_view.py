"""What the ``dp`` commands share: options, tables, JSON, and the points of plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from secagg_protocols.errors import MisuseError
from secagg_protocols.plan import Plan

from .common import counted, stderr, stdout, table
from .plan import placeholder_roster

if TYPE_CHECKING:
    from secagg.dp.audit import Report
    from secagg.dp.ledger import Ledger
    from secagg.dp.mechanisms import Mechanism
    from secagg.dp.plots import Line, Panel

Law = Literal["discrete-gaussian", "skellam", "discrete-laplace", "central-discrete-gaussian"]
Adjacency = Literal["zero-out", "replace-one"]
Adversary = Literal["server", "model-consumer"]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw into this .png or .svg file.")
]

PLACEHOLDER = "Placeholder keys: for looking, not for deployment."


def usage(text: str) -> MisuseError:
    """What the user typed cannot be meant."""
    return MisuseError(text, rule="options")


def number(name: str, value: float, *, above: float, below: float = math.inf) -> float:
    """``value``, which lies strictly between; a NaN lies nowhere."""
    if not above < value < below:
        upper = "" if below == math.inf else f" and below {below:g}"
        raise usage(f"{name} is a number above {above:g}{upper}, not {value:g}")
    return value


def without(names: dict[str, object], reason: str) -> None:
    """Refuse options that were given and mean nothing here."""
    given = [name for name, value in names.items() if value not in (None, [], ())]
    if given:
        raise usage(f"{', '.join(given)}: {reason}")


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr where that is a terminal; call what it yields after each part."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on stderr, where that is a terminal, that something takes a while."""
    console = stderr()
    with console.status(what) if console.is_terminal else nullcontext():
        yield


# calibrate.


def calibration(given: Plan, made: Plan, *, placeholder: bool) -> dict[str, Any]:
    """A plan before and after its noise, JSON-able."""
    from secagg.dp.report import noise_reasons, promise
    from secagg.dp.shares import provision

    told = promise(made)
    stages = [
        {"name": type(stage).__name__} | {f.name: getattr(stage, f.name) for f in fields(stage)}  # type: ignore[arg-type]
        for stage in made.stages
    ]
    levels = next((stage["levels"] for stage in stages if stage["name"] == "Quantise"), None)
    noise = stages[-1]
    excess = asdict(provision(made.clients, made.max_dropouts, made.colluding))
    return asdict(told) | {
        "digest": made.digest.hex(),
        "placeholder_keys": placeholder,
        "clients": made.clients,
        "max_dropouts": made.max_dropouts,
        "colluding": made.colluding,
        "length": made.length,
        "levels": levels,
        "local_variance_levels2": noise["variance_levels2"] or None,
        "scale_levels": noise["scale_levels"] or None,
        "noise_units_mean": told.noise_units / made.clients,
        "bits_before": given.wire_bits,
        "coordinates_before": given.ring_length,
        "coordinates": made.ring_length,
        "provision": None if told.mechanism == "central-discrete-gaussian" else excess,
        "stages": stages,
        "why": noise_reasons(made),
        "assumes": told.assumes,
    }


def show_calibration(given: Plan, made: Plan, *, placeholder: bool) -> None:
    """A plan before and after its noise, for people."""
    from secagg.dp.report import noise_reasons

    data = calibration(given, made, placeholder=placeholder)
    console = stdout()
    if placeholder:
        console.print(Text(PLACEHOLDER, style="yellow"))
    shown = table(f"Noise for {counted(made.clients, 'site')}", "what", "value")
    rows: list[tuple[str, str]] = [
        ("law", f"{data['mechanism']}, {data['adjacency']}, against {data['adversary']}"),
        (
            "epsilon, found by the accountant",
            f"{data['epsilon_found']:.6f} (at most {data['epsilon']:g})",
        ),
        ("delta", f"{data['delta']:g}"),
        ("rounds", f"{data['rounds']:,}"),
    ]
    if data["levels"] is not None:
        rows.append(("levels per clip", f"{data['levels']:,}"))
    if data["scale_levels"] is not None:
        rows.append(("scale of the summed noise", f"{data['scale_levels']:,} levels"))
    else:
        whose = "the server's noise" if data["provision"] is None else "one site's noise"
        rows.append((f"variance of {whose}", f"{data['local_variance_levels2']:,} levels^2"))
    rows += [
        (
            "sensitivity after rounding",
            f"L2 {data['l2_levels']:,.1f}, L1 {data['l1_levels']:,.0f} levels",
        ),
        ("noise of a full sum", f"{data['noise_levels']:,.1f} levels"),
        ("noise of a full sum, vector's units", f"{data['noise_units']:.4g}"),
        ("noise of its mean, vector's units", f"{data['noise_units_mean']:.4g}"),
        ("bits a coordinate", f"{data['bits']} (before: {data['bits_before']})"),
        (
            "coordinates that travel",
            f"{data['coordinates']:,} (before: {data['coordinates_before']:,})",
        ),
    ]
    for row in rows:
        shown.add_row(row[0], Text(row[1]))
    console.print(shown)
    if data["provision"] is not None:
        console.print(_provisions(data))
    console.print(Text("Why", style="bold"))
    for line in noise_reasons(made):
        console.print(Text(f"• {line}"))


def _provisions(data: dict[str, Any]) -> Any:
    title = (
        f"Noise where {counted(data['max_dropouts'], 'site')} may be missing and "
        f"{data['colluding']:,} may collude"
    )
    shown = table(title, "way", "variance of a full sum", "in the worst case", numbers=(1, 2))
    excess = data["provision"]
    # Factors over the variance that epsilon takes.
    shown.add_row(
        "every site adds as much as the worst case takes (this plan)",
        f"{excess['over_provisioned']:.3f}",
        "1.000",
    )
    shown.add_row("excess removed after the fact (XNoise)", f"{excess['removed']:.3f}", "1.000")
    shown.add_row(
        "split over all sites: no guarantee", "1.000", Text(f"{excess['left_if_split']:.3f}")
    )
    return shown


def noise_panels(given: Plan, made: Plan, make: Callable[[Plan, float], Plan]) -> list[Panel]:
    """Noise of a full sum over epsilon, and of its mean over the number of sites.

    ``make``: calibrates a plan for an epsilon; ``made`` is what it gave for ``given``.
    """
    from secagg.dp import plots
    from secagg.dp.report import promise

    told = promise(made)
    epsilons = [place for place in plots.around(told.epsilon) if place < 1e3]
    sizes = sorted({max(2, round(place)) for place in plots.around(given.clients, steps=1)})
    with progress("calibrating", len(epsilons) + len(sizes)) as step:

        def over_epsilon(epsilon: float) -> float:
            step()
            return promise(make(given, epsilon)).noise_units

        def over_clients(clients: float) -> float:
            step()
            other = resized(given, round(clients))
            return promise(make(other, told.epsilon)).noise_units / other.clients

        first = plots.line(told.mechanism, epsilons, over_epsilon)
        second = plots.line(told.mechanism, sizes, over_clients)
    stddev = "standard deviation, in the vector's units"
    lost = "no site missing or colluding"
    if given.max_dropouts or given.colluding:
        lost = f"missing and colluding in proportion to {given.max_dropouts} and {given.colluding}"
    return [
        plots.Panel(
            title=f"Noise of the sum of {counted(given.clients, 'site')}",
            x_label=f"epsilon (delta {told.delta:g}, {counted(told.rounds, 'round')}, "
            f"{told.adjacency})",
            y_label=stddev,
            lines=(first,),
            marked=(told.epsilon, told.noise_units),
        ),
        plots.Panel(
            title=f"Noise of the mean at epsilon {told.epsilon:g}",
            x_label=f"sites ({lost})",
            y_label=stddev,
            lines=(second,),
            marked=(given.clients, told.noise_units / given.clients),
        ),
    ]


def resized(plan: Plan, clients: int) -> Plan:
    """``plan`` for another number of sites, with dropouts and colluders in proportion.

    The graph is the complete one: noise does not depend on it. :class:`PlanError` where so few
    sites cannot keep what the plan promises.
    """
    if clients == plan.clients:
        return plan
    share = clients / plan.clients
    return Plan.recommend(
        placeholder_roster(clients),
        length=plan.length,
        stages=plan.stages,
        threat=plan.threat,
        colluding=math.ceil(plan.colluding * share),
        max_dropouts=math.floor(plan.max_dropouts * share),
        sites_receive=plan.sites_receive,
        min_honest=plan.min_honest,
        neighbours=clients - 1,
        max_weight=plan.max_weight,
    )


# account.


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """Noise to account for: of a plan, or as it was typed.

    name: for people. delta, rounds, claimed: of the plan's claims, ``None`` where it has none;
    claimed is their epsilon. adjacency: ``None`` where the sensitivity already says it all.
    """

    name: str
    mechanism: Mechanism
    adjacency: str | None = None
    delta: float | None = None
    rounds: int | None = None
    sampling_rate: float = 1.0
    claimed: float | None = None

    def epsilon(self, delta: float, rounds: int) -> float:
        """The accountant's, over so many rounds."""
        from secagg.dp.accounting import epsilon

        return epsilon(self.mechanism, delta=delta, rounds=rounds, sampling_rate=self.sampling_rate)


def round_numbers(most: int) -> list[int]:
    """1, 2, 5, 10, 20, ... up to ``most``, and ``most``."""
    below = (digit * 10**power for power in range(len(str(most))) for digit in (1, 2, 5))
    return [*(number for number in below if number < most), most]


def rounds_panel(charged: Sequence[Charged], most: Sequence[int], delta: float) -> Panel:
    """Epsilon over rounds, a curve each."""
    from secagg.dp import plots

    lines: list[Line] = []
    places = [plots.rounds_up_to(number) for number in most]
    with progress("accounting", sum(map(len, places))) as step:
        for one, rounds in zip(charged, places, strict=True):

            def spent(number: float, one: Charged = one) -> float:
                step()
                return one.epsilon(delta, round(number))

            lines.append(plots.line(one.name, rounds, spent))
    return plots.Panel(
        title="Epsilon that rounds spend together",
        x_label="masked inputs of a site",
        y_label=f"epsilon at delta {delta:g}",
        lines=tuple(lines),
    )


def described(mechanism: Mechanism) -> dict[str, Any]:
    """A mechanism's name and its numbers, JSON-able."""
    return {"mechanism": type(mechanism).__name__} | asdict(mechanism)


def _numbers(entry: dict[str, Any]) -> str:
    """The numbers of :func:`described` that decide; whole ones in full."""
    hidden = {"name", "mechanism", "rounds", "total_variation", "log_ratio"}
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:,.6g}"
        for name, value in entry.items()
        if name not in hidden
    )


def overspent(row: dict[str, Any]) -> bool:
    """Whether a row is one that its plan makes a claim about, which does not hold."""
    return row["claimed"] is not None and row["epsilon"] > row["claimed"]


def show_account(data: dict[str, Any]) -> None:
    """Epsilon over rounds, and of all plans together."""
    console = stdout()
    several = data["together"] is not None
    title = f"Epsilon at delta {data['delta']:g}"
    shown = table(title, "noise", "rounds", "epsilon", "claimed", numbers=(1, 2, 3))
    for row in data["rows"]:
        claimed = "" if row["claimed"] is None else f"{row['claimed']:g}"
        style = "bold red" if overspent(row) else ""
        epsilon = Text(f"{row['epsilon']:.6g}", style=style)
        shown.add_row(Text(row["name"]), f"{row['rounds']:,}", epsilon, claimed)
    if several:
        shown.add_section()
        rounds = sum(row["rounds"] for row in data["rows"])
        shown.add_row("together", f"{rounds:,}", Text(f"{data['together']:.6g}", style="bold"), "")
    console.print(shown)
    for one in data["mechanisms"]:
        console.print(Text(f"{one['name']}: {one['mechanism']}, {_numbers(one)}", style="dim"))
    for line in data["notes"]:
        console.print(Text(line))


def ledger_report(ledger: Ledger, plans: Sequence[tuple[str, Plan]]) -> dict[str, Any]:
    """A site's charges, what they have spent and what is left, JSON-able."""
    spent = ledger.spent()
    return {
        "site": ledger.site,
        "data": ledger.data,
        "adjacency": ledger.adjacency,
        "adversary": ledger.adversary,
        "delta": ledger.delta,
        "budget": ledger.epsilon,
        # A charge under noise that this adversary does not meet is beyond every number.
        "spent": None if math.isinf(spent) else spent,
        "remaining": ledger.remaining,
        "entries": [
            described(charge.mechanism) | {"rounds": charge.rounds} for charge in ledger.entries()
        ],
        "rounds_left": [{"plan": name, "rounds": ledger.rounds_left(plan)} for name, plan in plans],
    }


def show_ledger(data: dict[str, Any]) -> None:
    """A site's ledger, for people."""
    console = stdout()
    title = (
        f"Ledger of site {data['site']!r}, data {data['data']!r}: {data['adjacency']}, against "
        f"{data['adversary']}"
    )
    shown = table(title, "mechanism", "inputs sent", numbers=(1,))
    for entry in data["entries"]:
        shown.add_row(Text(f"{entry['mechanism']}: {_numbers(entry)}"), f"{entry['rounds']:,}")
    if data["entries"]:
        console.print(shown)
    else:
        console.print(Text(f"{title}: nothing is charged."))
    spent = "unbounded" if data["spent"] is None else f"{data['spent']:.6g}"
    console.print(
        f"epsilon {spent} of {data['budget']:g} spent at delta {data['delta']:g}, "
        f"{data['remaining']:.6g} left"
    )
    for row in data["rounds_left"]:
        console.print(Text(f"{row['plan']}: {counted(row['rounds'], 'more input')} can be sent"))


# audit.


def audited(plan: Plan, report: Report) -> dict[str, Any]:
    """What an audit found, JSON-able; numbers that are not finite are null."""
    return {
        "digest": plan.digest.hex(),
        "verdict": report.verdict,
        "false_alarm": report.false_alarm,
        "findings": [
            {"test": found.test, "verdict": found.verdict, "sentence": found.sentence()}
            | {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in asdict(found).items()  # type: ignore[call-overload]
            }
            for found in report.findings
        ],
    }


def show_audit(report: Report) -> None:
    """A row per test, then the verdict."""
    console = stdout()
    shown = table(f"Audit of {report.subject}", "test", "verdict", "found", lines=True)
    for found in report.findings:
        style = "bold red" if found.verdict == "violates" else "green"
        shown.add_row(found.test, Text(found.verdict, style=style), Text(found.sentence()))
    console.print(shown)
    console.print(Text(report.lines()[-1]))
