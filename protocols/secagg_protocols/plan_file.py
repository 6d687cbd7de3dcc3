"""The TOML form of a plan, for people and commands. Digests are never taken of it."""

from __future__ import annotations

import base64
import tomllib
from dataclasses import fields
from typing import Any

from .errors import PlanError
from .paillier import PublicKey
from .plan import MaskedSum, PaillierSum, Plan
from .roster import Roster
from .stages.pipeline import STAGES

_FIELDS = [f.name for f in fields(Plan) if f.init]
_TABLES = {"roster", "stages", "protocol", "privacy"}


def dump_plan(plan: Plan) -> str:
    """TOML text of a plan; :func:`load_plan` gives back an equal one."""
    lines = ["# A plan of secagg. Its digest is taken of canonical bytes, not of this text."]
    for name in _FIELDS:
        value = getattr(plan, name)
        if name not in _TABLES and value is not None:
            lines.append(f"{name} = {_value(value)}")
    lines += ["", "[protocol]", f'name = "{type(plan.protocol).__name__}"']
    for field in fields(plan.protocol):
        value = getattr(plan.protocol, field.name)
        if isinstance(value, PublicKey):
            value = base64.b64encode(value.to_bytes()).decode()
        lines.append(f"{field.name} = {_value(value)}")
    if plan.privacy is not None:
        lines += ["", "[privacy]"]
        lines += [f"{_value(name)} = {_value(value)}" for name, value in plan.privacy]
    for stage in plan.stages:
        lines += ["", "[[stages]]", f'name = "{type(stage).__name__}"']
        lines += [
            f"{f.name} = {_value(getattr(stage, f.name))}"
            for f in fields(stage)  # type: ignore[arg-type]
        ]
    return "\n".join(lines) + "\n" + dump_roster(plan.roster, prefix="roster")


def dump_roster(roster: Roster, *, prefix: str = "") -> str:
    """TOML text of a roster, as a table named ``prefix`` or at the top."""
    data = roster.to_dict()
    lines = ["", f"[{prefix}]"] if prefix else ["# A roster of secagg: who takes part."]
    dot = f"{prefix}." if prefix else ""
    lines += [f"epoch = {data['epoch']}", f"server = {_value(data['server'])}"]
    for group in ("sites", "holders"):
        if not data[group]:
            lines.append(f"{group} = []")
    for group in ("sites", "holders"):
        for member in data[group]:
            lines += ["", f"[[{dot}{group}]]"]
            lines += [f"{key} = {_value(value)}" for key, value in member.items()]
    return "\n".join(lines) + "\n"


def load_roster(text: str) -> Roster:
    """The roster in TOML text; :class:`PlanError` for anything else."""
    return Roster.from_dict(_parse(text))


def load_plan(text: str) -> Plan:
    """The plan in TOML text; :class:`PlanError` names the field that is wrong."""
    data = _parse(text)
    unknown = sorted(set(data) - set(_FIELDS))
    if unknown:
        raise PlanError(f"unknown keys {unknown}", rule="plan-file", field="plan")
    values: dict[str, Any] = dict(data)
    values["roster"] = Roster.from_dict(_table(data, "roster"))
    protocol = dict(_table(data, "protocol"))
    values["protocol"] = _protocol(protocol)
    stages = data.get("stages", [])
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise PlanError("an array of tables", rule="plan-file", field="stages")
    values["stages"] = tuple(_stage(dict(stage)) for stage in stages)
    if "privacy" in data:
        values["privacy"] = tuple(_table(data, "privacy").items())
    plan: Plan = _build(Plan, values, "plan")
    return plan


def _protocol(data: dict[str, Any]) -> Any:
    name = data.pop("name", None)
    if name == "MaskedSum":
        return _build(MaskedSum, data, "protocol")
    if name != "PaillierSum":
        raise PlanError('name = "MaskedSum" or "PaillierSum"', rule="plan-file", field="protocol")
    if "key" in data:
        try:
            key = base64.b64decode(data["key"], validate=True)
        except (TypeError, ValueError):
            raise PlanError("a public key in base64", rule="plan-file", field="key") from None
        data["key"] = PublicKey.from_bytes(key)
    return _build(PaillierSum, data, "protocol")


def _stage(data: dict[str, Any]) -> Any:
    name = data.pop("name", None)
    if not isinstance(name, str) or name not in STAGES:
        raise PlanError(
            f"{name!r} is not a stage; known are {', '.join(sorted(STAGES))}",
            rule="plan-file",
            field="stages",
        )
    return _build(STAGES[name], data, f"stages.{name}")


def _build(kind: Any, values: dict[str, Any], field: str) -> Any:
    known = [f.name for f in fields(kind) if f.init]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise PlanError(f"unknown keys {unknown}", rule="plan-file", field=field)
    try:
        return kind(**values)
    except TypeError:
        missing = [name for name in known if name not in values]
        raise PlanError(f"missing keys among {missing}", rule="plan-file", field=field) from None


def _table(data: dict[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise PlanError("a table", rule="plan-file", field=name)
    return value


def _parse(text: str) -> dict[str, Any]:
    if not isinstance(text, str) or (text.endswith(".toml") and "\n" not in text):
        raise PlanError("this takes the text of a file, not its name", rule="plan-file")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"not TOML: {error}", rule="plan-file") from error


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    escaped = "".join(
        f"\\u{ord(c):04x}" if c in '"\\' or ord(c) < 32 or ord(c) == 127 else c for c in text
    )
    return f'"{escaped}"'
