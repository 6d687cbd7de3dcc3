"""The rule tables, played: every rule refuses its negative vector, and no longer once overridden.

For each rule the attack that it stops is played twice: on the real class, which must refuse it by
this rule, and on a control in which exactly this rule's method is overridden, which must let it
pass. Where the table names other rules that stop it too (``also``), the control must meet one of
those; ``structure`` there means that the attack finds nothing to use, whatever is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secagg_protocols.errors import SecAggError
from secagg_protocols.rules import Rule

from .arena import controls
from .arena.played import STRUCTURE, NotPlayedError
from .arena.tables import Table, all_tables

#: Called with (rules played, rules in all).
Step = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One rule on one class.

    table, party, rule: where the rule stands. victim: the class it was played on. stops: the
    attack in words. refused: rules by which the real class refused. control: those by which the
    class without this rule did; empty where the attack went through. also: what the table says
    of it. why: what is wrong, empty where the rule holds.
    """

    table: str
    party: str
    rule: str
    victim: str
    stops: str
    refused: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether the rule, and it alone, stops its attack (or those named beside it do)."""
        return not self.why


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules that were played. ``left_out`` says what was not, table by table, and why."""

    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def rules(self) -> int:
        """How many rules there are; one that both kinds of sums share counts in either table."""
        return len({(row.table, row.party, row.rule) for row in self.rows})

    @property
    def held(self) -> int:
        """How many of them hold, on every class that they were played on."""
        return self.rules - len({(row.table, row.party, row.rule) for row in self.failures})

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows that do not hold."""
        return tuple(row for row in self.rows if not row.holds)

    @property
    def holds(self) -> bool:
        """Whether every rule that was played holds, and at least one was."""
        return bool(self.rows) and not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rules": self.rules,
            "held": self.held,
            "holds": self.holds,
            "rows": [asdict(row) | {"holds": row.holds} for row in self.rows],
            "left_out": [{"table": name, "why": why} for name, why in self.left_out],
        }


def play_rules(progress: Step | None = None, *, tables: Iterable[Table] | None = None) -> RuleBook:
    """Play every rule of the tables (all of them by default), each on every class that has it.

    progress: called before the first rule and after each. Takes about 20 s for all tables on one
    core. It raises nothing for a rule that does not hold: the book says so.
    """
    given = all_tables() if tables is None else tuple(tables)
    work = [
        (table, rule, kind)
        for table in given
        if not table.left_out
        for rule in table.rules
        for kind in table.kinds(rule)
    ]
    rows: list[Row] = []
    for done, (table, rule, kind) in enumerate(work):
        if progress is not None:
            progress(done, len(work))
        rows.append(play_rule(table, rule, kind))
    if progress is not None:
        progress(len(work), len(work))
    left = tuple((table.name, table.left_out) for table in given if table.left_out)
    return RuleBook(tuple(rows), left)


def play_rule(table: Table, rule: Rule, kind: type[Any]) -> Row:
    """Play the negative vector of one rule on one class and on its control."""
    refused: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    why = ""
    vector = table.vector(rule)
    if vector is None:
        why = "it has no negative vector"
    else:
        try:
            control = controls.without(kind, rule.id)
            changed = controls.overrides(kind, control)
            refused = _answers(vector, kind)
            answers = _answers(vector, control)
        except _Broken as error:
            why = str(error)
        except SecAggError as error:
            why = f"its control cannot be made: {error}"
        else:
            why = _fault(rule, changed, refused, answers)
    return Row(
        table=table.name,
        party=rule.party,
        rule=rule.id,
        victim=kind.__name__,
        stops=rule.attack,
        refused=refused,
        control=answers,
        also=rule.also,
        why=why,
    )


class _Broken(Exception):  # noqa: N818 - never leaves this module
    """A negative vector could not be played to its end."""


def _answers(vector: Callable[[type[Any]], Sequence[str]], kind: type[Any]) -> tuple[str, ...]:
    """Rules by which the class refused the attack, each once."""
    try:
        return tuple(dict.fromkeys(vector(kind)))
    except LookupError:
        # Nothing is kept under what the attack names. A table has to say so of a control; of a
        # real class it is never right, since there a rule has to answer first.
        return (STRUCTURE,)
    except NotPlayedError as error:
        raise _Broken(f"its attack was never played: {error}") from None
    except SecAggError as error:
        raise _Broken(f"its attack ended elsewhere: {error}") from None
    except Exception as error:  # noqa: BLE001 - one broken vector must not hide the other rules
        raise _Broken(f"its attack broke down: {type(error).__name__}: {error}") from None


def _fault(
    rule: Rule, changed: set[str], refused: tuple[str, ...], answers: tuple[str, ...]
) -> str:
    """What is wrong with the answers; empty where the rule holds."""
    if changed != {rule.method}:
        return f"its control overrides {', '.join(sorted(changed)) or 'nothing'}"
    if refused != (rule.id,):
        return f"the attack was refused by {', '.join(refused) or 'no rule'}"
    if rule.id in answers:
        return "the control refuses by the rule that it does not have"
    strangers = sorted(set(answers) - set(rule.also))
    if strangers:
        return f"the control refuses by {', '.join(strangers)}, which the table does not name"
    if rule.also and not answers:
        return f"the table names {', '.join(rule.also)}, and nothing stopped the control"
    return ""


__all__ = ["STRUCTURE", "Row", "RuleBook", "Step", "play_rule", "play_rules"]
