"""``verify``: transcripts and evidence are checked offline, by anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from secagg.session.audit import Verdict, audit
from secagg.session.audit_evidence import evidence_text
from secagg_protocols.errors import MisuseError

from .common import ExitCode, counted, human_names, mark, stdout, table, write_json
from .plan import read_plan


def verify(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Transcripts, or evidence that --evidence wrote."),
    ],
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN", help="The plan (TOML) that was agreed on; others are refused."
        ),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write plan and signed frames of every conviction here."),
    ] = None,
    replay: Annotated[
        bool, typer.Option(help="Live through the rounds of a server's transcript again.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Check signatures, consents and blame in what parties recorded; no key is needed.

    Several transcripts of one session are held against each other: what the
    server signed for one site must not contradict what it signed for another.
    Only a signature convicts, and only its signer: whoever recorded a file may
    have invented or left out anything in it.

    Transcripts are written by `secagg party start --transcript` and `secagg
    simulate ... --transcripts`. What they can and cannot prove: docs/cli.md and
    protocols/specs/transcript.md.
    """
    verdict = audit(files, plan=None if plan is None else read_plan(plan), replay=replay)
    if evidence is not None and verdict.convictions:
        _write_evidence(evidence, verdict)
    if as_json:
        write_json(verdict.to_dict())
    else:
        _show(verdict, pinned=plan is not None)
        if evidence is not None and verdict.convictions:
            stdout().print(f"Evidence: {evidence} (check it with `secagg verify {evidence}`)")
    if verdict.convictions:
        raise typer.Exit(ExitCode.CONVICTED)
    if not verdict.holds:
        raise typer.Exit(ExitCode.UNPROVEN)
    raise typer.Exit(int(ExitCode.OK))


def _write_evidence(path: Path, verdict: Verdict) -> None:
    if len({(plan.digest, session) for plan, session in verdict.cases}) > 1:
        raise MisuseError(
            "the convictions are of different plans or sessions; verify each alone", rule="options"
        )
    plan, session = verdict.cases[0]
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(evidence_text(plan, session, verdict.convictions))
    except FileExistsError:
        raise MisuseError(f"{path} exists; give a new file", rule="output-file") from None


def _show(verdict: Verdict, *, pinned: bool) -> None:
    out = stdout()
    out.print(_files(verdict))
    if verdict.rounds:
        out.print(_rounds(verdict))
    for account in verdict.accounts:
        for line in account.strangers:
            out.print(Text(f"Attributed to nobody: {account.path} {line}"))
        hidden = account.frames - account.authentic - len(account.strangers)
        if hidden > 0:
            out.print(Text(f"Attributed to nobody: {account.path}, {hidden:,} more"))
    if not pinned:
        for found in dict.fromkeys((a.plan, a.roster) for a in verdict.accounts):
            out.print(
                Text(
                    f"Plan {found[0][:16]}, roster {found[1]}: these keys are the file's own. "
                    "Compare the roster with yours, or give --plan."
                )
            )
    for note in verdict.notes:
        out.print(Text(note))
    for doubt in verdict.doubts:
        suspects = f"; suspects: {', '.join(doubt.suspects)}" if doubt.suspects else ""
        out.print(Text(f"Contradiction in {_round(doubt.round)}: {doubt.text}{suspects}"))
    if verdict.convictions:
        out.print(_convictions(verdict))
    out.print(_sentence(verdict))


def _files(verdict: Verdict) -> Any:
    shown = table(
        "Transcripts", "file", "recorded by", "session", "frames", "authentic", "whole",
        numbers=(3, 4),
    )  # fmt: skip
    for account in verdict.accounts:
        shown.add_row(
            Text(account.path),
            Text(account.party),
            Text(account.session),
            f"{account.frames:,}",
            f"{account.authentic:,}" if account.signed else "unsigned",
            Text(account.stopped, style="yellow") if account.stopped else mark(True),
        )
    return shown


def _rounds(verdict: Verdict) -> Any:
    shown = table(
        "Rounds", "round", "advertised", "shared", "in the sum", "result", "replay",
        "suspects", numbers=(0, 1, 2, 3),
    )  # fmt: skip
    for row in verdict.rounds:
        sizes = [str(len(row.sets[name])) if name in row.sets else "" for name in ("U1", "U2")]
        survivors = row.sets.get("U3")
        shown.add_row(
            str(row.round),
            *sizes,
            "" if survivors is None else str(len(survivors)),
            row.result[:16],
            row.replay,
            Text(human_names(row.suspects), style="yellow"),
        )
    return shown


def _convictions(verdict: Verdict) -> Any:
    shown = table("Convicted", "party", "round", "rule", "what was signed", lines=True)
    for conviction in verdict.convictions:
        text = Text(conviction.text)
        for frame in conviction.proof:
            text.append(f"\n{frame.name} {frame.digest.hex()}", style="dim")
            text.append(f"\n  found in {frame.where}", style="dim")
        number = "" if conviction.round < 0 else str(conviction.round)
        shown.add_row(Text(conviction.party, style="bold red"), number, conviction.rule, text)
    return shown


def _sentence(verdict: Verdict) -> Text:
    if verdict.convictions:
        parties = sorted({conviction.party for conviction in verdict.convictions})
        return Text(f"Convicted by their own signatures: {', '.join(parties)}.", style="bold red")
    if verdict.holds:
        frames = sum(account.frames for account in verdict.accounts)
        return Text(f"Everything holds: {counted(frames, 'frame')}, no contradiction.")
    return Text("Nobody is convicted, but not everything holds.", style="yellow")


def _round(number: int) -> str:
    return "the session" if number < 0 else f"round {number}"


__all__ = ["verify"]
