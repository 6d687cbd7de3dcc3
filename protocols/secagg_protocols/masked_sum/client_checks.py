"""What a site checks, one method a rule (ids, attacks, negative vectors: ``rules.py``).

The checks stand apart from the steps so that the table can be held against one page of code.
"""

from __future__ import annotations

from ..errors import EquivocationError, MisuseError, PeerError
from ..events import Step
from ..floors import Floors
from ..keys import KEY_SIZE, digest_of, verify
from ..party import Party, journal_failed
from ..roster import SERVER_NAME
from ..wire import SERVER, Frame, encode_header, frame_digest, to_bitmap
from . import masks, messages
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
#: Step under which inputs per model are counted; rounds use the numbers of ``Step``.
_INPUT_SLOTS = 1000


class ClientChecks(Party):
    """The rules of a site, and the state they look at."""

    floors: Floors | None
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

    def _check_inputs_per_model(self) -> None:
        """One record per input and model, in a chain of slots that a journal keeps."""
        most = None if self.floors is None else self.floors.most_inputs_per_model
        if most is None:
            return
        key = digest_of(
            b"secagg inputs per model v1",
            self.plan.roster.sites[self.index][1],
            self.contexts.model_hash or b"",
        )
        for slot in range(most):
            try:
                self.journal.claim(key, _INPUT_SLOTS + slot, self.contexts.round, b"")
            except OSError as error:
                raise journal_failed(error) from error
            except MisuseError as error:
                if error.rule != "journal-once":
                    raise
                continue
            return
        raise MisuseError(
            f"{most} input(s) were already sent for this model, this site's limit",
            rule="inputs-per-model",
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
