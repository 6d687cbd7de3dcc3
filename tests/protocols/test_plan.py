"""Plans: what they derive, how they are written down, and what recommend chooses."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks.arena.world import digest, make_plan, people, sparse_plan
from secagg_protocols.lift import lift
from secagg_protocols.masked_sum.graph import draw


def test_a_plan_is_frozen_slotted_and_keyword_only() -> None:
    plan = make_plan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.threat = "semi-honest"  # type: ignore[misc]
    assert not hasattr(plan, "__dict__")
    with pytest.raises(TypeError):
        secagg.Plan(plan.roster, 3)  # type: ignore[call-arg]


def test_nothing_that_decides_security_has_a_default() -> None:
    defaults = {
        f.name
        for f in dataclasses.fields(secagg.Plan)
        if f.init and f.default is not dataclasses.MISSING
    }
    assert defaults == {"max_weight", "fixed_data", "max_inputs_per_model", "bits", "privacy"}


CHANGES: list[dict[str, Any]] = [
    {"length": 6},
    {"stages": (secagg.Integers(0, 999),)},
    {"stages": (secagg.ClipL2(1.0), secagg.Quantise(9))},
    {"stages": (secagg.ClipLinf(1.0), secagg.Quantise(9))},
    {"stages": (secagg.ClipLinf(1.0), secagg.Quantise(9, "nearest"))},
    {"protocol": secagg.MaskedSum(share_threshold=6, neighbours=6)},
    {"threat": "semi-honest"},
    {"colluding": 2},
    {"max_dropouts": 0},
    {"min_honest": 3},
    {"sites_receive": False},
    {"security_bits": 41},
    {"max_weight": 2},
    {"fixed_data": True},
    {"max_inputs_per_model": 1},
    {"max_inputs_per_model": 2},
    {"bits": 40},
    {"privacy": (("tier", 1.0),)},
    {"privacy": (("tier", 1),)},
    {"roster": dataclasses.replace(people(7)[0], epoch=1)},
]


def test_every_field_is_in_the_digest() -> None:
    plans = [make_plan(), *(make_plan(**change) for change in CHANGES)]
    assert len({plan.digest for plan in plans}) == len(plans)
    changed = {name for change in CHANGES for name in change}
    # The suite has one value today; every other field is varied above.
    assert changed == {f.name for f in dataclasses.fields(secagg.Plan) if f.init} - {"suite"}


@pytest.mark.parametrize("change", [{}, *CHANGES])
def test_the_file_form_gives_an_equal_plan(change: dict[str, Any]) -> None:
    plan = make_plan(**change)
    again = secagg.load_plan(secagg.dump_plan(plan))
    assert again == plan
    assert again.digest == plan.digest


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ("length = 5", "length = 'five'"),
        ("length = 5", ""),
        ("length = 5", "length = 5\ncheck = false"),
        ('name = "MaskedSum"', 'name = "PlainSum"'),
        ('name = "Integers"', 'name = "Anything"'),
        ("low = 0", "low = 0.5"),
        ("low = 0", "lower = 0"),
        ("epoch = 0", "epoch = 0\nadmin = 1"),
        ("share_threshold = 5", "share_threshold = 4"),
        ("max_dropouts = 1", "max_dropouts = -1"),
        ("[roster]", "[rosters]"),
        ("length = 5", "length = = 5"),
    ],
)
def test_a_wrong_file_is_refused_with_the_rule_and_the_field(find: str, replace: str) -> None:
    text = secagg.dump_plan(make_plan())
    assert find in text
    with pytest.raises(secagg.PlanError) as caught:
        secagg.load_plan(text.replace(find, replace, 1))
    assert caught.value.rule


def brute_force_bits(plan: secagg.Plan) -> int:
    """Fewest bits that tell all possible sums apart, in plain integers."""
    spans = [(plan.pipeline.vector.low, plan.pipeline.vector.high)]
    if plan.max_weight > 1:
        spans.append((0, plan.max_weight))
    need = 1
    for low, high in spans:
        values = max(0, high) * plan.clients - min(0, low) * plan.clients + 1
        need = max(need, (values - 1).bit_length())
    return need


@given(
    low=st.integers(-(1 << 40), 1 << 40),
    width=st.integers(0, 1 << 40),
    n=st.integers(3, 9),
    weight=st.integers(1, 1000),
)
@settings(max_examples=60, deadline=None)
def test_bits_are_the_fewest_and_no_sum_wraps(low: int, width: int, n: int, weight: int) -> None:
    plan = make_plan(
        n,
        stages=(secagg.Integers(low, low + width),),
        max_weight=weight,
        colluding=1 if n > 3 else 0,
        sites_receive=n > 3,
        max_dropouts=0,
        protocol=secagg.MaskedSum(share_threshold=n, neighbours=n - 1),
    )
    assert plan.bits_needed == brute_force_bits(plan)
    with pytest.raises(secagg.PlanError):
        dataclasses.replace(plan, bits=plan.bits_needed - 1)
    mask = (1 << plan.wire_bits) - 1
    for each in (low, low + width):
        for count, w in itertools.product((1, n), (1, weight)):
            total = each * count * w
            ring = np.full(plan.ring_length, total & mask, dtype=np.uint64).astype(plan.lane)
            if plan.max_weight > 1:
                ring[-1] = count * w
            assert [int(x) for x in lift(plan, ring)][: plan.length] == [total] * plan.length


def test_more_than_64_bits_are_refused() -> None:
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(stages=(secagg.Integers(0, 1 << 62),), max_weight=1 << 20)
    assert caught.value.rule == "modulus"


@pytest.mark.parametrize(
    "stages",
    [
        (),
        (secagg.ClipLinf(1.0),),
        (secagg.Quantise(8),),
        (secagg.Quantise(8), secagg.ClipLinf(1.0)),
        (secagg.Integers(0, 1), secagg.ClipL2(1.0), secagg.Quantise(3)),
        (secagg.ClipLinf(1.0), secagg.Integers(0, 1)),
        (secagg.ClipLinf(1.0), secagg.Quantise(8), secagg.Quantise(8)),
    ],
)
def test_stages_that_do_not_fit_together_are_refused(stages: Any) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(stages=stages)
    assert caught.value.rule == "stage-order"


def recommend(n: int, **choices: Any) -> secagg.Plan:
    """A recommended plan for ``n`` sites with short vectors of small counts."""
    arguments: dict[str, Any] = {"length": 4, "stages": (secagg.Integers(0, 9),)} | choices
    return secagg.Plan.recommend(people(n)[0], **arguments)


def test_small_cohorts_pay() -> None:
    """n = 5, c = 1 needs four shares and bears one dropout; n = 3 bears none."""
    five = recommend(
        5,
        threat="malicious-server",
        colluding=1,
        max_dropouts=1,
    )
    assert five.protocol.share_threshold == 4
    for n, drops in ((5, 2), (3, 1)):
        with pytest.raises(secagg.PlanError):
            recommend(
                n,
                threat="malicious-server",
                colluding=1,
                max_dropouts=drops,
                min_honest=2,
            )


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
def test_recommend_gives_a_plan_or_an_error_and_says_why(threat: Any) -> None:
    built = 0
    for n, c, drops in itertools.product((3, 5, 8, 20, 64, 65, 150), (0, 1, 2, 10), (0, 1, 5, 40)):
        try:
            plan = recommend(
                n,
                threat=threat,
                colluding=c,
                max_dropouts=drops,
                sites_receive=c > 0,
            )
        except secagg.PlanError as error:
            assert error.rule
            continue
        built += 1
        why = plan.explain(rounds=10)
        assert len(why) >= 4
        assert any(str(plan.protocol.share_threshold) in line for line in why)
        if not plan.complete:
            found = plan.graph_security()
            assert found.security_bits >= 40
            assert found.correctness_bits >= 20
            assert n >= 65
    assert built > 20


def test_recommend_takes_the_complete_graph_where_the_solver_finds_none() -> None:
    plan = recommend(
        80,
        threat="semi-honest",
        colluding=39,
        max_dropouts=34,
    )
    assert plan.complete


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
def test_recommend_keeps_sums_of_fixed_data_comparable(threat: Any) -> None:
    """The complete graph, and a threshold with which two sums share an honest site."""
    free = recommend(150, threat="semi-honest", colluding=5, max_dropouts=10)
    assert not free.complete
    plan = recommend(150, threat=threat, colluding=5, max_dropouts=10, fixed_data=True)
    assert plan.complete
    assert 2 * plan.protocol.share_threshold > 155
    assert plan.release_block == 8
    with pytest.raises(secagg.PlanError) as caught:
        recommend(150, threat=threat, colluding=5, max_dropouts=10, fixed_data=True, neighbours=40)
    assert caught.value.rule == "fixed-data-graph"
    # A threshold that would do for one sum is not enough for several of the same data.
    assert recommend(10, threat="semi-honest", colluding=2, max_dropouts=5)
    with pytest.raises(secagg.PlanError) as caught:
        recommend(10, threat="semi-honest", colluding=2, max_dropouts=5, fixed_data=True)
    assert caught.value.rule == "one-survivor-set"


def test_recommend_gives_one_retry_and_prints_its_price() -> None:
    plan = recommend(8, threat="malicious-server", colluding=1, max_dropouts=1)
    assert plan.max_inputs_per_model == 2
    price = plan.explain()[-1]
    for words in ("one retry", "that site's vector", "charged twice", "With 1, an aborted round"):
        assert words in price
    once = recommend(
        8, threat="malicious-server", colluding=1, max_dropouts=1, max_inputs_per_model=1
    )
    assert once.max_inputs_per_model == 1
    assert "loses that model's step" in once.explain()[-1]
    many = dataclasses.replace(plan, max_inputs_per_model=4)
    assert "3 retries" in many.explain()[-1]
    assert "up to 4 times" in many.explain()[-1]
    assert "not stated" in dataclasses.replace(plan, max_inputs_per_model=None).explain()[-1]
    fixed = recommend(8, threat="malicious-server", colluding=1, max_dropouts=1, fixed_data=True)
    assert fixed.max_inputs_per_model is None
    assert "at least 4 sites (3 honest + 1 colluding)" in fixed.explain()[-1]


@pytest.mark.parametrize("most", [0, -1, (1 << 16) + 1])
def test_a_limit_of_inputs_is_one_that_can_be_kept(most: int) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(max_inputs_per_model=most)
    assert caught.value.rule == "inputs-limit"
    for wrong in (True, 1.0, "2"):
        with pytest.raises(secagg.PlanError) as caught:
            make_plan(max_inputs_per_model=wrong)
        assert (caught.value.rule, caught.value.field) == ("field-types", "max_inputs_per_model")


def test_the_graph_is_regular_symmetric_and_redrawn() -> None:
    plan = recommend(
        150,
        threat="semi-honest",
        colluding=5,
        max_dropouts=10,
    )
    graphs = [draw(plan, digest("graph", i)) for i in range(20)]
    for graph in graphs:
        for site, near in enumerate(graph):
            assert len(set(near)) == plan.protocol.neighbours
            assert site not in near
            assert list(near) == sorted(near)
            assert all(site in graph[peer] for peer in near)
    assert len({tuple(graph) for graph in graphs}) == 20
    # Over many draws every pair is equally likely: k / (n - 1), within 5 standard errors.
    pairs = sum(1 in draw(plan, digest("pair", i))[0] for i in range(2000))
    p = plan.protocol.neighbours / 149
    assert abs(pairs - 2000 * p) < 5 * math.sqrt(2000 * p * (1 - p))


def test_capture_bound_holds_after_the_allowed_sites_left() -> None:
    """Drawn over the whole roster, early dropouts do not raise the colluders' share: captures
    among the drawn neighbourhoods stay at the hypergeometric law of the roster."""
    n, colluding, k, drops = 100, 33, 10, 33
    plan = make_plan(
        n,
        threat="semi-honest",
        colluding=0,
        sites_receive=False,
        max_dropouts=0,
        protocol=secagg.MaskedSum(share_threshold=2, neighbours=k),
    )
    law = sum(
        math.comb(colluding, x) * math.comb(n - 1 - colluding, k - x) for x in range(6, k + 1)
    ) / math.comb(n - 1, k)
    bound = secagg.graph_security(n, colluding, drops, k, 6)
    trials, captured, survivors = 400, 0, 0
    for trial in range(trials):
        graph = draw(plan, digest("capture", trial))
        # The honest sites from 33 to 65 leave before the graph is used.
        for site in range(colluding + drops, n):
            survivors += 1
            captured += sum(peer < colluding for peer in graph[site]) >= 6
    spread = 5 * math.sqrt(law * (1 - law) / survivors) * 3  # neighbourhoods overlap
    assert abs(captured / survivors - law) < spread
    assert law * n >= 2**-bound.capture_bits * 0.9
    # Had the graph been drawn over the advertisers only, the law would be far worse.
    left = n - drops
    worse = sum(
        math.comb(colluding, x) * math.comb(left - 1 - colluding, k - x) for x in range(6, k + 1)
    ) / math.comb(left - 1, k)
    assert worse > 3 * law


def test_a_sparse_plan_keeps_its_bits_whoever_left_first() -> None:
    plan = sparse_plan()
    assert plan.graph_security().security_bits >= plan.security_bits
