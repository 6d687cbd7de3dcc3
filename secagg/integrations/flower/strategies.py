"""Which strategies can work on a mean, and how that is found out.

Under secure aggregation a strategy is given the weighted mean, once for every site in the sum. One
that takes means only (FedAvg and all that build on it) then does what it always does. A median, a
trimmed mean, or whatever looks at single updates would silently become a mean: it is refused.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from secagg_protocols.errors import MisuseError

from .records import Setting, arrays_of, record_of, replies_of

log: Final = logging.getLogger("secagg.integrations")

_DP: Final = (
    "it clips single updates at the server; clip at the sites instead, and put noise into the plan "
    "with secagg.dp.calibrate"
)
#: Strategies of Flower that need single updates, and what they do with them.
REFUSED: Final[Mapping[str, str]] = {
    "FedMedian": "it takes the median of the single updates",
    "FedTrimmedAvg": "it discards the largest and smallest of the single updates",
    "Krum": "it selects an update by its distance to the others",
    "MultiKrum": "it selects updates by their distance to the others",
    "Bulyan": "it selects and trims single updates",
    "QFedAvg": "it weights every update by the site's own loss",
    "FedXgbBagging": "it joins the sites' trees, which have no mean",
    "FedXgbCyclic": "it passes one site's trees on to the next",
    "DifferentialPrivacyServerSideFixedClipping": _DP,
    "DifferentialPrivacyServerSideAdaptiveClipping": _DP,
    "DifferentialPrivacyClientSideAdaptiveClipping": (
        "it counts how many single updates were clipped; use an adaptive clip of the plan"
    ),
}

#: The strategy is tried with updates of these sizes; the largest has one that stands out.
_SCALES: Final = (1e-2, 1.0, 30.0)
_OUTLIER: Final = 20.0
#: With as many replies as the strategy gets in a round, as long as they are of this many bytes in
#: all: a trimmed mean of five may trim none.
_FEWEST: Final = 5
_MOST_BYTES: Final = 1 << 28
#: Roundings that a strategy may make between its input and its output, and what they may amount to
#: where updates differ by about one: by more, the trial is made in float64 too.
_ROUNDINGS: Final = 256
_TOLD_APART: Final = 0.01


def calling() -> list[Strategy]:
    """The strategies that are at work in the callers of this function, the nearest first."""
    found: list[Strategy] = []
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Strategy) and not any(owner is each for each in found):
            found.append(owner)
        frame = frame.f_back  # type: ignore[assignment]
    return found


@dataclass(frozen=True, slots=True)
class Run:
    """Of a ``Strategy.start``. number: the round it is in, from 1. rounds: how many there are."""

    number: int
    rounds: int


def running() -> Run | None:
    """The run of a strategy that called this function, where Flower's own loop did."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is Strategy.start.__code__:
            number, rounds = (frame.f_locals.get(n) for n in ("current_round", "num_rounds"))
            if isinstance(number, int) and isinstance(rounds, int):
                return Run(number, rounds)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def inner(strategy: Strategy) -> Iterator[Strategy]:
    """A strategy and those that it wraps: whatever its attributes hold, also in a list or such."""
    seen: list[Strategy] = []
    waiting: list[Any] = [strategy]
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, Strategy) or any(found is each for each in seen):
            continue
        seen.append(found)
        yield found
        for value in getattr(found, "__dict__", {}).values():
            if isinstance(value, Mapping):
                waiting += value.values()
            elif isinstance(value, (list, tuple, set)):
                waiting += value
            else:
                waiting.append(value)


def key_of(strategy: Strategy, name: str, default: str) -> str:
    """A key of the records that a strategy goes by; wrapped strategies know it."""
    for each in inner(strategy):
        value = getattr(each, name, None)
        if isinstance(value, str):
            return value
    return default


def check_named(strategy: Strategy) -> None:
    """:class:`MisuseError` (``strategy``) for Flower's strategies that need single updates, and
    for those that build on or wrap them."""
    for each in inner(strategy):
        for kind in type(each).__mro__:
            why = REFUSED.get(kind.__name__)
            if why is not None and kind.__module__.startswith("flwr."):
                raise _refused(each, f"{why}, and secure aggregation shows no single update")


def check_tried(
    strategy: Strategy,
    messages: Sequence[Message],
    setting: Setting,
    *,
    max_weight: int,
    linear: Sequence[str] = (),
) -> None:
    """Try a copy of a strategy with made-up replies, once as they are and once as their mean.

    messages: of a round that the strategy has just configured. max_weight: largest weight of a
    site. linear: class names that are not tried. :class:`MisuseError` (``strategy``) where the
    results differ by more than rounding, or where the strategy cannot be tried. Nothing is sent.
    A strategy that writes files or reports elsewhere in ``aggregate_train`` does so here too, with
    made-up values: give its name in ``linear``.
    """
    if type(strategy).__name__ in linear or not messages:
        return
    owner = next(kind for kind in type(strategy).__mro__ if "start" in vars(kind))
    # A function's own name of its module is copied by functools.wraps; that of a class is not.
    if not owner.__module__.startswith("flwr.") or "start" in getattr(strategy, "__dict__", {}):
        raise _refused(
            strategy,
            "it has a start() of its own, and what that does with replies cannot be tried; name it "
            "in SecAggConfig(linear=...) if it takes weighted means only",
        )
    values: Mapping[str, npt.NDArray[Any]] = {}
    if setting.arrays:
        values = arrays_of(model_in(messages[0].content, setting))
    if any(value.dtype.kind == "f" and not np.isfinite(value).all() for value in values.values()):
        raise MisuseError("the model holds values that are no finite numbers", rule="layout")
    try:
        with _quiet():
            base = values if setting.arrays else None
            size = sum(value.nbytes for value in values.values())
            some = messages[: max(_FEWEST, _MOST_BYTES // max(size, 1))]
            differs = _tried(strategy, some, setting, base, max_weight)
            if not differs and base is not None and _coarse(base):
                wide = {name: value.astype(np.float64) for name, value in base.items()}
                differs = _tried(strategy, some, setting, wide, max_weight)
    except Exception as error:
        raise _refused(
            strategy,
            f"it could not be tried with made-up replies ({type(error).__name__}: {error}); "
            "metrics that SecAggConfig does not name are withheld; a strategy that only takes "
            "weighted means can be named in SecAggConfig(linear=...)",
        ) from error
    if len(some) < len(messages):
        log.warning(
            "secagg: %s was tried with %d replies, since the model is large; in a round it gets %d",
            type(strategy).__name__,
            len(some),
            len(messages),
        )
    if differs:
        raise _refused(
            strategy,
            f"its {differs} from different updates are not those from their weighted mean, and "
            "secure aggregation shows nothing but that mean",
        )


def _coarse(base: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether rounding in the arrays' own types could pass for the difference of an average from a
    median, so that it takes wider ones to tell them apart."""
    for value in base.values():
        if value.dtype.kind != "f":
            if value.dtype.itemsize <= 2:
                return True
            continue
        size = max(1.0, float(np.max(np.abs(value), initial=0)))
        if _ROUNDINGS * float(np.finfo(value.dtype).eps) * size > _TOLD_APART:
            return True
    return False


def _tried(
    strategy: Strategy,
    messages: Sequence[Message],
    setting: Setting,
    base: Mapping[str, npt.NDArray[Any]] | None,
    max_weight: int,
) -> str:
    """What differs in one of the trials; see :func:`_differs`."""
    number = _round(messages[0].content)
    for later, scale in enumerate(_SCALES):
        # Some strategies do something else in later rounds.
        call = _aggregate(setting, number + later)
        differs = _differs(strategy, messages, setting, base, scale, max_weight, call)
        if differs:
            return differs
    return ""


def _differs(
    strategy: Strategy,
    messages: Sequence[Message],
    setting: Setting,
    base: Mapping[str, npt.NDArray[Any]] | None,
    scale: float,
    max_weight: int,
    call: Callable[[Strategy, list[Message]], tuple[Any, Any]],
) -> str:
    """What differs: ``arrays``, ``metrics``, or nothing."""
    # From the smallest site to the largest, since strategies may treat them differently.
    sizes_of_sites = [1, max(max_weight // 2, 1), max_weight, max(3 * max_weight // 4, 1), 2]
    weights = [
        min(sizes_of_sites[index % len(sizes_of_sites)], max_weight)
        for index in range(len(messages))
    ]
    total = sum(weights)
    single: list[Message] = []
    sums: dict[str, npt.NDArray[Any]] = {}
    sizes: dict[str, float] = {}
    metrics = dict.fromkeys(setting.metrics.bounds, 0.0)
    for index, message in enumerate(messages):
        values = _values(setting, index)
        content = RecordDict({"metrics": MetricRecord({**values, setting.weight: weights[index]})})
        if base is not None:
            update = _update(base, index, weights, scale)
            content[setting.arrays] = record_of(update)
            for name, value in update.items():
                part = value.astype(np.float64)
                sizes[name] = max(sizes.get(name, scale), float(np.max(np.abs(part), initial=0)))
                part = part * weights[index]
                sums[name] = sums[name] + part if name in sums else part
        metrics = {name: metrics[name] + weights[index] * values[name] / total for name in metrics}
        single.append(Message(content, reply_to=message))
    mean = None
    if base is not None:
        mean = {name: _typed(sums[name] / total, value.dtype) for name, value in base.items()}
    means = replies_of(messages, setting, mean, metrics, total)
    given, expected = call(copy.deepcopy(strategy), means), call(copy.deepcopy(strategy), single)
    if base is not None and (given[0] is None or expected[0] is None):
        raise ValueError("it made no model of the replies")
    if _arrays_differ(given[0], expected[0], base or {}, sizes):
        return "arrays"
    return "metrics" if _metrics_differ(given[1], expected[1], setting) else ""


def _typed(value: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.asarray(np.rint(value) if dtype.kind in "iu" else value).astype(dtype)


def _aggregate(
    setting: Setting, number: int
) -> Callable[[Strategy, list[Message]], tuple[Any, Any]]:
    if setting.arrays:
        return lambda strategy, replies: strategy.aggregate_train(number, replies)
    return lambda strategy, replies: (None, strategy.aggregate_evaluate(number, replies))


def _round(content: RecordDict) -> int:
    """The round as the strategy counts it, where it tells the sites."""
    found = [record.get("server-round") for record in content.config_records.values()]
    return next((number for number in found if isinstance(number, int)), 1)


def model_in(content: RecordDict, setting: Setting) -> ArrayRecord:
    """The record of the model. :class:`MisuseError` (``one-model``) where there is none."""
    record = content.get(setting.arrays)
    if not isinstance(record, ArrayRecord):
        raise MisuseError(f"the content has no ArrayRecord {setting.arrays!r}", rule="one-model")
    return record


def _update(
    base: Mapping[str, npt.NDArray[Any]], index: int, weights: Sequence[int], scale: float
) -> dict[str, npt.NDArray[Any]]:
    """One made-up model. All move the same way, so that the mean moves as far, and by differing
    amounts; whole numbers move so that their mean is whole."""
    stands_out = scale > 1 and index == len(weights) - 1
    found = {}
    for name, value in base.items():
        if value.dtype.kind == "f":
            wave = 1 + 0.5 * np.cos(1.0 + 1.7 * index + np.arange(value.size))
            step = (wave * scale * (_OUTLIER if stands_out else 1)).reshape(value.shape)
            found[name] = np.asarray(value.astype(np.float64) + step).astype(value.dtype)
        else:
            step = sum(weights) * (index % 8 if value.dtype.itemsize > 2 else 0)
            if step > np.iinfo(value.dtype).max // 4:
                step = 0  # it would not fit
            found[name] = np.asarray(value + np.asarray(step, dtype=value.dtype))
    return found


def _values(setting: Setting, index: int) -> dict[str, float]:
    part = 0.1 + 0.8 * ((index * 7) % 5) / 5
    return {name: bound * part for name, bound in setting.metrics.bounds.items()}


def _arrays_differ(
    given: ArrayRecord | None,
    expected: ArrayRecord | None,
    base: Mapping[str, npt.NDArray[Any]],
    sizes: Mapping[str, float],
) -> bool:
    """sizes: the largest number in each array of the replies."""
    if given is None or expected is None:
        return (given is None) != (expected is None)
    one, other = arrays_of(given), arrays_of(expected)
    if one.keys() != other.keys():
        return True
    for name, value in one.items():
        if value.shape != other[name].shape:
            return True
        kinds = [value.dtype, base[name].dtype] if name in base else [value.dtype]
        unit = max((float(np.finfo(kind).eps) for kind in kinds if kind.kind == "f"), default=1e-15)
        size = max(sizes.get(name, 0.0), float(np.max(np.abs(value), initial=0)))
        apart = np.abs(value.astype(np.float64) - other[name].astype(np.float64))
        if not np.all(apart <= _ROUNDINGS * unit * size):  # also where one is not a number
            return True
    return False


def _metrics_differ(
    given: MetricRecord | None, expected: MetricRecord | None, setting: Setting
) -> bool:
    if given is None or expected is None:
        return (given is None) != (expected is None)
    one, other = dict(given), dict(expected)
    if one.keys() != other.keys():
        return True
    size = max(setting.metrics.bounds.values(), default=1.0)
    return any(
        not np.allclose(value, other[name], rtol=1e-6, atol=1e-6 * size)
        for name, value in one.items()
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what a strategy logs about replies that nobody sent."""
    logger = logging.getLogger("flwr")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _refused(strategy: Strategy, why: str) -> MisuseError:
    return MisuseError(f"{type(strategy).__name__} is refused: {why}", rule="strategy")


__all__ = [
    "REFUSED",
    "calling",
    "check_named",
    "check_tried",
    "inner",
    "key_of",
    "model_in",
    "running",
]
