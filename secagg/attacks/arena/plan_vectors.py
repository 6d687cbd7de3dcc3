"""For every rule of a plan, the plan that it stops: changes to a good one that break this rule.

As for parties, a negative vector takes the class that the plan is built from (the real one, or a
control with one rule overridden) and returns the ids of the rules that refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import secagg
from secagg.attacks.arena import paillier_world, world
from secagg.attacks.arena.played import Scenario, refused

#: Rule -> fields of a plan for a masked sum that break it, the others being good.
MASKED_BREAKS: Final[dict[str, dict[str, Any]]] = {
    "field-types": {"max_dropouts": True},
    "stage-kinds": {"stages": (type("Mine", (secagg.Integers,), {})(0, 1),)},
    "length": {"length": 0},
    "weight": {"max_weight": 0},
    "inputs-limit": {"max_inputs_per_model": 0},
    "threat": {"threat": "honest"},
    "suite": {"suite": "rot13"},
    "security-bits": {"security_bits": 8},
    "honest-survivors": {"min_honest": 6},
    "insiders": {"colluding": 0},
    "graph-shape": {
        "protocol": secagg.MaskedSum(share_threshold=5, neighbours=5),
        "threat": "semi-honest",
    },
    "fixed-data-graph": {
        "n": 12,
        "protocol": secagg.MaskedSum(share_threshold=5, neighbours=6),
        "threat": "semi-honest",
        "colluding": 0,
        "max_dropouts": 4,
        "sites_receive": False,
        "fixed_data": True,
    },
    "share-threshold": {"protocol": secagg.MaskedSum(share_threshold=7, neighbours=6)},
    "one-survivor-set": {"protocol": secagg.MaskedSum(share_threshold=4, neighbours=6)},
    "sparse-threat": {"protocol": secagg.MaskedSum(share_threshold=3, neighbours=4)},
    "sparse-security": {
        "protocol": secagg.MaskedSum(share_threshold=2, neighbours=2),
        "threat": "semi-honest",
    },
    "privacy-noise": {"privacy": (("epsilon", 1.0),)},
    "noise-shares": {
        "stages": (
            secagg.Integers(0, 9),
            secagg.Noise(law="discrete-laplace", scale_levels=5, shares=6),
        )
    },
    "noise-central": {
        "stages": (
            secagg.Integers(0, 9),
            secagg.Noise(law="central-discrete-gaussian", variance_levels2=5),
        )
    },
    "modulus": {"bits": 12},
}


class Alike:
    """What passes for a public key wherever it is only used, and was never checked as one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(paillier_world.dealt(3, 2)[0], name)


@cache
def paillier_breaks() -> dict[str, dict[str, Any]]:
    """Rule -> what breaks it in a plan for a Paillier sum; made when used, since keys are slow."""
    good: Any = paillier_world.make_plan().protocol
    unproven = dataclasses.replace(paillier_world.dealt(3, 2)[0], proof=b"")
    return {
        "paillier-fields": {"protocol": dataclasses.replace(good, key=Alike())},
        "key-holders": {"roster": paillier_world.people(4, 2)[0]},
        "holder-threshold": {"threat": "semi-honest", "colluding_holders": 2},
        "one-opening": {"holders": 4, "threshold": 2},
        "knowledge-proofs": {"knowledge_proofs": False},
        "modulus-proof": {"protocol": dataclasses.replace(good, key=unproven)},
        "fixed-data-holders": {"fixed_data": True},
    }


def masked(rule: str) -> Scenario | None:
    """The negative vector of a rule of plans for a masked sum, if it has one."""
    return _vector(world.make_plan, MASKED_BREAKS.get(rule))


def paillier(rule: str) -> Scenario | None:
    """The negative vector of a rule of plans for a Paillier sum, if it has one."""
    return _vector(paillier_world.make_plan, paillier_breaks().get(rule))


def _vector(make: Callable[..., secagg.Plan], changes: dict[str, Any] | None) -> Scenario | None:
    if changes is None:
        return None
    return lambda kind: refused(lambda: make(kind=kind, **changes))


__all__ = ["MASKED_BREAKS", "masked", "paillier", "paillier_breaks"]
