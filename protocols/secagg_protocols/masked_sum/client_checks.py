"""What a site checks, one method a rule (ids, attacks, negative vectors: ``rules.py``).

The checks stand apart from the steps so that the table can be held against one page of code.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from ..errors import EquivocationError, MisuseError, PeerError, ReleaseError
from ..events import Step
from ..floors import Floors
from ..journal import journal_calls
from ..keys import KEY_SIZE, verify
from ..ledger import InputLedger
from ..party import Party
from ..roster import SERVER_NAME
from ..wire import SERVER, Frame, encode_header, frame_digest, to_bitmap
from . import masks, messages
from .registers import (
    MOST_MODELS,
    TAG_SIZE,
    Released,
    inputs_register,
    ledger_register,
    models_register,
    pack_count,
    pack_released,
    pack_tags,
    released_register,
    unpack_count,
    unpack_released,
    unpack_tags,
)
from .waiting import Waiting

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


class ClientChecks(Party):
    """The rules of a site, and the state they look at."""

    floors: Floors | None
    data: str
    ledger: InputLedger | None
    _at: int
    _neighbours: tuple[int, ...]
    _adverts: dict[int, bytes]
    _u2: tuple[int, ...]
    _u3: tuple[int, ...]
    _cohort: int
    _pending: Waiting | None
    _reloaded: bool

    def _survivors_digest(self) -> bytes:
        return masks.survivors_digest(self.contexts.round, to_bitmap(self._u3, self.plan.clients))

    def _change_register(self, name: bytes, change: Callable[[bytes], bytes]) -> None:
        """Replace a register of the journal, durably, by what ``change`` makes of it.

        It is written also where it stays the same: the process that wrote it may have died
        before it was durable.
        """
        while True:
            try:
                with journal_calls():
                    stored = self.journal.read(name)
                    self.journal.swap(name, stored, change(stored))
                return
            except MisuseError as error:
                # Another process of this site was faster; what it wrote counts as well.
                if error.rule != "journal-swap":
                    raise

    def _enter_input(self) -> None:
        """Enter an input into the registers of these data, before it is made.

        The plan is entered here and not with the survivors: who is in a sum may never hear of
        it, and must know all the same that one can have been opened under this plan.
        """
        self._check_ledger_given()
        if self.ledger is not None:
            # First, so that what the budget does not bear leaves no count behind.
            self.ledger.check(self.plan, self.contexts.round)
        self._change_register(
            released_register(self.name, self.data),
            lambda stored: pack_released(self._admitted(unpack_released(stored))),
        )
        self._count_input()
        if self.ledger is not None:
            # Last, so that nothing is charged for an input that another rule refuses.
            self.ledger.charge(self.plan, self.contexts.round)

    def _count_input(self) -> None:
        """Count an input for its model, where plan or floors limit them."""
        floor = None if self.floors is None else self.floors.most_inputs_per_model
        limits = [most for most in (self.plan.max_inputs_per_model, floor) if most is not None]
        if not limits:
            return

        def count(stored: bytes) -> bytes:
            tags, tag = unpack_tags(stored), self.contexts.round[:TAG_SIZE]
            if tag in tags:
                return stored
            self._check_inputs_per_model(tags, min(limits))
            if not stored:
                # Before the model has its register, so that a crash in between counts too much.
                self._change_register(models_register(self.name, self.data), one_more)
            return pack_tags((*tags, tag))

        def one_more(stored: bytes) -> bytes:
            models = unpack_count(stored)
            self._check_inputs_full(models)
            return pack_count(models + 1)

        model = self.contexts.model_hash or b""
        self._change_register(inputs_register(self.name, self.data, model), count)

    def _admitted(self, last: Released) -> Released:
        """What is let out over these data once this plan is among those that were answered."""
        self._check_fixed_data_plan(last)
        if not self.plan.fixed_data:
            return replace(last, fixed=False)
        together = last.under(self.plan)
        self._check_fixed_roster(last, together)
        return together

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

    def _check_floors(self) -> None:
        if self.floors is not None:
            self.floors.check(self.plan, self.round)

    def _check_graph(self, neighbours: tuple[int, ...]) -> None:
        plan = self.plan
        right = self.index not in neighbours and len(neighbours) == plan.protocol.neighbours
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

    def _check_equivocation(self, frame: Frame, digest: bytes) -> None:
        known = self._accepted.get((frame.kind, frame.sender))
        if known is not None and known != digest:
            raise EquivocationError(
                "the server sent two different messages for one step",
                rule="equivocation",
                sender=SERVER_NAME,
                digests=(known, digest),
            )

    def _check_step_order(self, frame: Frame) -> None:
        awaited = self._at in AWAITED[frame.kind]
        if not awaited or (frame.kind, frame.sender) in self._accepted:
            raise self._blame("step-order", "this message comes early, late or again")

    def _check_input_once(self) -> None:
        again = self._at == MASKED and self._reloaded
        if self._pending is not None or (self._at > READY and not again):
            raise MisuseError("this round has its input already", rule="input-once")

    def _check_inputs_per_model(self, tags: tuple[bytes, ...], limit: int) -> None:
        """One tag per round; the limit is the smaller of the plan's and the floor's."""
        if len(tags) >= limit:
            raise MisuseError(
                f"{len(tags)} input(s) were already sent for this model, the limit is {limit}",
                rule="inputs-per-model",
            )

    def _check_inputs_full(self, models: int) -> None:
        if models >= MOST_MODELS:
            raise MisuseError(
                f"inputs for {models} models are on record for these data, and a record is never "
                "dropped; to train on, the owner of the data gives them a new name, under which "
                "nothing is counted yet",
                rule="inputs-full",
            )

    def _check_ledger_given(self) -> None:
        with journal_calls():
            kept = self.journal.read(ledger_register(self.name, self.data))
        if kept and self.ledger is None:
            raise MisuseError(
                "inputs of these data were charged to a privacy ledger before; give this party "
                "the ledger, or this one is charged to nobody",
                rule="ledger-given",
            )

    def _check_fixed_data_plan(self, last: Released) -> None:
        if last.fixed not in {None, self.plan.fixed_data}:
            was, now = ("fixed data", "others") if last.fixed else ("others", "fixed data")
            raise ReleaseError(
                f"these data were summed under a plan of {was}, and this one is of {now}: its "
                "sums would be compared with none of those; data that serve both have two names, "
                "which is their owner's decision",
                rule="fixed-data-plan",
            )

    def _check_fixed_roster(self, last: Released, together: Released) -> None:
        """``together`` is ``last`` with this plan."""
        need = (len(together.names) + together.colluding) // 2 + 1
        if together.threshold < need:
            possible = last.threshold >= need and self.plan.min_survivors >= need
            way_on = (
                f"this plan may go on with a share_threshold of {need}"
                if possible
                else "this plan cannot, so what can begin is a new analysis, and to give the data "
                "another name for it is their owner's decision"
            )
            raise ReleaseError(
                f"the plans over these data have {len(together.names)} sites together, "
                f"{together.colluding} colluding: some honest site compares any two of their sums "
                f"where each share_threshold is at least {need}, and the smallest is "
                f"{together.threshold}; {way_on}",
                rule="fixed-roster",
            )

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

    def _check_result_digest(self, header: messages.Result, packed: memoryview) -> None:
        if not self.plan.sites_receive:
            return
        digest = masks.aggregate_digest(
            self.contexts.round, header.survivors, [packed], packed.nbytes
        )
        if digest != header.digest:
            raise self._blame("result-digest", "the sum is not the one whose digest is stated")

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

    def _blame(self, rule: str, text: str) -> PeerError:
        return PeerError(text, rule=rule, sender=SERVER_NAME)

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
