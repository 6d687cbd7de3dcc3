"""Paillier's additively homomorphic encryption: keys, and what is built on them."""

from . import modulus_proof, opening, threshold
from .keys import PrivateKey, PublicKey, generate
from .packing import Layout
from .threshold import KeyShare, split
from .vector import Ciphertexts, FixedPoint, encrypt, open_with

__all__ = [
    "Ciphertexts",
    "FixedPoint",
    "KeyShare",
    "Layout",
    "PrivateKey",
    "PublicKey",
    "encrypt",
    "generate",
    "modulus_proof",
    "open_with",
    "opening",
    "split",
    "threshold",
]
