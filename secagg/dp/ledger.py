"""The privacy budget of one site over one data set, kept in a register of the site's journal.

Sending a masked input is a release, whatever becomes of the round: the sum may be opened where
the site never hears of it. So an input is charged before it is sent, at the worst case that its
plan allows (the fewest survivors, less the colluding sites), for a site that surely takes part
(no sampling amplification), and never refunded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from secagg_protocols.errors import BudgetError, MisuseError, PlanError
from secagg_protocols.journal import Journal, journal_calls
from secagg_protocols.plan import Plan
from secagg_protocols.registers import data_name, ledger_register

from . import mechanisms
from .accounting import compose
from .claims import ADJACENCIES, ADVERSARIES, Adjacency, Adversary
from .mechanisms import Mechanism
from .plan_noise import with_shares

#: Most different mechanisms over one data set, since accountants look at each of them for every
#: input, and a register holds at most 1 MiB.
MOST_MECHANISMS: Final = 256
#: Rounds whose tags are kept. A tag is needed from the charge of a round until its input is in
#: the journal, where a crash fell between the two and the vector is submitted again. At most one
#: round of a session is at that point, so the last ones are enough; a tag that was dropped all
#: the same makes its round be charged twice, and no round is ever charged less than once.
MOST_TAGS: Final = 128
#: A whole digest, unlike a tag that counts inputs of one model: the server has a say in what it
#: is made of, and two rounds with one tag would be charged as one.
_TAG_SIZE: Final = 32
_MOST_ROUNDS: Final = 1 << 40
_MOST_SITE: Final = 64
_FORM: Final = 1

#: Mechanisms that a register may name.
_KINDS: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        mechanisms.DiscreteGaussianSum,
        mechanisms.SkellamSum,
        mechanisms.DiscreteLaplaceSum,
        mechanisms.CentralDiscreteGaussian,
    )
}

Charges = dict[Mechanism, int]


class Charge(NamedTuple):
    """One line of a ledger: a mechanism and the inputs that were sent under it."""

    mechanism: Mechanism
    rounds: int


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A mechanism as a register holds it: exact integers in decimal, exact floats in hex."""

    kind: str
    values: tuple[str, ...]
    rounds: int


class _Register(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All that is kept. ``highest``: delta and the largest epsilon that was stated for it."""

    form: int
    adjacency: str
    rows: tuple[_Row, ...]
    tags: tuple[bytes, ...]
    highest: tuple[str, str]


class _Kept(NamedTuple):
    """A register, understood."""

    charges: Charges
    tags: tuple[bytes, ...]
    highest: tuple[float, float]  # delta, epsilon


class Ledger:
    """The (epsilon, delta) budget of ``site`` over ``data``.

    journal: the site's own, which its parties claim their steps in; a
        :class:`~secagg.FileJournal` where a restart must not forget.
    site: its name in every roster. data: the name that it gave the data, as for
        :func:`secagg.client`. What was spent belongs to these two names, over all plans,
        sessions, epochs and keys: whatever a server can start anew does not start the budget
        anew.
    epsilon, delta: the budget. It is the site's own configuration and is not stored: with other
        numbers, the same charges are counted against them.
    adjacency: ``"zero-out"`` or ``"replace-one"``: what neighbouring data are. A plan that was
        calibrated for the other one is charged at its sensitivity under this one.
    adversary: whom the budget is held against. To the ``"server"``, noise that it adds itself is
        none; to a ``"model-consumer"``, who sees only what is published, it counts.

    colluding: sites whose noise this site does not count, whatever a plan says; the larger of
        this and ``plan.colluding``.

    Give it to :func:`secagg.client` or :class:`secagg.SiteSession`. A plan without noise is
    refused (:class:`~secagg.BudgetError`, ``no-noise``), and so is an input that would overspend
    (``budget``): nothing is charged and nothing is sent then, and the others go on without it.
    What cannot be read, written or computed (``extra``: no accountant is installed) is a
    :class:`~secagg.MisuseError`, and nothing is sent either.
    """

    __slots__ = (
        "_register",
        "adjacency",
        "adversary",
        "colluding",
        "data",
        "delta",
        "epsilon",
        "journal",
        "site",
    )

    def __init__(
        self,
        journal: Journal,
        site: str,
        *,
        data: str,
        epsilon: float,
        delta: float,
        adjacency: Adjacency = "zero-out",
        adversary: Adversary = "server",
        colluding: int = 0,
    ) -> None:
        if not all(callable(getattr(journal, name, None)) for name in ("read", "swap")):
            raise _wrong("a journal has read and swap (FileJournal)")
        if not isinstance(site, str) or not 1 <= len(site) <= _MOST_SITE or not site.isprintable():
            raise _wrong(f"site is a name of 1 to {_MOST_SITE} printable characters")
        if adjacency not in ADJACENCIES:
            raise _wrong(f"adjacency is one of {', '.join(ADJACENCIES)}")
        if adversary not in ADVERSARIES:
            raise _wrong(f"adversary is one of {', '.join(ADVERSARIES)}")
        self.journal = journal
        self.site = site
        self.data = data_name(data)
        self.epsilon = _positive(epsilon, "epsilon")
        self.delta = _probability(delta)
        if type(colluding) is not int or colluding < 0:
            raise _wrong("colluding is a number of sites")
        self.adjacency = adjacency
        self.adversary = adversary
        self.colluding = colluding
        self._register = ledger_register(site, data)

    def __repr__(self) -> str:
        return (
            f"Ledger(site={self.site!r}, data={self.data!r}, epsilon={self.epsilon!r}, "
            f"delta={self.delta!r}, adjacency={self.adjacency!r}, adversary={self.adversary!r})"
        )

    # What a party calls.

    def serve(self, journal: Journal, site: str, data: str) -> None:
        """Refuse to serve another site, other data, or a party of another journal."""
        self._check_ledger_owner(journal, site, data)

    def check(self, plan: Plan, tag: bytes) -> None:
        """Raise what :meth:`charge` would, and change nothing."""
        mechanism, kept = self._mechanism(plan), self._kept()
        if tag not in kept.tags:
            self._charged(kept, mechanism, tag)

    def charge(self, plan: Plan, tag: bytes) -> None:
        """Charge one input under ``plan``; on return the charge is durable.

        tag: the round context, 32 bytes. The same tag again charges nothing: in the same journal
        the claim of the input allows one input of a round, so the charge stands for the same one.

        :class:`~secagg.BudgetError` where the plan has no noise or the budget does not bear it.
        """
        if type(tag) is not bytes or len(tag) != _TAG_SIZE:
            raise _wrong(f"a tag is {_TAG_SIZE} bytes")
        mechanism = self._mechanism(plan)
        while True:
            with journal_calls():
                stored = self.journal.read(self._register)
            kept = self._understood(stored)
            # Written also where it stays the same: the process that wrote it may have died
            # before it was durable.
            new = stored if tag in kept.tags else self._charged(kept, mechanism, tag)
            try:
                with journal_calls():
                    self.journal.swap(self._register, stored, new)
                return
            except MisuseError as error:
                # Another process of this site was faster; what it charged counts as well.
                if error.rule != "journal-swap":
                    raise

    # What it tells.

    def entries(self) -> tuple[Charge, ...]:
        """All charges, in the register's order."""
        return tuple(Charge(*pair) for pair in self._kept().charges.items())

    def spent(self, delta: float | None = None) -> float:
        """Epsilon of all charges at ``delta`` (the ledger's, where none is given)."""
        return self._total(self._kept(), self.delta if delta is None else _probability(delta))

    @property
    def remaining(self) -> float:
        """Epsilon that is left at the ledger's delta, not below 0.

        Charges compose to less than their sum, so that a further input may cost less than it
        would alone: :meth:`affords` tells.
        """
        return max(0.0, self.epsilon - self.spent())

    def affords(self, plan: Plan, rounds: int = 1) -> bool:
        """Whether ``rounds`` more inputs under ``plan`` are within the budget."""
        if type(rounds) is not int or not 1 <= rounds <= _MOST_ROUNDS:
            raise _wrong(f"rounds: an integer from 1 to {_MOST_ROUNDS}")
        if not self._noisy(plan):
            return False
        mechanism = self._mechanism(plan)
        return self._total_with(self._kept(), mechanism, rounds) <= self.epsilon

    def rounds_left(self, plan: Plan, most: int = 1_000_000) -> int:
        """How many more inputs under ``plan`` are within the budget, ``most`` at the most."""
        if type(most) is not int or not 1 <= most <= _MOST_ROUNDS:
            raise _wrong(f"most: an integer from 1 to {_MOST_ROUNDS}")
        if not self._noisy(plan):
            return 0
        mechanism, kept = self._mechanism(plan), self._kept()

        def fits(rounds: int) -> bool:
            return self._total_with(kept, mechanism, rounds) <= self.epsilon

        low, high = 0, 1
        while high < most and fits(high):
            low, high = high, 2 * high
        high = min(high, most + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def report(self) -> str:
        """The state of the budget, a line for each mechanism. Only a report: what an input costs
        is decided when it is sent."""
        kept = self._kept()
        spent = self._total(kept, self.delta)
        lines = [
            f"data {self.data!r} of site {self.site!r}, adjacency {self.adjacency}, "
            f"adversary {self.adversary}",
            f"epsilon {spent:.6g} of {self.epsilon:g} spent at delta {self.delta:g}, "
            f"{max(0.0, self.epsilon - spent):.6g} left",
        ]
        lines += [f"{rounds} x {mechanism}" for mechanism, rounds in kept.charges.items()]
        return "\n".join(lines)

    # Rules. Ids, texts and attacks: secagg_protocols/ledger.py.

    def _check_ledger_owner(self, journal: Journal, site: str, data: str) -> None:
        if site != self.site or data != self.data:
            raise MisuseError(
                f"this ledger is of data {self.data!r} of site {self.site!r}, and the party of "
                f"data {data!r} of site {site!r}",
                rule="ledger-owner",
            )
        if journal is not self.journal:
            raise MisuseError(
                "the ledger is in another journal than its party's steps; make it with the same "
                "journal object",
                rule="ledger-owner",
            )

    def _check_ledger_adjacency(self, stored: str) -> None:
        if stored != self.adjacency:
            raise MisuseError(
                f"the ledger of data {self.data!r} is kept under adjacency {stored!r}, not "
                f"{self.adjacency!r}",
                rule="ledger-adjacency",
            )

    def _check_no_noise(self, plan: Plan) -> None:
        if not self._noisy(plan):
            raise BudgetError(
                f"the plan has no noise against the {self.adversary}, so no budget bears an input "
                f"of data {self.data!r}",
                rule="no-noise",
            )

    def _check_ledger_full(self, charges: Charges) -> None:
        if len(charges) > MOST_MECHANISMS:
            raise BudgetError(
                f"data {self.data!r} were charged under {MOST_MECHANISMS} different mechanisms, "
                "and none is ever dropped; plans whose noise is the same share one",
                rule="ledger-full",
            )

    def _check_budget(self, kept: _Kept, total: float) -> None:
        # Also a total that is no number is refused.
        if not total <= self.epsilon:
            left = max(0.0, self.epsilon - self._total(kept, self.delta))
            raise BudgetError(
                f"with this input the epsilon of data {self.data!r} at delta {self.delta:g} would "
                f"be {total:.6g}; the budget is {self.epsilon:g}, of which {left:.6g} are left",
                rule="budget",
            )

    # How it works.

    def _mechanism(self, plan: Plan) -> Mechanism:
        """The mechanism of an input under ``plan`` at worst case, under this adjacency."""
        self._check_no_noise(plan)
        shares = plan.min_survivors - max(plan.colluding, self.colluding)
        noise = plan.pipeline.noise
        if noise is not None and not noise.central and shares < max(1, noise.shares):
            # Less noise than the plan's own count, and none that an accountant could bound.
            raise BudgetError(
                f"with {self.colluding} colluding sites, too few honest ones carry the noise",
                rule="no-noise",
            )
        return with_shares(plan, shares, self.adjacency)

    def _charged(self, kept: _Kept, mechanism: Mechanism, tag: bytes) -> bytes:
        """The register with one more input; refused where it is too much."""
        charges = _plus(kept.charges, mechanism, 1)
        self._check_ledger_full(charges)
        total = self._total_with(kept, mechanism, 1)
        self._check_budget(kept, total)
        tags = (*kept.tags, tag)[-MOST_TAGS:]
        return _pack(_Kept(charges, tags, (self.delta, total)), self.adjacency)

    def _total_with(self, kept: _Kept, mechanism: Mechanism, rounds: int) -> float:
        charges = _plus(kept.charges, mechanism, rounds)
        return self._total(kept._replace(charges=charges), self.delta)

    def _total(self, kept: _Kept, delta: float) -> float:
        """Epsilon of all charges at ``delta``.

        Accountants bound it from above, some more tightly than others: what was stated once for
        the same delta is not taken back by the next one.
        """
        if not kept.charges:
            return 0.0
        if not all(map(self._counts, kept.charges)):
            return math.inf
        total = _compose(kept.charges.items(), delta)
        at, highest = kept.highest
        return max(total, highest) if at == delta else total

    def _counts(self, mechanism: Mechanism) -> bool:
        """Whether this adversary meets its noise."""
        central = isinstance(mechanism, mechanisms.CentralDiscreteGaussian)
        return self.adversary != "server" or not central

    def _noisy(self, plan: Plan) -> bool:
        if not isinstance(plan, Plan):
            raise _wrong(f"a Plan is needed, not a {type(plan).__name__}")
        noise = plan.pipeline.noise
        return noise is not None and not (noise.central and self.adversary == "server")

    def _kept(self) -> _Kept:
        with journal_calls():
            stored = self.journal.read(self._register)
        return self._understood(stored)

    def _understood(self, stored: bytes) -> _Kept:
        """What a register holds; nothing charged where nothing is stored."""
        if not stored:
            return _Kept({}, (), (0.0, 0.0))
        try:
            register = msgspec.msgpack.decode(stored, type=_Register)
            kept = _unpack(register)
            # One content has one form, so whatever else differs was not written by a ledger.
            right = register.form == _FORM and _pack(kept, register.adjacency) == stored
        except (msgspec.MsgspecError, PlanError, ValueError, TypeError, KeyError, OverflowError):
            right = False
        if not right:
            raise MisuseError(
                f"the ledger of data {self.data!r} is damaged, or of another version",
                rule="journal-file",
            )
        self._check_ledger_adjacency(register.adjacency)
        return kept


def _compose(charges: Iterable[tuple[Mechanism, int]], delta: float) -> float:
    try:
        return compose(charges, delta=delta)
    except PlanError as error:
        if error.rule != "noise-too-small":
            raise
        return math.inf


def _plus(charges: Charges, mechanism: Mechanism, rounds: int) -> Charges:
    return charges | {mechanism: charges.get(mechanism, 0) + rounds}


def _pack(kept: _Kept, adjacency: str) -> bytes:
    """The canonical form: rows sorted by mechanism, tags by age."""
    rows = [
        _Row(type(m).__name__, tuple(_text(getattr(m, f.name)) for f in fields(m)), rounds)
        for m, rounds in kept.charges.items()
    ]
    rows.sort(key=lambda row: (row.kind, row.values))
    delta, epsilon = kept.highest
    register = _Register(_FORM, adjacency, tuple(rows), kept.tags, (delta.hex(), epsilon.hex()))
    return msgspec.msgpack.encode(register)


def _unpack(register: _Register) -> _Kept:
    """Inverse of :func:`_pack`; ``ValueError`` and its like for what is no ledger."""
    charges: Charges = {}
    for row in register.rows:
        kind = _KINDS[row.kind]
        names = [f.name for f in fields(kind)]
        values = dict(zip(names, map(_number, row.values), strict=True))
        if not 1 <= row.rounds <= _MOST_ROUNDS:
            raise ValueError
        charges[kind(**values)] = row.rounds
    delta, epsilon = (float.fromhex(text) for text in register.highest)
    tags = register.tags
    if not charges or not 1 <= len(tags) <= MOST_TAGS or any(len(t) != _TAG_SIZE for t in tags):
        raise ValueError
    if not (0 <= delta < 1 and 0 <= epsilon < math.inf):
        raise ValueError
    return _Kept(charges, tags, (delta, epsilon))


def _text(value: float) -> str:
    return value.hex() if isinstance(value, float) else str(value)


def _number(text: str) -> float:
    return float.fromhex(text) if "x" in text else int(text)


def _real(value: object, name: str, low: float, high: float) -> float:
    """A float in (low, high), whatever kind of number it is."""
    right = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
    if not right or not low < value < high:  # type: ignore[operator]
        raise _wrong(f"{name} is a float above {max(low, 0):g} and below {high:g}, not {value!r}")
    return float(value)  # type: ignore[arg-type]


def _positive(value: object, name: str) -> float:
    return _real(value, name, 0.0, 1e300)


def _probability(value: object) -> float:
    # 0 asks for a pure guarantee, which Laplace noise alone has.
    return 0.0 if value == 0 and not isinstance(value, bool) else _real(value, "delta", 0.0, 1.0)


def _wrong(text: str) -> MisuseError:
    return MisuseError(text, rule="arguments")


__all__ = ["MOST_MECHANISMS", "MOST_TAGS", "Charge", "Ledger"]
