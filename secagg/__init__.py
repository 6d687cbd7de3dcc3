"""Secure aggregation for federated learning: only the sum is ever seen.

Start with :func:`aggregate` (all parties in memory) and :class:`Plan`; :func:`client` and
:func:`server` are the same over bytes, :class:`SiteSession` and :class:`ServerSession` many rounds
of them. What is and is not protected: ``docs/security-model.md``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secagg_protocols.enrolment import Membership, plan_for_epoch
    from secagg_protocols.errors import (
        AuthenticationError,
        BudgetError,
        DecodeError,
        EquivocationError,
        MisuseError,
        PeerError,
        PlanError,
        ReleaseError,
        SecAggError,
        ThresholdError,
    )
    from secagg_protocols.events import (
        Aggregate,
        Done,
        Dropped,
        Event,
        Ignored,
        Progress,
        Send,
        Step,
        StepCost,
        next_parameters,
    )
    from secagg_protocols.floors import Floors
    from secagg_protocols.journal import FileJournal, Journal, MemoryJournal
    from secagg_protocols.keys import Identity, seal, unseal
    from secagg_protocols.masked_sum import Client, Server
    from secagg_protocols.paillier_sum import Holder
    from secagg_protocols.parameters import (
        GraphParameters,
        GraphSecurity,
        bonawitz17_expansion,
        graph_parameters,
        graph_security,
        two_list_attack_possible,
    )
    from secagg_protocols.plan import PAILLIER_SUITE, SUITE, MaskedSum, PaillierSum, Plan
    from secagg_protocols.plan_file import dump_plan, load_plan
    from secagg_protocols.roster import Roster
    from secagg_protocols.signed_roster import SignedRoster, dump_chain, load_chain
    from secagg_protocols.stages import (
        AdaptiveClip,
        Bounds,
        ClipL2,
        ClipLinf,
        Integers,
        Noise,
        Quantise,
        Rotate,
        Stage,
    )

    from .api import aggregate, client, holder, load, server
    from .session import (
        Aborted,
        Agreement,
        Cold,
        Finished,
        HolderSession,
        ServerSession,
        SiteSession,
        Slot,
        Store,
        Wanted,
    )

__version__ = "0.1.0"

# Name -> module that defines it. Resolved on first use, so that importing the package costs
# next to nothing and loads no optional library.
_HOMES = {
    name: module
    for module, names in {
        "secagg_protocols.enrolment": "Membership plan_for_epoch",
        "secagg_protocols.errors": (
            "AuthenticationError BudgetError DecodeError EquivocationError MisuseError PeerError "
            "PlanError ReleaseError SecAggError ThresholdError"
        ),
        "secagg_protocols.events": (
            "Aggregate Done Dropped Event Ignored Progress Send Step StepCost next_parameters"
        ),
        "secagg_protocols.floors": "Floors",
        "secagg_protocols.journal": "FileJournal Journal MemoryJournal",
        "secagg_protocols.keys": "Identity seal unseal",
        "secagg_protocols.masked_sum": "Client Server",
        "secagg_protocols.parameters": (
            "GraphParameters GraphSecurity bonawitz17_expansion graph_parameters graph_security "
            "two_list_attack_possible"
        ),
        "secagg_protocols.paillier_sum": "Holder",
        "secagg_protocols.plan": "PAILLIER_SUITE SUITE MaskedSum PaillierSum Plan",
        "secagg_protocols.plan_file": "dump_plan load_plan",
        "secagg_protocols.roster": "Roster",
        "secagg_protocols.signed_roster": "SignedRoster dump_chain load_chain",
        "secagg_protocols.stages": (
            "AdaptiveClip Bounds ClipL2 ClipLinf Integers Noise Quantise Rotate Stage"
        ),
        "secagg.api": "aggregate client holder load server",
        "secagg.session": (
            "Aborted Agreement Cold Finished HolderSession ServerSession SiteSession Slot Store "
            "Wanted"
        ),
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    if name in {"dp", "paillier"}:
        return importlib.import_module(f"secagg.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'secagg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


__all__ = [
    "PAILLIER_SUITE",
    "SUITE",
    "Aborted",
    "AdaptiveClip",
    "Aggregate",
    "Agreement",
    "AuthenticationError",
    "Bounds",
    "BudgetError",
    "Client",
    "ClipL2",
    "ClipLinf",
    "Cold",
    "DecodeError",
    "Done",
    "Dropped",
    "EquivocationError",
    "Event",
    "FileJournal",
    "Finished",
    "Floors",
    "GraphParameters",
    "GraphSecurity",
    "Holder",
    "HolderSession",
    "Identity",
    "Ignored",
    "Integers",
    "Journal",
    "MaskedSum",
    "Membership",
    "MemoryJournal",
    "MisuseError",
    "Noise",
    "PaillierSum",
    "PeerError",
    "Plan",
    "PlanError",
    "Progress",
    "Quantise",
    "ReleaseError",
    "Roster",
    "Rotate",
    "SecAggError",
    "Send",
    "Server",
    "ServerSession",
    "SignedRoster",
    "SiteSession",
    "Slot",
    "Stage",
    "Step",
    "StepCost",
    "Store",
    "ThresholdError",
    "Wanted",
    "aggregate",
    "bonawitz17_expansion",
    "client",
    "dump_chain",
    "dump_plan",
    "graph_parameters",
    "graph_security",
    "holder",
    "load",
    "load_chain",
    "load_plan",
    "next_parameters",
    "plan_for_epoch",
    "seal",
    "server",
    "two_list_attack_possible",
    "unseal",
]
