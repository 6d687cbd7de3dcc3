"""The audit of sessions: overlapping rounds, bundles, agreements, sites that leave and return."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import secagg
from secagg.session import Finished, SessionEvent, Slot
from secagg.session import messages as control
from secagg.session.audit import Verdict, audit
from secagg.session.transcript import Recorder
from secagg_protocols import wire
from secagg_protocols.events import Send
from secagg_protocols.masked_sum import messages
from support.sessions import SERVER, Played, session_plan

SESSION = "played"


class Recorded(Played):
    """A session whose parties record what they send and receive."""

    def __init__(
        self, folder: Path, *args: Any, keep_tails: int | None = None, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.paths = {name: folder / name for name in (*self.plan.roster.names, SERVER)}
        self.recorders = {
            name: Recorder(path, self.plan, name, SESSION, keep_tails=keep_tails)
            for name, path in self.paths.items()
        }

    def deliver(self, orders: list[Send]) -> None:
        for order in orders:
            self.recorders[SERVER].sent(order.to, order.data)
        super().deliver(orders)

    def ask(self, site: str, data: bytes) -> list[Send]:
        self.recorders[site].received(SERVER, data)
        sends = super().ask(site, data)
        sends = [Send(SERVER, self.spoil(site, send.data)) for send in sends]
        for send in sends:
            self.recorders[site].sent(SERVER, send.data)
        _, answers = self.reach(
            self.hub.exchange, self.hub.round, self.hub.slot or Slot.CLOSE, site
        )
        if answers:
            for send in sends:
                self.recorders[SERVER].received(site, send.data)
        return sends

    def spoil(self, site: str, data: bytes) -> bytes:
        """What a site sends instead of its report; a cheat overrides this."""
        return data

    def note(self, who: str, events: list[SessionEvent]) -> list[Send]:
        for event in events:
            if who == SERVER and isinstance(event, Finished) and event.aggregate is not None:
                self.recorders[SERVER].outcome(event.round, event.aggregate)
        return super().note(who, events)

    def check(self) -> Verdict:
        for recorder in self.recorders.values():
            recorder.close()
        return audit(self.paths.values())


def convicted(verdict: Verdict) -> set[tuple[str, str]]:
    return {(c.party, c.rule) for c in verdict.convictions}


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
def test_an_honest_session_holds_and_every_round_is_confirmed(tmp_path: Path, threat: str) -> None:
    plan, identities = session_plan(threat)
    played = Recorded(tmp_path, plan, identities)
    results = [played.round(b"model %d" % number) for number in range(4)]
    played.finish()
    verdict = played.check()
    assert verdict.holds, verdict.to_dict()
    done = [r for r in verdict.rounds if r.result]
    assert [r.replay for r in done] == ["confirmed"] * 4
    for report, result in zip(done, results, strict=True):
        assert result is not None
        assert report.sets["U3"] == result.survivors
        assert report.result == result.digest.hex()
        assert report.agreed == (plan.roster.names if plan.signed else ())


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_honest_party_is_convicted_whatever_is_lost(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Orders and reports are lost at random: rounds abort, start cold, sites leave and return.
    Whatever happens, nothing contradicts anything."""
    plan, identities = session_plan("malicious-server", sites=data.draw(st.integers(4, 5)))
    lost = data.draw(
        st.sets(st.tuples(st.integers(1, 14), st.sampled_from(plan.roster.names)), max_size=6)
    )
    kind = {place: data.draw(st.sampled_from([(False, True), (True, False)])) for place in lost}

    def reach(exchange: int, number: int, slot: Slot, site: str) -> tuple[bool, bool]:
        return kind.get((exchange, site), (True, True))

    folder = tmp_path_factory.mktemp("session")
    played = Recorded(folder, plan, identities, reach=reach)
    results = [played.round(b"model %d" % number) for number in range(3)]
    played.finish()
    verdict = played.check()
    assert verdict.holds, verdict.to_dict()
    confirmed = [r for r in verdict.rounds if r.replay == "confirmed"]
    finished = [r for r in results if r is not None]
    # A result that no site was sent any more is in the server's own lists only.
    assert {r.result for r in confirmed if r.result} <= {r.digest.hex() for r in finished}
    assert len(confirmed) == len(finished)
    for path in played.paths.values():
        alone = audit([path])
        assert not alone.convictions
        assert not alone.doubts
        # A site that missed the order of a round's input was not told the model.
        assert all("the model of its round" in line for line in alone.accounts[0].strangers)


def test_hashed_inputs_in_bundles(tmp_path: Path) -> None:
    plan, identities = session_plan("malicious-server", length=3000)
    played = Recorded(tmp_path, plan, identities, keep_tails=1024)
    played.round(b"first")
    played.round(b"second")
    played.finish()
    verdict = played.check()
    assert verdict.holds, verdict.to_dict()
    done = [r for r in verdict.rounds if r.result]
    assert [r.replay for r in done] == [
        "confirmed but for the sum: inputs were recorded by hash"
    ] * 2


def sealed(played: Recorded, kind: Any, sender: str, to: str, header: Any, tail: bytes) -> bytes:
    """A frame of the session, signed by whoever is played."""

    def index(name: str) -> int:
        return wire.SERVER if name == SERVER else played.plan.roster.index(name)

    encoded = wire.encode_header(header)
    context = control.session_context(played.plan, SESSION.encode())
    ends = index(sender), index(to)
    what = wire.frame_digest(context, kind.number, *ends, encoded, tail)
    head = wire.frame_head(kind.number, *ends, encoded)
    return head + tail + played.keys[sender].sign(what)


@pytest.fixture
def two_rounds(tmp_path: Path) -> Recorded:
    plan, identities = session_plan("malicious-server")
    played = Recorded(tmp_path, plan, identities)
    played.round(b"first")
    played.round(b"second")
    played.finish()
    return played


def test_another_model_for_one_site_convicts_the_server(two_rounds: Recorded) -> None:
    """Two orders for one round's input that name different models, to different sites."""
    order = control.Order(50, int(Slot.INPUT), 1, hashlib.sha256(b"crafted").digest(), b"", ())
    data = sealed(two_rounds, control.ORDER, SERVER, "site-2", order, b"")
    two_rounds.recorders["site-2"].received(SERVER, data)
    verdict = two_rounds.check()
    assert convicted(verdict) == {(SERVER, "one-model")}
    assert verdict.convictions[0].round == 1
    # Without the other sites' transcripts there are still this site's own orders.
    assert convicted(audit([two_rounds.paths["site-2"]])) == {(SERVER, "one-model")}


def test_two_orders_for_one_exchange_convict_the_server(two_rounds: Recorded) -> None:
    first = next(e for e in two_rounds.exchanges if e.slot == Slot.SHARE)
    order = control.Order(first.number, int(Slot.SHARE), 9, b"", b"", ())
    data = sealed(two_rounds, control.ORDER, SERVER, "site-1", order, b"")
    two_rounds.recorders["site-1"].received(SERVER, data)
    assert convicted(two_rounds.check()) == {(SERVER, "equivocation")}


def test_two_agreements_of_a_site_convict_it_and_a_stray_one_is_a_doubt(
    two_rounds: Recorded,
) -> None:
    data = sealed(two_rounds, control.AGREE, "site-3", SERVER, control.Agree(0, bytes(32)), b"")
    two_rounds.recorders[SERVER].received("site-3", data)
    verdict = two_rounds.check()
    assert convicted(verdict) == {("site-3", "equivocation")}
    (doubt,) = (d for d in verdict.doubts if d.rule == "agreement")
    assert doubt.suspects == (SERVER, "site-3")


def test_reports_that_differ_after_a_crash_convict_nobody(two_rounds: Recorded) -> None:
    report = sealed(two_rounds, control.REPORT, "site-3", SERVER, control.Report(2, ()), b"")
    two_rounds.recorders["site-3"].sent(SERVER, report)
    assert two_rounds.check().holds


def test_a_site_that_is_ended_in_one_round_is_out_of_the_next(tmp_path: Path) -> None:
    """The server ends a site for bad content; the replay ends it in the overlapping round too."""
    plan, identities = session_plan("malicious-server", sites=5)

    class Bad(Recorded):
        def spoil(self, site: str, data: bytes) -> bytes:
            """The same report with an advert of two equal keys."""
            if site != "site-4" or self.hub.slot != Slot.INPUT or self.hub.round != 1:
                return data
            bundle = control.split_bundle(data, trailer_size=64)
            header = wire.decode_header(
                control.Report, wire.split_frame(bundle.control, trailer_size=64).header
            )
            parts = [(number, bytes(part)) for number, part in bundle.parts(header.parts)]
            for at, (number, part) in enumerate(parts):
                if part[3] == messages.ADVERT.number:
                    frame = wire.split_frame(part, trailer_size=64)
                    keys = bytes(frame.tail[:32]) * 2
                    party = self.sites["site-4"]._clients[number]
                    what = wire.frame_digest(
                        party.contexts.setup, 1, 4, wire.SERVER, frame.header, keys
                    )
                    head = part[: len(part) - 128]
                    parts[at] = number, head + keys + self.keys["site-4"].sign(what)
            listed = tuple(control.Part.of(n, [part], 64) for n, part in parts)
            out = control.Report(header.exchange, listed)
            first = sealed(self, control.REPORT, "site-4", SERVER, out, b"")
            return first + b"".join(part for _, part in parts)

    played = Bad(tmp_path, plan, identities)
    for number in range(4):
        assert played.round(b"model %d" % number) is not None
    played.finish()
    verdict = played.check()
    assert played.of(SERVER, secagg.Dropped)
    assert {party for party, _ in convicted(verdict)} == {"site-4"}
    assert not [d for d in verdict.doubts if d.rule in {"replay", "outcome"}], verdict.to_dict()


def test_a_report_that_comes_after_the_result_is_late_in_the_replay_too(tmp_path: Path) -> None:
    """The shares of the next round are closed with the result of this one and sent later."""
    plan, identities = session_plan("malicious-server", sites=5)
    held: list[bytes] = []

    def reach(exchange: int, number: int, slot: Slot, site: str) -> tuple[bool, bool]:
        return True, (number, slot, site) != (0, Slot.REVEAL, "site-3")

    class Late(Recorded):
        def spoil(self, site: str, data: bytes) -> bytes:
            if (self.hub.round, self.hub.slot, site) == (0, Slot.REVEAL, "site-3"):
                held.append(data)
            return data

    played = Late(tmp_path, plan, identities, reach=reach)
    assert played.round(b"first") is not None
    (data,) = held
    played.recorders[SERVER].received("site-3", data)
    played.note(SERVER, played.hub.receive(data, sender="site-3"))
    second = played.round(b"second")
    assert second is not None
    assert "site-3" not in second.survivors
    played.finish()
    verdict = played.check()
    assert verdict.holds, verdict.to_dict()
    assert [r.replay for r in verdict.rounds if r.result] == ["confirmed"] * 2


def test_parties_that_restart_and_repeat_themselves_are_not_convicted(tmp_path: Path) -> None:
    """Every order is delivered, everybody is loaded from its dump, and it is delivered again."""
    plan, identities = session_plan("malicious-server")

    class Twice(Recorded):
        def deliver(self, orders: list[Send]) -> None:
            super().deliver(orders)
            self.reload(SERVER, *self.plan.roster.names)
            again = self.note(SERVER, self.hub.resume())
            assert again == orders
            super().deliver(again)

    played = Twice(tmp_path, plan, identities)
    results = [played.round(b"model %d" % number) for number in range(3)]
    played.finish()
    verdict = played.check()
    assert verdict.holds, verdict.to_dict()
    digests = [r.digest.hex() for r in results if r is not None]
    assert [r.result for r in verdict.rounds if r.replay == "confirmed"] == digests
    assert len(digests) == 3
