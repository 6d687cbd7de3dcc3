"""Rows 23 to 29: the attacks against plain integers, and the cells of the matrix."""

from __future__ import annotations

import math
import secrets
from dataclasses import asdict
from functools import cache
from itertools import combinations, islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks import columns, factoring
from secagg.attacks.arena.controls import without
from secagg.attacks.arena.paillier_keys import primes
from secagg.attacks.attack import Frame, Keys, Transcript
from secagg.attacks.finding import Verdict
from secagg.attacks.lab import here
from secagg.attacks.paillier import (
    BadDecryption,
    BadModulus,
    KeyHolder,
    NoRerandomisation,
    RelatedCiphertexts,
    SlotOverflow,
    TwoOpenings,
)
from secagg.attacks.paillier_numbers import (
    ENCRYPTED,
    OPENED,
    Public,
    decrypt,
    opened,
    packed,
    product,
    share_of,
    slots,
)
from secagg.attacks.scene import Lab
from secagg.attacks.scenes import (
    paillier_holders,
    paillier_moduli,
    paillier_openings,
    paillier_sites,
)
from secagg.attacks.scenes.paillier_play import LENGTH, claims, make_holder, public_of
from secagg_protocols import wire
from secagg_protocols.paillier import Layout, modulus_proof
from secagg_protocols.paillier.primes import is_prime
from secagg_protocols.paillier_sum import Holder, messages

ATTACKS = (
    "key-holder",
    "related-ciphertexts",
    "no-rerandomisation",
    "slot-overflow",
    "bad-modulus",
    "bad-decryption",
    "two-openings",
)
PAILLIER = [(name, column) for name in ATTACKS for column in columns.PAILLIER]
PLAIN = ("key-holder", "two-openings")


@cache
def _safe(below: int) -> int:
    """The largest safe prime below a limit, by Fermat's test. Of 64 bits, nothing is right by
    chance."""
    number = below - 1
    while not (
        number % 12 == 11
        and pow(2, number - 1, number) == 1
        and pow(2, number // 2 - 1, number // 2) == 1
    ):
        number -= 1
    return number


def toy(holders: int = 1, threshold: int = 1, **changes: int) -> tuple[Public, int, int]:
    """Public values of a toy key of 128 bits, and its primes."""
    p = _safe(1 << 64)
    q = _safe(p)
    values = {
        "n": p * q,
        "bits": 12,
        "slot_bits": 14,
        "slots": 3,
        "length": 3,
        "rows": 1,
        "sites": 4,
        "holders": holders,
        "threshold": threshold,
        "trailer": 32,
    }
    return Public(**(values | changes)), p, q


def wired(public: Public) -> dict[str, Any]:
    return asdict(public) | {"n": public.n.to_bytes(16, "little")}


def cipher(m: int, public: Public, r: int | None = None) -> int:
    n = public.n
    r = 2 + secrets.randbelow(n - 2) if r is None else r
    return (1 + m * n) * pow(r, n, n * n) % (n * n)


def frame(kind: int, sender: int, name: str, numbers: list[int], size: int, more: bytes) -> Frame:
    tail = b"".join(number.to_bytes(size, "little") for number in numbers) + more
    data = wire.frame_head(kind, sender, wire.SERVER, b"\x90") + tail + bytes(32)
    return Frame(0, name, "server", data)


def sent(public: Public, vectors: list[list[int]], r: int | None = None) -> list[Frame]:
    """Frames of honest sites, or of sites that all take the random factor r."""
    return [
        frame(
            ENCRYPTED,
            i,
            f"s{i}",
            [cipher(m, public, r) for m in packed(x, public)],
            public.size,
            b"a proof",
        )
        for i, x in enumerate(vectors)
    ]


def dealt(p: int, q: int, holders: int, threshold: int) -> dict[int, int]:
    """Shares of d = 0 mod p'q', 1 mod n, by the definition."""
    n, half = p * q, (p // 2) * (q // 2)
    d = half * pow(half, -1, n)
    slopes = [secrets.randbelow(n * half) for _ in range(threshold - 1)]
    return {
        i: (d + sum(a * i**k for k, a in enumerate(slopes, 1))) % (n * half)
        for i in range(1, holders + 1)
    }


VECTORS = [[123, 456, 789], [1, 2, 3], [1000, 0, 999], [7, 8, 9]]


# The numbers.


@given(st.integers(0, 2**100))
@settings(max_examples=30, deadline=None)
def test_all_factors_open_a_ciphertext(m: int) -> None:
    public, p, q = toy()
    assert decrypt([cipher(m, public)], [p, q], public.n) == [m % public.n]


def test_factors_in_common_with_phi_leave_small_plaintexts() -> None:
    p = 1000003
    q = next(2 * k * p + 1 for k in range(1, 9999) if is_prime(2 * k * p + 1))
    public, _, _ = toy(n=p * q)
    assert decrypt([cipher(123456, public, 5)], [p, q], public.n) == [123456]
    square, _, _ = toy(n=p * p)
    assert decrypt([cipher(1234, square, 5)], [p, p], square.n) == [1234]


@pytest.mark.parametrize(("holders", "threshold"), [(2, 1), (3, 2), (4, 3), (5, 5)])
def test_any_threshold_of_holders_open_and_fewer_do_not(holders: int, threshold: int) -> None:
    public, p, q = toy(holders, threshold)
    secret = dealt(p, q, holders, threshold)
    rows = [cipher(424242, public)]
    shares = {i: share_of(rows, s, public) for i, s in secret.items()}
    for size in range(holders + 1):
        for chosen in combinations(shares, size):
            found = opened({i: shares[i] for i in chosen}, public)
            assert found == ([424242] if size >= threshold else None)


@given(st.lists(st.integers(-2048, 2047), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_slots_are_those_of_the_layout(values: list[int]) -> None:
    layout = Layout(bits=12, most=4, length=len(values), key_bits=64)
    public, _, _ = toy(
        slots=layout.slots, slot_bits=layout.slot_bits, length=len(values), rows=layout.rows
    )
    ring = np.array([value % 4096 for value in values], dtype=np.uint16)
    theirs = [int.from_bytes(row.tobytes(), "little") for row in layout.pack(ring)]
    assert packed(values, public) == theirs
    assert slots([3 * row for row in theirs], 3, public) == [3 * value for value in values]


# Factors.


def test_factors_are_found_by_what_makes_them_findable() -> None:
    big = _safe(1 << 64)
    assert factoring.split(big * 1048573)[1] == "division"
    assert factoring.split(big * big)[1] == "root"
    assert factoring.split(big * _safe(big))[1] == "ratio"
    smooth = paillier_moduli.smooth_prime(np.random.default_rng(1), 256)
    assert factoring.split(smooth * (2**521 - 1))[1] == "p - 1"
    assert factoring.split(1073741827 * (2**521 - 1))[1] == "rho"
    assert factoring.split(2**521 - 1) == (1, "")
    assert factoring.factors(2 * 3 * 3 * 1000003) == [2, 3, 3, 1000003]


def test_moduli_are_as_their_names_say() -> None:
    rng = np.random.default_rng(7)
    n = paillier_moduli.with_factors(rng, 20, 16)
    small = [factor for factor in factoring.factors(n) if factor < 1 << 20]
    assert n.bit_length() == 2048
    assert len(small) == 16
    assert min(small) >= 1 << 19
    ratio = paillier_moduli.KINDS["a prime that divides the other less one"][0](rng)
    p, q = factoring.factors(ratio)
    assert (q - 1) % p == 0
    assert math.gcd(ratio, (p - 1) * (q - 1)) == p


# The attacks, on toy keys.


def test_the_catalogues_overflow() -> None:
    public, _, _ = toy()
    asked = {"own": VECTORS[0], "kind": "carry", "amount": 100, "coordinate": 0}
    found = SlotOverflow().run(Transcript(public=wired(public) | asked), Keys())
    rows = [int.from_bytes(found.arrays["rows"].tobytes(), "little")]
    assert slots(rows, 1, public) == [23, 457, 789]


@pytest.mark.parametrize("how", ["power", "shifted", "cancel", "copy"])
def test_related_ciphertexts_give_the_victim_away(how: str) -> None:
    # Room for the vector twice, one beside the other.
    public, p, q = toy(slots=3)
    honest = [VECTORS[0], *VECTORS[2:]]
    frames = sent(public, honest)
    asked = wired(public) | {"victim": "s0", "how": how, "count": 4}
    forged = RelatedCiphertexts().run(Transcript(frames=frames, public=asked), Keys())
    assert forged.arrays["proof"].tobytes() == b"a proof"
    mine = [int.from_bytes(forged.arrays["rows"].tobytes(), "little")]
    theirs = [cipher(m, public) for x in honest for m in packed(x, public)]
    total = decrypt(product([*([c] for c in theirs), mine], public), [p, q], public.n)
    if how == "cancel":
        # Its fresh encryptions differ from those that were inverted only in their randomness.
        assert slots(total, 1, public) == VECTORS[0]
    answer = frame(OPENED, 4, "h0", total, public.size // 2, b"")
    found = RelatedCiphertexts().run(Transcript(frames=[answer], public=asked), Keys())
    if how == "copy":
        sums = [sum(c) + c[0] for c in zip(*honest, strict=True)]
        assert found.vectors == {"sum": sums}
    else:
        assert found.vectors == {"s0": VECTORS[0]}


def test_proofs_of_forgeries_are_what_was_asked_for() -> None:
    public, _, _ = toy()
    made = set()
    for proof in ("theirs", "changed", "random"):
        asked = {"victim": "s0", "how": "copy", "count": 4, "proof": proof, "trial": 1}
        transcript = Transcript(frames=sent(public, VECTORS), public=wired(public) | asked)
        made.add(RelatedCiphertexts().run(transcript, Keys()).arrays["proof"].tobytes())
    assert len(made) == 3
    assert all(len(each) == len(b"a proof") for each in made)


def test_missing_and_shared_randomness_is_read() -> None:
    public, _, _ = toy()
    run = NoRerandomisation().run
    found = run(Transcript(frames=sent(public, VECTORS, r=1), public=wired(public)), Keys())
    assert found.vectors == {f"s{i}": x for i, x in enumerate(VECTORS)}
    found = run(Transcript(frames=sent(public, VECTORS, r=99), public=wired(public)), Keys())
    gaps = {
        f"s{i} - s0": [a - b for a, b in zip(x, VECTORS[0], strict=True)]
        for i, x in enumerate(VECTORS)
        if i
    }
    assert found.vectors == gaps
    found = run(Transcript(frames=sent(public, VECTORS), public=wired(public)), Keys())
    assert found.vectors == {}
    assert found.values == {"looked": 4.0, "ones": 0.0, "shared": 0.0}


@pytest.mark.parametrize("colluders", range(4))
def test_holders_open_from_the_threshold_on(colluders: int) -> None:
    public, p, q = toy(3, 2)
    secret = dealt(p, q, 3, 2)
    held = {f"share:{i}": secret[i].to_bytes(32, "little") for i in range(1, colluders + 1)}
    transcript = Transcript(frames=sent(public, VECTORS), public=wired(public))
    found = KeyHolder().run(transcript, Keys(values=held)).vectors
    assert found == ({f"s{i}": x for i, x in enumerate(VECTORS)} if colluders >= 2 else {})


def test_a_wrong_share_moves_the_sum_as_wanted() -> None:
    public, p, q = toy(3, 2)
    secret = dealt(p, q, 3, 2)
    rows = [cipher(sum(packed(x, public)[0] for x in VECTORS), public)]
    shares = {i: share_of(rows, secret[i], public) for i in (1, 2)}
    answer = frame(OPENED, 4, "h0", shares[1], public.size, b"")
    asked = {"how": "shift", "trial": 0, "proof": b"p", "row": 0, "slot": 1, "move": -30}
    public_part = wired(public) | asked | {"with": [1, 2]}
    found = BadDecryption().run(Transcript(frames=[answer], public=public_part), Keys())
    wrong = [int.from_bytes(found.arrays["rows"].tobytes(), "little")]
    assert wrong != shares[1]
    plain = opened({1: wrong, 2: shares[2]}, public)
    assert plain is not None
    honest = [sum(c) for c in zip(*VECTORS, strict=True)]
    assert slots(plain, 4, public) == [honest[0], honest[1] - 30, honest[2]]


def test_two_sums_give_the_site_between_them() -> None:
    public, _, _ = toy()
    frames = sent(public, VECTORS)
    names = ["s0", "s1", "s2", "s3"]
    totals = [sum(packed(x, public)[0] for x in part) for part in (VECTORS, VECTORS[1:])]
    frames += [frame(OPENED, 4, "h0", [m], public.size // 2, b"") for m in totals]
    asked: dict[str, Any] = {"first": names, "second": names[1:], "victim": "s0"}
    both = {"first answers": [4], "second answers": [5]}
    one = {"first answers": [4], "second answers": []}
    for answers, wanted in ((both, {"s0": VECTORS[0]}), (one, {})):
        transcript = Transcript(frames=frames, public=wired(public) | asked | answers)
        assert TwoOpenings().run(transcript, Keys()).vectors == wanted


def test_two_safe_primes_resist() -> None:
    p, q = primes(1024)
    number = (p * q).to_bytes(128, "little")
    found = BadModulus().run(Transcript(public={"n": number}), Keys())
    assert found.vectors == {}
    assert found.values["found"] == 0.0
    assert found.note == "no factor"


def test_a_composite_that_resists_is_no_factor() -> None:
    p, q = primes(1024)
    with pytest.raises(ValueError, match="do not split"):
        factoring.factors(3 * p * q)


def test_only_the_victims_own_vector_is_a_success() -> None:
    public, p, q = toy()
    values = {"p": p.to_bytes(8, "little"), "q": q.to_bytes(8, "little")}
    transcript = Transcript(frames=sent(public, VECTORS), public=wired(public))
    found = KeyHolder().run(transcript, Keys(values=values))
    assert claims(found, "s0", VECTORS[0])
    assert not claims(found, "s0", VECTORS[1])
    assert not claims(found, "s9", VECTORS[0])


# The cells.


@cache
def quick(name: str, column: str) -> Any:
    return here(name, column, effort="quick", seed=1, separate=False)


@pytest.mark.parametrize(("name", "column"), PAILLIER)
def test_cells_of_paillier_sums(name: str, column: str) -> None:
    cell = quick(name, column)
    assert cell.problems == []
    assert cell.finding is not None
    assert cell.finding.controls or cell.verdict == Verdict.LEAKS


@pytest.mark.parametrize("name", ATTACKS)
def test_other_protocols(name: str) -> None:
    for column in columns.COLUMNS:
        if column in columns.PAILLIER:
            continue
        cell = here(name, column, separate=False)
        assert cell.problems == []
        if column == "plain" and name in PLAIN:
            assert cell.verdict == Verdict.LEAKS
        else:
            assert cell.verdict == Verdict.NOT_APPLICABLE
            assert cell.reason.endswith(".")


def test_a_cell_in_a_process_of_its_own() -> None:
    cell = here("key-holder", "paillier-one", separate=True)
    assert cell.problems == []
    assert cell.transcripts == 1


def test_a_law_that_fails_is_a_failed_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paillier_sites, "_law", lambda *_: "slot-range")
    cell = here("slot-overflow", "paillier-one", separate=False)
    assert cell.verdict == "failed"
    assert "the law says slot-range" in cell.problems[0]


def test_holders_that_answer_twice_are_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    # Holders that forget what they opened, where the full build should be.
    def forgetful(world: Any, name: str, kind: Any = Holder, journal: Any = None) -> Any:
        return make_holder(world, name, kind)

    monkeypatch.setattr(paillier_openings, "make_holder", forgetful)
    cell = here("two-openings", "paillier-one", separate=False)
    assert cell.finding is not None
    assert (cell.verdict, cell.finding.successes) == (Verdict.LEAKS, 2)
    assert cell.problems


def test_a_holder_that_helps_is_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paillier_holders, "Holder", without(Holder, "given"))
    cell = here("key-holder", "paillier-threshold", separate=False)
    assert cell.finding is not None
    assert (cell.verdict, cell.finding.successes) == (Verdict.LEAKS, 1)
    assert "holder.given" not in cell.finding.stopped_by


def test_only_what_matters_is_said_to_stop() -> None:
    for name in ("key-holder", "two-openings"):
        finding = quick(name, "paillier-threshold").finding
        assert finding is not None
        won = {rule for k in finding.controls if k.expected and k.successes for rule in k.overrides}
        assert set(finding.stopped_by) <= won
        assert finding.also_refused
        assert not set(finding.also_refused) & won


def test_the_control_of_openings_counts_the_cells_of_the_law(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finding = quick("two-openings", "paillier-threshold").finding
    assert finding is not None
    (control,) = (k for k in finding.controls if k.overrides == ("plan.one-opening",))
    # 3 holders, threshold 2: of 0 and 1 colluders, 4 <= 3 + c for one.
    assert (control.trials, control.successes) == (1, 1)
    # A cell of the law that opens nothing is no control that shrinks.
    monkeypatch.setattr(paillier_openings, "claims", lambda *_: False)
    cell = here("two-openings", "paillier-threshold", separate=False)
    assert "open nothing" in cell.problems[0]


def test_a_trap_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = quick("bad-modulus", "paillier-one")
    assert cell.finding.successes == 1
    assert cell.finding.stopped_by == ()
    monkeypatch.setattr(paillier_moduli.BadModulusScene, "_trap", lambda *_: (None, False))
    cell = here("bad-modulus", "paillier-one", separate=False)
    assert (cell.verdict, cell.problems) == (
        Verdict.PREVENTED,
        ["verdict prevented, expected leaks"],
    )


def test_a_random_proof_is_not_refused_for_its_form() -> None:
    empty, other, noise = paillier_moduli._proofs(np.random.default_rng(3))
    assert (empty, len(noise)) == (b"", len(other))
    p, q = primes(2048)
    with pytest.raises(secagg.PlanError, match="a fourth root is wrong"):
        modulus_proof.check(p * q, noise)


def test_what_sites_send_in_a_plain_sum_is_all_that_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_to = []
    attack = Lab.attack

    def spied(self: Lab, transcript: Transcript, keys: Keys = Keys()) -> Any:  # noqa: B008
        given_to.append(transcript)
        return attack(self, transcript, keys)

    monkeypatch.setattr(Lab, "attack", spied)
    cell = here("key-holder", "plain", separate=False)
    assert cell.finding is not None
    assert cell.finding.successes == 4
    (transcript,) = given_to
    assert not transcript.arrays
    assert len(transcript.frames) == 4


def test_accepted_and_unreadable_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lax(world: Any, name: str, kind: Any = Holder, journal: Any = None) -> Any:
        return make_holder(world, name, without(Holder, "knowledge", "repeated"), journal)

    monkeypatch.setattr(paillier_sites, "make_holder", lax)
    finding = here("related-ciphertexts", "paillier-one", separate=False).finding
    assert finding is not None
    assert finding.measures[0].value == 1.0
    assert "refused 0 of 12" in finding.seen


def test_no_attempt_is_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    forged = paillier_sites.RelatedCiphertextsScene._forged

    def kept(*args: Any, **more: Any) -> bytes:
        made.append(forged(*args, **more))
        return made[-1]

    monkeypatch.setattr(paillier_sites.RelatedCiphertextsScene, "_forged", kept)
    # More than one turn through all kinds, of which the exact copies come again.
    monkeypatch.setattr(Lab, "trials", lambda *_: 44)
    cell = here("related-ciphertexts", "paillier-one", separate=False)
    assert cell.finding is not None
    # Before those of the honest server and of the four controls.
    attempts = made[: -1 - len(cell.finding.controls)]
    assert cell.finding.trials == len(set(attempts)) == 44
    assert len(attempts) > 44


def test_changes_of_a_sum_are_all_different_and_within_its_range() -> None:
    sums = [0, 2000, 4000]
    found = list(islice(paillier_holders._changes(sums, np.random.default_rng(1)), 900))
    assert len({(slot, move) for _, slot, move in found}) == 900
    assert all(0 <= sums[slot] + move <= 4000 and move for _, slot, move in found)


def test_what_the_scenes_tell_attacks_is_public() -> None:
    plan = columns.plan("paillier-threshold", 4, LENGTH)
    key = messages.protocol_of(plan).key
    told = public_of(plan)
    assert Public.of(told).n == key.n
    assert Public.of(told).size == 512
    assert {type(value) for value in told.values()} == {int, bytes}
