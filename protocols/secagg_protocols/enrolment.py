"""Roster epochs: who takes part is signed by an enrolment key, and never goes back.

The owner of the enrolment key signs a first roster, and every change (joining, leaving,
revocation, rotation of a key) as a new roster whose epoch is one higher and which names the
digest of the one before. A party holds the enrolment *public* key, which it got out of band,
and keeps the newest roster in its journal. Since the epoch is in every setup context, a new
roster starts cold: nothing of an earlier epoch means anything in it.
Specification: ``protocols/specs/enrolment.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .choose import recommended
from .errors import EquivocationError, MisuseError, PeerError, PlanError
from .journal import Journal, journal_calls
from .keys import KEY_SIZE, Identity, digest_of
from .plan import PaillierSum, Plan
from .roster import Roster
from .rules import Rule
from .signed_roster import (
    ENROLMENT,
    NOTHING,
    Changes,
    SignedRoster,
    changes_between,
    rotated_away,
    verify_signature,
)

_REGISTER_LABEL: Final = b"secagg membership register v1"
_OWNER_LABEL: Final = b"secagg enrolment epochs v1"

ENROLMENT_RULES: Final = (
    Rule(
        "enrolment-signature",
        "member",
        "accept",
        "the pinned enrolment key signed this roster",
        "AuthenticationError",
        "a roster with sites or keys of somebody else's choice",
    ),
    Rule(
        "epoch-rollback",
        "member",
        "accept",
        "the epoch is not below the newest one held",
        "PeerError",
        "an old roster that brings a removed site or a stolen key back",
    ),
    Rule(
        "epoch-fork",
        "member",
        "accept",
        "one roster per epoch",
        "EquivocationError",
        "different rosters for different sites: a cohort of strangers for one of them",
    ),
    Rule(
        "epoch-chain",
        "member",
        "accept",
        "the next epoch, naming the digest of the roster held",
        "PeerError",
        "a history with a roster left out, and with it a revocation; a fork one epoch later",
    ),
    Rule(
        "revoked-key",
        "member",
        "accept",
        "revoked keys stay revoked, keys rotated away are, and none of them is in the roster",
        "PeerError",
        "a stolen key that returns, under its own or another name",
    ),
    Rule(
        "roster-changes",
        "member",
        "accept",
        "the changes in words are those between the two rosters",
        "PeerError",
        "a change that the history does not tell",
    ),
    Rule(
        "own-key",
        "member",
        "accept",
        "the newest roster pins this party's key under its name",
        "MisuseError",
        "a party that goes on after it was removed, or under a key that no longer counts",
    ),
    Rule(
        "plan-epoch",
        "member",
        "admit",
        "the plan is over the newest roster",
        "MisuseError",
        "a round over an old roster, by a plan that was made before the change",
    ),
)


class Succession:
    """The rules by which one signed roster follows another, under one enrolment public key."""

    def __init__(self, enrolment: bytes) -> None:
        if type(enrolment) is not bytes or len(enrolment) != KEY_SIZE:
            raise MisuseError(
                f"the enrolment public key has {KEY_SIZE} bytes; it comes out of band",
                rule="arguments",
            )
        self.enrolment = enrolment

    def follow(self, before: SignedRoster | None, after: SignedRoster) -> SignedRoster:
        """``after`` where it may follow ``before`` (or is it); raises the broken rule.

        Without ``before``, any roster that the enrolment key signed will do: a party without a
        past cannot tell which is the newest.
        """
        if not isinstance(after, SignedRoster):
            raise MisuseError("a SignedRoster is needed", rule="arguments")
        self._check_enrolment_signature(after)
        if before is not None:
            self._check_epoch_rollback(before, after)
            self._check_epoch_fork(before, after)
            if after.digest == before.digest:
                return before
            self._check_epoch_chain(before, after)
        self._check_revoked_key(before, after)
        self._check_roster_changes(before, after)
        return after

    def walk(self, before: SignedRoster | None, chain: Sequence[SignedRoster]) -> SignedRoster:
        """The last of a chain, oldest first, each of which follows the one before it.

        Rosters older than ``before`` are passed over: a party is given the whole history and
        has walked a part of it.
        """
        start = 0
        while before and start < len(chain) - 1 and chain[start].epoch < before.epoch:
            start += 1
        for one in chain[start:]:
            before = self.follow(before, one)
        if before is None or not chain:
            raise MisuseError("a chain has at least one signed roster", rule="arguments")
        return before

    def _check_enrolment_signature(self, after: SignedRoster) -> None:
        verify_signature(self.enrolment, after)

    def _check_epoch_rollback(self, before: SignedRoster, after: SignedRoster) -> None:
        if after.epoch < before.epoch:
            raise PeerError(
                f"epoch {after.epoch} was replaced; the newest one held is {before.epoch}",
                rule="epoch-rollback",
                sender=ENROLMENT,
            )

    def _check_epoch_fork(self, before: SignedRoster, after: SignedRoster) -> None:
        if after.epoch == before.epoch and after.digest != before.digest:
            raise EquivocationError(
                f"the enrolment key signed two rosters for epoch {after.epoch}: "
                f"{before.digest.hex()} is held, {after.digest.hex()} was given",
                rule="epoch-fork",
                sender=ENROLMENT,
                digests=(before.digest, after.digest),
            )

    def _check_epoch_chain(self, before: SignedRoster, after: SignedRoster) -> None:
        if after.epoch <= before.epoch:
            return  # the rules above speak of these
        if after.epoch > before.epoch + 1:
            raise PeerError(
                f"epoch {before.epoch} is held and {after.epoch} was given; the rosters between "
                "them are needed too",
                rule="epoch-chain",
                sender=ENROLMENT,
            )
        if after.previous != before.digest:
            raise EquivocationError(
                f"epoch {after.epoch} follows another roster of epoch {before.epoch} "
                f"({after.previous.hex()}) than the one held ({before.digest.hex()}): the "
                "enrolment key signed two histories",
                rule="epoch-chain",
                sender=ENROLMENT,
                digests=(before.digest, after.previous),
            )

    def _check_revoked_key(self, before: SignedRoster | None, after: SignedRoster) -> None:
        revoked = set(after.revoked)
        missing = False
        if before is not None:
            needed = {*before.revoked, *rotated_away(before.roster, after.roster)}
            missing = not needed <= revoked
        if missing or revoked & after.roster.keys:
            raise PeerError(
                f"epoch {after.epoch} brings back a key that was revoked or rotated away, or no "
                "longer lists it as revoked",
                rule="revoked-key",
                sender=ENROLMENT,
            )

    def _check_roster_changes(self, before: SignedRoster | None, after: SignedRoster) -> None:
        if after.previous == NOTHING:
            found: Changes = ()
        elif before is None or after.previous != before.digest:
            return  # the roster that these words compare with is not here
        else:
            found = changes_between(before.roster, after.roster, after.revoked)
        if after.changes != found:
            raise PeerError(
                f"epoch {after.epoch} does not say what it changes",
                rule="roster-changes",
                sender=ENROLMENT,
            )


class Membership(Succession):
    """What one party knows of the roster: the newest epoch, kept in its journal.

    enrolment: the enrolment public key, 32 bytes, got out of band and never from a roster.
    identity: the party's own; ``name`` is its name in the roster, by default the identity's.
    journal: the party's. A journal that was lost, or a copy of it that was rolled back, forgets
        epochs; nothing here can tell.
    """

    def __init__(
        self, enrolment: bytes, *, identity: Identity, journal: Journal, name: str | None = None
    ) -> None:
        super().__init__(enrolment)
        if not isinstance(identity, Identity):
            raise MisuseError("the identity is an Identity", rule="arguments")
        if name is not None and not isinstance(name, str):
            raise MisuseError("a name is text", rule="arguments")
        self.name = identity.name if name is None else name
        self._identity = identity
        self._journal = journal
        self._register = digest_of(_REGISTER_LABEL, enrolment, self.name.encode())

    @property
    def newest(self) -> SignedRoster | None:
        """The newest signed roster that was accepted, in this process or before."""
        with journal_calls():
            return self._held(self._journal.read(self._register))

    def accept(self, signed: SignedRoster | Sequence[SignedRoster]) -> Roster:
        """The roster of ``signed``, or of the last of a chain (oldest first), once it is durable.

        The same one again is fine. Raises :class:`AuthenticationError`, :class:`PeerError` or
        :class:`EquivocationError` with the broken rule, and then nothing has changed; raises
        :class:`MisuseError` (``own-key``) where the roster is accepted, and so is durable, but
        does not have this party in it under this key.
        """
        chain = [signed] if isinstance(signed, SignedRoster) else signed
        whole = isinstance(chain, (list, tuple)) and chain
        if not whole or not all(isinstance(link, SignedRoster) for link in chain):
            raise MisuseError("accept takes a SignedRoster, or a list of them", rule="arguments")
        with journal_calls():
            found = self._enter(chain)
        self._check_own_key(found)
        return found.roster

    def _enter(self, chain: Sequence[SignedRoster]) -> SignedRoster:
        while True:
            stored = self._journal.read(self._register)
            held = self._held(stored)
            found = self.walk(held, chain)
            if found is held:
                return found
            try:
                self._journal.swap(self._register, stored, found.encode())
                return found
            except MisuseError as error:
                # Another process of this party was quicker: its roster is the one to follow.
                if error.rule != "journal-swap" or self._journal.read(self._register) == stored:
                    raise

    def admit(self, plan: Plan) -> None:
        """Raise :class:`MisuseError` (``plan-epoch``) unless ``plan`` is over the newest roster.

        A session calls this before it starts: a plan carries a roster of its own, which may be
        one that was replaced, or one that nobody signed.
        """
        if not isinstance(plan, Plan):
            raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")
        self._check_plan_epoch(plan, self.newest)

    def _held(self, stored: bytes) -> SignedRoster | None:
        return SignedRoster.decode(stored) if stored else None

    def _check_own_key(self, newest: SignedRoster) -> None:
        own, pinned = self._identity.public, newest.roster.key(self.name)
        if pinned == own:
            return
        if pinned is not None:
            text = f"pins another key for {self.name}; load the identity that goes with it"
        elif own in newest.revoked:
            text = f"has revoked the key of {self.name}, which is no longer part of it"
        else:
            text = f"does not have {self.name}; it has left or never joined"
        raise MisuseError(f"the roster of epoch {newest.epoch} {text}", rule="own-key")

    def _check_plan_epoch(self, plan: Plan, newest: SignedRoster | None) -> None:
        if newest is None:
            raise MisuseError("no signed roster was accepted yet", rule="plan-epoch")
        if plan.roster != newest.roster:
            raise MisuseError(
                f"the plan is over a roster of epoch {plan.roster.epoch} that is not the accepted "
                f"one of epoch {newest.epoch}; all parties need the plan for that epoch",
                rule="plan-epoch",
            )


def claim_epoch(journal: Journal, signed: SignedRoster) -> None:
    """Record at the owner of the enrolment key that it signs ``signed``, and no other roster of
    that epoch. Durable on return; :class:`MisuseError` (rule ``epoch-fork``) for a second one.

    Two changes made from the same roster would be two histories, and convict the key.
    """
    key = digest_of(_OWNER_LABEL, signed.enrolment)
    try:
        with journal_calls():
            journal.claim(key, signed.epoch, signed.digest, b"")
    except MisuseError as error:
        if error.rule != "journal-once":
            raise
        raise MisuseError(
            f"another roster of epoch {signed.epoch} was signed with this key; continue from that "
            "one (where it was never written, repeat the command that made it)",
            rule="epoch-fork",
        ) from None


def plan_for_epoch(plan: Plan, roster: Roster) -> Plan:
    """The plan with a later roster and the same promises.

    As many sites as before keep threshold and graph. Another number gets those that
    :meth:`Plan.recommend` would choose: a complete graph stays complete, a sparse one is chosen
    anew. A Paillier sum keeps its key, and so as many holders. Everything else is kept, so
    :class:`PlanError` where fewer sites cannot keep a promise (allow fewer dropouts, say), where
    the roster is not a later one (``epoch-order``), and where the plan makes claims on privacy
    for another number of sites (``epoch-privacy``).
    """
    if not isinstance(roster, Roster):
        raise PlanError("a Roster", rule="field-types", field="roster")
    if roster == plan.roster:
        return plan
    if roster.epoch <= plan.roster.epoch:
        raise PlanError(
            f"epoch {roster.epoch} does not come after the plan's epoch {plan.roster.epoch}",
            rule="epoch-order",
            field="roster",
        )
    n = len(roster.sites)
    if n == plan.clients:
        return replace(plan, roster=roster)
    if plan.privacy is not None:
        raise PlanError(
            f"claims for {plan.clients} sites do not hold for {n}; calibrate a new plan",
            rule="epoch-privacy",
            field="privacy",
        )
    if isinstance(plan.protocol, PaillierSum):
        return replace(plan, roster=roster)
    protocol = recommended(
        n,
        plan.threat,
        plan.colluding,
        plan.max_dropouts,
        n - 1 if plan.complete else None,
        plan.security_bits,
        plan.fixed_data,
    )
    return replace(plan, roster=roster, protocol=protocol)
