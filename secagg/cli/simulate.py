"""``simulate``: the real protocol in one process, on data that anybody can check."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import typer

from secagg.sim.settings import PaillierSettings, Privacy, Settings
from secagg_protocols.errors import MisuseError, ReleaseError, SecAggError
from secagg_protocols.plan import PaillierSum

from .attack_study import attack_study, check_attacks
from .common import EPILOG, ExitCode, describe, exit_code, fail, stdout, write_json
from .holder_options import (
    ColludingHolders,
    Holders,
    HolderThreshold,
    KeyBits,
    KeyFile,
    Protocol,
    Threads,
    paillier_settings,
)

if TYPE_CHECKING:
    from secagg.sim.scenarios import Run

app = typer.Typer(
    no_args_is_help=True,
    epilog=EPILOG,
    help="Run the real protocol in one process: every byte is encoded and decoded, sites drop "
    "out, and the result is compared with a reference that never saw the protocol.",
)

SimThreat = Literal["semi-honest", "malicious-server"]
Threat = Annotated[
    SimThreat,
    typer.Option(help="malicious-server: all is signed. semi-honest: the server is trusted."),
]
Neighbours = Annotated[
    int | None,
    typer.Option(min=2, help="Degree of a sparse graph (semi-honest only) (default: chosen)."),
]
Colluding = Annotated[
    int | None,
    typer.Option(
        min=0, help="Sites that may collude with the server (default: a fifth, survival: a third)."
    ),
]
MaxDropouts = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Sites that may be missing; with more, the round aborts (default: up to 3 in 10, "
        "survival: 4).",
    ),
]
DropRate = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Chance that a site leaves, at a step drawn at random (survival: in the whole run; "
        "others: in each round, and then it misses the next one or two as well).",
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[ROUND/]STEP:SITE,SITE",
        help="Sites that fall silent with a step (advertise, share, input, consent, reveal, or "
        "1 to 5) of the first round or the one named, until that round is over; repeatable. In a "
        "Paillier sum sites leave with the input, and holders with the reveal. Warm "
        "rounds: adverts and shares of a round travel with the inputs and reveals of the one "
        "before, so a site that leaves there is missing from there on, and who missed them sits "
        "the next round out.",
    ),
]
ScheduleFile = Annotated[
    Path | None,
    typer.Option(help="TOML: a table per round (label or number), step = list of sites."),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        help="Of demonstration data and drawn drops, and of nothing else: keys and masks always "
        "come from the operating system, so equal seeds give equal data and different masks.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for report.json and figures (default: demo-output/SCENARIO)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")]
TranscriptFolder = Annotated[
    Path | None,
    typer.Option(
        "--transcripts",
        metavar="DIR",
        help="New folder in which every party records what it sends and receives; "
        "`secagg verify DIR/*` checks it.",
    ),
]
Attack = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        metavar="ID",
        help="Then run this attack (see `secagg attack list`) on the protocol of the study, "
        "against what its sites put in; repeatable.",
    ),
]
Report = Annotated[
    bool, typer.Option("--report", help="Write report.html too: a page for people who decide.")
]
NoFigures = Annotated[bool, typer.Option("--no-figures", help="Write no figures.")]
AllRounds = Annotated[
    bool, typer.Option("--all-rounds", help="Show every round step by step, not only a few.")
]

#: What it means that sites refuse a sum of fixed data, or that the server knows that they would,
#: and what can be done about it.
_REFUSED: Final = (
    "analysis ended: {}; hint: two sums of the same data differ by those who left "
    "between them, so sites may leave before the first sum, or at least that many at once; fewer "
    "colluding sites make it fewer"
)


@app.command("survival", epilog=EPILOG)
def survival(
    protocol: Protocol = "masked",
    threat: Threat = "malicious-server",
    neighbours: Neighbours = None,
    colluding: Colluding = None,
    max_dropouts: MaxDropouts = None,
    holders: Holders = None,
    threshold: HolderThreshold = None,
    colluding_holders: ColludingHolders = None,
    key: KeyFile = None,
    key_bits: KeyBits = None,
    threads: Threads = None,
    drop_rate: DropRate = 0.0,
    drop: Drop = None,
    schedule: ScheduleFile = None,
    seed: Seed = 0,
    out: Out = None,
    transcripts: TranscriptFolder = None,
    attack: Attack = None,
    report: Report = False,
    as_json: AsJson = False,
    no_figures: NoFigures = False,
    all_rounds: AllRounds = False,
) -> None:
    """Kaplan-Meier, log-rank and Cox regression over 18 hospitals, equal to the pooled analysis.

    Data: NCCTG lung cancer, one site per institution (inst-01, inst-02, ...).
    Rounds: counts, cox-1, cox-2, ...

    The data are fixed: a site that leaves stays out, and at most 4 may.
    After the first sum the others go on only if enough left at once to hide
    each other, 3 and the colluding ones: with --colluding 1 four may leave.
    """
    from secagg.sim.scenarios import run_survival

    paillier = paillier_settings(
        protocol,
        holders=holders,
        threshold=threshold,
        colluding_holders=colluding_holders,
        key=key,
        key_bits=key_bits,
        threads=threads,
    )
    settings = _settings(
        threat, neighbours, colluding, max_dropouts, drop_rate, drop, schedule, seed, paillier
    )
    output = _Output(transcripts, attack, report, out, as_json, no_figures, all_rounds)
    _run("survival", settings, run_survival, {}, output)


@app.command("training", epilog=EPILOG)
def training(
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Rounds of training (default: 10, with noise 5)."),
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(min=3, max=50, help="Sites that share the data (default: 10, with noise 20)."),
    ] = None,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(
            help="Train with noise: epsilon of each site over all rounds; repeatable, for a "
            "training each, beside the same without noise."
        ),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta that goes with --epsilon (default: 1e-5).")
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(help="With --epsilon: L2 bound of a site's update (default: 1)."),
    ] = None,
    adjacency: Annotated[
        Literal["zero-out", "replace-one"] | None,
        typer.Option(
            help="With --epsilon: what a site's update is hidden among: zeros, or any other "
            "update (twice the noise) (default: zero-out)."
        ),
    ] = None,
    mechanism: Annotated[
        Literal["discrete-gaussian", "skellam", "discrete-laplace", "central-discrete-gaussian"]
        | None,
        typer.Option(
            help="With --epsilon: the noise. The server adds the central one, which hides nothing "
            "from it, and takes --threat semi-honest (default: discrete-gaussian)."
        ),
    ] = None,
    protocol: Protocol = "masked",
    threat: Threat = "malicious-server",
    neighbours: Neighbours = None,
    colluding: Colluding = None,
    max_dropouts: MaxDropouts = None,
    holders: Holders = None,
    threshold: HolderThreshold = None,
    colluding_holders: ColludingHolders = None,
    key: KeyFile = None,
    key_bits: KeyBits = None,
    threads: Threads = None,
    drop_rate: DropRate = 0.0,
    drop: Drop = None,
    schedule: ScheduleFile = None,
    seed: Seed = 0,
    out: Out = None,
    transcripts: TranscriptFolder = None,
    attack: Attack = None,
    report: Report = False,
    as_json: AsJson = False,
    no_figures: NoFigures = False,
    all_rounds: AllRounds = False,
) -> None:
    """Federated logistic regression, equal to plain federated averaging.

    Data: Wisconsin breast cancer, dealt over sites site-00, site-01, ...
    Rounds: moments (to standardise), training-1, training-2, ...

    A site that drops out returns: it hears the server in the next round,
    prepares the one after, and is in that sum again.

    With --epsilon every site adds noise and keeps a ledger, and the model is
    shown beside the same training without noise. There is no round moments.
    """
    paillier = paillier_settings(
        protocol,
        holders=holders,
        threshold=threshold,
        colluding_holders=colluding_holders,
        key=key,
        key_bits=key_bits,
        threads=threads,
    )
    settings = _settings(
        threat, neighbours, colluding, max_dropouts, drop_rate, drop, schedule, seed, paillier
    )
    asked: dict[str, Any] = {
        "delta": delta,
        "clip": clip,
        "adjacency": adjacency,
        "mechanism": mechanism,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    extra: dict[str, Any] = {"sites": sites, "rounds": rounds}
    extra = {name: value for name, value in extra.items() if value is not None}
    runner: Callable[..., Any]
    if paillier is not None and epsilon:
        raise MisuseError("--epsilon goes with --protocol masked", rule="options")
    if epsilon:
        from secagg.sim.private_run import run_private_training as runner

        extra["privacy"] = Privacy(epsilons=tuple(epsilon), **given)
    elif given:
        raise MisuseError(f"--{next(iter(given))} goes with --epsilon", rule="arguments")
    else:
        from secagg.sim.scenarios import run_training as runner
    output = _Output(transcripts, attack, report, out, as_json, no_figures, all_rounds)
    _run("training", settings, runner, extra, output)


@app.command("random", epilog=EPILOG)
def random(
    sites: Annotated[int, typer.Option(min=2, max=5000, help="Number of sites.")] = 10,
    length: Annotated[int, typer.Option(min=1, help="Coordinates of a vector.")] = 1000,
    bits: Annotated[int, typer.Option(min=1, max=48, help="Bits of a coordinate.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds.")] = 1,
    protocol: Protocol = "masked",
    threat: Threat = "malicious-server",
    neighbours: Neighbours = None,
    colluding: Colluding = None,
    max_dropouts: MaxDropouts = None,
    holders: Holders = None,
    threshold: HolderThreshold = None,
    colluding_holders: ColludingHolders = None,
    key: KeyFile = None,
    key_bits: KeyBits = None,
    threads: Threads = None,
    drop_rate: DropRate = 0.0,
    drop: Drop = None,
    schedule: ScheduleFile = None,
    seed: Seed = 0,
    out: Out = None,
    transcripts: TranscriptFolder = None,
    attack: Attack = None,
    report: Report = False,
    as_json: AsJson = False,
    no_figures: NoFigures = False,
    all_rounds: AllRounds = False,
) -> None:
    """Sum random integer vectors: any number of sites and coordinates.

    Sites are site-0, site-1, ... (padded to one width); rounds are round-1, round-2, ...
    """
    from secagg.sim.scenarios import run_random

    paillier = paillier_settings(
        protocol,
        holders=holders,
        threshold=threshold,
        colluding_holders=colluding_holders,
        key=key,
        key_bits=key_bits,
        threads=threads,
    )
    settings = _settings(
        threat, neighbours, colluding, max_dropouts, drop_rate, drop, schedule, seed, paillier
    )
    extra = {"sites": sites, "length": length, "bits": bits, "rounds": rounds}
    output = _Output(transcripts, attack, report, out, as_json, no_figures, all_rounds)
    _run("random", settings, run_random, extra, output)


@app.command("plan", epilog=EPILOG)
def plan(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A plan, as `secagg plan --toml` wrote it.")
    ],
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds.")] = 1,
    key: KeyFile = None,
    threads: Threads = None,
    drop_rate: DropRate = 0.0,
    drop: Drop = None,
    schedule: ScheduleFile = None,
    seed: Seed = 0,
    out: Out = None,
    transcripts: TranscriptFolder = None,
    attack: Attack = None,
    report: Report = False,
    as_json: AsJson = False,
    no_figures: NoFigures = False,
    all_rounds: AllRounds = False,
) -> None:
    """Try a plan of your own on random data within its bounds, before it is deployed.

    Sites have the names of the plan's roster and fresh keys; rounds are round-1, round-2, ...
    So have the holders of a Paillier plan: a new key like the plan's, or --key, is dealt to them.
    """
    from secagg.sim.planned import run_plan

    from .plan import read_plan

    made = read_plan(path)
    held = isinstance(made.protocol, PaillierSum)
    paillier = paillier_settings("paillier" if held else "masked", key=key, threads=threads)
    most, colluding = made.max_dropouts, made.colluding
    settings = _settings(
        made.threat, None, colluding, most, drop_rate, drop, schedule, seed, paillier
    )
    extra = {"plan": made, "rounds": rounds}
    output = _Output(transcripts, attack, report, out, as_json, no_figures, all_rounds)
    _run("plan", settings, run_plan, extra, output)


def _settings(
    threat: SimThreat,
    neighbours: int | None,
    colluding: int | None,
    max_dropouts: int | None,
    drop_rate: float,
    drop: list[str] | None,
    schedule: Path | None,
    seed: int,
    paillier: PaillierSettings | None,
) -> Settings:
    return Settings(
        threat=threat,
        neighbours=neighbours,
        colluding=colluding,
        max_dropouts=max_dropouts,
        drops=tuple(drop or ()),
        schedule=schedule.read_text(encoding="utf-8") if schedule is not None else "",
        drop_rate=drop_rate,
        seed=seed,
        paillier=paillier,
    )


class _Output(NamedTuple):
    """What a run is to leave behind, and what is to be tried on it."""

    transcripts: Path | None
    attacks: list[str] | None
    report: bool
    out: Path | None
    as_json: bool
    no_figures: bool
    all_rounds: bool


def _run(
    scenario: str,
    settings: Settings,
    runner: Callable[..., Any],
    extra: Mapping[str, Any],
    output: _Output,
) -> None:
    """Run a scenario, show it, write its report and figures, and leave with its exit code."""
    from secagg.sim.recording import Transcripts

    from .show import Watch, show_end, show_figures, show_run

    console, transcripts = stdout(), output.transcripts
    if settings.paillier is not None and transcripts is not None:
        raise MisuseError("transcripts are of masked sums so far", rule="options")
    attacks = tuple(dict.fromkeys(output.attacks or ()))
    check_attacks(attacks)
    with (
        nullcontext() if transcripts is None else Transcripts(transcripts) as recording,
        Watch() as watch,
    ):
        try:
            run = runner(settings, watch, transcripts=recording, **extra)
        except SecAggError as error:
            if exit_code(error) != ExitCode.ABORTED:
                raise
            if output.as_json:
                rounds = [record.to_dict() for record in watch.records]
                write_json({"scenario": scenario, "aborted": str(error), "rounds": rounds})
            elif watch.records:
                show_end(console, watch.records)
            refused = isinstance(error, ReleaseError)
            fail(_REFUSED.format(error) if refused else describe(error), ExitCode.ABORTED)
        except ValueError as error:
            # Sites that stay may be too few to determine a fit; that is no bug.
            fail(f"analysis aborted: {error}", ExitCode.ABORTED)
    report = run.report()
    folder = output.out if output.out is not None else Path("demo-output") / scenario
    folder.mkdir(parents=True, exist_ok=True)
    paths = [] if output.no_figures else draw_figures(run, folder)
    tried = attack_study(run, attacks, quiet=output.as_json)
    if tried.cells:
        report["attacks"] = tried.to_dict()
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    written = [*paths, folder / "report.json"]
    if output.report:
        written.append(tried.write(run, folder / "report.html", paths))
    if output.as_json:
        write_json(report)
    else:
        show_run(console, run, every=output.all_rounds)
        tried.show()
        console.print()
        show_figures(console, [*written, *([] if transcripts is None else [transcripts])])
    broken = [claim.text for claim in run.claims if not claim.holds]
    broken += [f"attack {cell.attack}: {'; '.join(cell.problems)}" for cell in tried.failures]
    if broken:
        fail(f"a comparison failed: {'; '.join(broken)}", ExitCode.MISMATCH)


def draw_figures(run: Run, folder: Path) -> list[Path]:
    """Write the figures of a run; without matplotlib, say on stderr that there are none."""
    try:
        return run.figures(folder)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        typer.echo("no figures: they need matplotlib (pip install 'secagg[demo]')", err=True)
        return []


__all__ = ["app", "draw_figures"]
