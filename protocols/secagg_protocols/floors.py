"""Floors: what a site insists on, whatever a plan says. A server can only tighten them."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from .errors import MisuseError
from .plan import PaillierSum, Plan
from .wire import DIGEST_SIZE

_MOST_MODELS: Final = 1 << 16
_HASH_WANTED: Final = f"{2 * DIGEST_SIZE} hexadecimal digits"
_LISTS: Final = (tuple, list, set, frozenset)
#: What a field that is not a plain number holds.
_WANTED: Final = {
    "malicious_server": "true or false",
    "paillier_key": f"the id of a key, {_HASH_WANTED}",
    "noise_variance": "a finite number, 0 or more",
    "models": f"a list of 1 to {_MOST_MODELS} SHA-256, {_HASH_WANTED} each",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """Lower limits in the site's own file; ``None`` sets no limit.

    smallest_cohort: fewest survivors of a sum (``plan.min_survivors``).
    min_honest: fewest honest survivors after dropouts and colluders.
    share_threshold: fewest shares that rebuild a secret.
    noise_variance: least noise in each coordinate of a sum that the plan's stages must promise,
        in the vector's units squared (``plan.noise_variance``).
    colluding: fewest sites that the plan must count as colluding.
    most_rounds: rounds are numbered from 0, and this many are allowed.
    most_inputs_per_model: masked inputs that may be sent for one broadcast model; the smaller
        of this and ``plan.max_inputs_per_model`` counts, in the site's journal.
    malicious_server: refuse plans that trust the server to follow the protocol.
    paillier_key: id of the one Paillier key that this site encrypts under, in hexadecimal: a
        server that names a key of its own would read what it is sent. With ``malicious_server``,
        plans of Paillier sums are refused without it. It says nothing of masked sums.
    models: SHA-256 of the broadcast models that this site takes part with, in hexadecimal, 1 to
        2^16 of them, in a tuple, a list or a set (kept sorted, in lower case); whoever sends
        nothing binds the empty model. It says nothing of a holder, which trains on no model.

    :class:`MisuseError` (``floors-file``) names a field of another value and what it holds.
    """

    smallest_cohort: int | None = None
    min_honest: int | None = None
    share_threshold: int | None = None
    noise_variance: float | None = None
    colluding: int | None = None
    most_rounds: int | None = None
    most_inputs_per_model: int | None = None
    malicious_server: bool = False
    paillier_key: str | None = None
    models: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value, which = getattr(self, item.name), ""
            if item.name == "malicious_server":
                right = type(value) is bool
            elif item.name == "paillier_key":
                right = value is None or _is_digest(value)
            elif item.name == "models":
                right = value is None or _are_digests(value)
                which = "" if right else _no_digest(value)
            elif item.name == "noise_variance":
                # A NaN would compare as below nothing and so switch the floor off.
                right = value is None or (type(value) in {int, float} and 0 <= value < 1e300)
            else:
                right = value is None or (type(value) is int and value >= 0)
            if not right:
                wanted = _WANTED.get(item.name, "a whole number, 0 or more")
                raise MisuseError(f"{item.name} is {wanted}{which}", rule="floors-file")
        if self.models is not None:
            # Files and dumps give a list, in any order.
            object.__setattr__(self, "models", tuple(sorted({m.lower() for m in self.models})))

    @classmethod
    def load(cls, path: str | Path) -> Floors:
        """Read a TOML file with the fields above; unknown fields are refused."""
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            text = getattr(error, "strerror", None) or error
            raise MisuseError(f"{path}: {text}", rule="floors-file") from error
        unknown = unknown_names(data, [item.name for item in fields(cls)])
        if unknown:
            raise MisuseError(f"{path}: {unknown}", rule="floors-file")
        return cls(**data)

    def check(self, plan: Plan, round_number: int) -> None:
        """Raise :class:`MisuseError` where the plan or the round falls below a floor."""
        survivors, threshold = plan.min_survivors, plan.protocol.share_threshold
        pairs = (
            ("smallest_cohort", survivors, self.smallest_cohort),
            ("min_honest", min(plan.min_honest, survivors - plan.colluding), self.min_honest),
            ("share_threshold", threshold, self.share_threshold),
            ("noise_variance", plan.noise_variance, self.noise_variance),
            ("colluding", plan.colluding, self.colluding),
        )
        for name, have, floor in pairs:
            if floor is not None and have < floor:
                raise MisuseError(
                    f"the plan gives {name} {have}, this site's floor is {floor}", rule="floors"
                )
        if self.malicious_server and not plan.signed:
            raise MisuseError("this site takes part only in malicious-server plans", rule="floors")
        if isinstance(plan.protocol, PaillierSum):
            self._require_key(plan.protocol)
        if self.most_rounds is not None and round_number >= self.most_rounds:
            raise MisuseError(
                f"round {round_number} exceeds this site's most_rounds {self.most_rounds}",
                rule="floors",
            )

    def check_model(self, digest: bytes | None) -> None:
        """Raise :class:`MisuseError` (``model-allowed``) for a model that is not listed.

        digest: SHA-256 of the broadcast model; ``None``, a model that is not known, is not listed.
        """
        if self.models is None or (digest is not None and digest.hex() in self.models):
            return
        what = "no model" if digest is None else f"model {digest.hex()}"
        raise MisuseError(
            f"{what}: this site takes part with models that its floors list, and with no other "
            f"(listed: {len(self.models)})",
            rule="model-allowed",
        )

    def _require_key(self, protocol: PaillierSum) -> None:
        if self.paillier_key is None:
            if self.malicious_server:
                raise MisuseError(
                    "a server that is not trusted could name a Paillier key of its own; give "
                    "paillier_key, after comparing the key's id with the holders",
                    rule="floors",
                )
        elif self.paillier_key.lower() != protocol.key.digest.hex():
            raise MisuseError(
                "the plan's Paillier key is not the one that this site's floors name",
                rule="floors",
            )


def unknown_names(given: Iterable[str], known: Iterable[str]) -> str:
    """Which of the names in a file are unknown, each with the nearest known one; else empty."""
    names, told = sorted(known), []
    for name in sorted(set(given) - set(names)):
        near = difflib.get_close_matches(name, names, 1)
        told.append(repr(name) + (f" (is it {near[0]}?)" if near else ""))
    if not told:
        return ""
    return f"unknown {'field' if len(told) == 1 else 'fields'} {', '.join(told)}"


def _is_digest(text: Any) -> bool:
    return (
        type(text) is str
        and len(text) == 2 * DIGEST_SIZE
        and set(text.lower()) <= set("0123456789abcdef")
    )


def _are_digests(listed: Any) -> bool:
    # An empty list would be a site that takes part in nothing, and rather a slip of the pen.
    right = type(listed) in _LISTS and 1 <= len(listed) <= _MOST_MODELS
    return right and all(map(_is_digest, listed))


def _no_digest(listed: Any) -> str:
    """Which entry of a list is wrong, where it is an entry."""
    if type(listed) not in _LISTS or len(listed) > _MOST_MODELS:
        return ""
    wrong = [repr(entry)[:80] for entry in listed if not _is_digest(entry)]
    return f"; {wrong[0]} is not one" if wrong else ""
