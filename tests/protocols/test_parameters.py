"""Parameters of SecAgg+ against published rows, exact integers and an independent library."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import hypergeom

from secagg_protocols import parameters
from secagg_protocols.errors import PlanError
from secagg_protocols.parameters import (
    GraphParameters,
    GraphSecurity,
    bonawitz17_expansion,
    graph_parameters,
    graph_security,
    two_list_attack_possible,
)

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "secagg_plus_parameters.json").read_text()
)["rows"]
FEASIBLE = [row for row in GOLDEN if row["feasible"]]
SIZES = (10**2, 10**3, 10**4, 10**5, 10**6)

# Neighbours/threshold for 10^2 to 10^6 sites, 40 bits of security, 20 of correctness.
TABLE_20 = {
    ("semi-honest", 0.05, 0.05): "12/6 30/17 34/20 36/21 38/22",
    ("semi-honest", 0.05, 0.33): "28/6 72/24 86/29 96/32 102/34",
    ("semi-honest", 0.33, 0.05): "34/29 78/60 92/70 102/77 110/83",
    ("semi-honest", 0.33, 0.33): "68/34 286/150 422/221 480/251 518/270",
    ("semi-honest", 0.45, 0.45): "92/46 822/417 3494/1771 5508/2788 6240/3156",
    ("semi-malicious", 0.05, 0.05): "16/11 52/37 62/44 68/48 74/52",
    ("semi-malicious", 0.05, 0.33): "72/39 398/223 746/420 882/496 970/545",
    ("semi-malicious", 0.33, 0.05): "42/37 132/109 178/146 196/160 212/173",
    ("semi-malicious", 0.3, 0.3): "92/62 872/584 4822/3230 9388/6286 11136/7454",
}
# The same with 30 bits of correctness, semi-honest, both fractions equal.
TABLE_30 = {
    0.05: "12/6 34/18 38/21 40/22 44/24",
    0.1: "22/11 52/28 60/32 66/35 70/37",
    0.2: "42/21 112/59 136/71 150/78 160/83",
    0.33: "68/34 310/159 480/246 536/274 576/294",
}


def cells(text: str) -> list[tuple[int, ...]]:
    return [tuple(int(part) for part in cell.split("/")) for cell in text.split()]


def counts(clients: int, adversarial: float, dropout: float) -> tuple[int, int]:
    """The most colluders and dropouts, from the fractions as they are written."""
    return (
        math.floor(Fraction(str(adversarial)) * clients),
        math.floor(Fraction(str(dropout)) * clients),
    )


# ---------------------------------------------------------------- published rows


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: "-".join(map(str, list(row.values())[:4])))
def test_golden_row(row: dict[str, Any]) -> None:
    arguments = row["clients"], row["adversarial"], row["dropout"]
    if row["feasible"]:
        found = graph_parameters(*arguments, threat=row["adversary"])
        assert found == GraphParameters(row["neighbours"], row["threshold"])
    else:
        with pytest.raises(PlanError) as caught:
            graph_parameters(*arguments, threat=row["adversary"])
        assert caught.value.rule == "graph-parameters"
        assert caught.value.field in {"clients", "dropout"}


def test_the_golden_file_is_whole() -> None:
    assert len(GOLDEN) == 43
    assert len(FEASIBLE) == 40


@pytest.mark.parametrize("key", TABLE_20, ids=str)
def test_published_table_at_20_bits_of_correctness(key: tuple[str, float, float]) -> None:
    threat, adversarial, dropout = key
    for clients, expected in zip(SIZES, cells(TABLE_20[key]), strict=True):
        assert graph_parameters(clients, adversarial, dropout, threat=threat) == expected


@pytest.mark.parametrize("fraction", TABLE_30)
def test_table_at_30_bits_of_correctness(fraction: float) -> None:
    for clients, expected in zip(SIZES, cells(TABLE_30[fraction]), strict=True):
        found = graph_parameters(
            clients, fraction, fraction, threat="semi-honest", correctness_bits=30
        )
        assert found == expected


def test_a_billion_sites_at_the_cost_of_a_thousand() -> None:
    found = graph_parameters(10**9, 0.33, 0.33, threat="semi-honest", correctness_bits=30)
    assert found == (688, 350)


@pytest.mark.parametrize("clients", SIZES)
def test_a_third_and_a_third_is_infeasible_against_two_lists(clients: int) -> None:
    with pytest.raises(PlanError, match=r"2 \* dropout"):
        graph_parameters(clients, 0.33, 0.33, threat="semi-malicious")


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.33])
def test_no_adversary_is_semi_honest_with_nobody_colluding(dropout: float) -> None:
    for clients in (50, 1000, 10**5):
        assert graph_parameters(clients, 0.0, dropout, threat="none") == graph_parameters(
            clients, 0, dropout, threat="semi-honest"
        )


# ---------------------------------------------------------------- exact integers


@functools.cache
def ways(clients: int, marked: int, drawn: int) -> list[int]:
    """Number of draws with x marked, for x = 0..drawn."""
    return [math.comb(marked, x) * math.comb(clients - marked, drawn - x) for x in range(drawn + 1)]


def exact_search(
    clients: int, adversarial: float, dropout: float, threat: str, security: int, correctness: int
) -> tuple[int, int] | None:
    """The published search, every degree in turn, in integers only."""
    colluding, dropped = counts(clients, adversarial, dropout)
    for degree in range(2, clients - 1, 2):
        draws = math.comb(clients, degree)
        pairs = Fraction(clients * (clients - degree - 1), 2)
        cut = math.comb(colluding + dropped, degree)
        if pairs * cut >= Fraction(draws, 2 ** (security + 1)):
            continue
        captured = ways(clients, colluding, degree)
        above = sum(captured)
        assert above == draws
        t1 = -1
        while t1 < 0 or above * clients * 2 ** (security + 1) >= draws:
            t1 += 1
            above -= captured[t1]
        survived = ways(clients, clients - dropped, degree)
        t2, below = 0, survived[0]
        while below * clients * 2**correctness < draws:
            t2 += 1
            below += survived[t2]
        if threat == "semi-malicious":
            t1 = math.ceil(Fraction(4 * (t1 + degree) - 5, 8))
        if t2 > t1:
            return degree, max(t1 + 1, 2)
    return None


@pytest.mark.parametrize("threat", ["semi-honest", "semi-malicious"])
@pytest.mark.parametrize("bits", [(40, 20), (10, 5), (128, 64)])
@pytest.mark.parametrize("clients", [3, 4, 5, 6, 7, 9, 12, 20, 31, 50, 100, 137, 200])
def test_equal_to_the_search_in_exact_integers(
    clients: int, bits: tuple[int, int], threat: str
) -> None:
    security, correctness = bits
    for adversarial in (0.0, 0.05, 0.1, 0.29, 0.33, 0.45):
        for dropout in (0.0, 0.05, 0.2, 0.33, 0.45):
            weight = 2 if threat == "semi-malicious" else 1
            if Fraction(str(adversarial)) + weight * Fraction(str(dropout)) > Fraction(9, 10):
                continue
            expected = exact_search(clients, adversarial, dropout, threat, security, correctness)
            try:
                found: tuple[int, int] | None = graph_parameters(
                    clients,
                    adversarial,
                    dropout,
                    threat=threat,
                    security_bits=security,
                    correctness_bits=correctness,
                )
            except PlanError as error:
                assert error.field == "clients"
                found = None
            assert found == expected, (adversarial, dropout)


def exact_log_at_least(clients: int, marked: int, drawn: int, least: int) -> float:
    hits = sum(
        math.comb(marked, x) * math.comb(clients - marked, drawn - x)
        for x in range(max(least, 0), drawn + 1)
    )
    share = Fraction(hits, math.comb(clients, drawn))
    if share == 0:
        return -math.inf
    # Shift both to 200 bits, so that the logarithm is not a difference of huge numbers.
    shift = share.denominator.bit_length() - share.numerator.bit_length()
    return math.log(share * 2**shift) - shift * math.log(2)


@pytest.mark.parametrize(
    ("clients", "marked", "drawn"),
    [(3, 1, 2), (10, 3, 4), (60, 59, 58), (200, 66, 68), (200, 100, 199), (1000, 450, 822)],
)
def test_tails_equal_exact_integers_at_every_point(clients: int, marked: int, drawn: int) -> None:
    step = max(1, drawn // 100)
    for least in range(-1, drawn + 3, step):
        expected = exact_log_at_least(clients, marked, drawn, least)
        found = parameters._log_at_least(clients, marked, drawn, least)
        assert found == pytest.approx(expected, rel=1e-13, abs=1e-12), least
        assert parameters._log_at_most(
            clients, clients - marked, drawn, drawn - least
        ) == pytest.approx(expected, rel=1e-13, abs=1e-12)


@pytest.mark.parametrize("clients", [10**6, 10**9])
def test_no_digits_are_lost_as_the_number_of_sites_grows(clients: int) -> None:
    marked = clients * 33 // 100
    for least in (100, 171, 270, 400):
        found = parameters._log_at_least(clients, marked, 518, least)
        assert found == pytest.approx(exact_log_at_least(clients, marked, 518, least), abs=1e-11)


def test_tails_against_scipy() -> None:
    for clients, marked, drawn in [(10**4, 4500, 3494), (10**5, 30_000, 9388), (10**6, 300, 50)]:
        oracle = hypergeom(clients, marked, drawn)
        mean, spread = oracle.mean(), oracle.std()
        for sigmas in (-20, -9, -4, -1, 0, 1, 4, 9, 20):
            x = math.floor(mean + sigmas * spread)
            if not 0 <= x < min(drawn, marked):
                continue
            below = parameters._log_at_most(clients, marked, drawn, x)
            above = parameters._log_at_least(clients, marked, drawn, x + 1)
            assert math.exp(below) + math.exp(above) == pytest.approx(1, abs=1e-12)
            # Its log-probabilities are differences of log-gammas, hence the tolerance.
            points = np.arange(max(0, drawn + marked - clients), min(drawn, marked) + 1)
            log_p = oracle.logpmf(points)
            assert below == pytest.approx(np.logaddexp.reduce(log_p[points <= x]), abs=1e-7)
            assert above == pytest.approx(np.logaddexp.reduce(log_p[points > x]), abs=1e-7)


def test_the_steps_that_the_search_skips_by_are_bounded() -> None:
    """What the skip relies on: one more neighbour moves a quantile by 0 or 1."""
    limit_1, limit_2 = -41 * math.log(2) - math.log(500), -20 * math.log(2) - math.log(500)
    capture = [parameters._capture_quantile(500, 165, k, limit_1) for k in range(2, 490)]
    survival = [parameters._survival_quantile(500, 335, k, limit_2) for k in range(2, 490)]
    assert {b - a for a, b in pairwise(capture)} == {0, 1}
    assert {b - a for a, b in pairwise(survival)} == {0, 1}


@pytest.mark.parametrize(
    ("clients", "adversarial", "dropout", "threat"),
    [(10_000, 0.33, 0.33, "semi-honest"), (1000, 0.05, 0.33, "semi-malicious")],
)
def test_nothing_that_the_search_skips_would_do(
    clients: int, adversarial: float, dropout: float, threat: str
) -> None:
    found = graph_parameters(clients, adversarial, dropout, threat=threat)
    colluding, dropped = counts(clients, adversarial, dropout)
    for degree in range(2, found.neighbours, 2):
        t1 = int(hypergeom.isf(2.0**-41 / clients, clients, colluding, degree))
        t2 = int(hypergeom.ppf(2.0**-20 / clients, clients, clients - dropped, degree))
        if threat == "semi-malicious":
            t1 = math.ceil((t1 + degree - 1.25) / 2)
        assert t2 <= t1, degree


# ---------------------------------------------------------------- a given graph


@pytest.mark.parametrize(
    "row",
    [row for row in FEASIBLE if row["adversary"] != "semi-malicious"],
    ids=lambda row: "-".join(map(str, list(row.values())[:4])),
)
def test_golden_graphs_are_as_secure_as_asked(row: dict[str, Any]) -> None:
    colluding, dropped = counts(row["clients"], row["adversarial"], row["dropout"])
    result = graph_security(row["clients"], colluding, dropped, row["neighbours"], row["threshold"])
    assert result.security_bits >= 40
    assert result.capture_bits >= 41
    assert result.connectivity_bits >= 41
    if row["clients"] == 10 and row["dropout"] > 0:
        # The floor of two on the threshold decided: the published search does not look at
        # correctness again. Three of ten sites leave and four are neighbours: 1/30 a site.
        assert result.correctness_bits == pytest.approx(math.log2(3))
    else:
        assert result.correctness_bits >= 20


@pytest.mark.parametrize("security", [1, 20, 64, 128])
def test_the_bits_asked_for_are_reached_and_not_with_two_neighbours_less(security: int) -> None:
    found = graph_parameters(
        2000, 0.2, 0.1, threat="semi-honest", security_bits=security, correctness_bits=30
    )
    reached = graph_security(2000, 400, 200, *found)
    assert reached.security_bits >= security
    assert reached.correctness_bits >= 30
    for threshold in range(1, found.neighbours):
        less = graph_security(2000, 400, 200, found.neighbours - 2, threshold)
        assert (
            less.capture_bits < security + 1
            or less.connectivity_bits < security + 1
            or less.correctness_bits < 30
        )


def test_graph_security_by_hand() -> None:
    # Seven sites on a ring, four neighbours each: a site has C(7,4) = 35 sets of neighbours.
    # Both colluders are among them in C(5,2) = 10. All four are among the five bad sites in
    # C(5,4) = 5, at 7 * 2 / 2 pairs of places. One survivor of four (none is impossible with
    # three dropouts) is C(4,1) C(3,3) = 4.
    result = graph_security(7, 2, 3, 4, 2)
    assert result.capture_bits == pytest.approx(0.0, abs=1e-12)  # 7 * 10/35 = 2: says nothing
    assert result.connectivity_bits == pytest.approx(-math.log2(7 * (7 - 4 - 1) / 2 * 5 / 35))
    assert result.correctness_bits == pytest.approx(-math.log2(7 * 4 / 35))
    assert graph_security(7, 2, 3, 4, 3).capture_bits == math.inf


def test_security_is_the_union_of_both_events() -> None:
    result = graph_security(100_000, 33_000, 0, 46, 44)
    assert 2**-result.security_bits == pytest.approx(
        2**-result.capture_bits + 2**-result.connectivity_bits
    )


def test_impossible_events_have_infinite_bits() -> None:
    assert graph_security(100, 3, 4, 10, 4) == GraphSecurity(math.inf, math.inf, math.inf, math.inf)
    # The complete graph cannot be cut, whatever its parity.
    for clients in (5, 6):
        assert graph_security(clients, 1, 1, clients - 1, 3).security_bits == math.inf


def test_hopeless_graphs_have_no_bits_and_no_negative_ones() -> None:
    result = graph_security(1000, 500, 500, 10, 4)
    assert result == (0.0, 0.0, 0.0, 0.0)
    assert all(math.copysign(1, bits) == 1 for bits in result)


def test_nothing_underflows() -> None:
    result = graph_security(2**32, 2**31, 2**30, 2**31, 2**30 + 2**20)
    assert 2000 < result.capture_bits < 5000
    assert 10**8 < result.connectivity_bits < math.inf
    assert 10**8 < result.correctness_bits < math.inf


def test_early_dropouts_must_count_as_dropouts_of_the_whole_roster() -> None:
    # 286 neighbours drawn over the 670 sites that are left meet all of the 330 colluders.
    whole = graph_security(1000, 330, 330, 286, 150)
    rest = graph_security(670, 330, 0, 286, 150)
    assert whole.security_bits > 40
    assert rest.security_bits == 0.0
    # The same for one site, without the union.
    one_of_whole = -parameters._log_at_least(1000, 330, 286, 150) / math.log(2)
    one_of_rest = -parameters._log_at_least(670, 330, 286, 150) / math.log(2)
    assert (round(one_of_whole), round(one_of_rest, 1)) == (51, 3.5)


# ---------------------------------------------------------------- neighbour capture


def test_neighbour_capture_figures_belong_to_one_honest_site() -> None:
    """0.0659 and 9.6e-16 are the chance of one honest site: it is not its own neighbour."""
    one_honest_site = math.exp(parameters._log_at_least(99, 33, 10, 6))
    assert one_honest_site == pytest.approx(float(Fraction(exact_hits(99, 33, 10, 6))), rel=1e-12)
    assert f"{one_honest_site:.4f}" == "0.0659"
    assert f"{math.exp(parameters._log_at_least(99, 33, 34, 29)):.1e}" == "9.6e-16"
    # A place on the ring, whoever stands there, is captured a little less often, and the
    # union over all places still bounds the union over the honest sites.
    one_place = math.exp(parameters._log_at_least(100, 33, 10, 6))
    assert f"{one_place:.4f}" == "0.0628"
    for threshold in range(1, 11):
        place = exact_hits(100, 33, 10, threshold)
        honest = exact_hits(99, 33, 10, threshold)
        assert 100 * place >= 67 * honest


def exact_hits(clients: int, marked: int, drawn: int, least: int) -> Fraction:
    hits = sum(
        math.comb(marked, x) * math.comb(clients - marked, drawn - x)
        for x in range(least, drawn + 1)
    )
    return Fraction(hits, math.comb(clients, drawn))


def test_neighbour_capture_on_random_rings() -> None:
    rings, clients, neighbours, threshold = 20_000, 100, 10, 6
    rng = np.random.default_rng(2020)
    corrupt = np.zeros((rings, clients), dtype=np.int64)
    corrupt[:, :33] = 1
    corrupt = rng.permuted(corrupt, axis=1)
    near = sum(
        np.roll(corrupt, shift, axis=1)
        for shift in range(-neighbours // 2, neighbours // 2 + 1)
        if shift
    )
    captured = near >= threshold
    for sites, law in ((corrupt == 0, 0.06586664645534797), (corrupt >= 0, 0.06279238441526631)):
        # Sites of one ring are correlated, so the error is taken over rings.
        frequency = (captured & sites).sum(axis=1) / sites.sum(axis=1)
        error = frequency.std() / math.sqrt(rings)
        assert abs(frequency.mean() - law) < 4.417 * error


# ---------------------------------------------------------------- Bonawitz et al.


@pytest.mark.parametrize(
    ("clients", "length", "expected"),
    [(2**10, 2**20, "1.73"), (2**14, 2**24, "1.98"), (2**14, 2**20, "3.62")],
)
def test_published_expansion(clients: int, length: int, expected: str) -> None:
    assert f"{bonawitz17_expansion(clients, length):.2f}" == expected


def test_expansion_by_hand() -> None:
    # Two clients, ten bits in, sums up to 2046: 11 bits.
    expected = (2 * 2 * 100 + 6 * 30 + 7 * 11) / 70
    found = bonawitz17_expansion(2, 7, input_bits=10, key_bits=100, share_bits=30)
    assert found == pytest.approx(expected)
    # One client: R = 2^b is no reason for one more bit.
    assert bonawitz17_expansion(1, 2**40) == pytest.approx(1.0, abs=1e-6)


def test_the_two_list_law() -> None:
    for clients in range(3, 30):
        for colluding in range(clients):
            honest = clients - colluding
            for threshold in range(1, clients + 1):
                # Split the honest sites every way; the colluding ones answer both.
                possible = any(
                    part + colluding >= threshold and honest - part + colluding >= threshold
                    for part in range(honest + 1)
                )
                assert two_list_attack_possible(clients, colluding, threshold) == possible


# ---------------------------------------------------------------- bad input

GOOD: dict[str, Any] = {"clients": 100, "adversarial": 0.1, "dropout": 0.1, "threat": "semi-honest"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("clients", bad) for bad in (-1, 0, 2, 2**32 + 1, 10.0, True, "100", None)],
        *[("adversarial", bad) for bad in (-0.1, -1e-300, 1.0, 7, math.nan, math.inf, "0", True)],
        *[("dropout", bad) for bad in (-1.0, 1.0, 2, math.nan, -math.inf, None, False, 1j)],
        *[("threat", bad) for bad in ("malicious-server", "", "NONE", None, 0)],
        *[("security_bits", bad) for bad in (0, -1, 129, 40.0, True, None)],
        *[("correctness_bits", bad) for bad in (0, -1, 129, 20.0, True, None)],
    ],
)
def test_bad_arguments_of_the_search(field: str, value: object) -> None:
    with pytest.raises(PlanError) as caught:
        graph_parameters(**(GOOD | {field: value}))
    assert caught.value.rule == "graph-parameters"
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("clients", "adversarial", "dropout", "threat", "field"),
    [
        (1000, 0.5, 0.41, "semi-honest", "dropout"),
        (1000, 0.0, 0.91, "none", "dropout"),
        (1000, 0.1, 0.41, "semi-malicious", "dropout"),
        (1000, 1e-9, 0.1, "none", "adversarial"),
        (3, 0.0, 0.0, "semi-honest", "clients"),
        (10, 0.4, 0.4, "semi-honest", "clients"),
    ],
)
def test_infeasible_requests(
    clients: int, adversarial: float, dropout: float, threat: str, field: str
) -> None:
    with pytest.raises(PlanError) as caught:
        graph_parameters(clients, adversarial, dropout, threat=threat)
    assert caught.value.rule == "graph-parameters"
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((2, 0, 0, 2, 2), "clients"),
        ((2**32 + 1, 0, 0, 2, 2), "clients"),
        ((100, -1, 0, 10, 6), "colluding"),
        ((100, 101, 0, 10, 6), "colluding"),
        ((100, 0.33, 0, 10, 6), "colluding"),
        ((100, 33, -1, 10, 6), "dropouts"),
        ((100, 33, 68, 10, 6), "dropouts"),
        ((100, 33, 10, 0, 6), "neighbours"),
        ((100, 33, 10, 11, 6), "neighbours"),
        ((100, 33, 10, 100, 6), "neighbours"),
        ((100, 33, 10, 10, 0), "threshold"),
        ((100, 33, 10, 10, 12), "threshold"),
        ((100, 33, 10, 10, True), "threshold"),
    ],
)
def test_bad_arguments_of_a_given_graph(arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises(PlanError) as caught:
        graph_security(*arguments)
    assert caught.value.field == field


def test_bad_arguments_of_the_formulas() -> None:
    for arguments, field in (((0, 1), "clients"), ((1, 0), "length"), ((1, math.nan), "length")):
        with pytest.raises(PlanError) as caught:
            bonawitz17_expansion(*arguments)
        assert caught.value.field == field
    for name in ("input_bits", "key_bits", "share_bits"):
        with pytest.raises(PlanError) as caught:
            bonawitz17_expansion(8, 8, **{name: 0})
        assert caught.value.field == name
    for counts_, field in (
        ((0, 0, 1), "clients"),
        ((5, 6, 1), "colluding"),
        ((5, 1, 6), "threshold"),
    ):
        with pytest.raises(PlanError) as caught:
            two_list_attack_possible(*counts_)
        assert caught.value.field == field


def test_the_import_is_light() -> None:
    code = (
        "import sys, secagg_protocols.parameters; "
        "sys.exit(any(name in sys.modules for name in ('scipy', 'numba', 'cryptography')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
