"""What travels in FLARE's messages, and where a party's folder is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.app_common.app_constant import AppConstants

from secagg.integrations.folder import PartyFolder
from secagg.integrations.layout import Array, Layout, Metrics
from secagg_protocols.errors import DecodeError, MisuseError

#: The FLARE task of every exchange but the one in which sites train.
TASK: Final = "secagg"
#: Entries of a Shareable.
ORDER: Final = "secagg.order"
SETTING: Final = "secagg.setting"
REPORT: Final = "secagg.report"

#: Of the environment of a party's own process: its party folder.
FOLDER: Final = "SECAGG_FOLDER"
#: In a simulation: the folder that holds the folders of all parties, named as FLARE's sites.
SIMULATION: Final = "SECAGG_SIMULATION_FOLDER"
#: A file of the party's own ``local`` folder in FLARE's workspace: {"folder": "PATH"}.
LOCAL: Final = "secagg.json"

_ROUNDS: Final = (AppConstants.CURRENT_ROUND, AppConstants.START_ROUND, AppConstants.NUM_ROUNDS)
#: Headers that FLARE's own client goes by while a task is worked on.
_ROUTING: Final = (
    ReservedHeaderKey.TASK_NAME,
    ReservedHeaderKey.TASK_ID,
    ReservedHeaderKey.WORKFLOW,
    ReservedHeaderKey.COOKIE_JAR,
    ReservedHeaderKey.AUDIT_EVENT_ID,
    ReservedHeaderKey.PEER_PROPS,
    ReservedHeaderKey.MSG_ROOT_ID,
    ReservedHeaderKey.MSG_ROOT_TTL,
)


class Setting(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a sum is of, stated by the server and bound to the round with the model.

    weight: the entry of a result's meta that it is weighted by. metrics: name and bound of each
    metric in the sum.
    """

    weight: str
    metrics: tuple[tuple[str, float], ...] = ()

    def bounds(self) -> Metrics:
        """The metrics, whose bounds are checked."""
        return Metrics(dict(self.metrics))


_SETTINGS: Final = msgspec.msgpack.Decoder(Setting)


def pack_setting(setting: Setting) -> bytes:
    """Bytes of a setting."""
    return msgspec.msgpack.encode(setting)


def unpack_setting(data: object) -> Setting:
    """The setting of a message. :class:`MisuseError` (``setting``) for anything else."""
    try:
        if not isinstance(data, bytes):
            raise DecodeError("no bytes", rule="setting")
        return _SETTINGS.decode(data)
    except (msgspec.DecodeError, DecodeError):
        raise MisuseError("an order to train does not say what is summed", rule="setting") from None


def take_order(shareable: Shareable) -> bytes | None:
    """Take the order out of a task's data; ``None`` where there is none."""
    found = shareable.pop(ORDER, None)
    return found if isinstance(found, bytes) and found else None


def report_in(shareable: object) -> bytes | None:
    """The report that a result holds."""
    found = shareable.get(REPORT) if isinstance(shareable, Shareable) else None
    return found if isinstance(found, bytes) and found else None


def report_alone(shareable: Shareable) -> bool:
    """Whether a result holds a report and nothing beside it but headers."""
    return set(shareable) <= {ReservedHeaderKey.HEADERS, REPORT} and bool(report_in(shareable))


def arrays_of(data: object) -> dict[str, Array]:
    """A model's arrays by name. :class:`MisuseError` (``layout``) for other content."""
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise MisuseError("a model is a dict of numpy arrays by name", rule="layout")
    arrays = {name: np.asarray(value) for name, value in data.items()}
    Layout.of(arrays)
    return arrays


def model_of(shareable: Shareable, setting: bytes) -> tuple[dict[str, Array], bytes, bytes]:
    """The broadcast arrays in a task's data, the bytes that stand for them in the session, and
    those of all else that sites are told: the arrays' meta, the round's number and the setting.

    :class:`MisuseError` (``broadcast``) where there is no full model, or meta that JSON has not.
    """
    try:
        dxo = from_shareable(shareable)
    except ValueError:
        raise MisuseError("the task carries no model", rule="broadcast") from None
    if dxo.data_kind != DataKind.WEIGHTS:
        raise MisuseError("the task carries no full model", rule="broadcast")
    arrays = arrays_of(dxo.data)
    try:
        said = _meta(dxo)
        numbers = json.dumps([shareable.get_header(name) for name in _ROUNDS])
    except (TypeError, ValueError):
        raise MisuseError(
            "the model's meta holds values that JSON has not, so that it cannot be bound to the "
            "round",
            rule="broadcast",
        ) from None
    model = hashlib.sha256(Layout.encode(arrays)).digest()
    return arrays, model, msgspec.msgpack.encode([setting, said, numbers])


def bound_alone(shareable: Shareable, arrays: Mapping[str, Array]) -> Shareable:
    """A task's data with nothing in it that :func:`model_of` does not stand for.

    arrays: of the model, as ``model_of`` gives them. They are copied into one memory order and byte
    order; of the headers the round's numbers stay, and those by which FLARE itself routes a
    message. What else a server may have put there for one site alone is gone: FLARE shows training
    code other headers too, and has some that replace the model.
    """
    dxo = from_shareable(shareable)
    data = {
        name: np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        for name, value in arrays.items()
    }
    meta = json.loads(_meta(dxo))
    alone = DXO(DataKind.WEIGHTS, data=data, meta=meta).to_shareable()
    for name in (*_ROUNDS, *_ROUTING):
        if (value := shareable.get_header(name)) is not None:
            alone.set_header(name, value)
    return alone


def _meta(dxo: DXO) -> str:
    """Filters put their names there on the way."""
    meta = {key: value for key, value in dxo.meta.items() if key != MetaKey.FILTER_HISTORY}
    return json.dumps(meta, sort_keys=True, allow_nan=False)


def party_folder(fl_ctx: FLContext, name: str) -> PartyFolder:
    """The folder of the party that this process is, from its own side and never from the job.

    ``local/secagg.json`` of FLARE's workspace, else ``SECAGG_FOLDER`` of the process; in a
    simulation, whose sites share both, ``SECAGG_SIMULATION_FOLDER/NAME``. name: FLARE's of the
    site, or ``server``. :class:`MisuseError` (``party-folder``) where none of them says it.
    """
    engine = fl_ctx.get_engine()
    workspace = engine.get_workspace() if engine is not None else None
    if workspace is not None:
        file = Path(workspace.get_site_config_dir()) / LOCAL
        if file.is_file():
            return PartyFolder(_local(file))
    own, parent = os.environ.get(FOLDER), os.environ.get(SIMULATION)
    if own:
        return PartyFolder(own)
    if parent and Path(name).name == name:
        return PartyFolder(Path(parent) / name)
    raise MisuseError(
        f"this process does not know which party it is: set {FOLDER}, or write {LOCAL} in the "
        f"workspace's local folder, or set {SIMULATION} in a simulation",
        rule="party-folder",
    )


def _local(file: Path) -> str:
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str) or not found:
        raise MisuseError(f'{file} does not say {{"folder": "PATH"}}', rule="party-folder")
    return found


__all__ = [
    "FOLDER",
    "LOCAL",
    "ORDER",
    "REPORT",
    "SETTING",
    "SIMULATION",
    "TASK",
    "Setting",
    "arrays_of",
    "bound_alone",
    "model_of",
    "pack_setting",
    "party_folder",
    "report_alone",
    "report_in",
    "take_order",
    "unpack_setting",
]
