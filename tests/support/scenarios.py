"""For every rule of a party, the attack that it stops: its negative vector, played live.

A scenario gets the class that its victim is built from (the real one, or a control with one
rule overridden) and returns the ids of the rules that refused the attack, in order. An empty
list means that the attack went through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import secagg
from secagg_native import bitpack
from secagg_protocols import wire
from secagg_protocols.masked_sum import Client, Server, masks, messages
from support.world import MODEL, SESSION, World, digest, make_plan, people, sparse_plan

Scenario = Callable[[type[Any]], list[str]]
SCENARIOS: dict[tuple[str, str], Scenario] = {}
VICTIM = "s0"


def scenario(party: str, rule: str) -> Callable[[Scenario], Scenario]:
    def keep(function: Scenario) -> Scenario:
        SCENARIOS[party, rule] = function
        return function

    return keep


def refused(call: Callable[[], Any]) -> list[str]:
    """Rule of the error that ``call`` raises, or nothing."""
    try:
        call()
    except secagg.SecAggError as error:
        return [error.rule]
    return []


def play(
    victim: type[Any],
    kind: Any,
    change: Callable[[World, bytes], Any],
    *,
    plan: secagg.Plan | None = None,
    drop: dict[int, list[str]] | None = None,
    sender: str = "s1",
    classes: dict[str, type[Any]] | None = None,
    after: bool = False,
) -> list[str]:
    """Run a round in which one frame of ``kind`` to the victim is changed; its answer.

    Site messages are changed when they come from ``sender``; server messages when they go to
    the victim. With ``after`` the true message is delivered first. The round ends there.
    """
    plan = plan or make_plan()
    name = "server" if kind.from_site else VICTIM
    answers: list[str] = []

    def edit(number: int, from_: str, to: str, frame: bytes) -> list[bytes] | None:
        if number != kind.number or to != name or (kind.from_site and from_ != sender):
            return None
        if after:
            world.parties[to].receive(frame, sender=from_)
        changed = change(world, frame)
        bad, claimed = changed if isinstance(changed, tuple) else (changed, from_)
        try:
            events = world.parties[to].receive(bad, sender=claimed)
        except secagg.SecAggError as error:
            answers.append(error.rule)
        else:
            answers.extend(
                e.error.rule for e in events if isinstance(e, secagg.Ignored | secagg.Dropped)
            )
        raise StopIteration

    world = World(plan, classes={name: victim, **(classes or {})}, edit=edit)
    try:
        world.run(drop)
    except StopIteration:
        return answers
    raise AssertionError("the attack was never played")


def bits(frame_bitmap: bytes, n: int) -> list[int]:
    return list(wire.from_bitmap(frame_bitmap, n))


# Every party, played on a site or on the server.


@scenario("party", "session")
def _(victim: type[Any]) -> list[str]:
    return refused(
        lambda: victim(
            make_plan(),
            0,
            identity=people(7)[1]["s0"],
            session=b"",
            round=0,
            model=MODEL,
            floors=None,
            journal=secagg.MemoryJournal(),
        )
    )


@scenario("party", "identity")
def _(victim: type[Any]) -> list[str]:
    return refused(
        lambda: victim(
            make_plan(),
            0,
            identity=people(7)[1]["s1"],
            session=SESSION,
            round=0,
            model=MODEL,
            floors=None,
            journal=secagg.MemoryJournal(),
        )
    )


@scenario("party", "limits")
def _(victim: type[Any]) -> list[str]:
    return play(victim, messages.SURVIVORS, lambda w, f: w.reseal(f, tail=bytes(1000)))


@scenario("party", "route")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        # The survivor list is the same for all, so only the address tells them apart.
        return world.reseal(frame, recipient="s2")

    return play(victim, messages.SURVIVORS, change)


@scenario("party", "trailer")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        return frame[:-1] + bytes([frame[-1] ^ 1])

    return play(victim, messages.SURVIVORS, change)


@scenario("party", "canonical")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, _ = world.parts(frame)
        raw = wire.encode_header(header)
        # The last field is a small count; the same number in the two-byte form decodes equally.
        return world.reseal(frame, raw=raw[:-1] + b"\xcc" + raw[-1:])

    return play(victim, messages.SURVIVORS, change)


@scenario("party", "tail-length")
def _(victim: type[Any]) -> list[str]:
    return play(victim, messages.SURVIVORS, lambda w, f: w.reseal(f, tail=b"x"))


# Sites.


def small_cohort(kind: Any, victim: type[Any], row: int) -> list[str]:
    """A server that lists five of seven sites, one fewer than agreed."""

    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        keep = bits(header.present, 7)[:-2]
        present = world.bitmap(*keep)
        rows = len(keep) - (VICTIM in [world.name(i) for i in keep])
        return world.reseal(
            frame, header=_with(header, present=present, cohort=5), tail=tail[: row * rows]
        )

    return play(victim, kind, change)


def _with(header: Any, **changes: Any) -> Any:
    fields = {name: getattr(header, name) for name in header.__struct_fields__}
    return type(header)(**(fields | changes))


@scenario("client", "floors")
def _(victim: type[Any]) -> list[str]:
    floors = secagg.Floors(smallest_cohort=7)
    return refused(lambda: World(make_plan(), classes={VICTIM: victim}, floors={VICTIM: floors}))


@scenario("client", "graph")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        near = world.bitmap(*bits(header.neighbours, 7)[:-1])
        return world.reseal(frame, header=messages.Adverts(near, near, 6), tail=tail[: 5 * 128])

    return play(victim, messages.ADVERTS, change)


@scenario("client", "adverts-within")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        plan = world.plan
        far = next(i for i in range(1, plan.clients) if i not in bits(header.neighbours, 12))
        present = sorted([*bits(header.present, 12)[:-1], far])
        at = present.index(far) * 64
        tail = tail[:at] + digest("far") + digest("away") + tail[at:-64]
        bitmap = world.bitmap(*present)
        return world.reseal(frame, header=_with(header, present=bitmap), tail=tail)

    return play(victim, messages.ADVERTS, change, plan=sparse_plan())


@scenario("client", "advert-cohort")
def _(victim: type[Any]) -> list[str]:
    return small_cohort(messages.ADVERTS, victim, 128)


def few_holders(kind: Any, victim: type[Any], row: int, keep: int) -> list[str]:
    """A server that leaves a sparse site too few holders, with an unsuspicious cohort."""

    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        found = bits(header.present, 12)
        own = [0] if 0 in found else []
        peers = [site for site in found if site != 0][:keep]
        bitmap = world.bitmap(*own, *peers)
        return world.reseal(
            frame, header=_with(header, present=bitmap), tail=tail[: row * len(peers)]
        )

    return play(victim, kind, change, plan=sparse_plan())


@scenario("client", "advert-holders")
def _(victim: type[Any]) -> list[str]:
    return few_holders(messages.ADVERTS, victim, 64, 3)


@scenario("client", "advert-signatures")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        keys = masks.SiteSecrets.derive(digest("the server's own"), bytes(32))
        return world.reseal(frame, tail=keys.mask_key + keys.channel_key + tail[64:])

    return play(victim, messages.ADVERTS, change)


@scenario("client", "distinct-keys")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        return world.reseal(frame, tail=tail[64:128] + tail[64:])

    return play(victim, messages.ADVERTS, change, plan=make_plan(threat="semi-honest"))


@scenario("client", "sharers-within")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        return world.reseal(
            frame,
            header=_with(header, present=world.bitmap(*range(7)), cohort=7),
            tail=tail + bytes(96),
        )

    return play(victim, messages.SHARES_FOR, change, drop={1: ["s6"]})


@scenario("client", "sharer-cohort")
def _(victim: type[Any]) -> list[str]:
    return small_cohort(messages.SHARES_FOR, victim, 96)


@scenario("client", "sharer-holders")
def _(victim: type[Any]) -> list[str]:
    return few_holders(messages.SHARES_FOR, victim, 96, 3)


@scenario("client", "step-order")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        # The same list again would be answered again.
        return frame

    return play(victim, messages.SURVIVORS, change, after=True)


@scenario("client", "equivocation")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, _ = world.parts(frame)
        six = world.bitmap(*bits(header.present, 7)[:-1])
        return world.reseal(frame, header=_with(header, present=six, cohort=6))

    return play(victim, messages.SURVIVORS, change, after=True)


@scenario("client", "input-once")
def _(victim: type[Any]) -> list[str]:
    world = World(make_plan(), classes={VICTIM: victim})
    party = world.parties[VICTIM]
    party.start()
    party.submit(world.vectors[VICTIM])
    return refused(lambda: party.submit(world.vectors["s1"]))


@scenario("client", "inputs-per-model")
def _(victim: type[Any]) -> list[str]:
    floors = {VICTIM: secagg.Floors(most_inputs_per_model=1)}
    journals: dict[str, Any] = {}
    classes = {VICTIM: victim}
    World(make_plan(), classes=classes, floors=floors, journals=journals).run()
    again = World(make_plan(), classes=classes, floors=floors, journals=journals, round=1)
    rules: list[str] = []

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if kind == messages.SHARES_FOR.number and to == VICTIM:
            rules.extend(refused(lambda: again.parties[to].receive(frame, sender=sender)))
            raise StopIteration
        return None

    again.edit = edit
    try:
        again.run()
    except StopIteration:
        return rules
    raise AssertionError("the attack was never played")


@scenario("client", "survivors-within")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, _ = world.parts(frame)
        return world.reseal(frame, header=_with(header, present=world.bitmap(*range(7)), cohort=7))

    return play(victim, messages.SURVIVORS, change, drop={2: ["s6"]})


@scenario("client", "survivor-cohort")
def _(victim: type[Any]) -> list[str]:
    return small_cohort(messages.SURVIVORS, victim, 0)


@scenario("client", "survivor-sent")
def _(victim: type[Any]) -> list[str]:
    # The server lists a site that has not submitted its vector yet.
    world = World(make_plan(), classes={VICTIM: victim})
    party = world.parties[VICTIM]
    party.submit = lambda *args: []
    rules: list[str] = []

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if kind == messages.SURVIVORS.number and to == VICTIM:
            listed = messages.Survivors(world.bitmap(*range(7)), 7)
            bad = world.reseal(frame, header=listed)
            rules.extend(refused(lambda: party.receive(bad, sender=sender)))
            raise StopIteration
        return None

    world.edit = edit
    try:
        world.run()
    except StopIteration:
        return rules
    raise AssertionError("the attack was never played")


@scenario("client", "survivor-holders")
def _(victim: type[Any]) -> list[str]:
    return few_holders(messages.SURVIVORS, victim, 0, 3)


@scenario("client", "consent-count")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        signers = bits(header.signers, 7)[:-1]
        return world.reseal(
            frame, header=messages.Consents(world.bitmap(*signers)), tail=tail[:-64]
        )

    return play(victim, messages.CONSENTS, change)


@scenario("client", "consent-members")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        # s6 left before its input, colludes, and signs the survivors without being one.
        consent = next(f for k, s, _, f in world.frames if k == messages.CONSENT.number)
        signed = world.reseal(consent, sender="s6")[-64:]
        signers = [*bits(header.signers, 7)[:-1], 6]
        return world.reseal(
            frame, header=messages.Consents(world.bitmap(*signers)), tail=tail[:-64] + signed
        )

    return play(victim, messages.CONSENTS, change, drop={3: ["s6"]})


@scenario("client", "consent-signatures")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        return world.reseal(frame, tail=tail[:-64] + bytes(64))

    return play(victim, messages.CONSENTS, change)


@scenario("client", "dump-age")
def _(victim: type[Any]) -> list[str]:
    world = World(make_plan(), classes={VICTIM: victim})
    old: list[bytes] = []

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if kind == messages.ADVERTS.number and to == VICTIM:
            old.append(world.parties[VICTIM].dump())
        return None

    world.edit = edit
    world.run()
    return refused(lambda: reload(victim, world, VICTIM, old[0]))


def reload(kind: type[Any], world: World, name: str, dump: bytes) -> Any:
    """Load a dump into ``kind``, as ``secagg.load`` does for the real classes."""
    from secagg_protocols.party import read_dump

    common: dict[str, Any] = {
        "identity": world.identities[name],
        "session": SESSION,
        "round": world.round,
        "model": None,
        "journal": world.journals[name],
    }
    if name != "server":
        common["floors"] = None
    party = kind(world.plan, world.index(name), **common)
    party.restore(read_dump(dump, world.plan))
    return party


@scenario("client", "result-survivors")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, _ = world.parts(frame)
        return world.reseal(frame, header=_with(header, survivors=world.bitmap(*range(6))))

    return play(victim, messages.RESULT, change, plan=make_plan(sites_receive=False))


@scenario("client", "result-digest")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        return world.reseal(frame, tail=bytes([tail[0] ^ 1]) + tail[1:])

    return play(victim, messages.RESULT, change)


# The server.


@scenario("server", "step-order")
def _(victim: type[Any]) -> list[str]:
    return play(victim, messages.INPUT, lambda w, f: f, after=True)


@scenario("server", "equivocation")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        return world.reseal(frame, tail=bytes([tail[0] ^ 1]) + tail[1:])

    return play(victim, messages.INPUT, change, after=True)


@scenario("server", "fresh-keys")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        _, copied = world.parts(world.frames[0][3])
        return world.reseal(frame, tail=copied)

    return play(victim, messages.ADVERT, change)


@scenario("server", "low-order")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        return world.reseal(frame, tail=bytes(32) + tail[32:])

    return play(victim, messages.ADVERT, change)


@scenario("server", "padding")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        return world.reseal(frame, tail=tail[:-1] + bytes([tail[-1] | 0x80]))

    return play(victim, messages.INPUT, change)


@scenario("server", "consent-set")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        return world.reseal(frame, header=messages.Consent(bytes(32)))

    return play(victim, messages.CONSENT, change)


@scenario("server", "reveal-relations")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        return world.reseal(frame, header=messages.Reveal(world.bitmap(6)))

    return play(victim, messages.REVEAL, change, drop={2: ["s6"]})


@scenario("server", "enough")
def _(victim: type[Any]) -> list[str]:
    world = World(make_plan(), classes={"server": victim})
    world.server.start()
    for name in world.plan.roster.names[:5]:
        (event,) = world.parties[name].start()
        world.server.receive(event.data, sender=name)
    return refused(world.server.close_step)


@scenario("server", "holders")
def _(victim: type[Any]) -> list[str]:
    # Four sites may be missing, but here they are four of one site's six neighbours.
    world = World(sparse_plan(), classes={"server": victim})
    world.server.start()
    near = world.server._graph_seed
    from secagg_protocols.masked_sum.graph import draw

    away = {world.name(i) for i in draw(world.plan, near)[0][:4]}
    for name in world.plan.roster.names:
        if name not in away:
            (event,) = world.parties[name].start()
            world.server.receive(event.data, sender=name)
    return refused(world.server.close_step)


def finish(victim: type[Any], edit: Any, **options: Any) -> list[str]:
    """Run a whole round with tampered messages; how the server's last step ends."""
    drop = options.pop("drop", None)
    plan = options.pop("plan", None) or make_plan()
    world = World(plan, classes={"server": victim, **options.pop("classes", {})})
    world.edit = lambda *args: edit(world, *args)
    return refused(lambda: world.run(drop))


@scenario("server", "decoded")
def _(victim: type[Any]) -> list[str]:
    def edit(world: World, kind: int, sender: str, to: str, frame: bytes) -> Any:
        # Two liars where the redundancy of seven shares over a threshold of five bears one.
        if kind == messages.REVEAL.number and sender in {"s1", "s2"}:
            _, tail = world.parts(frame)
            lie = np.frombuffer(tail, dtype="<u8") ^ np.uint64(int(sender[1]))
            return [world.reseal(frame, tail=lie.tobytes())]
        return None

    return finish(victim, edit)


@scenario("server", "commitment")
def _(victim: type[Any]) -> list[str]:
    def edit(world: World, kind: int, sender: str, to: str, frame: bytes) -> Any:
        if kind == messages.SHARES.number and sender == "s1":
            return [world.reseal(frame, header=messages.Shares(bytes(32)))]
        return None

    return finish(victim, edit)


class OtherMaskSeed(Client):
    """A dealer that shares a mask seed which is not the one behind its key."""

    def _seal_shares(self, present: tuple[int, ...]) -> bytes:
        true = self._own()
        self._secrets = replace(true, mask_seed=digest("another"))
        try:
            return super()._seal_shares(present)
        finally:
            self._secrets = true


@scenario("server", "mask-key")
def _(victim: type[Any]) -> list[str]:
    return finish(
        victim,
        lambda *args: None,
        classes={"s1": OtherMaskSeed},
        drop={3: ["s1"]},
        plan=make_plan(bits=64),
    )


@scenario("server", "sum-range")
def _(victim: type[Any]) -> list[str]:
    def edit(world: World, kind: int, sender: str, to: str, frame: bytes) -> Any:
        if kind != messages.INPUT.number or sender != "s1":
            return None
        plan = world.plan
        _, tail = world.parts(frame)
        ring = np.zeros(plan.ring_length, dtype=plan.lane)
        bitpack.unpack(tail, plan.wire_bits, ring)
        ring[:1] -= plan.lane.type(6000)
        packed = bytearray(len(tail))
        bitpack.pack(ring, plan.wire_bits, packed)
        return [world.reseal(frame, tail=bytes(packed))]

    # The sum of seven counts below 256, less 6000, is negative for the first coordinate.
    return finish(victim, edit, plan=make_plan(bits=16))


@scenario("server", "dump-age")
def _(victim: type[Any]) -> list[str]:
    world = World(make_plan(), classes={"server": victim})
    old: list[bytes] = []

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if kind == messages.ADVERT.number and not old:
            old.append(world.server.dump())
        return None

    world.edit = edit
    world.run()
    return refused(lambda: reload(victim, world, "server", old[0]))


__all__ = ["SCENARIOS", "Client", "Server"]
