"""What a round makes parties compute: counts of both protocols, and what this machine takes.

Counts follow from the plan. Seconds are measured where somebody asks for them, and are those of one
core of the machine.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from secagg_native import aes_ctr
from secagg_native.paillier import Squares, to_words
from secagg_protocols.keys import SEED_SIZE, ExchangeKey, agree
from secagg_protocols.paillier_sum.costs import RoundCost, Work
from secagg_protocols.plan import Plan, masked_of

#: Bytes of keystream, and ciphertexts, that a measurement makes at a time.
_STREAM = 1 << 24
_ROWS = 16
#: Seconds that a short measurement is repeated for.
_LEAST = 0.05


@dataclass(frozen=True, slots=True)
class MaskedWork:
    """What one party of a masked sum computes in a round from a cold start.

    keystream: bytes of AES-CTR keystream; agreements: X25519 key agreements.
    """

    keystream: int
    agreements: int


def masked_work(plan: Plan) -> dict[str, MaskedWork]:
    """By party: a site, the server where nobody is missing, and where as many are as may be."""
    k = masked_of(plan).neighbours
    vector = plan.ring_length * plan.lane.itemsize
    missing = plan.max_dropouts
    pairs = missing * min(k, plan.min_survivors)
    return {
        # A mask for each neighbour and one of its own; a mask and a channel agreed on with each.
        "site": MaskedWork((k + 1) * vector, 2 * k),
        "server": MaskedWork(plan.clients * vector, 0),
        "server, most missing": MaskedWork((plan.min_survivors + pairs) * vector, pairs),
    }


def paillier_work(cost: RoundCost) -> dict[str, list[Work]]:
    """By party, its operations."""
    found: dict[str, list[Work]] = {"site": [], "server": [], "holder": []}
    for work in cost.work:
        found[work.party].append(work)
    return found


@dataclass(frozen=True, slots=True)
class MaskedSpeed:
    """Seconds of a byte of keystream and of an agreement, on one core."""

    byte: float
    agreement: float

    def seconds(self, work: MaskedWork) -> float:
        """Of a party's work."""
        return work.keystream * self.byte + work.agreements * self.agreement


def measure_masked() -> MaskedSpeed:
    """Measure this machine, in a fraction of a second."""
    lanes = np.zeros(_STREAM // 8, dtype=np.uint64)
    stream = aes_ctr.one(secrets.token_bytes(16), secrets.token_bytes(8))
    mine = ExchangeKey(secrets.token_bytes(SEED_SIZE))
    other = ExchangeKey(secrets.token_bytes(SEED_SIZE)).public

    def agreements() -> None:
        for _ in range(50):
            agree(mine, other, sender="measurement")

    return MaskedSpeed(_best(lambda: stream.add_to(lanes)) / _STREAM, _best(agreements) / 50)


class PaillierSpeed:
    """Seconds of operations modulo n^2 on this machine, each kind measured once when first asked.

    bits: of the modulus. The modulus is no key: any odd number costs the same.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._known: dict[tuple[str, int], float] = {}

    def seconds(self, work: Work) -> float:
        """Of one kind of operation, as often as it is done."""
        kind = (work.kernel, work.exponent_bits)
        if kind not in self._known:
            self._known[kind] = self._measured(work)
        return work.count * self._known[kind]

    def _measured(self, work: Work) -> float:
        if work.kernel == "decrypt":
            # Two powers modulo the square of a prime, which has half the length.
            half = self._bits // 2
            squares, rows = _arithmetic(half)
            exponent = secrets.randbits(half) | 1 << half - 1
            return 2 * _best(lambda: squares.power(rows, exponent)) / _ROWS
        squares, rows = _arithmetic(self._bits)
        if work.kernel == "product":
            product = squares.product(rows)
            return _best(lambda: product.multiply(rows)) / _ROWS
        if work.kernel == "power":
            exponent = secrets.randbits(work.exponent_bits) | 1 << work.exponent_bits - 1
            return _best(lambda: squares.power(rows, exponent)) / _ROWS
        words = -(-work.exponent_bits // 64)
        if work.kernel == "multi-power":
            # Its price for a row falls with the rows, down to some hundreds of them.
            many = np.ascontiguousarray(np.tile(rows, (32, 1)))
            exponents = _random_words(len(many), words)
            return _best(lambda: squares.multi_power(many, exponents)) / len(many)
        table = squares.table(int(secrets.randbits(self._bits - 1)) | 1, 64 * words)
        exponents = _random_words(_ROWS, words)
        return _best(lambda: table.encrypt(exponents)) / _ROWS


def _arithmetic(bits: int) -> tuple[Squares, np.ndarray[tuple[int, int], np.dtype[np.uint64]]]:
    """A modulus of so many bits that is no key, and some rows below its square."""
    n = secrets.randbits(bits) | 1 << bits - 1 | 1
    rows = to_words([secrets.randbelow(n * n) | 1 for _ in range(_ROWS)], bits // 32)
    return Squares(n), rows


def _random_words(rows: int, words: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    drawn = np.frombuffer(bytearray(secrets.token_bytes(8 * rows * words)), dtype=np.uint64)
    return drawn.reshape(rows, words)


def _best(call: Callable[[], object]) -> float:
    """Seconds of a core in the fastest of some calls, after one that may compile.

    Processor time: what else runs on the machine makes the clock no measure of the work.
    """
    call()
    found: list[float] = []
    while len(found) < 2 or (sum(found) < _LEAST and len(found) < 50):
        begun = time.process_time()
        call()
        found.append(time.process_time() - begun)
    return max(min(found), 1e-9)


__all__ = [
    "MaskedSpeed",
    "MaskedWork",
    "PaillierSpeed",
    "masked_work",
    "measure_masked",
    "paillier_work",
]
