"""Errors, by fault: who has to change something for the call to succeed.

Every error names the rule that was broken (``rule``, an id of a rule table) and never
carries a secret, a share, a seed or a coordinate of anybody's vector. Anything that leaves
the package and is not a :class:`SecAggError` is a bug of the package.
"""

from __future__ import annotations


class SecAggError(Exception):
    """Base of all errors of the package. ``rule`` is the id of the broken rule."""

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(f"{message} [{rule}]")
        self.rule = rule

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only constructors cannot be replayed by the default protocol, and errors
        # cross process boundaries in pools.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    kind: type[SecAggError], args: tuple[object, ...], state: dict[str, object]
) -> SecAggError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class PlanError(SecAggError, ValueError):
    """A configuration that would break the promise. Raised at construction only.

    ``field`` is the name of the field at fault, where one field is.
    """

    def __init__(self, message: str, *, rule: str, field: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message, rule=rule)
        self.field = field


class MisuseError(SecAggError):
    """The caller's fault: order of calls, shape, dtype, NaN, reuse of a round, a floor."""


class PeerError(SecAggError):
    """A peer's fault. ``sender`` is the party that signed or sealed the bad content.

    ``suspects`` lists the parties among which the cheater is, where no single one can be
    told: a wrong share may come from its dealer or from its holder.
    """

    def __init__(
        self,
        message: str,
        *,
        rule: str,
        sender: str | None = None,
        suspects: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, rule=rule)
        self.sender = sender
        self.suspects = suspects


class DecodeError(PeerError):
    """Bytes that are not a canonical message within the plan's limits."""


class AuthenticationError(PeerError):
    """A trailer that does not vouch for the bytes, the sender or the context."""


class EquivocationError(PeerError):
    """Two different authenticated messages for one step. ``digests`` are the evidence."""

    def __init__(
        self,
        message: str,
        *,
        rule: str,
        sender: str | None = None,
        digests: tuple[bytes, bytes],
    ) -> None:
        super().__init__(message, rule=rule, sender=sender)
        self.digests = digests


class ThresholdError(SecAggError):
    """Too few parties are left to go on: ``have`` of the ``need`` at ``step``."""

    def __init__(self, message: str, *, rule: str, step: str, have: int, need: int) -> None:
        super().__init__(f"{message}: {have} of {need} at step {step!r}", rule=rule)
        self.step = step
        self.have = have
        self.need = need


class BudgetError(SecAggError):
    """The privacy budget of a site's data is spent."""
