"""What a session tells its caller, beside the events of a round."""

from __future__ import annotations

from dataclasses import dataclass

from secagg_protocols.errors import SecAggError
from secagg_protocols.events import Aggregate, Event


@dataclass(frozen=True, slots=True)
class Wanted:
    """At a site: the server waits for the vector of ``round``; answer with ``submit`` or ``skip``.

    model: SHA-256 of the model that the server says it broadcast. parameters: of the round.
    """

    round: int
    model: bytes
    parameters: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """A round has its result. A site that does not receive sums gets ``aggregate=None``."""

    round: int
    aggregate: Aggregate | None
    digest: bytes


@dataclass(frozen=True, slots=True)
class Aborted:
    """A round has no result; the next one starts cold."""

    round: int
    error: SecAggError


@dataclass(frozen=True, slots=True)
class Cold:
    """The next round has no setup yet and will take two exchanges more, for this reason."""

    round: int
    error: SecAggError | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """At a site: ``share_threshold`` sites have signed that they got the same result."""

    round: int
    digest: bytes
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """At a holder: it helped to open the sum over ``sites``, which it does not see."""

    round: int
    sites: tuple[str, ...]


SessionEvent = Event | Wanted | Finished | Aborted | Cold | Agreement | Opened
