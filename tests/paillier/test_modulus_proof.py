"""Proofs about a modulus: good ones pass, and for weak moduli even the best cheat is caught.

The cheats know all factors and answer every challenge that has an answer. Challenges are hashes of
the modulus, so that each of these tests has one outcome.
"""

import hashlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_protocols.errors import PlanError
from secagg_protocols.paillier import modulus_proof, no_small_factor, primes
from secagg_protocols.paillier.modulus_proof import check, proof_size, prove
from secagg_protocols.paillier.primes import power
from support.paillier_keys import primes as fixed_primes

P, Q = fixed_primes(1024)
N = P * Q
PROOF = prove(P, Q)
#: Bytes of a root of a modulus of 1024 bits, and where roots, n-th roots and the rest begin.
SIZE = 128
ROOTS, NTH, REST = 32, 32 + 128 * SIZE, 32 + 135 * SIZE


def refused(n, proof, text=None):
    with pytest.raises(PlanError, match=text) as caught:
        check(n, proof)
    assert caught.value.rule == "modulus-proof"
    assert caught.value.field == "key"


def prime_from(start, residue=3, modulus=4):
    """The first prime from ``start`` on with this residue."""
    number = start + (residue - start) % modulus
    while not primes.is_prime(number):
        number += modulus
    return number


def start(bits, name=b""):
    """A fixed number whose two top bits are 1."""
    seed = hashlib.shake_256(b"test of moduli" + name).digest(bits // 8 + 1)
    return int.from_bytes(seed, "little") % (1 << bits - 2) + (3 << bits - 2)


class Cheat:
    """Answers what can be answered for n, the product of ``powers``: {prime: exponent}."""

    def __init__(self, powers):
        self.powers = powers
        self.n = math.prod(p**k for p, k in powers.items())
        self.size = self.n.bit_length() // 8

    def root(self, value, degree):
        """A root of this degree modulo n, or None where there is none."""
        found, modulus = 0, 1
        for p, k in self.powers.items():
            part, order = p**k, (p - 1) * p ** (k - 1)
            # The powers of units are a group of this order, in which taking roots is a power
            # itself: the order is coprime to the degree for every modulus that is tried here.
            left = order // math.gcd(order, degree)
            assert math.gcd(left, degree) == 1
            if power(value, left, part) != 1:
                return None
            root = power(value, pow(degree, -1, left), part)
            found += modulus * ((root - found) * pow(modulus, -1, part) % part)
            modulus *= part
        assert power(found, degree, self.n) == value
        return found

    def fourth_roots(self):
        """Flags and roots, and how many of them are true."""
        w, n = modulus_proof._twist(self.n), self.n
        signs, twists, roots, good = 0, 0, [], 0
        for i, y in enumerate(modulus_proof._fourth_units(n)):
            answer = 1
            for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
                root = self.root((-1) ** a * w**b * y % n, 4)
                if root is not None:
                    answer, good = root, good + 1
                    signs |= a << i
                    twists |= b << i
                    break
            roots.append(answer.to_bytes(self.size, "little"))
        return b"".join([signs.to_bytes(16, "little"), twists.to_bytes(16, "little"), *roots]), good

    def nth_roots(self):
        found = [self.root(y, self.n) for y in modulus_proof._nth_units(self.n)]
        good = sum(root is not None for root in found)
        return b"".join((root or 1).to_bytes(self.size, "little") for root in found), good

    def proof(self, a, b):
        """The whole proof, with n = a b for the last part."""
        return self.fourth_roots()[0] + self.nth_roots()[0] + sized(self.n, a, b)


def sized(n, a, b, *, challenge=None, commitments=None):
    """The proof of no small factor in plain integers, of any a and b; answers are cut to size.

    challenge: answer this one, whatever the hash is. commitments: send these as P and Q.
    """
    m, s, t = no_small_factor.RSA_2048, no_small_factor.BASE_S, no_small_factor.BASE_T
    bits = n.bit_length()
    half, opening = bits // 2 + 256, 2048 + 128
    sizes = (128, 2048, 2048, bits + opening, half, half, opening + 256, opening + 256)
    sizes = (*sizes, bits + opening + 256)
    stream = hashlib.shake_256(n.to_bytes(bits // 8, "little")).digest(9 * 1024)
    draws = [int.from_bytes(stream[1024 * i : 1024 * (i + 1)], "little") for i in range(9)]
    alpha, beta = draws[0] % (1 << half), draws[1] % (1 << half)
    mu, nu = draws[2] % (1 << opening), draws[3] % (1 << opening)
    x, y = draws[4] % (1 << opening + 256), draws[5] % (1 << opening + 256)
    sigma, r = draws[6] % (1 << sizes[3]), draws[7] % (1 << sizes[8])
    big_p, big_q = power(s, a, m) * power(t, mu, m) % m, power(s, b, m) * power(t, nu, m) % m
    if commitments is not None:
        big_p, big_q = commitments
    firsts = (
        big_p,
        big_q,
        power(s, alpha, m) * power(t, x, m) % m if big_p % m else 0,
        power(s, beta, m) * power(t, y, m) % m if big_q % m else 0,
        power(big_q, alpha, m) * power(t, r, m) % m,
    )
    state = hashlib.sha256(b"secagg no small factor v1")
    for value, size in ((n, bits), *((value, 2048) for value in firsts), (sigma, sizes[3])):
        state.update((size // 8).to_bytes(8, "little") + value.to_bytes(size // 8, "little"))
    e = int.from_bytes(state.digest()[:16], "little") if challenge is None else challenge
    answers = (alpha - e * a, beta - e * b, x - e * mu, y - e * nu, r - e * (sigma - nu * a))
    numbers = zip((e, big_p, big_q, sigma, *answers), sizes, strict=True)
    return b"".join((value % (1 << size)).to_bytes(size // 8, "little") for value, size in numbers)


@pytest.mark.parametrize("bits", [1024, 2048, 3072])
def test_the_proof_of_a_good_modulus_passes(bits):
    p, q = fixed_primes(bits, 1)
    proof = prove(p, q)
    assert len(proof) == proof_size(bits)
    check(p * q, proof)
    check(p * q, prove(q, p))


def test_the_size_of_a_proof():
    assert proof_size(3072) == 32 + 135 * 384 + no_small_factor.proof_size(3072) == 54_800
    assert no_small_factor.proof_size(3072) == 2928


def test_primes_need_not_be_safe():
    p, q = (prime_from(start(512, name)) for name in (b"p", b"q"))
    assert not primes.is_prime(p // 2)
    check(p * q, prove(p, q))


def test_the_cheat_proves_a_good_modulus():
    # So that a refusal below is the fault of the modulus.
    cheat = Cheat({P: 1, Q: 1})
    assert cheat.fourth_roots()[1] == 128
    assert cheat.nth_roots()[1] == 7
    check(N, cheat.proof(P, Q))


def test_python_alone_gives_the_same(monkeypatch):
    monkeypatch.setattr(primes, "gmp", None)
    proof = prove(P, Q)
    assert proof[:REST] == PROOF[:REST]
    check(N, PROOF)
    check(N, proof)


# Weak moduli


def caught(cheat, *, fourth, nth, factors):
    """The whole proof is refused, by the parts of which the cheat could not answer everything.

    fourth: range of the number of fourth roots that exist; nth: number of n-th roots.
    """
    n = cheat.n
    assert n.bit_length() == 1024
    least, most = fourth
    (head, good), (roots, found) = cheat.fourth_roots(), cheat.nth_roots()
    assert least <= good <= most
    assert found == nth
    refused(n, head + roots + sized(n, *factors), "root is wrong")
    numbers = [int.from_bytes(head[at : at + SIZE], "little") for at in range(32, NTH, SIZE)]
    last = [int.from_bytes(roots[at : at + SIZE], "little") for at in range(0, 7 * SIZE, SIZE)]
    for part, arguments, all_true in (
        (modulus_proof._check_fourth_roots, (n, head[:32], numbers), good == 128),
        (modulus_proof._check_nth_roots, (n, last), found == 7),
    ):
        if all_true:
            part(*arguments)
        else:
            with pytest.raises(PlanError, match="root is wrong"):
                part(*arguments)


def test_a_prime_that_is_1_modulo_4():
    p = prime_from(start(512, b"1 mod 4"), 5, 8)
    caught(Cheat({p: 1, Q: 1}), fourth=(8, 88), nth=7, factors=(p, Q))


def test_two_primes_that_are_1_modulo_4():
    p, q = (prime_from(start(512, name), 5, 8) for name in (b"1 mod 4", b"also 1 mod 4"))
    caught(Cheat({p: 1, q: 1}), fourth=(4, 60), nth=7, factors=(p, q))


def test_three_primes():
    p, q = (prime_from(start(344, name)) for name in (b"p", b"q"))
    r = prime_from((15 << 1020) // (p * q))
    caught(Cheat({p: 1, q: 1, r: 1}), fourth=(8, 88), nth=7, factors=(p * q, r))


def test_a_square_factor():
    p = prime_from(start(344, b"p"))
    q = prime_from((15 << 1020) // p**2)
    caught(Cheat({p: 2, q: 1}), fourth=(8, 128), nth=0, factors=(p**2, q))


def test_a_modulus_that_is_not_coprime_to_its_order():
    p = prime_from(start(344, b"p"))
    k = (15 << 1020) // (2 * p * p) | 1
    while not primes.is_prime(2 * k * p + 1):
        k += 2
    q = 2 * k * p + 1
    assert math.gcd(p * q, (p - 1) * (q - 1)) == p
    # Only the n-th roots tell.
    caught(Cheat({p: 1, q: 1}), fourth=(128, 128), nth=0, factors=(p, q))


def test_a_square_or_a_prime_or_a_small_factor_or_an_even_number():
    refused(P * P, PROOF, "a power")
    refused(prime_from(start(1024)), PROOF, "prime")
    small = 1_048_573
    assert primes.is_prime(small)
    refused(small * prime_from((15 << 1020) // small), PROOF, "below 2\\^20")
    refused(N - 1, PROOF, "even")


@pytest.mark.parametrize("factor", [256, 512])
def test_a_factor_that_is_too_short(factor):
    p = P if factor == 512 else prime_from(start(factor))
    q = fixed_primes(3072)[0]
    n = p * q
    assert n.bit_length() == factor + 1536 and p.bit_length() == factor
    assert factor < no_small_factor.least_bits(n.bit_length())
    cheat = Cheat({p: 1, q: 1})
    roots = cheat.fourth_roots()[0] + cheat.nth_roots()[0]
    # The last pair has fitting sizes, but another product.
    for a, b in ((p, q), (q, p), (1, n), (math.isqrt(n), math.isqrt(n))):
        refused(n, roots + sized(n, a, b), "no small factor does not verify")
    with pytest.raises(ValueError, match="longer than half"):
        no_small_factor.prove(p, q)


def test_only_the_length_of_the_other_factor_gives_a_short_one_away(monkeypatch):
    # The commitments that the verifier computes do not depend on the challenge, but for B, the
    # commitment to the mask of the long factor, whose answer had to be cut.
    q = fixed_primes(3072)[0]
    for a, b, kept in ((P, q, [True, True, True, False, True]), (P, Q, [True] * 5)):
        seen = []
        for e in (0, (1 << 128) - 1):
            monkeypatch.setattr(
                no_small_factor,
                "_challenge",
                lambda _n, found, _s, e=e, seen=seen: seen.append(found) or e,
            )
            no_small_factor.check(a * b, sized(a * b, a, b, challenge=e))
        assert [x == y for x, y in zip(*seen, strict=True)] == kept


def test_the_least_length_of_a_factor():
    assert no_small_factor.least_bits(2048) == 767
    assert no_small_factor.least_bits(3072) == 1279
    # The longest answer allows the other factor 2^(bits / 2 + 256) and no more.
    assert no_small_factor._sizes(3072)[4] == 1536 + 256


def test_commitments_that_make_every_equation_zero():
    m = no_small_factor.RSA_2048
    for forged in ((0, 0), (m, m), (0, 5), (5, 0)):
        proof = sized(N, P, Q, commitments=forged)
        refused(N, PROOF[:REST] + proof, "no unit")


# Bytes


@given(bit=st.integers(0, 8 * len(PROOF) - 1))
@settings(max_examples=40, deadline=None)
def test_a_proof_with_one_other_bit_is_refused(bit):
    refused(N, flipped(bit))


def flipped(bit):
    changed = bytearray(PROOF)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("start_of_part", [0, 16, ROOTS, NTH, REST, *(REST + i for i in (16, 272))])
def test_every_part_counts(start_of_part):
    refused(N, flipped(8 * start_of_part))


def test_every_number_of_the_last_part_counts():
    at = REST
    for size in no_small_factor._sizes(1024):
        refused(N, flipped(8 * at + 3), "no small factor does not verify")
        at += size // 8
    assert at == len(PROOF)


@pytest.mark.parametrize("proof", [b"", PROOF[:-1], PROOF + b"\0", "text", None, bytearray(PROOF)])
def test_a_proof_of_another_size_or_type(proof):
    refused(N, proof, "must be 19[0-9]+ bytes")


def test_the_last_part_has_its_size():
    last = PROOF[REST:]
    for proof in (b"", last[:-1], last + b"\0"):
        with pytest.raises(ValueError, match="another size"):
            no_small_factor.check(N, proof)


def test_a_root_has_one_encoding():
    # x + n verifies as x does: only its range refuses it.
    for at in range(ROOTS, REST, SIZE):
        root = int.from_bytes(PROOF[at : at + SIZE], "little") + N
        if root < 1 << 8 * SIZE:
            other = PROOF[:at] + root.to_bytes(SIZE, "little") + PROOF[at + SIZE :]
            refused(N, other, "not between 0 and n")
            break
    else:
        pytest.fail("this modulus leaves no room for the test")
    refused(N, PROOF[:ROOTS] + bytes(SIZE) + PROOF[ROOTS + SIZE :], "not between 0 and n")


def test_the_proof_of_another_modulus():
    p, q = fixed_primes(1024, 1)
    other = prove(p, q)
    refused(N, other)
    refused(N, PROOF[:ROOTS] + other[ROOTS:NTH] + PROOF[NTH:], "fourth root")
    refused(N, PROOF[:NTH] + other[NTH:REST] + PROOF[REST:], "n-th root")
    refused(N, PROOF[:REST] + other[REST:], "no small factor")


@pytest.mark.parametrize(
    "n", [0, -N, True, 1.5, "n", None, (1 << 1000) + 1, (1 << 1024) + 1], ids=lambda n: str(n)[:9]
)
def test_what_is_no_modulus(n):
    refused(n, PROOF)


def test_primes_for_which_there_is_no_proof():
    other = prime_from(start(512, b"1 mod 4"), 1)
    for p, q in ((P, P), (other, Q), (P, other), (P, fixed_primes(2048)[0])):
        with pytest.raises(PlanError, match="different primes") as caught:
            prove(p, q)
        assert caught.value.rule == "modulus-proof"
    with pytest.raises(PlanError, match="has 8 bits"):
        prove(11, 23)


# Parameters


def test_the_number_of_the_factoring_challenge():
    """Its digits, their sum and its residue modulo 991889, as RSA Laboratories gave them."""
    number = no_small_factor.RSA_2048
    assert len(str(number)) == 617 and number.bit_length() == 2048
    assert str(number).startswith("25195908475657893494") and str(number).endswith("20720357")
    assert sum(map(int, str(number))) == 2738
    assert number % 991889 == 543967
    assert not primes.is_prime(number)
    assert all(number % prime for prime in primes.primes_below(1 << 16).tolist())


def test_the_bases_are_squares_of_hashes():
    for name, base in ((b"s", no_small_factor.BASE_S), (b"t", no_small_factor.BASE_T)):
        seed = hashlib.shake_256(b"secagg pedersen base v1 " + name).digest(272)
        assert base == int.from_bytes(seed, "little") ** 2 % no_small_factor.RSA_2048
        assert math.gcd(base * (base - 1), no_small_factor.RSA_2048) == 1
