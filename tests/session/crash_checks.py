"""What must hold of a session with crashes, from the bytes that its parties put on the wire.

A log is a list of ``["wire", sender, recipient, bytes]`` and ``["over", party, killed, status,
journal file]`` in the order in which it happened; parties are numbered, the server last.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from session.crash_parties import LENGTH, SESSION, vector

import secagg
from secagg.session.messages import Order, Report, Slot, split_bundle
from secagg_protocols.errors import MisuseError
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.journal.file import _apply
from secagg_protocols.journal.format import HEAD_SIZE, read_entries, read_head
from secagg_protocols.keys import digest_of
from secagg_protocols.masked_sum import masks, messages
from secagg_protocols.party import Contexts
from secagg_protocols.registers import TAG_SIZE, inputs_register, unpack_tags
from secagg_protocols.wire import decode_header, from_bitmap, split_frame

CONSENT, REVEAL = 4, 5  # steps in a journal


@dataclass(frozen=True)
class Part:
    """One inner frame that was sent."""

    round: int
    kind: int
    data: bytes


def journal_of(data: bytes) -> MemoryJournal:
    """The content of a journal file, without touching the file."""
    journal = MemoryJournal()
    head = read_head(data[: HEAD_SIZE + 1])
    if head is not None:
        for entry in read_entries(data[HEAD_SIZE:], HEAD_SIZE, head.base)[0]:
            _apply(journal, entry)
    return journal


@dataclass
class Transcript:
    """Everything that was said, and how each party's journal stood whenever it died."""

    plan: secagg.Plan
    log: list[Any]
    # (site, round, kind) -> the frames of that kind; more than one is two versions.
    said: dict[tuple[int, int, int], set[bytes]] = field(
        default_factory=lambda: defaultdict(set), init=False
    )
    # (site, round, kind) -> the frames of the server to that site.
    heard: dict[tuple[int, int, int], set[bytes]] = field(
        default_factory=lambda: defaultdict(set), init=False
    )
    orders: dict[int, Order] = field(default_factory=dict, init=False)
    models: dict[int, tuple[bytes, bytes]] = field(default_factory=dict, init=False)
    rounds: dict[int, bytes] = field(default_factory=dict, init=False)  # their contexts
    deaths: dict[int, int] = field(default_factory=lambda: defaultdict(int), init=False)
    journals: int = field(default=0, init=False)  # that were compared with what was said

    def check(self, *, one_report: bool = True) -> None:
        """Read it from the start, and check at every step what can be checked there.

        one_report: a site that lost its dump may answer an order anew, by less than before.
        """
        whole: dict[tuple[str, int, int], set[bytes]] = defaultdict(set)
        hub = self.plan.clients
        for event in self.log:
            assert event[0] != "hangs"
            if event[0] == "wire":
                _, sender, recipient, data = event
                from_site = sender != hub
                header, parts = self.split(data, Report if from_site else Order)
                site = sender if from_site else recipient
                whole["report" if from_site else "order", site, header.exchange].add(data)
                spoken = self.said if from_site else self.heard
                for part in parts:
                    spoken[site, part.round, part.kind].add(part.data)
                if not from_site:
                    self.order(header)
            elif event[0] == "over":
                _, party, killed, status, journal = event
                assert killed or status == 0, event[:4]
                self.deaths[party] += killed
                if party != hub:
                    self.check_journal(party, journal_of(journal))
        # What is said once is said in one way only, by sites and by the server to each of them.
        for place, versions in (*self.said.items(), *self.heard.items()):
            assert len(versions) == 1, place
        for (what, *place), versions in whole.items():
            assert len(versions) == 1 or (what == "report" and not one_report), (what, place)
        self.check_sequence()
        self.check_answers()
        self.check_server()

    def split(self, data: bytes, kind: Any) -> tuple[Any, list[Part]]:
        size = 64 if self.plan.signed else 32
        bundle = split_bundle(data, trailer_size=size)
        header = decode_header(kind, split_frame(bundle.control, trailer_size=size).header)
        parts = [
            Part(number, frame[3], bytes(frame)) for number, frame in bundle.parts(header.parts)
        ]
        return header, parts

    def frame(self, data: bytes) -> Any:
        return split_frame(data, trailer_size=64 if self.plan.signed else 32)

    def order(self, order: Order) -> None:
        """All sites are asked for the same in one exchange."""
        known = self.orders.setdefault(order.exchange, order)
        assert (known.slot, known.round, known.model, known.parameters) == (
            order.slot,
            order.round,
            order.model,
            order.parameters,
        )
        if order.slot == Slot.INPUT:
            # A number is used for one round only.
            stated = (order.model, order.parameters)
            if order.round not in self.models:
                contexts = self.contexts(order.round)
                contexts.model_hash, contexts.parameters = stated
                self.rounds[order.round] = contexts.round
            assert self.models.setdefault(order.round, stated) == stated

    def contexts(self, number: int) -> Contexts:
        return Contexts(self.plan, SESSION.encode(), number)

    def key(self, site: int, number: int) -> bytes:
        """A site's journal key of a round."""
        setup = self.contexts(number).setup
        return digest_of(b"secagg journal key v1", setup, site.to_bytes(4, "little"))

    def survivors(self, site: int, number: int) -> tuple[int, ...]:
        """The list that the server announced to a site."""
        (frame,) = self.heard[site, number, messages.SURVIVORS.number]
        header = decode_header(messages.Survivors, self.frame(frame).header)
        return from_bitmap(header.present, self.plan.clients)

    def list_digest(self, site: int, number: int) -> bytes:
        """Digest of the list that was announced to a site, as it signs it (complete graphs)."""
        (frame,) = self.heard[site, number, messages.SURVIVORS.number]
        header = decode_header(messages.Survivors, self.frame(frame).header)
        return masks.survivors_digest(self.rounds[number], header.present)

    # Checks.

    def check_sequence(self) -> None:
        """Exchanges go forward: no round is asked about when a later one was begun."""
        places = [(o.round, o.slot) for _, o in sorted(self.orders.items())]
        assert places == sorted(set(places))
        # A server that died after its journal had an exchange, and before it was saved, may come
        # back to other reports: it passes that number over, and never says it in two versions.
        passed_over = set(range(1, max(self.orders) + 1)) - set(self.orders)
        assert len(passed_over) <= self.deaths[self.plan.clients]

    def check_answers(self) -> None:
        """No site answers two lists of survivors, and those that it answers are announced ones."""
        for (site, number, kind), frames in self.said.items():
            if kind == messages.CONSENT.number:
                header = decode_header(messages.Consent, self.frame(next(iter(frames))).header)
                assert header.survivors == self.list_digest(site, number)
            if kind in {messages.CONSENT.number, messages.REVEAL.number}:
                assert site in self.survivors(site, number)

    def check_server(self) -> None:
        """One list and one result in each round, whoever is told."""
        for kind in (messages.SURVIVORS, messages.RESULT):
            rounds: dict[int, set[tuple[bytes, bytes]]] = defaultdict(set)
            for (_, number, other), frames in self.heard.items():
                if other == kind.number:
                    frame = self.frame(next(iter(frames)))
                    rounds[number].add((bytes(frame.header), bytes(frame.tail)))
            assert all(len(versions) == 1 for versions in rounds.values())

    def check_journal(self, site: int, journal: MemoryJournal) -> None:
        """A site's journal holds what it has said so far, and would say nothing else."""
        self.journals += 1
        name = self.plan.roster.names[site]
        series = digest_of(
            b"secagg journal series v1",
            self.plan.digest,
            SESSION.encode(),
            site.to_bytes(4, "little"),
        )
        steps = {messages.CONSENT.number: CONSENT, messages.REVEAL.number: REVEAL}
        for number, kind in itertools.product(self.models, steps):
            frames = self.said.get((site, number, kind))
            if not frames:
                continue
            step, place = steps[kind], {"series": series, "number": number}
            if number < journal.floor(series):
                assert refused(journal, b"?" * 32, step, b"?" * 32, place) == "journal-retired"
                continue
            key, digest = self.key(site, number), self.list_digest(site, number)
            assert {journal.claim(key, step, digest, b"", **place)} == frames
            assert refused(journal, key, step, b"?" * 32, place) == "journal-once"
        begun: dict[bytes, set[bytes]] = defaultdict(set)
        sent: dict[bytes, set[bytes]] = defaultdict(set)
        for number, (model, _) in self.models.items():
            begun[model].add(number_tag := self.rounds[number][:TAG_SIZE])
            if self.said.get((site, number, messages.INPUT.number)):
                sent[model].add(number_tag)
        unsent = 0
        for model, tags in begun.items():
            counted = unpack_tags(journal.read(inputs_register(name, "", model)))
            assert sent[model] <= set(counted) <= tags
            assert len(counted) <= (self.plan.max_inputs_per_model or 0)
            unsent += len(set(counted) - sent[model])
        # What was counted and not sent was under way when a process died.
        assert unsent <= self.deaths[site]

    def check_results(self, outcomes: dict[int, dict[str, Any]]) -> None:
        """Each completed round is the plain sum over its survivors; sites got the same."""
        for number, outcome in outcomes.items():
            if "sum" not in outcome:
                continue
            names = tuple(outcome["survivors"])
            assert len(names) >= self.plan.min_survivors
            total = sum(vector(self.plan, name, number) for name in names)
            assert outcome["sum"] == total.tolist()
            assert len(outcome["sum"]) == LENGTH
            model = b"model %d" % outcome["model"]
            assert self.models[number] == (hashlib.sha256(model).digest(), b"")
            for site, name in enumerate(self.plan.roster.names):
                if self.heard.get((site, number, messages.SURVIVORS.number)):
                    announced = self.survivors(site, number)
                    assert tuple(self.plan.roster.names[s] for s in announced) == names, name
        for event in self.log:
            if event[0] == "note" and event[2][0] == "finished":
                _, number, values, names, digest = event[2]
                stored = outcomes[number]
                assert [stored[x] for x in ("sum", "survivors", "digest")] == [
                    values,
                    names,
                    digest,
                ]

    def check_restarts(self, outcomes: dict[int, dict[str, Any]]) -> list[int]:
        """After a round without a result comes a cold one. Returns how many rounds in a row had
        none, for each time that one with a result came after them."""
        slots = defaultdict(set)
        for order in self.orders.values():
            slots[order.round].add(order.slot)
        found, row = [], 0
        for before, after in itertools.pairwise(sorted(outcomes)):
            if "sum" not in outcomes[before]:
                # A server that had begun that round in a life its dump does not know of gives it
                # up before it asks for anything (journal-once).
                assert Slot.ADVERTISE in slots[after] or (
                    not slots[after] and outcomes[after].get("rule") == "journal-once"
                )
                row += 1
                if "sum" in outcomes[after]:
                    found.append(row)
                    row = 0
        return found


def refused(
    journal: MemoryJournal, key: bytes, step: int, digest: bytes, place: dict[str, Any]
) -> str:
    """The rule that refuses a claim, or "" where it is taken."""
    try:
        journal.claim(key, step, digest, b"", **place)
    except MisuseError as error:
        return error.rule
    return ""


def load_log(path: Path) -> list[Any]:
    """A log that the relay wrote."""
    found: list[Any] = msgspec.msgpack.decode(path.read_bytes())
    return found
