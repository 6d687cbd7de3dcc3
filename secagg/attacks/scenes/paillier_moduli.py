"""Row 27: keys whose modulus can be factored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np

import secagg
from secagg.attacks import columns
from secagg.attacks.arena.controls import changed, without
from secagg.attacks.arena.paillier_keys import primes
from secagg.attacks.arena.paillier_world import private_key
from secagg.attacks.attack import Evidence, Transcript
from secagg.attacks.finding import ControlRun, Finding, Measure, Verdict
from secagg.attacks.paillier import BadModulus
from secagg.attacks.scene import Ints, Lab, Scene
from secagg.attacks.statistics import rate
from secagg_protocols.paillier import PublicKey, modulus_proof
from secagg_protocols.paillier.primes import is_prime, primes_below
from secagg_protocols.plan import Plan

from .paillier_play import (
    IN_CLEAR,
    LENGTH,
    MOST,
    SITES,
    as_frames,
    claims,
    lone_site,
    masked,
    public_of,
)

BITS: Final = 2048
#: Sites that encrypt under a bad key in a control.
_FEW: Final = ("s0", "s2")
_RULE: Final = "modulus-proof"


def next_prime(start: int) -> int:
    """The least prime from ``start`` on."""
    small = [prime for prime in primes_below(2000).tolist() if prime > 2]
    number = start | 1
    while any(number % prime == 0 for prime in small) or not is_prime(number):
        number += 2
    return number


def _random(rng: np.random.Generator, bits: int) -> int:
    """A random integer of exactly ``bits`` bits, the two top ones set."""
    number = int.from_bytes(rng.bytes(-(-bits // 8)), "little") >> -bits % 8
    return number | 3 << (bits - 2)


def with_factors(rng: np.random.Generator, bits: int, count: int) -> int:
    """A modulus of 2048 bits with ``count`` random primes of ``bits`` bits and one large one."""
    small: set[int] = set()
    while len(small) < count:
        small.add(next_prime(_random(rng, bits) >> 1 | 1 << (bits - 1)))
    product = math.prod(small)
    return product * next_prime((1 << BITS - 1 | _random(rng, BITS - 2)) // product)


def _close(rng: np.random.Generator) -> int:
    p = primes(BITS)[0]
    return p * next_prime(p + 2 + int(rng.integers(0, 1 << 20)))


def _even(rng: np.random.Generator) -> int:
    return private_key(BITS).public.n - 1


def _power(rng: np.random.Generator) -> int:
    return max(primes(BITS)) ** 2


def _ratio(rng: np.random.Generator) -> int:
    """p q with p a divisor of q - 1, so that gcd(n, phi) = p."""
    p = next_prime(_random(rng, 1019))
    k = (1 << BITS - 1) // (p * p) // 2 + 1
    while not is_prime(2 * k * p + 1):
        k += 1
    return p * (2 * k * p + 1)


def _short(rng: np.random.Generator) -> int:
    p, q = primes(1024)
    return p * q


def _prime(rng: np.random.Generator) -> int:
    return next_prime(1 << BITS - 1 | _random(rng, BITS - 2))


#: By name: the modulus, and whether it is tried in the quick run too.
KINDS: Final[dict[str, tuple[Callable[[np.random.Generator], int], bool]]] = {
    "16 primes of 20 bits": (lambda rng: with_factors(rng, 20, 16), True),
    "a prime that divides the other less one": (_ratio, True),
    "a prime of 30 bits": (lambda rng: with_factors(rng, 30, 1), False),
    "neighbouring primes": (_close, False),
    "an even number": (_even, True),
    "the square of a prime": (_power, True),
    "a prime": (_prime, False),
    "1024 bits": (_short, False),
}


class BadModulusScene(Scene):
    """A dealer whose key can be broken, and sites that are to encrypt under it."""

    attack = BadModulus
    expected: ClassVar = {
        "plain": IN_CLEAR + "There is no key.",
        **masked("Their keys are curve points: bad ones are row 5."),
        "paillier-one": Verdict.LEAKS,
        "paillier-threshold": Verdict.LEAKS,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Offer bad keys and traps to a plan; then switch the checks off, factor and open."""
        vectors = lab.inputs(SITES, LENGTH, MOST)
        kinds = [name for name, (_, quick) in KINDS.items() if quick or lab.full]
        met, accepted, trials = Counter[str](), 0, 0
        factored: dict[str, Evidence] = {}
        refusals: dict[str, int | float | str] = {}
        controls: list[ControlRun] = []
        for at, name in enumerate(kinds):
            n = KINDS[name][0](lab.rng(name))
            rules = [_offer(column, n, proof, lab) for proof in _proofs(lab.rng(f"proof {name}"))]
            trials, accepted = trials + len(rules), accepted + rules.count("")
            met.update(rule for rule in rules if rule)
            refusals[name] = rules[0]
            factored[name] = self._attacked(lab, n)
            if name in kinds[:2] or (lab.full and n % 2 and n.bit_length() == BITS):
                controls += self._controls(lab, column, name, n, vectors)
            lab.step(at + 1, len(kinds))
        found = [name for name in kinds if factored[name].values["found"]]
        traps = lab.trials(1, 10)
        passed = read = 0
        for at in range(traps):
            plan, opened = self._trap(lab, column, vectors, at)
            passed, read = passed + (plan is not None), read + opened
        refused = tuple(sorted(met))
        won = accepted + read
        return Finding(
            verdict=Verdict.LEAKS if won else Verdict.PREVENTED,
            tried=(
                f"Public keys with {len(kinds)} kinds of bad modulus ({', '.join(kinds)}) were "
                "put into a plan, without a proof, with the proof of another modulus, and with "
                "random bytes for one, and the attack tried to factor each modulus. Then a dealer "
                f"laid traps ({traps} in all): a modulus p q, where p - 1 has small factors only, "
                "with a valid proof, as the plan asks for it."
            ),
            seen=(
                f"Of {trials} bad keys {trials - accepted} were refused: when the key is read, or "
                "by the plan, which asks for the proof about the modulus. The attack broke "
                f"{len(found)} of {len(kinds)} of these moduli in seconds; in "
                f"{sum(control.successes for control in controls)} controls with the checks "
                f"switched off it opened every ciphertext under them. {passed} of {traps} "
                f"traps passed, and under {read} the attack, which is given the public key and "
                f"ciphertexts, read the vectors of the {len(_FEW)} sites that it was shown. Such "
                "a key looks like a good one to whoever does not try to factor it, and where the "
                "key is shared no holder is asked. The dealer is trusted with the key, and with "
                "drawing its primes at random."
            ),
            trials=trials + traps,
            successes=won,
            stopped_by=() if won else refused,
            also_refused=refused if won else (),
            # Plans trust the dealer.
            beyond=won > 0,
            measures=[
                rate("bad keys accepted", accepted, trials, predicted=0.0),
                rate("traps under which all vectors were read", read, traps),
                Measure(
                    name="time to find a factor of 20 bits",
                    value=factored[kinds[0]].values["seconds"],
                    unit="s",
                    law="division by all primes below 2^20",
                ),
            ],
            controls=controls,
            parameters=refusals | {"n": SITES, "d": LENGTH, "bits": BITS},
        )

    def _attacked(self, lab: Lab, n: int, frames: Any = (), public: Any = None) -> Evidence:
        number = {"n": n.to_bytes(-(-n.bit_length() // 8), "little")}
        return lab.attack(Transcript(frames=list(frames), public=(public or {}) | number))

    def _opened(self, lab: Lab, plan: Plan, n: int, vectors: Ints) -> bool:
        """Whether sites that encrypt under this plan are read, all of them and exactly."""
        rows = {name: vectors[int(name[1:])] for name in _FEW}
        sent = {name: lone_site(plan, name, row) for name, row in rows.items()}
        found = self._attacked(lab, n, as_frames(sent), public_of(plan))
        return all(claims(found, name, row) for name, row in rows.items())

    def _controls(
        self, lab: Lab, column: str, name: str, n: int, vectors: Ints
    ) -> list[ControlRun]:
        weak_key = changed(PublicKey, __post_init__=_unchecked)
        weak_plan = without(secagg.Plan, _RULE)
        names = {weak_key: "feature: checks of the public key", weak_plan: f"plan.{_RULE}"}
        cases: list[tuple[type[Any], type[Any]]] = [
            (PublicKey, weak_plan),
            (weak_key, secagg.Plan),
            (weak_key, weak_plan),
        ]
        if not _refused_alone(column, n, lab):
            # Only the plan's rule stands against it.
            cases = cases[:1]
        found = []
        for at, (key, kind) in enumerate(cases):
            rule, plan = _try(column, n, b"", lab, key, kind)
            expected = at == len(cases) - 1
            won = plan is not None and self._opened(lab, plan, n, vectors)
            found.append(
                ControlRun(
                    overrides=tuple(names[each] for each in (key, kind) if each in names),
                    trials=1,
                    successes=int(won),
                    expected=expected,
                    note=f"{name}: " + (f"refused by {rule}" if rule else "all vectors opened"),
                )
            )
        return found

    def _trap(self, lab: Lab, column: str, vectors: Ints, at: int) -> tuple[Plan | None, bool]:
        """The plan with a modulus that is breakable on purpose and has a valid proof, if any.

        Second: whether all vectors were read under it.
        """
        p, q = smooth_prime(lab.rng(f"trap {at}"), BITS // 2), max(primes(BITS))
        plan = _try(column, p * q, modulus_proof.prove(p, q), lab, PublicKey, secagg.Plan)[1]
        return plan, plan is not None and self._opened(lab, plan, p * q, vectors)


def smooth_prime(rng: np.random.Generator, bits: int) -> int:
    """A prime p = 3 modulo 4 of ``bits`` bits for which p - 1 has small factors only."""
    small = [int(prime) for prime in primes_below(1 << 13) if prime > 1 << 11]
    while True:
        product = 2
        for prime in rng.permutation(small).tolist():
            if product.bit_length() >= bits - 12:
                break
            product *= prime
        # The last factor brings it to the length, with the top bits set.
        last = (3 << (bits - 2)) // product
        for factor in range(last | 1, last + 200, 2):
            number = product * factor + 1
            if number.bit_length() == bits and is_prime(number):
                return number


def _unchecked(_self: Any) -> None:
    """In the place of what a public key checks when it is made."""


def _proofs(rng: np.random.Generator) -> list[bytes]:
    """What a dealer can put where a proof belongs: nothing, that of another modulus, random bytes.

    Roots of the random one are below 2^2040, and so below n: it is not refused for its form.
    """
    other = private_key(BITS).public.proof
    noise = bytearray(rng.bytes(len(other)))
    size, start = BITS // 8, 2 * modulus_proof.FOURTH_ROOTS // 8
    for root in range(modulus_proof.FOURTH_ROOTS + modulus_proof.NTH_ROOTS):
        noise[start + (root + 1) * size - 1] = 0
    return [b"", other, bytes(noise)]


def _try(
    column: str, n: int, proof: bytes, lab: Lab, key: type[Any], kind: type[Any]
) -> tuple[str, Plan | None]:
    """The rule that refused a key or its plan, or the plan."""
    try:
        made = _key(column, n, proof, lab, key)
    except secagg.PlanError as error:
        return f"key.{error.rule}", None
    protocol = secagg.PaillierSum(key=made, colluding_holders=0)
    try:
        return "", columns.plan(column, SITES, LENGTH, protocol=protocol, kind=kind)
    except secagg.PlanError as error:
        return f"plan.{error.rule}", None


def _offer(column: str, n: int, proof: bytes, lab: Lab) -> str:
    return _try(column, n, proof, lab, PublicKey, secagg.Plan)[0]


def _refused_alone(column: str, n: int, lab: Lab) -> bool:
    """Whether the key is refused without looking at a proof."""
    return _offer(column, n, b"", lab).startswith("key.")


def _key(column: str, n: int, proof: bytes, lab: Lab, kind: type[Any]) -> Any:
    if column == "paillier-one":
        return kind(n, proof=proof)
    rng = lab.rng("verification")
    values = [int.from_bytes(rng.bytes(500), "little") ** 2 % (n * n) for _ in range(4)]
    return kind(n, threshold=2, base=values[0], verification=tuple(values[1:]), proof=proof)


__all__ = ["KINDS", "BadModulusScene", "next_prime", "smooth_prime", "with_factors"]
