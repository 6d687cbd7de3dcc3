"""``policy``: what a site's policy demands, what that prevents, and whether a plan meets it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from secagg.policy import NOT_PREVENTED, Policy, PolicyLine, load_policy

from .common import EPILOG, mark, stdout, table, write_json
from .plan import read_plan

app = typer.Typer(
    no_args_is_help=True,
    epilog=EPILOG,
    help="A site's own file: floors, allowed models, privacy, censoring. `secagg party start "
    "--floors FILE` enforces it; these commands say what it means.",
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The site's policy or floors (TOML).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("check", epilog=EPILOG)
def check(
    file: File,
    plan: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="A plan (TOML) to hold against it.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A model to hold against the listed hashes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a policy file, and whether a plan and a model meet it.

    What is said of a plan or a model that falls short is what `party start` would say: one line
    for each setting, then the error, with exit code 2.
    """
    policy = load_policy(file)
    agreed = None if plan is None else read_plan(plan)
    broadcast = None if model is None else model.read_bytes()
    lines = policy.explain(agreed, broadcast)
    _show(policy, lines, as_json, checked=plan is not None or model is not None)
    if agreed is not None:
        policy.check(agreed, broadcast)
    elif broadcast is not None:
        policy.allow_model(broadcast)
    elif not as_json:
        stdout().print("Nothing was compared: give --plan or --model.")


@app.command("explain", epilog=EPILOG)
def explain(file: File, as_json: AsJson = False) -> None:
    """Say of every setting what it demands, which attacks it stops or limits, and of every
    setting that is missing what it leaves open. Each attack can be run: `secagg attack run ID`."""
    policy = load_policy(file)
    lines = policy.explain()
    if as_json:
        write_json(_report(lines))
        return
    out = stdout()
    given = table("What this policy demands", "setting", "demands", "stops", "limits", "how")
    given.columns[0].no_wrap = True
    for line in lines:
        if line.given:
            given.add_row(*_texts(line), Text(line.why))
    if given.row_count:
        out.print(given)
    else:
        out.print("This policy demands nothing.")
    left = table("What it leaves open", "setting not given", "open", "attacks")
    left.columns[0].no_wrap = True
    for line in lines:
        if not line.given:
            attacks = ", ".join((*line.prevents, *line.limits))
            left.add_row(Text(line.setting), Text(line.missing), Text(attacks))
    if left.row_count:
        out.print(left)
    out.print(_closing())


def _show(policy: Policy, lines: list[PolicyLine], as_json: bool, *, checked: bool) -> None:
    if as_json:
        write_json(_report(lines))
        return
    columns = ("setting", "demands", "stops", "limits", *(("", "found") if checked else ()))
    shown = table("Policy", *columns)
    # What people type into the file stays in one piece.
    shown.columns[0].no_wrap = True
    for line in lines:
        if line.given:
            status: list[Any] = []
            if checked:
                status = [
                    Text("not compared") if line.holds is None else mark(line.holds),
                    Text(line.found),
                ]
            shown.add_row(*_texts(line), *status)
    out = stdout()
    if shown.row_count:
        out.print(shown)
    absent = [line.setting for line in lines if not line.given]
    if absent:
        out.print(Text(f"Not set: {', '.join(absent)}. See `secagg policy explain`."))


def _texts(line: PolicyLine) -> tuple[Text, Text, Text, Text]:
    return (
        Text(line.setting),
        Text(line.demands),
        Text(", ".join(line.prevents) or "-"),
        Text(", ".join(line.limits) or "-"),
    )


def _closing() -> Text:
    return Text(
        f"No setting stops what other sites put into a sum: {', '.join(NOT_PREVENTED)}. There are "
        "no proofs about inputs."
    )


def _report(lines: list[PolicyLine]) -> dict[str, Any]:
    broken = [line.setting for line in lines if line.holds is False]
    return {
        "settings": [asdict(line) for line in lines],
        "broken": broken,
        "holds": not broken,
        "not_prevented": list(NOT_PREVENTED),
    }


__all__ = ["app", "check", "explain"]
