"""What the commands of ``party`` say of a party: as JSON, or in lines for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import typer

from secagg_protocols.errors import SecAggError
from secagg_protocols.events import Step
from secagg_protocols.masked_sum import Client, Server
from secagg_protocols.masked_sum import client_checks as at
from secagg_protocols.paillier_sum import Client as PaillierClient
from secagg_protocols.paillier_sum import Holder
from secagg_protocols.paillier_sum import Server as PaillierServer
from secagg_protocols.paillier_sum import client_checks as paillier_at
from secagg_protocols.plan import PaillierSum
from secagg_protocols.roster import SERVER_NAME

from .common import describe, exit_code, fail, write_json
from .party_budget import spending, spending_line

_NO_SUM: Final = "the sum is not returned to the sites"
#: Where a site of a masked sum stands while it waits for the server's answer to step 1, 2, ...
_STANDS: Final = (at.ADVERTISED, at.SHARED, at.MASKED, at.CONSENTED, at.REVEALED)

AnyParty = Client | Server | PaillierClient | PaillierServer | Holder
CLIENTS: Final = (Client, PaillierClient)
SERVERS: Final = (Server, PaillierServer)


def who(party: AnyParty) -> dict[str, Any]:
    """Which party of which round this is."""
    return {
        "role": _role(party),
        "name": party.name,
        "session": party.session.decode("utf-8", "backslashreplace"),
        "round": party.round,
        "plan": party.plan.digest.hex(),
    }


def _role(party: AnyParty) -> str:
    if isinstance(party, SERVERS):
        return "server"
    return "holder" if isinstance(party, Holder) else "site"


def fault(error: SecAggError) -> dict[str, Any]:
    """What an error says, with the sites that it suspects."""
    suspects = list(getattr(error, "suspects", ()))
    told = {"rule": error.rule, "error": str(error)}
    return told | {"suspects": suspects} if suspects else told


def progress(step: Step, have: int, need: int, most: int) -> dict[str, Any]:
    """How far a step is: messages there, needed, and most that can come."""
    return {"step": step.label, "have": have, "need": need, "most": most}


def is_done(party: AnyParty) -> bool:
    """Whether the round is over for this party, with its sum or, of a holder, its answer."""
    if isinstance(party, Holder):
        return party._opened
    if isinstance(party, PaillierClient):
        return party._at == paillier_at.FINISHED
    return party._done if isinstance(party, SERVERS) else party._at == at.FINISHED


def waits(party: AnyParty) -> dict[str, Any] | None:
    """What the party waits for: messages there, needed, and most that can come."""
    if party._ended is not None or is_done(party):
        return None
    if isinstance(party, PaillierServer):
        return _server_waits(party)
    if isinstance(party, PaillierClient):
        if party.sent_input:
            return {"for": SERVER_NAME, **progress(Step.REVEAL, 0, 1, 1)}
        return {"for": "submit", **progress(Step.INPUT, 0, 1, 1)}
    if isinstance(party, Holder):
        # Inputs that the server passes on, and its request to open what they come to.
        plan, have = party.plan, len(party._product.sites)
        return {"for": "inputs", **progress(Step.INPUT, have, plan.min_survivors, plan.clients)}
    if isinstance(party, Server):
        have, most = party._arrived()
        step = party._step or Step.ADVERTISE
        return {"for": "sites", **progress(step, have, party._need(), most)}
    if party._at == at.READY:
        return {"for": "submit", **progress(Step.INPUT, 0, 1, 1)}
    return {"for": SERVER_NAME, **progress(Step(_STANDS.index(party._at) + 1), 0, 1, 1)}


def _server_waits(party: PaillierServer) -> dict[str, Any]:
    plan, protocol = party.plan, party.plan.protocol
    if party._step == Step.REVEAL and isinstance(protocol, PaillierSum):
        have, need, most = len(party._answers), protocol.share_threshold, protocol.holders
        return {"for": "holders", **progress(Step.REVEAL, have, need, most)}
    have = len(party._product.sites)
    return {"for": "sites", **progress(Step.INPUT, have, plan.min_survivors, plan.clients)}


def show(
    party: AnyParty,
    folder: Path,
    sent: list[tuple[str, str]],
    as_json: bool,
    rows: list[dict[str, Any]] | None = None,
    *,
    asked: bool = False,
) -> None:
    """Print where the party stands; leave with its exit code where a command found it ended."""
    ended, awaited = party._ended, waits(party)
    result = folder / "result.npz"
    view = who(party) | {
        "sent": [{"to": to, "file": str(folder / "outbox" / name)} for to, name in sent],
        "waits": awaited,
        "done": is_done(party),
        "ended": None if ended is None else fault(ended),
        "result": str(result) if is_done(party) and result.is_file() else None,
    }
    if asked and isinstance(party, CLIENTS) and party.ledger is not None:
        view["ledger"] = spending(party.ledger)
    if as_json:
        write_json(view if rows is None else view | {"files": rows})
    else:
        lines = [f"{view['role']} {party.name}, round {party.round}"] if asked else []
        lines += [_line(row) for row in rows or ()]
        lines += [f"wrote {file['file']}" for file in view["sent"]]
        lines += [f"waits for {_awaited(awaited)}"] if awaited else []
        if view["done"]:
            none = "the answer is given" if isinstance(party, Holder) else _NO_SUM
            lines.append(f"done; {view['result'] or none}")
        if asked:
            lines += [] if ended is None else [f"ended for good: {describe(ended)}"]
            lines += [f"session {view['session']!r}", f"plan {view['plan']}"]
            lines += [spending_line(view["ledger"])] if "ledger" in view else []
        typer.echo("\n".join(lines))
    if ended is not None and not asked:
        fail(describe(ended), exit_code(ended))


def _line(row: dict[str, Any]) -> str:
    text = f"{row['file']}: {row['outcome']}" + (f" {row['site']}" if "site" in row else "")
    if "error" in row:
        return f"{text}: {row['error']}"
    return f"{text}; {_counts(row)}" if "have" in row else text


def _counts(row: dict[str, Any]) -> str:
    return f"{row['step']}: {row['have']} of {row['need']} needed, {row['most']} can come"


def _awaited(waits: dict[str, Any]) -> str:
    if waits["for"] == "submit":
        return "this site's vector (secagg party submit)"
    if waits["for"] == SERVER_NAME:
        return f"the server's answer to step {int(Step.of(waits['step']))} ({waits['step']})"
    if waits["for"] == "inputs":
        return f"the server: inputs, {_counts(waits)}, then its request to open"
    return f"{waits['for']}, {_counts(waits)}" + (
        "; enough for close" if waits["have"] >= waits["need"] else ""
    )


__all__ = ["CLIENTS", "SERVERS", "AnyParty", "fault", "is_done", "progress", "show", "waits", "who"]
