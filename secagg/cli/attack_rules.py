"""``attack rules``: every security rule is played against its attack, with and without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .common import ExitCode, counted, fail, mark, stderr, stdout, table, write_json

if TYPE_CHECKING:
    from secagg.attacks.rulebook import Row, RuleBook


def rules(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Play the attack that each security rule stops, with the rule and without it.

    Every rule must refuse its attack, and the same attack must go through on a
    party that lacks exactly this rule, or meet the rules that the table names
    beside it. A rule that anything else would do as well protects nobody.

    The rules are in protocols/specs/rules.md. Exit code 4 if one does not hold.
    """
    from secagg.attacks.rulebook import play_rules

    with _progress(quiet=as_json) as step:
        book = play_rules(step)
    if as_json:
        write_json(book.to_dict())
    else:
        _show(book)
    if not book.holds:
        lines = [f"{row.table}, {row.victim}, {row.rule}: {row.why}" for row in book.failures]
        fail("not as expected: " + "\n  ".join(lines), ExitCode.MISMATCH)


def _show(book: RuleBook) -> None:
    out = stdout()
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in book.rows:
        groups.setdefault((row.table, row.victim), []).append(row)
    for (name, victim), rows in groups.items():
        shown = table(f"{name}: {victim}", "", "rule", "stops", "refused", "without it")
        for row in rows:
            shown.add_row(
                mark(row.holds),
                Text(row.rule),
                Text(row.stops),
                Text("yes" if row.refused == (row.rule,) else ", ".join(row.refused) or "no"),
                _control(row),
            )
        out.print(shown)
    for name, why in book.left_out:
        out.print(Text(f"Not played: {name}: {why}", style="yellow"))
    out.print(_sentence(book))


def _control(row: Row) -> Text:
    if row.control:
        return Text(f"met {', '.join(row.control)}", style="" if row.holds else "red")
    if row.holds:
        return Text("goes through")
    return Text(row.why, style="red")


def _sentence(book: RuleBook) -> Text:
    said = f"{book.held:,} of {counted(book.rules, 'rule')}: "
    if book.holds:
        beside = len({(row.table, row.party, row.rule) for row in book.rows if row.control})
        return Text(
            f"{said}each refuses its attack; without it the attack goes through, or meets the "
            f"named other rule ({counted(beside, 'rule')})."
        )
    return Text(f"{said}the others do not hold.", style="bold red")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar over the rules on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if quiet:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task("rules", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


__all__ = ["rules"]
