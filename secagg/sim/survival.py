"""Survival analysis of NCCTG lung-cancer patients over the institutions that treated them.

Three parts, visibly apart. *Site side*: `SiteTable`, whose methods see one site's patients and what
was broadcast. *Server side*: functions of sums (`curves_from_counts`, `log_rank`, `fit_cox`).
*Reference*: the pooled fit by lifelines on the same sites, and the comparison.

Data: Loprinzi et al., J. Clin. Oncol. 12 (1994), as shipped by lifelines; one site per institution.
The patient without an institution is left out on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from secagg.sim.summing import Array, AsDict, Summation

GRID_DAYS = 1100
"""Last day of the public grid 0..1100: three years of follow-up, fixed before anyone looks."""

MAX_PATIENTS = 64
"""Public limit of patients per site; the bound of a count, and through it of a Cox vector."""

GROUPS = ((1, "men"), (2, "women"))


class Covariate(NamedTuple):
    """A covariate with its *public* range, centre and scale: z = (x - centre) / scale."""

    name: str
    column: str
    low: float
    high: float
    centre: float
    scale: float


COVARIATES = (
    Covariate("age (per 10 years)", "age", 18.0, 100.0, 60.0, 10.0),
    Covariate("female", "sex", 1.0, 2.0, 1.0, 1.0),
    Covariate("ECOG score (per point)", "ph.ecog", 0.0, 4.0, 0.0, 1.0),
)

MAX_SPREAD = 20.0
"""Under a broadcast beta the log hazards of two patients differ by at most this."""

COX_CLIP = 2048.0
"""Bound of a coordinate of a Cox vector; `cox_bounds` derives at most 1,547 from public facts."""

COX_RESOLUTION = 2.0**-24
"""Quantisation of a Cox vector. 18 sites err by at most 18 * 2^-24 = 1.1e-6 in the gradient; the
information of some 160 deaths has eigenvalues of ten and more, so beta moves by at most 1e-7."""

MAX_ROUNDS = 20
"""Cox rounds at most. Each one is a further statistic of the same patients, so they are counted."""

NOTES = (
    "A Kaplan-Meier curve shows event times: each of its steps is a day on which somebody died, "
    "and the summed counts give the number of deaths and of censorings on each day.",
    "The Cox fit shows the gradient and Hessian summed over sites at each broadcast beta, never "
    "sums over the patients at risk per event time: their differences are single patients.",
    "A site that leaves stays out. If it leaves between two Cox rounds, the difference of the two "
    "sums approximates what the leavers sent, so the others go on only if enough left at once.",
)


# --- Site side: one site's patients, and what was broadcast -----------------------------------


@dataclass(frozen=True, slots=True)
class SiteTable:
    """One site's patients; the only thing that ever holds them. Its repr shows none.

    day: int64[n], days from enrolment to death or to the end of follow-up.
    died: bool[n], whether `day` is a death.
    covariates: float64[n, 3] in the order of `COVARIATES`, on their original scales, NaN missing.

    ValueError, with the rule and no value, where a public bound is broken.
    """

    name: str
    day: Array = field(repr=False)
    died: Array = field(repr=False)
    covariates: Array = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.day) > MAX_PATIENTS:
            raise ValueError(f"a site has more than {MAX_PATIENTS} patients")
        if np.any(self.day < 0) or np.any(self.day > GRID_DAYS):
            raise ValueError(f"a follow-up leaves the public grid 0..{GRID_DAYS} days")
        low, high = (np.array([getattr(c, end) for c in COVARIATES]) for end in ("low", "high"))
        if np.any(self.covariates < low) or np.any(self.covariates > high):
            raise ValueError("a covariate leaves its public range")
        if not np.all(np.isin(self.covariates[:, 1], [code for code, _ in GROUPS])):
            raise ValueError("a patient belongs to no group of the curves")

    def count_vector(self) -> Array:
        """int64[4404]: for each group, deaths per day and censorings per day over the grid."""
        parts = []
        for code, _ in GROUPS:
            for happened in (self.died, ~self.died):
                days = self.day[happened & (self.covariates[:, 1] == code)]
                parts.append(np.bincount(days, minlength=GRID_DAYS + 1).astype(np.int64))
        return np.concatenate(parts)

    def cox_vector(self, beta: Array) -> Array:
        """float64[10] at the broadcast beta[3]: log likelihood, gradient[3], upper triangle[6].

        The log partial likelihood of this site as a stratum of its own (Kalbfleisch and Prentice,
        The Statistical Analysis of Failure Time Data, 2nd ed., 4.4), ties after Efron (JASA 72,
        1977, section 3): of m deaths on one day, the l-th sees the m dying patients with weight
        1 - l/m in its risk set. Gradient per unit of the standardised covariate; the triangle is
        the negative Hessian. Complete cases only. A site with one patient, or none, sends zeros.
        ValueError if beta is not finite or exceeds the agreed spread.
        """
        if not spread(beta) <= MAX_SPREAD:
            raise ValueError(f"the broadcast beta spreads log hazards by more than {MAX_SPREAD:g}")
        z, day, died = _complete_cases(self)
        log_likelihood, gradient, information = 0.0, np.zeros(beta.size), np.zeros((beta.size,) * 2)
        for when in np.unique(day[died]):
            at_risk, dying = day >= when, died[day >= when] & (day[day >= when] == when)
            x, eta = z[at_risk], z[at_risk] @ beta
            hazard = np.exp(eta - eta.max())  # The largest is 1, so that nothing overflows.
            deaths = int(dying.sum())
            log_likelihood += float(eta[dying].sum())
            gradient += x[dying].sum(axis=0)
            for tied in range(deaths):
                w = hazard * np.where(dying, 1.0 - tied / deaths, 1.0)
                mean = w @ x / w.sum()
                log_likelihood -= math.log(w.sum()) + float(eta.max())
                gradient -= mean
                # Centred before it is squared: a risk set of one then gives exactly zero.
                information += (x - mean).T @ (w[:, None] * (x - mean)) / w.sum()
        upper = information[np.triu_indices(beta.size)]
        return np.concatenate([[log_likelihood], gradient, upper])


def _complete_cases(table: SiteTable) -> tuple[Array, Array, Array]:
    complete = ~np.isnan(table.covariates).any(axis=1)
    centre, scale = (np.array([getattr(c, end) for c in COVARIATES]) for end in ("centre", "scale"))
    return (table.covariates[complete] - centre) / scale, table.day[complete], table.died[complete]


def spread(beta: Array) -> float:
    """Largest difference of two patients' log hazards under beta[3], by the public ranges."""
    return float(
        sum(abs(b) * (c.high - c.low) / c.scale for b, c in zip(beta, COVARIATES, strict=True))
    )


def cox_bounds() -> dict[str, float]:
    """Bounds of a site's Cox vector from public facts: at most 64 deaths, each of which adds

    - to a gradient entry a covariate minus an average of it: at most the range's width;
    - to a Hessian entry a covariance: at most half the width times half the other's (Popoviciu);
    - to the log likelihood at most log(patients) plus the spread of log hazards.
    """
    width = max((c.high - c.low) / c.scale for c in COVARIATES)
    return {
        "log likelihood": MAX_PATIENTS * (math.log(MAX_PATIENTS) + MAX_SPREAD),
        "gradient": MAX_PATIENTS * width,
        "hessian": MAX_PATIENTS * (width / 2) ** 2,
    }


# --- Server side: functions of sums --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve(AsDict):
    """Kaplan-Meier estimate of one group on the public grid; every array has 1,101 entries.

    deaths, censored, at_risk: int64 per day; survival, lower, upper: float64, the estimate and its
    95 % band. The steps of a curve are event times.
    """

    group: str
    deaths: Array
    censored: Array
    at_risk: Array
    survival: Array
    lower: Array
    upper: Array

    @property
    def median(self) -> int | None:
        """First day on which survival is at most one half, or None."""
        below = np.flatnonzero(self.survival <= 0.5)
        return int(below[0]) if below.size else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: totals, median in days, and one entry per day on which anything happened."""
        days = np.flatnonzero(self.deaths + self.censored)
        table = {f.name: getattr(self, f.name)[days].tolist() for f in fields(self)[1:]}
        return {
            "group": self.group,
            "patients": int(self.at_risk[0]),
            "total_deaths": int(self.deaths.sum()),
            "median_days": self.median,
            "days": days.tolist(),
            **table,
        }


@dataclass(frozen=True, slots=True)
class LogRank(AsDict):
    """Log-rank test of two groups: chi-square statistic on 1 degree of freedom, and its p value."""

    statistic: float
    p_value: float


@dataclass(frozen=True, slots=True)
class KaplanMeier(AsDict):
    """The curves of both groups, their log-rank test, and the sites in the sum."""

    curves: tuple[Curve, ...]
    log_rank: LogRank
    survivors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cox(AsDict):
    """Cox regression stratified by site, on the standardised scale of `COVARIATES`.

    coefficients, standard_errors: float64[3]; `rounds` counts the sums that the fit took (0 for a
    reference); gradient is the largest |entry| of the summed gradient at the end.
    """

    names: tuple[str, ...]
    coefficients: Array
    standard_errors: Array
    log_likelihood: float
    survivors: tuple[str, ...]
    rounds: int
    gradient: float
    converged: bool

    def hazard_ratios(self, level: float = 0.95) -> Array:
        """float64[3, 3]: hazard ratio, lower and upper end of its Wald interval, per covariate."""
        half = NormalDist().inv_cdf(0.5 + level / 2) * self.standard_errors
        low, high = self.coefficients - half, self.coefficients + half
        ratios: Array = np.exp(np.stack([self.coefficients, low, high], axis=1))
        return ratios

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the fields, and hazard ratios with their 95 % intervals."""
        return {**AsDict.to_dict(self), "hazard_ratios": self.hazard_ratios().tolist()}


@dataclass(frozen=True, slots=True)
class Survival(AsDict):
    """Curves and Cox fit, from sums (`analyse`) or pooled (`reference`), with what they reveal."""

    kaplan_meier: KaplanMeier
    cox: Cox
    notes: tuple[str, ...] = NOTES


def curves_from_counts(total: Array, level: float = 0.95) -> tuple[Curve, ...]:
    """Kaplan-Meier curves (JASA 53, 1958, section 2) from the summed count vector int64[4404].

    The band is the exponential (log-log) Greenwood one of Kalbfleisch and Prentice, 1.4, which
    lifelines gives too: S to the power exp(-+ z * sqrt(V) / log S), V = sum d / (n (n - d)).
    ValueError for a total of another shape.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    curves = []
    for (_, group), (deaths, censored) in zip(
        GROUPS, total.reshape(len(GROUPS), 2, GRID_DAYS + 1), strict=True
    ):
        left = deaths + censored
        at_risk = left.sum() - np.cumsum(left) + left
        d, n = deaths.astype(np.float64), np.maximum(at_risk, 1).astype(np.float64)
        survival = np.cumprod(1.0 - d / n)
        # Where everybody left dies, S is 0 and its variance is undefined; lifelines adds 0.
        variance = np.cumsum(d / (n * np.where(n > d, n - d, np.inf)))
        with np.errstate(divide="ignore", invalid="ignore"):
            log_s = np.log(survival)
            lower, upper = (
                np.where(
                    log_s == 0, 1.0, np.exp(log_s * np.exp(sign * z * np.sqrt(variance) / log_s))
                )
                for sign in (-1.0, 1.0)
            )
        curves.append(Curve(group, deaths, censored, at_risk, survival, lower, upper))
    return tuple(curves)


def log_rank(curves: Sequence[Curve]) -> LogRank:
    """Log-rank test (Mantel 1966; Kalbfleisch and Prentice, 1.5) of two curves' counts."""
    one, two = curves
    n1, d = one.at_risk.astype(np.float64), (one.deaths + two.deaths).astype(np.float64)
    n = np.maximum(n1 + two.at_risk, 1.0)
    share = n1 / n
    # Hypergeometric; the last patient alone has no variance, and n - 1 would divide by zero.
    variance = float(np.sum(d * share * (1 - share) * (n - d) / np.maximum(n - 1, 1)))
    difference = float(np.sum(one.deaths - d * share))
    statistic = difference**2 / variance if variance else 0.0
    return LogRank(statistic, math.erfc(math.sqrt(statistic / 2)))


def fit_cox(tables: Mapping[str, SiteTable], summation: Summation) -> Cox:
    """Newton's method on summed Cox vectors; rounds are labelled cox-1, cox-2, ...

    The server broadcasts beta, each remaining site answers with `SiteTable.cox_vector`, the server
    steps. It halves a step that lowers the likelihood of one same set of sites, and stops where no
    entry of the gradient exceeds what quantisation may have added. A site that is lost stays out;
    a likelihood of other sites is never compared. ValueError where the sites that stay do not
    determine beta; `converged` is false after `MAX_ROUNDS`.
    """
    names = tuple(c.name for c in COVARIATES)
    alive, beta = tuple(tables), np.zeros(len(names))
    base, base_likelihood, base_sites = beta, -math.inf, alive
    for number in range(1, MAX_ROUNDS + 1):
        vectors = {site: tables[site].cox_vector(beta) for site in alive}
        total, alive, _ = summation.reals(
            vectors,
            clip=COX_CLIP,
            resolution=COX_RESOLUTION,
            label=f"cox-{number}",
            model=beta.tobytes(),
        )
        noise = len(alive) * COX_RESOLUTION
        likelihood, gradient, information = _unpack(total)
        largest = float(np.abs(gradient).max())
        converged = largest <= noise
        if converged or number == MAX_ROUNDS:
            break
        if alive == base_sites and likelihood < base_likelihood - 2 * noise:
            beta = (base + beta) / 2
            continue
        base, base_likelihood, base_sites = beta, likelihood, alive
        beta = base + _solve(information, gradient)
        while spread(beta) > MAX_SPREAD:
            beta = (base + beta) / 2
    errors = np.sqrt(np.diag(_solve(information, np.eye(len(names)))))
    return Cox(names, beta, errors, likelihood, alive, number, largest, converged)


def _unpack(total: Array) -> tuple[float, Array, Array]:
    size = len(COVARIATES)
    information = np.zeros((size, size))
    information[np.triu_indices(size)] = total[1 + size :]
    information += np.triu(information, 1).T
    return float(total[0]), total[1 : 1 + size], information


def _solve(information: Array, right: Array) -> Array:
    try:
        np.linalg.cholesky(information)
    except np.linalg.LinAlgError:
        raise ValueError("the sites in the sum do not determine the coefficients") from None
    return np.linalg.solve(information, right)


def analyse(tables: Mapping[str, SiteTable], summation: Summation) -> Survival:
    """The whole analysis: round "counts" for curves and log-rank test, then rounds "cox-1", ...

    A site that leaves stays out. The counts are not summed again without it: the difference of the
    two sums would be its patients. Each part therefore names its own survivors.
    """
    vectors = {site: table.count_vector() for site, table in tables.items()}
    counts = summation.counts(vectors, high=MAX_PATIENTS, label="counts")
    curves = curves_from_counts(counts.total)
    cox = fit_cox({site: tables[site] for site in counts.survivors}, summation)
    return Survival(KaplanMeier(curves, log_rank(curves), counts.survivors), cox)


# --- Data and reference: the only functions that see pooled patients -----------------------------


def _lung() -> Any:
    from lifelines.datasets import load_lung

    frame = load_lung().dropna(subset=["inst"])
    frame["site"] = [f"inst-{int(number):02d}" for number in frame["inst"]]
    # lifelines recodes R's 1/2 to 0/1; another release may not, and a wrong code would go unseen.
    if set(frame["status"]) != {0, 1}:
        raise ValueError("the status column is expected as 0 (censored) and 1 (dead)")
    return frame


def load_sites() -> dict[str, SiteTable]:
    """The 18 institutions of the NCCTG lung data, by name (inst-01 ... inst-33); 227 patients."""
    return {
        str(name): SiteTable(
            str(name),
            rows["time"].to_numpy(np.int64),
            rows["status"].to_numpy() == 1,
            rows[[c.column for c in COVARIATES]].to_numpy(np.float64),
        )
        for name, rows in _lung().groupby("site")
    }


def reference_kaplan_meier(sites: Iterable[str]) -> KaplanMeier:
    """lifelines' curves, bands and log-rank test on the pooled patients of the given sites."""
    from lifelines import KaplanMeierFitter
    from lifelines.statistics import logrank_test

    names = tuple(sites)
    frame = _lung().query("site in @names")
    days = np.arange(GRID_DAYS + 1)
    curves = []
    # lifelines changes numpy's error state for the whole process; the context undoes that.
    with np.errstate(all="ignore"):
        for code, group in GROUPS:
            rows = frame[frame["sex"] == code]
            fit = KaplanMeierFitter().fit(rows["time"], rows["status"])
            table = fit.event_table
            deaths, censored = (
                table[column].reindex(days, fill_value=0).to_numpy(np.int64)
                for column in ("observed", "censored")
            )
            at_risk = table["at_risk"].reindex(days, method="bfill").fillna(0).to_numpy(np.int64)
            band = fit.confidence_interval_.reindex(days, method="ffill").to_numpy()
            estimate = fit.survival_function_.iloc[:, 0].reindex(days, method="ffill").to_numpy()
            curves.append(Curve(group, deaths, censored, at_risk, estimate, band[:, 0], band[:, 1]))
        men, women = (frame[frame["sex"] == code] for code, _ in GROUPS)
        test = logrank_test(men["time"], women["time"], men["status"], women["status"])
    return KaplanMeier(
        tuple(curves), LogRank(float(test.test_statistic), float(test.p_value)), names
    )


def reference_cox(sites: Iterable[str]) -> Cox:
    """lifelines' Cox fit with `strata` (Efron ties) on the pooled patients of the given sites."""
    from lifelines import CoxPHFitter

    names = tuple(sites)
    frame = _lung().query("site in @names")
    frame = frame[["time", "status", "site", *(c.column for c in COVARIATES)]].dropna()
    for c in COVARIATES:
        frame[c.column] = (frame[c.column] - c.centre) / c.scale
    with np.errstate(all="ignore"):
        fit = CoxPHFitter().fit(frame, "time", "status", strata=["site"])
    columns = [c.column for c in COVARIATES]
    beta, errors = (x[columns].to_numpy() for x in (fit.params_, fit.standard_errors_))
    labels = tuple(c.name for c in COVARIATES)
    return Cox(labels, beta, errors, float(fit.log_likelihood_), names, 0, 0.0, True)


def reference(result: Survival) -> Survival:
    """The pooled reference of a result: each part on the sites that stayed in that part."""
    return Survival(
        reference_kaplan_meier(result.kaplan_meier.survivors), reference_cox(result.cox.survivors)
    )


@dataclass(frozen=True, slots=True)
class Comparison(AsDict):
    """Largest absolute differences between two analyses; `standard_error` is relative."""

    counts_equal: bool
    curve: float
    band: float
    log_rank_statistic: float
    log_rank_p_value: float
    coefficient: float
    standard_error: float

    @property
    def agrees(self) -> bool:
        """Counts equal, curve to 1e-12, band and log-rank to 1e-9, beta to 1e-4, errors to 1e-3."""
        log_rank_error = max(self.log_rank_statistic, self.log_rank_p_value)
        return (
            self.counts_equal
            and self.curve <= 1e-12
            and max(self.band, log_rank_error) <= 1e-9
            and self.coefficient <= 1e-4
            and self.standard_error <= 1e-3
        )


def compare(result: Survival, pooled: Survival) -> Comparison:
    """Differences of a result from its reference; ValueError if they are of different sites."""
    ours, theirs = result.kaplan_meier, pooled.kaplan_meier
    if (ours.survivors, result.cox.survivors) != (theirs.survivors, pooled.cox.survivors):
        raise ValueError("the reference is of other sites than the result")
    pairs = list(zip(ours.curves, theirs.curves, strict=True))

    def largest(*columns: str) -> float:
        gaps = [np.abs(getattr(a, c) - getattr(b, c)).max() for a, b in pairs for c in columns]
        return float(np.max(gaps))

    errors = result.cox.standard_errors / pooled.cox.standard_errors - 1
    return Comparison(
        counts_equal=largest("deaths", "censored", "at_risk") == 0,
        curve=largest("survival"),
        band=largest("lower", "upper"),
        log_rank_statistic=abs(ours.log_rank.statistic - theirs.log_rank.statistic),
        log_rank_p_value=abs(ours.log_rank.p_value - theirs.log_rank.p_value),
        coefficient=float(np.abs(result.cox.coefficients - pooled.cox.coefficients).max()),
        standard_error=float(np.abs(errors).max()),
    )
