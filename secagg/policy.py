"""A site's policy in one file: what it insists on, whatever a plan says, and what that prevents.

The file is TOML. Its plain fields are those of :class:`secagg.Floors`, so every floors file is a
policy. The table of models is another way to write the floor ``models``; the other tables are
settings that floors do not have::

    smallest_cohort = 5
    malicious_server = true

    [models]
    allowed = ["<SHA-256 of a model file, in hexadecimal>"]

    [privacy]
    most_epsilon = 4.0
    most_delta = 1e-5

    [censoring]
    q = 3
    beta = 0.5

Without ``q`` it is 2, and without ``beta`` it is 1, as in :func:`secagg.censoring.censor`.

A policy can only refuse. What it says of attacks are ids of the threat laboratory's catalogue
(``secagg attack list``), where each can be run.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from secagg.censoring import censor
from secagg_protocols.errors import MisuseError
from secagg_protocols.floors import Floors, unknown_names
from secagg_protocols.party import checked_model
from secagg_protocols.plan import Plan
from secagg_protocols.wire import Buffer

FILE_RULE: Final = "policy-file"
EPSILON_RULE: Final = "policy-epsilon"
#: Attacks on the result that no setting of a site stops: they come from other sites.
NOT_PREVENTED: Final = ("scaling", "wrap-poisoning", "garbage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Censoring:
    """Parameters of :func:`secagg.censoring.censor`. q: fewest samples that must have moved a
    neuron, from 1; beta: largest part of one sample in it, above 0 and at most 1."""

    q: int = 2
    beta: float = 1.0

    def __post_init__(self) -> None:
        if type(self.q) is not int or self.q < 1:
            raise _wrong("censoring.q", "a number of samples, from 1")
        if type(self.beta) not in {int, float} or not 0 < self.beta <= 1:
            raise _wrong("censoring.beta", "above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLine:
    """One setting, as it is explained.

    setting: its name in the file. demands: what it asks for, or that it is not set. prevents,
    limits: ids of attacks that it stops, or makes less of, where it is given: where ``given`` is
    false they are what stays open. why: how. missing: what stays open in words. found, holds: what
    a plan or a model has and whether that is enough; ``None`` where none was given.
    """

    setting: str
    demands: str
    prevents: tuple[str, ...]
    limits: tuple[str, ...]
    why: str
    missing: str
    given: bool
    found: str = ""
    holds: bool | None = None


@dataclass(frozen=True, slots=True)
class _Setting:
    demands: str
    prevents: tuple[str, ...]
    limits: tuple[str, ...]
    why: str
    missing: str


_SETTINGS: Final[dict[str, _Setting]] = {
    "smallest_cohort": _Setting(
        "at least {} {site} in every sum",
        (),
        ("small-cohort", "disaggregation", "membership"),
        "in a sum over few sites a vector is easily told from the others",
        "a plan may sum over as few sites as its own rules allow",
    ),
    "min_honest": _Setting(
        "at least {} honest {site} in every sum, colluders and dropouts not counted",
        ("small-cohort",),
        ("sybils",),
        "whoever colludes subtracts its own vectors; what is left must be several sites'",
        "two honest sites in a sum are enough for a plan",
    ),
    "share_threshold": _Setting(
        "at least {} {share} to rebuild a secret",
        (),
        ("split-view", "vote-splitting", "neighbour-capture"),
        "fewer colluders than that can rebuild nobody's secrets",
        "the plan decides how many shares rebuild a secret",
    ),
    "noise_variance": _Setting(
        "noise of variance {} or more in each coordinate of a sum",
        (),
        ("membership", "sratta", "imprint", "sparse-coordinates", "disaggregation"),
        "an exact sum shows what an exact sum shows; only noise takes something away from it",
        "sums may be exact",
    ),
    "colluding": _Setting(
        "the plan counts on at least {} colluding {site}",
        (),
        ("small-cohort", "sybils", "split-view"),
        "thresholds and cohorts are calculated for that many",
        "the plan decides how many sites may collude before its promise ends",
    ),
    "most_rounds": _Setting(
        "at most {} {round} of a session",
        (),
        ("disaggregation",),
        "each further sum over another cohort is an equation about single sites",
        "as many rounds as the server likes",
    ),
    "most_inputs_per_model": _Setting(
        "at most {} masked {input} for one model",
        (),
        ("disaggregation",),
        "a round that is repeated with other sites gives two sums whose difference is few sites'",
        "as many inputs for one model as the plan allows",
    ),
    "malicious_server": _Setting(
        "only plans that hold against a server that does not follow the protocol",
        ("split-view", "vote-splitting", "key-substitution"),
        ("replay",),
        "everything is signed, and sites consent to one list of survivors before they reveal; "
        "Paillier sums are refused unless paillier_key names their key",
        "plans that trust the server to follow the protocol are accepted",
    ),
    "paillier_key": _Setting(
        "Paillier sums under the key {} only",
        ("key-substitution",),
        ("key-holder", "bad-modulus"),
        "a server that names a key of its own could read every vector",
        "where malicious_server is set, Paillier sums are refused; else any key is accepted",
    ),
    "models": _Setting(
        "a model of the site's list ({} listed, by SHA-256)",
        ("imprint",),
        ("sratta", "model-inconsistency"),
        "a model that was made to write single records into the update is not trained on, as long "
        "as nobody lists it; of two listed models the server may still send each to some sites",
        "whatever model the server sends is trained on",
    ),
    "privacy.most_epsilon": _Setting(
        "a plan that claims differential privacy with epsilon of at most {}",
        (),
        ("membership", "sratta", "imprint", "sparse-coordinates", "small-cohort"),
        "the plan claims a bound on what anybody learns of one record, and no party checks the "
        "claim: do so with `secagg dp audit`, and keep your own account with `party start "
        "--budget`",
        "nothing bounds what sums show of a record",
    ),
    "privacy.most_delta": _Setting(
        "a claim with delta of at most {}",
        (),
        ("membership",),
        "delta is the chance with which epsilon may be exceeded",
        "any delta is accepted",
    ),
    "censoring": _Setting(
        "{}",
        (),
        ("sratta",),
        "neurons that few samples moved contribute nothing; the site applies it to its update "
        "(`Policy.censor`), a plan cannot",
        "samples that alone activate a neuron can be read off exact sums",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a site insists on. ``None`` sets no limit; see :func:`load_policy` for the file.

    limits: the floors, with the models that may be trained on. most_epsilon, most_delta: largest
    that a plan may claim. censoring: see :class:`Censoring`.
    :class:`MisuseError` (``policy-file``) for a value that is none.
    """

    limits: Floors = field(default_factory=Floors)
    most_epsilon: float | None = None
    most_delta: float | None = None
    censoring: Censoring | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.limits, Floors):
            raise _wrong("limits", "Floors are needed")
        for name, most, wanted in (
            ("most_epsilon", math.inf, "a finite number above 0"),
            ("most_delta", 1.0, "a number above 0 and below 1"),
        ):
            value = getattr(self, name)
            # Written so that a NaN, which compares as nothing, is refused.
            if value is not None and not (type(value) in {int, float} and 0 < value < most):
                raise _wrong(f"privacy.{name}", wanted)
        if self.most_delta is not None and self.most_epsilon is None:
            raise _wrong("privacy.most_delta", "needs most_epsilon beside it")
        if self.censoring is not None and not isinstance(self.censoring, Censoring):
            raise _wrong("censoring", "a table of q and beta")

    def floors(self) -> Floors:
        """The floors, as parties and sessions take them (``floors=``).

        They enforce the list of models as well, wherever a site learns the model. They do *not*
        hold ``most_epsilon``, ``most_delta`` and ``censoring``: a party or session with them has
        no limit of epsilon. Call :meth:`check` with the plan before it is made, and
        :meth:`censor` on the update.
        """
        return self.limits

    @property
    def limits_claims(self) -> bool:
        """Whether this limits what a plan may claim: :meth:`check` looks at it, no party does."""
        return self.most_epsilon is not None or self.most_delta is not None

    def allow_model(self, model: Buffer) -> None:
        """Raise :class:`MisuseError` (``model-allowed``) for a model that is not listed.

        model: its bytes as they were broadcast. A party with these floors refuses the model too,
        before it sends anything for it; this asks before anything is trained on it.
        """
        self.limits.check_model(hashlib.sha256(_model(model)).digest())

    def check(
        self, plan: Plan, model: Buffer | None = None, *, round_number: int = 0
    ) -> list[PolicyLine]:
        """Raise :class:`MisuseError` unless plan and model meet every setting.

        Rules: ``floors``, ``policy-epsilon``, ``model-allowed``; ``arguments`` for what is no plan
        and no bytes. Without a model the listed hashes are not compared. Returns the lines of
        :meth:`explain`, all of which hold.
        """
        _require_plan(plan)
        self.limits.check(plan, round_number)
        for claim in ("epsilon", "delta"):
            self._check_claim(plan, claim)
        if model is not None:
            self.allow_model(model)
        return self.explain(plan, model, round_number=round_number)

    def explain(
        self, plan: Plan | None = None, model: Buffer | None = None, *, round_number: int = 0
    ) -> list[PolicyLine]:
        """Every setting, also those that are not given, with what it prevents; never raises for a
        plan or a model that falls short: the lines say so."""
        if plan is not None:
            _require_plan(plan)
        if model is not None:
            _model(model)
        return [self._line(name, plan, model, round_number) for name in _SETTINGS]

    def censor(self, update: npt.NDArray[Any], activations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The update as this policy lets it leave: :func:`secagg.censoring.censor` with its
        parameters, or as it is where the policy does not censor."""
        if self.censoring is None:
            return update
        return censor(update, activations, self.censoring.q, self.censoring.beta)

    def _value(self, name: str) -> Any:
        """What the file gives for a setting, or nothing."""
        if name == "models":
            return None if self.limits.models is None else len(self.limits.models)
        if name == "censoring":
            given = self.censoring
            if given is None:
                return None
            return (
                f"a neuron is censored unless at least {_plural(given.q, 'sample')} moved it, none "
                f"by more than {given.beta * 100:g} % of the whole"
            )
        if name.startswith("privacy."):
            return getattr(self, name.partition(".")[2])
        value = getattr(self.limits, name)
        return None if value is False else value

    def _line(
        self, name: str, plan: Plan | None, model: Buffer | None, round_number: int
    ) -> PolicyLine:
        setting, value = _SETTINGS[name], self._value(name)
        found, holds = "", None
        if value is not None:
            try:
                found = self._found(name, plan, model, round_number)
                holds = True if found else None
            except MisuseError as error:
                found, holds = str(error), False
        return PolicyLine(
            setting=name,
            demands="not set" if value is None else _demands(setting.demands, value),
            prevents=setting.prevents,
            limits=setting.limits,
            why=setting.why,
            missing=setting.missing,
            given=value is not None,
            found=found,
            holds=holds,
        )

    def _found(self, name: str, plan: Plan | None, model: Buffer | None, round_number: int) -> str:
        """What plan or model has of one setting; empty where neither speaks of it."""
        if name == "models":
            if model is None:
                return ""
            self.allow_model(model)
            return "the model is listed"
        if plan is None or name == "censoring":
            return ""
        if name.startswith("privacy."):
            claim = name.removeprefix("privacy.most_")
            self._check_claim(plan, claim)
            return f"the plan claims {dict(plan.privacy or ())[claim]}"
        given: dict[str, Any] = {name: getattr(self.limits, name)}
        if name == "malicious_server":
            # That a Paillier key is named is a part of this demand.
            given["paillier_key"] = self.limits.paillier_key
        Floors(**given).check(plan, round_number)
        most = self.limits.most_inputs_per_model
        if name == "most_inputs_per_model" and most is not None:
            # No plan is refused for it: the site's own journal counts.
            planned = plan.max_inputs_per_model
            if planned is None or planned > most:
                return f"the plan allows {planned or 'any number'}, this site sends {most}"
        return "the plan meets it"

    def _check_claim(self, plan: Plan, name: str) -> None:
        most = self.most_epsilon if name == "epsilon" else self.most_delta
        have = dict(plan.privacy or ()).get(name)
        if most is None or (isinstance(have, (int, float)) and have <= most):
            return
        if have is None:
            bare = " (it adds no noise)" if name == "epsilon" and not plan.noise_variance else ""
            claim = f"no {name}{bare}"
        else:
            claim = f"{name} {have}"
        raise MisuseError(
            f"the plan claims {claim}, this site's policy takes at most {most:g}",
            rule=EPSILON_RULE,
        )


def load_policy(path: str | Path) -> Policy:
    """Read a policy, or a floors file, which is one.

    :class:`MisuseError` names the file and the field: ``policy-file`` for tables, ``floors-file``
    for what floors are read from; ``arguments`` for what is no path. Nothing unknown is passed
    over: a setting with a slip of the pen in its name would be one that is not there.
    """
    if not isinstance(path, (str, Path)):
        raise MisuseError(f"a path is needed, not a {type(path).__name__}", rule="arguments")
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        text = getattr(error, "strerror", None) or error
        raise MisuseError(f"{path}: {text}", rule="floors-file") from error
    try:
        return _policy(data)
    except MisuseError as error:
        text = str(error).removesuffix(f" [{error.rule}]")
        raise MisuseError(f"{path}: {text}", rule=error.rule) from error


def _policy(data: dict[str, Any]) -> Policy:
    tables = {"privacy": {"most_epsilon", "most_delta"}, "censoring": {"q", "beta"}}
    if isinstance(data.get("models"), dict):
        tables["models"] = {"allowed"}
    known = {item.name for item in fields(Floors)}
    if {"roster", "protocol"} <= set(data):
        raise MisuseError("this is a plan and no policy; give it as --plan", rule="floors-file")
    unknown = unknown_names(data, {*known, *tables, "models"})
    if unknown:
        raise MisuseError(unknown, rule="floors-file")
    given: dict[str, dict[str, Any]] = {}
    for name, allowed in tables.items():
        table = data.get(name, {})
        if not isinstance(table, dict):
            raise _wrong(name, "a table, as in [privacy]")
        strange = unknown_names(table, allowed)
        if strange:
            raise _wrong(name, strange)
        if name in data and not table:
            raise _wrong(name, f"empty; it holds {' and '.join(sorted(allowed))}")
        given[name] = table
    floors = {name: value for name, value in data.items() if name in known}
    if "models" in given:
        floors["models"] = given["models"]["allowed"]
    return Policy(
        limits=Floors(**floors),
        most_epsilon=given["privacy"].get("most_epsilon"),
        most_delta=given["privacy"].get("most_delta"),
        censoring=Censoring(**given["censoring"]) if "censoring" in data else None,
    )


def _demands(text: str, value: Any) -> str:
    """The demand with its value, and each noun in braces in the plural unless it is one."""
    nouns = ("site", "share", "round", "input")
    return text.format(value, **{noun: noun if value == 1 else f"{noun}s" for noun in nouns})


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _require_plan(plan: object) -> None:
    if not isinstance(plan, Plan):
        text = f"a Plan is needed, not a {type(plan).__name__} (secagg.load_plan reads one)"
        raise MisuseError(text, rule="arguments")


def _model(model: object) -> Buffer:
    try:
        return checked_model(model)
    except MisuseError as error:
        text = f"a model is its bytes, in one piece, not a {type(model).__name__}"
        raise MisuseError(text, rule="arguments") from error


def _wrong(name: str, text: str) -> MisuseError:
    return MisuseError(f"{name}: {text}", rule=FILE_RULE)


__all__ = ["NOT_PREVENTED", "Censoring", "Policy", "PolicyLine", "load_policy"]
