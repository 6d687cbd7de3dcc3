"""Simulated sessions: who leaves, who sits out, who is back, and what every exchange cost."""

from __future__ import annotations

import json

import numpy as np
import pytest

import secagg
from secagg import MisuseError, ReleaseError, Step, ThresholdError
from secagg.session.costs import exchange_bytes
from secagg.session.messages import Slot
from secagg.sim.schedule import merge
from secagg.sim.secure import Observer, SecureSummation

THREATS = ("malicious-server", "semi-honest")
#: Steps with whether a plan needs to sign for them.
STEPS = [(t, step) for t in THREATS for step in Step if t == THREATS[0] or step != Step.CONSENT]


def names(n):
    return [f"s{i}" for i in range(n)]


def secure(n=6, **options) -> SecureSummation:
    roster, identities = secagg.Roster.generate(names(n))
    given = {"threat": "malicious-server", "colluding": 1, "max_dropouts": 1, **options}
    return SecureSummation(roster, identities, **given)


def integers(number, n=6, length=7):
    rng = np.random.default_rng(number)
    return {name: rng.integers(0, 10, length) for name in names(n)}


def play(ours, rounds, n=6):
    """Rounds ``round-1``, ... each of which is held to the plain sum of its survivors."""
    for number in range(1, rounds + 1):
        vectors = integers(number, n)
        got = ours.counts(vectors, high=9, label=f"round-{number}")
        plain = sum(vectors[name] for name in got.survivors)
        assert np.array_equal(got.total, plain)
        assert got.survivors == ours.records[-1].survivors
    return ours.records


def drop(number, step, *sites):
    return {f"round-{number}": {Step.of(step): sites}}


def presence(records, site):
    """A mark per round: in the sum, sat out, or missing."""
    return "".join(
        "+" if site in r.survivors else "." if site in r.sat_out else "-" for r in records
    )


# Leaving and returning.


@pytest.mark.parametrize(("threat", "step"), STEPS)
def test_a_site_leaves_a_warm_round_and_returns(threat, step):
    ours = secure(threat=threat, schedule=drop(3, step, "s2"))
    records = play(ours, 6)
    # Adverts and shares of round 3 travel with the inputs and reveals of round 2.
    marks = {
        Step.ADVERTISE: "+--.++",
        Step.SHARE: "++-.++",
        Step.INPUT: "++-.++",
        Step.CONSENT: "+++.++",
        Step.REVEAL: "+++.++",
    }
    assert presence(records, "s2") == marks[step]
    assert {presence(records, site) for site in names(6) if site != "s2"} == {"++++++"}
    carried = {Step.ADVERTISE: (2, "input"), Step.SHARE: (2, "reveal")}
    left_in, at = carried.get(step, (3, step.label))
    assert [r.gone for r in records if r.gone] == [{"s2": at}]
    assert records[left_in - 1].gone == {"s2": at}
    counted = step in (Step.SHARE, Step.CONSENT, Step.REVEAL)
    assert [r.left for r in records if r.left] == ([{"s2": at}] if counted else [])
    assert [r.returned for r in records] == [(), (), (), (), ("s2",), ()]
    assert [r.start for r in records] == ["cold", *["warm"] * 5]
    warm = 3 if threat == "malicious-server" else 2
    assert [len(r.exchanges) for r in records] == [warm + 2, *[warm] * 5]
    assert ours.exchanges == 6 * warm + 2
    assert ours.exchanges_alone == 6 * (warm + 2)


@pytest.mark.parametrize(("threat", "step"), STEPS)
def test_a_site_leaves_a_cold_round_and_returns(threat, step):
    records = play(secure(threat=threat, schedule=drop(1, step, "s4")), 3)
    counted = step in (Step.CONSENT, Step.REVEAL)
    assert presence(records, "s4") == ("+.+" if counted else "-.+")
    assert records[0].gone == {"s4": step.label}
    assert records[1].sat_out == ("s4",)
    assert records[1].dropped == {"s4": "share" if counted else "advertise"}
    first = records[0]
    assert {**first.dropped, **first.left} == {"s4": step.label}
    assert [e.senders for e in first.exchanges] == [
        5 if Step.of(e.step) >= step else 6 for e in first.exchanges
    ]


def test_sites_leave_and_return_all_the_time():
    """A different site leaves in each of twelve rounds, at a step of its own."""
    n = 12
    turns = [drop(r, list(Step)[r % 5], f"s{r - 1}") for r in range(1, 13)]
    records = play(secure(n, max_dropouts=5, schedule=merge(*turns)), 14, n)
    assert [r.start for r in records] == ["cold", *["warm"] * 13]
    for number in range(12):
        marks = presence(records, f"s{number}")
        assert "." in marks
        assert marks.endswith("+")
    assert sum(len(r.returned) for r in records) == 12
    assert not records[-1].gone


def test_labels_that_do_not_count_are_not_looked_ahead():
    ours = secure(schedule={"two": {Step.ADVERTISE: ("s0",)}})
    for label in ("one", "two", "three", "four"):
        ours.counts(integers(0), high=9, label=label)
    assert presence(ours.records, "s0") == "+-.+"


def test_too_few_setups_start_cold_and_say_why():
    ours = secure(8, max_dropouts=2, schedule=drop(1, "reveal", "s1", "s2", "s3"))
    records = play(ours, 3, 8)
    assert [r.start for r in records] == ["cold", "cold", "warm"]
    assert [len(r.survivors) for r in records] == [8, 8, 8]
    assert [len(r.exchanges) for r in records] == [5, 5, 3]
    assert records[0].why == "the first round of its session"
    assert "5 of 6" in records[1].why
    assert records[2].why == ""


def test_an_aborted_round_is_told_and_the_next_starts_cold():
    ours = secure(schedule=drop(1, "input", "s0", "s1"))
    with pytest.raises(ThresholdError, match="enough"):
        ours.counts(integers(1), high=9, label="round-1")
    aborted = ours.records[0]
    assert aborted.aborted is not None
    assert not aborted.holds
    assert aborted.gone == {"s0": "input", "s1": "input"}
    assert [e.step for e in aborted.exchanges] == ["advertise", "share", "input"]
    ours.counts(integers(2), high=9, label="round-2")
    assert ours.records[1].why == "the round before it was aborted"
    assert len(ours.records[1].survivors) == 6


def test_a_site_without_a_vector_skips_the_round():
    ours = secure()
    for number, missing in ((1, None), (2, "s3"), (3, None)):
        vectors = {k: v for k, v in integers(number).items() if k != missing}
        got = ours.counts(vectors, high=9, label=f"round-{number}")
        assert np.array_equal(got.total, sum(vectors.values()))
    assert presence(ours.records, "s3") == "+-+"
    assert not any(r.gone or r.sat_out for r in ours.records)
    assert ours.records[1].sites == 5


# What the sites themselves refuse.


@pytest.mark.parametrize("step", [1, 2, 3])
def test_fixed_data_keep_the_sites_of_the_first_sum(step):
    records = play(secure(fixed_data=True, schedule=drop(1, step, "s2")), 3)
    assert presence(records, "s2") == "---"
    assert [r.sites for r in records] == [6, 5, 5]
    assert [r.gone for r in records] == [{"s2": Step.of(step).label}, {}, {}]


@pytest.mark.parametrize("step", [4, 5])
def test_fixed_data_shrink_by_blocks(step):
    left = ("s2", "s3", "s4", "s5")
    options = {"max_dropouts": 4, "fixed_data": True}
    records = play(secure(12, **options, schedule=drop(1, step, *left)), 3, 12)
    assert [len(r.survivors) for r in records] == [12, 8, 8]
    with pytest.raises(ReleaseError, match="fixed-missing"):
        play(secure(12, **options, schedule=drop(1, step, *left[:3])), 3, 12)


def test_the_release_policy_spans_the_plans_of_an_analysis():
    """Journals outlive a session: the second plan's first sum is compared with the first plan's,
    and the server gives the round up before it asks sites for what they would refuse."""
    schedule = drop(2, "input", "s5")

    def second(ours):
        return ours.counts(integers(2, length=9), high=9, label="round-2")

    ours = secure(fixed_data=True, schedule=schedule)
    ours.counts(integers(1), high=9, label="round-1")
    with pytest.raises(ReleaseError, match="fixed-missing"):
        second(ours)
    last = ours.records[-1]
    assert last.plan != ours.records[0].plan
    assert not last.refused
    assert "fixed-missing" in (last.aborted or "")
    assert last.gone == {"s5": "input"}
    # Sites that know of no earlier sum answer for this one.
    assert len(second(secure(fixed_data=True, schedule=schedule)).survivors) == 5


def test_a_model_gets_as_many_inputs_as_the_plan_says():
    ours = secure()
    for _ in range(2):
        ours.counts(integers(1), high=9, label="again")
    with pytest.raises(MisuseError, match="inputs-per-model"):
        ours.counts(integers(1), high=9, label="again")
    assert set(ours.records[-1].refused) == set(names(6))
    ours.counts(integers(1), high=9, label="another")
    assert ours.records[-1].holds


# What it costs.


@pytest.mark.parametrize("threat", THREATS)
def test_every_byte_is_counted_and_foreseen(threat):
    seen = []

    class Counter(Observer):
        def round_starts(self, label, plan, present, exchanges):
            seen.append((label, present, exchanges))

        def message(self, slot, sender, recipient, size):
            seen.append(size)

    ours = secure(threat=threat, observer=Counter())
    records = play(ours, 4)
    for record in records:
        assert record.undisturbed
        assert record.total_bytes == 6 * record.planned
        assert all(entry.senders == 6 for entry in record.exchanges)
    signed = threat == "malicious-server"
    steady = ["input", "consent", "reveal"] if signed else ["input", "reveal"]
    assert [e.step for e in records[0].exchanges] == ["advertise", "share", *steady]
    assert [e.step for e in records[1].exchanges] == steady
    ours.finish()
    assert [e.step for e in ours.closing] == (["finish", "close"] if signed else ["finish"])
    plan = ours.plan_for((secagg.Integers(0, 9),), 7)
    for entry in ours.closing:
        finish = entry.step == "finish"
        cost = exchange_bytes(
            plan,
            Slot[entry.step.upper()],
            exchange=entry.exchange,
            round=4,
            result=finish,
            agreed=not finish,
        )
        assert (entry.server_bytes, entry.site_bytes) == (6 * cost.order, 6 * cost.report)
    numbers = [e.exchange for r in records for e in r.exchanges]
    numbers += [e.exchange for e in ours.closing]
    assert numbers == list(range(1, len(numbers) + 1))
    assert ours.total_bytes == sum(size for size in seen if isinstance(size, int))
    starts = [entry for entry in seen if isinstance(entry, tuple)]
    assert starts == [(r.label, 6, len(r.exchanges)) for r in records]
    assert [ours.agreed(record) for record in records] == [6 * signed] * 4
    assert json.loads(json.dumps(records[1].to_dict()))["exchanges"][0]["step"] == "input"


def test_a_round_after_a_disturbed_one_is_not_held_to_the_plan():
    records = play(secure(schedule=drop(2, "input", "s2")), 6)
    # Without a setup in round 3; in round 4 it lacks the result of round 3.
    assert [r.undisturbed for r in records] == [True, False, False, False, True, True]
    assert [r.total_bytes == 6 * r.planned for r in records] == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]
