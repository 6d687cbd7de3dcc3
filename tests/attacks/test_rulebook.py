"""The rulebook covers every rule table, and it can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import secagg
from secagg.attacks import rulebook
from secagg.attacks.arena import controls, tables
from secagg.attacks.arena.played import NotPlayedError
from secagg.attacks.arena.tables import Table, all_tables, enrolment_table, masked_table
from secagg.attacks.rulebook import Row, RuleBook, play_rule, play_rules
from secagg.cli import attack_rules
from secagg.cli.common import ExitCode, Guarded
from secagg_protocols.masked_sum import Client
from secagg_protocols.rules import Rule

runner = CliRunner()
MASKED = masked_table()


def rule_of(table: Table, party: str, name: str) -> Rule:
    return next(rule for rule in table.rules if (rule.party, rule.id) == (party, name))


GRAPH = rule_of(MASKED, "client", "graph")


def test_every_rule_table_of_the_package_is_there() -> None:
    root = Path(secagg.__file__).parent
    given = {id(rule) for table in all_tables() for rule in table.rules}
    found = 0
    for path in (*root.rglob("*.py"), *(root.parent / "protocols").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found += text.count("\n    Rule(\n") + text.count('\n    Rule("')
    # Rules that two protocols share stand in both tables and are written down once.
    assert len(given) == found


@pytest.mark.parametrize("table", all_tables(), ids=lambda table: table.name)
def test_every_rule_has_a_vector_and_a_class(table: Table) -> None:
    assert table.rules
    for rule in () if table.left_out else table.rules:
        assert table.kinds(rule)
        assert table.vector(rule) is not None


def test_the_small_tables_hold_and_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    book = play_rules(lambda done, total: seen.append((done, total)), tables=[enrolment_table()])
    assert book.holds and book.held == book.rules == len(enrolment_table().rules)
    assert seen == [(done, book.rules) for done in range(book.rules + 1)]
    assert all(row.refused == (row.rule,) and row.control == () for row in book.rows)


@pytest.mark.slow
def test_every_rule_of_every_table_holds() -> None:
    book = play_rules()
    assert [(row.table, row.rule, row.why) for row in book.failures] == []
    assert book.rules == sum(len(table.rules) for table in all_tables() if not table.left_out)


# It can fail.


def test_a_rule_without_a_vector_fails() -> None:
    bare = replace(MASKED, rules=(GRAPH,), vectors=lambda rule: None)
    book = play_rules(tables=[bare])
    assert not book.holds and (book.held, book.rules) == (0, 1)
    assert "no negative vector" in book.rows[0].why


def test_a_rule_that_is_new_in_a_table_fails_without_a_vector_and_a_method() -> None:
    new = Rule("brand-new", "client", "advertise", "something", "PeerError", "something else")
    assert "no negative vector" in play_rule(MASKED, new, Client).why
    given = replace(MASKED, vectors=lambda rule: lambda kind: [])
    assert "no rule 'brand-new'" in play_rule(given, new, Client).why


def test_a_rule_that_checks_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, GRAPH.method, lambda self, *_: None)
    row = play_rule(MASKED, GRAPH, Client)
    assert not row.holds and row.refused == ()
    assert "refused by no rule" in row.why


def test_a_control_that_overrides_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "without", lambda kind, *rules: type("Same", (kind,), {}))
    row = play_rule(MASKED, GRAPH, Client)
    assert not row.holds and "overrides nothing" in row.why


def test_a_control_that_overrides_more_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    true = controls.without
    monkeypatch.setattr(controls, "without", lambda kind, *rules: true(kind, *rules, "floors"))
    row = play_rule(MASKED, GRAPH, Client)
    assert not row.holds and "_check_floors" in row.why


def test_a_rule_whose_method_is_not_the_one_that_refuses_fails() -> None:
    """The control lacks one rule, and another still refuses what is said to be its attack."""
    floors = MASKED.vector(rule_of(MASKED, "client", "floors"))
    assert floors is not None
    wrong = replace(MASKED, vectors=lambda rule: floors)
    assert "refused by floors" in play_rule(wrong, GRAPH, Client).why


def test_a_second_line_that_the_table_does_not_name_fails() -> None:
    rule = rule_of(MASKED, "client", "equivocation")
    assert rule.also
    silent = play_rule(MASKED, replace(rule, also=()), Client)
    assert silent.why.endswith("which the table does not name")
    boasting = play_rule(MASKED, replace(GRAPH, also=("advert-cohort",)), Client)
    assert "nothing stopped the control" in boasting.why


def test_structure_must_be_named() -> None:
    rule = rule_of(MASKED, "client", "sharers-within")
    assert play_rule(MASKED, rule, Client).control == (rulebook.STRUCTURE,)
    assert not play_rule(MASKED, replace(rule, also=()), Client).holds


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (NotPlayedError("no message came"), "never played"),
        (ValueError("anything"), "broke down: ValueError"),
        (KeyError("on the real class"), "refused by structure"),
    ],
)
def test_a_vector_that_breaks_down_fails(error: Exception, why: str) -> None:
    def broken(kind: type[Any]) -> list[str]:
        raise error

    row = play_rule(replace(MASKED, vectors=lambda rule: broken), GRAPH, Client)
    assert not row.holds and why in row.why


def test_an_empty_book_does_not_hold() -> None:
    assert not RuleBook(()).holds
    assert not play_rules(tables=[replace(MASKED, left_out="not here")]).holds


def test_one_class_of_several_is_enough_to_fail_a_rule() -> None:
    good = Row(table="t", party="party", rule="r", victim="A", stops="s")
    book = RuleBook((good, replace(good, victim="B", why="it does nothing")))
    assert (book.rules, book.held, book.holds) == (1, 0, False)


def test_the_ledger_is_left_out_openly_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    table = tables.ledger_table()
    book = play_rules(tables=[enrolment_table(), table])
    assert book.holds
    assert book.left_out == (("privacy ledger", table.left_out),)
    assert "pip install" in table.left_out and table.rules


# The command.


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The command alone, over a table that is quick to play."""
    made = typer.Typer(cls=Guarded)
    made.command("rules")(attack_rules.rules)
    made.callback()(lambda: None)
    monkeypatch.setattr(rulebook, "all_tables", lambda: (enrolment_table(),))
    return made


def test_the_command_shows_every_rule(app: typer.Typer) -> None:
    result = runner.invoke(app, ["rules"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "enrolment: Membership" in result.stdout
    for rule in enrolment_table().rules:
        assert rule.id in result.stdout
    assert "8 of 8 rules" in result.stdout
    assert "goes through" in result.stdout and "✗" not in result.stdout


def test_the_command_writes_json_and_nothing_else(app: typer.Typer) -> None:
    result = runner.invoke(app, ["rules", "--json"])
    assert result.exit_code == 0 and result.stderr == ""
    found = json.loads(result.stdout)
    assert found["holds"] and found["held"] == found["rules"] == len(found["rows"]) == 8
    assert {row["rule"] for row in found["rows"]} == {r.id for r in enrolment_table().rules}
    assert found["left_out"] == []


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_fails_where_a_rule_does_not_hold(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    table = enrolment_table()
    bare = replace(table, vectors=lambda r: None if r.id == "own-key" else table.vector(r))
    monkeypatch.setattr(rulebook, "all_tables", lambda: (bare,))
    result = runner.invoke(app, ["rules", *options], env={"COLUMNS": "200"})
    assert result.exit_code == ExitCode.MISMATCH
    assert "own-key: it has no negative vector" in result.stderr
    if options:
        assert json.loads(result.stdout)["held"] == 7
    else:
        assert "7 of 8 rules" in result.stdout and "✗" in result.stdout


def test_the_command_says_what_was_not_played(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = replace(MASKED, left_out="a reason")
    monkeypatch.setattr(rulebook, "all_tables", lambda: (enrolment_table(), left))
    result = runner.invoke(app, ["rules"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Not played: masked sum: a reason" in result.stdout
