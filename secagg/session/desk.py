"""What both ends of a session share: frames that are bound to the session and to no round."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

from secagg_protocols.enrolment import Membership
from secagg_protocols.errors import MisuseError
from secagg_protocols.journal import JOURNAL_IO_RULE, journal_calls
from secagg_protocols.kinds import Kind
from secagg_protocols.masked_sum import messages as masked
from secagg_protocols.paillier_sum import messages as paillier
from secagg_protocols.party import Party
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.wire import Buffer

from .messages import KINDS, largest_control, session_context

T = TypeVar("T")
#: Errors of the caller's disk: nothing was sent, and the same call may be made again.
RETRY: Final = JOURNAL_IO_RULE


class Desk(Party):
    """One party of a session, as far as its control frames go.

    A session is a party whose frames belong to no round: identity, route, trailer and canonical
    form are checked as in a round, under a context of the session's own.
    """

    kinds = KINDS

    def __init__(
        self, plan: Plan, index: int, *, membership: Membership | None, **common: Any
    ) -> None:
        if not isinstance(plan, Plan):
            raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")
        super().__init__(plan, index, round=0, model=None, **common)
        if membership is not None:
            if not isinstance(membership, Membership):
                raise MisuseError("membership is a Membership", rule="arguments")
            membership.admit(plan)
        self._desk_context = session_context(plan, self.session)
        self._check_release_policy()

    @property
    def public(self) -> bytes:
        """The key that the roster pins for this party."""
        return self._public(self.index)

    def _check_release_policy(self) -> None:
        plan = self.plan
        if not plan.fixed_data and plan.max_inputs_per_model is None:
            raise MisuseError(
                "a session repeats sums, so its plan says how many inputs one model may have "
                "(max_inputs_per_model; Plan.recommend gives 2) or that the data are fixed",
                rule="release-policy",
            )

    def start(self) -> list[Any]:
        """Sessions begin with ``begin_round`` at the server, and with its orders at sites."""
        raise MisuseError("a session has no start; the server begins rounds", rule="start-once")

    def use_model(self, model: Buffer, parameters: bytes = b"") -> list[Any]:
        """A session is told the model of each round: ``begin_round``, ``submit``."""
        raise MisuseError("give the model to begin_round or submit", rule="model")

    def _context(self, kind: Kind) -> bytes:
        return self._desk_context

    def _largest(self, kind: Kind) -> int:
        return largest_control(self.plan, kind, self._trailer_size)

    @functools.cached_property
    def _largest_part(self) -> int:
        """Bytes of the largest inner frame that a bundle of this plan can have."""
        inner = paillier if isinstance(self.plan.protocol, PaillierSum) else masked
        largest: Callable[[Plan, Kind], int] = inner.largest_frame
        rounds = (largest(self.plan, kind) for kind in inner.KINDS.values())
        return max(*rounds, *(self._largest(kind) for kind in self.kinds.values()))

    def _retire(self, below: int) -> None:
        """Let the journal drop rounds that nobody can ask about any more."""
        if below > 0:
            # A disk that fails now keeps them a round longer, and no call has to be repeated.
            with contextlib.suppress(OSError):
                self.journal.retire(self.series, below)

    def _on_disk(self, act: Callable[[], T]) -> T:
        with journal_calls():
            return act()
