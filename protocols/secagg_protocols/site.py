"""What the sites of every sum protocol have in common: floors, data, ledger and their counts.

Whatever protocol sums a site's vectors, the inputs that it sends for one model are counted, and
its privacy budget is charged, in the same registers of its journal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from enum import Enum
from typing import Any

from msgspec.structs import replace

from .errors import EquivocationError, MisuseError, PeerError, ReleaseError
from .events import Aggregate, Done, Event
from .floors import Floors
from .journal import journal_calls
from .ledger import InputLedger, checked_ledger, require_ledger
from .lift import lift_packed
from .party import Party
from .plan import Plan
from .registers import (
    MOST_MODELS,
    TAG_SIZE,
    Released,
    data_name,
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
from .result import Result, aggregate_digest
from .roster import SERVER_NAME
from .waiting import CHANGED_RULE, Waiting
from .wire import Buffer, Frame


def check_input(plan: Plan, x: Any, weight: Any) -> tuple[Any, int]:
    """Vector and weight as they may enter a round of ``plan``; :class:`MisuseError` otherwise.

    Also what a stage would refuse at the moment of sending (the range of integers), so that a
    caller learns of a bad vector before the round goes on.
    """
    array, weight = plan.pipeline.check_input(x, weight)
    plan.pipeline.check_range(array)
    return array, weight


class Input(Enum):
    """Where a site stands with its vector."""

    EARLY = "early"
    AWAITED = "awaited"
    SENT = "sent"
    OVER = "over"


class SiteParty(Party):
    """One site in one round: what it insists on, and what it keeps count of."""

    role = "client"

    def __init__(
        self,
        plan: Plan,
        index: int,
        *,
        floors: Floors | None,
        data: str = "",
        ledger: InputLedger | None = None,
        **common: Any,
    ) -> None:
        if floors is not None and not isinstance(floors, Floors):
            raise MisuseError("floors are Floors (Floors.load reads them)", rule="floors")
        # Before the base, which may be given the model: the floors say which are allowed.
        self.floors = floors
        super().__init__(plan, index, **common)
        #: What the site calls its data: inputs and sums are counted by it, never by a server.
        self.data = data_name(data)
        #: Of these data. A dump says that there was one, and not what is in it.
        self.ledger = ledger
        checked_ledger(ledger, self.journal, self.name, self.data)
        self._require_floors()
        self._pending: Waiting | None = None
        self._reloaded = False

    def _require_floors(self) -> None:
        self._check_floors()

    def _require_model(self, digest: bytes) -> None:
        self._check_model_allowed(digest)

    def _site_state(self) -> dict[str, Any]:
        return {
            "floors": None if self.floors is None else asdict(self.floors),
            "data": self.data,
            "ledger": self.ledger is not None,
        }

    def _restore_site(self, state: dict[str, Any]) -> None:
        self.data = data_name(state["data"])
        require_ledger(self.ledger, kept=state["ledger"])
        checked_ledger(self.ledger, self.journal, self.name, self.data)
        if self.floors is None and state["floors"] is not None:
            self.floors = Floors(**state["floors"])
            self._require_floors()
        if self.contexts.model_hash is not None:
            # The floors may be others than those that the model was held against.
            self._require_model(self.contexts.model_hash)

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

    def submit(self, x: Any, weight: int = 1) -> list[Event]:
        """Give this site's vector: float32/float64 (or integers) of shape ``(plan.length,)``.

        Any time before the input's step; the input leaves as soon as what it needs is there. The
        vector is checked here, before anything is sent, and is never part of a dump: after a
        ``load`` the same vector is submitted again.

        The party holds the array itself and no copy of it, so it must not change until the
        input was sent: until then, the call that would send it (``receive`` or
        ``use_model``) raises :class:`MisuseError` (rule ``input-changed``) for a vector that is
        not what it was. Nothing is sent then, everything else that the call did stands, and
        ``submit`` takes the vector again. No other thread may write to it during any of these
        calls.
        """
        self._require_alive()
        self._check_input_once()
        now = self._input_at in {Input.AWAITED, Input.SENT}
        if now and self.contexts.model_hash is not None:
            return self._send_input(*self.plan.pipeline.check_input(x, weight))
        array, weight = check_input(self.plan, x, weight)
        self._pending = Waiting(array, weight, shared=array is x)
        return []

    def use_model(self, model: Buffer, parameters: bytes = b"") -> list[Event]:
        """See :meth:`Party.use_model`; a vector that was waiting for the model is sent."""
        self._require_alive()
        super().use_model(model, parameters)
        return self._send_pending()

    def _send_pending(self) -> list[Event]:
        """Send the vector that was waiting, once it is awaited and the model is there."""
        early = self._input_at != Input.AWAITED or self.contexts.model_hash is None
        if early or self._pending is None:
            return []
        try:
            waiting = self._pending
            waiting.check()
            # Once more when the last tile was read: another thread may write meanwhile, and what
            # was encoded half old and half new could be larger than its clip.
            events = self._send_input(waiting.vector, waiting.weight, waiting.check)
        except MisuseError as error:
            if error.rule == CHANGED_RULE:
                self._pending = None
            raise
        self._pending = None
        return events

    def _send_input(
        self, array: Any, weight: int, check: Callable[[], None] | None = None
    ) -> list[Event]:
        try:
            return self._make_input(array, weight, check)
        except (PeerError, ReleaseError) as error:
            # A peer's key is of low order, or these data are not for this plan. Bad input of the
            # caller's ends nothing.
            self._end(error)
            raise

    def _make_input(self, array: Any, weight: int, check: Callable[[], None] | None) -> list[Event]:
        """Encode, protect and send a checked vector; ``check`` raises where it changed since."""
        raise NotImplementedError

    @property
    def _input_at(self) -> Input:
        raise NotImplementedError

    def _released(
        self, header: Result, survivors: tuple[int, ...], packed: memoryview
    ) -> list[Event]:
        """The end of the round at a site, with the sum where sites receive it."""
        plan = self.plan
        if not plan.sites_receive:
            return [Done(None, header.digest)]
        absent = set(range(plan.clients)) - set(survivors)
        aggregate = Aggregate(
            **self._opened_sum(lift_packed(plan, packed), len(survivors)),
            survivors=self._names(survivors),
            dropped=dict.fromkeys(self._names(absent), "unknown"),
            left={},
            suspects=(),
            digest=header.digest,
            transcript=b"",
            traffic=(),
        )
        return [Done(aggregate, header.digest)]

    def _blame(self, rule: str, text: str) -> PeerError:
        return PeerError(text, rule=rule, sender=SERVER_NAME)

    # Rules. Ids, texts and negative vectors: the rules of each protocol.

    def _check_floors(self) -> None:
        if self.floors is not None:
            self.floors.check(self.plan, self.round)

    def _check_model_allowed(self, digest: bytes) -> None:
        if self.floors is not None:
            self.floors.check_model(digest)

    def _check_input_once(self) -> None:
        at = self._input_at
        again = at == Input.SENT and self._reloaded
        if self._pending is not None or (at in {Input.SENT, Input.OVER} and not again):
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

    def _check_equivocation(self, frame: Frame, digest: bytes) -> None:
        known = self._accepted.get((frame.kind, frame.sender))
        if known is not None and known != digest:
            raise EquivocationError(
                "the server sent two different messages for one step",
                rule="equivocation",
                sender=SERVER_NAME,
                digests=(known, digest),
            )

    def _check_result_digest(self, header: Result, packed: memoryview) -> None:
        if not self.plan.sites_receive:
            return
        digest = aggregate_digest(self.contexts.round, header.survivors, [packed], packed.nbytes)
        if digest != header.digest:
            raise self._blame("result-digest", "the sum is not the one whose digest is stated")
