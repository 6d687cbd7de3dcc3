"""Honest sites of a run: a careful caller whose machine fails now and then."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import secagg
from secagg import Client, Event, Send, Step
from support.network import SERVER, ForbiddenError, Parcel, step_of


@dataclass
class Habits:
    """How the machine of an honest site behaves."""

    silent_from: Step | None = None
    late_model: bytes | None = None
    submits_early: bool = True
    restarts: float = 0.0


class HonestSite:
    """A client in the hands of a careful caller on an unreliable machine."""

    honest = True

    def __init__(
        self,
        rng: random.Random,
        client: Client,
        vector: Any,
        weight: int,
        habits: Habits,
        reload: Callable[[bytes], Client],
    ) -> None:
        self.rng, self.client, self.vector, self.weight = rng, client, vector, weight
        self.name, self.habits, self.reload = client.name, habits, reload
        self.events: list[Event] = []
        self.model = habits.late_model
        self.gone = False
        self.submitted = False
        self.misuses = 0
        self.said: dict[int, bytes] = {}  # message kind -> the bytes that were sent

    def start(self) -> list[Parcel]:
        """Advertise; the vector may be there already."""
        out: list[Event] = []
        if self.habits.submits_early:
            out += self.submit()
        return self.send(out + self.client.start())

    def submit(self) -> list[Event]:
        self.submitted = True
        events = self.client.submit(self.vector, self.weight)
        if self.rng.random() < 0.05:
            try:
                self.client.submit(self.vector, self.weight)
            except secagg.MisuseError:
                self.misuses += 1
            else:
                raise ForbiddenError("a second vector was taken")
        return events

    def nudge(self) -> list[Parcel]:
        """Training is over: the model is known and the vector is there."""
        if self.gone or any(isinstance(e, secagg.Dropped) for e in self.events):
            return []
        owed = [self.learn_model] if self.model is not None else []
        owed += [] if self.submitted else [self.submit]
        self.rng.shuffle(owed)
        # A caller in no hurry does one thing now and the other another time.
        return self.send([event for act in owed[: self.rng.choice((1, 2))] for event in act()])

    def learn_model(self) -> list[Event]:
        model, self.model = self.model, None
        return self.client.use_model(model) if model is not None else []

    def deliver(self, data: bytes, sender: str | None) -> list[Parcel]:
        """Receive; now and then the machine stops just before or just after."""
        if self.gone:
            return []
        restart = self.rng.random() < self.habits.restarts
        before = self.client.dump() if restart else b""
        try:
            events = self.client.receive(data, sender=sender)
            if restart:
                events = self.again(before, data, sender, events)
        except secagg.SecAggError as error:
            raise ForbiddenError(f"honest {self.name} was ended: {error!r}") from error
        self.events += events
        return self.send(events)

    def again(
        self, dump: bytes, data: bytes, sender: str | None, events: list[Event]
    ) -> list[Event]:
        """The machine stopped before anything was sent, and resumes from an older dump."""
        self.client = self.reload(dump)
        resubmitted: list[Event] = []
        if self.submitted:
            # A vector is never part of a dump, so the caller gives it again where it is missing.
            try:
                resubmitted = self.client.submit(self.vector, self.weight)
            except secagg.MisuseError as error:
                if error.rule not in {"input-once", "ended"}:
                    raise
        repeated = resubmitted + self.client.receive(data, sender=sender)
        first = [e.data for e in events if isinstance(e, Send)]
        second = [e.data for e in repeated if isinstance(e, Send)]
        # A site that had sent its input and is given its vector again sends the same bytes again.
        again = [e.data for e in resubmitted if isinstance(e, Send)]
        if first != second and first != second[len(again) :]:
            raise ForbiddenError(f"{self.name} answers differently after a restart")
        return repeated

    def send(self, events: Sequence[Event]) -> list[Parcel]:
        parcels = []
        for event in events:
            if isinstance(event, Send):
                if self.said.setdefault(event.data[3], event.data) != event.data:
                    raise ForbiddenError(f"{self.name} says two things in one step")
                if event.to != SERVER:
                    raise ForbiddenError("a site writes to the server only")
                step = step_of(event.data)
                if self.habits.silent_from is not None and step >= self.habits.silent_from:
                    self.gone = True
                    break
                parcels.append(Parcel(self.name, SERVER, event.data, step.label))
        return parcels
