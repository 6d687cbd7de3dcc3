"""For every rule of a party of a Paillier sum, the attack that it stops, played live.

A scenario gets the class that its victim is built from (the real one, or a control with one
rule overridden) and returns the ids of the rules that refused the attack, in order. An empty
list means that the attack went through.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np

import secagg
from secagg.attacks.arena import world as masked_world
from secagg.attacks.arena.controls import without
from secagg.attacks.arena.paillier_played import SCENARIOS, place, play, reload, rules_of, scenario
from secagg.attacks.arena.paillier_world import (
    PaillierWorld,
    dealt,
    make_plan,
    one_key_plan,
    people,
    private_key,
    trusting_plan,
)
from secagg.attacks.arena.played import NotPlayedError, changed, ended, refused
from secagg.attacks.arena.world import MODEL, SESSION
from secagg_protocols.paillier import threshold
from secagg_protocols.paillier_sum import Client, Holder, Server, messages
from secagg_protocols.paillier_sum.product import Product, read_rows
from secagg_protocols.registers import (
    MOST_MODELS,
    ledger_register,
    models_register,
    pack_count,
)
from secagg_protocols.result import aggregate_digest

ADAPTIVE = (
    secagg.AdaptiveClip(clip=1.0, lowest=0.01, highest=100.0),
    secagg.Quantise(1000),
)
#: The message to each party on which the rules of all parties are played.
HEARD = {"s0": messages.RESULT, "server": messages.ENCRYPTED, "h0": messages.OPEN}


def built(victim: type[Any], **changes: Any) -> Any:
    """One party of the victim's class."""
    plan = changes.pop("plan", None) or make_plan()
    name, world = place(victim), PaillierWorld(plan)
    fields: dict[str, Any] = {
        "identity": world.identities[name],
        "session": SESSION,
        "round": 0,
        "model": MODEL,
        "journal": secagg.MemoryJournal(),
    }
    if name != "server":
        fields["floors"] = None
    if name in world.holders:
        fields["share"] = world.shares[name]
    return victim(plan, world.index(name), **(fields | changes))


# Every party, played on each.


@scenario("party", "round-clip")
def _(victim: type[Any]) -> list[str]:
    party = built(victim, plan=make_plan(stages=ADAPTIVE), model=None)
    return refused(lambda: party.use_model(MODEL, struct.pack("<d", 1e30)))


@scenario("party", "session")
def _(victim: type[Any]) -> list[str]:
    return refused(lambda: built(victim, session=b""))


@scenario("party", "identity")
def _(victim: type[Any]) -> list[str]:
    return refused(lambda: built(victim, identity=people(4, 3)[1]["s1"]))


@scenario("party", "limits")
def _(victim: type[Any]) -> list[str]:
    def change(world: PaillierWorld, frame: bytes) -> bytes:
        return world.reseal(frame, tail=world.parts(frame)[1] + bytes(1000))

    return play(victim, HEARD[place(victim)], change)


@scenario("party", "route")
def _(victim: type[Any]) -> list[str]:
    other = {"s0": "s2", "server": "s0", "h0": "h1"}[place(victim)]
    return play(victim, HEARD[place(victim)], lambda w, f: w.reseal(f, recipient=other))


@scenario("party", "trailer")
def _(victim: type[Any]) -> list[str]:
    def change(world: PaillierWorld, frame: bytes) -> bytes:
        return frame[:-1] + bytes([frame[-1] ^ 1])

    return play(victim, HEARD[place(victim)], change)


@scenario("party", "canonical")
def _(victim: type[Any]) -> list[str]:
    def change(world: PaillierWorld, frame: bytes) -> bytes:
        raw = frame[16 : 16 + int.from_bytes(frame[12:16], "little")]
        # The same list of fields with its length in the three-byte form.
        return world.reseal(frame, raw=b"\xdc" + struct.pack(">H", raw[0] & 15) + raw[1:])

    return play(victim, HEARD[place(victim)], change)


@scenario("party", "tail-length")
def _(victim: type[Any]) -> list[str]:
    # Without proofs and without the sum at the sites, so that no other rule looks at the tail.
    def change(world: PaillierWorld, frame: bytes) -> bytes:
        return world.reseal(frame, tail=world.parts(frame)[1] + b"x")

    return play(victim, HEARD[place(victim)], change, plan=trusting_plan(sites_receive=False))


# Sites.


def own_input(victim: type[Any], **options: Any) -> list[str]:
    """How a site's attempt to send its vector ends."""
    world = PaillierWorld(
        options.pop("plan", None) or make_plan(), classes={"s0": victim}, **options
    )
    world.parties["s0"].start()
    return refused(lambda: world.parties["s0"].submit(world.vectors["s0"]))


@scenario("client", "floors")
def _(victim: type[Any]) -> list[str]:
    return refused(lambda: built(victim, floors=secagg.Floors(smallest_cohort=4)))


@scenario("client", "model-allowed")
def _(victim: type[Any]) -> list[str]:
    # A crafted model comes last, at a site that knows another one: its vector waits for it.
    floors = secagg.Floors(models=(hashlib.sha256(b"the model that was looked at").hexdigest(),))

    def attack() -> bool:
        party = built(victim, model=None, floors=floors)
        party.start()
        party.submit(np.arange(party.plan.length))
        return any(isinstance(event, secagg.Send) for event in party.use_model(MODEL))

    return ended(attack)


@scenario("client", "input-once")
def _(victim: type[Any]) -> list[str]:
    world = PaillierWorld(make_plan(), classes={"s0": victim})
    party = world.parties["s0"]
    party.submit(world.vectors["s0"])
    return refused(lambda: party.submit(world.vectors["s1"]))


@scenario("client", "inputs-per-model")
def _(victim: type[Any]) -> list[str]:
    # A retry of one model, after a round in which the vector was sent.
    plan, journals = make_plan(max_inputs_per_model=1), dict[str, Any]()
    earlier = own_input(Client, plan=plan, journals=journals)
    if earlier:
        raise NotPlayedError(f"the earlier round was refused: {earlier}")
    return own_input(victim, plan=plan, journals=journals, round=1)


@scenario("client", "inputs-full")
def _(victim: type[Any]) -> list[str]:
    journal = secagg.MemoryJournal()
    journal.swap(models_register("s0", ""), b"", pack_count(MOST_MODELS))
    plan = make_plan(max_inputs_per_model=1)
    return own_input(victim, plan=plan, journals={"s0": journal})


@scenario("client", "ledger-given")
def _(victim: type[Any]) -> list[str]:
    # Data that were charged to a ledger before, and now a party that was made without one.
    journal = secagg.MemoryJournal()
    journal.swap(ledger_register("s0", ""), b"", b"charged")
    return own_input(victim, journals={"s0": journal})


@scenario("client", "fixed-data-plan")
def _(victim: type[Any]) -> list[str]:
    # Data that were summed as fixed by another protocol, under a plan that compares nothing.
    journals: dict[str, Any] = {}
    masked_world.World(masked_world.make_plan(fixed_data=True), journals=journals).run()
    return own_input(victim, journals=journals)


@scenario("client", "fixed-roster")
def _(victim: type[Any]) -> list[str]:
    # No plan of a Paillier sum is of fixed data; with one that were, the site would still object.
    kind = without(secagg.Plan, "fixed-data-holders")
    return own_input(victim, plan=make_plan(kind=kind, fixed_data=True, max_dropouts=0))


@scenario("client", "step-order")
def _(victim: type[Any]) -> list[str]:
    return play(victim, messages.RESULT, lambda w, f: f, after=True)


@scenario("client", "equivocation")
def _(victim: type[Any]) -> list[str]:
    return play(victim, messages.RESULT, lambda w, f: listing(w, f, 0, 1, 2), after=True)


def listing(world: PaillierWorld, frame: bytes, *sites: int) -> bytes:
    """A result that states these survivors, its digest in order."""
    bitmap, (_, packed) = world.bitmap(*sites), world.parts(frame)
    digest = aggregate_digest(world.server.contexts.round, bitmap, [packed], len(packed))
    header, _ = world.parts(frame)
    return world.reseal(frame, header=changed(header, survivors=bitmap, digest=digest))


@scenario("client", "result-digest")
def _(victim: type[Any]) -> list[str]:
    def change(world: PaillierWorld, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        return world.reseal(frame, tail=bytes([tail[0] ^ 1]) + tail[1:])

    return play(victim, messages.RESULT, change)


@scenario("client", "result-cohort")
def _(victim: type[Any]) -> list[str]:
    return play(victim, messages.RESULT, lambda w, f: listing(w, f, 0, 1))


@scenario("client", "dump-age")
def _(victim: type[Any]) -> list[str]:
    world = PaillierWorld(make_plan(), classes={"s0": victim})
    party = world.parties["s0"]
    old = party.dump()
    party.start()
    party.submit(world.vectors["s0"])
    # Its seed would be another one, and the vector would be encrypted a second time.
    return refused(lambda: reload(victim, world, "s0", old))


# What a server and a holder refuse of a site.


def stolen(world: PaillierWorld, frame: bytes, power: int) -> bytes:
    """The vector of s0 to a power, under the name and with the proof of s1."""
    square = world.key.n**2
    theirs = world.ciphertexts(world.frame(messages.ENCRYPTED, "s0"))
    return world.with_ciphertexts(frame, [pow(c, power, square) for c in theirs])


def site_attacks(party: str) -> None:
    """Enter what servers and holders check in the same way."""

    @scenario(party, "ciphertext")
    def _(victim: type[Any]) -> list[str]:
        # A multiple of a prime factor, in a plan without proofs: they would look at it again.
        def change(world: PaillierWorld, frame: bytes) -> bytes:
            return world.with_ciphertexts(frame, [private_key().p])

        return play(victim, messages.ENCRYPTED, change, plan=trusting_plan())

    @scenario(party, "repeated")
    def _(victim: type[Any]) -> list[str]:
        # Without proofs of knowledge, which would refuse a copy first.
        plan = trusting_plan()
        return play(victim, messages.ENCRYPTED, lambda w, f: stolen(w, f, 1), plan=plan)

    @scenario(party, "knowledge")
    def _(victim: type[Any]) -> list[str]:
        return play(victim, messages.ENCRYPTED, lambda w, f: stolen(w, f, 1 << 40))

    @scenario(party, "step-order")
    def _(victim: type[Any]) -> list[str]:
        return play(victim, messages.ENCRYPTED, lambda w, f: f, after=True)

    @scenario(party, "equivocation")
    def _(victim: type[Any]) -> list[str]:
        return play(victim, messages.ENCRYPTED, lambda w, f: stolen(w, f, 3), after=True)


site_attacks("server")
site_attacks("holder")


# The server.


@scenario("server", "enough")
def _(victim: type[Any]) -> list[str]:
    world = PaillierWorld(make_plan(), classes={"server": victim})
    world.send_inputs(drop=["s2", "s3"])
    return refused(world.server.close_step)


@scenario("server", "opened-product")
def _(victim: type[Any]) -> list[str]:
    def change(world: PaillierWorld, frame: bytes) -> bytes:
        # A good share, with a good proof, of the vector of one site.
        rows, _ = read_rows(
            world.plan, memoryview(world.parts(world.frame(messages.ENCRYPTED, "s0"))[1])
        )
        other = b"another product".ljust(32, b"!")
        share, proof = threshold.partial(world.shares["h1"], rows, context=other)
        tail = share.astype("<u8").tobytes() + proof
        return world.reseal(frame, header=messages.Opened(other), tail=tail)

    return play(victim, messages.OPENED, change)


def one_more(world: PaillierWorld, frame: bytes) -> bytes:
    """A holder's answer whose first number is larger by one."""
    _, tail = world.parts(frame)
    first = int.from_bytes(tail[:8], "little")
    return world.reseal(frame, tail=(first ^ 1).to_bytes(8, "little") + tail[8:])


@scenario("server", "share-proof")
def _(victim: type[Any]) -> list[str]:
    return play(victim, messages.OPENED, one_more)


@scenario("server", "opening-proof")
def _(victim: type[Any]) -> list[str]:
    return play(victim, messages.OPENED, one_more, plan=one_key_plan(), sender="h0")


class Below(Client):
    """A site whose first coordinate is far below its bounds."""

    def _encrypt(self, encoder: Any, tail: memoryview) -> None:
        class Changed:
            def tile(self, out: Any, start: int) -> None:
                encoder.tile(out, start)
                if start == 0:
                    out[:1] -= out.dtype.type(6000)

        super()._encrypt(Changed(), tail)


class Beyond(Client):
    """A site that sets a bit beyond the slots."""

    def _batches(self, encoder: Any) -> Any:
        for start, plain in super()._batches(encoder):
            plain[:, -1] |= np.uint64(1 << 60)
            yield start, plain


def with_cheat(victim: type[Any], cheat: type[Client], **changes: Any) -> list[str]:
    """How the server's last step ends after a site that proves that it knows its bad vector."""
    world = PaillierWorld(one_key_plan(**changes), classes={"server": victim, "s1": cheat})
    return refused(world.run)


@scenario("server", "sum-range")
def _(victim: type[Any]) -> list[str]:
    return with_cheat(victim, Below, bits=16)


@scenario("server", "slot-range")
def _(victim: type[Any]) -> list[str]:
    return with_cheat(victim, Beyond)


@scenario("server", "dump-age")
def _(victim: type[Any]) -> list[str]:
    world = PaillierWorld(one_key_plan(), classes={"server": victim})
    world.send_inputs()
    old = world.server.dump()
    world.run_on()
    return refused(lambda: reload(victim, world, "server", old))


# Holders.


@scenario("holder", "floors")
def _(victim: type[Any]) -> list[str]:
    return refused(lambda: built(victim, floors=secagg.Floors(smallest_cohort=4)))


@scenario("holder", "own-share")
def _(victim: type[Any]) -> list[str]:
    return refused(lambda: built(victim, share=dealt(3, 2)[1][1]))


def asked(victim: type[Any], listed: tuple[int, ...], given: str) -> list[str]:
    """A server that has the product of the ``given`` sites opened, and lists others."""

    def change(world: PaillierWorld, frame: bytes) -> bytes:
        product = Product(world.plan)
        for site in given:
            sent = world.parts(world.frame(messages.ENCRYPTED, f"s{site}"))[1]
            product.multiply(int(site), read_rows(world.plan, memoryview(sent))[0], threads=1)
        digest = product.digest(world.server.contexts.round)
        return world.reseal(frame, header=messages.Open(world.bitmap(*listed), digest))

    return play(victim, messages.OPEN, change, keep=lambda signer: signer[1:] in given)


@scenario("holder", "cohort")
def _(victim: type[Any]) -> list[str]:
    return asked(victim, (0, 1), "01")


@scenario("holder", "given")
def _(victim: type[Any]) -> list[str]:
    # Enough sites are listed, and the product is that of one.
    return asked(victim, (0, 1, 2, 3), "0")


@scenario("holder", "product")
def _(victim: type[Any]) -> list[str]:
    def change(world: PaillierWorld, frame: bytes) -> bytes:
        header, _ = world.parts(frame)
        return world.reseal(frame, header=changed(header, product=bytes(32)))

    return play(victim, messages.OPEN, change)


@scenario("holder", "dump-age")
def _(victim: type[Any]) -> list[str]:
    world = PaillierWorld(make_plan(), classes={"h0": victim})
    world.send_inputs()
    world.pump(world.server.close_step(), "server")
    # A journal from before the opening: another product could be opened with it.
    dump = world.parties["h0"].dump()
    return refused(lambda: reload(victim, world, "h0", dump, secagg.MemoryJournal()))


__all__ = ["SCENARIOS", "Beyond", "Holder", "Server", "listing", "one_more", "rules_of", "stolen"]
