"""What a server's program says about its sums under Flower."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from secagg.integrations.folder import PartyFolder
from secagg.integrations.layout import Metrics
from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.plan import Plan

ABORT: Final = "abort"
SKIP_ROUND: Final = "skip_round"


@dataclass(frozen=True, kw_only=True, slots=True)
class SecAggConfig:
    """How :class:`SecAggGrid` sums. It only says what the server does: sites go by their folders.

    folder: the server's party folder (``identity.key``, ``plan.toml``, journal). plan: in place of
    ``plan.toml``. on_failure: a round without a sum raises (``"abort"``) or leaves the model as it
    was, with a warning (``"skip_round"``). timeout: seconds that one exchange may take; ``None``
    takes that of the strategy. metrics: names of the sites' training metrics that are in the sum,
    each with its largest absolute value; all others are withheld. evaluate_metrics: likewise of
    evaluation, summed in a session of their own by the plan ``evaluate``, or by
    ``plan-evaluate.toml`` of the folder. linear: class names of strategies of your own that cannot
    be tried out and that you vouch for. rounds: how many rounds of training there will be, for
    programs that send the messages themselves; the last one prepares nothing, and the session is
    ended after it. Under ``Strategy.start`` that is known. propose: send the plan to sites,
    which pin the roster only. threads: cores that opening a sum may use. run_config: the run's
    configuration as the ServerApp has it (``context.run_config``): sites take part where theirs is
    the same, since apps act on it.

    :class:`PlanError` (``config``) for values that cannot be meant.
    """

    folder: str | os.PathLike[str] | PartyFolder
    plan: Plan | None = None
    on_failure: str = ABORT
    timeout: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluate: Plan | None = None
    evaluate_metrics: Mapping[str, float] = field(default_factory=dict)
    linear: tuple[str, ...] = ()
    rounds: int | None = None
    propose: bool = False
    threads: int = 1
    run_config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, os.PathLike, PartyFolder)) or self.folder == "":
            raise _wrong("the path of the server's party folder is needed", "folder")
        for name in ("plan", "evaluate"):
            if not isinstance(getattr(self, name), (Plan, type(None))):
                raise _wrong("a Plan is needed", name)
        if self.on_failure not in {ABORT, SKIP_ROUND}:
            raise _wrong(f"{ABORT!r} or {SKIP_ROUND!r}", "on_failure")
        if self.timeout is not None and not _positive(self.timeout):
            raise _wrong("a number of seconds above 0 is needed", "timeout")
        for name in ("rounds", "threads"):
            value = getattr(self, name)
            if not (type(value) is int and value >= 1) and (name, value) != ("rounds", None):
                raise _wrong("a whole number from 1 is needed", name)
        if type(self.propose) is not bool:
            raise _wrong("true or false is needed", "propose")
        for name in ("metrics", "evaluate_metrics", "run_config"):
            if not isinstance(getattr(self, name), Mapping):
                raise _wrong("a mapping is needed", name)
        settings = dict(self.run_config)
        if not all(isinstance(name, str) for name in settings) or not all(
            isinstance(value, (bool, int, float, str)) for value in settings.values()
        ):
            raise _wrong("names, with numbers, texts or truth values, are needed", "run_config")
        object.__setattr__(self, "run_config", MappingProxyType(settings))
        listed = isinstance(self.linear, (tuple, list, set, frozenset))
        if not listed or not all(isinstance(n, str) for n in self.linear):
            raise _wrong("a tuple of class names is needed", "linear")
        object.__setattr__(self, "linear", tuple(self.linear))
        for name in ("metrics", "evaluate_metrics"):
            try:
                bounds = Metrics(getattr(self, name)).bounds
            except MisuseError as error:
                raise _wrong(str(error).removesuffix(f" [{error.rule}]"), name) from None
            object.__setattr__(self, name, MappingProxyType(bounds))
        if self.evaluate is not None and not self.evaluate_metrics:
            raise _wrong("the metrics that the plan is to sum are needed", "evaluate_metrics")


def _positive(value: object) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and 0 < value < math.inf  # type: ignore[operator]


def _wrong(text: str, name: str) -> PlanError:
    return PlanError(text, rule="config", field=name)


__all__ = ["ABORT", "SKIP_ROUND", "SecAggConfig"]
