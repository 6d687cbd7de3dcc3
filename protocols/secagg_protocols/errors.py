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
    # The text carries its rule already, so the constructors are not run again.
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
    """Too few parties are left to go on: ``have`` of the ``need`` at ``step``.

    ``suspects`` lists dealers and holders of shares that were withheld, where that is why.
    """

    def __init__(
        self,
        message: str,
        *,
        rule: str,
        step: str,
        have: int,
        need: int,
        suspects: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{message}: {have} of {need} at step {step!r}", rule=rule)
        self.step = step
        self.have = have
        self.need = need
        self.suspects = suspects


class BudgetError(SecAggError):
    """The privacy budget of a site's data is spent."""


class ReleaseError(SecAggError):
    """A sum that, with others of the same fixed data, would show too few sites' vectors.

    It ends the party. A set of survivors that is refused also ends the analysis: the site takes
    part in no further sum of these data. A plan that is refused (``fixed-roster``,
    ``fixed-data-plan``) does not.
    """


_KINDS: dict[str, type[SecAggError]] = {
    kind.__name__: kind
    for kind in (
        SecAggError,
        PlanError,
        MisuseError,
        PeerError,
        DecodeError,
        AuthenticationError,
        EquivocationError,
        ThresholdError,
        BudgetError,
        ReleaseError,
    )
}


def pack_error(error: SecAggError) -> list[object]:
    """Plain values of an error, for a dump."""
    return [type(error).__name__, str(error), dict(error.__dict__)]


def unpack_error(data: list[object]) -> SecAggError:
    """Inverse of :func:`pack_error`."""
    name, text, state = data
    fields = dict(state) if isinstance(state, dict) else {}
    restored = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return _rebuild(_KINDS[str(name)], (text,), restored)
