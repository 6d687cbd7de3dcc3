"""What a server announced over fixed data, so that it does not ask for what sites must refuse.

The release policy stands at the sites (``masked_sum/client_checks.py``), and this protects nobody:
a site that meets a set that it cannot confirm ends the analysis for good, so one delayed message
could end it. A server that follows the protocol leaves such sites out, or gives the round up before
it says who is in it.
"""

from __future__ import annotations

import msgspec

from secagg_protocols.errors import MisuseError, ReleaseError
from secagg_protocols.journal import Journal
from secagg_protocols.keys import digest_of
from secagg_protocols.plan import Plan


class Announced:
    """The last set of survivors over one server's fixed data, in a register of its journal.

    data: what the server calls them; all sums of one analysis have one name.
    """

    def __init__(self, plan: Plan, journal: Journal, data: str) -> None:
        self._plan = plan
        self._journal = journal
        names = msgspec.msgpack.encode(sorted(plan.roster.names))
        self._register = digest_of(b"secagg announced register v1", data.encode(), names)

    def sites(self) -> frozenset[str] | None:
        """Names in the last set, ``None`` before the first."""
        return self._read()[1]

    def _read(self) -> tuple[bytes, frozenset[str] | None, int]:
        """The register, the last set, and the largest block that a plan promised so far."""
        stored = self._journal.read(self._register)
        if not stored:
            return stored, None, 0
        names, block = msgspec.msgpack.decode(stored, type=tuple[list[str], int])
        return stored, frozenset(names), block

    def enter(self, sites: frozenset[str]) -> None:
        """Store the set that is announced next; :class:`ReleaseError` for one that every site
        would refuse, before anybody hears of it."""
        stored, last, block = self._read()
        left = frozenset[str]() if last is None else last - sites
        need = max(block, self._plan.release_block)
        if 0 < len(left) < need:
            raise ReleaseError(
                f"{len(left)} site(s) of the last sum of these data are missing, and at least "
                f"{need} may leave at a time; begin the round again when they are back",
                rule="fixed-missing",
            )
        try:
            self._journal.swap(
                self._register, stored, msgspec.msgpack.encode([sorted(sites), need])
            )
        except MisuseError as error:
            if error.rule != "journal-swap":
                raise
            raise ReleaseError(
                "another session of this server sums the same data at the same time",
                rule="fixed-missing",
            ) from error
