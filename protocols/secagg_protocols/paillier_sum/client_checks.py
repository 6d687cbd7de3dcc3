"""What a site checks in a Paillier sum, one method a rule (ids and attacks: ``rules.py``)."""

from __future__ import annotations

from ..errors import MisuseError
from ..events import Step
from ..site import SiteParty
from ..wire import Frame

# Where a client stands: what it waits for.
NEW, READY, ENCRYPTED, FINISHED = range(4)


class ClientChecks(SiteParty):
    """The rules of a site, and the state they look at."""

    _at: int

    def _check_step_order(self, frame: Frame) -> None:
        if self._at != ENCRYPTED or (frame.kind, frame.sender) in self._accepted:
            raise self._blame("step-order", "this message comes early, late or again")

    def _check_result_cohort(self, survivors: tuple[int, ...]) -> None:
        need = self.plan.min_survivors
        if len(survivors) < need:
            raise self._blame(
                "result-cohort", f"{len(survivors)} sites are in the sum, at least {need} agreed"
            )

    def _check_dump_age(self) -> None:
        """The journal holds the input that the dump has sent, and no other step."""
        newest = self._newest()
        known = int(Step.INPUT) if self._at >= ENCRYPTED else 0
        # A dump from before the input may be loaded after it: the vector is submitted again.
        if newest not in {known, int(Step.INPUT)} or (newest and self._at == NEW):
            raise MisuseError(
                f"the journal's last step is {newest}, this dump does not know of it",
                rule="dump-age",
            )
