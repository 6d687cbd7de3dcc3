"""Evidence files: a conviction that a third party checks again, from the plan and the frames.

The text around the frames is for people and is not believed: reading an evidence file means
auditing its frames anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from secagg_protocols.errors import MisuseError
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import SERVER

from .audit_rules import Conviction, Signed
from .transcript import Hashed, Model, Moved, Piece, Whole, load_plan_text

_VERSION: Final = 1
#: Header fields that are lists of sites.
_LISTS: Final = frozenset({"neighbours", "present", "signers", "missing"})


class _Stated(msgspec.Struct, forbid_unknown_fields=True):
    round: int
    model: str
    parameters: str


class _Frame(msgspec.Struct, forbid_unknown_fields=True):
    message: str
    sender: str
    recipient: str
    content: dict[str, Any]
    digest: str
    head: str
    tail_sha256: str
    tail_size: int
    trailer: str
    round: int | None = None
    tail: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    secagg_evidence: int
    statements: list[str]
    session: str
    plan_digest: str
    models: list[_Stated]
    frames: list[_Frame]
    plan: list[str]


def is_evidence(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like evidence and not like a transcript."""
    with Path(path).open("rb") as file:
        return file.read(1) == b"{"


def evidence_text(plan: Plan, session: bytes, convictions: Sequence[Conviction]) -> str:
    """The evidence file of convictions under one plan and session."""
    frames: dict[bytes, Signed] = {}
    for conviction in convictions:
        for frame in conviction.proof:
            known = frames.get(frame.digest)
            if known is None or known.tail is None:
                frames[frame.digest] = frame
    models = {(f.round, *f.stated): None for f in frames.values() if f.stated is not None}
    content = _File(
        secagg_evidence=_VERSION,
        statements=[_statement(c) for c in convictions],
        session=session.hex(),
        plan_digest=plan.digest.hex(),
        models=[_Stated(number, m.hex(), p.hex()) for number, m, p in models],
        frames=[_described(plan, frame) for frame in frames.values()],
        plan=dump_plan(plan).rstrip("\n").split("\n"),
    )
    return json.dumps(msgspec.to_builtins(content), indent=2, ensure_ascii=False) + "\n"


def _statement(conviction: Conviction) -> str:
    digests = " and ".join(frame.digest.hex() for frame in conviction.proof)
    where = "" if conviction.round < 0 else f", round {conviction.round}"
    return f"{conviction.party} ({conviction.rule}{where}): {conviction.text}; signed: {digests}"


def _described(plan: Plan, frame: Signed) -> _Frame:
    def name(index: int) -> str:
        return SERVER_NAME if index == SERVER else plan.roster.names[index]

    content: dict[str, Any] = {}
    for field in () if frame.header is None else frame.header.__struct_fields__:
        value = getattr(frame.header, field)
        if field in _LISTS or (field == "survivors" and frame.name == "Result"):
            bits = int.from_bytes(value, "little")
            value = [x for at, x in enumerate(plan.roster.names) if bits >> at & 1]
        content[field] = value.hex() if isinstance(value, bytes) else msgspec.to_builtins(value)
    return _Frame(
        message=frame.name,
        sender=name(frame.signer),
        recipient=name(frame.recipient),
        content=content,
        digest=frame.digest.hex(),
        head=frame.head.hex(),
        tail_sha256=frame.tail_hash.hex(),
        tail_size=frame.tail_size,
        trailer=frame.trailer.hex(),
        round=None if frame.round < 0 else frame.round,
        tail=None if frame.tail is None else frame.tail.hex(),
    )


class Evidence:
    """An evidence file, read like a transcript that nobody in particular recorded.

    Raises :class:`~secagg.MisuseError` (rule ``transcript-file``) for anything else.
    """

    party: Final = "evidence"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.stopped = ""
        try:
            file = msgspec.json.decode(self.path.read_bytes(), type=_File)
            if file.secagg_evidence != _VERSION:
                raise ValueError
            self.session = bytes.fromhex(file.session)
            digest = bytes.fromhex(file.plan_digest)
            self._entries = self._read(file)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise MisuseError(
                f"{self.path} is not an evidence file", rule="transcript-file"
            ) from None
        self.plan = load_plan_text(self.path, "\n".join(file.plan), digest)

    def _read(self, file: _File) -> list[Model | Moved]:
        found: list[Model | Moved] = [
            msgspec.convert(
                ["model", s.round, bytes.fromhex(s.model), bytes.fromhex(s.parameters)], Model
            )
            for s in file.models
        ]
        for frame in file.frames:
            head, trailer = bytes.fromhex(frame.head), bytes.fromhex(frame.trailer)
            piece: Piece
            if frame.tail is not None:
                piece = Whole(head + bytes.fromhex(frame.tail) + trailer, frame.round)
            else:
                tail_hash = bytes.fromhex(frame.tail_sha256)
                piece = Hashed(head, tail_hash, frame.tail_size, trailer, frame.round)
            found.append(Moved(False, frame.sender, (piece,)))
        return found

    def entries(self) -> Iterator[Model | Moved]:
        """The models, then the frames."""
        yield from self._entries


__all__ = ["Evidence", "evidence_text", "is_evidence"]
