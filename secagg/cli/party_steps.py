"""What the commands of ``party`` do with one party: messages in, a vector, the result out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from secagg.api import AnyClient
from secagg.durable import write_durably
from secagg.session.transcript import Recorder
from secagg_protocols.errors import DecodeError, MisuseError, SecAggError
from secagg_protocols.events import Aggregate, Dropped, Event, Ignored, Progress
from secagg_protocols.masked_sum.messages import trailer_size
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import SERVER, split_frame

from .party_view import AnyParty, fault, progress, who


def misuse(text: str, *, rule: str = "party-folder") -> MisuseError:
    """The refusal of a command on a party's folder."""
    return MisuseError(text, rule=rule)


def check_share(name: str, plan: Plan, *, given: bool) -> None:
    """Raise `MisuseError` unless a share is given where, and only where, the party is a holder."""
    held = name in dict(plan.roster.holders)
    if (held or given) and not isinstance(plan.protocol, PaillierSum):
        raise misuse("the plan is a masked sum and has no holders", rule="protocol")
    if held and not given:
        raise misuse(f"{name} is a holder: give its share of the key (--share)", rule="options")
    if given and not held:
        what = "this is the server" if name == SERVER_NAME else f"{name} is a site"
        if name != SERVER_NAME and name not in plan.roster.names:
            what = f"{name} is no holder of this roster"
        raise misuse(f"{what}: leave --share out", rule="options")


def read_vector(path: Path) -> Any:
    """The array in a .npy file; nothing in it is executed."""
    with path.open("rb") as file:
        try:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:
                raise ValueError
            file.seek(0)
            return np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OverflowError, MemoryError, SyntaxError, TokenError):
            raise misuse(f"{path} is no .npy file of numbers", rule="input-dtype") from None


def submit_vector(party: AnyClient, vector: Path, weight: int) -> list[Event]:
    """Give a site its vector; `MisuseError` where this is too early or again."""
    if party.sent_input and party._ended is None:
        # The library lets a reloaded party repeat its input, and ends it where the bytes differ.
        raise misuse("this round has its input already", rule="input-once")
    events = party.submit(read_vector(vector), weight)
    if not events:
        raise misuse("too early, nothing kept; submit once step 2 is answered", rule="step-order")
    return events


def take(
    party: AnyParty, path: Path, sender: str | None, recorder: Recorder | None
) -> tuple[dict[str, Any], list[Event]]:
    """Feed one file to the party: what became of it, and the events."""
    row: dict[str, Any] = {"file": str(path), "outcome": "accepted"}
    most = max(party._largest(kind) for kind in party.kinds.values())
    with path.open("rb") as file:
        data = file.read(most + 1)  # one byte too many is enough for the party to refuse it
    if recorder is not None:
        recorder.received(sender or stated_sender(party, data), data)
    try:
        events = party.receive(data, sender=sender)
    except SecAggError as error:
        if party._ended is None:
            raise  # the journal's disk failed, and the file may be given again
        return row | {"outcome": "ended"} | fault(error), []
    for event in events:
        if isinstance(event, Ignored):
            row |= {"outcome": "ignored"} | fault(event.error)
        elif isinstance(event, Dropped):
            row |= {"outcome": "dropped", "site": event.site} | fault(event.error)
        elif isinstance(event, Progress):
            row |= progress(event.step, event.have, event.need, event.most)
    return row, events


def stated_sender(party: AnyParty, data: bytes) -> str:
    """Who a message says that it is from; empty where it says nothing that makes sense."""
    try:
        number = split_frame(data, trailer_size=trailer_size(party.plan)).sender
    except DecodeError:
        return ""
    names = party.plan.roster.names
    return SERVER_NAME if number == SERVER else names[number] if number < len(names) else ""


def write_result(folder: Path, party: AnyParty, got: Aggregate) -> None:
    """Write result.npz and result.json, durably."""
    arrays = {"sum": got.sum} if got.mean is None else {"sum": got.sum, "mean": got.mean}
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    write_durably(folder / "result.npz", file.getbuffer())
    data = who(party) | {
        "weight": int(got.weight),
        **{name: getattr(got, name) for name in ("survivors", "dropped", "left", "suspects")},
        "digest": got.digest.hex(),
        "transcript": got.transcript.hex() or None,  # the server's to keep, a site has none
        # Seconds are left out: each command is a process of its own and cannot tell them.
        "traffic": [{"step": c.step, "received": c.received, "sent": c.sent} for c in got.traffic],
    }
    write_durably(folder / "result.json", json.dumps(data, indent=2).encode() + b"\n")


__all__ = ["check_share", "misuse", "submit_vector", "take", "write_result"]
