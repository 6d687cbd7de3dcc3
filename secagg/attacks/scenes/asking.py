"""Row 1: a server that asks twice; row 4: a server that says a site has gone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

import numpy as np

import secagg
from secagg_protocols import wire
from secagg_protocols.events import Step
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.masked_sum import Client, masks, messages

from .. import columns, statistics
from ..adversaries.server import AskAgain, Declare, Equivocate, HoldBack
from ..adversaries.votes import lists
from ..arena.controls import changed, without
from ..arena.table import Table
from ..finding import ControlRun, Finding, Measure, Verdict
from ..reading import keystream, unpacked
from ..scene import Lab, Scene
from ..server import LateUpload, ShareBoth
from .views import (
    chunks,
    in_plain,
    named,
    plan_for,
    ranges,
    residual,
    sizes,
    small_plans,
    table,
    which,
)

P, L = Verdict.PREVENTED, Verdict.LEAKS
_NO_SHARES: Final = (
    "No site shares a secret of its own here, so there is nothing to ask for twice; the same "
    "trick on a Paillier sum, two openings for two sets of sites, is row 29."
)
_NO_MASKS: Final = (
    "Inputs are ciphertexts and carry no masks that a dropout would reveal; who may open which "
    "set of them is row 29."
)


def share_both_ways(first: Iterable[int], second: Iterable[int], *, restart: bool) -> Any:
    """Tell everybody one list, and once they have revealed another one."""
    one, other = frozenset(first), frozenset(second)
    return lambda sites: [
        Equivocate(Step.INPUT, dict.fromkeys(range(sites.plan.clients), one)),
        AskAgain(other, sites.restart if restart else None),
    ]


def _forget_claims(
    self: MemoryJournal, key: bytes, step: int, digest: bytes, reply: bytes, **more: Any
) -> bytes:
    """Records nothing after the input, like a journal that was rolled back."""
    if step > int(Step.INPUT):
        return reply
    return MemoryJournal.claim(self, key, step, digest, reply, **more)


def _keep_shares(self: Client) -> None:
    """Erases nothing."""


#: What is switched off: its name in the report, and how.
_JOURNAL: Final = "feature: journal that no restart rolls back"
_ERASED: Final = "feature: shares are erased once they were used"
#: The rules that refuse the second list: at once, and after a restart (the journal).
_SECOND: Final = frozenset({"equivocation", "step-order", "journal-once", "dump-age"})


class ShareBothScene(Scene):
    """Asks for one list, then for another: at once, and after the sites were restarted."""

    attack = ShareBoth
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        "plain": L,
        "semi-honest": P,
        "malicious-server": P,
        "sparse": P,
        "paillier-one": _NO_SHARES,
        "paillier-threshold": _NO_SHARES,
        "noise": P,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Every pair of lists for up to five sites; on a sparse graph, drawn ones."""
        if column == "plain":
            return in_plain(lab)
        refused: set[str] = set()
        trials = right = 0
        for made, pairs in self._cases(lab, column):
            for chunk in chunks(pairs):
                for first, second in chunk:
                    for restart in (False, True):
                        made.view(share_both_ways(first, second, restart=restart))
                claims = made.claims(lab)
                trials += len(claims)
                right += sum(1 in sizes(one, made.truth) for one in claims)
                lab.step(trials, trials + 1)
            refused |= made.refused
        complete = column != "sparse"
        what = (
            f"every pair of survivor lists that the plans of {which(lab)} allow"
            if complete
            else "pairs of survivor lists drawn at random, 12 sites with 6 neighbours each"
        )
        return Finding(
            verdict=P if not right else L,
            tried=(
                f"The server asks all sites to reveal for one list and then for another, {what}; "
                "once at once, and once after it made every site start again from its stored "
                "state. A message cannot ask for both shares of one site, so it asks twice. What "
                "a site answers follows from its own messages alone, so asking different sites "
                "for different lists adds nothing here; that is rows 2 and 3."
            ),
            seen=(
                f"In {right} of {trials} attempts a vector was opened. A site answers its first "
                "list; the second one ends it. After a restart its journal still has the first: it "
                "refuses to answer another, or to start from a state that is older than that."
            ),
            trials=trials,
            successes=right,
            exhaustive=complete and lab.full,
            stopped_by=named(refused & _SECOND),
            also_refused=named(refused - _SECOND),
            controls=self._controls(lab, column),
            parameters=ranges(lab) if complete else {"n": 12},
        )

    def _cases(self, lab: Lab, column: str) -> Iterator[tuple[Table, Any]]:
        if column != "sparse":
            for n, c, drops in small_plans(lab):
                known = lists(n, n - drops)
                made = table(lab, plan_for(column, n, c, drops), range(c), n, c, drops)
                yield made, itertools.product(known, repeat=2)
            return
        wanted, each = lab.trials(10, 1500), 50
        for at in range(0, wanted, each):
            made = table(lab, columns.plan("sparse", 12), (), at)
            rng = lab.rng("lists", at)
            pairs = [(_drawn(rng, 12, 4), _drawn(rng, 12, 4)) for _ in range(min(each, wanted))]
            yield made, pairs

    def _controls(self, lab: Lab, column: str) -> list[ControlRun]:
        both = without(Client, "equivocation", "step-order")
        two = ("client.equivocation", "client.step-order")
        rolled = changed(MemoryJournal, claim=_forget_claims)
        kept = changed(both, _forget=_keep_shares)
        runs: list[tuple[tuple[str, ...], Any, Any, bool, bool]] = [
            ((_JOURNAL,), Client, rolled, True, True),
            (two[:1], without(Client, "equivocation"), MemoryJournal, False, False),
            (two[1:], without(Client, "step-order"), MemoryJournal, False, False),
            (two, both, MemoryJournal, False, False),
            ((*two, _JOURNAL), both, rolled, False, False),
            ((*two, _JOURNAL, _ERASED), kept, rolled, False, True),
        ]
        found = []
        plan = columns.plan("sparse", 12) if column == "sparse" else plan_for(column, 5, 1, 1)
        for names, kind, journal, restart, expected in runs:
            made = table(lab, plan, range(plan.colluding), classes=kind, journal=journal)
            everybody = frozenset(range(plan.clients))
            for victim in made.honest if lab.full else made.honest[-3:]:
                made.view(share_both_ways(everybody, everybody - {victim}, restart=restart))
            claims = made.claims(lab)
            right = sum(1 in sizes(one, made.truth) for one in claims)
            stopped = ", ".join(named(made.refused)) or "the shares are gone"
            how = "after a restart" if restart else "asked again at once"
            note = how if right else f"{how}; stopped by {stopped}"
            found.append(
                ControlRun(
                    overrides=names,
                    trials=len(claims),
                    successes=right,
                    expected=expected,
                    note=note,
                )
            )
        return found


def _drawn(rng: np.random.Generator, n: int, most: int) -> frozenset[int]:
    """All sites but up to ``most``, drawn."""
    gone = rng.choice(n, size=int(rng.integers(0, most, endpoint=True)), replace=False)
    return frozenset(range(n)) - frozenset(gone.tolist())


def _without_self_mask(self: Client, array: Any, weight: int, check: Any) -> list[Any]:
    """The input without the site's own mask: it is taken off again before the frame is sealed."""
    event = next(
        sent
        for sent in Client._make_input(self, array, weight, check)
        if isinstance(sent, secagg.Send)
    )
    plan, own, context = self.plan, self._own(), self.contexts.round
    parts = wire.split_frame(event.data, trailer_size=messages.trailer_size(plan))
    ring = unpacked(bytes(parts.tail), plan.ring_length, plan.wire_bits)
    ring -= keystream(
        masks.self_mask(own.self_seed, self.index, context), plan.ring_length, plan.lane
    )
    bits = (ring[:, None] >> np.arange(plan.wire_bits, dtype=np.uint64)) & np.uint64(1)
    tail = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
    frame, _ = self._frame(messages.INPUT, wire.SERVER, messages.Input(), tail)
    return [secagg.Send(event.to, frame)]


class LateUploadScene(Scene):
    """Takes a site's input, says it never came, and has its pair masks recovered."""

    attack = LateUpload
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        "plain": L,
        "semi-honest": P,
        "malicious-server": P,
        "sparse": P,
        "paillier-one": _NO_MASKS,
        "paillier-threshold": _NO_MASKS,
        "noise": P,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Each site in turn is the victim; masks are drawn anew for each setup."""
        if column == "plain":
            return in_plain(lab)
        trials = right = coordinates = matches = 0
        plan = self._plan(column)
        wanted = lab.trials(30, 3000)
        while trials < wanted:
            made, claims = self._played(lab, plan, Client, trials)
            right += sum(1 in sizes(one, made.truth) for one in claims)
            trials += len(claims)
            for one in claims:
                for name, vector in one.items():
                    coordinates += len(vector)
                    matches += sum(a == b for a, b in zip(vector, made.truth[name], strict=True))
            lab.step(trials, wanted)
        chance = 2.0**-plan.wire_bits
        # A claim for every trial: the pair masks did come off, so it is the self mask that stands.
        lawful = coordinates == trials * plan.length
        lawful = lawful and statistics.consistent(matches, coordinates, chance)
        control = changed(Client, _make_input=_without_self_mask)
        weak, found = self._played(lab, plan, control, "control")
        opened = sum(1 in sizes(one, weak.truth) for one in found)
        measures = [
            statistics.rate(
                "coordinates of the victim that came out right",
                matches,
                coordinates,
                predicted=chance,
                law="chance, one in 2^bits",
            )
        ]
        noted = ""
        if column == "noise":
            noted = " Its control opens the vector with the site's own noise in it, and no other."
            measures.append(self._noise_left(lab, control))
        return Finding(
            verdict=P if lawful and not right else L,
            tried=(
                f"The server takes a site's input, tells the other {plan.clients - 1} sites that "
                "it dropped out, rebuilds its mask seed from their shares and removes its pair "
                "masks from the input."
            ),
            seen=(
                f"In {right} of {trials} attempts the vector came out. What is left is still "
                f"covered by the site's own mask: {matches} of {coordinates} coordinates were "
                f"right, and chance alone gives {chance * coordinates:.1f}.{noted}"
            ),
            trials=trials,
            successes=right,
            stopped_by=("feature: self mask",) if lawful else (),
            measures=measures,
            controls=[
                ControlRun(overrides=("feature: self mask",), trials=len(found), successes=opened)
            ],
            parameters={"n": plan.clients, "t": plan.protocol.share_threshold, "d": plan.length},
        )

    @staticmethod
    def _plan(column: str, length: int = 5) -> secagg.Plan:
        if column == "sparse":
            return columns.plan("sparse", 12, length)
        return plan_for(column, 4, 0, 1, length=length)

    @staticmethod
    def _played(
        lab: Lab, plan: secagg.Plan, kind: type[Any], label: Any
    ) -> tuple[Table, list[dict[str, list[Any]]]]:
        """Every site is declared gone once, each in a view of its own."""
        made = table(lab, plan, (), label, classes=kind)
        for victim in made.honest:
            gone = [HoldBack(messages.INPUT.number, [victim]), Declare([victim])]
            made.view(lambda _, gone=gone: gone)  # type: ignore[misc]
        return made, made.claims(lab)

    def _noise_left(self, lab: Lab, control: type[Any]) -> Measure:
        made, found = self._played(lab, self._plan("noise", 400), control, "noise")
        return residual(made, found, 1)


__all__ = ["LateUploadScene", "ShareBothScene"]
