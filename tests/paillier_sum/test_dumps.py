"""Parties of a Paillier sum that are stored and loaded: nothing changes, and nothing leaks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

import secagg
from secagg.attacks.arena import world as masked_world
from secagg.attacks.arena.paillier_played import rules_of
from secagg.attacks.arena.paillier_vectors import one_more, stolen
from secagg.attacks.arena.paillier_world import (
    PaillierWorld,
    dealt,
    make_plan,
    one_key_plan,
    private_key,
    trusting_plan,
)
from secagg.attacks.arena.world import digest
from secagg_native.paillier import from_words, to_words
from secagg_protocols.paillier import KeyShare
from secagg_protocols.paillier_sum import messages

PLANS: dict[str, Callable[..., secagg.Plan]] = {
    "malicious-server": make_plan,
    "semi-honest": trusting_plan,
    "one key": one_key_plan,
}


def load(world: PaillierWorld, name: str, dump: bytes, **changes: Any) -> Any:
    """The party that a dump is of, with what is kept beside a dump."""
    kept: dict[str, Any] = {"share": world.shares.get(name)} | changes
    return secagg.load(dump, world.plan, world.identities[name], world.journals[name], **kept)


class Reborn:
    """A party that is dumped and loaded after each call."""

    def __init__(self, world: PaillierWorld, name: str, dumps: list[tuple[str, bytes]]) -> None:
        self.world, self.name, self.dumps = world, name, dumps
        self.party = world.parties[name]

    def __getattr__(self, what: str) -> Any:
        found = getattr(self.party, what)
        if what not in {"start", "submit", "receive", "close_step", "use_model"}:
            return found

        def call(*args: Any, **options: Any) -> Any:
            try:
                return found(*args, **options)
            finally:
                dump = self.party.dump()
                self.dumps.append((self.name, dump))
                self.party = load(self.world, self.name, dump)
                assert self.party.dump() == dump

        return call


def reborn(plan: secagg.Plan, **options: Any) -> tuple[PaillierWorld, list[tuple[str, bytes]]]:
    world, dumps = PaillierWorld(plan, **options), list[tuple[str, bytes]]()
    world.parties = {name: Reborn(world, name, dumps) for name in world.parties}
    return world, dumps


@pytest.mark.parametrize("kind", PLANS)
def test_a_round_of_loaded_parties_is_the_same_round(kind: str) -> None:
    plan = PLANS[kind](length=200)
    drop = {"input": ["s1"], "reveal": ["h1"]}
    first = PaillierWorld(plan).run(drop)
    second, dumps = reborn(plan)
    second.run(drop)
    assert second.frames == first.frames
    assert first.result is not None
    assert second.result is not None
    assert second.result.sum.tolist() == first.result.sum.tolist() == first.expected()
    for field in ("digest", "transcript", "survivors", "dropped"):
        assert getattr(second.result, field) == getattr(first.result, field)
    # Start, input and result of three sites; inputs and requests of holders; the server's calls.
    assert len(dumps) >= 3 * 3 + 4 * len(second.holders) + 7


def test_loaded_parties_refuse_what_they_refused() -> None:
    plan = make_plan()
    bad: dict[tuple[int, str], Callable[[PaillierWorld, bytes], bytes]] = {
        (messages.ENCRYPTED.number, "s1"): lambda w, f: stolen(w, f, 2),
        (messages.OPENED.number, "h1"): one_more,
    }

    def edited(world: PaillierWorld) -> PaillierWorld:
        def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
            change = bad.get((kind, sender))
            return None if change is None else [change(world, frame), frame]

        world.edit = edit
        return world.run()

    first, second = edited(PaillierWorld(plan)), edited(reborn(plan)[0])
    rules = [[error.rule for error in world.errors("server")] for world in (first, second)]
    assert rules[0] == rules[1] == ["knowledge", "step-order", "share-proof", "step-order"]
    assert second.result is not None
    assert second.result.dropped == {"s1": "input"}


def test_a_party_that_was_ended_stays_ended() -> None:
    plan = make_plan()
    world = PaillierWorld(plan).send_inputs()
    bad = world.with_ciphertexts(world.frame(messages.ENCRYPTED, "s1"), [0])
    fresh = PaillierWorld(plan)
    holder = fresh.parties["h0"]
    assert rules_of(lambda: holder.receive(bad, sender="server")) == ["ciphertext"]
    again = load(fresh, "h0", holder.dump())
    good = world.frame(messages.ENCRYPTED, "s0")
    assert rules_of(lambda: again.receive(good, sender="server")) == ["ciphertext"]
    assert rules_of(again.start) == ["ended"]


# What is submitted again.


@pytest.mark.parametrize("kind", PLANS)
def test_the_same_vector_again_is_the_same_message(kind: str) -> None:
    plan = PLANS[kind](max_weight=3)
    world = PaillierWorld(plan)
    site, x = world.parties["s0"], world.vectors["s0"]
    site.start()
    before = site.dump()
    (send,) = site.submit(x, 2)
    for dump in (before, site.dump(), before):
        again = load(world, "s0", dump)
        (repeated,) = again.submit(x.copy(), 2)
        assert repeated.data == send.data
    other = x.copy()
    other[-1] += 1
    for vector, weight in ((other, 2), (x, 1)):
        for dump in (before, site.dump()):
            again = load(world, "s0", dump)
            assert rules_of(lambda a=again, v=vector, w=weight: a.submit(v, w)) == ["journal-once"]
            assert rules_of(lambda a=again: a.submit(x, 2)) == ["ended"]


def test_a_party_that_is_not_loaded_takes_no_vector_again() -> None:
    world = PaillierWorld(make_plan())
    site = world.parties["s0"]
    site.start()
    site.submit(world.vectors["s0"])
    assert rules_of(lambda: site.submit(world.vectors["s0"])) == ["input-once"]


def test_a_finished_site_takes_no_vector() -> None:
    world = PaillierWorld(one_key_plan()).run()
    again = load(world, "s0", world.parties["s0"].dump())
    assert rules_of(lambda: again.submit(world.vectors["s0"])) == ["input-once"]


def test_a_site_that_was_never_started_cannot_be_after_its_input() -> None:
    world = PaillierWorld(make_plan())
    old = world.parties["s0"].dump()
    world.send_inputs()
    with pytest.raises(secagg.MisuseError) as caught:
        load(world, "s0", old)
    assert caught.value.rule == "dump-age"


def test_what_belongs_to_another_is_not_loaded() -> None:
    world = PaillierWorld(make_plan())
    dump = world.parties["h0"].dump()
    refusals: list[tuple[str, Callable[[], Any]]] = [
        ("own-share", lambda: load(world, "h0", dump, share=None)),
        ("own-share", lambda: load(world, "h0", dump, share=world.shares["h1"])),
        ("own-share", lambda: load(world, "h0", dump, share=private_key())),
        ("identity", lambda: load(world, "h1", dump)),
        ("identity", lambda: load(world, "s0", dump, share=world.shares["h0"])),
    ]
    for rule, call in refusals:
        with pytest.raises(secagg.MisuseError) as caught:
            call()
        assert caught.value.rule == rule
    for plan in (make_plan(length=6), masked_world.make_plan()):
        with pytest.raises(secagg.MisuseError):
            secagg.load(dump, plan, world.identities["h0"], secagg.MemoryJournal())


@pytest.mark.parametrize("name", ["s0", "server", "h0"])
def test_a_damaged_dump_is_refused_and_nothing_else(name: str) -> None:
    world = PaillierWorld(one_key_plan()).send_inputs()
    dump = world.parties[name].dump()
    rng = np.random.default_rng(7)
    for _ in range(150):
        at = int(rng.integers(len(dump)))
        bad = bytearray(dump)
        bad[at] ^= int(rng.integers(1, 256))
        for data in (bytes(bad), dump[:at]):
            try:
                load(world, name, data)
            except secagg.SecAggError:
                continue


# Nothing of a secret.


def written(number: int) -> list[bytes]:
    """A number as it could stand in bytes or text."""
    size = -(-number.bit_length() // 8)
    return [
        number.to_bytes(size, "little"),
        number.to_bytes(size, "big"),
        str(number).encode(),
        f"{number:x}".encode(),
    ]


@pytest.mark.parametrize("kind", PLANS)
def test_no_secret_is_in_a_dump_a_message_or_a_text(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    high = 1 << 45
    plan = PLANS[kind](stages=(secagg.Integers(0, high),), sites_receive=False)
    world, dumps = reborn(plan)
    for name in plan.roster.names:
        seed = int.from_bytes(digest("canary", name)[:8], "little")
        world.vectors[name] = np.random.default_rng(seed).integers(high // 2, high, plan.length)
    texts = [repr(party.party) + str(party.party) for party in world.parties.values()]

    def edit(number: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if (number, sender) == (messages.ENCRYPTED.number, "s1"):
            return [frame, world.with_ciphertexts(frame, [world.key.n])]
        if (number, sender) == (messages.OPEN.number, "server"):
            bad = world.reseal(frame, header=messages.Open(world.bitmap(0, 1, 2, 3), bytes(32)))
            return [frame, bad]
        return None

    world.edit = edit
    world.run()
    assert world.result is not None
    assert world.result.sum.tolist() == world.expected()
    assert len(world.errors("server")) == 1
    assert len(world.errors("h0")) == 1

    fresh = PaillierWorld(plan)
    texts += [repr(what) + str(what) for *_, what in world.log]
    texts += [repr(share) + str(share) for share in world.shares.values()]
    texts += [repr(plan.protocol), repr(plan), caplog.text]

    secrets: dict[str, list[bytes]] = {"p": written(private_key().p), "q": written(private_key().q)}
    for name, share in world.shares.items():
        if isinstance(share, KeyShare):
            secrets[f"share of {name}"] = written(share.secret)
    for name in world.identities:
        secrets[f"identity of {name}"] = [digest("identity", name)]
    for name in plan.roster.names:
        # The plaintext is what the ciphertext decrypts to, so its bytes are looked for as well.
        rows = to_words(
            world.ciphertexts(world.frame(messages.ENCRYPTED, name)), 2 * world.key.words
        )
        opened = private_key().decrypt(rows)
        (plain,) = from_words(opened)
        fresh.parties[name].start()
        bound = hashlib.sha256(opened.tobytes()).digest()
        exponents = fresh.parties[name]._exponents(bound)(0, 1)
        (exponent,) = from_words(exponents)
        # The exponents are those that made the ciphertext, or the test looks for nothing.
        made = world.key.table.encrypt(exponents, opened)
        assert from_words(made) == from_words(rows)
        vector = world.vectors[name]
        secrets[f"vector of {name}"] = [
            vector[:2].tobytes(),
            str(int(vector[0])).encode(),
            str(int(vector[-1])).encode(),
            *written(plain),
        ]
        secrets[f"exponent of {name}"] = written(exponent)
    assert len(dumps) >= 4 * 2 + 5 + 4
    for what, forms in secrets.items():
        for form in forms:
            for name, dump in dumps:
                assert form not in dump, (what, name)
            for number, sender, to, frame in world.frames:
                assert form not in frame, (what, number, sender, to)
            assert not [text for text in texts if form in text.encode(errors="replace")], what
    # Seeds of sites are in their own dumps, which are sealed, and in nobody else's.
    for name in plan.roster.names:
        holding = {of for of, dump in dumps if digest("seed", name, 0) in dump}
        assert holding == {name}
        # It is forgotten with the result, which one that was caught does not get.
        assert (digest("seed", name, 0) in dumps_of(dumps, name)[-1]) == (name == "s1")


def dumps_of(dumps: list[tuple[str, bytes]], name: str) -> list[bytes]:
    return [dump for of, dump in dumps if of == name]


def test_the_search_finds_what_is_there() -> None:
    """The canary's own control: a dump that holds a share is found out."""
    share = dealt(3, 2)[1][0]
    assert isinstance(share, KeyShare)
    planted = msgspec.msgpack.encode({"share": share.to_bytes()})
    assert any(form in planted for form in written(share.secret))


def test_a_holder_forgets_the_ciphertexts_once_it_has_answered() -> None:
    world = PaillierWorld(make_plan(length=200)).send_inputs()
    before = world.parties["h0"].dump()
    world.run_on()
    assert len(world.parties["h0"].dump()) < len(before) - 2 * 512


class Interrupted:
    """A product that a signal comes into while it is multiplied."""

    def __init__(self, running: Any) -> None:
        self.running = running

    def multiply(self, *args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    def value(self) -> Any:
        return self.running.value()


@pytest.mark.parametrize("name", ["server", "h0"])
def test_an_interrupted_product_is_never_gone_on_with(name: str) -> None:
    plan = one_key_plan()
    done = PaillierWorld(plan).run()
    world = PaillierWorld(plan)
    world.server.start()
    party = world.parties[name]

    def give(site: str) -> list[str]:
        frame = done.frame(messages.ENCRYPTED, site)
        return rules_of(lambda: party.receive(frame, sender=site if name == "server" else "server"))

    assert give("s0") == give("s1") == []
    good = party.dump()
    party._product._running = Interrupted(party._product._running)
    with pytest.raises(KeyboardInterrupt):
        give("s2")
    assert give("s2") == give("s3") == ["interrupted"]
    if name == "server":
        assert rules_of(party.close_step) == ["ended"]
    # It may be stored as what it is, and the state from before is as good as ever.
    party = load(world, name, party.dump())
    assert give("s3") == ["interrupted"]
    party = load(world, name, good)
    assert give("s2") == give("s3") == []
    if name == "h0":
        (send, _) = party.receive(done.frame(messages.OPEN, "server", "h0"), sender="server")
        assert send.data == done.frame(messages.OPENED, "h0")


def test_what_was_passed_on_before_a_server_died_is_passed_on_again() -> None:
    plan = make_plan()
    done = PaillierWorld(plan).run()
    world = PaillierWorld(plan)
    world.server.start()
    frame = done.frame(messages.ENCRYPTED, "s0")
    world.server.receive(frame, sender="s0")
    server = load(world, "server", world.server.dump())
    events = server.receive(frame, sender="s0")
    assert [(e.to, e.data) for e in events[:-1]] == [(name, frame) for name in world.holders]
    assert rules_of(lambda: events) == ["step-order"]
    # Not once the inputs are closed, and never in place of the first.
    for site in ("s1", "s2", "s3"):
        server.receive(done.frame(messages.ENCRYPTED, site), sender=site)
    server.close_step()
    (late,) = server.receive(frame, sender="s0")
    assert isinstance(late, secagg.Ignored)


# The journal's disk fails.


class Failing(secagg.MemoryJournal):
    """A journal whose disk fails at some calls."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []

    def _fail(self, call: str) -> None:
        if call in self.failures:
            self.failures.remove(call)
            raise OSError(28, "no space left on device")

    def claim(self, *args: Any, **options: Any) -> bytes:
        self._fail("claim")
        return super().claim(*args, **options)

    def swap(self, *args: Any, **options: Any) -> None:
        self._fail("swap")
        super().swap(*args, **options)


def failing(plan: secagg.Plan) -> PaillierWorld:
    names = ["server", *plan.roster.names, *[name for name, _ in plan.roster.holders]]
    return PaillierWorld(plan, journals={name: Failing() for name in names})


@pytest.mark.parametrize("call", ["claim", "swap"])
def test_a_site_whose_disk_fails_sends_nothing_and_then_the_same(call: str) -> None:
    plan = make_plan(max_inputs_per_model=1)
    reference = PaillierWorld(plan).send_inputs()
    world = failing(plan)
    site, x = world.parties["s0"], world.vectors["s0"]
    site.start()
    world.journals["s0"].failures = [call, call]
    for _ in range(2):
        assert rules_of(lambda: site.submit(x)) == ["journal-io"]
        assert not site.sent_input
    (send,) = site.submit(x)
    assert send.data == reference.frame(messages.ENCRYPTED, "s0")


@pytest.mark.parametrize("way", ["start", "use_model", "load"])
def test_a_vector_that_waited_is_sent_once_the_disk_is_back(way: str) -> None:
    plan = make_plan()
    reference = PaillierWorld(plan).send_inputs()
    world = failing(plan)
    site, x = world.parties["s0"], world.vectors["s0"]
    site.submit(x)
    world.journals["s0"].failures = ["claim"]
    assert rules_of(site.start) == ["journal-io"]
    if way == "start":
        (send,) = site.start()
    elif way == "use_model":
        (send,) = site.use_model(masked_world.MODEL)
    else:
        (send,) = load(world, "s0", site.dump()).submit(x)
    assert send.data == reference.frame(messages.ENCRYPTED, "s0")
    assert rules_of(site.start) == ["start-once"] or way == "load"


@pytest.mark.parametrize("kind", PLANS)
def test_a_holder_whose_disk_fails_answers_when_it_is_asked_again(kind: str) -> None:
    plan = PLANS[kind]()
    reference = PaillierWorld(plan).run()
    world = failing(plan)
    world.journals["h0"].failures = ["claim"]
    rules: list[str] = []

    def edit(number: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if (number, to) != (messages.OPEN.number, "h0"):
            return None
        rules.extend(rules_of(lambda: world.parties["h0"].receive(frame, sender="server")))
        return None

    world.edit = edit
    world.run()
    assert rules == ["journal-io"]
    assert world.frame(messages.OPENED, "h0") == reference.frame(messages.OPENED, "h0")
    assert world.result is not None
    assert world.result.sum.tolist() == world.expected()


@pytest.mark.parametrize("kind", ["malicious-server", "one key"])
def test_a_server_whose_disk_fails_closes_its_steps_later(kind: str) -> None:
    plan = PLANS[kind]()
    reference = PaillierWorld(plan).run()
    world = failing(plan)
    world.send_inputs()
    for step in ("input", "reveal"):
        world.journals["server"].failures = ["claim"]
        assert rules_of(world.server.close_step) == ["journal-io"]
        assert world.server.step == secagg.Step.of(step)
        # It may also be stored in between: what it opened is then in its dump.
        world.parties["server"] = load(world, "server", world.server.dump())
        world.pump(world.server.close_step(), "server")
    assert world.result is not None
    assert reference.result is not None
    assert world.result.digest == reference.result.digest
    assert world.result.transcript == reference.result.transcript
    assert world.frames == reference.frames
