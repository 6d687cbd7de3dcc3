"""Attacks on the Paillier sum by a server: single sites opened, parts of them, two sets of them.

Rules and their controls stand in ``tests/rules/test_paillier_rules.py``. Here an attack is played
to its end, and what the attacker would have learned is looked at. Attacks by sites stand in
``test_site_attacks.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.attacks.arena.paillier_played import rules_of
from secagg.attacks.arena.paillier_world import (
    PaillierWorld,
    make_plan,
    one_key_plan,
    trusting_plan,
)
from secagg_protocols.paillier import threshold
from secagg_protocols.paillier_sum import messages
from secagg_protocols.paillier_sum.product import Product, read_rows

ALL = (0, 1, 2, 3)
#: Plans whose holders recompute what they open: both threats, and one key.
PLANS = {
    "malicious-server": make_plan(),
    "semi-honest": trusting_plan(),
    "one key": one_key_plan(),
}


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> secagg.Plan:
    return PLANS[str(request.param)]


# A server that wants something else opened.


def sent(world: PaillierWorld, site: int) -> bytes:
    """What a site sent to the server."""
    return world.frame(messages.ENCRYPTED, f"s{site}", "server")


def product_of(world: PaillierWorld, sites: Iterable[int], times: int = 1) -> bytes:
    """Digest of the product of these sites' ciphertexts, of some of them repeatedly."""
    product = Product(world.plan)
    for site in sites:
        tail = world.parts(sent(world, site))[1]
        rows = read_rows(world.plan, memoryview(tail))[0]
        for _ in range(times):
            product.multiply(site, rows, threads=1)
    return product.digest(world.server.contexts.round)


def request(world: PaillierWorld, listed: Iterable[int], product: bytes) -> bytes:
    """The server's request to h0, validly signed."""
    header = messages.Open(world.bitmap(*listed), product)
    return world.reseal(world.frame(messages.OPEN, "server", "h0"), header=header)


def given(plan: secagg.Plan, sites: Iterable[int]) -> PaillierWorld:
    """A world whose h0 got the inputs of some sites; the server has asked for all, unheard."""
    kept = {f"s{site}" for site in sites}

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if to in world.holders:
            signer = world.name(int.from_bytes(frame[4:8], "little"))
            return None if to == "h0" and signer in kept else []
        return None

    world = PaillierWorld(plan, edit=edit)
    world.send_inputs()
    world.pump(world.server.close_step(), "server")
    return world


def ask(world: PaillierWorld, frame: bytes) -> list[str]:
    return rules_of(lambda: world.parties["h0"].receive(frame, sender="server"))


@pytest.mark.parametrize(
    ("inputs", "listed", "opened", "rule"),
    [
        # One site, honestly asked for; with a list that looks well; without the others' inputs.
        ((0,), (0,), (0,), "cohort"),
        (ALL, (0,), (0,), "cohort"),
        ((0,), ALL, (0,), "given"),
        (ALL, ALL, (0,), "product"),
        # A part of them, such that the rest could be subtracted.
        (ALL, (0, 1, 2), (0, 1, 2), "given"),
        ((0, 1, 2), ALL, (0, 1, 2), "given"),
        (ALL, ALL, (0, 1, 2), "product"),
        ((0, 1, 2), ALL, ALL, "given"),
    ],
)
def test_a_server_opens_neither_one_site_nor_a_part(
    inputs: tuple[int, ...], listed: tuple[int, ...], opened: tuple[int, ...], rule: str, plan: Any
) -> None:
    world = given(plan, inputs)
    assert ask(world, request(world, listed, product_of(world, opened))) == [rule]
    holder = world.parties["h0"]
    assert world.journals["h0"].newest(holder._journal_key) == 0
    # Inputs may have been lost on their way, so such a request ends nothing; any other does.
    answered = rule == "given" and len(inputs) >= plan.min_survivors
    after = ["cohort"] if rule == "given" else [rule]
    true = request(world, inputs, product_of(world, inputs))
    assert ask(world, true) == ([] if answered else after)
    # Now it has answered, or is ended: the other request comes too late.
    bad = request(world, listed, product_of(world, opened))
    assert ask(world, bad) == (["equivocation"] if answered else after)
    assert world.journals["h0"].newest(holder._journal_key) == (5 if answered else 0)


def test_the_order_of_the_product_does_not_matter(plan: secagg.Plan) -> None:
    world = given(plan, ALL)
    digests = {product_of(world, order) for order in permutations(ALL)}
    assert len(digests) == 1
    (digest,) = digests
    assert ask(world, request(world, ALL, digest)) == []


def test_a_server_has_no_power_of_the_product_opened(plan: secagg.Plan) -> None:
    """Site 0 twice, so that two openings would differ by its vector."""
    world = given(plan, ALL)
    assert ask(world, request(world, ALL, product_of(world, ALL, times=2))) == ["product"]


def test_ciphertexts_that_no_site_signed_are_not_taken() -> None:
    """The server has no site's key, and a vector of its own cannot pass for a site's."""
    world = PaillierWorld(make_plan()).send_inputs()
    frame = sent(world, 0)
    forged = world.reseal(frame, tail=world.parts(sent(world, 1))[1])
    signed = world.identities["server"].sign(b"".ljust(32))
    fresh = PaillierWorld(make_plan()).parties["h0"]
    assert rules_of(lambda: fresh.receive(forged[:-64] + signed, sender="server")) == ["trailer"]
    # A colluding site signs what it likes, but under its own name only.
    other = world.reseal(frame, sender="s1")[-64:]
    assert rules_of(lambda: fresh.receive(frame[:-64] + other, sender="server")) == ["trailer"]


# Two openings in one round.


def second(
    world: PaillierWorld, holder: Any, sites: Iterable[int], model: bytes | None = None
) -> list[str]:
    """Have a holder open the sum of other sites; rules of its refusal."""
    if model is not None:
        holder.use_model(model)
    for site in sites:
        got = rules_of(lambda site=site: holder.receive(sent(world, site), sender="server"))
        assert got in ([], ["step-order"])
    return rules_of(
        lambda: holder.receive(request(world, sites, product_of(world, sites)), sender="server")
    )


def loaded(world: PaillierWorld, dump: bytes, **changes: Any) -> Any:
    return secagg.load(
        dump,
        world.plan,
        world.identities["h0"],
        world.journals["h0"],
        share=world.shares["h0"],
        **changes,
    )


def test_an_older_dump_opens_no_second_set(plan: secagg.Plan) -> None:
    world = PaillierWorld(plan)
    empty = world.parties["h0"].dump()
    world.run()
    # The same set again is the same answer, bit for bit; another set is none.
    first = world.frame(messages.OPENED, "h0")
    again = loaded(world, empty)
    for site in ALL:
        again.receive(sent(world, site), sender="server")
    events = again.receive(world.frame(messages.OPEN, "server", "h0"), sender="server")
    assert [e.data for e in events if isinstance(e, secagg.Send)] == [first]
    part = loaded(world, empty)
    assert second(world, part, (0, 1, 2)) == ["journal-once"]
    assert rules_of(part.start) == ["ended"]


@pytest.mark.parametrize("kind", ["malicious-server", "one key"])
def test_another_model_is_no_second_opening(kind: str) -> None:
    """Sites that get two models encrypt for both; a holder answers for one of them."""
    plan = PLANS[kind]
    first = PaillierWorld(plan)
    unset = PaillierWorld(plan, model=None, journals=first.journals)
    empty = unset.parties["h0"].dump()
    first.run()
    # Fresh journals of the sites: each of them alone believes to be in one round.
    others = PaillierWorld(plan, model=b"another model").send_inputs()
    others.pump(others.server.close_step(), "server")
    again = loaded(first, empty, model=b"another model")
    assert second(others, again, ALL) == ["journal-once"]
    # Neither do the sites: their journals know no model.
    for name in plan.roster.names:
        site = PaillierWorld(plan, model=b"another model", journals=first.journals).parties[name]
        site.start()
        assert rules_of(lambda site=site, n=name: site.submit(first.vectors[n])) == ["journal-once"]


def test_two_copies_of_a_dump_open_one_set(plan: secagg.Plan) -> None:
    world = given(plan, (0, 1, 2))
    dump = world.parties["h0"].dump()
    twins = [loaded(world, dump) for _ in range(2)]
    assert second(world, twins[0], (0, 1, 2)) == []
    twins[1].receive(sent(world, 3), sender="server")
    assert second(world, twins[1], ALL) == ["journal-once"]


def test_another_journal_would_open_both(plan: secagg.Plan) -> None:
    """The control: nothing but the journal stops the second opening."""
    world = given(plan, (0, 1, 2))
    dump = world.parties["h0"].dump()
    assert second(world, loaded(world, dump), (0, 1, 2)) == []
    world.journals["h0"] = secagg.MemoryJournal()
    twin = loaded(world, dump)
    twin.receive(sent(world, 3), sender="server")
    assert second(world, twin, ALL) == []


def test_a_server_that_is_loaded_twice_asks_for_one_set(plan: secagg.Plan) -> None:
    world = PaillierWorld(plan).send_inputs(drop=["s3"])
    copies: list[Any] = [
        secagg.load(world.server.dump(), plan, world.identities["server"], world.journals["server"])
        for _ in range(2)
    ]
    assert rules_of(copies[0].close_step) == []
    world.parties["s3"].start()
    (late,) = world.parties["s3"].submit(world.vectors["s3"])
    copies[1].receive(late.data, sender="s3")
    with pytest.raises(secagg.MisuseError) as caught:
        copies[1].close_step()
    assert caught.value.rule == "journal-once"


# Holders who collude, and sets of them that could be asked for two sums.


def answer(world: PaillierWorld, name: str, sites: Iterable[int]) -> Any:
    """What a new object of a holder answers for the product of these sites."""
    holder = PaillierWorld(world.plan, journals=world.journals).parties[name]
    for site in sites:
        holder.receive(sent(world, site), sender="server")
    header = messages.Open(world.bitmap(*sites), product_of(world, sites))
    frame = world.reseal(world.frame(messages.OPEN, "server", name), header=header)
    (send, _) = holder.receive(frame, sender="server")
    rows = np.frombuffer(world.parts(send.data)[1][: messages.opened_size(world.plan)], "<u8")
    return rows.astype(np.uint64).reshape(-1, 2 * world.key.words)


def opened(world: PaillierWorld, answers: dict[str, Any], sites: int) -> list[int]:
    """The sum that a server reads from the answers of enough holders."""
    shares = {int(name[1]) + 1: rows for name, rows in answers.items()}
    ring = np.zeros(world.plan.ring_length, dtype=world.plan.lane)
    messages.layout_of(world.plan).unpack(threshold.combine(world.key, shares), sites, ring)
    return [int(value) for value in ring]


def test_two_sets_of_holders_that_do_not_meet_would_open_two_sums() -> None:
    """What the plan's rule ``one-opening`` prevents: this plan is for a server that is trusted."""
    plan = trusting_plan(holders=4, threshold=2)
    world = PaillierWorld(plan).send_inputs()
    world.edit = lambda *args: []
    world.pump(world.server.close_step(), "server")
    whole = opened(world, {name: answer(world, name, ALL) for name in ("h0", "h1")}, 4)
    part = opened(world, {name: answer(world, name, ALL[:3]) for name in ("h2", "h3")}, 3)
    difference = [a - b for a, b in zip(whole, part, strict=True)]
    assert difference == world.vectors["s3"].tolist()


def test_two_sets_of_holders_that_meet_open_one_sum() -> None:
    plan = make_plan()
    world = PaillierWorld(plan).send_inputs()
    world.edit = lambda *args: []
    world.pump(world.server.close_step(), "server")
    whole = {name: answer(world, name, ALL) for name in ("h0", "h1")}
    assert opened(world, whole, 4) == [sum(v) for v in zip(*world.vectors.values(), strict=True)]
    part = {"h2": answer(world, "h2", ALL[:3])}
    for name in ("h0", "h1"):
        with pytest.raises(secagg.MisuseError) as caught:
            answer(world, name, ALL[:3])
        assert caught.value.rule == "journal-once"
    with pytest.raises(secagg.MisuseError):
        opened(world, part, 3)


def test_as_many_holders_as_it_takes_read_any_vector_and_fewer_do_not() -> None:
    """The limit of the protocol: who has enough shares needs no server and no journal."""
    plan = make_plan()
    world = PaillierWorld(plan).send_inputs()
    tail = world.parts(sent(world, 2))[1]
    rows, _ = read_rows(plan, memoryview(tail))
    shares = {
        name: threshold.partial(world.shares[name], rows, context=b"theirs")[0]
        for name in ("h0", "h2")
    }
    assert opened(world, shares, 1) == world.vectors["s2"].tolist()
    with pytest.raises(secagg.MisuseError):
        opened(world, {"h0": shares["h0"]}, 1)
    # One share twice, under two names, is no second one.
    with pytest.raises(secagg.PeerError) as caught:
        opened(world, {"h0": shares["h0"], "h1": shares["h0"]}, 1)
    assert caught.value.rule == "combine"
