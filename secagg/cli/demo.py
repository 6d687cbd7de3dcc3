"""``demo``: what ``make demo`` runs. It tells what it does, and checks what it says."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from secagg.sim.settings import Settings
from secagg_protocols.stages import Integers

from .common import ExitCode, fail, mark, stdout, table, write_json
from .simulate import draw_figures

if TYPE_CHECKING:
    from secagg.sim.scenarios import Claim, Run

_STEPS = ("advertise", "share", "input", "consent", "reveal")
#: Sites lost per step, of the 18.
_LOST = 4
#: Index of the input step: who leaves after it is in the sum.
_INPUT = 2
#: In chapter 2 one site may collude, so that sites may leave in blocks of 3 honest + 1 = 4.
_COLLUDING = 1
#: Chance that a site leaves in a round of training; it then misses the next one or two as well.
_TRAINING_RATE = 0.06
#: What a message takes in a real deployment, where a site asks for its work now and then.
_EXCHANGE_SECONDS = 20


def demo(
    out: Annotated[Path, typer.Option(help="Folder for reports and figures.")] = Path(
        "demo-output"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the verdicts as JSON and nothing else.")
    ] = False,
    no_figures: Annotated[bool, typer.Option("--no-figures", help="Write no figures.")] = False,
) -> None:
    """Watch hospitals compute one survival analysis and train one model while sites drop out.

    Exits 0 only if every result equals its reference: counts exactly, curves to 1e-12, Cox
    coefficients to 1e-4, AUC to 0.002, and, with 4 of 18 sites dropped at each step in turn, the
    sum over the survivors exactly. Takes about half a minute.
    """
    started = time.monotonic()
    story = _Story(quiet=as_json)
    claims: list[tuple[str, Claim]] = []
    paths: list[Path] = []
    _introduce(story)
    for run, place in (
        _survival(story, out),
        *_dropouts(story, out),
        _training(story, out),
    ):
        name = place.relative_to(out).as_posix()
        claims += [(name, claim) for claim in run.claims]
        place.mkdir(parents=True, exist_ok=True)
        report = place / "report.json"
        report.write_text(json.dumps(run.report(), indent=2) + "\n", encoding="utf-8")
        if not no_figures and "dropped" not in name:
            paths += draw_figures(run, place)
    seconds = time.monotonic() - started
    holds = all(claim.holds for _, claim in claims)
    if as_json:
        write_json(
            {
                "holds": holds,
                "seconds": seconds,
                "claims": [{"run": name, **claim.to_dict()} for name, claim in claims],
                "figures": [str(path) for path in paths],
            }
        )
    else:
        _summary(story.console, claims, paths, out, seconds)
    if not holds:
        broken = "; ".join(f"{name}: {claim.text}" for name, claim in claims if not claim.holds)
        fail(f"a comparison failed: {broken}", ExitCode.MISMATCH)


class _Story:
    """Prints the narrative, or nothing where the caller wants JSON."""

    def __init__(self, *, quiet: bool) -> None:
        self.console = stdout()
        self.quiet = quiet

    def chapter(self, title: str) -> None:
        if not self.quiet:
            self.console.print()
            self.console.print(Rule(Text(title, style="bold"), align="left"))

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(Text(text))

    def show(self, *things: Any) -> None:
        if not self.quiet:
            for thing in things:
                self.console.print(thing)


def _introduce(story: _Story) -> None:
    text = (
        "Several hospitals want one result from all their patients, and none may show its "
        "patients to anybody. Each hides its numbers under random masks before they leave the "
        "house. The masks of all hospitals cancel in the sum, and only there: the server adds up "
        "what looks like noise and gets the true total.\n\n"
        "Everything below is the real protocol: fresh keys, every message encoded, signed and "
        "decoded, on real patients' data. Afterwards each result is compared with the same "
        "analysis on the pooled data."
    )
    story.show(Panel(text, title="secagg: only the sum is ever seen", title_align="left"))


def _watched(runner: Any, settings: Settings) -> Run:
    from .show import Watch

    with Watch() as watch:
        run: Run = runner(settings, watch)
    return run


def _survival(story: _Story, out: Path) -> tuple[Run, Path]:
    from secagg.sim.scenarios import run_survival
    from secagg.sim.survival import MAX_PATIENTS

    from .show import result_table, rounds_table, sight_table, step_table

    story.chapter("1  Survival of lung-cancer patients in 18 hospitals")
    story.say(
        "NCCTG lung cancer, 227 patients, one site per institution. Round 'counts' sums deaths "
        "and censorings per day; rounds 'cox-1', 'cox-2', ... fit a Cox regression, each site "
        "sending only its gradient and Hessian."
    )
    run = _watched(run_survival, Settings())
    plan = run.secure.plan_for((Integers(0, MAX_PATIENTS),), run.secure.records[0].length)
    story.say(
        f"The plan: nobody trusts the server; {plan.colluding} hospitals may conspire with it and "
        f"{plan.max_dropouts} may go missing. {plan.protocol.share_threshold} hospitals together "
        "can open the masks of one that left, fewer cannot.\n"
    )
    story.show(step_table(run.secure.records[0]), "", rounds_table(run.secure.records))
    story.say("\nWhat the server received of one hospital, and what it would have liked to see:")
    story.show(sight_table(run.secure.sight))
    story.say("\nWhat came out, beside the same analysis on the pooled patients:")
    story.show(result_table(run))
    story.say("A survival curve shows event times; what a result reveals, no protocol can hide.")
    return run, out / "survival"


def _dropouts(story: _Story, out: Path) -> list[tuple[Run, Path]]:
    from secagg.sim.scenarios import run_survival
    from secagg.sim.survival import load_sites

    story.chapter(f"2  The same analysis while {_LOST} of the 18 hospitals drop out")
    story.say(
        "Once per step of the protocol, four hospitals fall silent in the first round and stay "
        "away. Who leaves before step 3 is finished is not in the sum; the others rebuild the "
        "masks that it left behind. Who leaves later is counted, and misses the Cox rounds. Two "
        "sums of the same patients differ by those who left in between, so hospitals confirm the "
        "second one only if enough left at once to hide each other: 3 honest ones and as many as "
        f"may collude, here {_COLLUDING}."
    )
    names = list(load_sites())
    shown = table(
        "Four hospitals leave before sending ...",
        "step",
        "who left",
        "in counts",
        "in Cox",
        "sums",
        "curve off by",
        "Cox off by",
        numbers=(2, 3, 5, 6),
    )
    runs = []
    for number, step in enumerate(_STEPS):
        # Another four each time, large and small hospitals among them.
        lost = [names[(number + 4 * i) % len(names)] for i in range(_LOST)]
        settings = Settings(drops=(f"{step}:{','.join(lost)}",), colluding=_COLLUDING)
        run = _watched(run_survival, settings)
        run = replace(run, claims=(_survivors_claim(run, names, lost, step), *run.claims))
        runs.append((run, out / f"survival-{_LOST}-dropped-at-{step}"))
        found = run.reference["comparison"]
        shown.add_row(
            f"{number + 1} {step}",
            _short(lost),
            f"{len(run.secure.records[0].survivors)}",
            f"{len(run.secure.records[-1].survivors)}",
            mark(all(record.holds for record in run.secure.records)),
            f"{found['curve']:.1g}",
            f"{found['coefficient']:.1g}",
        )
    story.show(shown)
    story.say(
        "The reference is the pooled analysis of the hospitals that stayed. Counts are equal to "
        "the last patient; Cox coefficients differ by rounding (2^-24) and lifelines' tolerance."
    )
    return runs


def _short(names: list[str]) -> str:
    """Names with their common prefix written once."""
    prefix = names[0].rpartition("-")[0] + "-"
    return names[0] + "".join(f" {name.removeprefix(prefix)}" for name in names[1:])


def _survivors_claim(run: Run, names: list[str], lost: list[str], step: str) -> Claim:
    """Whether the first sum is exact and over exactly those who sent their input."""
    from secagg.sim.scenarios import Claim

    first = run.secure.records[0]
    counted = names if _STEPS.index(step) > _INPUT else [n for n in names if n not in lost]
    holds = first.error == 0 and list(first.survivors) == counted
    text = f"with {_LOST} of {len(names)} sites dropped at each step, the sum is exact"
    return Claim(text, holds, f"{len(first.survivors)} survivors where they left before {step}")


def _training(story: _Story, out: Path) -> tuple[Run, Path]:
    from secagg.sim.scenarios import run_training

    from .show import presence_table, result_table, rounds_table, sight_table

    story.chapter("3  Ten hospitals train one model, and lose sites as they go")
    story.say(
        "Wisconsin breast cancer, logistic regression by federated averaging, ten rounds in one "
        f"session. In each round a site leaves with probability {_TRAINING_RATE:.0%}, at any step, "
        "and may come back. The keys of a round travel with the messages of the one before, so a "
        "site that missed them sits one round out before it is in the sum again."
    )
    settings = Settings(drop_rate=_TRAINING_RATE, colluding=1, max_dropouts=4)
    run = _watched(run_training, settings)
    secure = run.secure
    story.show(rounds_table(secure.records), "", presence_table(secure.records), "")
    story.say(_saved(secure.exchanges, secure.exchanges_alone, len(secure.closing)))
    story.show("", result_table(run), sight_table(secure.sight))
    return run, out / "training"


def _saved(taken: int, alone: int, closing: int) -> str:
    """What a session saves, in exchanges and in minutes."""

    def minutes(exchanges: int) -> str:
        return f"{exchanges * _EXCHANGE_SECONDS / 60:.0f}"

    return (
        f"These rounds took {taken} exchanges (one message to every site, one back) and {closing} "
        f"to end; each on its own would take 5, in all {alone}. At {_EXCHANGE_SECONDS} seconds an "
        f"exchange, that is {minutes(taken + closing)} minutes instead of {minutes(alone)}."
    )


def _summary(
    console: Console,
    claims: list[tuple[str, Claim]],
    paths: list[Path],
    out: Path,
    seconds: float,
) -> None:
    console.print()
    console.print(Rule(Text("What was shown", style="bold"), align="left"))
    shown = table("", "", "claim", "in", "evidence (first run)")
    by_text: dict[str, list[tuple[str, Claim]]] = {}
    for name, claim in claims:
        by_text.setdefault(claim.text, []).append((name, claim))
    for text, entries in by_text.items():
        good = [claim for _, claim in entries if claim.holds]
        first = next((claim for _, claim in entries if not claim.holds), entries[0][1])
        count = "1 run" if len(entries) == 1 else f"{len(entries)} runs"
        where = count if len(good) == len(entries) else f"{len(good)} of {count}"
        shown.add_row(mark(len(good) == len(entries)), text, where, first.detail)
    console.print(shown)
    for path in paths:
        console.print(Text(f"figure  {path}"), soft_wrap=True)
    console.print(Text(f"reports {out}/*/report.json"), soft_wrap=True)
    verdict = (
        Text("Every result equals its reference.", style="bold green")
        if all(claim.holds for _, claim in claims)
        else Text("A comparison FAILED.", style="bold red")
    )
    console.print(verdict, f"{seconds:.0f} seconds.")


__all__ = ["demo"]
