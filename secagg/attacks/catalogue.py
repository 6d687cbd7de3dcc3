"""The rows of the catalogue: where each attack and its scene are. Both are loaded when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from secagg_protocols.errors import MisuseError

from .attack import Attack

if TYPE_CHECKING:
    from .scene import Scene

#: By id, in the order of the catalogue: family (a module here and in ``scenes``) and class.
ATTACKS: Final[dict[str, tuple[str, str]]] = {
    "share-both": ("server", "ShareBoth"),  # 1
    "split-view": ("server", "SplitView"),
    "vote-splitting": ("server", "VoteSplitting"),
    "late-upload": ("server", "LateUpload"),
    "key-substitution": ("keys", "KeySubstitution"),  # 5
    "sybils": ("cohorts", "Sybils"),
    "small-cohort": ("cohorts", "SmallCohort"),
    "mask-reuse": ("keys", "MaskReuse"),
    "neighbour-capture": ("cohorts", "NeighbourCapture"),
    "graph-partition": ("cohorts", "GraphPartition"),  # 10
    "disaggregation": ("cohorts", "Disaggregation"),
    "model-inconsistency": ("keys", "ModelInconsistency"),
    "sratta": ("sratta", "Sratta"),
    "imprint": ("aggregate", "Imprint"),
    "membership": ("aggregate", "Membership"),  # 15
    "weak-generator": ("keys", "WeakGenerator"),
    "sparse-coordinates": ("aggregate", "SparseCoordinates"),
    "scaling": ("clients", "Scaling"),
    "wrap-poisoning": ("clients", "WrapPoisoning"),
    "wrong-share": ("clients", "WrongShare"),  # 20
    "garbage": ("clients", "Garbage"),
    "replay": ("keys", "Replay"),
    "key-holder": ("paillier", "KeyHolder"),
    "related-ciphertexts": ("paillier", "RelatedCiphertexts"),
    "no-rerandomisation": ("paillier", "NoRerandomisation"),  # 25
    "slot-overflow": ("paillier", "SlotOverflow"),
    "bad-modulus": ("paillier", "BadModulus"),
    "bad-decryption": ("paillier", "BadDecryption"),
    "two-openings": ("paillier", "TwoOpenings"),
    "float-noise": ("noise", "FloatNoise"),  # 30
    "understated-sensitivity": ("noise", "UnderstatedSensitivity"),
    "missing-noise": ("noise", "MissingNoise"),
    "noise-reuse": ("noise", "NoiseReuse"),
    "noise-wrap": ("noise", "NoiseWrap"),
    "timing": ("implementation", "Timing"),  # 35
    "quantiser": ("implementation", "Quantiser"),
}


def load_attack(name: str) -> type[Attack]:
    """The class of an attack. `MisuseError` (rule ``attack-id``) for a name that is not one."""
    family, kind = _place(name)
    found: Any = getattr(importlib.import_module(f"secagg.attacks.{family}"), kind)
    return _attack(found, name)


def load_scene(name: str) -> Scene:
    """What an attack is run against: the scene of the same name, in ``scenes``."""
    family, kind = _place(name)
    module = importlib.import_module(f"secagg.attacks.scenes.{family}")
    found: Scene = getattr(module, f"{kind}Scene")()
    return found


def _place(name: str) -> tuple[str, str]:
    if name not in ATTACKS:
        raise MisuseError(
            f"there is no attack {name!r}: see `secagg attack list`", rule="attack-id"
        )
    return ATTACKS[name]


def _attack(found: Any, name: str) -> type[Attack]:
    if not (isinstance(found, type) and issubclass(found, Attack) and found.id == name):
        raise TypeError(f"{found!r} is not the attack {name!r}")
    return found


__all__ = ["ATTACKS", "load_attack", "load_scene"]
