"""For every rule of a session at sites and servers, the attack that it stops, played live."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

import secagg
from secagg.session import Agreement, Finished, ServerSession, SiteSession, Slot, messages
from secagg_protocols import wire
from secagg_protocols.errors import MisuseError, SecAggError
from secagg_protocols.events import Dropped, Send

from .controls import changed
from .played import NotPlayedError, Scenario, need, refused
from .session_world import Played, session_plan

#: What an attack comes to: ids of rules that answered it, empty where it went through.
Answers = list[str]


class Cheating(Played):
    """A session whose server's frames are made up, with the server's own key."""

    def __init__(
        self, site: type[SiteSession] = SiteSession, *, stages: Any = None, **options: Any
    ) -> None:
        more = {} if stages is None else {"stages": stages}
        plan, identities = session_plan("malicious-server", **more)
        super().__init__(plan, identities, site=site, **options)

    def order(
        self, name: str, exchange: int, slot: Slot, number: int, *parts: tuple[int, bytes]
    ) -> bytes:
        """A bundle that the server signs."""
        table = tuple(messages.Part.of(n, [data], 64) for n, data in parts)
        model = bytes(32) if slot == Slot.INPUT else b""
        header = messages.Order(exchange, int(slot), number, model, b"", table)
        site = self.plan.roster.index(name)
        control, _ = self.hub._frame(messages.ORDER, site, header)
        return b"".join((control, *(data for _, data in parts)))

    def agreed(self, name: str, number: int, signatures: dict[int, bytes]) -> bytes:
        """The agreements of a round, as the server relays them."""
        header = messages.Agreed(number, wire.to_bitmap(sorted(signatures), self.plan.clients))
        tail = b"".join(signatures[site] for site in sorted(signatures))
        frame, _ = self.hub._frame(messages.AGREED, self.plan.roster.index(name), header, tail)
        return frame

    def agreement(self, name: str, number: int, digest: bytes) -> bytes:
        """The signature with which a site agrees."""
        frame, _ = self.sites[name]._frame(
            messages.AGREE, wire.SERVER, messages.Agree(number, digest)
        )
        return frame[-64:]

    def answers(self, name: str, data: bytes) -> Answers:
        """Rules that a site names when it is given these bytes."""
        try:
            events = self.sites[name].receive(data, sender="server")
        except SecAggError as error:
            return [error.rule]
        self.said += [(name, event) for event in events]
        return [e.error.rule for e in events if isinstance(e, Dropped)]


def two_orders_for_one_exchange(site: type[SiteSession]) -> Answers:
    """Two orders with one number, for two rounds."""
    played = Cheating(site)
    need(played.answers("site-0", played.order("site-0", 1, Slot.ADVERTISE, 0)) == [])
    return played.answers("site-0", played.order("site-0", 1, Slot.ADVERTISE, 5))


def back_to_an_earlier_round(site: type[SiteSession]) -> Answers:
    """A round is asked for again after the next one."""
    played = Cheating(site)
    need(played.answers("site-0", played.order("site-0", 1, Slot.ADVERTISE, 3)) == [])
    need(played.answers("site-0", played.order("site-0", 2, Slot.ADVERTISE, 4)) == [])
    return played.answers("site-0", played.order("site-0", 3, Slot.ADVERTISE, 3))


def another_model_than_stated(site: type[SiteSession]) -> Answers:
    """The site got its model on another way than the server's signature."""
    played = Cheating(site)
    events = played.hub.begin_round(b"model")
    while played.hub.slot != Slot.INPUT:
        played.deliver(played.note("server", events))
        events = played.hub.close_exchange()
    order = next(e for e in played.note("server", events) if e.to == "site-0")
    played.sites["site-0"].receive(order.data, sender="server")
    try:
        found = played.sites["site-0"].submit(
            played.vector("site-0", 0), model=b"what an intruder sent"
        )
    except MisuseError as error:
        return [error.rule]
    need(any(isinstance(event, Send) for event in found))
    return []


def a_clip_that_does_not_follow(site: type[SiteSession]) -> Answers:
    """The server announces another clip than the one that the first round's bits give."""
    stages = (secagg.AdaptiveClip(clip=5.0), secagg.Quantise(100))
    played = Cheating(
        site, stages=stages, vector=lambda name, number: np.full(10, len(name) + number / 7)
    )
    first = played.round(b"one")
    if first is None:
        raise NotPlayedError("the first round was aborted")
    (clip,) = struct.unpack("<d", secagg.next_parameters(played.plan, first))
    try:
        played.round(b"two", struct.pack("<d", clip * 1.5))
    except SecAggError as error:
        return [error.rule]
    need(len(played.of("server", Finished)) == 2)
    return []


def after_a_round(site: type[SiteSession]) -> tuple[Cheating, bytes]:
    """A session whose sites have the result of round 0 and have not heard of agreements."""
    played = Cheating(site)
    need(played.round(b"one") is not None)
    played.deliver(played.note("server", played.hub.finish()))
    (done,) = played.of("server", Finished)
    return played, done.digest


def agreements(
    signers: Callable[[Cheating, bytes], dict[int, bytes]],
) -> Callable[[type[SiteSession]], Answers]:
    """An attack that shows a site these agreements on the result that it has."""

    def attack(site: type[SiteSession]) -> Answers:
        played, digest = after_a_round(site)
        part = played.agreed("site-0", 0, signers(played, digest))
        found = played.answers("site-0", played.order("site-0", 99, Slot.CLOSE, 9, (0, part)))
        need(bool(found) != bool(played.of("site-0", Agreement)))
        return found

    return attack


def too_few(played: Cheating, digest: bytes) -> dict[int, bytes]:
    """One good agreement of the three that it takes."""
    return {1: played.agreement("site-1", 0, digest)}


def on_another_result(played: Cheating, digest: bytes) -> dict[int, bytes]:
    """What the other half of the sites was sent, and signed."""
    return {i: played.agreement(f"site-{i}", 0, bytes(32)) for i in (1, 2, 3)}


def from_outside(site: type[SiteSession]) -> Answers:
    """One site is in no sum; the server counts its agreement to reach the threshold."""
    played = Cheating(site, reach=lambda e, r, slot, name: (name != "site-3", name != "site-3"))
    need(played.round(b"one") is not None)
    played.deliver(played.note("server", played.hub.finish()))
    (done,) = played.of("server", Finished)
    signed = {i: played.agreement(f"site-{i}", 0, done.digest) for i in (1, 2, 3)}
    part = played.agreed("site-0", 0, signed)
    return played.answers("site-0", played.order("site-0", 99, Slot.CLOSE, 9, (0, part)))


def without_a_limit(kind: type[Any]) -> Answers:
    """A session whose plan limits nothing: one model is summed again and again."""
    plan, identities = session_plan()
    open_ended = replace(plan, max_inputs_per_model=None)
    given: dict[str, Any] = {"identity": None, "session": "s", "journal": secagg.MemoryJournal()}
    if issubclass(kind, ServerSession):
        return refused(lambda: kind(open_ended, **given))
    return refused(lambda: kind(open_ended, next(iter(identities)), floors=None, **given))


def lie_about_the_result(hub: type[ServerSession]) -> Answers:
    """A colluding site agrees on something else, and the server relays its lie first."""

    def agreements_with_the_lie(self: Any, exchange: int) -> Any:
        if self._outcome is not None and self._outcome.agreed:
            kept = self._outcome.agreed
            self._outcome.agreed = {site: kept[site] for site in sorted(kept)[-3:]}
        return hub._agreements(self, exchange)

    played = Cheating(server=changed(hub, _agreements=agreements_with_the_lie))
    need(played.round(b"one") is not None)
    liar, answers = played.sites["site-3"], Answers()
    for order in played.note("server", played.hub.finish()):
        for report in played.ask(order.to, order.data):
            data = report.data
            if order.to == "site-3":
                lie = messages.Agree(0, bytes(32))
                agree, _ = liar._frame(messages.AGREE, wire.SERVER, lie)
                header = messages.Report(played.hub.exchange, (messages.Part.of(0, [agree], 64),))
                control, _ = liar._frame(messages.REPORT, wire.SERVER, header)
                data = control + agree
            events = played.hub.receive(data, sender=order.to)
            answers += [e.error.rule for e in events if isinstance(e, Dropped)]
    for send in played.note("server", played.hub.close_exchange()):
        if send.to != "site-3":
            answers += played.answers(send.to, send.data)
    return answers


ATTACKS: Final[dict[tuple[str, str], Scenario]] = {
    ("party", "release-policy"): without_a_limit,
    ("client", "order-once"): two_orders_for_one_exchange,
    ("client", "order-sequence"): back_to_an_earlier_round,
    ("client", "order-clip"): a_clip_that_does_not_follow,
    ("client", "stated-model"): another_model_than_stated,
    ("client", "agreed-count"): agreements(too_few),
    ("client", "agreed-members"): from_outside,
    ("client", "agreed-signatures"): agreements(on_another_result),
    ("server", "agree-digest"): lie_about_the_result,
}

__all__ = ["ATTACKS", "Cheating", "after_a_round"]
