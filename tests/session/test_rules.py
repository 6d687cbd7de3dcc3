"""The rules of a session: each is one method, refuses its attack, and the attack goes through (or
meets the rule that the table names) once exactly that method is overridden."""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg.session
from secagg.session import Agreement, Finished, ServerSession, SiteSession, Slot, messages
from secagg.session.rules import RULES
from secagg_protocols.errors import MisuseError, SecAggError
from secagg_protocols.events import Dropped, Send
from secagg_protocols.masked_sum import messages as inner
from secagg_protocols.rules import Rule
from secagg_protocols.wire import SERVER, to_bitmap
from support.sessions import Played, session_plan

ROOT = Path(secagg.session.__file__).parent
#: What an attack comes to: ids of rules that answered it, empty where it went through.
Answers = list[str]


class Cheating(Played):
    """A session whose server's frames the test makes up, with the server's own key."""

    def __init__(
        self, *, site: type[SiteSession] = SiteSession, stages: Any = None, **options: Any
    ) -> None:
        more = {} if stages is None else {"stages": stages}
        plan, identities = session_plan("malicious-server", **more)
        super().__init__(plan, identities, **options)
        self.sites = {
            name: site(
                plan,
                name,
                identity=self.keys[name],
                session="played",
                floors=None,
                journal=self.journals[name],
            )
            for name in plan.roster.names
        }

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
        header = messages.Agreed(number, to_bitmap(sorted(signatures), self.plan.clients))
        tail = b"".join(signatures[site] for site in sorted(signatures))
        frame, _ = self.hub._frame(messages.AGREED, self.plan.roster.index(name), header, tail)
        return frame

    def agreement(self, name: str, number: int, digest: bytes) -> bytes:
        """The signature with which a site agrees."""
        frame, _ = self.sites[name]._frame(messages.AGREE, SERVER, messages.Agree(number, digest))
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
    played = Cheating(site=site)
    assert played.answers("site-0", played.order("site-0", 1, Slot.ADVERTISE, 0)) == []
    return played.answers("site-0", played.order("site-0", 1, Slot.ADVERTISE, 5))


def back_to_an_earlier_round(site: type[SiteSession]) -> Answers:
    played = Cheating(site=site)
    assert played.answers("site-0", played.order("site-0", 1, Slot.ADVERTISE, 3)) == []
    assert played.answers("site-0", played.order("site-0", 2, Slot.ADVERTISE, 4)) == []
    return played.answers("site-0", played.order("site-0", 3, Slot.ADVERTISE, 3))


def another_model_than_stated(site: type[SiteSession]) -> Answers:
    played = Cheating(site=site)
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
    assert any(isinstance(event, Send) for event in found)
    return []


def a_clip_that_does_not_follow(site: type[SiteSession]) -> Answers:
    """The server announces another clip than the one that the first round's bits give."""
    stages = (secagg.AdaptiveClip(clip=5.0), secagg.Quantise(100))
    played = Cheating(
        site=site, stages=stages, vector=lambda name, number: np.full(10, len(name) + number / 7)
    )
    first = played.round(b"one")
    assert first is not None
    (clip,) = struct.unpack("<d", secagg.next_parameters(played.plan, first))
    try:
        played.round(b"two", struct.pack("<d", clip * 1.5))
    except SecAggError as error:
        return [error.rule]
    assert len(played.of("server", Finished)) == 2
    return []


def after_a_round(site: type[SiteSession]) -> tuple[Cheating, bytes]:
    """A session whose sites have the result of round 0 and have not heard of agreements."""
    played = Cheating(site=site)
    assert played.round(b"one") is not None
    played.deliver(played.note("server", played.hub.finish()))
    (done,) = played.of("server", Finished)
    return played, done.digest


def agreements(
    signers: Callable[[Cheating, bytes], dict[int, bytes]],
) -> Callable[[type[SiteSession]], Answers]:
    def attack(site: type[SiteSession]) -> Answers:
        played, digest = after_a_round(site)
        part = played.agreed("site-0", 0, signers(played, digest))
        found = played.answers("site-0", played.order("site-0", 99, Slot.CLOSE, 9, (0, part)))
        assert bool(found) != bool(played.of("site-0", Agreement))
        return found

    return attack


def too_few(played: Cheating, digest: bytes) -> dict[int, bytes]:
    return {1: played.agreement("site-1", 0, digest)}


def on_another_result(played: Cheating, digest: bytes) -> dict[int, bytes]:
    # What the other half of the sites was sent, and signed.
    return {i: played.agreement(f"site-{i}", 0, bytes(32)) for i in (1, 2, 3)}


def from_outside(site: type[SiteSession]) -> Answers:
    """One site is in no sum; the server counts its agreement to reach the threshold."""
    played = Cheating(
        site=site, reach=lambda e, r, slot, name: (name != "site-3", name != "site-3")
    )
    assert played.round(b"one") is not None
    played.deliver(played.note("server", played.hub.finish()))
    (done,) = played.of("server", Finished)
    signed = {i: played.agreement(f"site-{i}", 0, done.digest) for i in (1, 2, 3)}
    part = played.agreed("site-0", 0, signed)
    return played.answers("site-0", played.order("site-0", 99, Slot.CLOSE, 9, (0, part)))


ATTACKS: dict[str, Callable[[type[SiteSession]], Answers]] = {
    "order-once": two_orders_for_one_exchange,
    "order-sequence": back_to_an_earlier_round,
    "order-clip": a_clip_that_does_not_follow,
    "stated-model": another_model_than_stated,
    "agreed-count": agreements(too_few),
    "agreed-members": from_outside,
    "agreed-signatures": agreements(on_another_result),
}
AT_SITES = [rule for rule in RULES if rule.party == "client"]


def control(kind: type[Any], rule: Rule) -> type[Any]:
    return type(f"{kind.__name__}Without", (kind,), {rule.method: lambda self, *_a, **_k: None})


@pytest.mark.parametrize("rule", AT_SITES, ids=lambda rule: rule.id)
def test_a_site_refuses_by_the_rule(rule: Rule) -> None:
    assert ATTACKS[rule.id](SiteSession) == [rule.id]


@pytest.mark.parametrize("rule", AT_SITES, ids=lambda rule: rule.id)
def test_without_the_rule_the_attack_passes_or_meets_a_named_one(rule: Rule) -> None:
    assert ATTACKS[rule.id](control(SiteSession, rule)) == list(rule.also)


def rule(name: str) -> Rule:
    return next(rule for rule in RULES if rule.id == name)


@pytest.mark.parametrize("kind", [SiteSession, ServerSession])
def test_a_plan_without_a_limit_has_no_sessions(kind: type[Any]) -> None:
    plan, _ = session_plan()
    open_ended = replace(plan, max_inputs_per_model=None)
    given: dict[str, Any] = {
        "identity": None,
        "session": "s",
        "journal": secagg.MemoryJournal(),
    }
    args = (open_ended,)
    if kind is SiteSession:
        args, given = (open_ended, "site-0"), {**given, "floors": None}
    with pytest.raises(MisuseError, match="release-policy"):
        kind(*args, **given)
    # With the rule off, such a session counts nothing: one model is summed again and again.
    made = control(kind, rule("release-policy"))(*args, **given)
    assert made.plan.max_inputs_per_model is None


def lie_about_the_result(hub: type[ServerSession]) -> tuple[Answers, Played]:
    """A colluding site agrees on something else; an honest one would then not be believed."""
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    made = hub(plan, identity=identities["server"], session="played", journal=played.hub.journal)
    played.hub = made
    assert played.round(b"one") is not None
    orders = played.note("server", made.finish())
    liar = played.sites["site-3"]
    answers: Answers = []
    for order in orders:
        for report in played.ask(order.to, order.data):
            data = report.data
            if order.to == "site-3":
                agree, _ = liar._frame(messages.AGREE, SERVER, messages.Agree(0, bytes(32)))
                header = messages.Report(made.exchange, (messages.Part.of(0, [agree], 64),))
                control_frame, _ = liar._frame(messages.REPORT, SERVER, header)
                data = control_frame + agree
            events = made.receive(data, sender=order.to)
            answers += [e.error.rule for e in events if isinstance(e, Dropped)]
    return answers, played


def test_a_site_that_lies_about_its_result_is_out() -> None:
    answers, played = lie_about_the_result(ServerSession)
    assert answers == ["agree-digest"]
    played.deliver(played.note("server", played.hub.close_exchange()))
    assert all(played.of(f"site-{i}", Agreement) for i in range(3))


def test_without_the_rule_the_liar_makes_the_others_end() -> None:
    class Believing(ServerSession):
        """Relays the lie first."""

        def _agreements(self, exchange: int) -> Any:
            if self._outcome is not None and self._outcome.agreed:
                kept = self._outcome.agreed
                self._outcome.agreed = {s: kept[s] for s in sorted(kept)[-3:]}
            return super()._agreements(exchange)

    answers, played = lie_about_the_result(control(Believing, rule("agree-digest")))
    assert answers == []
    found = [
        (send.to, played.sites[send.to])
        for send in played.note("server", played.hub.close_exchange())
        if send.to != "site-3"
        for _ in [0]
        if isinstance(refusal(played.sites[send.to], send.data), SecAggError)
    ]
    assert len(found) == 3


def refusal(site: SiteSession, data: bytes) -> SecAggError | None:
    try:
        site.receive(data, sender="server")
    except SecAggError as error:
        assert error.rule == "agreed-signatures"
        return error
    return None


def test_two_results_are_caught_by_the_smaller_group() -> None:
    """The server gives one site another result; no choice of agreements satisfies it."""
    played, digest = after_a_round(SiteSession)
    victim = played.sites["site-0"]
    assert victim._outcome is not None
    victim._outcome.digest = bytes(32)  # what the server signed for this site alone
    found = []
    for absent in range(4):
        signed = {i: played.agreement(f"site-{i}", 0, digest) for i in range(4) if i != absent}
        fork = SiteSession.load(
            victim.dump(), played.plan, identity=victim.identity, journal=victim.journal
        )
        part = played.agreed("site-0", 0, signed)
        with pytest.raises(SecAggError) as caught:
            fork.receive(played.order("site-0", 99, Slot.CLOSE, 9, (0, part)), sender="server")
        found.append(caught.value.rule)
    assert found == ["agreed-signatures"] * 4


def test_every_rule_is_one_method_that_is_called_from_one_place() -> None:
    defined: list[str] = []
    called: list[str] = []
    for name in ("desk", "site", "site_checks", "server"):
        for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("_check_"):
                defined.append(node.name)
            if isinstance(node, ast.Attribute) and node.attr.startswith("_check_"):
                called.append(node.attr)
    wanted = sorted(rule.method for rule in RULES)
    assert sorted(defined) == wanted
    assert sorted(name for name in called if name in defined) == wanted


def test_a_result_frame_of_another_kind_is_no_agreement() -> None:
    played, _ = after_a_round(SiteSession)
    frame = played.order(
        "site-0", 99, Slot.CLOSE, 9, (0, b"SA\x01" + bytes([inner.RESULT.number]) + bytes(100))
    )
    assert played.answers("site-0", frame) == []
    assert not played.of("site-0", Agreement)
