"""Timings of operations on secrets: row 35. Rounding is in :mod:`.quantiser`."""

from __future__ import annotations

import gc
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from secagg_native import features, gmp
from secagg_native.aes_ctr import Keystreams
from secagg_native.paillier import Squares, to_words
from secagg_protocols import keys
from secagg_protocols.plan import Plan
from secagg_protocols.stages import Noise

from .. import columns
from ..arena.paillier_keys import primes
from ..attack import Attack, Transcript
from ..columns import COLUMNS, MASKED, PAILLIER
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..implementation import LEAST, LIMIT, Timing
from ..scene import Lab, Scene
from .quantiser import QuantiserScene

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Call = Callable[[], object]

DIGESTS: Final = "feature: digests compared in constant time"
KERNELS: Final = "feature: kernels without branches on secrets"


@dataclass(frozen=True, slots=True)
class Operation:
    """Something to time: with a fixed secret, and with random ones. count: calls in a batch."""

    name: str
    fixed: Sequence[Call]
    random: Sequence[Call]
    count: int


def timed(operation: Operation, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """Nanoseconds of one batch, and which kind each call was; kinds are mixed at random."""
    kinds = rng.permutation(np.arange(operation.count) % 2)
    took = np.empty(operation.count)
    sides = (operation.fixed, operation.random)
    sides[0][0](), sides[1][0]()
    clock, enabled = time.perf_counter_ns, gc.isenabled()
    gc.disable()
    try:
        for i, kind in enumerate(kinds.tolist()):
            side = sides[kind]
            call = side[i % len(side)]
            began = clock()
            call()
            took[i] = clock() - began
    finally:
        if enabled:
            gc.enable()
    return took, kinds.astype(np.int64)


def comparison(equal: Callable[[bytes, bytes], bool], rng: np.random.Generator, name: str) -> Any:
    """A guess that is wrong at the first byte, and one that is wrong at the last, of 64 KiB."""
    secret = rng.bytes(1 << 16)
    early = bytes([secret[0] ^ 1]) + secret[1:]
    late = secret[:-1] + bytes([secret[-1] ^ 1])
    return Operation(name, [lambda: equal(secret, early)], [lambda: equal(secret, late)], 120)


class TimingScene(Scene):
    """What a column's parties do with secrets, timed with fixed and with random ones."""

    attack: ClassVar[type[Attack]] = Timing
    # Big integers, and large tables of noise.
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        column: Verdict.LEAKS if column in (*PAILLIER, "noise") else Verdict.PREVENTED
        for column in COLUMNS
    }
    #: Of a table of 16 KiB, which a first-level cache holds, and of one of 4 MiB, which a second
    #: level does not: a plan may hold either.
    NOISES: ClassVar[tuple[Noise, ...]] = (
        Noise(law="discrete-gaussian", variance_levels2=2048),
        Noise(law="discrete-laplace", scale_levels=2048, shares=4),
    )
    BATCHES: ClassVar[int] = 5
    LANES: ClassVar[int] = 2048
    #: So few that the rows of one sample stay in a first-level cache.
    DRAWN: ClassVar[int] = 1024
    #: Keys of this size take the same instructions as larger ones, in less time.
    KEY_BITS: ClassVar[int] = 1024

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Welch's t of every operation of the column, and of what it does not do."""
        rng = lab.rng("secrets")
        operations = [comparison(hmac.compare_digest, rng, "digest comparison")]
        if column in MASKED:
            operations.append(self._masks(columns.plan(column, 6), rng))
            operations += _keys(rng)
        if column == "noise":
            operations += [self._noise(noise, rng) for noise in self.NOISES]
        if column in PAILLIER:
            operations += self._powers(rng)
        weak = [comparison(bytes.__eq__, rng, "comparison with ==")]
        if column in MASKED:
            weak.append(_geometric(rng))
        found = self._measure(lab, [*operations, *weak])
        told = [o.name for o in operations if found[f"told:{o.name}"]]
        controls = [
            ControlRun(
                overrides=(feature,),
                trials=1,
                successes=int(found[f"told:{operation.name}"]),
                note=operation.name,
            )
            for operation, feature in zip(weak, (DIGESTS, KERNELS), strict=False)
        ]
        shown = ", ".join(f"{n} ({found[f'ratio:{n}']:.2f} times as long)" for n in told)
        return Finding(
            verdict=Verdict.LEAKS if told else Verdict.PREVENTED,
            tried=(
                f"{len(operations)} operations on secrets "
                f"({', '.join(o.name for o in operations)}) were timed in {self.BATCHES} batches, "
                "each time with a fixed or with a random secret in random order, and the two kinds "
                f"compared by Welch's test (a leak: |t| above {LIMIT:g} in every batch, with one "
                f"sign, and medians that differ by more than {100 * LEAST:.0f} %)."
            ),
            seen=(
                (
                    f"Time follows the secret in: {shown}. docs/limitations.md says so: "
                    + (
                        "hosts without the IFMA kernels use big integers that are not constant "
                        "time."
                        if column in PAILLIER
                        else "noise is read from a table at secret places, and a cache shows "
                        "whether rows of a large one were read before."
                    )
                    if told
                    else "No operation that was timed showed its secret. Differences of less than "
                    f"{100 * LEAST:.0f} %, as caches make them, are not excluded "
                    "(docs/limitations.md)."
                )
                + " Rounding, signatures, Paillier decryption, the recovery of shares and "
                "Python's own handling of "
                "secrets were not timed. A comparison that stops at the first difference was "
                f"{found['ratio:comparison with ==']:.0f} times as long for a guess that is wrong "
                "at the end."
            ),
            trials=len(operations),
            successes=len(told),
            stopped_by=() if told else (DIGESTS, *((KERNELS,) if column in MASKED else ())),
            measures=[
                measure
                for operation in (*operations, *weak)
                for measure in (
                    Measure(
                        name=f"{operation.name}: smallest |t| of the batches",
                        value=abs(found[f"t:{operation.name}"]),
                        predicted=LIMIT,
                        law="below the limit unless time follows the secret",
                    ),
                    Measure(
                        name=f"{operation.name}: median time, random over fixed secret",
                        value=found[f"ratio:{operation.name}"],
                        predicted=1.0,
                        law="1 unless time follows the secret",
                    ),
                )
            ],
            controls=controls,
            figures=[
                Figure(
                    title="Welch's t by operation",
                    x_label=", ".join(
                        f"{i}: {operation.name}"
                        for i, operation in enumerate((*operations, *weak), 1)
                    ),
                    y_label="|t|, smallest of the batches",
                    series=[
                        Series(
                            name="measured",
                            x=[float(i + 1) for i in range(len(operations) + len(weak))],
                            y=[abs(found[f"t:{o.name}"]) for o in (*operations, *weak)],
                            style="bars",
                        ),
                        Series(
                            name="limit",
                            x=[0.5, len(operations) + len(weak) + 0.5],
                            y=[LIMIT, LIMIT],
                            style="line",
                        ),
                    ],
                )
            ],
            parameters={"batches": self.BATCHES, "limit": LIMIT},
        )

    def _measure(self, lab: Lab, operations: list[Operation]) -> Mapping[str, float]:
        more = lab.trials(1, 4)
        arrays: dict[str, Array] = {}
        for number, operation in enumerate(operations):
            lab.step(number, len(operations))
            longer = Operation(
                operation.name, operation.fixed, operation.random, operation.count * more
            )
            order = lab.rng("order", operation.name)
            batches = [timed(longer, order) for _ in range(self.BATCHES)]
            arrays[operation.name] = np.array([times for times, _ in batches])
            arrays[f"{operation.name}:kinds"] = np.array([kinds for _, kinds in batches])
        return lab.attack(Transcript(arrays=arrays)).values

    def _masks(self, made: Plan, rng: np.random.Generator) -> Operation:
        """Adding the masks of a site: keys and vector of zeros, and random ones."""
        count = made.clients
        signs = np.where(np.arange(count) % 2, -1, 1).astype(np.int8)
        lanes = np.zeros(self.LANES, dtype=made.lane)

        def adding(keys: Array, nonces: Array, x: Array) -> Call:
            streams = Keystreams(keys, nonces, signs)

            def call() -> None:
                lanes[:] = x
                streams.add_to(lanes, 0)

            return call

        def one(zero: bool) -> Call:
            most = 0 if zero else 255
            return adding(
                rng.integers(0, most, (count, 16), np.uint8, endpoint=True),
                rng.integers(0, most, (count, 8), np.uint8, endpoint=True),
                rng.integers(0, 1 if zero else 1 << made.wire_bits, self.LANES).astype(made.lane),
            )

        zeros, others = ([one(zero) for _ in range(32)] for zero in (True, False))
        return Operation("adding masks", zeros, others, 200)

    def _noise(self, noise: Noise, rng: np.random.Generator) -> Operation:
        """Drawing noise: always the same, and other noise every time."""
        size = sum(table.rows.nbytes for _, table in noise.tables().parts)
        out = np.empty(self.DRAWN, dtype=np.int64)

        def drawing(seed: bytes) -> Call:
            draws = noise.draws(seed)
            return lambda: draws.write(out, 0)

        same = rng.bytes(32)
        return Operation(
            f"drawing {noise.law} noise, table of {size >> 10} KiB",
            [drawing(same) for _ in range(64)],
            [drawing(rng.bytes(32)) for _ in range(64)],
            300,
        )

    def _in_use(self, n: int, used: str, rng: np.random.Generator) -> list[Operation]:
        """The same two operations by the kernels that this host uses."""
        squares = Squares(n)
        base = int.from_bytes(rng.bytes(2 * self.KEY_BITS // 8), "little") % (n * n)
        table, rows = squares.table(base, 256), to_words([base], 2 * (self.KEY_BITS // 64))
        single = 1 << 255
        others = [int.from_bytes(rng.bytes(32), "little") | single for _ in range(16)]

        def encrypting(exponent: int) -> Call:
            words = to_words([exponent], 4)
            return lambda: table.encrypt(words, None)

        def raising(exponent: int) -> Call:
            return lambda: squares.power(rows, exponent)

        return [
            Operation(
                f"{name} (kernels of this host, {used})",
                # As many objects of either kind: an object that is used again is in a cache.
                [make(single) for _ in others],
                [make(e) for e in others],
                40,
            )
            for name, make in (
                ("random factor of an encryption", encrypting),
                ("power with a share", raising),
            )
        ]

    def _powers(self, rng: np.random.Generator) -> list[Operation]:
        """The portable twin of encryption, whose random factor is a power with a secret exponent,
        and of a holder's power with its share: one bit, and random bits, of the same length."""
        p, q = primes(self.KEY_BITS)
        n = p * q
        used = features.bigint_variant()
        in_use = self._in_use(n, used, rng) if used == features.IFMA else []
        squares = gmp.Squares(n, "gmp" if gmp.available() else "python")
        base = int.from_bytes(rng.bytes(2 * self.KEY_BITS // 8), "little") % (n * n)
        table, rows = squares.table(base, 256), to_words([base], 2 * (self.KEY_BITS // 64))
        single = 1 << 255
        others = [int.from_bytes(rng.bytes(32), "little") | single for _ in range(16)]

        def encrypting(exponent: int) -> Call:
            words = to_words([exponent], 4)
            return lambda: table.encrypt(words, None, 1)

        def raising(exponent: int) -> Call:
            return lambda: squares.power(rows, exponent, 1, None)

        return [
            *in_use,
            Operation(
                "random factor of an encryption (big integers)",
                [encrypting(single)],
                [encrypting(e) for e in others],
                40,
            ),
            Operation(
                "power with a share (big integers)",
                [raising(single)],
                [raising(e) for e in others],
                40 if gmp.available() else 20,
            ),
        ]


def _keys(rng: np.random.Generator) -> list[Operation]:
    """What the library calls with keys: one key, and other keys every time."""
    peer = keys.public_key(rng.bytes(32))
    text = rng.bytes(160)

    def agreeing(private: bytes) -> Call:
        own = keys.ExchangeKey(keys.clamp(private))
        return lambda: keys.agree(own, peer, sender="s0")

    def deriving(secret: bytes) -> Call:
        return lambda: keys.hkdf(secret, b"laboratory", 32)

    def opening(key: bytes) -> Call:
        sealed = keys.encrypt_once(key, text, b"")
        return lambda: keys.decrypt_once(key, sealed, b"", sender="s0")

    made = (
        ("key agreement (X25519)", agreeing, 32),
        ("key derivation (HKDF)", deriving, 32),
        ("opening of sealed shares", opening, keys.KEY_SIZE + 24),
    )
    found = []
    for name, make, size in made:
        same = rng.bytes(size)
        found.append(
            Operation(
                name,
                [make(same) for _ in range(64)],
                [make(rng.bytes(size)) for _ in range(64)],
                300,
            )
        )
    return found


def _geometric(rng: np.random.Generator) -> Operation:
    """The textbook sampler of geometric noise, which counts coins until one falls: no noise, and
    noise of a scale of 100 (Jin et al., IEEE S&P 2022)."""

    def counting(size: int) -> Call:
        coins = [True] * size + [False]

        def call() -> int:
            count = 0
            for coin in coins:
                if not coin:
                    break
                count += 1
            return count

        return call

    sizes = rng.geometric(0.01, size=64).tolist()
    return Operation(
        "geometric noise by coins", [counting(0)], [counting(size) for size in sizes], 400
    )


__all__ = ["Operation", "QuantiserScene", "TimingScene", "comparison", "timed"]
