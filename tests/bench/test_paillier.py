"""Cases of Paillier sums: what is judged, how instructions are counted, which keys are used."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from secagg.attacks.arena.paillier_keys import FILE
from secagg.bench import (
    catalogue,
    child,
    measure,
    paillier,
    paillier_key,
    paillier_peers,
    paillier_round,
    paillier_works,
    peers,
)
from secagg.bench.results import CaseResult
from secagg.bench.sheet import Given, NotHereError, perform
from secagg_native import features
from secagg_native.paillier import from_words

BITS = 2048
TINY = Given.of("tiny", threads=1, peers=True)


def figures(result: CaseResult) -> dict[str, float | None]:
    return {verdict.bar.id: verdict.figure for verdict in result.verdicts}


def test_keys_are_the_published_ones_of_the_laboratory() -> None:
    published = {(int(k["p"], 16), int(k["q"], 16)) for k in json.loads(FILE.read_text())["keys"]}
    for bits, primes in paillier_key.PRIMES.items():
        p, q = (int(prime, 16) for prime in primes)
        assert (p, q) in published
        assert (p * q).bit_length() == bits
    assert paillier_key.private(BITS) is paillier_key.private(BITS)
    assert paillier_key.private(BITS, proofs=True).public.knowledge_proofs


# What is judged.


def made(monkeypatch: pytest.MonkeyPatch, name: str, seconds: dict[str, float]) -> CaseResult:
    """A case in which every work takes the seconds that belong to a word of its name."""

    def alternate(works: Any, **_: Any) -> dict[str, list[float]]:
        return {
            work: [next(value for word, value in seconds.items() if word in work)] * 7
            for work in works
        }

    monkeypatch.setattr(measure, "alternate", alternate)
    monkeypatch.setattr(peers, "installed", {**peers.PINNED, "gmpy2": "2.3"}.get)
    nothing = (lambda: None, 2)
    peer = paillier_peers.Peer(dict.fromkeys(paillier_peers.OPERATIONS, nothing), 768.0)
    monkeypatch.setattr(paillier_peers, "make", lambda package, count, bits: peer)
    return perform(catalogue.CASES[name], TINY)


def test_encryption_is_judged_by_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ours encrypts 100 numbers in 2 s, and proves in 5; the peer encrypts 2 in 80 s.
    result = made(
        monkeypatch, "paillier-encrypt", {"phe,": 80.0, "bytes": 2.0, "with the": 5.0, "": 1.0}
    )
    found = figures(result)
    assert found["paillier-encrypt/phe"] == pytest.approx(40 / 0.02)
    assert found["paillier-encrypt/phe-proved"] == pytest.approx(40 / 0.05)
    # 100 numbers fill two ciphertexts of 56 slots: 1024 bytes of 900 that slots need, and a header.
    assert found["paillier-encrypt/bytes"] == pytest.approx((1024 + 86) / 900, abs=0.05)


def test_addition_is_judged_by_the_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten vectors of 100 numbers are 900 additions.
    result = made(monkeypatch, "paillier-add", {"phe,": 4.0, "ten vectors": 9.0, "": 1.0})
    assert figures(result)["paillier-add/phe"] == pytest.approx(2 / 0.01)


def test_decryption_is_judged_by_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    result = made(monkeypatch, "paillier-decrypt", {"phe,": 60.0, "": 1.0})
    assert figures(result)["paillier-decrypt/phe"] == pytest.approx(30 / 0.01)


def test_shares_are_judged_by_the_ciphertext(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def call(word: str, arguments: dict[str, int], environment: dict[str, str]) -> list[float]:
        assert word == "paillier-shares"
        asked.append(environment["SECAGG_BIGINT"])
        return [{"ifma": 2.0, "gmp": 26.0}[asked[-1]]] * arguments["count"]

    monkeypatch.setattr(child, "call", call)
    monkeypatch.setattr(paillier_works, "need_ifma", lambda: None)
    monkeypatch.setattr(paillier_works, "raising", lambda *given: lambda: None)
    monkeypatch.setattr(features, "bigint_variants", lambda: ("ifma", "gmp", "python"))
    found = figures(made(monkeypatch, "paillier-share", {"ifma": 1.0, "gmp": 9.0}))
    assert asked == ["ifma", "gmp"]
    assert found["paillier-share/power"] == pytest.approx(9)
    assert found["paillier-share/whole"] == pytest.approx(13)


def test_the_table_of_peers_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = paillier_peers.Peer({}, 9.0)
    monkeypatch.setattr(paillier, "_ourselves", lambda sheet: nothing)
    monkeypatch.setattr(features, "bigint_variant", lambda: "ifma")
    result = made(monkeypatch, "paillier-peers", {"": 3e-6})
    (listing,) = result.listings
    assert [row[0] for row in listing.rows] == [
        "secagg, ifma",
        *(f"{name} {peers.PINNED[name]}" for name in paillier_peers.MAKERS),
    ]
    # Two numbers in 3 us are 1.5 us a number.
    assert listing.rows[1][1:-1] == ["1.50"] * 5 + ["768.00"]
    monkeypatch.setattr(peers, "installed", lambda package: None)
    result = perform(catalogue.CASES["paillier-peers"], TINY)
    assert len(result.listings[0].rows) == 1
    assert len([note for note in result.notes if "is not installed" in note]) == 6


def test_phe_without_gmpy2_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "installed", peers.PINNED.get)
    assert "without gmpy2" in peers.left_out(Given())["phe"]
    monkeypatch.setattr(peers, "installed", {**peers.PINNED, "gmpy2": "2.3"}.get)
    assert peers.left_out(Given()) == {}


def test_a_twin_that_was_not_forced_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "bigint_variant", lambda: "python")
    result = perform(catalogue.CASES["paillier-gmp"], TINY)
    assert result.timings == []
    assert "SECAGG_BIGINT did not choose gmp" in result.verdicts[0].reason
    with pytest.raises(NotHereError, match="computed by python"):
        paillier_works.need_ifma()


def test_forced_cases_name_their_environment() -> None:
    assert catalogue.FORCED["paillier-gmp"] == {"SECAGG_BIGINT": "gmp"}
    assert catalogue.FORCED["mask-aesni"] == {"SECAGG_AES": "aesni"}


# Works.


def test_works_give_what_they_say() -> None:
    made_bytes = paillier_works.encrypting(100, BITS)()
    assert len(made_bytes) > 2 * 512
    with_proof = paillier_works.proving(100, BITS)()
    assert len(with_proof) > len(made_bytes)
    total = paillier_works.adding(100, BITS)()
    assert total.count == 10
    assert not paillier_works.whole_opening(3, BITS)().any()
    size, least = paillier_works.bytes_a_number(56 * 40, BITS)
    assert (least, size) == (9.0, pytest.approx(512 / 56, rel=0.01))
    found = paillier_works.opening(100, BITS)()
    assert np.ptp(found) > 8


@pytest.mark.parametrize("variant", ["gmp", "python"])
def test_a_power_is_a_power(variant: str) -> None:
    if variant not in features.bigint_variants():
        pytest.skip(f"{variant} is not here")
    n = paillier_key.private(BITS).public.n
    rows = paillier_works.raising(1, BITS, 3, variant)()
    (value,) = from_words(rows)
    # An encryption of zero stays one.
    assert paillier_key.private(BITS).decrypt_int(value) == 0
    assert value < n * n


# Peers: phe is always installed, the others where benchmarks run.


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("package", list(paillier_peers.MAKERS))
def test_a_peer_gives_right_sums(package: str) -> None:
    reason = peers.missing(package)
    if reason:
        pytest.skip(reason)
    peer = paillier_peers.make(package, 2, BITS)
    assert set(peer.works) <= set(paillier_peers.OPERATIONS)
    assert peer.size > 0
    for work, numbers in peer.works.values():
        work()
        assert numbers >= 1


def test_a_peer_with_a_wrong_sum_is_refused() -> None:
    paillier_peers._require("it", 3.0000001, 3.0)
    with pytest.raises(ValueError, match="gave 4"):
        paillier_peers._require("it", 4.0, 3.0)


# Instructions, counted one by one.


def product_adds(size: int) -> int:
    """Low and high half for each pair of digits."""
    return sum(2 for _ in range(size) for _ in range(size))


def reduction_adds(size: int) -> int:
    """For each digit its quotient, and both halves for each digit of the modulus."""
    return sum(1 + sum(2 for _ in range(size)) for _ in range(size))


def triangle_adds(size: int) -> int:
    """Each digit with itself and with those above it."""
    return sum(2 for i in range(size) for _ in range(i, size))


@pytest.mark.parametrize("size", [2, 40, 60])
def test_instructions_of_pairs(size: int) -> None:
    multiply = 3 * product_adds(size) + 2 * reduction_adds(size)
    square = triangle_adds(size) + product_adds(size) + 2 * reduction_adds(size)
    assert paillier_works.pair_multiply_adds(size) == multiply
    assert paillier_works.pair_square_adds(size) == square


def test_instructions_of_a_power() -> None:
    from secagg_native import _ifma

    exponent = (1 << 1000) | 12345
    size = _ifma.digit_count(BITS)
    digits, width = _ifma._exponent(exponent)
    count = (2**width - 1) * paillier_works.pair_multiply_adds(size)
    for _ in digits[1:]:
        count += width * paillier_works.pair_square_adds(size)
        count += paillier_works.pair_multiply_adds(size)
    assert paillier_works.power_adds(BITS, exponent) == count


def test_instructions_of_an_encryption() -> None:
    from secagg_native import _ifma
    from secagg_native.kernels import lookup

    size = _ifma.digit_count(3072)
    places = len(range(0, 512, lookup.WIDTH))
    # Places are multiplied together, and the plaintext is attached.
    count = (places - 1 + 1) * paillier_works.pair_multiply_adds(size)
    assert paillier_works.encrypt_adds(3072) == count


# In processes of their own.


@pytest.mark.slow
def test_a_round_is_a_round() -> None:
    given = {"sites": 4, "length": 60, "bits": BITS, "holders": 3, "threshold": 3, "threads": 1}
    trusting = paillier_round.play(**given, proved=False)
    proved = paillier_round.play(**given, proved=True)
    for found in (trusting, proved):
        assert set(found["seconds"]) == {
            "sites",
            "server, inputs",
            "holders, inputs",
            "holders, shares",
            "server, shares",
            "server, opening",
        }
        assert sum(found["seconds"].values()) < found["whole"]
        assert found["bits"] == 32
    # One ciphertext of 512 bytes; the proof and a signature come on top.
    assert proved["sent"] > trusting["sent"] > 512


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paillier-round", "paillier-cold"])
def test_case_of_processes(name: str) -> None:
    (result,) = catalogue.run([name], TINY).cases
    assert not result.failed, result.error
    assert result.timings
