"""``dp``: noise that meets a promise, what it spends, and whether a build keeps it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from secagg_protocols.errors import MisuseError
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.stages import ClipL2, Integers, Quantise, Stage

from . import dp_account, dp_view
from .common import EPILOG, ExitCode, fail, write_json
from .dp_view import Adjacency, Adversary, AsJson, Law, Plot, number, usage, without
from .plan import placeholder_roster, read_plan

app = typer.Typer(
    no_args_is_help=True,
    epilog=EPILOG,
    help="Differential privacy: noise for a plan from (epsilon, delta), what rounds spend, and a "
    "test of whether the build that runs here keeps what the plan promises.",
)

#: Tests of an audit, in their order.
TESTS: Final = (
    "claim", "sensitivity", "variance", "fit", "reuse", "repeat", "threshold", "one-run",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What :func:`secagg.dp.calibrate.calibrate` is asked for, whatever the plan."""

    epsilon: float
    delta: float
    rounds: int
    clip: float | None
    adjacency: Adjacency
    mechanism: Law
    bits: int | None
    sampling_rate: float
    adversary: Adversary
    wrap_bits: int

    def made(self, plan: Plan) -> Plan:
        """``plan`` with its noise."""
        from secagg.dp.calibration import calibrate

        return calibrate(
            plan,
            epsilon=self.epsilon,
            delta=self.delta,
            rounds=self.rounds,
            l2_clip=self.clip,
            adjacency=self.adjacency,
            mechanism=self.mechanism,
            bits="auto" if self.bits is None else self.bits,
            sampling_rate=self.sampling_rate,
            adversary=self.adversary,
            wrap_bits=self.wrap_bits,
        )


@app.command("calibrate", epilog=EPILOG)
def calibrate(
    epsilon: Annotated[float, typer.Option(help="Over all rounds together, never exceeded.")],
    delta: Annotated[float, typer.Option(help="Over all rounds together, as 1e-5.")],
    rounds: Annotated[
        int, typer.Option(min=1, help="Masked inputs that a site sends, retries included.")
    ],
    adjacency: Annotated[
        Adjacency,
        typer.Option(
            help="What is hidden: a site's input against zeros, or against any other input (which "
            "takes twice the noise)."
        ),
    ],
    plan: Annotated[
        Path | None,
        typer.Argument(metavar="[PLAN.toml]", help="The plan; without it, --clients and --length."),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(help="L2 norm to clip to, in the vector's units; none for integers."),
    ] = None,
    mechanism: Annotated[
        Law,
        typer.Option(
            help="Law of the noise. All but central-discrete-gaussian are added by the sites, so "
            "that the server sees noisy sums only."
        ),
    ] = "discrete-gaussian",
    bits: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Bits a coordinate (default: so many that rounding is lost)."
        ),
    ] = None,
    sampling_rate: Annotated[
        float,
        typer.Option(help="Each site is in a round with this chance; needs model-consumer."),
    ] = 1.0,
    adversary: Annotated[
        Adversary,
        typer.Option(
            help="server: whoever sees the sums and who takes part. model-consumer: only those "
            "who see what is published."
        ),
    ] = "server",
    wrap_bits: Annotated[
        int, typer.Option(min=10, max=128, help="A sum wraps with probability 2^-bits at most.")
    ] = 20,
    clients: Annotated[
        int | None, typer.Option("--clients", "-n", min=2, help="Without a plan: number of sites.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Without a plan: coordinates of a site's vector.")
    ] = None,
    max_dropouts: Annotated[
        int | None, typer.Option(min=0, help="Without a plan: sites that may be missing.")
    ] = None,
    colluding: Annotated[
        int | None, typer.Option(min=0, help="Without a plan: sites that may collude.")
    ] = None,
    integers: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="LOW HIGH", help="Without a plan: counts from LOW to HIGH."),
    ] = None,
    max_weight: Annotated[
        int | None, typer.Option(min=1, help="Without a plan: largest integer weight of a site.")
    ] = None,
    threat: Annotated[
        Literal["semi-honest", "malicious-server"] | None,
        typer.Option(help="Without a plan (default: malicious-server; central noise: semi-honest)"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the plan with its noise; must not exist.")
    ] = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Put noise into a plan, so that all rounds together keep to (epsilon, delta).

    Only honest sites that are sure to be in a sum are counted on. Examples:

      secagg dp calibrate plan.toml --epsilon 2 --delta 1e-5 --rounds 100 --clip 1
      --adjacency zero-out --out noisy.toml

      secagg dp calibrate -n 100 --length 65536 --max-dropouts 10 --colluding 5 --epsilon 2
      --delta 1e-5 --rounds 1 --clip 1 --adjacency replace-one --plot noise.svg
    """
    asked = _Asked(
        epsilon=number("--epsilon", epsilon, above=0, below=48),
        delta=number("--delta", delta, above=0, below=1),
        rounds=rounds,
        clip=None if clip is None else number("--clip", clip, above=0),
        adjacency=adjacency,
        mechanism=mechanism,
        bits=bits,
        sampling_rate=number("--sampling-rate", sampling_rate, above=0, below=math.nextafter(1, 2)),
        adversary=adversary,
        wrap_bits=wrap_bits,
    )
    alone: dict[str, object] = {
        "--clients": clients,
        "--length": length,
        "--max-dropouts": max_dropouts,
        "--colluding": colluding,
        "--integers": integers,
        "--max-weight": max_weight,
        "--threat": threat,
    }
    if plan is not None:
        without(alone, "a plan says this itself; leave PLAN.toml out for a what-if")
        given = read_plan(plan)
    else:
        if clients is None or length is None:
            raise usage("give a plan file, or --clients and --length")
        central = mechanism == "central-discrete-gaussian"
        given = Plan.recommend(
            placeholder_roster(clients),
            length=length,
            stages=_what_is_summed(clip, integers),
            threat=threat or ("semi-honest" if central else "malicious-server"),
            colluding=1 if colluding is None else colluding,
            max_dropouts=max_dropouts or 0,
            max_weight=max_weight or 1,
            min_honest=2,
            # Sites are told who takes part, so with sampling the sum stays with the server.
            sites_receive=sampling_rate == 1,
        )
    if out is not None and out.exists():
        raise MisuseError(f"{out} exists; it is not overwritten", rule="output-file")
    if plot is not None:
        from secagg.dp.plots import check_path

        check_path(plot)
    made = asked.made(given)
    placeholder = made.roster.server == placeholder_roster(0).server
    if out is not None:
        note = f"# {dp_view.PLACEHOLDER}\n" if placeholder else ""
        with out.open("x", encoding="utf-8") as file:
            file.write(note + dump_plan(made))
    if plot is not None:
        from secagg.dp.plots import draw

        panels = dp_view.noise_panels(
            given, made, lambda other, wanted: replace(asked, epsilon=wanted).made(other)
        )
        draw(panels, plot)
    if as_json:
        written = {"out": out and str(out), "plot": plot and str(plot)}
        write_json(dp_view.calibration(given, made, placeholder=placeholder) | written)
        return
    dp_view.show_calibration(given, made, placeholder=placeholder)
    if out is not None:
        typer.echo(f"Plan written to {out}; digest {made.digest.hex()}")
    if plot is not None:
        typer.echo(f"Plot written to {plot}")


def _what_is_summed(clip: float | None, integers: tuple[int, int] | None) -> tuple[Stage, ...]:
    if (clip is None) == (integers is None):
        raise usage("give one of --clip (real vectors) and --integers (counts)")
    if integers is not None:
        return (Integers(*integers),)
    # Calibration chooses the levels; these are those of a plan without noise.
    return (ClipL2(1.0 if clip is None else clip), Quantise(65536))


app.command("account", epilog=EPILOG)(dp_account.account)


@app.command("audit", epilog=EPILOG)
def audit(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="A plan with noise.")],
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="TEST,TEST",
            help=f"Show and judge these tests only, of {', '.join(TESTS)}; all are run.",
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(help="A correct build is accused with at most this probability."),
    ] = 1e-6,
    canaries: Annotated[
        int,
        typer.Option(
            min=64, help="Canaries of the threshold and one-run tests; fewer for long vectors."
        ),
    ] = 8192,
    as_json: AsJson = False,
) -> None:
    """Test whether the build that runs here keeps what a plan promises.

    Runs the plan's own stages and protocol with keys of its own, at the worst case that the plan
    allows: on empty inputs, whose sum is noise alone, and on canaries, each in or out by a coin.
    Exit code 4 where a test finds a violation. A test that finds none proves nothing; what it
    could have seen is stated.
    """
    number("--alpha", alpha, above=1e-9, below=0.5)
    kinds = TESTS if kind is None else tuple(kind.split(","))
    if not set(kinds) <= set(TESTS):
        raise usage(f"--kind {kind}: tests are {', '.join(TESTS)}")
    given = read_plan(plan)
    if given.pipeline.noise is None:
        raise usage(f"{plan}: the plan has no noise to audit; secagg dp calibrate puts some in")
    from secagg.dp.audit import Report
    from secagg.dp.audit.run import audit as run

    with dp_view.waiting("auditing"):
        report = run(given, false_alarm=alpha, canaries=canaries)
    findings = tuple(finding for finding in report.findings if finding.test in kinds)
    report = Report(subject=report.subject, findings=findings)
    if as_json:
        write_json(dp_view.audited(given, report))
    else:
        dp_view.show_audit(report)
    if report.violations:
        names = ", ".join(finding.test for finding in report.violations)
        fail(f"{plan}: violated, by {names}", ExitCode.MISMATCH)


__all__ = ["TESTS", "app"]
