"""Scenes of the attacks on keys and masks: row 5 here, rows 8, 12, 16 and 22 beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import numpy as np

import secagg
from secagg_protocols import masked_sum, wire
from secagg_protocols.keys import SEED_SIZE
from secagg_protocols.masked_sum import masks, messages
from secagg_protocols.paillier_sum import Client as PaillierClient
from secagg_protocols.plan import Plan

from ..arena.controls import changed, without
from ..arena.paillier_keys import primes
from ..arena.paillier_world import one_key_plan, private_key
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
        """The best signature that a server has for keys of another: its own, or of a key of its."""
        name = self.made.roster.names[peer]
        style = self.label[0] % 3
        signer = people(self.made.clients)[1]["server"]
        if style == 1:
            signer = secagg.Identity(name, entropy(self.label, name)(32))
        if style == 2:
            return bytes(wire.SIGNATURE_SIZE)
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
        for trial in range(trials):
            found, site = self._try(lab, made, client, "full", trial)
            successes += found is not None
            refused |= dict.fromkeys(site.refused)
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
        refused |= dict.fromkeys(others)
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
            "The site refused every time, before it had sent anything but its own keys."
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
            stopped_by=tuple(refused),
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
        """A server that has a Paillier key of its own and wants a site to use it."""
        p, q = primes(2048, 1)
        keys = Keys(values={"p": p.to_bytes(128, "little"), "q": q.to_bytes(128, "little")})
        server_key = secagg.PaillierSum(key=private_key(2048, 1).public, colluding_holders=0)
        theirs = one_key_plan(
            made.clients, protocol=server_key, length=made.length, stages=made.stages
        )

        def taken(self: Any) -> Any:
            self.plan = theirs
            return PaillierClient.start(self)

        def attempt(kind: type[Any] | None, label: str, trial: int) -> bool:
            x = rows_of(lab, made, trial)
            world = arena(made, x, seed=lab.digest(label, trial), sites=kind)
            party = world.parties[VICTIM]
            events = party.start() + party.submit(world.vectors[VICTIM])
            frames = [
                Frame(0, VICTIM, "server", e.data) for e in events if isinstance(e, secagg.Send)
            ]
            found = lab.attack(transcript(made, frames, public={"victim": VICTIM}), keys)
            return bool(found.vectors.get(VICTIM) == x[made.roster.index(VICTIM)].tolist())

        trials, runs = lab.trials(2, 60), lab.trials(1, 10)
        successes = sum(attempt(None, "full", i) for i in range(trials))
        weak = changed(PaillierClient, start=taken)
        hits = sum(attempt(weak, "weak", i) for i in range(runs))
        return Finding(
            verdict=Verdict.LEAKS if successes else Verdict.PREVENTED,
            tried="A server with a Paillier key of its own tried to read a site's ciphertexts.",
            seen="The key that a site encrypts under is a field of its plan, which all parties "
            f"agree on before; no message carries a key. {successes} of {trials} vectors were "
            f"read. Of sites that took their plan from the server without comparing its digest, "
            f"{hits} of {runs} were read exactly (the control).",
            trials=trials,
            successes=successes,
            stopped_by=("feature: the key is in the plan",),
            measures=[rate("inputs recovered exactly", successes, trials)],
            controls=[
                ControlRun(
                    overrides=("feature: the key is in the plan",), trials=runs, successes=hits
                )
            ],
            parameters=parameters_of(made),
        )


__all__ = [
    "KeySubstitutionScene",
    "MaskReuseScene",
    "ModelInconsistencyScene",
    "ReplayScene",
    "WeakGeneratorScene",
]
