"""For every rule of a membership, the history of rosters that it stops: its negative vector.

The enrolment key and all identities follow from names, and hide nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import secagg
from secagg_protocols import signed_roster
from secagg_protocols.enrolment import Membership
from secagg_protocols.signed_roster import SignedRoster

from .played import Scenario, ended
from .world import digest, make_plan, people

OWNER: Final = secagg.Identity("enrolment", digest("enrolment"))
ROSTER, IDENTITIES = people(5)


def key(*name: object) -> bytes:
    """A public key that follows from a name."""
    return secagg.Identity("x", digest("key", *name)).public


def forge(before: SignedRoster, owner: secagg.Identity = OWNER, **fields: Any) -> SignedRoster:
    """A signed roster with any content, as an enrolment key that misbehaves would sign it."""
    draft = replace(before, enrolment=owner.public, **fields)
    return replace(draft, signature=owner.sign(draft.digest))


@dataclass
class Stage:
    """A party s0 with a fresh journal, and a history to show to it."""

    kind: type[Membership] = Membership
    journal: Any = field(default_factory=secagg.MemoryJournal)

    def __post_init__(self) -> None:
        self.chain = [SignedRoster.first(ROSTER, OWNER)]

    def party(self, name: str = "s0", identity: secagg.Identity | None = None) -> Membership:
        """What the party is when it starts again: everything else is in its journal."""
        own = identity or IDENTITIES[name]
        return self.kind(OWNER.public, identity=own, journal=self.journal)

    def change(self, **changes: Any) -> SignedRoster:
        """The next epoch, signed and entered into the history."""
        self.chain.append(self.chain[-1].change(enrolment=OWNER, **changes))
        return self.chain[-1]


# The attacks. Each plays one, and says whether the victim goes on with what it was shown.


def forged(stage: Stage) -> bool:
    stage.party().accept(stage.chain[0])
    mallory = secagg.Identity("mallory", digest("mallory"))
    sybils = tuple((f"x{i}", key("sybil", i)) for i in range(3))
    strangers = replace(ROSTER, sites=(ROSTER.sites[0], *sybils), epoch=1)
    changes = signed_roster.changes_between(ROSTER, strangers, ())
    fake = forge(
        stage.chain[0],
        mallory,
        roster=strangers,
        previous=stage.chain[0].digest,
        changes=changes,
    )
    return stage.party().accept(fake) == strangers


def rolled_back(stage: Stage) -> bool:
    stage.change(leave=["s4"])
    stage.party().accept(stage.chain)
    return "s4" in stage.party().accept(stage.chain[0]).names


def forked(stage: Stage) -> bool:
    one, other = (stage.chain[0].change(enrolment=OWNER, leave=[name]) for name in ("s3", "s4"))
    stage.party().accept([stage.chain[0], one])
    return stage.party().accept(other) == other.roster


def left_out(stage: Stage) -> bool:
    stage.change(join={"s5": key("s5")})
    stage.change(join={"s6": key("s6")})
    return stage.party().accept([stage.chain[0], stage.chain[2]]) == stage.chain[2].roster


def brought_back(stage: Stage) -> bool:
    last = stage.change(revoke=["s4"])
    stage.party().accept(stage.chain)
    back = replace(last.roster, sites=(*last.roster.sites, ("other", ROSTER.sites[4][1])), epoch=2)
    evil = forge(
        last, roster=back, previous=last.digest, changes=(("joined", "other"),), revoked=()
    )
    return "other" in stage.party().accept(evil).names


def untold(stage: Stage) -> bool:
    stage.party().accept(stage.chain)
    joined = replace(ROSTER, sites=(*ROSTER.sites, ("s5", key("s5"))), epoch=1)
    silent = forge(stage.chain[0], roster=joined, previous=stage.chain[0].digest, changes=())
    return "s5" in stage.party().accept(silent).names


def removed(stage: Stage) -> bool:
    stage.change(leave=["s0"])
    return "s0" not in stage.party().accept(stage.chain).names


def old_plan(stage: Stage) -> bool:
    stage.change(revoke=["s4"])
    stage.party().accept(stage.chain)
    stage.party().admit(make_plan(5, roster=ROSTER))
    return True


ATTACKS: Final[dict[str, Callable[[Stage], bool]]] = {
    "enrolment-signature": forged,
    "epoch-rollback": rolled_back,
    "epoch-fork": forked,
    "epoch-chain": left_out,
    "revoked-key": brought_back,
    "roster-changes": untold,
    "own-key": removed,
    "plan-epoch": old_plan,
}


def vector(rule: str) -> Scenario | None:
    """The negative vector of a rule, if it has one."""
    attack = ATTACKS.get(rule)
    return None if attack is None else lambda kind: ended(lambda: attack(Stage(kind)))


__all__ = ["ATTACKS", "OWNER", "Stage", "forge", "key", "vector"]
