"""Fixed Paillier keys of safe primes for the laboratory and tests.

They are published here, so they hide nothing: never use them for anything else. A search for
safe primes takes longer than most attacks.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("paillier_keys.json")


@cache
def primes(bits: int, number: int = 0) -> tuple[int, int]:
    """(p, q) of the fixed key ``number`` of ``bits`` bits: two of 1024, 2048, 3072, one of 4096."""
    keys = json.loads(FILE.read_text(encoding="ascii"))["keys"]
    found = [key for key in keys if key["bits"] == bits]
    return int(found[number]["p"], 16), int(found[number]["q"], 16)


__all__ = ["FILE", "primes"]
