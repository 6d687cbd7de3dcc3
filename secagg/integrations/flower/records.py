"""Flower's records as arrays and bytes: what goes between the grid and the mod.

A message of ours holds one record more than the user's: ``secagg``, an ArrayRecord with one array
of raw bytes, which Flower sends in pieces as it does models. In the exchange in which sites train,
the user's own records come along, and ``secagg.setting``, which says what of a reply is summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from secagg.integrations.layout import Layout, Metrics
from secagg_protocols.errors import MisuseError

#: Records of ours. The user's have other names.
KEY: Final = "secagg"
SETTING: Final = "secagg.setting"
#: How Flower names the bytes in our record; it never looks into them.
_RAW: Final = "secagg.bytes"
_ONE: Final = "0"

TRAIN: Final = "train"
EVALUATE: Final = "evaluate"
QUERY: Final = "query"


def category(message: Message) -> str:
    """``train``, ``evaluate`` or ``query``: a message type without its action."""
    return str(message.metadata.message_type).split(".", 1)[0]


def pack(data: bytes) -> ArrayRecord:
    """The record that holds an order or a report."""
    return ArrayRecord({_ONE: Array("uint8", (len(data),), _RAW, bytes(data))})


def unpack(content: RecordDict) -> bytes | None:
    """The order or report in some content; ``None`` where there is none."""
    record = content.get(KEY)
    if not isinstance(record, ArrayRecord) or len(record) != 1:
        return None
    array = record.get(_ONE)
    return array.data if array is not None and array.stype == _RAW else None


def of_user(content: RecordDict) -> RecordDict:
    """The user's records without ours, and in one order, whatever the order in which a site was
    sent them: an app that takes the first of something takes the same everywhere."""
    return RecordDict(
        {name: _ordered(each) for name, each in sorted(content.items()) if not _ours(name)}
    )


def _ordered(record: Any) -> Any:
    if isinstance(record, ConfigRecord):
        return ConfigRecord(dict(sorted(record.items())))
    if isinstance(record, MetricRecord):
        return MetricRecord(dict(sorted(record.items())))
    return record


def _ours(name: str) -> bool:
    return name in {KEY, SETTING}


def check_names(content: RecordDict) -> None:
    """:class:`MisuseError` (``record-name``) where a record of the user has the name of ours."""
    if any(map(_ours, content)):
        raise MisuseError(
            f"records named {KEY!r} and {SETTING!r} are those of secagg", rule="record-name"
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """What of a reply is summed. arrays: name of the record that holds the model, empty in an
    evaluation. weight: name of the metric that is a site's weight. metrics: those in the sum."""

    arrays: str
    weight: str
    metrics: Metrics

    def pack(self) -> ConfigRecord:
        """As a record."""
        return ConfigRecord(
            {
                "arrays": self.arrays,
                "weight": self.weight,
                "metrics": list(self.metrics.bounds),
                "bounds": list(self.metrics.bounds.values()),
            }
        )

    @classmethod
    def unpack(cls, content: RecordDict) -> Setting:
        """From a message. :class:`MisuseError` (``setting``) where it has none."""
        record = content.get(SETTING)
        if not isinstance(record, ConfigRecord):
            raise MisuseError("the message does not say what is summed", rule="setting")
        arrays, weight = record.get("arrays"), record.get("weight")
        names, bounds = record.get("metrics"), record.get("bounds")
        if not isinstance(arrays, str) or not isinstance(weight, str):
            raise MisuseError("the message does not say what is summed", rule="setting")
        if not isinstance(names, list) or not isinstance(bounds, list):
            raise MisuseError("the message does not say what is summed", rule="setting")
        return cls(arrays, weight, Metrics.decode([str(name) for name in names], bounds))  # type: ignore[arg-type]


def model_bytes(arrays: ArrayRecord, task: str = TRAIN) -> bytes:
    """What stands for a broadcast model, and what sites count inputs by. Its SHA-256 is what a
    policy's list of models holds.

    Names, shapes and values of the arrays, in their order, which is that of the sum's coordinates.
    Equal for equal arrays, however they were encoded. :class:`MisuseError` (``layout``) for arrays
    that hold no real numbers.
    """
    return task.encode() + b"\0" + Layout.encode(arrays_of(arrays))


def model_of(task: str, content: RecordDict) -> bytes:
    """:func:`model_bytes` of the one ArrayRecord in some content; of none in an evaluation that
    needs no model. :class:`MisuseError` (``one-model``) for several: which of them an app takes
    could differ from site to site."""
    found = list(content.array_records.values())
    if len(found) > 1 or (task == TRAIN and not found):
        raise MisuseError(
            f"the content holds {len(found)} ArrayRecords; a sum is over updates of one model",
            rule="one-model",
        )
    return model_bytes(found[0] if found else ArrayRecord(), task)


def settings_of(
    message_type: str, content: RecordDict, setting: Setting, run_config: Mapping[str, Any]
) -> bytes:
    """Canonical bytes of all else that sites are told in a round: the message's whole type, which
    chooses the app's function, records of settings, what is summed, and the run's configuration.
    Equal for what was sent and what arrived."""
    rows = [[name, *_row(record)] for name, record in sorted(content.items())]
    head = ["secagg flower settings v1", message_type, setting.arrays, setting.weight]
    try:
        run = [[name, _plain(value)] for name, value in sorted(run_config.items())]
        return msgspec.msgpack.encode([head, setting.metrics.encode(), rows, run])
    except (OverflowError, TypeError, UnicodeEncodeError):
        raise MisuseError("the content of a message cannot be encoded", rule="one-model") from None


def _row(record: ArrayRecord | ConfigRecord | MetricRecord) -> list[Any]:
    if isinstance(record, ArrayRecord):
        return ["arrays"]  # what is in it is the model
    kind = "config" if isinstance(record, ConfigRecord) else "metrics"
    return [kind, [[name, _plain(value)] for name, value in sorted(record.items())]]


def _plain(value: Any) -> Any:
    """A value as it is after a journey: Flower sends lists of booleans as whole numbers."""
    if isinstance(value, (list, tuple)):
        return [int(each) if isinstance(each, bool) else _plain(each) for each in value]
    if isinstance(value, (bool, int)):
        return value
    return float(value) if isinstance(value, float) else value


def arrays_of(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a record by name. :class:`MisuseError` (``layout``) for what numpy cannot
    read."""
    try:
        return {name: array.numpy() for name, array in record.items()}
    except (TypeError, ValueError):
        raise MisuseError("the record holds arrays that are not numpy's", rule="layout") from None


def encoded_anew(record: ArrayRecord) -> ArrayRecord:
    """The same arrays in one memory order and byte order: an app sees nothing of a model but what
    :func:`model_bytes` stands for."""
    found = {}
    for name, value in arrays_of(record).items():
        found[name] = value.astype(value.dtype.newbyteorder("="), order="C", copy=False)
    return record_of(found)


def record_of(arrays: Mapping[str, npt.NDArray[Any]]) -> ArrayRecord:
    """A record of some arrays; shapes (scalars too) and dtypes stay."""
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})


def shares_of(weight: float, count: int) -> list[float]:
    """A total weight in ``count`` parts that differ by one at most and sum up to it."""
    if float(weight).is_integer():
        each, more = divmod(int(weight), count)
        return [each + (index < more) for index in range(count)]
    return [weight / count] * count


def replies_of(
    messages: Iterable[Message],
    setting: Setting,
    arrays: Mapping[str, npt.NDArray[Any]] | None,
    metrics: Mapping[str, float],
    weight: float,
) -> list[Message]:
    """What a strategy is given in place of the sites' replies: the mean from each of them, with
    its part of the total weight."""
    asked = list(messages)
    found = []
    model = None if arrays is None else record_of(arrays)
    for message, part in zip(asked, shares_of(weight, len(asked)), strict=True):
        content = RecordDict({"metrics": MetricRecord({**metrics, setting.weight: part})})
        if model is not None:
            # Copies, since strategies replace what is in a record; the bytes are shared.
            content[setting.arrays] = ArrayRecord(dict(model))
        found.append(Message(content, reply_to=message))
    return found


__all__ = [
    "EVALUATE",
    "KEY",
    "QUERY",
    "SETTING",
    "TRAIN",
    "Setting",
    "arrays_of",
    "category",
    "check_names",
    "encoded_anew",
    "model_bytes",
    "model_of",
    "of_user",
    "pack",
    "record_of",
    "replies_of",
    "settings_of",
    "shares_of",
    "unpack",
]
