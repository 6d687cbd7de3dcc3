"""Controls: a party's class with one defence switched off, to show that the defence matters.

Every security rule is one method, so a control is a subclass that overrides exactly this method.
No constructor, plan or flag switches a rule off: only a subclass does, and :func:`overrides` reads
off its class dictionary what it changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from secagg_protocols.enrolment import ENROLMENT_RULES
from secagg_protocols.errors import MisuseError
from secagg_protocols.journal import JOURNAL_RULES
from secagg_protocols.ledger import LEDGER_RULES
from secagg_protocols.masked_sum import rules as masked
from secagg_protocols.paillier_sum import rules as paillier
from secagg_protocols.rules import Rule
from secagg_protocols.shared_rules import PARTY_RULES

#: Rule of the error about a control that cannot be made.
CONTROL_RULE: Final = "control"
#: What every class dictionary holds, whatever its body says.
_ALWAYS: Final = frozenset(
    {
        "__annotations__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__qualname__",
        "__slots__",
        "__static_attributes__",
        "__weakref__",
    }
)


def _of(party: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules of one party of a sum, those that all its parties share included."""
    return tuple(rule for rule in rules if rule.party in {party, "party"})


def _of_session(party: str) -> tuple[Rule, ...]:
    """The rules of one party of a session, those that every party has included."""
    from secagg.session.rules import HOLDER_RULES, RULES

    return _of(party, (*PARTY_RULES, *RULES, *HOLDER_RULES))


def _table(owner: str) -> tuple[Rule, ...] | None:
    """Rules of the class that is named by its module and name; ``None`` for any other class."""
    match owner.removeprefix("secagg_protocols.").removeprefix("secagg."):
        case "plan.Plan":
            return (*masked.PLAN_RULES, *paillier.PLAN_RULES)
        case "masked_sum.client.Client":
            return _of("client", masked.RULES)
        case "masked_sum.server.Server":
            return _of("server", masked.RULES)
        case "paillier_sum.client.Client":
            return _of("client", paillier.RULES)
        case "paillier_sum.server.Server":
            return _of("server", paillier.RULES)
        case "paillier_sum.holder.Holder":
            return _of("holder", paillier.RULES)
        case "enrolment.Membership":
            return ENROLMENT_RULES
        case "journal.file.FileJournal":
            return JOURNAL_RULES
        case "dp.ledger.Ledger":
            return LEDGER_RULES
        case "session.site.SiteSession":
            return _of_session("client")
        case "session.server.ServerSession":
            return _of_session("server")
        case "session.holder.HolderSession":
            return _of_session("holder")
    return None


def rules_of(kind: type[Any]) -> Mapping[str, Rule]:
    """The rules of a party's class, by id. :class:`MisuseError` for a class that has no table."""
    for base in kind.__mro__:
        found = _table(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            return {rule.id: rule for rule in found}
    raise MisuseError(f"no rule table speaks of {kind.__name__}", rule=CONTROL_RULE)


def _nothing(_self: Any, *_arguments: Any, **_named: Any) -> None:
    """In the place of a check: everything passes."""


def without(kind: type[Any], *rules: str) -> type[Any]:
    """``kind`` with exactly these rules switched off; the control's dictionary holds nothing else.

    kind: the class of a party, of a plan, of a session, or one derived from it. rules: ids of the
    table of that party. :class:`MisuseError` for an id that its table does not have, and for a
    rule whose method the class does not have: such a control would change nothing.
    """
    known = rules_of(kind)
    if not rules or len(set(rules)) != len(rules):
        raise MisuseError("a control names rules, each of them once", rule=CONTROL_RULE)
    for rule in rules:
        if rule not in known:
            raise MisuseError(f"{kind.__name__} has no rule {rule!r}", rule=CONTROL_RULE)
    return changed(kind, **{known[rule].method: _nothing for rule in rules})


def changed(kind: type[Any], /, **methods: Any) -> type[Any]:
    """``kind`` with these methods in the place of its own, for a feature that is weakened.

    :class:`MisuseError` for a name that the class does not have: it would override nothing.
    """
    if not methods:
        raise MisuseError("a control changes something", rule=CONTROL_RULE)
    for name in methods:
        if not hasattr(kind, name):
            raise MisuseError(f"{kind.__name__} has no method {name!r}", rule=CONTROL_RULE)
    if not kind.__dictoffset__:
        # A plan has slots only, and so has its control: it takes no attribute that is no field.
        methods["__slots__"] = ()
    return type(f"Weak{kind.__name__}", (kind,), methods)


def overrides(kind: type[Any], control: type[Any]) -> set[str]:
    """Names that ``control``, a subclass of ``kind``, defines anew: by its class dictionaries.

    :class:`MisuseError` where it is no subclass, or draws names from elsewhere: from a class
    beside ``kind`` they would not be seen.
    """
    if not issubclass(control, kind):
        raise MisuseError(f"{control.__name__} is no {kind.__name__}", rule=CONTROL_RULE)
    above = set(kind.__mro__)
    return {
        name
        for between in control.__mro__
        if between not in above
        for name in vars(between)
        if name not in _ALWAYS
    }


__all__ = ["CONTROL_RULE", "changed", "overrides", "rules_of", "without"]
