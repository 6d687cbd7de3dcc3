"""A server that subtracts sums: retries, aborts, shrinking cohorts, and counts started anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest

import secagg
from secagg.attacks.arena.played import reload
from secagg.attacks.arena.world import World, digest, people
from secagg_protocols.masked_sum import Client, messages
from secagg_protocols.registers import (
    inputs_register,
    released_register,
    unpack_released,
    unpack_tags,
)
from support.subtracting import (
    NAMES,
    VICTIM,
    Adversary,
    N,
    Sessions,
    of_sites,
    plan_for,
    stopped,
    succeeded,
    truth,
    without,
)

# (a) One model, asked for again from one site fewer.


def retry(kind: type[Client]) -> Adversary:
    server = Adversary(plan_for("inputs-per-model"), kind)
    server.round()
    server.round([VICTIM])
    return server


def test_a_retry_with_one_site_fewer_is_refused() -> None:
    stopped(retry(Client), "inputs-per-model")


def test_without_the_limit_the_retry_gives_the_lost_site_s_vector() -> None:
    succeeded(retry(without("inputs-per-model")))


def test_one_retry_costs_what_explain_says() -> None:
    """What ``recommend`` gives allows one retry, and one retry is enough to subtract."""
    roster = people(N)[0]
    plan = secagg.Plan.recommend(
        roster,
        length=5,
        stages=(secagg.Integers(0, 1000),),
        threat="malicious-server",
        colluding=1,
        max_dropouts=4,
    )
    assert plan.max_inputs_per_model == 2
    assert any("their difference can be that site's vector" in line for line in plan.explain())
    server = Adversary(plan)
    server.round()
    server.round([VICTIM])
    succeeded(server)
    server.round([VICTIM, "s8"])
    assert server.refusals == {"inputs-per-model"}
    assert server.solve("s8") is None
    # A site that wants none says so in its own floors.
    careful = Adversary(plan)
    floors = {name: secagg.Floors(most_inputs_per_model=1) for name in NAMES}
    careful.round(floors=floors)
    careful.round([VICTIM], floors=floors)
    stopped(careful, "inputs-per-model")


# (b) Aborts: the inputs are there, and the server says that the round failed.


def aborts(kind: type[Client]) -> Adversary:
    server = Adversary(dataclasses.replace(plan_for("inputs-per-model"), max_inputs_per_model=2))
    server.kind = kind
    first = server.round(abort=True)
    assert len([f for k, _, _, f in first.frames if k == messages.INPUT.number]) == N
    second = server.round()
    assert second.result is not None  # the one retry
    server.round([VICTIM])
    return server


def test_a_second_retry_after_an_abort_is_refused() -> None:
    stopped(aborts(Client), "inputs-per-model")


def test_without_the_limit_two_retries_give_a_vector() -> None:
    succeeded(aborts(without("inputs-per-model")))


def test_an_abort_before_the_input_costs_no_input() -> None:
    """Rounds that fail earlier may be repeated: nothing of the vector was sent."""
    plan, journals = plan_for("inputs-per-model"), dict[str, Any]()
    for number in range(3):
        world = World(plan, journals=journals, round=number)
        with pytest.raises(secagg.ThresholdError):
            world.run({2: NAMES})
        model = world.parties["s0"].contexts.model_hash
        assert unpack_tags(journals["s0"].read(inputs_register("s0", "", model))) == ()
    world = World(plan, journals=journals, round=3).run()
    assert world.result is not None
    assert len(unpack_tags(journals["s0"].read(inputs_register("s0", "", model)))) == 1


# (c) Fixed data: cohorts that shrink by one site a round.

SHRINKING = ("s9", "s8", "s7")


def shrink(kind: type[Client]) -> Adversary:
    server = Adversary(plan_for("fixed-difference"), kind)
    for lost in range(len(SHRINKING) + 1):
        server.round(SHRINKING[:lost])
    return server


def test_shrinking_by_one_is_refused_and_ends_the_analysis() -> None:
    server = shrink(Client)
    assert server.refusals == {"fixed-difference", "fixed-ended"}
    assert len(server.seen) == 1
    # What ended it stays on record, however often the server comes back.
    kept = unpack_released(server.journals["s0"].read(released_register("s0", "")))
    assert kept.ended == "fixed-difference"
    assert [server.solve(victim) for victim in SHRINKING] == [None] * 3


def test_without_the_rule_every_site_that_leaves_is_laid_bare() -> None:
    succeeded(shrink(without("fixed-difference")), SHRINKING)


# Sets that leave and return, each differing from the last by a whole block.

TRIPLES = (("s7", "s8", "s9"), ("s6", "s8", "s9"), ("s6", "s7", "s9"), ("s6", "s7", "s8"))


def returning(kind: type[Client]) -> Adversary:
    server = Adversary(plan_for("fixed-nested"), kind)
    for triple in TRIPLES:
        server.round()
        server.round(triple)
    return server


def test_a_site_that_returns_is_refused() -> None:
    server = returning(Client)
    assert server.refusals == {"fixed-nested", "fixed-ended"}
    assert [len(sites) for sites, _ in server.seen] == [N, N - 3]
    assert [server.solve(f"s{i}") for i in range(N)] == [None] * N


def test_without_nesting_blocks_of_three_are_solved_for_single_sites() -> None:
    succeeded(returning(without("fixed-nested")), ("s6", "s7", "s8", "s9"))


# (d) Counts started anew.

RULES = ("inputs-per-model", "fixed-difference")


def new_session(server: Adversary) -> dict[str, Any]:
    return {"session": "another", "round": 0}


def new_epoch(server: Adversary) -> dict[str, Any]:
    roster = dataclasses.replace(server.plan.roster, epoch=1)
    return {"plan": dataclasses.replace(server.plan, roster=roster)}


def new_order(server: Adversary) -> dict[str, Any]:
    """An epoch in which every site has another index."""
    sites = server.plan.roster.sites[::-1]
    roster = dataclasses.replace(server.plan.roster, sites=sites, epoch=1)
    return {"plan": dataclasses.replace(server.plan, roster=roster)}


def rotated_keys(server: Adversary) -> dict[str, Any]:
    """An epoch in which every site has another key."""
    fresh = {name: secagg.Identity(name, digest("rotated", name)) for name in NAMES}
    sites = tuple((name, fresh[name].public) for name in NAMES)
    roster = dataclasses.replace(server.plan.roster, sites=sites, epoch=1)
    return {"plan": dataclasses.replace(server.plan, roster=roster), "identities": fresh}


def another_plan(server: Adversary) -> dict[str, Any]:
    """The same data under a plan that differs in a detail."""
    return {"plan": dataclasses.replace(server.plan, bits=40)}


def fresh_dump(server: Adversary) -> dict[str, Any]:
    """Parties of dumps that were taken before the first round, with the journals of today."""
    kind = server.kind
    old = World(server.plan, classes=dict.fromkeys(NAMES, kind), round=1)
    dumps = {name: old.parties[name].dump() for name in NAMES}

    def setup(world: World) -> None:
        for name in NAMES:
            world.parties[name] = reload(kind, world, name, dumps[name])

    return {"setup": setup}


RESETS = (new_session, new_epoch, new_order, rotated_keys, another_plan, fresh_dump)


def reset(rule: str, kind: type[Client], again: Any) -> Adversary:
    server = Adversary(plan_for(rule), kind)
    server.round()
    server.round([VICTIM], **again(server))
    return server


@pytest.mark.parametrize("again", RESETS)
@pytest.mark.parametrize("rule", RULES)
def test_nothing_that_a_server_starts_anew_starts_a_count_anew(rule: str, again: Any) -> None:
    stopped(reset(rule, Client, again), rule)


@pytest.mark.parametrize("again", RESETS)
@pytest.mark.parametrize("rule", RULES)
def test_without_the_rule_the_same_attack_gives_the_vector(rule: str, again: Any) -> None:
    succeeded(reset(rule, without(rule), again))


def smaller_roster(kind: type[Client], leaves: Iterable[str]) -> Adversary:
    """An epoch that some sites have left: indices move, and U3 is again everybody."""
    server = Adversary(plan_for("fixed-difference"), kind)
    server.round()
    left = set(leaves)
    sites = tuple(site for site in server.plan.roster.sites if site[0] not in left)
    roster = dataclasses.replace(server.plan.roster, sites=sites, epoch=1)
    protocol = secagg.MaskedSum(share_threshold=6, neighbours=len(sites) - 1)
    plan = dataclasses.replace(server.plan, roster=roster, protocol=protocol, max_dropouts=1)
    server.round(plan=plan, identities=people(N)[1])
    return server


def test_an_epoch_without_one_site_is_refused() -> None:
    """By name, s0 left; by index, s9 did."""
    stopped(smaller_roster(Client, ["s0"]), "fixed-difference", ["s0"])
    succeeded(smaller_roster(without("fixed-difference"), ["s0"]), ["s0"])


def test_an_epoch_without_a_block_goes_on() -> None:
    server = smaller_roster(Client, ["s0", "s1", "s2"])
    assert server.refusals == set()
    assert [len(sites) for sites, _ in server.seen] == [N, N - 3]
    assert [server.solve(name) for name in NAMES] == [None] * N


def joined(kind: type[Client]) -> Adversary:
    """An epoch that a site joins: the difference is the new site's vector alone."""
    # With a threshold that would do for eleven, so that it is the sets that decide.
    server = Adversary(of_sites(NAMES, 7), kind)
    server.round()
    server.round(plan=of_sites([*NAMES, "s10"], 7), identities=people(11)[1])
    return server


def test_an_epoch_with_one_more_site_is_refused() -> None:
    stopped(joined(Client), "fixed-nested", ["s10"])
    server = joined(without("fixed-nested"))
    assert server.refusals == set()
    assert server.solve("s10") == truth("s10")


# (e) The same over sessions, whose sites run rounds of their own accord.


@pytest.mark.parametrize("rule", RULES)
def test_a_session_refuses_what_its_rounds_refuse(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session repeats a model, or goes on over fixed data, after a site was lost."""
    models = (b"model", b"model") if rule == "inputs-per-model" else (b"one", b"two")
    guarded = Sessions(plan_for(rule), lost_from=1)
    first, second = guarded.rounds(*models)
    assert first is not None
    assert second is None
    assert guarded.refusals == {rule}
    if rule == "fixed-difference":
        ended = {name: site.ended for name, site in guarded.sites.items() if name != VICTIM}
        assert all(isinstance(error, secagg.ReleaseError) for error in ended.values())
    method = "_check_" + rule.replace("-", "_")
    monkeypatch.setattr(Client, method, lambda *_: None)
    careless = Sessions(plan_for(rule), lost_from=1)
    first, second = careless.rounds(*models)
    assert careless.refusals == set()
    assert (first - second).tolist() == truth(VICTIM)
