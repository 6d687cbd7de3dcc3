"""Training with noise: what it spends, what it costs the model, and that its checks can fail."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from secagg import PlanError
from secagg.dp import accounting
from secagg.dp.plan_noise import mechanism_of, with_shares
from secagg.sim import training
from secagg.sim.private import STEPS, allowed_gap
from secagg.sim.private_run import run_private_training
from secagg.sim.secure import Observer
from secagg.sim.settings import Privacy, Settings
from secagg_protocols.stages import Noise, Quantise

DELTA = 1e-5


class Plans(Observer):
    """Keeps the plans of a run, in order."""

    def __init__(self):
        self.plans = {}

    def round_starts(self, label, plan, present, exchanges):
        self.plans[label] = plan


def small(*, epsilon=8.0, rounds=2, sites=10, threat="semi-honest", drops=(), **privacy):
    plans = Plans()
    run = run_private_training(
        Settings(threat=threat, drops=tuple(drops)),
        plans,
        privacy=Privacy(epsilons=(epsilon,), **privacy),
        sites=sites,
        rounds=rounds,
    )
    return run, plans.plans


@pytest.fixture(scope="module")
def both():
    """The demonstration: epsilon 2 and 8 at delta 1e-5, with sites that leave and return."""
    plans = Plans()
    settings = Settings(drops=("2/input:site-03,site-04", "3/reveal:site-05"))
    run = run_private_training(settings, plans, privacy=Privacy(epsilons=(2.0, 8.0), delta=DELTA))
    return run, plans.plans


def test_utility_at_epsilon_2_and_8(both):
    run, _ = both
    assert run.holds
    trainings = run.result["trainings"]
    assert [t["epsilon"] for t in trainings] == [2.0, 8.0]
    for made in trainings:
        assert made["auc_without"] > 0.98
        assert made["auc"] <= made["auc_without"] + 0.01
        assert made["loss_without"] < 0.2
    # Each is about 20 standard deviations of what noise does to it away from its bound.
    assert trainings[1]["auc"] > 0.93
    assert trainings[0]["auc"] > 0.6
    # Noise of a coordinate of the mean grows as epsilon falls.
    assert trainings[0]["noise_std"] > 2 * trainings[1]["noise_std"]


def test_epsilon_spent_is_the_ledgers_and_within_the_target(both):
    run, plans = both
    for made in run.result["trainings"]:
        target = made["epsilon"]
        plan = plans[f"epsilon-{target:g}-1"]
        spent = [entry["epsilon_spent"] for entry in made["rounds"]]
        assert spent == sorted(spent)
        assert 0.99 * target < spent[-1] == made["epsilon_spent"] <= target
        worst = mechanism_of(plan)
        for number, entry in enumerate(made["rounds"], 1):
            alone = accounting.epsilon(worst, delta=DELTA, rounds=number)
            assert entry["epsilon_spent"] == pytest.approx(alone, rel=1e-9)
        # What happened: the noise of the sites that were in the sums, but for the colluding.
        counts = [len(entry["survivors"]) for entry in made["rounds"]]
        assert counts == [20, 18, 18, 19, 20]
        happened = [with_shares(plan, n - plan.colluding, "zero-out") for n in counts]
        realised = accounting.compose([(one, 1) for one in happened], delta=DELTA)
        assert made["epsilon_realised"] == pytest.approx(realised, rel=1e-9)
        assert made["epsilon_realised"] < made["epsilon_spent"]
        assert made["inputs"] == 5
        assert plan.max_inputs_per_model == 1
        assert made["shares"] == plan.min_survivors - plan.colluding
        assert made["bits"] == plan.wire_bits
        claims = dict(plan.privacy)
        for name in ("epsilon", "delta", "adjacency", "adversary", "mechanism"):
            assert made[name] == claims[name]


def test_every_site_is_charged_for_what_it_sent_and_for_nothing_else(both):
    run, plans = both
    for epsilon in (2, 8):
        ledgers = run.secure.ledgers(plans[f"epsilon-{epsilon}-1"])
        assert len(ledgers) == 20
        charged = {
            name: sum(c.rounds for c in ledger.entries()) for name, ledger in ledgers.items()
        }
        # Away with the inputs of the second round, so without a setup in the third; and after
        # the third, so without one in the fourth.
        missing = {"site-03": 2, "site-04": 2, "site-05": 1}
        assert charged == {name: 5 - missing.get(name, 0) for name in ledgers}
        assert max(ledger.spent() for ledger in ledgers.values()) <= epsilon


def test_sums_differ_from_the_plain_ones_by_the_noise_and_no_more(both):
    run, plans = both
    for made in run.result["trainings"]:
        plan = plans[f"epsilon-{made['epsilon']:g}-1"]
        noise, level = plan.pipeline.noise, plan.stages[0].clip / plan.stages[2].levels
        squares = 0.0
        for entry in made["rounds"]:
            count = len(entry["survivors"])
            std = level * math.sqrt(noise.variance_levels2 * count)
            assert entry["noise_std"] == pytest.approx(std / count, rel=1e-12)
            assert entry["noise_norm"] == pytest.approx(std * math.sqrt(31) / count, rel=1e-12)
            # Chernoff's bound of a Gaussian over 32 coordinates and 2^-64, and rounding.
            gap = std * math.sqrt(2 * math.log(64 * 2.0**64)) + level * count * math.sqrt(32)
            assert entry["allowed_gap"] == pytest.approx(gap, rel=1e-3)
            assert 0.1 * std < entry["error"] <= entry["allowed_gap"]
            squares += entry["error"] ** 2 / std**2
        assert squares <= made["noise_squares"]
        # 155 coordinates, so the standard deviation of this is 0.11.
        assert 0.4 < made["noise_squares"] / made["noise_freedom"] < 2.0


def test_no_noise_is_plain_averaging_of_the_same_sites(both):
    run, _ = both
    sites, held_out = training.load_training(20)
    scaler = np.stack([held_out.x.mean(axis=0), held_out.x.std(axis=0)])
    for made, without in zip(run.result["trainings"], run.reference["without_noise"], strict=True):
        weights = np.zeros(31)
        for number, entry in enumerate(made["rounds"]):
            taking = [sites[name] for name in entry["survivors"]]
            updates = [site.update(weights, scaler, STEPS, 1.0) for site in taking]
            weights = weights + np.mean(updates, axis=0)
            score = training.scores(held_out, scaler, weights)
            auc, loss = training.auc(score, held_out.y), training.log_loss(score, held_out.y)
            assert entry["auc_without"] == without["auc"][number] == pytest.approx(auc, abs=1e-3)
            assert entry["loss_without"] == without["loss"][number] == pytest.approx(loss)
            if number == 0:
                norms = [np.linalg.norm(update) for update in updates]
                assert entry["clipped"] == sum(norm > 1 - 1e-9 for norm in norms) > 0
                mean = np.linalg.norm(np.mean(updates, axis=0))
                assert entry["update_norm"] == pytest.approx(mean)


def test_report_and_figure(both, tmp_path):
    run, _ = both
    report = json.loads(json.dumps(run.report(), allow_nan=False))
    assert report["result"]["privacy"] == {
        "epsilons": [2.0, 8.0], "delta": DELTA, "clip": 1.0, "adjacency": "zero-out",
        "mechanism": "discrete-gaussian", "adversary": "server",
    }  # fmt: skip
    assert len(report["rounds"]) == 10
    names = [path.name for path in run.figures(tmp_path)]
    assert names == ["training-privacy.png", "masked-words.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)
    notes = " ".join(run.notes)
    assert "a retry would cost as much as a round" in notes
    assert "2.00 times that variance" in notes
    # Noise of every round at epsilon 2 has norm 1.7 at least, and no update is beyond 1.
    assert "WARNING, epsilon 2: in 5 of 5 rounds the noise is larger" in notes
    lines = {what: value for what, value, _ in run.lines}
    assert lines["epsilon 8: adversary"] == "server"
    assert float(lines["epsilon 8: spent by the ledgers"]) <= 8


@pytest.mark.parametrize(
    ("options", "adversary"),
    [
        ({"mechanism": "skellam"}, "server"),
        ({"mechanism": "discrete-laplace"}, "server"),
        ({"mechanism": "central-discrete-gaussian"}, "model-consumer"),
        ({"adjacency": "replace-one", "threat": "malicious-server"}, "server"),
        ({"clip": 0.25, "delta": 1e-8}, "server"),
    ],
)
def test_mechanisms_and_adjacencies(options, adversary):
    run, plans = small(**options)
    assert run.holds
    (made,) = run.result["trainings"]
    assert made["adversary"] == adversary
    assert made["mechanism"] == options.get("mechanism", "discrete-gaussian")
    assert made["delta"] == options.get("delta", 1e-5)
    assert 0.99 * 8 < made["epsilon_spent"] <= 8
    assert 0 < made["epsilon_realised"] <= made["epsilon_spent"]
    plan = plans["epsilon-8-1"]
    for entry in made["rounds"]:
        assert (
            entry["error"]
            <= entry["allowed_gap"]
            == pytest.approx(allowed_gap(plan, len(entry["survivors"])))
        )
        assert entry["update_norm"] <= made["clip"] == options.get("clip", 1.0)


def test_replace_one_takes_twice_the_noise_and_more_rounds_more():
    once, twice, longer = (
        small(**options)[0].result["trainings"][0]["noise_std"]
        for options in ({"rounds": 1}, {"rounds": 1, "adjacency": "replace-one"}, {"rounds": 4})
    )
    assert twice == pytest.approx(2 * once, rel=0.02)
    assert longer == pytest.approx(2 * once, rel=0.2)


def without_noise(self, x, rand, given):
    return x


def with_four_times_the_noise(self, x, rand, given):
    for _ in range(4):
        x = _begin(self, x, rand, given)
    return x


_begin = Noise.begin


@pytest.mark.parametrize("fault", [without_noise, with_four_times_the_noise])
def test_noise_that_is_missing_or_too_much_is_found(monkeypatch, fault):
    monkeypatch.setattr(Noise, "begin", fault)
    # Of an epsilon whose noise is small beside the window of the sum, which it must not leave.
    run, _ = small(epsilon=40.0, rounds=4)
    assert [c.holds for c in run.claims if "variance that the plan says" in c.text] == [False]
    assert not run.holds


def test_a_sum_in_wrong_units_is_beyond_the_allowed_gap(monkeypatch):
    decode = Quantise.decode
    monkeypatch.setattr(Quantise, "decode", lambda *args: 100 * decode(*args))
    run, _ = small(rounds=1)
    assert not any(record.holds for record in run.secure.records)
    assert not run.holds


def test_noise_beyond_the_window_wraps_and_is_seen_by_the_simulation(monkeypatch):
    """The server accuses nobody (a wrap is possible), but the sum is not what it should be."""

    def much(self, x, rand, given):
        for _ in range(400):
            x = _begin(self, x, rand, given)
        return x

    monkeypatch.setattr(Noise, "begin", much)
    run, _ = small(rounds=1)
    assert not run.holds


def test_a_ruined_model_is_called_one():
    # At 0.01 the noise of a round has a norm of hundreds of clips.
    run, _ = small(epsilon=0.01)
    (made,) = run.result["trainings"]
    assert all(entry["noise_norm"] > 50 for entry in made["rounds"])
    assert "WARNING, epsilon 0.01: in 2 of 2 rounds" in " ".join(run.notes)
    assert run.holds


def test_ruined_is_a_loss_of_auc_or_no_better_than_guessing(both):
    from secagg.sim.private_run import _warnings

    made = small(epsilon=45.0, rounds=1)[0]
    assert not any("ruined" in note for note in made.notes)
    record = _private(both[0])
    fine = replace(record, auc=0.95, auc_without=0.99, loss=0.3)
    assert not fine.ruined
    assert not any("ruined" in text for text in _warnings(fine, 20))
    for bad in (replace(fine, auc=0.85), replace(fine, loss=0.7)):
        assert bad.ruined
        assert "To hide a whole site among 20 is expensive" in " ".join(_warnings(bad, 20))
    # The chi-square law has two tails.
    assert replace(fine, noise_squares=155.0).noise_as_planned
    for wrong in (155 * 0.4, 155 * 2.0):
        assert not replace(fine, noise_squares=wrong).noise_as_planned


def _private(run):
    """A training of a run, made again from its report."""
    from secagg.sim.private import PrivateRound, PrivateTraining

    made = dict(run.result["trainings"][0])
    made["rounds"] = tuple(PrivateRound(**entry) for entry in made["rounds"])
    return PrivateTraining(**made)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"epsilon": 0.0}, "dp-target"),
        ({"epsilon": -1.0}, "dp-target"),
        ({"epsilon": math.nan}, "dp-target"),
        ({"epsilon": math.inf}, "dp-target"),
        ({"delta": 0.0}, "dp-target"),
        ({"delta": 1.0}, "dp-target"),
        ({"delta": math.nan}, "dp-target"),
        ({"clip": 0.0}, "clip-range"),
        ({"clip": math.nan}, "clip-range"),
        ({"clip": -1.0}, "clip-range"),
        ({"adjacency": "add-one"}, "dp-adjacency"),
        ({"mechanism": "laplace"}, "noise-law"),
        ({"mechanism": "central-discrete-gaussian", "threat": "malicious-server"}, "noise-central"),
        ({"sites": 3}, "honest-survivors"),
    ],
)
def test_refused_before_anybody_sends_anything(options, rule):
    seen = Plans()
    options = {"epsilon": 8.0, "threat": "semi-honest", "sites": 10} | options
    epsilon, threat, sites = (options.pop(name) for name in ("epsilon", "threat", "sites"))
    with pytest.raises(PlanError) as caught:
        run_private_training(
            Settings(threat=threat),
            seen,
            # A good one first: nothing runs unless every target can be reached.
            privacy=Privacy(epsilons=(8.0, epsilon), **options),
            sites=sites,
        )
    assert caught.value.rule == rule
    assert not seen.plans
