"""A ledger: what it charges, what it refuses, and what it remembers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dp.ledger_world import DELTA, ledger, mechanism, noisy_plan, spent, tag

import secagg
from secagg.attacks.arena.world import make_plan, people
from secagg.dp import CentralDiscreteGaussian, compose
from secagg.dp import ledger as module
from secagg.dp.ledger import MOST_TAGS, Ledger
from secagg_protocols.journal.book import MAX_VALUE

TESTS = Path(__file__).parents[1]
PLAN = noisy_plan()
CENTRAL = {"law": "central-discrete-gaussian", "variance": 1 << 30, "threat": "semi-honest"}


def refused(call: Callable[[], Any], rule: str, error: type[Exception] = secagg.BudgetError) -> Any:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.rule == rule  # type: ignore[attr-defined]
    return caught.value


def spend(kept: Ledger, plan: Any = PLAN, first: int = 0) -> int:
    """Inputs that the ledger bears until it refuses one."""
    for number in count(first):
        try:
            kept.charge(plan, tag(number))
        except secagg.BudgetError as error:
            assert error.rule == "budget"
            return number - first
    raise AssertionError


def only(journal: Any) -> tuple[bytes, bytes]:
    """Name and value of the one register of a journal."""
    [(name, value)] = journal._registers.items()
    return name, value


# What is charged.


def test_inputs_are_charged_until_the_next_one_would_overspend() -> None:
    kept = ledger()
    borne = spend(kept)
    assert borne == sum(spent(PLAN, n) <= 1.0 for n in range(1, 100)) == 17
    assert kept.spent() == pytest.approx(spent(PLAN, borne), rel=1e-6)
    assert kept.remaining == 1.0 - kept.spent()
    assert 0 < kept.remaining < spent(PLAN, 1)


def test_an_input_is_charged_at_the_worst_case_of_its_plan() -> None:
    """Not by the sites of the roster, but by those that are sure to be in the sum and honest."""
    kept = ledger()
    kept.charge(PLAN, tag(0))
    [charge] = kept.entries()
    wanted = mechanism(PLAN, "zero-out")
    assert charge.rounds == 1
    assert (charge.mechanism.shares, charge.mechanism.dimension) == (5, 5)
    assert charge.mechanism.local_variance_levels2 == wanted.local_variance_levels2
    assert charge.mechanism.l2_levels == pytest.approx(wanted.l2_levels)


def test_a_refusal_changes_nothing_and_says_how_much_is_left() -> None:
    journal = secagg.MemoryJournal()
    kept = ledger(journal, epsilon=0.35, data="trial 7")
    assert spend(kept) == 2
    before = only(journal)
    error = refused(lambda: kept.charge(PLAN, tag(9)), "budget")
    assert only(journal) == before
    needed, left = spent(PLAN, 3), 0.35 - spent(PLAN, 2)
    for word in ("'trial 7'", f"{needed:.4f}"[:6], "0.35", f"{left:.4f}"[:5]):
        assert word in str(error)
    # A plan with more noise still fits: what is refused is the input, and not the data.
    kept.charge(noisy_plan(variance=1_600_000_000), tag(9))


def test_a_round_is_charged_once_and_every_other_one_anew() -> None:
    kept = ledger()
    for number in (0, 0, 1, 0, 1):
        kept.charge(PLAN, tag(number))
    assert [rounds for _, rounds in kept.entries()] == [2]
    assert spend(kept, first=2) == 15
    # Also when nothing more fits, what was charged may be sent again.
    kept.charge(PLAN, tag(0))
    ledger(kept.journal, epsilon=0.01).charge(PLAN, tag(1))


def test_a_tag_that_was_forgotten_is_charged_again_and_never_forgiven() -> None:
    quiet = noisy_plan(variance=1 << 40)
    kept = ledger()
    for number in range(MOST_TAGS + 1):
        kept.charge(quiet, tag(number))
    kept.charge(quiet, tag(1))  # of the last ones
    assert [rounds for _, rounds in kept.entries()] == [MOST_TAGS + 1]
    kept.charge(quiet, tag(0))
    assert [rounds for _, rounds in kept.entries()] == [MOST_TAGS + 2]


def test_plans_add_up_whatever_their_keys_epochs_and_sizes() -> None:
    """What a server can start anew: the plan, the roster's keys, its epoch, the sites in it."""
    roster, _ = people(7)
    keys = secagg.Roster(
        sites=(
            roster.sites[0],
            *((n, bytes([i]) * 32) for i, (n, _) in enumerate(roster.sites[1:], 1)),
        ),
        server=roster.server,
        epoch=3,
    )
    plans = [
        PLAN,
        noisy_plan(roster=keys),
        noisy_plan(threat="semi-honest"),
        noisy_plan(9),
        noisy_plan(length=3),
    ]
    assert len({plan.digest for plan in plans}) == 5
    kept = ledger()
    for number, plan in enumerate(plans):
        kept.charge(plan, tag(number))
    # The first three are one mechanism.
    assert sorted(rounds for _, rounds in kept.entries()) == [1, 1, 3]
    together = compose([(mechanism(plan, "zero-out"), 1) for plan in plans], delta=DELTA)
    assert kept.spent() == pytest.approx(together, rel=1e-6)
    left = sum(spend(kept, plan, 100 * at) for at, plan in enumerate(plans, 1))
    assert 5 + left < 5 * spend(ledger())


def test_data_and_sites_have_budgets_of_their_own() -> None:
    journal = secagg.MemoryJournal()
    for more in ({}, {"data": "other"}, {"site": "s1"}):
        assert spend(ledger(journal, epsilon=0.35, **more)) == 2
    assert spend(ledger(journal, epsilon=0.35), first=10) == 0


def test_the_budget_is_the_sites_own_and_not_in_the_register() -> None:
    journal = secagg.MemoryJournal()
    assert spend(ledger(journal, epsilon=0.35)) == 2
    assert spend(ledger(journal, epsilon=0.4), first=10) == 1
    assert spend(ledger(journal, epsilon=0.1), first=20) == 0
    kept = ledger(journal, epsilon=0.5, delta=1e-9)
    # The same charges at another delta, from their mechanisms.
    assert kept.spent() == pytest.approx(spent(PLAN, 3, 1e-9), rel=1e-6)
    assert kept.spent(DELTA) == pytest.approx(spent(PLAN, 3), rel=1e-6)
    assert spend(kept, first=30) == sum(spent(PLAN, n, 1e-9) <= 0.5 for n in range(4, 20))


def test_how_many_inputs_fit_is_told_without_charging() -> None:
    kept = ledger()
    assert kept.rounds_left(PLAN) == 17
    assert kept.rounds_left(PLAN, most=5) == 5
    assert [kept.affords(PLAN, n) for n in (1, 17, 18)] == [True, True, False]
    assert kept.entries() == ()
    assert kept.spent() == 0.0
    for number in range(15):
        kept.charge(PLAN, tag(number))
    assert kept.rounds_left(PLAN) == 2
    assert spend(kept, first=15) == 2
    assert kept.rounds_left(PLAN) == 0
    assert not kept.affords(PLAN)
    assert not kept.affords(make_plan())
    assert kept.rounds_left(make_plan()) == 0


def test_a_report_names_the_budget_and_every_mechanism() -> None:
    kept = ledger(data="trial 7")
    kept.charge(PLAN, tag(0))
    kept.charge(noisy_plan(9), tag(1))
    lines = kept.report().splitlines()
    assert len(lines) == 4
    assert "'trial 7' of site 's0', adjacency zero-out" in lines[0]
    assert f"epsilon {kept.spent():.6g} of 1 spent at delta 1e-05" in lines[1]
    assert all(line.startswith("1 x DiscreteGaussianSum(") for line in lines[2:])
    assert repr(kept) == (
        "Ledger(site='s0', data='trial 7', epsilon=1.0, delta=1e-05, adjacency='zero-out', "
        "adversary='server')"
    )


# What is refused.


def test_a_plan_without_noise_is_refused() -> None:
    journal = secagg.MemoryJournal()
    refused(lambda: ledger(journal).charge(make_plan(), tag(0)), "no-noise")
    assert not journal._registers


def test_the_servers_own_noise_is_none_to_a_budget_against_the_server() -> None:
    journal = secagg.MemoryJournal()
    central = noisy_plan(**CENTRAL)
    refused(lambda: ledger(journal).charge(central, tag(0)), "no-noise")
    assert not journal._registers
    consumer = ledger(journal, adversary="model-consumer")
    consumer.charge(central, tag(0))
    [charge] = consumer.entries()
    assert isinstance(charge.mechanism, CentralDiscreteGaussian)
    assert 0 < consumer.spent() < 1
    # Against the server, nothing hides what was sent under it.
    assert ledger(journal).spent() == float("inf")
    refused(lambda: ledger(journal).charge(PLAN, tag(1)), "budget")
    consumer.charge(PLAN, tag(1))


def test_too_little_noise_for_any_bound_is_overspending() -> None:
    journal = secagg.MemoryJournal()
    refused(lambda: ledger(journal, epsilon=1e6).charge(noisy_plan(variance=1), tag(0)), "budget")
    assert not journal._registers


def test_adjacencies_are_not_mixed() -> None:
    journal = secagg.MemoryJournal()
    ledger(journal).charge(PLAN, tag(0))
    other = ledger(journal, adjacency="replace-one")
    before = only(journal)
    for call in (lambda: other.charge(PLAN, tag(1)), other.spent, other.entries, other.report):
        refused(call, "ledger-adjacency", secagg.MisuseError)
    assert only(journal) == before


def test_a_plan_is_charged_at_its_sensitivity_under_the_ledgers_adjacency() -> None:
    charges = {}
    for adjacency in ("zero-out", "replace-one"):
        kept = ledger(adjacency=adjacency)
        kept.charge(PLAN, tag(0))
        [charges[adjacency]] = kept.entries()
    one, two = (charges[a].mechanism.l2_levels for a in ("zero-out", "replace-one"))
    assert one < two <= 2 * one


def test_mechanisms_are_as_many_as_a_register_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MECHANISMS", 2)
    kept = ledger()
    plans = [noisy_plan(variance=(1 << 40) - at) for at in range(3)]
    kept.charge(plans[0], tag(0))
    kept.charge(plans[1], tag(1))
    refused(lambda: kept.charge(plans[2], tag(2)), "ledger-full")
    kept.charge(plans[0], tag(2))
    assert [rounds for _, rounds in kept.entries()] == [1, 2]


def test_a_full_register_is_within_what_a_journal_holds() -> None:
    """Rows of the longest numbers, as many as there may be, and all tags."""
    longest = dict.fromkeys(("l2_levels", "total_variation", "log_ratio"), 1.1 / 3e7)
    row = CentralDiscreteGaussian(variance_levels2=1 << 200, dimension=1 << 40, **longest)
    text = (
        type(row).__name__,
        tuple(module._text(getattr(row, n)) for n in row.__slots__),
        1 << 40,
    )
    size = len(msgspec.msgpack.encode(text)) * module.MOST_MECHANISMS + 40 * MOST_TAGS
    assert size < MAX_VALUE / 2


WRONG: dict[str, Callable[[], Any]] = {
    "no journal": lambda: ledger(object()),
    "no site": lambda: ledger(site=""),
    "a site of bytes": lambda: ledger(site=b"s0"),
    "a long site": lambda: ledger(site="s" * 65),
    "a site of lines": lambda: ledger(site="s\n0"),
    "data of lines": lambda: ledger(data="a\nb"),
    "data that are none": lambda: ledger(data=None),
    "no budget": lambda: ledger(epsilon=0.0),
    "a negative budget": lambda: ledger(epsilon=-1.0),
    "an endless budget": lambda: ledger(epsilon=float("inf")),
    "a budget of nothing": lambda: ledger(epsilon=float("nan")),
    "a budget of truth": lambda: ledger(epsilon=True),
    "a budget of text": lambda: ledger(epsilon="1"),
    "a delta of one": lambda: ledger(delta=1.0),
    "a negative delta": lambda: ledger(delta=-1e-9),
    "a delta of nothing": lambda: ledger(delta=float("nan")),
    "an adjacency of its own": lambda: ledger(adjacency="add-remove"),
    "an adversary of its own": lambda: ledger(adversary="nobody"),
    "a short tag": lambda: ledger().charge(PLAN, b"tag"),
    "a tag of text": lambda: ledger().charge(PLAN, "t" * 32),  # type: ignore[arg-type]
    "no plan": lambda: ledger().charge(None, tag(0)),  # type: ignore[arg-type]
    "no plan to afford": lambda: ledger().affords("plan"),  # type: ignore[arg-type]
    "no rounds": lambda: ledger().affords(PLAN, 0),
    "rounds of truth": lambda: ledger().affords(PLAN, True),
    "no rounds left": lambda: ledger().rounds_left(PLAN, 0),
    "a delta above one": lambda: ledger().spent(1.5),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=list(WRONG))
def test_wrong_arguments(call: Callable[[], Any]) -> None:
    refused(call, "arguments", secagg.MisuseError)


# The register.


def test_another_process_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    numbers = iter(range(100))
    for _ in range(17):
        ledger(secagg.FileJournal(path)).charge(PLAN, tag(next(numbers)))
    last = ledger(secagg.FileJournal(path))
    refused(lambda: last.charge(PLAN, tag(99)), "budget")
    assert last.spent() == pytest.approx(spent(PLAN, 17), rel=1e-6)
    last.charge(PLAN, tag(0))


def test_two_ledgers_on_one_file_spend_one_budget(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    two = [ledger(secagg.FileJournal(path)) for _ in range(2)]
    borne = 0
    for number in range(40):
        try:
            two[number % 2].charge(PLAN, tag(number))
        except secagg.BudgetError:
            continue
        borne += 1
    assert borne == 17
    assert two[0].entries() == two[1].entries()


SPENDER = """
import sys
sys.path.insert(0, sys.argv[1])
from dp.ledger_world import ledger, noisy_plan, tag
import secagg
plan, kept, first = noisy_plan(), ledger(secagg.FileJournal(sys.argv[2])), int(sys.argv[3])
kept.affords(plan)
print("ready", flush=True)
sys.stdin.readline()
borne = 0
for number in range(first, first + 20):
    try:
        kept.charge(plan, tag(number))
    except secagg.BudgetError:
        continue
    borne += 1
print(borne)
"""


def test_two_processes_on_one_file_spend_one_budget(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SPENDER, str(TESTS), str(path), str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 100)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    borne = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(borne) == 17
    assert [rounds for _, rounds in ledger(secagg.FileJournal(path)).entries()] == [17]


class Raced(secagg.MemoryJournal):
    """A journal into which another process charges before each of the next swaps."""

    def __init__(self, *charges: int) -> None:
        super().__init__()
        self.charges = list(charges)

    def swap(self, name: bytes, old: bytes, new: bytes) -> None:
        if self.charges:
            number = self.charges.pop(0)
            ledger(self).charge(PLAN, tag(number))
        super().swap(name, old, new)


def test_what_another_process_charges_meanwhile_counts() -> None:
    journal = Raced(100, 101, 102)
    ledger(journal).charge(PLAN, tag(0))
    assert [rounds for _, rounds in ledger(journal).entries()] == [4]
    # The same round, charged by both.
    journal.charges = [7]
    ledger(journal).charge(PLAN, tag(7))
    assert [rounds for _, rounds in ledger(journal).entries()] == [5]
    # It takes what was left.
    journal = Raced(100)
    refused(lambda: ledger(journal, epsilon=0.25).charge(PLAN, tag(0)), "budget")
    assert [rounds for _, rounds in ledger(journal).entries()] == [1]


def damaged(value: bytes) -> list[bytes]:
    """Registers that no ledger wrote, though some are well-formed."""
    form, adjacency, [[kind, values, rounds]], tags, highest = msgspec.msgpack.decode(value)
    row = [kind, values, rounds]
    delta, epsilon = highest
    changed = [
        [form + 1, adjacency, [row], tags, highest],
        [form, adjacency, [], tags, highest],
        [form, adjacency, [row, row], tags, highest],
        [form, adjacency, [["OwnNoise", values, rounds]], tags, highest],
        [form, adjacency, [[kind, values[:-1], rounds]], tags, highest],
        [form, adjacency, [[kind, [*values, "1"], rounds]], tags, highest],
        [form, adjacency, [[kind, ["0", *values[1:]], rounds]], tags, highest],
        [form, adjacency, [[kind, [f"+{values[0]}", *values[1:]], rounds]], tags, highest],
        [form, adjacency, [[kind, ["x", *values[1:]], rounds]], tags, highest],
        [form, adjacency, [[kind, ["0x1p+99999", *values[1:]], rounds]], tags, highest],
        [form, adjacency, [[kind, values, 0]], tags, highest],
        [form, adjacency, [[kind, values, -3]], tags, highest],
        [form, adjacency, [row], [], highest],
        [form, adjacency, [row], [b"short"], highest],
        [form, adjacency, [row], [tag(n) for n in range(MOST_TAGS + 1)], highest],
        [form, adjacency, [row], tags, [delta, "nan"]],
        [form, adjacency, [row], tags, [delta, "-0x1p+0"]],
        [form, adjacency, [row], tags, ["0x1p+0", epsilon]],
        [form, adjacency, [row], tags, [delta]],
        [form, adjacency, [row], tags, highest, 0],
        [form, adjacency, [row], tags],
    ]
    packed = [msgspec.msgpack.encode(content) for content in changed]
    return [*packed, value[:-1], value + b"\x00", b"\xff", b"\xc0", bytes(4)]


def test_a_register_that_cannot_be_read_lets_nothing_out() -> None:
    journal = secagg.MemoryJournal()
    ledger(journal).charge(PLAN, tag(0))
    name, value = only(journal)
    for wrong in damaged(value):
        broken = secagg.MemoryJournal()
        broken.swap(name, b"", wrong)
        kept = ledger(broken)
        for call in (
            lambda kept=kept: kept.charge(PLAN, tag(0)),
            lambda kept=kept: kept.charge(PLAN, tag(1)),
            lambda kept=kept: kept.affords(PLAN),
            kept.spent,
            kept.entries,
            kept.report,
        ):
            refused(call, "journal-file", secagg.MisuseError)
        assert only(broken) == (name, wrong)
    assert ledger(journal).spent() > 0


def test_a_register_is_of_one_form_and_exact() -> None:
    journal = secagg.MemoryJournal()
    for at in range(3):
        ledger(journal).charge(noisy_plan(variance=(1 << 40) - 10**at, length=7 - at), tag(at))
    ledger(journal).charge(PLAN, tag(3))
    kept = ledger(journal)
    again = kept._understood(only(journal)[1])
    assert module._pack(again, "zero-out") == only(journal)[1]
    assert {m.l2_levels for m, _ in kept.entries()} == {
        ledger_of(plan).entries()[0].mechanism.l2_levels
        for plan in (noisy_plan(length=7), noisy_plan(length=6), PLAN)
    }


def ledger_of(plan: Any) -> Ledger:
    kept = ledger()
    kept.charge(plan, tag(0))
    return kept


def test_a_better_accountant_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ledger()
    for number in range(5):
        kept.charge(PLAN, tag(number))
    before = kept.spent()
    monkeypatch.setattr(module, "_compose", lambda charges, delta: 0.5 * before)
    assert kept.spent() == before
    assert kept.spent(1e-6) == 0.5 * before
    monkeypatch.setattr(module, "_compose", lambda charges, delta: float("nan"))
    stored = only(kept.journal)
    refused(lambda: ledger(kept.journal, delta=1e-6).charge(PLAN, tag(9)), "budget")
    assert only(kept.journal) == stored


# What fails.


def test_without_an_accountant_nothing_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "dp_accounting"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    journal = secagg.MemoryJournal()
    refused(lambda: ledger(journal).charge(PLAN, tag(0)), "extra", secagg.MisuseError)
    assert not journal._registers


class Failing(secagg.MemoryJournal):
    """A disk that fails at the call of this number."""

    fails = 0

    def fail(self) -> None:
        self.fails -= 1
        if self.fails == 0:
            raise OSError(28, "No space left on device")

    def read(self, name: bytes) -> bytes:
        self.fail()
        return super().read(name)

    def swap(self, name: bytes, old: bytes, new: bytes) -> None:
        self.fail()
        super().swap(name, old, new)


def test_a_disk_that_fails_is_told_and_the_same_charge_may_be_tried_again() -> None:
    for at in (1, 2):
        journal = Failing()
        journal.fails = at
        kept = ledger(journal)
        refused(lambda kept=kept: kept.charge(PLAN, tag(0)), "journal-io", secagg.MisuseError)
        assert kept.entries() == ()
        kept.charge(PLAN, tag(0))
        assert [rounds for _, rounds in kept.entries()] == [1]
    journal.fails = 1
    refused(kept.spent, "journal-io", secagg.MisuseError)
