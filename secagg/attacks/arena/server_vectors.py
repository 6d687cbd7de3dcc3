"""For every rule of the server, the attack that it stops: its negative vector, played live."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from secagg.attacks.arena.played import (
    play,
    refused,
    reload,
    scenario,
)
from secagg.attacks.arena.world import World, digest, make_plan, sparse_plan
from secagg_native import bitpack
from secagg_protocols.masked_sum import Client, messages
from secagg_protocols.masked_sum.graph import draw


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
