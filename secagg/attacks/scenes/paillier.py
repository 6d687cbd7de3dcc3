"""The scenes of rows 23 to 29."""

from .paillier_holders import BadDecryptionScene, KeyHolderScene
from .paillier_moduli import BadModulusScene
from .paillier_openings import TwoOpeningsScene
from .paillier_sites import NoRerandomisationScene, RelatedCiphertextsScene, SlotOverflowScene

__all__ = [
    "BadDecryptionScene",
    "BadModulusScene",
    "KeyHolderScene",
    "NoRerandomisationScene",
    "RelatedCiphertextsScene",
    "SlotOverflowScene",
    "TwoOpeningsScene",
]
