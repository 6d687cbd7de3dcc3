"""Federated training through sums against plain averaging and scikit-learn; the plain sum."""

from __future__ import annotations

import json

import numpy as np
import pytest

from secagg.sim import figures, training
from secagg.sim.training import Steps, TrainingSite
from support.plain_summation import PlainSummation


@pytest.fixture(scope="module")
def data():
    return training.load_training()


def test_split_is_repeatable_and_uneven(data):
    sites, held_out = data
    again, _ = training.load_training()
    sizes = [site.weight for site in sites.values()]
    assert len(sites) == 10
    assert len(set(sizes)) > 4
    assert sum(sizes) + len(held_out.y) == 569
    assert all(np.array_equal(site.x, again[name].x) for name, site in sites.items())
    other, _ = training.load_training(seed=1)
    assert not np.array_equal(held_out.y, training.load_training(seed=1)[1].y)
    assert min(site.weight for site in training.load_training(50)[0].values()) >= 4
    assert len(other) == 10
    for wrong in (0, 51):
        with pytest.raises(ValueError, match="1 to 50"):
            training.load_training(wrong)


@pytest.mark.parametrize(("count", "seed"), [(10, 0), (3, 1), (25, 2), (50, 4)])
def test_training_equals_plain_averaging(count, seed):
    sites, held_out = training.load_training(count, seed)
    result = training.train(sites, held_out, PlainSummation(rejoin=True))
    reference = training.reference(sites, held_out, result)
    assert reference.agrees
    assert reference.gap <= 0.002
    assert np.abs(result.weights - reference.weights).max() < 1e-5
    assert abs(result.auc - reference.centralised) < 0.01
    assert result.auc > 0.97


def test_a_site_may_return_in_the_next_round(data):
    sites, held_out = data
    names = list(sites)
    drop = {"moments": names[:2], "training-2": names[3:7], "training-5": names[9:]}
    summation = PlainSummation(drop=drop, rejoin=True)
    result = training.train(sites, held_out, summation, rounds=6)
    assert summation.labels == ["moments", *(f"training-{i}" for i in range(1, 7))]
    assert result.moment_sites == tuple(names[2:])
    assert [len(entry.survivors) for entry in result.rounds] == [10, 6, 10, 10, 9, 10]
    assert result.rounds[1].weight == sum(sites[n].weight for n in names[:3] + names[7:])
    assert training.reference(sites, held_out, result).agrees


def test_standardisation_is_the_pooled_one(data):
    sites, held_out = data
    result = training.train(sites, held_out, PlainSummation(), rounds=1)
    pooled = np.concatenate([site.x for site in sites.values()])
    assert np.abs(result.scaler - [pooled.mean(axis=0), pooled.std(axis=0)]).max() < 1e-7
    with pytest.raises(ValueError, match="constant"):
        training.standardisation(np.concatenate([np.full(30, 0.5), np.full(30, 0.25)]))
    with pytest.raises(ValueError, match="one round"):
        training.train(sites, held_out, PlainSummation(), rounds=0)


def test_update_is_gradient_descent_and_clipped(data):
    sites, _ = data
    site = sites["site-00"]
    scaler = np.stack([site.x.mean(axis=0), site.x.std(axis=0)])
    z = np.column_stack([(site.x - scaler[0]) / scaler[1], np.ones(site.weight)])
    weights = np.linspace(-0.2, 0.2, 31)
    steps = Steps(count=1, rate=0.5, l2=0.01)

    def loss(w):
        score = z @ w
        fit = np.mean(np.log1p(np.exp(-np.where(site.y > 0, score, -score))))
        return fit + 0.005 * np.sum(w[:-1] ** 2)

    slope = [(loss(weights + h) - loss(weights - h)) / 2e-6 for h in 1e-6 * np.eye(31)]
    assert site.update(weights, scaler, steps) == pytest.approx(-0.5 * np.array(slope), abs=1e-8)
    far = site.update(weights, scaler, Steps(count=50, rate=50.0))
    assert np.linalg.norm(far) == pytest.approx(training.UPDATE_CLIP)
    assert np.abs(far).max() <= training.UPDATE_CLIP
    # One coordinate alone at the clip must not be refused by the sum.
    one = TrainingSite("s", np.zeros((1, 30)), np.ones(1))
    edge = one.update(np.zeros(31), np.ones((2, 30)) * [[0], [1]], Steps(rate=1e9))
    PlainSummation().reals({"s": edge}, clip=training.UPDATE_CLIP, resolution=1e-3, label="r")


def test_site_refuses_what_breaks_a_public_bound():
    for x, y in ((np.full((1, 30), 1.1), np.ones(1)), (np.full((1, 30), np.nan), np.ones(1))):
        with pytest.raises(ValueError, match="range"):
            TrainingSite("s", x, y)
    with pytest.raises(ValueError, match="examples"):
        TrainingSite("s", np.zeros((0, 30)), np.zeros(0))
    assert repr(TrainingSite("s", np.zeros((1, 30)), np.ones(1))) == "TrainingSite(name='s')"


def test_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    for levels in (2, 5, 1000):
        score, y = rng.integers(0, levels, 200).astype(float), rng.integers(0, 2, 200)
        assert training.auc(score, y) == pytest.approx(roc_auc_score(y, score), abs=1e-12)
    with pytest.raises(ValueError, match="both classes"):
        training.auc(np.arange(3.0), np.ones(3))


def test_report_and_figures(data, tmp_path):
    sites, held_out = data
    result = training.train(sites, held_out, PlainSummation(rejoin=True), rounds=3)
    reference = training.reference(sites, held_out, result)
    report = json.loads(json.dumps([result.to_dict(), reference.to_dict()], allow_nan=False))
    assert report[0]["rounds"][2]["auc"] == result.auc
    assert report[0]["steps"]["rate"] == 0.5
    figures.training_figure(result, reference, tmp_path / "training.png")
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**11, 4404, dtype=np.uint64)
    counts = (rng.random(4404) < 0.01).astype(np.int64)
    figures.histogram_figure(words, counts, tmp_path / "counts.png", bits=11, site="inst-01")
    figures.histogram_figure(words[:10], rng.normal(size=10), tmp_path / "few.png", bits=11)
    figures.histogram_figure(words, rng.normal(size=4404), tmp_path / "reals.png", bits=11)
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 4


def test_plain_sum_adds_survivors_only():
    vectors = {name: np.array([i, 10 * i]) for i, name in enumerate("abcd")}
    plain = PlainSummation(drop={"one": ["b"], "two": ["c"]})
    assert plain.counts(vectors, high=30, label="one").total.tolist() == [5, 50]
    second = plain.counts(vectors, high=30, label="two")
    assert second.survivors == ("a", "d")  # b stays out.
    assert second.weight == 2
    back = PlainSummation(drop={"one": ["b"]}, rejoin=True)
    back.counts(vectors, high=30, label="one")
    assert back.counts(vectors, high=30, label="two").survivors == tuple("abcd")
    mean, summed = back.weighted_mean(
        vectors, dict(zip("abcd", (1, 2, 3, 4), strict=True)),
        clip=30.0, resolution=0.5, max_weight=4, label="three",
    )  # fmt: skip
    assert mean.tolist() == [2.0, 20.0]
    assert (summed.weight, summed.total.tolist()) == (10, [20.0, 200.0])


def test_plain_sum_quantises_to_the_resolution():
    vectors = {"a": np.array([0.3, -0.7]), "b": np.array([0.3, 0.9])}
    got = PlainSummation().reals(vectors, clip=1.0, resolution=0.25, label="r").total
    assert got.tolist() == [0.5, 0.25]
    exact = PlainSummation(quantise=False).reals(vectors, clip=1.0, resolution=0.25, label="r")
    assert exact.total == pytest.approx([0.6, 0.2])


def test_plain_sum_refuses():
    plain = PlainSummation(drop={"all": ["a", "b"]})
    good = {"a": np.array([1]), "b": np.array([2])}
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        plain.counts(good, high=1, label="r")
    with pytest.raises(ValueError, match="integers"):
        plain.counts({"a": np.array([1.0])}, high=1, label="r")
    for bad in (1.5, np.nan, -np.inf):
        with pytest.raises(ValueError, match="not within"):
            plain.reals({"a": np.array([bad])}, clip=1.0, resolution=0.1, label="r")
    with pytest.raises(ValueError, match="shape"):
        plain.counts({"a": np.array([1]), "b": np.array([1, 1])}, high=1, label="r")
    with pytest.raises(ValueError, match="weight"):
        plain.weighted_mean(
            good, {"a": 0, "b": 1}, clip=2.0, resolution=1.0, max_weight=1, label="r"
        )
    with pytest.raises(ValueError, match="no site"):
        plain.counts(good, high=2, label="all")
