"""Paillier's encryption by itself: keys, their shares, encrypted vectors (``docs/paillier.md``)."""

from __future__ import annotations

from secagg_protocols.paillier import (
    Ciphertexts,
    FixedPoint,
    KeyShare,
    Layout,
    PrivateKey,
    PublicKey,
    encrypt,
    generate,
    modulus_proof,
    open_with,
    opening,
    split,
    threshold,
)

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
