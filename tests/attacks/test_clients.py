"""Lying sites: every cell in quick effort, and the laws against plain integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks import columns
from secagg.attacks.arena import controls, world
from secagg.attacks.attack import Keys, Transcript
from secagg.attacks.clients import (
    Garbage,
    Scaling,
    WrapPoisoning,
    WrongShare,
    descend,
    lagrange,
    says_one,
    signed,
)
from secagg.attacks.finding import Verdict
from secagg.attacks.lab import here
from secagg.attacks.process import Inside
from secagg.attacks.scenes import client_shares, clients, lying
from secagg_protocols import masked_sum, shamir
from secagg_protocols.lift import lift

ROWS = ("scaling", "wrap-poisoning", "wrong-share", "garbage")
PRIME = 2**61 - 1


def cell(row, column, **options):
    return here(row, column, **({"separate": False} | options))


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(each, marks=[pytest.mark.slow] if each == "paillier-threshold" else [])
        for each in columns.COLUMNS
    ],
)
@pytest.mark.parametrize("row", ROWS)
def test_every_cell_comes_out_as_expected(row, column):
    found = cell(row, column)
    assert found.problems == []
    if found.finding is None:
        assert found.reason
        return
    finding = found.finding
    assert finding.trials > 0
    assert found.transcripts > 0
    assert all(m.value >= 0 for m in finding.measures)
    if finding.verdict == Verdict.CORRUPTS:
        assert finding.successes > 0
    # Every column but the two that have no rule about sums shows what that rule does.
    if row != "wrong-share" and column not in lying.UNBOUNDED:
        ranged = [c for c in finding.controls if c.overrides == (lying.SUM_RANGE,)]
        assert ranged
        assert all(c.successes == c.trials for c in ranged)


def test_a_cell_runs_in_a_process_of_its_own_and_can_be_repeated():
    first = cell("wrong-share", "semi-honest", separate=True)
    again = cell("wrong-share", "semi-honest")
    other = cell("wrong-share", "semi-honest", seed=1)
    assert first.problems == again.problems == other.problems == []
    assert first.digest == again.digest != other.digest
    assert first.finding == again.finding


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_control_that_succeeds(row):
    finding = cell(row, "semi-honest").finding
    assert any(c.expected and c.successes for c in finding.controls)


@pytest.mark.parametrize(
    ("row", "off"),
    [
        ("wrong-share", ("decoded", "commitment", "mask-key", "sum-range")),
        ("garbage", ("sum-range",)),
    ],
)
def test_the_verdict_follows_what_the_parties_do(row, off, monkeypatch):
    """With parties that do not refuse, the same scene finds that the result is corrupted."""
    monkeypatch.setattr(world, "Server", controls.without(masked_sum.Server, *off))
    found = cell(row, "semi-honest")
    assert found.verdict == "corrupts"
    assert found.problems


def test_controls_and_liars_override_what_they_say():
    for column in columns.COLUMNS:
        kind = lying.client_of(column)
        made = columns.plan(column, 4 if column in columns.PAILLIER else 7, 4)
        liar = lying.lying(kind, made, np.zeros(made.ring_length, dtype=np.int64))
        assert controls.overrides(kind, liar) == {"pipeline"}
        if column != "plain":
            server = lying.server_of(column)
            weak = lying.weaker(column, "sum-range")
            assert controls.overrides(server, weak) == {"_check_sum_range"}


# Scaling.


@pytest.fixture(scope="module")
def learning():
    return clients.learn(6, np.random.default_rng(3))


def scaled(learning, top):
    public = {"clients": 6, "levels": 4096, "top": top, "gap": 100, "length": 31}
    return Inside(Scaling).run(
        Transcript(
            models={0: learning.model.astype("<f8").tobytes()},
            public=public,
            arrays={"x": learning.x[0], "y": learning.y[0]},
        ),
        Keys(),
    )


def test_the_training_is_real(learning):
    right = says_one(learning.model, learning.test_x) == (learning.test_y == 1)
    assert right.mean() > 0.93
    still = descend(learning.model, learning.x[0], learning.y[0], steps=0)
    assert (still == learning.model).all()


def test_the_backdoor_is_in_the_update_and_not_in_the_model(learning):
    found = scaled(learning, 6 * 4096)
    features = found.arrays["features"]
    marked = clients.triggered(learning.test_x[learning.test_y == 0], features)
    assert says_one(learning.model, marked).mean() < 0.3
    replaced = learning.model + found.arrays["update"] / 6
    assert says_one(replaced, marked).mean() > 0.7
    # The trigger, and not the model as a whole, is what changed.
    right = says_one(replaced, learning.test_x) == (learning.test_y == 1)
    assert right.mean() > 0.85


# Wrapping.


def test_the_golden_wrap():
    assert signed(600, 10) == -424
    assert signed(511, 10) == 511
    assert signed(512, 10) == -512
    assert signed(-1, 10) == -1


def test_a_sum_is_refused_exactly_where_no_honest_sum_is():
    """Every element of a small ring, for every number of survivors, against plain integers."""
    plan = columns.plan("semi-honest", 7, 1, stages=(secagg.Integers(-3, 2),))
    server = world.World(plan).server
    for survivors in (6, 7):
        for element in range(1 << plan.wire_bits):
            total = lift(plan, np.array([element], dtype=plan.lane))
            # The window that holds every honest sum of all seven begins at -21.
            window = (element + 21) % (1 << plan.wire_bits) - 21
            assert total[0] == window
            honest = -3 * survivors <= window <= 2 * survivors
            try:
                server._check_sum_range(total, tuple(range(survivors)))
                taken = True
            except secagg.PeerError as error:
                taken = False
                assert error.rule == "sum-range"
                assert len(error.suspects) == survivors
            assert taken is honest


def test_elements_lie_where_the_strategy_says():
    told = {"top": 700, "bits": 11, "tries": 50, "seed": 5}
    found = Inside(WrapPoisoning).run(Transcript(public=told), Keys()).arrays
    window = lambda e: (int(e) + 700) % 2048 - 700  # noqa: E731
    assert -700 <= window(found["room"][0]) <= 700
    assert window(found["gap"][0]) > 700
    # A sum of 300 of the others comes out near the lower end.
    assert window(found["flip"][0] + 300) == -400
    assert len(set(found["random"].tolist())) > 40
    assert found["random"].min() >= 0
    assert found["random"].max() < 2048


# Shares.


def at_zero(points):
    """Plain Lagrange interpolation modulo 2^61 - 1."""
    total = 0
    for x, y in points:
        up = down = 1
        for other, _ in points:
            if other != x:
                up, down = up * other % PRIME, down * (other - x) % PRIME
        total += y * up * pow(down, -1, PRIME)
    return total % PRIME


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 40), min_size=2, max_size=9), st.randoms(use_true_random=False))
def test_weights_are_lagrange_weights(sites, random):
    xs = [site + 1 for site in sorted(sites)]
    ys = [random.randrange(PRIME) for _ in xs]
    whole = sum(lagrange(x, [o for o in xs if o != x]) * y for x, y in zip(xs, ys, strict=True))
    assert whole % PRIME == at_zero(list(zip(xs, ys, strict=True)))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_shifted_share_moves_the_secret_by_one_limb(threshold, secret, seed):
    holders = list(range(threshold))
    table = shamir.split([secret], holders, threshold, seed)
    found = forged(table[0], holders)
    table[0] = np.frombuffer(found["shifted"].tobytes(), "<u8").reshape(1, -1)
    (moved,), wrong = shamir.recover(holders, table, threshold)
    value = int.from_bytes(secret, "little")
    limb = value >> 104 & (1 << 52) - 1
    expected = value + (1 << 104)
    # Limbs do not carry: one that was full is refused for its size.
    assert moved == (None if limb == (1 << 52) - 1 else expected.to_bytes(32, "little"))
    assert not wrong.any()


def forged(own, holders, me=0):
    told = {"me": me, "holders": holders, "at": 0, "seed": 1}
    keys = Keys(values={"shares": own.astype("<u8").tobytes()})
    return Inside(WrongShare).run(Transcript(public=told), keys).arrays


def test_a_shift_for_other_holders_looks_like_nothing():
    """Whoever guesses wrong who reveals makes no secret at all."""
    holders = [0, 1, 2, 3]
    table = shamir.split([bytes(range(32))], holders, 4, bytes(32))
    found = forged(table[0], [0, 1, 2, 5])
    table[0] = np.frombuffer(found["shifted"].tobytes(), "<u8").reshape(1, -1)
    assert shamir.recover(holders, table, 4)[0] == [None]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 8), st.integers(0, 8), st.integers(0, 2**32))
def test_the_decoding_law(threshold, spare, wrong, seed):
    if wrong > threshold + spare:
        return
    rng = np.random.default_rng(seed)
    corrected = clients.WrongShareScene._corrected(rng, threshold + spare, threshold, wrong)
    assert corrected is (wrong <= spare // 2)


# Garbage.


def test_garbage_has_the_sizes_that_it_needs():
    told = {"bits": 13, "length": 64, "bytes": 104, "seed": 9}
    found = Inside(Garbage).run(Transcript(public=told), Keys()).arrays
    assert found["words"].shape == (64,)
    assert found["words"].min() >= 0
    assert found["words"].max() < 1 << 13
    assert (found["bytes"].size, found["cut"].size) == (104, 103)


def test_who_is_named_is_the_liar_and_the_others_sum_is_right():
    finding = cell("garbage", "malicious-server").finding
    named = {m.name: m.value for m in finding.measures}
    assert named["unreadable input: culprit named"] == 1.0
    assert finding.stopped_by == ("server.sum-range",)
    assert {"party.tail-length", "server.enough"} <= set(finding.also_refused)


def test_garbage_that_goes_in_is_stopped_by_nothing():
    finding = cell("garbage", "noise").finding
    assert finding.stopped_by == ()
    assert "party.tail-length" in finding.also_refused


def test_random_words_that_do_not_pass_against_the_law_fail_the_cell(monkeypatch):
    monkeypatch.setattr(lying.Played, "silent", property(lambda _: False))
    found = cell("garbage", "noise")
    assert found.verdict == "failed"
    assert "law" in found.problems[0]


def test_a_decoder_against_the_law_fails_the_cell(monkeypatch):
    honest = shamir.recover

    def careless(sites, table, threshold):
        return honest(sites[:threshold], table[:threshold], threshold)

    monkeypatch.setattr(client_shares.shamir, "recover", careless)
    found = cell("wrong-share", "semi-honest")
    assert found.verdict == "failed"
    assert "against the law" in found.problems[0]


@pytest.mark.parametrize("column", ["semi-honest", "sparse"])
def test_decoding_has_a_control_in_which_it_matters(column):
    finding = cell("wrong-share", column).finding
    assert "feature: Reed-Solomon decoding" in finding.stopped_by
    runs = {c.overrides: c for c in finding.controls}
    (weak,) = [c for c in finding.controls if "feature: Reed-Solomon decoding" in c.overrides]
    assert weak.successes == 1
    assert runs[weak.overrides[1:]].successes in {0, 1}
    same = [c for c in finding.controls if c.overrides == weak.overrides[1:]]
    assert [c.successes for c in same] == [1, 0]


def test_a_backdoor_that_is_noticed_is_no_success(monkeypatch):
    monkeypatch.setattr(lying.Played, "silent", property(lambda _: False))
    finding = cell("scaling", "plain").finding
    assert finding.successes == 0
    assert finding.verdict == Verdict.DETECTED
