"""Scenes of the attacks on keys and masks: row 5 here, rows 8, 12, 16 and 22 beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

import numpy as np

import secagg
from secagg_protocols import masked_sum, wire
from secagg_protocols.keys import SEED_SIZE
from secagg_protocols.masked_sum import masks, messages
from secagg_protocols.paillier import split
from secagg_protocols.paillier_sum import Client as PaillierClient
from secagg_protocols.paillier_sum import messages as paillier_messages
from secagg_protocols.plan import Plan
from secagg_protocols.result import Result, result_size

from ..arena.controls import without
from ..arena.paillier_keys import primes
from ..arena.paillier_world import people as paillier_people
from ..arena.paillier_world import private_key
from ..arena.world import MODEL, SESSION, people
from ..attack import Frame, Keys
from ..columns import PAILLIER, entropy, plan
from ..finding import ControlRun, Finding, Measure, Verdict
from ..keys import KeySubstitution
from ..process import LabError
from ..scene import Ints, Lab, Scene
from ..statistics import interval, rate, within
from .inconsistency import ModelInconsistencyScene
from .network import ReplayScene
from .reuse import MaskReuseScene
from .rounds import (
    HIGH,
    INPUTS,
    VICTIM,
    arena,
    encoded,
    parameters_of,
    read_plain,
    refusals,
    rows_of,
    sealed,
    transcript,
    x_of,
)
from .weak import WeakGeneratorScene

#: Points of low order on Curve25519 and its twist, least significant byte first, with encodings
#: that are not reduced (https://cr.yp.to/ecdh.html, "How do I validate public keys?").
_P: Final = (1 << 255) - 19
LOW_ORDER: Final = tuple(
    value.to_bytes(32, "little")
    for value in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
        _P,
        _P + 1,
    )
)


class _Isolated:
    """A site that hears of nobody but a server, and of keys that are the server's own."""

    def __init__(
        self, made: Plan, kind: type[Any], label: bytes, x: Any, *, point: bytes | None = None
    ) -> None:
        self.made, self.x, self.label = made, x, label
        self.victim: Any = kind(
            made,
            made.roster.index(VICTIM),
            identity=people(made.clients)[1][VICTIM],
            session=SESSION,
            round=0,
            model=MODEL,
            floors=None,
            journal=secagg.MemoryJournal(),
            entropy=entropy(label, VICTIM),
        )
        self.frames: list[Frame] = []
        self.refused: list[str] = []
        self.keys: dict[str, bytes] = {}
        self._run(point)

    def _run(self, point: bytes | None) -> None:
        made, setup = self.made, self.victim.contexts.setup
        near = masked_neighbours(made, self.victim.index)
        own = {
            peer: masks.SiteSecrets.derive(entropy(self.label, f"fake {peer}")(SEED_SIZE), setup)
            for peer in near
        }
        tail = b""
        for at, (peer, secrets) in enumerate(own.items()):
            pair = secrets.mask_key + secrets.channel_key
            if point is not None and at == 0:
                pair = point + secrets.channel_key
            tail += pair + (self._forged(peer, pair) if made.signed else b"")
            self.keys[f"mask {peer}"] = secrets.mask_seed
            self.keys[f"channel {peer}"] = secrets.channel_seed
        self._take(self.victim.start())
        self.victim.submit(self.x)
        bitmap = wire.to_bitmap(near, made.clients)
        everybody = wire.to_bitmap([*near, self.victim.index], made.clients)
        self._say(messages.ADVERTS, messages.Adverts(bitmap, bitmap, made.clients), tail)
        # Shares that open under no key: a site goes on without those of peers that dealt badly.
        shares = messages.SharesFor(everybody, made.clients)
        self._say(messages.SHARES_FOR, shares, bytes(messages.SEALED_SIZE * len(near)))

    def _forged(self, peer: int, keys: bytes) -> bytes:
        """What a server has for a signature under keys of its own, in one of four styles: by its
        key, by a key that it made, of the peer over the peer's true keys, or random bytes."""
        name = self.made.roster.names[peer]
        style, everybody = self.label[0] % 4, people(self.made.clients)[1]
        signer = everybody["server"]
        if style == 1:
            signer = secagg.Identity(name, entropy(self.label, name)(32))
        if style == 2:
            true = entropy(self.label, f"true {peer}")(SEED_SIZE)
            secrets = masks.SiteSecrets.derive(true, self.victim.contexts.setup)
            signer, keys = everybody[name], secrets.mask_key + secrets.channel_key
        if style == 3:
            return entropy(self.label, f"random {peer}")(wire.SIGNATURE_SIZE)
        frame = sealed(
            self.victim, messages.ADVERT, name, "server", messages.Advert(), keys, signer
        )
        return frame[-wire.SIGNATURE_SIZE :]

    def _say(self, kind: Any, header: Any, tail: bytes) -> None:
        identity = people(self.made.clients)[1]["server"]
        frame = sealed(self.victim, kind, "server", VICTIM, header, tail, identity)
        try:
            self._take(self.victim.receive(frame, sender="server"))
        except secagg.SecAggError as error:
            self.refused.append(f"client.{error.rule}")

    def _take(self, events: Iterable[Any]) -> None:
        for event in events:
            if isinstance(event, secagg.Send):
                self.frames.append(Frame(0, VICTIM, "server", event.data))

    @property
    def truth(self) -> Ints:
        """What the site puts in, as integers."""
        return encoded(self.victim, self.x, entropy(self.label, VICTIM)(SEED_SIZE))


def masked_neighbours(made: Plan, own: int) -> list[int]:
    """Neighbours that a server may name to a site: the nearest on a ring."""
    if made.complete:
        return [site for site in range(made.clients) if site != own]
    half = made.protocol.neighbours // 2  # type: ignore[union-attr]
    return sorted((own + step) % made.clients for step in range(-half, half + 1) if step)


class KeySubstitutionScene(Scene):
    """A server that stands between a site and all its peers."""

    attack = KeySubstitution
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        "plain": Verdict.LEAKS,
        "semi-honest": Verdict.LEAKS,
        "malicious-server": Verdict.PREVENTED,
        "sparse": Verdict.LEAKS,
        "paillier-one": Verdict.PREVENTED,
        "paillier-threshold": Verdict.PREVENTED,
        "noise": Verdict.LEAKS,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        made = plan(column, 5, 8, stages=(secagg.Integers(0, HIGH),))
        if column == "plain":
            return read_plain(lab, made, {"victim": VICTIM})
        if column in PAILLIER:
            return self._pinned(lab, column, made)
        client = masked_sum.Client
        trials = lab.trials(4, 3000 if made.signed else 300)
        successes, refused, residuals = 0, dict[str, None](), list[float]()
        early = 0
        for trial in range(trials):
            found, site = self._try(lab, made, client, "full", trial)
            successes += found is not None
            refused |= dict.fromkeys(site.refused)
            # By the step of shares or of inputs it has told more than its keys.
            early += all(f.data[3] == messages.ADVERT.number for f in site.frames)
            if found is not None:
                residuals += (found - site.x).tolist()
            lab.step(trial + 1, trials)
        measures = [rate("inputs recovered exactly", successes, trials)]
        controls = []
        if made.signed:
            weak = without(client, "advert-signatures")
            runs = lab.trials(2, 50)
            hits = sum(self._try(lab, made, weak, "weak", i)[0] is not None for i in range(runs))
            controls.append(
                ControlRun(overrides=("client.advert-signatures",), trials=runs, successes=hits)
            )
        if column == "noise" and residuals:
            noise = made.pipeline.noise
            share = float(np.sqrt(noise.variance_levels2)) if noise is not None else 0.0
            square = float(np.mean(np.square(residuals)))
            # Of a normal variable, which discrete Gaussian noise of this size is very nearly.
            error = share**2 * float(np.sqrt(2 / len(residuals)))
            if not within(square, share**2, error):
                raise LabError("what is left on a vector is not the site's share of the noise")
            near, far = (max(edge, 0.0) ** 0.5 for edge in interval(square, error))
            measures.append(
                Measure(
                    name="what is left on a recovered vector, root mean square",
                    value=square**0.5,
                    low=near,
                    high=far,
                    predicted=share,
                    law="the site's own share of the noise, and no more",
                    unit="levels",
                )
            )
        low, tried, others = self._low_order(lab, made)
        if low != tried:
            raise LabError(f"{tried - low} points of low order were not refused")
        measures.append(
            Measure(
                name="points of low order refused",
                value=low / tried,
                predicted=1.0,
                law="the all-zero check of the agreed secret (RFC 7748, 6.1)",
            )
        )
        if made.signed:
            weak = without(client, "advert-signatures")
            points = [
                _Isolated(made, weak, lab.digest("point", p), x_of(lab, made), point=p)
                for p in LOW_ORDER
            ]
            passed = sum(any(f.data[3] in INPUTS for f in site.frames) for site in points)
            controls.append(
                ControlRun(
                    overrides=("client.advert-signatures",),
                    trials=len(points),
                    successes=passed,
                    expected=False,
                    note="points of low order: without the signatures the all-zero check refuses "
                    + ", ".join(sorted({r for site in points for r in site.refused})),
                )
            )
        every = successes == trials
        seen = (
            f"The site refused ({', '.join(refused)}); {early} of {trials} times it had sent "
            "nothing but its own keys by then. The signatures were the server's, of a key that "
            "it made, the peer's own under other keys, or random."
            if not successes
            else "The server isolated the site: it knew every mask, opened the shares of the self "
            "seed and read the vector exactly. The plan's threat does not cover an active server: "
            "a semi-honest plan relies on the transport and on the server to pass keys on. The "
            "malicious-server plan covers it."
            + (
                " What it read still has the site's own share of the noise on it."
                if column == "noise"
                else ""
            )
            + ("" if every else f" ({trials - successes} attempts failed.)")
        )
        return Finding(
            verdict=Verdict.LEAKS if successes else Verdict.PREVENTED,
            tried=f"A server gave one of {made.clients} sites keys of its own as those of all its "
            "peers, and played all of them; it also gave it each point of low order.",
            seen=seen,
            trials=trials,
            successes=successes,
            stopped_by=() if successes else tuple(refused),
            also_refused=tuple(r for r in others if successes or r not in refused),
            beyond=successes > 0,
            measures=measures,
            controls=controls,
            parameters=parameters_of(made),
        )

    def _try(
        self, lab: Lab, made: Plan, kind: type[Any], label: str, trial: int
    ) -> tuple[Ints | None, _Isolated]:
        site = _Isolated(made, kind, lab.digest(label, trial), x_of(lab, made, trial))
        found = lab.attack(
            transcript(made, site.frames, public={"victim": VICTIM}), Keys(values=site.keys)
        )
        claimed = found.vectors.get(VICTIM)
        right = claimed is not None and claimed == site.truth.tolist()
        return (np.asarray(claimed) if right else None), site

    def _low_order(self, lab: Lab, made: Plan) -> tuple[int, int, list[str]]:
        """Points refused by a site, and by an honest server when a site sends them."""
        refused, rules = 0, list[str]()
        for point in LOW_ORDER:
            site = _Isolated(
                made, masked_sum.Client, lab.digest("point", point), x_of(lab, made), point=point
            )
            sent = any(frame.data[3] in INPUTS for frame in site.frames)
            refused += not sent
            rules += site.refused

            world = arena(made, rows_of(lab, made, 0), seed=lab.digest("low", point))
            world.server.start()
            for event in world.parties[VICTIM].start():
                tail = point + world.parts(event.data)[1][wire.DIGEST_SIZE :]
                world.deliver(world.reseal(event.data, tail=tail), VICTIM, "server")
            found = refusals(world)
            refused += bool(found)
            rules += found
        return refused, 2 * len(LOW_ORDER), list(dict.fromkeys(rules))

    def _pinned(self, lab: Lab, column: str, made: Plan) -> Finding:
        """A server that proposes the same plan under a Paillier key of its own."""
        if not isinstance(made.protocol, secagg.PaillierSum):
            raise LabError("not the plan of a Paillier sum")
        agreed, private = made.protocol.key, private_key(2048, 1)
        own = private.public
        if agreed.holders > 1:
            own = split(private, agreed.holders, agreed.threshold)[0]
        theirs = replace(made, protocol=replace(made.protocol, key=own))
        floors = secagg.Floors(paillier_key=agreed.digest.hex())
        trials, runs = lab.trials(4, 3000), lab.trials(1, 50)
        successes, refused = 0, {"agreed": Counter[str](), "pinned": Counter[str]()}
        for trial in range(trials):
            # By turns a site that has the agreed plan, and one that is given the server's.
            how = "pinned" if trial % 2 else "agreed"
            given = Proposal(lab, theirs if trial % 2 else made, theirs, floors, trial)
            successes += given.read(lab)
            refused[how] += Counter(given.refused)
            lab.step(trial + 1, trials)
        weak = without(PaillierClient, "floors")
        hits = sum(
            Proposal(lab, theirs, theirs, floors, i, kind=weak).read(lab) for i in range(runs)
        )
        open_hits = sum(Proposal(lab, theirs, theirs, None, i).read(lab) for i in range(runs))
        plans, sites = sum(refused["pinned"].values()), trials // 2
        frames = sum(refused["agreed"].values())
        return Finding(
            verdict=Verdict.LEAKS if successes else Verdict.PREVENTED,
            tried="A server proposed the agreed plan with a Paillier key of its own in it, to "
            "sites whose floors pin the agreed key; and it sent a result under its plan to sites "
            "that had the agreed one. It tried to open what the sites sent with its key.",
            seen=f"{plans} of {sites} sites with the floor refused the plan"
            f"{_by(refused['pinned'])}. Sites with the agreed plan refused {frames} of "
            f"{trials - sites} messages under the other plan{_by(refused['agreed'])}, and "
            f"encrypted under the agreed key. {successes} of {trials} vectors were read. A site "
            "that takes its plan from the server and pins no key accepts any key: "
            f"{open_hits} of {runs} such sites were read exactly.",
            trials=trials,
            successes=successes,
            stopped_by=() if successes else tuple(refused["pinned"]),
            also_refused=tuple(refused["agreed"]),
            measures=[
                rate("inputs recovered exactly", successes, trials),
                rate("inputs of sites without the floor recovered exactly", open_hits, runs),
            ],
            controls=[ControlRun(overrides=("client.floors",), trials=runs, successes=hits)],
            parameters=parameters_of(made),
        )


class Proposal:
    """A site that is given a plan by the server, and the server's message under its own plan.

    plan: that the site is given. theirs: the plan under the server's key.
    """

    def __init__(
        self,
        lab: Lab,
        plan: Plan,
        theirs: Plan,
        floors: secagg.Floors | None,
        trial: int,
        *,
        kind: type[Any] = PaillierClient,
    ) -> None:
        self.plan, self.x = plan, x_of(lab, plan, trial)
        self.frames: list[Frame] = []
        self.refused: list[str] = []
        own = plan is theirs
        label = lab.digest("proposal", own, kind is PaillierClient, floors is None, trial)
        identities = paillier_people(plan.clients, len(plan.roster.holders))[1]
        common: dict[str, Any] = {
            "identity": identities[VICTIM],
            "session": SESSION,
            "round": trial,
            "model": MODEL,
            "entropy": entropy(label, VICTIM),
        }
        index = plan.roster.index(VICTIM)
        try:
            site = kind(plan, index, floors=floors, journal=secagg.MemoryJournal(), **common)
        except secagg.SecAggError as error:
            self.refused.append(f"{kind.role}.{error.rule}")
            return
        events = site.start() + site.submit(self.x)
        self.frames = [
            Frame(trial, VICTIM, "server", e.data) for e in events if isinstance(e, secagg.Send)
        ]
        if own:
            return
        other = PaillierClient(theirs, index, floors=None, journal=secagg.MemoryJournal(), **common)
        survivors = wire.to_bitmap(range(plan.clients), plan.clients)
        frame = sealed(
            other,
            paillier_messages.RESULT,
            "server",
            VICTIM,
            Result(bytes(wire.DIGEST_SIZE), survivors),
            bytes(result_size(theirs)),
            identities["server"],
        )
        for event in site.receive(frame, sender="server"):
            if isinstance(event, secagg.Ignored | secagg.Dropped):
                self.refused.append(f"{site.role}.{event.error.rule}")

    def read(self, lab: Lab) -> bool:
        """Whether the server reads the site's vector with the primes of its key."""
        p, q = primes(2048, 1)
        keys = Keys(values={"p": p.to_bytes(128, "little"), "q": q.to_bytes(128, "little")})
        given = transcript(self.plan, self.frames, public={"victim": VICTIM})
        return bool(lab.attack(given, keys).vectors.get(VICTIM) == self.x.tolist())


def _by(rules: Counter[str]) -> str:
    return f" ({', '.join(rules)})" if rules else ""


__all__ = [
    "KeySubstitutionScene",
    "MaskReuseScene",
    "ModelInconsistencyScene",
    "ReplayScene",
    "WeakGeneratorScene",
]
