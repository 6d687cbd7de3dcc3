"""A validly sealed malformed message ends its sender: one site, or a client's round."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from robustness.malform import FIELDS, Station, stations
from robustness.rounds import PLANS, SERVER, Round, seal_frame, setup, vector_of
from robustness.variants import Variant, general, particular

import secagg
from secagg_protocols.masked_sum import messages

UP, DOWN = (1, 3, 5, 7, 9), (2, 4, 6, 8, 10)


def kinds(directions: tuple[int, ...]) -> list[Any]:
    return [
        pytest.param(plan, kind, id=f"{plan}-{messages.KINDS[kind].header.__name__}")
        for plan in PLANS
        for kind in directions
        if kind not in {7, 8} or plan == "malicious-server"
    ]


@functools.cache
def station_of(plan_kind: str, kind: int, gone_before: int = 99) -> Station:
    """The second party of its kind, with the last site silent from ``gone_before`` on."""
    plan, identities = setup(plan_kind)
    round_ = Round(plan, identities, silent={plan.roster.names[-1]: gone_before})
    return stations(round_)[kind]


def tried(station: Station, check: Callable[[Station, Variant], None]) -> int:
    count = 0
    for variant in (*general(station), *particular(station)):
        check(station, variant)
        count += 1
    return count


@pytest.mark.parametrize(("plan_kind", "kind"), kinds(UP))
def test_a_malformed_message_drops_its_site(plan_kind: str, kind: int) -> None:
    station = station_of(plan_kind, kind)
    site = station.message.sender

    def check(station: Station, variant: Variant) -> None:
        name, parts, rules = variant
        party = station.fresh()
        (event,) = party.receive(station.seal(parts), sender=site)
        assert isinstance(event, secagg.Dropped), (name, event)
        assert event.site == site
        assert isinstance(event.error, secagg.PeerError)
        assert event.error.rule in rules, (name, event)
        assert event.error.sender == site, (name, event)
        if event.error.rule in {"header", "canonical", "tail-length", "padding", "share-range"}:
            assert isinstance(event.error, secagg.DecodeError)
        # It is over for this site: neither its true message nor a second offence counts.
        after = party.dump()
        for data in (station.message.data, station.seal(parts)):
            (event,) = party.receive(data, sender=site)
            assert isinstance(event, secagg.Ignored), (name, event)
        assert party.dump() == after

    # Headers with fields have more ways to be wrong.
    assert tried(station, check) > (20 if not FIELDS[kind] else 40)


@pytest.mark.parametrize(("plan_kind", "kind"), kinds(UP))
def test_the_round_goes_on_without_the_site_that_was_ended(plan_kind: str, kind: int) -> None:
    plan, identities = setup(plan_kind)
    site = plan.roster.names[1]
    variants = [*general(station_of(plan_kind, kind)), *particular(station_of(plan_kind, kind))]
    chosen = {min(rules): (name, parts) for name, parts, rules in variants}
    for name, parts in chosen.values():
        round_ = Round(plan, identities)
        hub = round_.parties[SERVER]
        for message in round_.deliveries():
            if message.kind == kind and message.sender == site:
                context = hub.contexts.round if kind >= 5 else hub.contexts.setup
                bad = seal_frame(plan, identities[site], context, parts)
                (event,) = hub.receive(bad, sender=site)
                assert isinstance(event, secagg.Dropped), name
        round_.assert_exact()
        result = round_.result()
        # An input that was added stays in the sum; before that the site is not in it.
        if kind <= 5:
            assert site in result.dropped
        else:
            assert site in result.survivors
            assert site in result.left


@pytest.mark.parametrize("gone_before", [99, 1, 3, 5])
@pytest.mark.parametrize(("plan_kind", "kind"), kinds(DOWN))
def test_a_malformed_message_of_the_server_ends_the_client(
    plan_kind: str, kind: int, gone_before: int
) -> None:
    """Also while the last site is gone, where lists are proper parts of the roster."""
    station = station_of(plan_kind, kind, gone_before)
    plan, identities = setup(plan_kind)
    identity = identities[station.message.recipient] if plan.signed else None

    def check(station: Station, variant: Variant) -> None:
        name, parts, rules = variant
        party = station.fresh()
        with pytest.raises(secagg.PeerError) as caught:
            events = party.receive(station.seal(parts), sender=SERVER)
            print(name, events)
        error = caught.value
        assert error.rule in rules, (name, error)
        if error.rule in {"header", "canonical", "tail-length"}:
            assert isinstance(error, secagg.DecodeError)
            assert error.sender == SERVER, name
        else:
            # A bad relayed signature or key is blamed on the site whose it should be.
            assert error.sender is not None
        twin = secagg.load(party.dump(), plan, identity, party.journal.copy())
        for ended in (party, twin):
            (event,) = ended.receive(station.message.data, sender=SERVER)
            assert isinstance(event, secagg.Ignored)
            with pytest.raises(secagg.MisuseError) as refused:
                ended.submit(vector_of(plan, station.message.recipient))
            assert refused.value.rule == "ended"
            with pytest.raises(secagg.MisuseError):
                ended.start()

    assert tried(station, check) > 40


@pytest.mark.parametrize(("plan_kind", "kind"), kinds(UP))
def test_two_messages_of_a_site_for_one_step_end_it_with_evidence(
    plan_kind: str, kind: int
) -> None:
    station = station_of(plan_kind, kind)
    site = station.message.sender
    party = station.fresh()
    (event,) = party.receive(station.message.data, sender=site)
    assert isinstance(event, secagg.Progress)
    other = station.seal(replace(station.parts, tail=station.parts.tail[::-1] + b"x"))
    (event,) = party.receive(other, sender=site)
    assert isinstance(event, secagg.Dropped)
    assert isinstance(event.error, secagg.EquivocationError)
    assert event.error.sender == site
    assert len(set(event.error.digests)) == 2


@pytest.mark.parametrize(("plan_kind", "kind"), kinds(DOWN))
def test_two_messages_of_the_server_for_one_step_end_the_client(plan_kind: str, kind: int) -> None:
    station = station_of(plan_kind, kind)
    party = station.fresh()
    party.receive(station.message.data, sender=SERVER)
    other = station.seal(replace(station.parts, tail=station.parts.tail + b"x"))
    with pytest.raises(secagg.EquivocationError) as caught:
        party.receive(other, sender=SERVER)
    assert caught.value.sender == SERVER
    assert len(set(caught.value.digests)) == 2
    (event,) = party.receive(station.message.data, sender=SERVER)
    assert isinstance(event, secagg.Ignored)
