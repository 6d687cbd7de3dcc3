"""One round from a seed: its sites, its lies, and what its outcome must be.

The expected sum comes from :mod:`support.oracle`; who is in it, who left and whom an error may
blame come from the record that :class:`support.network.Run` keeps.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from schedules.cheats import ANYWHERE, DEEDS, CheatingClient, CheatingSite, Deed, parts
from schedules.honest import Habits, HonestSite
from schedules.spec import Spec, draw_vector, people

import secagg
from secagg import Client, Ignored, MemoryJournal, Server, Step
from secagg_protocols import wire
from secagg_protocols.masked_sum import messages
from secagg_protocols.party import Contexts
from support import oracle
from support.network import SERVER, ForbiddenError, Parcel, Run, Weather

MODEL = b"the model of this round"


class Schedule:
    """One round from a seed: who plays, how the network behaves, and what must come out."""

    def __init__(self, spec: Spec, seed: int, *, cheats: int, deeds: tuple[Deed, ...] = ()) -> None:
        self.spec, self.seed, self.told = spec, seed, deeds
        self.plan = spec.plan()
        self.rng = rng = random.Random(seed)
        self.signed = self.plan.signed
        _, self.identities = people(spec.clients)
        self.session = rng.randbytes(8)
        self.number = rng.randrange(1 << 40)
        self.common = {"session": self.session, "round": self.number}
        names = self.plan.roster.names
        self.cheats = set(rng.sample(names, min(cheats, spec.colluding)))
        self.vectors: dict[str, list[Any]] = {}
        self.weights: dict[str, int] = {}
        weather = Weather.draw(rng)
        self.sites: dict[str, HonestSite | CheatingSite] = {}
        friends: list[CheatingSite] = []
        # As many sites as may leave do so, or fewer, or rarely one too many.
        most = spec.max_dropouts + (rng.random() < 0.15)
        leaving = rng.sample(names, rng.randint(0, most))
        for name in names:
            cheat = name in self.cheats
            array, self.vectors[name] = draw_vector(rng, spec, cheat=cheat)
            lightest = 0 if spec.max_weight > 1 else 1
            weight = rng.choice((lightest, 1, spec.max_weight, rng.randint(1, spec.max_weight)))
            self.weights[name] = weight
            if cheat:
                friends.append(self.cheat(name, array, weight, friends))
                self.sites[name] = friends[-1]
            else:
                self.sites[name] = self.honest(name, array, weight, leaving)
        if any(d.name == "forge" for f in friends for d in f.deeds) and not self.signed:
            # Without signatures it is the transport that vouches for the sender.
            weather = replace(weather, anonymous=0.0)
        late = MODEL if rng.random() < 0.04 else None
        self.journal = MemoryJournal()
        hub = secagg.server(
            self.plan,
            identity=self.identity(SERVER),
            model=None if late else MODEL,
            journal=self.journal,
            _entropy=rng.randbytes,
            **self.common,
        )
        self.run = Run(
            rng, hub, self.sites, weather, foreign=self.foreign, reload=self.reload, late_model=late
        )
        self.other_contexts = self.contexts_of_other_rounds()

    def identity(self, name: str) -> secagg.Identity | None:
        """An identity where the plan signs; semi-honest parties need none."""
        return self.identities[name] if self.signed else None

    def honest(self, name: str, array: Any, weight: int, leaving: Sequence[str]) -> HonestSite:
        rng = self.rng
        habits = Habits(
            silent_from=rng.choice(list(Step)) if name in leaving else None,
            late_model=MODEL if rng.random() < 0.06 else None,
            submits_early=rng.random() < 0.7,
            restarts=0.5 if rng.random() < 0.05 else 0.0,
        )
        journal = MemoryJournal()
        client = secagg.client(
            self.plan,
            name,
            identity=self.identity(name),
            model=MODEL if habits.late_model is None else None,
            floors=None,
            journal=journal,
            _entropy=rng.randbytes,
            **self.common,
        )

        def reload(dump: bytes) -> Client:
            party = secagg.load(dump, self.plan, self.identity(name), journal)
            assert isinstance(party, Client)
            return party

        return HonestSite(rng, client, array, weight, habits, reload)

    def cheat(
        self, name: str, array: Any, weight: int, friends: list[CheatingSite]
    ) -> CheatingSite:
        rng = self.rng
        client = CheatingClient(
            self.plan,
            self.plan.roster.index(name),
            identity=self.identity(name),
            model=MODEL,
            floors=None,
            journal=MemoryJournal(),
            entropy=rng.randbytes,
            **self.common,
        )
        return CheatingSite(rng, client, array, weight, self.told or self.deeds(), friends)

    def deeds(self) -> tuple[Deed, ...]:
        """One or two lies at different steps; those that need a departure get it."""
        rng = self.rng
        steps = [s for s in Step if s != Step.CONSENT or self.signed]
        # Shares are where most of the protocol's trust lies, so most lies are about them.
        weights = [{Step.SHARE: 6, Step.REVEAL: 5, Step.INPUT: 1.5}.get(step, 1) for step in steps]
        chosen: dict[Step, Deed] = {}
        for _ in range(rng.choice((1, 1, 2))):
            step = rng.choices(steps, weights)[0]
            options = DEEDS[step] if rng.random() < 0.75 else ANYWHERE
            chosen[step] = Deed(rng.choice(options), step)
        names = {deed.name for deed in chosen.values()}
        quits = 0.6 * ("deal other mask seed" in names) + 0.3 * ("deal wrong" in names)
        if rng.random() < quits:
            # The mask seed of a site is asked for only if the site leaves before its input.
            chosen[Step.INPUT] = Deed("quit", Step.INPUT)
        return tuple(chosen.values())

    def reload(self, hub: Server) -> Server:
        """The server's process stops and resumes."""
        party = secagg.load(hub.dump(), self.plan, self.identity(SERVER), self.journal)
        assert isinstance(party, Server)
        return party

    def contexts_of_other_rounds(self) -> list[Contexts]:
        """Contexts of another round, session, model and plan, as replayed frames have them."""
        other_plan = replace(self.spec, length=self.spec.length + 1).plan()
        found = [
            Contexts(self.plan, self.session, self.number + 1),
            Contexts(self.plan, self.session + b"x", self.number),
            Contexts(other_plan, self.session, self.number),
            Contexts(self.plan, self.session, self.number),
        ]
        for contexts in found:
            contexts.model_hash = hashlib.sha256(MODEL).digest()
        # The last differs in its model alone, which binds only what follows the input.
        found[-1].model_hash = hashlib.sha256(b"another model").digest()
        return found

    def foreign(self, parcel: Parcel) -> Parcel:
        """The message as its honest signer sent it in another round, session or plan."""
        size = messages.trailer_size(self.plan)
        number, header, tail = parts(self.plan, parcel.data)
        kind = messages.KINDS[number]
        contexts = self.rng.choice(
            self.other_contexts if kind.per_round else self.other_contexts[:3]
        )
        context = contexts.round if kind.per_round else contexts.setup
        ends = (self.index(parcel.sender), self.index(parcel.to))
        digest = wire.frame_digest(context, number, *ends, header, tail)
        signed = self.identities[parcel.sender].sign(digest) if self.signed else digest
        data = parcel.data[: len(parcel.data) - size] + signed
        return Parcel(parcel.sender, parcel.to, data, f"foreign {parcel.tag}", never=True)

    def index(self, name: str) -> int:
        """The place in a prefix."""
        return wire.SERVER if name == SERVER else self.plan.roster.index(name)

    # What must come out.

    def play(self) -> Counter[str]:
        """Run, check, and say what happened."""
        try:
            self.run.play()
            self.check()
        except Exception as error:
            raise ForbiddenError(f"seed {self.seed}, {self.spec}: {error!r}") from error
        return self.run.histogram

    def check(self) -> None:
        """The outcome is one of those that the design allows, and true."""
        run = self.run
        run.histogram[f"threat: {self.spec.threat}"] += 1
        run.histogram["graph: complete" if self.spec.complete else "graph: sparse"] += 1
        for site in self.sites.values():
            if isinstance(site, HonestSite):
                self.check_site(site)
        if isinstance(run.failure, secagg.ThresholdError):
            self.check_threshold(run.failure)
        elif isinstance(run.failure, secagg.PeerError):
            self.check_abort(run.failure)
        else:
            self.check_sum()
        try:
            run.hub.close_step()
        except secagg.MisuseError:
            run.histogram["misuse: closing after the end"] += 1
        else:
            raise ForbiddenError("a step was closed after the end")

    def check_site(self, site: HonestSite) -> None:
        """An honest site hears of nothing but its own lateness and the server's result."""
        run = self.run
        run.histogram["misuse: second vector"] += site.misuses
        for event in site.events:
            if isinstance(event, secagg.Dropped):
                if event.site != site.name or event.error.rule != "late":
                    raise ForbiddenError(f"{site.name} was told {event}")
                run.histogram["site: late"] += 1
                if run.result is not None and site.name in run.result.survivors:
                    raise ForbiddenError(f"{site.name} was called late and is in the sum")
            elif isinstance(event, secagg.Done):
                if run.result is None or event.digest != run.result.digest:
                    raise ForbiddenError(f"{site.name} has another result than the server")
                if (event.aggregate is not None) != self.spec.sites_receive:
                    raise ForbiddenError(f"{site.name} got {event}")
                if event.aggregate is not None:
                    same = np.array_equal(event.aggregate.sum, run.result.sum)
                    assert same and event.aggregate.survivors == run.result.survivors
                    assert event.aggregate.weight == run.result.weight
                run.histogram["site: done"] += 1
            elif not isinstance(event, Ignored):
                assert isinstance(event, secagg.Send), event

    def check_threshold(self, error: secagg.ThresholdError) -> None:
        """Too few were heard, by our own count, and by no fewer than stated."""
        run, spec = self.run, self.spec
        step = run.step
        assert error.step == step.label, (error, step)
        assert error.have < error.need, error
        late = step in {Step.CONSENT, Step.REVEAL}
        need = spec.threshold if late else spec.clients - spec.max_dropouts
        heard = len(run.heard[step])
        if error.rule == "enough":
            assert (error.have, error.need) == (heard, need), (error, heard, need)
        else:
            # One site's shares: a matter of neighbours that left, or of shares withheld.
            assert error.rule == "holders" and error.need == spec.threshold, error
            assert heard >= need, (error, heard, need)
            assert not spec.complete or (step == Step.REVEAL and self.cheats), error
        if error.suspects:
            assert error.rule == "holders" and set(error.suspects) & self.cheats, error
            run.histogram["suspects: withheld below the threshold"] += 1
        run.histogram[f"outcome: threshold at {step.label}"] += 1

    def check_abort(self, error: secagg.PeerError) -> None:
        """Shares that fit nothing end the round, and a cheat is among those it lists."""
        run, step = self.run, self.run.step
        suspects = set(error.suspects)
        assert type(error) is secagg.PeerError, error
        assert step == Step.REVEAL, (error, step)
        assert suspects & self.cheats, (error, suspects, self.cheats)
        revealed = set(run.heard[Step.REVEAL])
        if error.rule == "sum-range":
            assert self.poisoned and suspects == set(run.heard[Step.INPUT]), error
        else:
            assert error.rule in {"decoded", "commitment", "mask-key"}, error
            survivors = set(run.heard[Step.INPUT])
            # Nobody is convicted on shares, so the error blames no sender; its text says whose.
            assert error.sender is None, error
            dealer = next(n for n in self.plan.roster.names if f"shares of {n} " in str(error))
            assert dealer in suspects <= revealed | {dealer}, (error, suspects)
            assert len(suspects) >= self.spec.threshold, (error, suspects)
            if error.rule != "decoded":
                assert (dealer in survivors) == (error.rule == "commitment"), error
        run.histogram[f"outcome: abort by {error.rule}"] += 1

    @property
    def poisoned(self) -> bool:
        """Whether a counted input was masked or made otherwise than its site's advert says."""
        run = self.run
        for name in run.heard[Step.INPUT]:
            site = self.sites[name]
            if isinstance(site, CheatingSite):
                data = {run.heard[s][name].data for s in (Step.ADVERTISE, Step.INPUT)}
                if data & site.lies.poison:
                    return True
        return False

    def check_sum(self) -> None:
        """The exact sum over the announced survivors, who are those whose input was taken."""
        run, result = self.run, self.run.result
        assert result is not None
        taken = run.heard[Step.INPUT]
        assert result.survivors == tuple(n for n in self.plan.roster.names if n in taken), result
        for name, site in self.sites.items():
            if isinstance(site, CheatingSite) and name in taken:
                # A self seed that does not meet its commitment is never used.
                assert run.heard[Step.SHARE][name].data not in site.lies.committed, name
        self.check_departures(result)
        self.check_suspects(result)
        if self.poisoned:
            # Nothing can tell a vector masked twice from a vector; the plan's range is all.
            run.histogram["outcome: poisoned input"] += 1
            return
        added = sum(
            site.lies.added.get(taken[name].data, 0)
            for name, site in self.sites.items()
            if name in taken and isinstance(site, CheatingSite)
        )
        weight = sum(self.weights[name] for name in result.survivors)
        assert result.weight == weight, (result.weight, weight)
        if self.spec.integers is not None:
            expected, _ = oracle.integer_sum(self.vectors, self.weights, result.survivors)
            expected[0] += added
            assert result.sum.dtype == np.int64
            assert result.sum.tolist() == expected
        else:
            self.check_levels(result, added)
        if weight:
            assert result.mean is not None
            assert np.array_equal(result.mean, result.sum / weight)
        else:
            assert result.mean is None
        run.histogram["outcome: exact sum"] += 1

    def check_levels(self, result: secagg.Aggregate, added: int) -> None:
        spec = self.spec
        parts = [
            oracle.level_intervals(
                self.vectors[name],
                self.weights[name],
                spec.clips,
                spec.levels,
                nearest=spec.rounding == "nearest",
            )
            for name in result.survivors
        ]
        for place, (low, high) in enumerate(oracle.interval_sum(parts)):
            more = added if place == 0 else 0
            level = oracle.level_of(float(result.sum[place]), spec.levels, spec.clips[-1][1])
            # Decoding rounds an integer to a double and divides: two errors of 2^-53.
            slack = abs(level) / (1 << 51)
            assert low + more - slack <= level <= high + more + slack, (place, level, low, high)
            assert abs(level - round(level)) <= slack, (place, level)

    def check_departures(self, result: secagg.Aggregate) -> None:
        """Every site that left is listed with the step that it did not complete."""
        heard, histogram = self.run.heard, self.run.histogram
        dropped, left = {}, {}
        for name in self.plan.roster.names:
            for step in (Step.ADVERTISE, Step.SHARE, Step.INPUT):
                if name not in heard[step]:
                    dropped[name] = step.label
                    break
            else:
                for step in (Step.CONSENT, Step.REVEAL):
                    if name not in heard[step] and (self.signed or step == Step.REVEAL):
                        left[name] = step.label
                        break
        assert result.dropped == dropped, (result.dropped, dropped)
        assert result.left == left, (result.left, left)
        for step in {*dropped.values(), *left.values()}:
            histogram[f"left at: {step}"] += 1

    def check_suspects(self, result: secagg.Aggregate) -> None:
        """A suspect list has a cheat in it; every lie about a share that was used is listed."""
        suspects = set(result.suspects)
        histogram, names = self.run.histogram, self.plan.roster.names
        if suspects:
            assert suspects & self.cheats, (suspects, self.cheats)
        revealed, survivors = self.run.heard[Step.REVEAL], set(result.survivors)
        kinds = set()
        for name, site in self.sites.items():
            if not isinstance(site, CheatingSite):
                continue
            if name in revealed:
                data = revealed[name].data
                for lie, kind in ((site.lies.revealed, "holder"), (site.lies.withheld, "missing")):
                    for dealer in lie.get(data, ()):
                        # A share of a site that nobody needs opened is not looked at.
                        if self.spec.complete or kind == "missing":
                            assert {name, names[dealer]} <= suspects, (name, dealer, suspects)
                            kinds.add(kind)
            if name not in self.run.heard[Step.SHARE]:
                continue
            needed = "self" if name in survivors else "mask"
            for holder, wrong in site.lies.dealt.items():
                if needed in wrong and names[holder] in revealed and self.spec.complete:
                    assert {name, names[holder]} <= suspects, (name, holder, suspects)
                    kinds.add("dealer")
            for holder in site.lies.sealed:
                if names[holder] in revealed:
                    assert {name, names[holder]} <= suspects, (name, holder, suspects)
                    kinds.add("missing")
        for kind in kinds:
            histogram[f"suspects: {kind}"] += 1
