"""Who falls silent, in which round and at which step: drop schedules of a simulation.

A schedule is data of a demonstration, like the vectors. Nothing in it reaches a key, a mask or a
share: those come from the operating system in every run.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from secagg_protocols.errors import MisuseError
from secagg_protocols.events import Step

#: Round label -> step -> the sites that fall silent before sending it.
Schedule = dict[str, dict[Step, tuple[str, ...]]]

_RULE = "drop-schedule"


def parse_drops(texts: Iterable[str], labels: Sequence[str], names: Sequence[str]) -> Schedule:
    """The schedule of options such as ``input:site-01,site-02`` or ``training-2/share:site-03``.

    Without a round, the first one is meant. :class:`MisuseError` names what is wrong.
    """
    schedule: Schedule = {}
    for text in texts:
        place, colon, sites = text.partition(":")
        round_name, slash, step = place.rpartition("/")
        if not colon:
            raise MisuseError(f"{text!r} is not [ROUND/]STEP:SITE,SITE", rule=_RULE)
        label = _label(round_name.strip(), labels) if slash else labels[0]
        chosen = [site.strip() for site in sites.split(",") if site.strip()]
        _add(schedule, label, step.strip(), chosen, names)
    return schedule


def parse_schedule(text: str, labels: Sequence[str], names: Sequence[str]) -> Schedule:
    """The schedule of a TOML file: a table per round (label, or number from 1), step -> sites.

    For example ``[training-2]`` with ``share = ["site-03"]``. :class:`MisuseError` names what is
    wrong: the TOML, a round, a step, a site.
    """
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MisuseError(f"the schedule is not TOML: {error}", rule=_RULE) from error
    schedule: Schedule = {}
    for round_name, steps in data.items():
        label = _label(round_name, labels)
        if not isinstance(steps, dict):
            raise MisuseError(f"{round_name!r} is not a table of steps", rule=_RULE)
        for step, sites in steps.items():
            if not isinstance(sites, list) or not all(isinstance(site, str) for site in sites):
                raise MisuseError(f"{round_name}.{step} is not a list of sites", rule=_RULE)
            _add(schedule, label, step, sites, names)
    return schedule


def draw_schedule(
    rate: float,
    seed: int,
    labels: Sequence[str],
    names: Sequence[str],
    steps: Sequence[Step],
    *,
    once: bool,
) -> Schedule:
    """Sites that leave at random: each with probability ``rate``, at a step drawn evenly.

    once: over the whole run, at a round drawn evenly (fixed data: a site that left stays out);
    otherwise in every round anew. :class:`MisuseError` for a rate outside 0..1.
    """
    import numpy as np

    if not 0 <= rate <= 1:
        raise MisuseError("a drop rate lies in 0..1", rule=_RULE)
    # A seeded generator is right here and nowhere near keys or masks: it only deals the schedule
    # of a demonstration, and a run has to be repeatable.
    rng = np.random.default_rng([seed, 1])
    schedule: Schedule = {}
    if not rate:
        return schedule
    for label in ("once",) if once else labels:
        for name in names:
            leaves, place, step = rng.random(), rng.integers(len(labels)), rng.choice(steps)
            if leaves < rate:
                at = schedule.setdefault(labels[int(place)] if once else label, {})
                at[Step(int(step))] = (*at.get(Step(int(step)), ()), name)
    return schedule


def merge(*schedules: Mapping[str, Mapping[Step, tuple[str, ...]]]) -> Schedule:
    """One schedule of several; a site named twice in a round leaves at the earlier step."""
    merged: Schedule = {}
    for schedule in schedules:
        for label, steps in schedule.items():
            for step, sites in steps.items():
                at = merged.setdefault(label, {})
                at[step] = tuple(dict.fromkeys((*at.get(step, ()), *sites)))
    return merged


def check_paillier_steps(
    schedule: Mapping[str, Mapping[Step, Iterable[str]]], holders: Iterable[str]
) -> None:
    """Raise :class:`MisuseError` for a step that a party of a Paillier sum does not send."""
    held = frozenset(holders)
    for steps in schedule.values():
        for step, names in steps.items():
            for name in names:
                sends = Step.REVEAL if name in held else Step.INPUT
                if step != sends:
                    raise MisuseError(
                        f"{name} sends nothing with {step.label}: in a Paillier sum sites send "
                        "the input, and holders the reveal",
                        rule=_RULE,
                    )


def silent_sites(
    schedule: Mapping[str, Mapping[Step, Iterable[str]]], label: str, slot: int
) -> set[str]:
    """Sites that are silent in the exchange ``slot`` (a step's number) of round ``label``.

    A site leaves with the exchange that carries its step and stays away to the end of the round.
    Adverts and shares of the next round travel with the inputs and reveals of this one, so a site
    that leaves the next round at those steps is silent from there on.
    """
    gone = {s for step, sites in schedule.get(label, {}).items() if step <= slot for s in sites}
    ahead = schedule.get(next_label(label), {})
    for step, carried_by in ((Step.ADVERTISE, Step.INPUT), (Step.SHARE, Step.REVEAL)):
        if carried_by <= slot:
            gone.update(ahead.get(step, ()))
    return gone


def next_label(label: str) -> str:
    """The round after ``label`` where labels count (``cox-1``, ``cox-2``); else no round's."""
    found = re.fullmatch(r"(.*?)([0-9]+)", label, re.DOTALL)
    return f"{found[1]}{int(found[2]) + 1}" if found else ""


def _label(name: str, labels: Sequence[str]) -> str:
    if name in labels:
        return name
    if name.isdecimal() and 1 <= int(name) <= len(labels):
        return labels[int(name) - 1]
    known = ", ".join(labels) if len(labels) <= 4 else f"{labels[0]}, {labels[1]}, ... {labels[-1]}"
    raise MisuseError(f"no round {name!r}; rounds are {known}, or numbers from 1", rule=_RULE)


def _add(
    schedule: Schedule, label: str, step: str, sites: Sequence[str], names: Sequence[str]
) -> None:
    try:
        key = Step.of(int(step) if step.isdecimal() else step)
    except ValueError:
        known = ", ".join(f"{s.value} {s.label}" for s in Step)
        raise MisuseError(f"no step {step!r}; steps are {known}", rule=_RULE) from None
    if not sites:
        raise MisuseError(f"no site is named for step {key.label}", rule=_RULE)
    for site in sites:
        if site not in names:
            raise MisuseError(
                f"no site {site!r}; sites are {names[0]}, ... {names[-1]}", rule=_RULE
            )
    at = schedule.setdefault(label, {})
    at[key] = tuple(dict.fromkeys((*at.get(key, ()), *sites)))


__all__ = [
    "Schedule",
    "check_paillier_steps",
    "draw_schedule",
    "merge",
    "next_label",
    "parse_drops",
    "parse_schedule",
    "silent_sites",
]
