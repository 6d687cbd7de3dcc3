"""What a site's party asks of a privacy ledger, and the rules of one.

The ledger itself, which knows mechanisms and accountants, is :class:`secagg.dp.Ledger`. A party
knows that a masked input is a release, and so charges it before it is sent.
"""

from __future__ import annotations

from typing import Final, Protocol

from .errors import MisuseError
from .journal import Journal
from .plan import Plan
from .rules import Rule

#: Rule of a party whose ledger is missing, or is none.
LEDGER_RULE: Final = "ledger"

#: Checks of a ledger, each one of its methods.
LEDGER_RULES: Final = (
    Rule(
        "ledger-owner",
        "client",
        "construction, load",
        "the ledger is of this site's name, of these data, and in this party's journal",
        "MisuseError",
        "another data set's budget spent; a charge that is remembered where the claim of its "
        "input is not, so that a second input of the round counts as the first",
    ),
    Rule(
        "ledger-adjacency",
        "client",
        "input",
        "the ledger of these data was kept under this adjacency from its first charge on",
        "MisuseError",
        "charges of two adjacencies, whose epsilons do not add up",
    ),
    Rule(
        "no-noise",
        "client",
        "input",
        "the plan has noise that the budget's adversary meets",
        "BudgetError",
        "an exact sum of data that have a budget",
        also=("budget",),
    ),
    Rule(
        "ledger-full",
        "client",
        "input",
        "at most 256 different mechanisms over one data set",
        "BudgetError",
        "a server that fills the register, one plan after the other",
    ),
    Rule(
        "budget",
        "client",
        "input",
        "with this input, at worst case, epsilon at the ledger's delta is within the budget, "
        "whatever plan, session, epoch or key",
        "BudgetError",
        "rounds upon rounds, until the noise averages out",
    ),
)


class InputLedger(Protocol):
    """The budget of one site and one data set, as a party sees it."""

    def serve(self, journal: Journal, site: str, data: str) -> None:
        """Refuse to serve another site, other data, or a party of another journal."""
        ...

    def check(self, plan: Plan, tag: bytes) -> None:
        """Raise what ``charge`` would, and change nothing."""
        ...

    def charge(self, plan: Plan, tag: bytes) -> None:
        """Charge an input under ``plan``, durably; the same ``tag`` again is charged once.

        tag: the round context, 32 bytes. :class:`BudgetError` where the budget does not bear it:
        nothing is charged then, and nothing may be sent.
        """
        ...


def checked_ledger(ledger: object, journal: Journal, site: str, data: str) -> None:
    """``ledger`` is one, and serves this party; ``None`` passes."""
    if ledger is None:
        return
    serve, charge = getattr(ledger, "serve", None), getattr(ledger, "charge", None)
    if not callable(serve) or not callable(charge):
        raise MisuseError("a ledger is a secagg.dp.Ledger", rule=LEDGER_RULE)
    serve(journal, site, data)


def require_ledger(ledger: object, *, kept: object) -> None:
    """What was saved with a ledger (``kept``) is not loaded without one."""
    if type(kept) is not bool:
        raise ValueError("not a dump of this version")
    if kept and ledger is None:
        raise MisuseError(
            "this party was saved with a ledger; load it with the ledger of its data, or its "
            "inputs would be charged to nobody",
            rule=LEDGER_RULE,
        )


__all__ = ["LEDGER_RULE", "LEDGER_RULES", "InputLedger", "checked_ledger", "require_ledger"]
