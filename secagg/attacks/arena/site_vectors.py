"""For every rule of a site, or of every party, the attack that it stops: its negative vector.

A scenario gets the class that its victim is built from (the real one, or a control with one
rule overridden) and returns the ids of the rules that refused the attack, in order. An empty
list means that the attack went through.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import secagg
from secagg.attacks.arena import server_vectors
from secagg.attacks.arena.played import (
    SCENARIOS,
    VICTIM,
    NotPlayedError,
    changed,
    ended,
    members,
    play,
    refused,
    reload,
    scenario,
)
from secagg.attacks.arena.world import MODEL, SESSION, World, digest, make_plan, people, sparse_plan
from secagg_protocols import wire
from secagg_protocols.masked_sum import masks, messages
from secagg_protocols.registers import (
    MOST_MODELS,
    ledger_register,
    models_register,
    pack_count,
)

ADAPTIVE = (
    secagg.AdaptiveClip(clip=1.0, lowest=0.01, highest=100.0),
    secagg.Quantise(1000),
)

# Every party, played on a site or on the server.


@scenario("party", "round-clip")
def _(victim: type[Any]) -> list[str]:
    party = victim(
        make_plan(stages=ADAPTIVE),
        0,
        identity=people(7)[1]["s0"],
        session=SESSION,
        round=0,
        model=None,
        floors=None,
        journal=secagg.MemoryJournal(),
    )
    return refused(lambda: party.use_model(MODEL, struct.pack("<d", 1e30)))


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
        keep = members(header.present, 7)[:-2]
        present = world.bitmap(*keep)
        rows = len(keep) - (VICTIM in [world.name(i) for i in keep])
        return world.reseal(
            frame, header=changed(header, present=present, cohort=5), tail=tail[: row * rows]
        )

    return play(victim, kind, change)


@scenario("client", "floors")
def _(victim: type[Any]) -> list[str]:
    floors = secagg.Floors(smallest_cohort=7)
    return refused(lambda: World(make_plan(), classes={VICTIM: victim}, floors={VICTIM: floors}))


@scenario("client", "model-allowed")
def _(victim: type[Any]) -> list[str]:
    # A crafted model, at a site that knows another one; it went through if a vector was summed.
    floors = secagg.Floors(models=(hashlib.sha256(b"the model that was looked at").hexdigest(),))

    def attack() -> bool:
        world = World(make_plan(), classes={VICTIM: victim}, floors={VICTIM: floors})
        return VICTIM in world.run().announced

    return ended(attack)


@scenario("client", "graph")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        near = world.bitmap(*members(header.neighbours, 7)[:-1])
        return world.reseal(frame, header=messages.Adverts(near, near, 6), tail=tail[: 5 * 128])

    return play(victim, messages.ADVERTS, change)


@scenario("client", "adverts-within")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        plan = world.plan
        far = next(i for i in range(1, plan.clients) if i not in members(header.neighbours, 12))
        present = sorted([*members(header.present, 12)[:-1], far])
        at = present.index(far) * 64
        tail = tail[:at] + digest("far") + digest("away") + tail[at:-64]
        bitmap = world.bitmap(*present)
        return world.reseal(frame, header=changed(header, present=bitmap), tail=tail)

    return play(victim, messages.ADVERTS, change, plan=sparse_plan())


@scenario("client", "advert-cohort")
def _(victim: type[Any]) -> list[str]:
    return small_cohort(messages.ADVERTS, victim, 128)


def few_holders(kind: Any, victim: type[Any], row: int, keep: int) -> list[str]:
    """A server that leaves a sparse site too few holders, with an unsuspicious cohort."""

    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        found = members(header.present, 12)
        own = [0] if 0 in found else []
        peers = [site for site in found if site != 0][:keep]
        bitmap = world.bitmap(*own, *peers)
        return world.reseal(
            frame, header=changed(header, present=bitmap), tail=tail[: row * len(peers)]
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
            header=changed(header, present=world.bitmap(*range(7)), cohort=7),
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
        six = world.bitmap(*members(header.present, 7)[:-1])
        return world.reseal(frame, header=changed(header, present=six, cohort=6))

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
    # A retry of one model, after a round that went through.
    plan, journals = make_plan(max_inputs_per_model=1), dict[str, Any]()
    World(plan, journals=journals).run()
    return play(victim, messages.SHARES_FOR, lambda w, f: f, plan=plan, journals=journals, round=1)


@scenario("client", "inputs-full")
def _(victim: type[Any]) -> list[str]:
    # One model more than a site keeps on record.
    journal = secagg.MemoryJournal()
    journal.swap(models_register(VICTIM, ""), b"", pack_count(MOST_MODELS))
    plan, journals = make_plan(max_inputs_per_model=1), {VICTIM: journal}
    return play(victim, messages.SHARES_FOR, lambda w, f: f, plan=plan, journals=journals)


@scenario("client", "ledger-given")
def _(victim: type[Any]) -> list[str]:
    # Data that were charged to a ledger before, and now a party that was made without one.
    journal = secagg.MemoryJournal()
    journal.swap(ledger_register(VICTIM, ""), b"", b"charged")
    return play(victim, messages.SHARES_FOR, lambda w, f: f, journals={VICTIM: journal})


@scenario("client", "fixed-data-plan")
def _(victim: type[Any]) -> list[str]:
    # Data that were summed as fixed, under a plan that compares nothing.
    plan, journals = make_plan(max_inputs_per_model=2), released(make_plan(fixed_data=True), [])
    return play(victim, messages.SHARES_FOR, lambda w, f: f, plan=plan, journals=journals, round=1)


@scenario("client", "fixed-roster")
def _(victim: type[Any]) -> list[str]:
    # A sum of all, then one of a part of the sites whose threshold is its own.
    plan, journals = make_plan(7, fixed_data=True), released(fixed_plan(), [])
    return play(victim, messages.SHARES_FOR, lambda w, f: f, plan=plan, journals=journals, round=1)


def released(plan: secagg.Plan, *drops: list[str]) -> dict[str, Any]:
    """Journals after rounds over fixed data that left out these sites; the last may be refused."""
    journals: dict[str, Any] = {}
    for number, gone in enumerate(drops):
        world = World(plan, journals=journals, round=number)
        try:
            world.run({3: gone})
        except secagg.ThresholdError:
            # Every site refuses the survivors, so no consents come together.
            if number != len(drops) - 1:
                raise
    return journals


def another_set(victim: type[Any], plan: secagg.Plan, *drops: list[str]) -> list[str]:
    """Rounds over fixed data with the victim's own class in the last only; its answer to U3."""
    return play(
        victim,
        messages.SURVIVORS,
        lambda world, frame: frame,
        plan=plan,
        drop={3: drops[-1]},
        journals=released(plan, *drops[:-1]),
        round=len(drops) - 1,
    )


def fixed_plan() -> secagg.Plan:
    """Ten sites, of which four may be missing; sums differ by no site or by at least three."""
    return make_plan(
        10,
        fixed_data=True,
        max_dropouts=4,
        protocol=secagg.MaskedSum(share_threshold=6, neighbours=9),
    )


@scenario("client", "fixed-nested")
def _(victim: type[Any]) -> list[str]:
    # Three sites leave and three others return: any two sets differ by six sites.
    return another_set(victim, fixed_plan(), ["s1", "s2", "s3"], ["s4", "s5", "s6"])


@scenario("client", "fixed-difference")
def _(victim: type[Any]) -> list[str]:
    return another_set(victim, fixed_plan(), [], ["s9"])


@scenario("client", "fixed-ended")
def _(victim: type[Any]) -> list[str]:
    # One set is refused, and the server comes back with one that would have been taken.
    return another_set(victim, fixed_plan(), [], ["s9"], ["s9", "s8", "s7"])


@scenario("client", "survivors-within")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, _ = world.parts(frame)
        return world.reseal(
            frame, header=changed(header, present=world.bitmap(*range(7)), cohort=7)
        )

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
    raise NotPlayedError("no list of survivors came to the site")


@scenario("client", "survivor-holders")
def _(victim: type[Any]) -> list[str]:
    return few_holders(messages.SURVIVORS, victim, 0, 3)


@scenario("client", "consent-count")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, tail = world.parts(frame)
        signers = members(header.signers, 7)[:-1]
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
        signers = [*members(header.signers, 7)[:-1], 6]
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


@scenario("client", "result-survivors")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        header, _ = world.parts(frame)
        return world.reseal(frame, header=changed(header, survivors=world.bitmap(*range(6))))

    return play(victim, messages.RESULT, change, plan=make_plan(sites_receive=False))


@scenario("client", "result-digest")
def _(victim: type[Any]) -> list[str]:
    def change(world: World, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        return world.reseal(frame, tail=bytes([tail[0] ^ 1]) + tail[1:])

    return play(victim, messages.RESULT, change)


# The vectors of the server come along, so that the table is whole wherever it is imported from.

__all__ = ["SCENARIOS", "VICTIM", "play", "refused", "server_vectors"]
