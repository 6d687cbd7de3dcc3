"""A network that loses, repeats, delays, reorders, replays and damages messages, from a seed.

One :class:`Run` drives a server and its sites over bytes. What it records (which messages the
server took, who was ended and why) is kept apart from the server's own state, so that a test
can hold the one against the other.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import secagg
from secagg import Done, Dropped, Event, Ignored, Progress, Send, Server, Step
from secagg_protocols.masked_sum import messages

SERVER = "server"


class ForbiddenError(AssertionError):
    """Something happened that the design does not allow."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bytes on their way. ``never`` marks content that nobody may accept, ``tag`` what it is."""

    sender: str
    to: str
    data: bytes = field(repr=False)
    tag: str = ""
    never: bool = False


def step_of(data: bytes) -> Step:
    """The step that a frame belongs to."""
    return messages.KINDS[data[3]].step


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad the network is, as probabilities per message, and how hasty the server's caller."""

    loss: float = 0.0
    delay: float = 0.0
    again: float = 0.0
    flip: float = 0.0
    replay: float = 0.0
    astray: float = 0.0
    shuffle: bool = False
    hasty: float = 0.0
    anonymous: float = 0.0
    server_restarts: float = 0.0

    @classmethod
    def draw(cls, rng: random.Random) -> Weather:
        """Calm, rough or stormy; storms that nothing survives would test little, so few."""
        kind = rng.choices(("calm", "rough", "stormy"), (4, 5, 1))[0]
        if kind == "calm":
            return cls(shuffle=rng.random() < 0.5, replay=0.03, again=0.05, flip=0.03)
        scale = 1.0 if kind == "rough" else 3.0

        def some(most: float) -> float:
            return rng.random() * most * scale if rng.random() < 0.6 else 0.0

        return cls(
            loss=some(0.03),
            delay=some(0.03),
            again=some(0.1),
            flip=some(0.08),
            replay=some(0.1),
            astray=some(0.05),
            shuffle=rng.random() < 0.7,
            hasty=some(0.01),
            anonymous=rng.random() if rng.random() < 0.3 else 0.0,
            server_restarts=0.3 if rng.random() < 0.1 else 0.0,
        )


class Site(Protocol):
    """A site of a run: it answers with parcels and keeps what it was told."""

    name: str
    honest: bool
    events: list[Event]

    def start(self) -> list[Parcel]:
        """First messages."""
        ...

    def deliver(self, data: bytes, sender: str | None) -> list[Parcel]:
        """Take a message, answer."""
        ...

    def nudge(self) -> list[Parcel]:
        """Something of the caller's own that was still to be done: a model, a vector."""
        ...


class Run:
    """One round under one schedule. Everything random comes from ``rng``."""

    def __init__(
        self,
        rng: random.Random,
        hub: Server,
        sites: Mapping[str, Site],
        weather: Weather,
        *,
        foreign: Callable[[Parcel], Parcel],
        reload: Callable[[Server], Server],
        late_model: bytes | None = None,
    ) -> None:
        self.rng, self.hub, self.sites, self.weather = rng, hub, sites, weather
        self.foreign, self.reload, self.late_model = foreign, reload, late_model
        self.steps = [s for s in Step if s != Step.CONSENT or hub.plan.signed]
        self.flying: list[Parcel] = []
        self.held: list[Parcel] = []
        self.seen: list[Parcel] = []
        #: Who was heard in each step, as the server said by ``Progress``: site -> parcel.
        self.heard: dict[Step, dict[str, Parcel]] = {step: {} for step in Step}
        self.ended: dict[str, secagg.SecAggError] = {}
        self.place = 0
        self.result: secagg.Aggregate | None = None
        self.failure: secagg.SecAggError | None = None
        self.histogram: Counter[str] = Counter()

    @property
    def step(self) -> Step:
        """The step that the server has open."""
        return self.steps[min(self.place, len(self.steps) - 1)]

    @property
    def over(self) -> bool:
        """Whether the round has an outcome."""
        return self.result is not None or self.failure is not None

    def play(self) -> None:
        """Run to the end: an aggregate or an error, and no message left."""
        rng, weather = self.rng, self.weather
        if self.hub.start():
            raise ForbiddenError("a server sends nothing when it starts")
        for name in rng.sample(sorted(self.sites), len(self.sites)):
            self.post(self.sites[name].start())
        while not self.over:
            if self.flying and rng.random() >= weather.hasty:
                self.move()
            elif not self.idle_caller():
                self.close()
        # What is still on its way reaches parties that are done.
        for _ in range(4 * len(self.sites)):
            if not self.flying:
                break
            self.move()

    def idle_caller(self) -> bool:
        """Let callers who still owe their party something do it now; most of the time."""
        if self.flying or self.rng.random() < 0.1:
            return False
        for site in self.sites.values():
            self.post(site.nudge())
        return bool(self.flying)

    def learn_model(self) -> None:
        """A server that was started before its model was known is told it now."""
        if self.late_model is not None:
            self.hub.use_model(self.late_model)
            self.late_model = None

    def post(self, parcels: list[Parcel]) -> None:
        """Put messages on the network."""
        self.flying += parcels

    def move(self) -> None:
        """One thing that a network does to one message."""
        rng, weather = self.rng, self.weather
        if self.step == Step.INPUT and rng.random() < 0.3:
            self.learn_model()
        parcel = self.flying.pop(rng.randrange(len(self.flying)) if weather.shuffle else 0)
        self.seen.append(parcel)
        if rng.random() < weather.flip:
            self.damage(parcel)
        if rng.random() < weather.replay:
            self.alien(self.foreign(rng.choice(self.seen)))
        if rng.random() < weather.replay:
            self.hand_over(rng.choice(self.seen))
        if rng.random() < weather.astray:
            self.go_astray(parcel)
        if rng.random() < weather.loss:
            self.histogram["network: lost"] += 1
            return
        if rng.random() < weather.delay:
            self.histogram["network: delayed past a step"] += 1
            self.held.append(parcel)
            return
        self.hand_over(parcel)
        if rng.random() < weather.again:
            self.histogram["network: repeated"] += 1
            self.hand_over(parcel)
        if rng.random() < 0.05:
            self.post(self.sites[rng.choice(sorted(self.sites))].nudge())

    def damage(self, parcel: Parcel) -> None:
        """Deliver a copy that is changed, cut or longer: nobody may act on it."""
        rng, data = self.rng, bytearray(parcel.data)
        kind = rng.randrange(4)
        if kind == 0:
            del data[rng.randrange(len(data)) :]
        elif kind == 1:
            data += rng.randbytes(rng.randint(1, 9))
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        self.histogram["network: damaged"] += 1
        self.alien(Parcel(parcel.sender, parcel.to, bytes(data), parcel.tag, never=True))

    def alien(self, parcel: Parcel) -> None:
        """Deliver what is not authentic in this round, and see that it changes nothing."""
        self.histogram["network: alien"] += 1
        if parcel.to == SERVER:
            events = self.hub.receive(parcel.data, sender=self.whom(parcel))
        else:
            site = self.sites[parcel.to]
            before = len(site.events)
            said = set(getattr(site, "said", {}).values())
            # A site that restarts meanwhile may say again what it had said.
            if any(p.data not in said for p in site.deliver(parcel.data, self.whom(parcel))):
                raise ForbiddenError(f"{parcel.to} answered bytes that are not authentic")
            events = site.events[before:]
            events = [e for e in events if not (isinstance(e, Send) and e.data in said)]
        for event in events:
            if not isinstance(event, Ignored):
                raise ForbiddenError(f"unauthentic bytes gave {event}")
            self.histogram[f"ignored: {type(event.error).__name__}"] += 1

    def go_astray(self, parcel: Parcel) -> None:
        """To another party, or back to its sender, under its true name."""
        to = self.rng.choice([n for n in (*self.sites, SERVER) if n != parcel.to])
        self.histogram["network: astray"] += 1
        self.alien(Parcel(parcel.sender, to, parcel.data, parcel.tag))

    def whom(self, parcel: Parcel) -> str | None:
        """What the transport says of the sender: the truth, or nothing."""
        return None if self.rng.random() < self.weather.anonymous else parcel.sender

    def hand_over(self, parcel: Parcel) -> None:
        """Deliver a message as it was sent."""
        if parcel.to == SERVER:
            self.to_server(parcel)
        else:
            site = self.sites[parcel.to]
            before = len(site.events)
            self.post(site.deliver(parcel.data, self.whom(parcel)))
            if site.honest:
                for event in site.events[before:]:
                    if isinstance(event, Ignored):
                        self.histogram[f"ignored: {type(event.error).__name__}"] += 1

    def to_server(self, parcel: Parcel) -> None:
        """Deliver to the server, and keep a record of our own of what it took."""
        name, step = parcel.sender, self.step
        other = self.heard[step_of(parcel.data)].get(name, parcel)
        second = parcel.data != other.data and "twice" in parcel.tag + other.tag
        second = second and name not in self.ended and not self.over
        for event in self.hub.receive(parcel.data, sender=self.whom(parcel)):
            if second and not (
                isinstance(event, Dropped) and isinstance(event.error, secagg.EquivocationError)
            ):
                raise ForbiddenError(f"two messages of {name} for one step gave {event}")
            if isinstance(event, Progress):
                self.progress(event, parcel)
            elif isinstance(event, Dropped):
                self.dropped(event, parcel)
            elif isinstance(event, Ignored):
                self.histogram[f"ignored: {type(event.error).__name__}"] += 1
            else:
                raise ForbiddenError(f"a server answered {name} at {step.label} with {event}")

    def progress(self, event: Progress, parcel: Parcel) -> None:
        if parcel.never:
            raise ForbiddenError(f"the server took a malformed message: {parcel.tag}")
        if event.step != self.step or parcel.sender in self.ended or self.over:
            raise ForbiddenError(f"the server took {parcel.tag} out of its step")
        heard = self.heard[event.step]
        if parcel.sender in heard:
            raise ForbiddenError(f"the server took two messages of {parcel.sender} at one step")
        heard[parcel.sender] = parcel
        if event.have != len(heard):
            raise ForbiddenError(f"{event.have} messages stated, {len(heard)} taken")

    def dropped(self, event: Dropped, parcel: Parcel) -> None:
        if event.site != parcel.sender or event.site in self.ended or self.over:
            raise ForbiddenError(f"{event} after a message of {parcel.sender}")
        if self.sites[event.site].honest:
            raise ForbiddenError(f"an honest site was ended: {event}")
        self.ended[event.site] = event.error
        # An input that was counted stays counted; every other message of the open step goes.
        if self.step != Step.INPUT:
            self.heard[self.step].pop(event.site, None)
        self.histogram[f"dropped: {type(event.error).__name__}"] += 1
        self.histogram[f"dropped by rule: {event.error.rule}"] += 1

    def close(self) -> None:
        """The caller stops waiting. Delayed messages come back afterwards, too late."""
        if self.rng.random() < self.weather.server_restarts:
            self.hub = self.reload(self.hub)
            self.histogram["server restarted"] += 1
        step = self.step
        if step == Step.INPUT:
            self.learn_model()
        try:
            events = self.hub.close_step()
        except (secagg.ThresholdError, secagg.PeerError) as error:
            self.failure = error
            self.histogram[f"closed with: {type(error).__name__}"] += 1
            return
        self.place += 1
        for event in events:
            if isinstance(event, Send):
                if event.to in self.ended:
                    raise ForbiddenError(f"the server wrote to {event.to}, which it had ended")
                self.post([Parcel(SERVER, event.to, event.data, f"after {step.label}")])
            elif isinstance(event, Done) and event.aggregate is not None:
                self.result = event.aggregate
            else:
                raise ForbiddenError(f"closing {step.label} gave {event}")
        self.flying += self.held
        self.held = []
