"""Attacks that a review of the Paillier sum found. Each is played, and comes to nothing.

Where a *control* takes the defence away, the attack beside it succeeds: so the test can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks.arena import paillier_world
from secagg.attacks.arena.paillier_world import (
    PaillierWorld,
    make_plan,
    one_key_plan,
    people,
    private_key,
    shares_of,
    trusting_plan,
)
from secagg_native.paillier import from_words, to_words
from secagg_protocols import wire
from secagg_protocols.keys import digest_of
from secagg_protocols.paillier import (
    PrivateKey,
    PublicKey,
    knowledge,
    modulus_proof,
    split,
)
from secagg_protocols.paillier_sum import Client, Holder, client, messages, product
from secagg_protocols.paillier_sum.product import Product, read_rows
from support.paillier_keys import primes

PLAN = make_plan()
LIMITS: dict[str, Any] = {
    "smallest_cohort": 3,
    "min_honest": 2,
    "share_threshold": 2,
    "colluding": 1,
    "malicious_server": True,
}


def site(plan: secagg.Plan, name: str, floors: secagg.Floors | None = None) -> Any:
    """A site as the server's proposal would have it."""
    return secagg.client(
        plan, name, identity=people(4, 3)[1][name], session="x", round=0, model=b"",
        floors=floors, journal=secagg.MemoryJournal(),
    )  # fmt: skip


def with_key(plan: secagg.Plan, key: PublicKey) -> secagg.Plan:
    return replace(plan, protocol=secagg.PaillierSum(key=key, colluding_holders=0))


def frames_of(world: PaillierWorld, names: Iterable[str]) -> dict[str, bytes]:
    """What these sites send, with nothing delivered yet."""
    made = {}
    for name in names:
        party = world.parties[name]
        made[name] = (party.start() + party.submit(world.vectors[name]))[0].data
    return made


def errors_in(events: Iterable[Any]) -> list[tuple[str, str]]:
    """(event, rule) of what was refused."""
    return [(type(e).__name__, e.error.rule) for e in events if hasattr(e, "error")]


def refusals(world: PaillierWorld) -> list[tuple[str, str | None, str]]:
    """(who refused, whom it names, rule) of all that was refused in a round."""
    return [
        (party, getattr(error, "sender", None), error.rule)
        for party, _, error in world.log
        if isinstance(error, secagg.SecAggError)
    ]


def world_of(plan: secagg.Plan, **how: Any) -> Any:
    """A world whose result is looked at only once there is one."""
    return PaillierWorld(plan, **how)


# A server that names a key of its own (finding 1).


@cache
def servers_key() -> tuple[PrivateKey, PublicKey]:
    """A good key, with a valid proof, whose primes the server knows."""
    p, q = primes(2048, 1)
    private = PrivateKey(p, q, proof=modulus_proof.prove(p, q))
    return private, split(private, 3, 2)[0]


def test_a_key_of_the_servers_own_reads_a_site_that_does_not_insist_on_one() -> None:
    """Control: the roster is the right one and every other floor is kept, and yet it is read."""
    private, key = servers_key()
    plan = with_key(PLAN, key)
    assert plan.roster == PLAN.roster
    party = site(plan, "s0", secagg.Floors(**LIMITS | {"malicious_server": False}))
    frame = (party.start() + party.submit(np.arange(5) * 7))[0].data
    tail = wire.split_frame(frame, trailer_size=wire.SIGNATURE_SIZE).tail
    rows, _ = read_rows(plan, tail)
    ring = np.zeros(plan.ring_length, plan.lane)
    messages.layout_of(plan).unpack(private.decrypt(rows), 1, ring)
    assert ring[:5].tolist() == [0, 7, 14, 21, 28]


def test_a_key_of_the_servers_own_is_refused_by_the_floors() -> None:
    own = messages.protocol_of(PLAN).key.digest.hex()
    others = {
        "the server's": servers_key()[1],
        "the same modulus, dealt again": split(private_key(), 3, 2)[0],
    }
    for key in others.values():
        for limits in (LIMITS, {}):
            with pytest.raises(secagg.MisuseError, match="not the one") as refused:
                site(with_key(PLAN, key), "s0", secagg.Floors(**limits, paillier_key=own))
            assert refused.value.rule == "floors"


def test_a_site_that_mistrusts_the_server_must_name_the_key() -> None:
    """It would be easily forgotten, and then the floors would look stricter than they are."""
    for plan in (PLAN, with_key(PLAN, servers_key()[1])):
        with pytest.raises(secagg.MisuseError, match="a Paillier key of its own") as refused:
            site(plan, "s0", secagg.Floors(**LIMITS))
        assert refused.value.rule == "floors"


def test_the_right_key_passes_the_floors_and_a_floor_is_read_from_its_file(tmp_path: Any) -> None:
    own = messages.protocol_of(PLAN).key.digest.hex()
    path = tmp_path / "floors.toml"
    path.write_text(f'malicious_server = true\npaillier_key = "{own}"\n')
    for floors in (
        secagg.Floors(**LIMITS, paillier_key=own),
        secagg.Floors(**LIMITS, paillier_key=own.upper()),
        secagg.Floors.load(path),
    ):
        party = site(PLAN, "s0", floors)
        assert [type(event) for event in party.start() + party.submit(np.arange(5))] == [
            secagg.Send
        ]
    floors = secagg.Floors(**LIMITS, paillier_key=own)
    world = world_of(PLAN, floors=dict.fromkeys([*PLAN.roster.names, "h0", "h1"], floors))
    world.run()
    assert world.result.sum.tolist() == world.weighed()


@pytest.mark.parametrize("value", ["", "00", "g" * 64, "0" * 63, "0" * 65, 0, b"0" * 64])
def test_a_key_id_is_64_hexadecimal_digits(value: object) -> None:
    with pytest.raises(secagg.MisuseError) as refused:
        secagg.Floors(paillier_key=value)  # type: ignore[arg-type]
    assert refused.value.rule == "floors-file"


# One key for two plans, of which one asks for no proofs (finding 2).


def opened_elsewhere(plan: secagg.Plan, shares: dict[str, Any]) -> PaillierWorld:
    """The server submits s0's signed ciphertexts, and zeros, in another plan's round.

    The holders are those of the first plan, with their journals and these shares.
    """
    first = world_of(PLAN, session="A", shares=HELD).send_inputs()
    rows = first.ciphertexts(first.frame(messages.ENCRYPTED, "s0", "server"))
    world = PaillierWorld(plan, session="B", journals=first.journals, shares=shares)
    world.vectors = {name: np.zeros(plan.length, np.int64) for name in world.vectors}
    world.server.start()
    for name, frame in frames_of(world, ["s0", "s1", "s2"]).items():
        sent = world.with_ciphertexts(frame, rows) if name == "s0" else frame
        world.pump([secagg.Send("server", sent)], name)
    world.vectors = first.vectors
    return world


KEY: PublicKey = messages.protocol_of(PLAN).key
HELD = shares_of(PLAN)


@pytest.fixture
def world_with_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds whose holders have the shares that a test gives them, and no others."""
    monkeypatch.setattr(paillier_world, "shares_of", lambda plan: {})


def without() -> secagg.Plan:
    """A trusting plan under the numbers of the other plan's key, which asks for no proofs."""
    return with_key(trusting_plan(), replace(KEY, knowledge_proofs=False))


@pytest.mark.usefixtures("world_with_shares")
def test_holders_of_a_key_with_proofs_serve_no_plan_without() -> None:
    """The same numbers are another key there, so an honest holder is never asked."""
    with pytest.raises(secagg.MisuseError) as refused:
        opened_elsewhere(without(), HELD)
    assert refused.value.rule == "own-share"


@pytest.mark.usefixtures("world_with_shares")
def test_a_trusting_plan_under_a_key_with_proofs_asks_for_them_too() -> None:
    """Nothing of a plan says otherwise: the use is the key's alone."""
    with pytest.raises(TypeError):
        secagg.PaillierSum(
            key=KEY,
            colluding_holders=0,
            knowledge_proofs=False,  # type: ignore[call-arg]
        )
    world = opened_elsewhere(with_key(trusting_plan(), KEY), HELD)
    assert refusals(world) == [("server", "s0", "knowledge")]
    with pytest.raises(secagg.ThresholdError):
        world.run_on()


def test_whole_keys_have_one_use_as_well() -> None:
    """In one-key mode the holder's private key carries it."""
    plan = one_key_plan(threat="semi-honest", knowledge_proofs=False)
    identity = people(4, 1)[1]["h0"]
    with pytest.raises(secagg.MisuseError) as refused:
        Holder(plan, 4, share=private_key(), identity=identity, session="B", round=0, model=b"",
               floors=None, journal=secagg.MemoryJournal())  # fmt: skip
    assert refused.value.rule == "own-share"


@pytest.mark.usefixtures("world_with_shares")
def test_control_ids_that_did_not_cover_the_use_would_open_a_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it was when the use belonged to the plan: the first plan's holders open s0's vector."""
    monkeypatch.setattr(
        PublicKey, "digest", property(lambda key: digest_of(b"test", repr(key.n).encode()))
    )
    world: Any = opened_elsewhere(without(), HELD).run_on()
    assert world.result.sum.tolist() == world.vectors["s0"].tolist()


# Two inputs of one round, from a site whose journal was lost or rolled back (finding 3).


def two_inputs(plan: secagg.Plan, other: Callable[[Any], Any]) -> tuple[PaillierWorld, list[bytes]]:
    """A dump from before the input, loaded twice with journals that know nothing of each other."""
    world = PaillierWorld(plan)
    world.parties["s0"].start()
    dump = world.parties["s0"].dump()
    frames = []
    for x in (world.vectors["s0"], other(world.vectors["s0"].copy())):
        party: Any = secagg.load(
            dump, plan, world.identities["s0"], secagg.MemoryJournal(), model=b"model"
        )
        frames.append(party.submit(x)[0].data)
    return world, frames


def changed(x: Any) -> Any:
    x[-1] += 1  # such as a model that was trained again after a crash
    return x


def recovered(world: PaillierWorld, frames: list[bytes]) -> tuple[list[int], list[int], list[int]]:
    """What shared random factors would show, for each row.

    Of factors: c'/c modulo n, which is 1. Of factors and masks: M, since c'/c = 1 + n (M' - M) and
    z - z' = e' M' - e M. Of masks alone, in rows that did not change: M = (z - z') / (e' - e).
    """
    n, size = world.key.n, 8 * world.key.words
    rows = [world.ciphertexts(frame) for frame in frames]
    ratios = [c2 * pow(c1, -1, n * n) % (n * n) for c1, c2 in zip(*rows, strict=True)]
    proofs = [world.parts(frame)[1][messages.vector_size(world.plan) :] for frame in frames]
    e1, e2 = (int.from_bytes(proof[:16], "little") for proof in proofs)
    by_both, by_masks = [], []
    for i, ratio in enumerate(ratios):
        z1, z2 = (
            int.from_bytes(proof[16 + i * size : 16 + (i + 1) * size], "little") for proof in proofs
        )
        inverse = pow(e2 - e1, -1, n)
        by_both.append((z1 - z2 - e2 * ((ratio - 1) // n)) * inverse % n)
        by_masks.append((z1 - z2) * inverse % n)
    return [ratio % n for ratio in ratios], by_both, by_masks


def plaintexts(world: PaillierWorld) -> list[int]:
    """What s0 encrypts, as integers."""
    plan = world.plan
    ring = world.vectors["s0"].astype(plan.lane)
    return from_words(messages.layout_of(plan).pack(ring, 0))


LONG = make_plan(length=400)  # several ciphertexts


def test_two_vectors_of_a_rolled_back_site_share_no_random_factor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even in the rows in which they are the same."""
    monkeypatch.setattr(client, "BATCH", 1)
    world, frames = two_inputs(LONG, changed)
    assert messages.layout_of(LONG).rows > 1
    shared, by_both, by_masks = recovered(world, frames)
    assert 1 not in shared
    assert not {*by_both, *by_masks} & set(plaintexts(world))


def test_the_same_vector_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a site that crashed sends again what it may have sent before, whatever its batches."""
    _, (first, second) = two_inputs(LONG, lambda x: x)
    assert first == second
    monkeypatch.setattr(client, "BATCH", 1)
    assert two_inputs(LONG, lambda x: x)[1][0] == first


def test_control_random_factors_that_did_not_follow_from_the_vector_show_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    derived = Client._derived
    monkeypatch.setattr(
        Client, "_derived", lambda self, label, bound, size: derived(self, label, b"", size)
    )
    world, frames = two_inputs(LONG, changed)
    shared, by_both, by_masks = recovered(world, frames)
    assert set(shared) == {1}
    assert by_both == plaintexts(world)
    assert by_masks[:-1] == plaintexts(world)[:-1]


# Ciphertexts that look like another site's (finding 4).


def lookalike(world: PaillierWorld, victim: int, context: bytes) -> tuple[list[int], bytes]:
    """A ciphertext of s1 with the low 128 bits of s0's, and a valid proof of knowledge.

    With u = u0 + u1 n the random factor, (1 + M n) u = u0 + n (u1 + u0 M mod n): M is chosen.
    """
    key, n = world.key, world.key.n
    exponents = key.exponents(1)
    u1, u0 = divmod(from_words(key.table.encrypt(exponents))[0], n)
    digit = (victim - u0) * pow(n, -1, 1 << 128) % (1 << 128)
    message = to_words([(digit - u1) * pow(u0, -1, n) % n], key.words)
    rows = key.table.encrypt(exponents, message)
    return from_words(rows), knowledge.prove(key, rows, message, exponents, context=context)


def sent_like_another() -> tuple[PaillierWorld, dict[str, bytes]]:
    world = world_of(PLAN)
    world.server.start()
    frames = frames_of(world, ["s0", "s1", "s2"])
    (victim,) = world.ciphertexts(frames["s0"])
    context = knowledge.site_context(world.server.contexts.round, 1)
    rows, proof = lookalike(world, victim, context)
    assert rows[0] != victim
    assert (rows[0] - victim) % (1 << 128) == 0
    frames["s1"] = world.with_ciphertexts(frames["s1"], rows, proof)
    return world, frames


def test_low_words_that_were_chosen_drop_nobody() -> None:
    """s1 saw what s0 sends and is faster. s0's input is taken, by the server and by holders."""
    world, frames = sent_like_another()
    for name in ("s1", "s0", "s2"):
        world.pump([secagg.Send("server", frames[name])], name)
    assert world.server._product.sites == [0, 1, 2]
    assert world.parties["h0"]._product.sites == [0, 1, 2]
    assert refusals(world) == []


def test_control_tags_of_the_ciphertext_itself_drop_an_honest_site(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(product, "_tags", lambda rows: rows[:, :2].copy())
    world, frames = sent_like_another()
    world.server.receive(frames["s1"], sender="s1")
    (event,) = world.server.receive(frames["s0"], sender="s0")
    assert (event.site, event.error.rule) == ("s0", "repeated")


@pytest.mark.parametrize("first", ["the copy", "the original"])
def test_a_copy_is_its_senders_fault_alone(first: str) -> None:
    """It comes with no proof of its sender's, and that is looked at before what was sent before.

    Looked at the other way round, a copy that comes second is [repeated], of which s0 is suspect.
    """
    world = world_of(PLAN)
    world.server.start()
    frames = frames_of(world, ["s0", "s1"])
    frames["s1"] = world.with_ciphertexts(frames["s1"], world.ciphertexts(frames["s0"]))
    order = ["s1", "s0"] if first == "the copy" else ["s0", "s1"]
    seen = {name: world.server.receive(frames[name], sender=name) for name in order}
    (event,) = seen["s1"]
    assert (event.site, event.error.rule, event.error.sender) == ("s1", "knowledge", "s1")
    assert not set(getattr(event.error, "suspects", ())) - {"s1"}
    assert [type(e) for e in seen["s0"]] == [secagg.Send] * 3 + [secagg.Progress]
    assert world.server._product.sites == [0]
    # A holder that a bad server shows the copy names its sender, and nobody else.
    holder = world.parties["h0"]
    holder.receive(frames["s0"], sender="server")
    with pytest.raises(secagg.PeerError) as refused:
        holder.receive(frames["s1"], sender="server")
    assert (refused.value.rule, refused.value.sender) == ("knowledge", "s1")
    assert not set(refused.value.suspects) - {"s1"}


# A server that lives twice (finding 5).


def give(world: PaillierWorld, frame: bytes, name: str) -> list[Any]:
    """The server takes a frame, and what it passes on arrives."""
    events = world.server.receive(frame, sender=name)
    world.pump(events, "server")
    return list(events)


@pytest.mark.parametrize("dumped", ["before the input", "after the input"])
def test_a_server_that_crashed_before_it_passed_an_input_on_goes_on(dumped: str) -> None:
    """The dump is stored, and the process dies before what ``receive`` returned was sent."""
    world = world_of(PLAN)
    world.server.start()
    frames = frames_of(world, ["s0", "s1", "s2"])
    for name in ("s0", "s1"):
        give(world, frames[name], name)
    before = world.server.dump()
    world.server.receive(frames["s2"], sender="s2")  # its events are lost
    dump = before if dumped == "before the input" else world.server.dump()
    world.parties["server"] = secagg.load(
        dump, PLAN, world.identities["server"], world.journals["server"]
    )
    assert world.parties["h0"]._product.sites == [0, 1]
    events = give(world, frames["s2"], "s2")
    assert [(e.to, e.data) for e in events if isinstance(e, secagg.Send)] == [
        (name, frames["s2"]) for name in world.holders
    ]
    late = [("Ignored", "step-order")] if dumped == "after the input" else []
    assert errors_in(events) == late
    world.run_on()
    assert world.result.survivors == ("s0", "s1", "s2")
    assert world.result.sum.tolist() == world.weighed()


def test_what_holders_have_is_passed_on_again_to_no_effect() -> None:
    """And nothing else is: not another input of the site, and nothing once inputs are closed."""
    world = world_of(PLAN).send_inputs()
    frame = world.frame(messages.ENCRYPTED, "s0", "server")
    before = [world.parties[name]._product.digest(b"") for name in world.holders]
    events = give(world, frame, "s0")
    assert [e.to for e in events if isinstance(e, secagg.Send)] == world.holders
    assert [world.parties[name]._product.digest(b"") for name in world.holders] == before
    world.pump(world.server.close_step(), "server")
    assert errors_in(give(world, frame, "s0")) == [("Ignored", "step-order")]
    assert not any(isinstance(e, secagg.Send) for e in world.server.receive(frame, sender="s0"))
    world.pump(world.server.close_step(), "server")
    assert world.result.sum.tolist() == world.weighed()


def test_a_request_that_overtakes_an_input_is_no_holders_end() -> None:
    """It is ignored, the input comes, and the request again: the holder answers."""
    late: list[bytes] = []

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        lost = kind == messages.ENCRYPTED.number and to == "h0" and world.name(frame[4]) == "s1"
        if lost:
            late.append(frame)
        return [] if lost else None

    world = world_of(PLAN, edit=edit)
    world.send_inputs()
    requests = [e for e in world.server.close_step() if isinstance(e, secagg.Send)]
    (asked,) = [e.data for e in requests if e.to == "h0"]
    holder = world.parties["h0"]
    assert errors_in(holder.receive(asked, sender="server")) == [("Ignored", "given")]
    assert errors_in(holder.receive(late[0], sender="server")) == []
    assert [type(e) for e in holder.receive(asked, sender="server")] == [secagg.Send, secagg.Done]


# An interruption while an input is multiplied in (finding 6).


class Interrupting:
    """Something in a product, of which one method is interrupted, before its work or after."""

    def __init__(self, whole: Any, method: str, moment: str) -> None:
        self._whole, self._method, self._moment = whole, method, moment

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._whole, name)
        if name != self._method:
            return found

        def call(*args: Any, **how: Any) -> None:
            if self._moment == "after":
                found(*args, **how)
            raise KeyboardInterrupt

        return call


MOMENTS = [("multiply", "before"), ("multiply", "after"), ("add", "before"), ("add", "after")]


def disturb(held: Product, method: str, moment: str) -> None:
    """Let the next multiplication end in Ctrl-C."""
    place = "_running" if method == "multiply" else "_seen"
    setattr(held, place, Interrupting(getattr(held, place), method, moment))


def restore(held: Product) -> None:
    """Whoever goes on has working parts again, so that a product could be used if it let them."""
    for place in ("_running", "_seen"):
        setattr(held, place, getattr(getattr(held, place), "_whole", getattr(held, place)))


@pytest.mark.parametrize(("method", "moment"), MOMENTS)
@pytest.mark.parametrize("who", ["server", "h0"])
def test_an_interruption_ends_the_party_and_makes_no_wrong_sum(
    who: str, method: str, moment: str
) -> None:
    """Else it lives on, takes the same input again, and has it twice in its product."""
    world = world_of(PLAN)
    world.server.start()
    frames = frames_of(world, PLAN.roster.names)
    give(world, frames["s0"], "s0")
    party, sender = world.parties[who], "s1" if who == "server" else "server"
    if who == "h0":
        world.server.receive(frames["s1"], sender="s1")
    held = party._product
    disturb(held, method, moment)
    with pytest.raises(KeyboardInterrupt):
        party.receive(frames["s1"], sender=sender)
    restore(held)
    assert errors_in(party.receive(frames["s1"], sender=sender)) == [("Ignored", "interrupted")]
    with pytest.raises(secagg.MisuseError) as refused:
        getattr(party, "close_step", party.start)()
    assert refused.value.rule == "ended"
    if who == "h0":
        # The two others open, and nobody is blamed.
        for name in ("h1", "h2"):
            world.parties[name].receive(frames["s1"], sender="server")
        for name in ("s2", "s3"):
            give(world, frames[name], name)
        world.run_on()
        assert world.result.sum.tolist() == world.weighed()
        assert {(to, rule) for to, _, rule in refusals(world)} == {("h0", "interrupted")}


@pytest.mark.parametrize("who", ["server", "h0"])
def test_an_interruption_before_anything_is_multiplied_costs_nothing(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a proof is checked, say: the input comes again and is taken."""
    world = world_of(PLAN)
    world.server.start()
    frame = frames_of(world, ["s0"])["s0"]
    party, sender = world.parties[who], "s0" if who == "server" else "server"

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(knowledge, "check", interrupt)
        with pytest.raises(KeyboardInterrupt):
            party.receive(frame, sender=sender)
    assert party._product.sites == []
    assert errors_in(party.receive(frame, sender=sender)) == []
    assert party._product.sites == [0]


@pytest.mark.parametrize(("method", "moment"), MOMENTS)
def test_a_product_that_was_interrupted_is_not_used(method: str, moment: str) -> None:
    made = Product(MANY)
    made.multiply(0, rows_of(range(ROWS)), threads=1)
    disturb(made, method, moment)
    with pytest.raises(KeyboardInterrupt):
        made.multiply(1, rows_of(range(9, 9 + ROWS)), threads=1)
    restore(made)
    for use in (made.value, lambda: made.digest(b""),
                lambda: made.multiply(1, rows_of(range(9, 9 + ROWS)), threads=1)):  # fmt: skip
        with pytest.raises(secagg.MisuseError) as refused:
            use()
        assert refused.value.rule == "interrupted"
    assert Product.of(MANY, made.state()).sites == []


# The product and what is in it, against plain integers (finding 7).


@cache
def numbers() -> list[int]:
    """Forty units modulo n^2, of which tests draw vectors."""
    key = private_key().public
    return [pow(key.h_s, 3 + i, key.n**2) for i in range(40)]


def rows_of(chosen: Iterable[int]) -> Any:
    return to_words([numbers()[i] for i in chosen], 2 * private_key().public.words)


MANY = make_plan(40, length=250)
ROWS = messages.layout_of(MANY).rows
VECTOR = st.lists(st.integers(0, 39), min_size=ROWS, max_size=ROWS)


def oracle_known(taken: dict[int, list[int]], vector: list[int]) -> set[int]:
    found = {s for s, theirs in taken.items() if set(theirs) & set(vector)}
    return found | ({-1} if len(set(vector)) < len(vector) else set())


@pytest.mark.parametrize("tags", ["hashes", "tags with equal first words"])
@settings(max_examples=25, deadline=None)
@given(
    vectors=st.dictionaries(st.integers(0, 39), VECTOR, min_size=1, max_size=12),
    asked=st.lists(VECTOR, max_size=6),
    at=st.integers(0, 12),
)
def test_a_product_agrees_with_plain_integers(
    tags: str, vectors: dict[int, list[int]], asked: list[list[int]], at: int
) -> None:
    """Value, sites and who sent what before; also through a state half-way."""
    with pytest.MonkeyPatch.context() as patch:
        if tags != "hashes":
            whole = product._tags
            # An attacker who searches finds two hashes with one first word.
            patch.setattr(
                product, "_tags", lambda rows: whole(rows) & np.array([3, 2**64 - 1], np.uint64)
            )
        made = Product(MANY)
        taken: dict[int, list[int]] = {}
        square = private_key().public.n ** 2
        expected = [1] * ROWS
        for number, (name, vector) in enumerate(vectors.items()):
            if number == at:
                made = Product.of(MANY, made.state())
            assert made.known(rows_of(vector)) == oracle_known(taken, vector)
            made.multiply(name, rows_of(vector), threads=1)
            taken[name] = vector
            expected = [a * numbers()[b] % square for a, b in zip(expected, vector, strict=True)]
        made = Product.of(MANY, made.state())
        assert made.sites == sorted(taken)
        assert from_words(made.value()) == expected
        for vector in [*asked, *taken.values()]:
            assert made.known(rows_of(vector)) == oracle_known(taken, vector)


def test_a_repeated_row_names_everybody_who_sent_it() -> None:
    """Three sites with one row in common, one without, and a vector with a row twice."""
    made = Product(MANY)
    assert made.known(rows_of(range(ROWS))) == set()
    assert made.known(rows_of([5] * ROWS)) == {-1}
    for name, first in ((7, 0), (39, 20), (0, 0), (8, 0)):
        made.multiply(name, rows_of([first, *range(1 + first, ROWS + first)]), threads=1)
    assert made.known(rows_of([*range(39, 40 - ROWS, -1), 0])) == {0, 7, 8}
    assert made.known(rows_of([39] * (ROWS - 1) + [20])) == {39, -1}
    empty = Product.of(MANY, Product(MANY).state())
    assert empty.sites == []
    assert empty.known(rows_of(range(ROWS))) == set()


# A site that says two things (finding 9).


def second_input(world: Any) -> Any:
    """Another input of s0, validly signed, as only s0 can make it."""
    frame = world.frame(messages.ENCRYPTED, "s0", "server")
    square = world.key.n**2
    return world.with_ciphertexts(frame, [c * c % square for c in world.ciphertexts(frame)])


@pytest.mark.parametrize("way", [None, "server"])
def test_a_site_that_equivocates_ends_no_holder(way: str | None) -> None:
    """Nobody's life hangs on a site: the first input counts, and the holder answers."""
    world = world_of(PLAN).send_inputs()
    for name in world.holders:
        events = world.parties[name].receive(second_input(world), sender=way)
        assert errors_in(events) == [("Ignored", "equivocation")]
    world.run_on()
    assert world.result.sum.tolist() == world.weighed()
    assert world.result.left == {}


def test_a_site_that_equivocates_is_ended_and_named() -> None:
    """Its first input was counted and stays, which the result says."""
    world = world_of(PLAN).send_inputs(drop=["s3"])
    (event,) = world.server.receive(second_input(world), sender="s0")
    assert (type(event), event.site, event.error.rule) == (secagg.Dropped, "s0", "equivocation")
    world.run_on()
    assert world.result.survivors == ("s0", "s1", "s2")
    assert world.result.left == {"s0": "input"}
    assert world.result.dropped == {"s3": "input"}
    assert world.result.sum.tolist() == world.weighed()
    results = {to for kind, _, to, _ in world.frames if kind == messages.RESULT.number}
    assert results == {"s1", "s2"}


def test_a_server_that_equivocates_still_ends_a_holder() -> None:
    """Two requests of the server are two sets to open, and no mistake of a site."""
    world = world_of(PLAN).send_inputs()
    requests = [e for e in world.server.close_step() if isinstance(e, secagg.Send)]
    (asked,) = [e.data for e in requests if e.to == "h0"]
    holder = world.parties["h0"]
    holder.receive(asked, sender="server")
    header, _ = world.parts(asked)
    other = messages.Open(world.bitmap(0, 1, 2), header.product)
    with pytest.raises(secagg.EquivocationError):
        holder.receive(world.reseal(asked, header=other), sender="server")
