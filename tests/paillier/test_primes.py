"""Primality and safe primes, against trial division and with both arithmetics."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_protocols.paillier import primes

#: Carmichael numbers, and composites that pass Miller-Rabin for the first bases.
PRETENDERS = [561, 1729, 6601, 8911, 2047, 3215031751, 3825123056546413051]
PRIMES = [2, 3, 5, 2**61 - 1, 2**89 - 1, 2**127 - 1, 2**521 - 1]


def by_trial(number):
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))


@pytest.fixture(params=["gmp", "python"])
def arithmetic(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(primes, "gmp", None)
    elif primes.gmp is None:
        pytest.skip("gmpy2 is not installed")


def test_the_sieve_of_eratosthenes_finds_the_primes():
    assert primes.primes_below(2000).tolist() == [n for n in range(2000) if by_trial(n)]
    assert len(primes.primes_below(1 << 20)) == 82025


@pytest.mark.usefixtures("arithmetic")
def test_small_numbers_are_told_as_by_trial_division():
    for number in range(-5, 2000):
        assert primes.is_prime(number) == by_trial(number), number
    for number in range(-5, 2000):
        safe = number > 7 and by_trial(number) and by_trial((number - 1) // 2)
        assert primes.is_safe_prime(number) == safe, number


@pytest.mark.usefixtures("arithmetic")
def test_pretenders_are_composite_and_large_primes_prime():
    assert not any(primes.is_prime(number) for number in PRETENDERS)
    assert all(primes.is_prime(number) for number in PRIMES)
    assert not primes.is_prime((2**61 - 1) * (2**89 - 1))
    assert not primes.is_prime((2**61 - 1) ** 2)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("power", [primes.power, primes.secret_power])
def test_powers_agree_with_python(power):
    for base, exponent in [(0, 5), (3, 2**61 - 1), (2**90, 2**80 + 1)]:
        assert power(base, exponent, 2**89 - 1) == pow(base, exponent, 2**89 - 1)


SIEVING = math.prod(primes.primes_below(1 << 17).tolist())


@settings(max_examples=25, deadline=None)
@given(st.integers(2**64, 2**300), st.integers(1, 300))
def test_the_sieve_leaves_what_has_no_small_factor(start, length):
    start += 5 - start % 6
    pairs = [(half := start + 6 * place) * (2 * half + 1) for place in range(length)]
    expected = [place for place, pair in enumerate(pairs) if math.gcd(SIEVING % pair, pair) == 1]
    assert primes._survivors(start, length) == expected


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("bits", [64, 65, 127, 160])
def test_safe_primes_have_their_length_and_any_two_a_full_product(bits):
    found = {primes.safe_prime(bits) for _ in range(3)}
    assert len(found) == 3
    for prime in found:
        assert prime.bit_length() == bits
        assert primes.is_prime(prime)
        assert primes.is_prime(prime // 2)
        assert prime % 12 == 11
        assert (prime * min(found)).bit_length() == 2 * bits


def test_a_window_is_searched_in_random_order(monkeypatch):
    # All windows start at one place: an ascending search would find one prime only.
    monkeypatch.setattr(primes.secrets, "randbelow", lambda limit: limit // 3)
    assert len({primes.safe_prime(64) for _ in range(30)}) > 2


def test_windows_without_a_safe_prime_are_left(monkeypatch):
    starts = []
    real = primes._survivors

    def recorded(start, length):
        starts.append(start)
        return real(start, length) if len(starts) > 2 else []

    monkeypatch.setattr(primes, "_survivors", recorded)
    prime = primes.safe_prime(128)
    assert len(set(starts)) == len(starts) >= 3
    assert 0 <= prime // 2 - starts[-1] < 6 * 16 * 128


@pytest.mark.usefixtures("arithmetic")
def test_two_safe_primes_make_a_modulus_of_the_stated_length():
    seen = []
    p, q = primes.safe_primes(384, progress=seen.append)
    assert (p * q).bit_length() == 384
    assert p.bit_length() == q.bit_length() == 192
    assert primes.is_safe_prime(p)
    assert primes.is_safe_prime(q)
    assert primes.apart(p, q, 384)


def test_progress_counts_the_candidates(monkeypatch):
    seen = []
    monkeypatch.setattr(primes, "power", lambda *_: 0)

    def tell(done):
        seen.append(done)
        if len(seen) == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        primes.safe_prime(512, progress=tell)
    assert seen == [64, 128, 192, 256, 320]


def test_progress_goes_on_from_prime_to_prime(monkeypatch):
    def safe_prime(bits, *, progress):
        progress(64)
        progress(128)
        return next(drawn)

    drawn = iter([2**255 + 95, 2**255 + 97, 2**255 + 2**157])
    monkeypatch.setattr(primes, "safe_prime", safe_prime)
    seen = []
    primes.safe_primes(512, progress=seen.append)
    assert seen == [64, 128, 192, 256, 320, 384]


def test_primes_that_are_not_apart_are_drawn_again(monkeypatch):
    drawn = iter([2**255 + 95, 2**255 + 97, 2**255 + 2**157])
    monkeypatch.setattr(primes, "safe_prime", lambda *_, **__: next(drawn))
    assert primes.safe_primes(512) == (2**255 + 95, 2**255 + 2**157)


def test_primes_are_apart_by_more_than_the_limit():
    assert not primes.apart(2**300, 2**300 + 2**156, 512)
    assert primes.apart(2**300, 2**300 + 2**156 + 1, 512)
    assert primes.apart(2**300 + 2**156 + 1, 2**300, 512)


def test_lengths_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least 64 bits"):
        primes.safe_prime(63)
    for bits in (257, 254):
        with pytest.raises(ValueError, match="even number of bits"):
            primes.safe_primes(bits)
