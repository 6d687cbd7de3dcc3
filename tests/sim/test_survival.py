"""Survival analysis from sums against lifelines on pooled patients, and what must not be sent."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from secagg.sim import figures, survival
from secagg.sim.summing import SiteSum
from secagg.sim.survival import SiteTable
from support.plain_summation import PlainSummation


@pytest.fixture(scope="module")
def tables() -> dict[str, SiteTable]:
    return survival.load_sites()


def table(day, died, covariates) -> SiteTable:
    return SiteTable("s", np.array(day), np.array(died, bool), np.array(covariates, float))


def test_data_are_one_site_per_institution(tables):
    assert len(tables) == 18
    assert sum(len(t.day) for t in tables.values()) == 227  # 228, one of them without institution.
    # The patient left out died, as 165 of 228 did in R's survival::lung.
    assert sum(int(t.died.sum()) for t in tables.values()) == 164
    assert all(t.day.dtype == np.int64 and t.died.dtype == bool for t in tables.values())
    again = survival.load_sites()
    survival.reference_cox(tables)
    for name, one in tables.items():
        assert np.array_equal(one.covariates, again[name].covariates, equal_nan=True)


def test_analysis_equals_pooled(tables):
    result = survival.analyse(tables, PlainSummation())
    pooled = survival.reference(result)
    comparison = survival.compare(result, pooled)
    assert comparison.agrees
    assert comparison.counts_equal
    assert comparison.coefficient < 1e-5
    assert comparison.standard_error < 1e-5
    assert result.cox.converged
    assert result.cox.rounds <= 6
    assert result.cox.log_likelihood == pytest.approx(pooled.cox.log_likelihood, abs=1e-5)
    # R gives 270 and 426 for all 228 patients; the one left out is a man.
    assert [curve.median for curve in result.kaplan_meier.curves] == [269, 426]


@pytest.mark.parametrize("label", ["counts", "cox-1", "cox-2", "cox-4"])
@pytest.mark.parametrize("first", [0, 7, 14])
def test_sites_that_leave_stay_out(tables, label, first):
    lost = list(tables)[first : first + 4]
    result = survival.analyse(tables, PlainSummation(drop={label: lost}))
    stayed = tuple(name for name in tables if name not in lost)
    assert result.cox.survivors == stayed
    assert result.kaplan_meier.survivors == (stayed if label == "counts" else tuple(tables))
    assert result.cox.converged
    assert survival.compare(result, survival.reference(result)).agrees


def test_sites_leave_one_after_another(tables):
    names = list(tables)
    drop = {"counts": names[:1], "cox-1": names[1:2], "cox-2": names[9:10], "cox-3": names[17:]}
    result = survival.analyse(tables, PlainSummation(drop=drop))
    assert len(result.cox.survivors) == 14
    assert survival.compare(result, survival.reference(result)).agrees


def test_reference_of_other_sites_is_refused(tables):
    names = list(tables)
    result = survival.analyse(tables, PlainSummation(drop={"cox-1": names[:4]}))
    every = survival.Survival(survival.reference_kaplan_meier(names), survival.reference_cox(names))
    with pytest.raises(ValueError, match="other sites"):
        survival.compare(result, every)


def test_quantisation_moves_beta_by_less_than_promised(tables):
    fine = survival.fit_cox(tables, PlainSummation(quantise=False))
    coarse = survival.fit_cox(tables, PlainSummation())
    assert np.abs(fine.coefficients - coarse.coefficients).max() < 1e-7
    assert np.abs(fine.standard_errors - coarse.standard_errors).max() < 1e-7


def test_reference_leaves_numpy_error_state_alone(tables):
    before = np.geterr()
    survival.reference_kaplan_meier(tables)
    survival.reference_cox(tables)
    assert np.geterr() == before


def efron(day, died, z, beta) -> float:
    """Efron's log partial likelihood, written out."""
    value = 0.0
    for when in sorted({d for d, dead in zip(day, died, strict=True) if dead}):
        risks = [math.exp(sum(a * b for a, b in zip(row, beta, strict=True))) for row in z]
        at_risk = sum(r for r, d in zip(risks, day, strict=True) if d >= when)
        dying = [i for i, d in enumerate(day) if d == when and died[i]]
        tied = sum(risks[i] for i in dying)
        for order, i in enumerate(dying):
            value += math.log(risks[i]) - math.log(at_risk - order / len(dying) * tied)
    return value


def test_cox_vector_is_efrons_likelihood_and_its_derivatives():
    rng = np.random.default_rng(3)
    day, died = rng.integers(1, 6, 30), rng.random(30) < 0.7
    rows = np.stack([rng.integers(40, 80, 30), rng.integers(1, 3, 30), rng.integers(0, 5, 30)], 1)
    site = table(day, died, rows)
    z = (rows - [60, 1, 0]) / [10, 1, 1]
    beta, h = np.array([0.3, -0.4, 0.2]), 1e-5
    vector = site.cox_vector(beta)
    assert vector.shape == (10,)
    assert vector[0] == pytest.approx(efron(day, died, z, beta), abs=1e-10)
    for j, step in enumerate(h * np.eye(3)):
        up, down = site.cox_vector(beta + step), site.cox_vector(beta - step)
        assert (up[0] - down[0]) / (2 * h) == pytest.approx(vector[1 + j], abs=1e-6)
        row = [vector[4 + {(0, 0): 0, (0, 1): 1, (0, 2): 2, (1, 1): 3, (1, 2): 4, (2, 2): 5}[
            (min(j, k), max(j, k))]] for k in range(3)]  # fmt: skip
        assert -(up[1:4] - down[1:4]) / (2 * h) == pytest.approx(row, abs=1e-6)


def test_a_stratum_without_information_sends_zeros(tables):
    beta = np.array([0.5, -0.5, 0.5])
    assert not table([100], [True], [[70, 1, 2]]).cox_vector(beta).any()
    assert not table([100], [True], [[70, 1, np.nan]]).cox_vector(beta).any()
    assert not table([], [], np.empty((0, 3))).cox_vector(beta).any()
    lone = {**tables, "lone": table([300], [True], [[70, 1, 2]])}
    with_lone = survival.fit_cox(lone, PlainSummation())
    without = survival.fit_cox(tables, PlainSummation())
    assert np.array_equal(with_lone.coefficients, without.coefficients)


def test_cox_vectors_stay_within_public_bounds(tables):
    bounds = survival.cox_bounds()
    assert max(bounds.values()) <= survival.COX_CLIP
    # 18 sites of 2 * clip / resolution levels fit a 64-bit word with room to spare.
    assert 18 * 2 * survival.COX_CLIP / survival.COX_RESOLUTION < 2**42
    each = np.repeat(list(bounds.values()), [1, 3, 6])
    ends = [(c.low, c.high) for c in survival.COVARIATES]
    rng = np.random.default_rng(5)
    n = survival.MAX_PATIENTS
    extreme = [
        table(
            rng.integers(0, days, n),
            np.ones(n),
            np.stack([rng.choice(end, n) for end in ends], axis=1),
        )
        for days in (1, 5, 1000)
    ]
    widths = np.array([(c.high - c.low) / c.scale for c in survival.COVARIATES])
    corners = [
        np.zeros(3),
        *(s * 0.999 * survival.MAX_SPREAD / widths * e for e in np.eye(3) for s in (1, -1)),
    ]
    for beta in corners:
        for site in [*tables.values(), *extreme]:
            assert np.all(np.abs(site.cox_vector(beta)) <= each)


@pytest.mark.parametrize("beta", [[0.0, 21.0, 0.0], [np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0]])
def test_a_site_refuses_a_wild_broadcast(tables, beta):
    with pytest.raises(ValueError, match="spreads"):
        tables["inst-01"].cox_vector(np.array(beta))


def test_a_site_refuses_what_breaks_a_public_bound():
    row = [[60, 1, 0]]
    with pytest.raises(ValueError, match="64 patients"):
        table([1] * 65, [1] * 65, row * 65)
    for day in (-1, survival.GRID_DAYS + 1):
        with pytest.raises(ValueError, match="grid"):
            table([day], [1], row)
    for bad in ([17, 1, 0], [60, 3, 0], [60, 1, 5]):
        with pytest.raises(ValueError, match="range"):
            table([1], [1], [bad])
    with pytest.raises(ValueError, match="group"):
        table([1], [1], [[60, np.nan, 0]])
    assert repr(table([123], [1], [[61, 1, 0]])) == "SiteTable(name='s')"


class LogCosh:
    """A stand-in site on which plain Newton overshoots ever further: -log cosh(beta_2 - 1.2)."""

    def cox_vector(self, beta):
        far = beta - [0.0, 1.2, 0.0]
        slope = 1 / np.cosh(far) ** 2
        upper = np.diag(slope)[np.triu_indices(3)]
        return np.concatenate([[-np.log(np.cosh(far)).sum()], -np.tanh(far), upper])


def test_step_halving_rescues_newton():
    fit = survival.fit_cox({"s": LogCosh()}, PlainSummation())
    assert fit.converged
    assert fit.coefficients == pytest.approx([0.0, 1.2, 0.0], abs=1e-6)


def test_coefficients_that_run_away_do_not_converge():
    # Every death has the highest ECOG score of those at risk, so the likelihood has no maximum.
    rng = np.random.default_rng(0)
    rows = [[rng.integers(50, 70), rng.integers(1, 3), 4 - i // 8] for i in range(40)]
    fit = survival.fit_cox({"s": table(range(1, 41), [1] * 40, rows)}, PlainSummation())
    assert not fit.converged
    assert fit.rounds == survival.MAX_ROUNDS
    assert survival.spread(fit.coefficients) <= survival.MAX_SPREAD


def test_sites_that_do_not_determine_beta_are_refused():
    same = table([1, 2, 3], [1, 1, 1], [[60, 1, 0]] * 3)
    with pytest.raises(ValueError, match="do not determine"):
        survival.fit_cox({"s": same}, PlainSummation())


def test_curve_where_everybody_dies_and_where_nobody_is():
    from lifelines import KaplanMeierFitter

    men = table([1, 1, 2], [1, 0, 1], [[60, 1, 0]] * 3)
    one, two = survival.curves_from_counts(men.count_vector())
    with np.errstate(all="ignore"):
        fit = KaplanMeierFitter().fit(men.day, men.died)
    assert one.survival[:4] == pytest.approx([1, 2 / 3, 0, 0])
    assert one.lower[:3] == pytest.approx(fit.confidence_interval_.iloc[:, 0])
    assert one.upper[:3] == pytest.approx(fit.confidence_interval_.iloc[:, 1])
    assert one.median == 2
    assert two.median is None
    assert two.survival.min() == two.lower.min() == 1
    assert survival.log_rank((one, two)) == survival.LogRank(0.0, 1.0)


def test_total_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="reshape"):
        survival.curves_from_counts(np.zeros(10, np.int64))


def test_report_is_json_and_says_what_a_curve_shows(tables):
    result = survival.analyse(tables, PlainSummation())
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert "A Kaplan-Meier curve shows event times" in text
    men = json.loads(text)["kaplan_meier"]["curves"][0]
    assert men["patients"] == 137
    assert sum(men["deaths"]) == men["total_deaths"]
    assert json.loads(text)["cox"]["hazard_ratios"][1][0] == pytest.approx(0.578, abs=1e-3)
    json.dumps(survival.compare(result, survival.reference(result)).to_dict())


def test_figures_are_written(tables, tmp_path):
    result = survival.analyse(tables, PlainSummation())
    pooled = survival.reference(result)
    figures.survival_figure(result, pooled, tmp_path / "new" / "survival.png")
    figures.forest_figure(result, pooled, tmp_path / "new" / "forest.png")
    for path in (tmp_path / "new").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 20_000


def test_import_is_light():
    heavy = "('lifelines', 'sklearn', 'matplotlib', 'scipy', 'pandas')"
    code = (
        "import sys, secagg.sim.survival, secagg.sim.training, secagg.sim.figures;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- Why sums over the patients at risk, per event time, are never sent --------------------------
#
# A distributed Cox fit is often built on them (WebDISCO: Lu et al., JAMIA 22, 2015): at each event
# time the number at risk, the sum of their covariates and the sum of outer products, weighted by
# hazards that are all 1 in the first round. Below they are even added over all 18 sites first, as
# perfectly secure sums would be.


def pooled_rows(tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.concatenate([t.covariates for t in tables.values()])
    day = np.concatenate([t.day for t in tables.values()])
    died = np.concatenate([t.died for t in tables.values()])
    complete = ~np.isnan(rows).any(axis=1)
    return rows[complete], day[complete], died[complete]


def risk_set_sums(rows, day, died) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """What such a protocol would show: (number, sum x, sum x x^T) at risk per event time."""
    sets = [rows[day >= when] for when in np.unique(day[died])]
    return [(len(at_risk), at_risk.sum(axis=0), at_risk.T @ at_risk) for at_risk in sets]


def patients_from_sums(shown) -> list[tuple[int, tuple[int, ...]]]:
    """The attack: (interval, covariates) of each patient that the sums alone give away exactly.

    One patient leaving between two event times is the difference of two sums. Of two, the sum and
    the sum of outer products give the mean and the distance from it.
    """
    found = []
    shown = [*shown, (0, np.zeros(3), np.zeros((3, 3)))]
    for k in range(len(shown) - 1):
        number, total, outer = (a - b for a, b in zip(shown[k], shown[k + 1], strict=True))
        if number == 1:
            found.append((k, tuple(np.rint(total).astype(int))))
        elif number == 2:
            squares = outer / 2 - np.outer(total, total) / 4
            widest = int(np.argmax(np.diag(squares)))
            length = math.sqrt(max(squares[widest, widest], 0.0))
            apart = squares[widest] / length if length else np.zeros(3)
            found += [(k, tuple(np.rint(total / 2 + s * apart).astype(int))) for s in (1, -1)]
    return found


def test_risk_set_sums_give_single_patients_away(tables):
    rows, day, died = pooled_rows(tables)
    times = np.unique(day[died])
    found = patients_from_sums(risk_set_sums(rows, day, died))
    interval = np.searchsorted(times, day, side="right") - 1
    truth = Counter((int(k), tuple(row.astype(int))) for k, row in zip(interval, rows, strict=True))
    exact = sum((Counter(found) & truth).values())
    assert exact == len(found)  # Every claim of the attack is a real patient.
    assert (exact, len(rows)) == (159, 226)  # Seven patients in ten.


def test_what_is_sent_instead_has_no_event_times(tables):
    """The Cox rounds carry ten numbers a site, whatever the number of its event times."""

    shapes = set()

    class Recorder(PlainSummation):
        def reals(self, vectors, **options) -> SiteSum:
            shapes.update(v.shape for v in vectors.values())
            return super().reals(vectors, **options)

    survival.fit_cox(tables, Recorder())
    assert shapes == {(10,)}
