"""``party --budget``: a site's own privacy budget, kept beside the state of its party."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from secagg_protocols.journal import Journal
from secagg_protocols.ledger import InputLedger
from secagg_protocols.plan import Plan
from secagg_protocols.registers import ledger_register

from .dp_view import ledger_report

if TYPE_CHECKING:
    from secagg.dp.ledger import Ledger
    from secagg.policy import Policy


def hint(
    plan: Plan,
    ledger: Ledger | None,
    journal: Journal,
    site: str,
    data: str,
    *,
    policy: Policy | None = None,
) -> None:
    """Say at the start what would surprise at `submit`, or never be noticed."""
    if policy is not None and policy.censoring is not None:
        _note("the policy censors, and vectors are submitted as given: censor before `submit`")
    if ledger is not None:
        if not ledger.affords(plan):
            _note("the budget does not bear an input under this plan; `submit` will refuse it")
    elif journal.read(ledger_register(site, data)):
        _note(
            "inputs of these data were charged to a budget; without --budget `submit` will refuse"
        )
    elif plan.pipeline.noise is not None:
        _note("this plan has noise; without --budget this site's input is charged to no budget")


def spending(ledger: InputLedger) -> dict[str, Any]:
    """What was spent and what is left, as `dp account --ledger` tells it."""
    from secagg.dp.ledger import Ledger

    return ledger_report(ledger, ()) if isinstance(ledger, Ledger) else {}


def spending_line(told: dict[str, Any]) -> str:
    """The same for people."""
    spent = "unbounded" if told["spent"] is None else f"{told['spent']:.6g}"
    return (
        f"budget of data {told['data']!r}: epsilon {spent} of {told['budget']:g} spent at delta "
        f"{told['delta']:g}, {told['remaining']:.6g} left"
    )


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)


__all__ = ["hint", "spending", "spending_line"]
