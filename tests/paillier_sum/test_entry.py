"""The public entry of a Paillier sum, and the budget of a site that takes part in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import secagg
from secagg.attacks.arena import world as masked_world
from secagg.attacks.arena.paillier_played import rules_of
from secagg.attacks.arena.paillier_world import (
    PaillierWorld,
    make_plan,
    one_key_plan,
    people,
    shares_of,
)
from secagg.attacks.arena.world import MODEL, SESSION
from secagg.dp.ledger import Ledger
from secagg_protocols.paillier_sum import messages
from secagg_protocols.stages import Noise


def test_a_round_in_one_call() -> None:
    plan = make_plan()
    world = PaillierWorld(plan)
    told: list[tuple[str, int, int]] = []
    seen: list[tuple[secagg.Step, str, str, int]] = []
    found = secagg.aggregate(
        plan,
        world.vectors,
        identities=world.identities,
        shares=world.shares,
        drop={"input": ["s1"], "reveal": ["h0"]},
        progress=lambda *what: told.append(what),
        tap=lambda step, sender, to, data: seen.append((step, sender, to, data[3])),
    )
    columns = zip(*(world.vectors[f"s{i}"].tolist() for i in (0, 2, 3)), strict=True)
    assert found.sum.tolist() == [sum(column) for column in columns]
    assert found.dropped == {"s1": "input"}
    # A holder that is silent computes nothing.
    assert {name for name, _, _ in told} == {"s0", "s2", "s3", "h1", "h2"}
    assert all(done == most == 1 for _, done, most in told)
    kinds = [kind for *_, kind in seen]
    # Three inputs, passed on to three holders; requests, two answers, three results.
    assert kinds.count(messages.ENCRYPTED.number) == 3 + 3 * 3
    assert kinds.count(messages.OPEN.number) == 3
    assert kinds.count(messages.OPENED.number) == 2
    assert kinds.count(messages.RESULT.number) == 3


def call(plan: secagg.Plan, **changes: Any) -> Any:
    world = PaillierWorld(plan)
    given = {"identities": world.identities, "shares": world.shares} | changes
    return secagg.aggregate(plan, world.vectors, **given)


def test_a_round_without_holders_ends_where_they_should_answer() -> None:
    with pytest.raises(secagg.ThresholdError) as caught:
        call(one_key_plan(), shares=None)
    assert (caught.value.step, caught.value.have, caught.value.need) == ("reveal", 0, 1)


def only_masked() -> None:
    masked = masked_world.make_plan()
    secagg.holder(
        masked,
        "s0",
        share=shares_of(make_plan())["h0"],
        identity=None,
        session=SESSION,
        round=0,
        model=MODEL,
        floors=None,
        journal=secagg.MemoryJournal(),
    )


MISUSES: dict[str, tuple[str, Callable[[], Any]]] = {
    "a stranger's share": (
        "roster-member",
        lambda: call(one_key_plan(), shares={"h9": shares_of(make_plan())["h0"]}),
    ),
    "a site's share": (
        "roster-member",
        lambda: call(one_key_plan(), shares={"s0": shares_of(make_plan())["h0"]}),
    ),
    "another's share": (
        "own-share",
        lambda: call(make_plan(), shares={"h0": shares_of(make_plan())["h1"]}),
    ),
    "shares in a list": ("arguments", lambda: call(one_key_plan(), shares=["h0"])),
    "a stranger drops": ("roster-member", lambda: call(one_key_plan(), drop={"reveal": ["h9"]})),
    "no identity": (
        "identity",
        lambda: call(one_key_plan(), identities={"server": people(4, 1)[1]["server"]}),
    ),
    "no Paillier sum": ("protocol", only_masked),
}


@pytest.mark.parametrize("what", MISUSES)
def test_a_misuse_is_named(what: str) -> None:
    rule, misuse = MISUSES[what]
    with pytest.raises(secagg.MisuseError) as caught:
        misuse()
    assert caught.value.rule == rule


# Budgets: an input is a release, whatever protocol carries it.

NOISE = Noise(law="discrete-gaussian", variance_levels2=16_000_000)


def noisy_plan(**changes: Any) -> secagg.Plan:
    """Counts of up to 255 with noise, for two honest survivors."""
    return one_key_plan(stages=(secagg.Integers(0, 255), NOISE), **changes)


class Counting(secagg.MemoryJournal):
    """A journal whose disk fails at one of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.fail_at = -1

    def _called(self) -> None:
        self.calls += 1
        if self.calls - 1 == self.fail_at:
            raise OSError(28, "no space left on device")

    def claim(self, *args: Any, **options: Any) -> bytes:
        self._called()
        return super().claim(*args, **options)

    def swap(self, *args: Any, **options: Any) -> None:
        self._called()
        super().swap(*args, **options)

    def read(self, *args: Any, **options: Any) -> bytes:
        self._called()
        return super().read(*args, **options)


def site(journal: Any, ledger: Any, round: int = 0, **changes: Any) -> Any:
    """The party of s0, with a ledger."""
    plan = noisy_plan(**changes)
    party = secagg.client(
        plan,
        "s0",
        identity=people(4, 1)[1]["s0"],
        session=SESSION,
        round=round,
        model=MODEL + bytes([round]),
        floors=None,
        journal=journal,
        ledger=ledger,
        _entropy=lambda size: bytes(size),  # noqa: PLW0108 - the seam is a callable of a size
    )
    party.start()
    return party


def ledger_in(journal: Any, epsilon: float = 1.0) -> Ledger:
    return Ledger(journal, site="s0", data="", epsilon=epsilon, delta=1e-5)


def test_the_input_that_would_overspend_is_not_sent() -> None:
    journal = secagg.MemoryJournal()
    book = ledger_in(journal)
    x = PaillierWorld(noisy_plan()).vectors["s0"]
    for number in range(50):
        party = site(journal, book, number)
        before = book.spent()
        try:
            (send,) = party.submit(x)
        except secagg.BudgetError:
            break
        assert isinstance(send, secagg.Send)
        assert book.spent() > before
    else:
        pytest.fail("the budget was never used up")
    assert number > 1
    assert book.spent() == before <= 1.0
    assert not party.sent_input
    assert journal.newest(party._journal_key) == 0
    # Without the ledger the same data are not let out either.
    assert rules_of(lambda: site(journal, None, 99).submit(x)) == ["ledger-given"]


def test_a_disk_that_fails_at_any_call_charges_once_and_sends_one_input() -> None:
    x = PaillierWorld(noisy_plan()).vectors["s0"]
    good = Counting()
    book = ledger_in(good)
    party = site(good, book, max_inputs_per_model=1)
    good.calls = 0
    (send,) = party.submit(x)
    calls, spent = good.calls, book.spent()
    assert calls >= 5
    for at in range(calls):
        journal = Counting()
        book = ledger_in(journal)
        party = site(journal, book, max_inputs_per_model=1)
        journal.calls, journal.fail_at = 0, at
        assert rules_of(lambda p=party: p.submit(x)) == ["journal-io"]
        (again,) = party.submit(x)
        assert again.data == send.data
        assert book.spent() == spent


def test_colluding_holders_without_a_key_are_no_masked_plan() -> None:
    roster = people(4, 3)[0]
    fields: dict[str, Any] = {"length": 3, "stages": (secagg.Integers(0, 9),), "colluding": 1}
    fields |= {"threat": "malicious-server", "max_dropouts": 0}
    assert isinstance(secagg.Plan.recommend(roster, **fields).protocol, secagg.MaskedSum)
    with pytest.raises(secagg.PlanError) as caught:
        secagg.Plan.recommend(roster, **fields, key=None, colluding_holders=0)
    assert (caught.value.rule, caught.value.field) == ("paillier-fields", "key")


@pytest.mark.parametrize(
    "drop", [{"input": ["h1"]}, {"reveal": ["s1"]}, {"share": ["s1"]}, {"reveal": ["stranger"]}]
)
def test_a_schedule_names_what_a_party_sends(drop: dict[int | str, list[str]]) -> None:
    with pytest.raises(secagg.MisuseError) as caught:
        secagg.aggregate(make_plan(), {}, drop=drop)
    assert caught.value.rule in {"drop-schedule", "roster-member"}


def test_a_wrong_share_is_told_apart_without_a_secret() -> None:
    plan = make_plan()
    shares = shares_of(plan)
    common: dict[str, Any] = {"session": "s", "round": 0, "model": b"", "floors": None}
    common |= {"journal": secagg.MemoryJournal()}
    with pytest.raises(secagg.MisuseError, match=r"share 1 of .* given share 2 of") as caught:
        secagg.holder(plan, "h0", share=shares["h1"], identity=people(4, 3)[1]["h0"], **common)
    assert caught.value.rule == "own-share"
    assert str(shares["h1"].secret) not in str(caught.value)
