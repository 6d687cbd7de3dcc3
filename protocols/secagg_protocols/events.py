"""Events: what a party tells its caller. Sending, waiting and storing are the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from enum import IntEnum
from typing import Any

import numpy.typing as npt

from .errors import MisuseError, SecAggError
from .plan import Plan
from .stages import WITHIN


class Step(IntEnum):
    """The steps of a round, by what the sites send."""

    ADVERTISE = 1
    SHARE = 2
    INPUT = 3
    CONSENT = 4
    REVEAL = 5

    @property
    def label(self) -> str:
        """Name in events, schedules and reports."""
        return self.name.lower()

    @classmethod
    def of(cls, value: int | str) -> Step:
        """A step from its number or label; ``ValueError`` for anything else."""
        if isinstance(value, str):
            try:
                return cls[value.upper()]
            except KeyError:
                raise ValueError(
                    f"no step {value!r}; steps are {', '.join(s.label for s in cls)}"
                ) from None
        if isinstance(value, bool) or value not in list(cls):
            raise ValueError(f"no step {value!r}; steps are 1 to {len(cls)}")
        return cls(value)


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one step cost the server: bytes in and out, seconds since the step before."""

    step: str
    received: int
    sent: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """The result of one round.

    sum: array of the plan's length, float64 in the units of the input, or int64 for counts.
    weight: total integer weight (the number of survivors where weights are 1); a float where
        noise covers it.
    survivors: names of the sites in the sum, in roster order.
    dropped: sites that are not in the sum, with the step at which they left.
    left: survivors that left after their input was counted, with the step.
    suspects: sites of which one or more gave a wrong share, not told apart.
    noise_variance: variance of the noise in each coordinate of the sum, in units squared.
    digest: SHA-256 over round, survivors and ring sum: what the server signs.
    transcript: SHA-256 chain over every message that counted.
    traffic: bytes and seconds per step, as the server saw them.
    extras: sums of the plan's other extras: ``"within"``, how many sites an adaptive clip left
        as they were (noisy where the plan has noise).
    weight_floor: a total weight below it gives no mean.
    """

    sum: npt.NDArray[Any]
    weight: float
    survivors: tuple[str, ...]
    dropped: Mapping[str, str]
    left: Mapping[str, str]
    suspects: tuple[str, ...]
    noise_variance: float
    digest: bytes
    transcript: bytes
    traffic: tuple[StepCost, ...] = field(compare=False)
    extras: Mapping[str, float] = field(default_factory=dict)
    weight_floor: int = 1

    @property
    def mean(self) -> npt.NDArray[Any] | None:
        """``sum / weight`` as float64, or ``None`` where the total weight is below its floor.

        Computed anew at each access: a result that kept it would need twice the memory.
        """
        return self.sum / self.weight if self.weight >= max(self.weight_floor, 1) else None


def next_parameters(plan: Plan, aggregate: Aggregate, parameters: bytes = b"") -> bytes:
    """Parameters of the round after one that had ``parameters``, by the plan's rule for its clip.

    Empty where no clip adapts. :class:`MisuseError` (``arguments``) for a sum of another plan.
    """
    if not isinstance(plan, Plan) or not isinstance(aggregate, Aggregate):
        raise MisuseError("a Plan and an Aggregate are needed", rule="arguments")
    adaptive = plan.pipeline.adaptive
    if adaptive is None:
        return b""
    if WITHIN not in aggregate.extras or not aggregate.survivors:
        raise MisuseError("this sum is not one of the plan's", rule="arguments")
    return adaptive.next(parameters, aggregate.extras[WITHIN] / len(aggregate.survivors))


class Send:
    """Deliver ``data`` to the party named ``to``."""

    __slots__ = ("_parts", "_to")
    __match_args__ = ("to", "data")
    _parts: tuple[bytes, ...]
    _to: str

    def __init__(self, to: str, data: bytes, *more: bytes) -> None:
        """``more`` follows ``data``; messages to many sites share the parts they have in common."""
        object.__setattr__(self, "_to", to)
        object.__setattr__(self, "_parts", (data, *more))

    @property
    def to(self) -> str:
        """Name of the recipient."""
        return self._to

    @property
    def data(self) -> bytes:
        """The message. One in several parts is joined anew at each access, and not kept."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The pieces of ``data`` in order, of which many messages may share some."""
        return self._parts

    @property
    def size(self) -> int:
        """Bytes of the message, which is not built for it."""
        return sum(len(part) for part in self._parts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Send):
            return NotImplemented
        return (self.to, self.data) == (other.to, other.data)

    def __hash__(self) -> int:
        return hash((self.to, self.data))

    def __repr__(self) -> str:
        return f"Send(to={self.to!r})"

    def __reduce__(self) -> tuple[type[Send], tuple[str, bytes]]:
        return Send, (self.to, self.data)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


@dataclass(frozen=True, slots=True)
class Dropped:
    """``site`` is out of the round from now on, for the reason in ``error``."""

    site: str
    error: SecAggError


@dataclass(frozen=True, slots=True)
class Ignored:
    """Bytes that changed nothing: not authentic, early, late, or a repetition."""

    error: SecAggError


@dataclass(frozen=True, slots=True)
class Progress:
    """``have`` messages of ``step`` arrived; ``need`` are enough, ``most`` can come."""

    step: Step
    have: int
    need: int
    most: int


@dataclass(frozen=True, slots=True)
class Done:
    """The round is over. A site that does not receive the sum gets ``aggregate=None``."""

    aggregate: Aggregate | None
    digest: bytes


Event = Send | Dropped | Ignored | Progress | Done
