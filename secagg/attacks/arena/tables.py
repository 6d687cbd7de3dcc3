"""All rule tables, with the classes that each rule belongs to and its negative vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from secagg_protocols import masked_sum, paillier_sum
from secagg_protocols.enrolment import ENROLMENT_RULES, Membership
from secagg_protocols.journal import JOURNAL_RULES, FileJournal
from secagg_protocols.ledger import LEDGER_RULES
from secagg_protocols.masked_sum import rules as masked_rules
from secagg_protocols.paillier_sum import rules as paillier_rules
from secagg_protocols.plan import Plan
from secagg_protocols.rules import Rule

from . import enrolment_vectors, journal_vectors, plan_vectors
from .paillier_vectors import SCENARIOS as PAILLIER_SCENARIOS
from .played import Scenario
from .site_vectors import SCENARIOS as MASKED_SCENARIOS


@dataclass(frozen=True, slots=True)
class Table:
    """One rule table.

    classes: by a rule's party, the classes on which its vector is played. vectors: the negative
    vector of a rule, ``None`` where there is none. left_out: why it is not played, empty where
    it is.
    """

    name: str
    rules: tuple[Rule, ...]
    classes: Mapping[str, tuple[type[Any], ...]]
    vectors: Callable[[Rule], Scenario | None]
    left_out: str = ""

    def kinds(self, rule: Rule) -> tuple[type[Any], ...]:
        """The classes on which a rule is played."""
        return self.classes[rule.party]

    def vector(self, rule: Rule) -> Scenario | None:
        """The negative vector of a rule."""
        return self.vectors(rule)


def masked_table() -> Table:
    """Plans and parties of masked sums. Rules of every party are played on a site."""
    client, server = masked_sum.Client, masked_sum.Server
    return Table(
        "masked sum",
        masked_rules.RULES,
        {"plan": (Plan,), "client": (client,), "server": (server,), "party": (client,)},
        lambda rule: (
            plan_vectors.masked(rule.id)
            if rule.party == "plan"
            else MASKED_SCENARIOS.get((rule.party, rule.id))
        ),
    )


def paillier_table() -> Table:
    """Plans and parties of Paillier sums. Rules of every party are played on each."""
    client, server, holder = paillier_sum.Client, paillier_sum.Server, paillier_sum.Holder
    return Table(
        "Paillier sum",
        paillier_rules.RULES,
        {
            "plan": (Plan,),
            "client": (client,),
            "server": (server,),
            "holder": (holder,),
            "party": (client, server, holder),
        },
        lambda rule: (
            plan_vectors.paillier(rule.id)
            if rule.party == "plan"
            else PAILLIER_SCENARIOS.get((rule.party, rule.id))
        ),
    )


def enrolment_table() -> Table:
    """What a party asks of signed rosters before it accepts one."""
    return Table(
        "enrolment",
        ENROLMENT_RULES,
        {"member": (Membership,)},
        lambda rule: enrolment_vectors.vector(rule.id),
    )


def journal_table() -> Table:
    """What a journal does not do twice. They are played on the journal that is a file."""
    return Table(
        "journal",
        JOURNAL_RULES,
        {"party": (FileJournal,)},
        lambda rule: journal_vectors.vector(rule.id),
    )


def ledger_table() -> Table:
    """What a site's privacy ledger refuses; left out where ``secagg[dp]`` is not installed."""
    missing = [name for name in ("dp_accounting", "scipy") if find_spec(name) is None]
    if missing:
        why = f"{missing[0]} is not installed; pip install 'secagg[dp]'"
        return Table("privacy ledger", LEDGER_RULES, {}, lambda _: None, why)
    from secagg.dp.ledger import Ledger

    from . import ledger_vectors

    return Table(
        "privacy ledger",
        LEDGER_RULES,
        {"client": (Ledger,)},
        lambda rule: ledger_vectors.vector(rule.id),
    )


def session_table() -> Table:
    """Sessions at sites, servers and holders; rules of every party on the first two."""
    from secagg.session import HolderSession, ServerSession, SiteSession
    from secagg.session.rules import HOLDER_RULES, RULES

    from . import holder_session_vectors, session_vectors

    vectors = session_vectors.ATTACKS | holder_session_vectors.ATTACKS
    return Table(
        "session",
        (*RULES, *HOLDER_RULES),
        {
            "client": (SiteSession,),
            "server": (ServerSession,),
            "holder": (HolderSession,),
            "party": (SiteSession, ServerSession),
        },
        lambda rule: vectors.get((rule.party, rule.id)),
    )


def audit_table() -> Table:
    """What an audit of transcripts looks for. No party refuses by it, so nothing is played."""
    from secagg.session.audit_rules import AUDIT_RULES

    why = (
        "these rules judge recorded transcripts and refuse nothing in a round; each has its "
        "attack and its control in tests/session/test_verify.py"
    )
    return Table("audit of transcripts", AUDIT_RULES, {}, lambda _: None, why)


def all_tables() -> tuple[Table, ...]:
    """Every rule table of the package."""
    return (
        masked_table(),
        paillier_table(),
        enrolment_table(),
        journal_table(),
        ledger_table(),
        session_table(),
        audit_table(),
    )


__all__ = [
    "Table",
    "all_tables",
    "audit_table",
    "enrolment_table",
    "journal_table",
    "ledger_table",
    "masked_table",
    "paillier_table",
    "session_table",
]
