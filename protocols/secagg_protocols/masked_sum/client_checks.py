"""What a site checks, one method a rule (ids, attacks, negative vectors: ``rules.py``).

The checks stand apart from the steps so that the table can be held against one page of code.
"""

from __future__ import annotations

from msgspec.structs import replace

from ..errors import MisuseError, ReleaseError
from ..events import Step
from ..keys import KEY_SIZE, verify
from ..plan import masked_of
from ..registers import Released, pack_released, released_register, unpack_released
from ..roster import SERVER_NAME
from ..site import SiteParty
from ..wire import SERVER, Frame, encode_header, frame_digest, to_bitmap
from . import masks, messages

# Where a client stands: what it waits for.
NEW, ADVERTISED, SHARED, READY, MASKED, CONSENTED, REVEALED, FINISHED = range(8)
AWAITED = {
    messages.ADVERTS.number: {ADVERTISED},
    messages.SHARES_FOR.number: {SHARED},
    # A site that trains slowly learns here that it is late.
    messages.SURVIVORS.number: {READY, MASKED},
    messages.CONSENTS.number: {CONSENTED},
    messages.RESULT.number: {REVEALED},
}


class ClientChecks(SiteParty):
    """The rules of a site, and the state they look at."""

    _at: int
    _neighbours: tuple[int, ...]
    _adverts: dict[int, bytes]
    _u2: tuple[int, ...]
    _u3: tuple[int, ...]
    _cohort: int

    def _survivors_digest(self) -> bytes:
        return masks.survivors_digest(self.contexts.round, to_bitmap(self._u3, self.plan.clients))

    def _enter_release(self) -> None:
        """Enter the survivors into the register of these data, before they are answered.

        A set that is refused ends the analysis: an analysis that went on with another set would
        let a server try sets until it has two whose difference it likes.
        """
        if self._newest() >= int(Step.CONSENT):
            return  # answered before a crash, so it was entered; the journal knows for which set
        sites = frozenset(self._names(self._u3))
        register = released_register(self.name, self.data)

        def enter(stored: bytes) -> bytes:
            last = self._admitted(unpack_released(stored))
            self._check_fixed_ended(last)
            self._check_fixed_nested(last, sites)
            self._check_fixed_difference(last, sites)
            return pack_released(replace(last, sites=sites))

        try:
            self._change_register(register, enter)
        except ReleaseError as error:
            self._end_release(register, error.rule)
            raise

    def _end_release(self, register: bytes, rule: str) -> None:
        def end(stored: bytes) -> bytes:
            last = unpack_released(stored)
            return pack_released(replace(last, ended=last.ended or rule))

        self._change_register(register, end)

    # Rules. Ids, texts and negative vectors: rules.py.

    def _check_graph(self, neighbours: tuple[int, ...]) -> None:
        plan = self.plan
        right = self.index not in neighbours and len(neighbours) == masked_of(plan).neighbours
        if not right:
            raise self._blame("graph", "the neighbours are not those of this plan's graph")

    def _check_adverts_within(self, present: tuple[int, ...]) -> None:
        if not set(present) <= set(self._neighbours):
            raise self._blame("adverts-within", "an advert comes from outside the neighbourhood")

    def _check_advert_cohort(self, present: tuple[int, ...], cohort: int) -> None:
        self._cohort_at_least("advert-cohort", cohort, len(present) + 1)

    def _check_advert_holders(self, present: tuple[int, ...]) -> None:
        self._holders_at_least("advert-holders", len(present) + 1)

    def _check_advert_signatures(self, adverts: dict[int, tuple[bytes, bytes]]) -> None:
        if not self.plan.signed:
            return
        header = encode_header(messages.Advert())
        kind = messages.ADVERT
        for site, (keys, signature) in adverts.items():
            digest = frame_digest(self._context(kind), kind.number, site, SERVER, header, keys)
            verify(
                self._public(site),
                digest,
                signature,
                rule="advert-signatures",
                signer=self._name(site),
                sender=SERVER_NAME,
            )

    def _check_distinct_keys(self, adverts: dict[int, bytes], own: bytes) -> None:
        keys = [k[i : i + KEY_SIZE] for k in (*adverts.values(), own) for i in (0, KEY_SIZE)]
        if len(set(keys)) != len(keys):
            raise self._blame("distinct-keys", "one key is advertised twice")

    def _check_sharers_within(self, present: tuple[int, ...]) -> None:
        if not set(present) <= {*self._adverts, self.index}:
            raise self._blame("sharers-within", "a site shared without having advertised")

    def _check_sharer_cohort(self, present: tuple[int, ...], cohort: int) -> None:
        self._cohort_at_least("sharer-cohort", cohort, len(present))

    def _check_sharer_holders(self, present: tuple[int, ...]) -> None:
        self._holders_at_least("sharer-holders", len(present))

    def _check_survivors_within(self, present: tuple[int, ...]) -> None:
        if not set(present) <= set(self._u2):
            raise self._blame("survivors-within", "a survivor had not shared")

    def _check_survivor_cohort(self, present: tuple[int, ...], cohort: int) -> None:
        self._cohort_at_least("survivor-cohort", cohort, len(present))

    def _check_survivor_holders(self, present: tuple[int, ...]) -> None:
        self._holders_at_least("survivor-holders", len(present))

    def _check_survivor_sent(self) -> None:
        # After a restart from an older dump the journal knows of an input that the dump does not.
        sent = self._at == MASKED or self._newest() >= int(Step.INPUT)
        if not sent:
            raise self._blame("survivor-sent", "this site is listed without having sent an input")

    def _check_consent_count(self, signers: tuple[int, ...]) -> None:
        need = self.plan.protocol.share_threshold
        if len(signers) != need:
            raise self._blame("consent-count", f"{len(signers)} consents, exactly {need} needed")

    def _check_consent_members(self, signers: tuple[int, ...]) -> None:
        if not set(signers) <= set(self._u3):
            raise self._blame("consent-members", "a consent comes from outside the survivors")

    def _check_consent_signatures(self, consents: dict[int, bytes]) -> None:
        kind = messages.CONSENT
        header = encode_header(messages.Consent(self._survivors_digest()))
        for site, signature in consents.items():
            digest = frame_digest(self._context(kind), kind.number, site, SERVER, header, b"")
            verify(
                self._public(site),
                digest,
                signature,
                rule="consent-signatures",
                signer=self._name(site),
                sender=SERVER_NAME,
            )

    def _check_step_order(self, frame: Frame) -> None:
        awaited = self._at in AWAITED[frame.kind]
        if not awaited or (frame.kind, frame.sender) in self._accepted:
            raise self._blame("step-order", "this message comes early, late or again")

    def _check_fixed_ended(self, last: Released) -> None:
        if last.ended:
            raise ReleaseError(
                f"the analysis of these data was ended by rule {last.ended!r}", rule="fixed-ended"
            )

    def _check_fixed_nested(self, last: Released, sites: frozenset[str]) -> None:
        if last.sites is not None and not sites <= last.sites:
            raise ReleaseError(
                f"{len(sites - last.sites)} site(s) of this sum were not in the last one of these "
                "data",
                rule="fixed-nested",
            )

    def _check_fixed_difference(self, last: Released, sites: frozenset[str]) -> None:
        need = last.block  # the largest of all plans, this one included
        left = frozenset[str]() if last.sites is None else last.sites - sites
        if len(sites) < need or 0 < len(left) < need:
            raise ReleaseError(
                f"{len(sites)} site(s) are in this sum and {len(left)} left since the last one of "
                f"these data; it takes {need} to hide each other",
                rule="fixed-difference",
            )

    def _check_result_survivors(self, survivors: tuple[int, ...]) -> None:
        seen = {*self._neighbours, self.index}
        part = tuple(site for site in survivors if site in seen)
        if part != self._u3 or len(survivors) != self._cohort:
            raise self._blame("result-survivors", "the result names other survivors")

    def _check_dump_age(self) -> None:
        """The journal holds every step that the dump has sent, and at most one more."""
        sent = {NEW: 0, ADVERTISED: 1, SHARED: 2, READY: 2, MASKED: 3, CONSENTED: 4}
        known = sent.get(self._at, 5)
        following = known + 1
        if self._at == MASKED and not self.plan.signed:
            following = int(Step.REVEAL)
        newest = self._newest()
        if not known <= newest <= following:
            raise MisuseError(
                f"the journal's last step is {newest}, this dump needs {known} to {following}; "
                "one of them is an older copy",
                rule="dump-age",
            )

    def _cohort_at_least(self, rule: str, cohort: int, seen: int) -> None:
        need = self.plan.min_survivors
        if cohort < need:
            raise self._blame(rule, f"{cohort} sites are left, at least {need} are agreed")
        fits = cohort == seen if self.plan.complete else seen <= cohort <= self.plan.clients
        if not fits:
            raise self._blame(rule, f"{cohort} sites are stated, {seen} are listed")

    def _holders_at_least(self, rule: str, holders: int) -> None:
        need = self.plan.protocol.share_threshold
        if holders < need:
            raise self._blame(rule, f"{holders} holders of this site's shares, {need} needed")
