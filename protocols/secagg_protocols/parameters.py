"""Parameters of SecAgg+: how many neighbours a site needs, and how many shares open a mask.

The graph is the one of Bell et al., "Secure Single-Server Aggregation with
(Poly)Logarithmic Overhead" (CCS 2020): the sites stand on a ring in a uniformly random
order and each is joined to the ``neighbours / 2`` sites on either side (a Harary graph). Two
things can go wrong for privacy: a site has so many colluding neighbours that they hold
enough of its shares (*capture*), or colluders and dropouts cut the ring into parts whose
sums are then seen one by one (*partition*). One thing can go wrong for correctness: a site
keeps too few surviving neighbours to recover its mask.

All probabilities here are exact hypergeometric tails or union bounds over them. They are
computed as logarithms, so that nothing underflows, and from each cell's distance to its
mean instead of from differences of log-factorials, so that they do not lose digits as the
number of sites grows.
"""

from __future__ import annotations

import bisect
import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from secagg_protocols.errors import PlanError

_RULE: Final = "graph-parameters"
_THREATS: Final = ("none", "semi-honest", "semi-malicious")

# The fractions are widened by this much before they are rounded to counts, so that a
# fraction that is not exactly representable (0.05 of 100) cannot lose a whole adversary.
_SLACK: Final = 1e-14

# The slack stays far below one site, and every count below 2^53, up to this size.
_MAX_CLIENTS: Final = 2**32

# The published search covers 90 % of bad sites and no more; beyond it the degree explodes.
_MAX_BAD_FRACTION: Final = 0.9


class GraphParameters(NamedTuple):
    """Degree of the graph, and the number of shares that recover one site's secret."""

    neighbours: int
    threshold: int


class GraphSecurity(NamedTuple):
    """What a given graph achieves, in bits: an event of ``b`` bits has probability <= 2^-b.

    ``capture_bits`` and ``connectivity_bits`` belong to the two privacy events,
    ``security_bits`` to their union, ``correctness_bits`` to a round that cannot finish.
    An impossible event has ``math.inf`` bits; a bound of one or more has 0 bits.
    """

    capture_bits: float
    connectivity_bits: float
    security_bits: float
    correctness_bits: float


def graph_parameters(
    clients: int,
    adversarial: float,
    dropout: float,
    *,
    threat: str,
    security_bits: int = 40,
    correctness_bits: int = 20,
) -> GraphParameters:
    """Find the sparsest graph of SecAgg+ that is secure and correct with the bits asked for.

    ``clients`` is the number of sites; ``adversarial`` and ``dropout`` are the largest
    fractions of them, in [0, 1), that collude with the server and that leave the round.
    ``threat`` is ``"semi-honest"``, ``"semi-malicious"`` (the server follows the protocol
    while the graph is drawn and may later ask different neighbours for different secrets,
    so that ``2 * threshold`` has to exceed the neighbours plus the colluding ones) or
    ``"none"`` (nobody colludes, ``adversarial`` must be 0; the surviving graph must still
    be connected). A break of privacy has probability below ``2**-security_bits``, a round
    that fails has probability below ``2**-correctness_bits`` (both 1 to 128), per round.

    The search is exact for the published bounds: even degrees in increasing order, the
    first that has a valid threshold wins, and the threshold is the smallest valid one, but
    at least 2. Where that floor of 2 is what decides (so few colluders that one share would
    do), the published search does not check correctness again and neither does this one:
    10 sites, 5 % and 33 % give 4 neighbours and a threshold of 2, and fail once in three
    rounds by the union bound. :func:`graph_security` gives the bits that are really reached.

    The semi-malicious bound is the published one, for shares held by the neighbours alone;
    where a site also holds a share of its own secret, the threshold may have to be one more.
    Those rows are for analysis.

    Raises :class:`PlanError` for an argument out of range and where no sparse graph exists.

    Source: Bell et al. (CCS 2020), section 3 and the parameter search of Google's federated
    compute platform (``graph_parameter_finder.cc``), whose published rows it reproduces.
    """
    _check_count("clients", clients, 3, _MAX_CLIENTS)
    _check_count("security_bits", security_bits, 1, 128)
    _check_count("correctness_bits", correctness_bits, 1, 128)
    if threat not in _THREATS:
        raise _refuse(f"must be one of {', '.join(_THREATS)}", "threat")
    _check_fraction("adversarial", adversarial)
    _check_fraction("dropout", dropout)
    if threat == "none" and adversarial > 0:
        raise _refuse("must be 0 where there is no adversary", "adversarial")
    two_faced = threat == "semi-malicious"
    bad_fraction = adversarial + (2 * dropout if two_faced else dropout)
    if bad_fraction > _MAX_BAD_FRACTION:
        law = "adversarial + 2 * dropout" if two_faced else "adversarial + dropout"
        raise _refuse(f"{law} must be at most {_MAX_BAD_FRACTION}", "dropout")

    colluding = math.floor((adversarial + _SLACK) * clients)
    dropped = math.floor((dropout + _SLACK) * clients)
    surviving = math.ceil((1 - dropout - _SLACK) * clients)
    # Each of the two privacy events gets half of the probability; capture and failure are
    # unions over all sites.
    log_partition = -(security_bits + 1) * math.log(2)
    log_capture = log_partition - math.log(clients)
    log_failure = -correctness_bits * math.log(2) - math.log(clients)

    degree = 2
    while degree < clients - 1:
        if _log_partition(clients, colluding + dropped, degree) >= log_partition:
            degree += 2
            continue
        most_colluding = _capture_quantile(clients, colluding, degree, log_capture)
        if two_faced:
            # Asking half of the honest neighbours for one secret and half for the other
            # must fail too. The quarter avoids a rounding tie, as in the published search.
            most_colluding = math.ceil((most_colluding + degree - 1.25) / 2)
        fewest_surviving = _survival_quantile(clients, surviving, degree, log_failure)
        gap = most_colluding - fewest_surviving
        if gap < 0:
            return GraphParameters(degree, max(most_colluding + 1, 2))
        # Degrees are skipped only where they cannot succeed. Add one neighbour to a draw:
        # its colluders do not decrease and its survivors increase by at most one. Hence
        # with s more neighbours `most_colluding` does not decrease (it increases by at
        # least s/2 when two-faced) and `fewest_surviving` increases by at most s, and the
        # gap cannot become negative before s > gap (s/2 > gap).
        degree += 2 * (gap + 1) if two_faced else 2 * (gap // 2 + 1)
    raise _refuse("no sparse graph of so few sites is secure and correct", "clients")


def graph_security(
    clients: int, colluding: int, dropouts: int, neighbours: int, threshold: int
) -> GraphSecurity:
    """Bits of security and correctness of a given SecAgg+ graph, semi-honest server.

    All arguments are counts: ``colluding`` sites share what they see with the server,
    ``dropouts`` leave, ``neighbours`` is the degree (even, or ``clients - 1`` for the
    complete graph) and ``threshold`` the number of shares that recover a secret.

    * Capture: ``clients * Pr[Hyp(clients, colluding, neighbours) >= threshold]``. It bounds
      the exact union over honest sites, ``(clients - colluding) * Pr[Hyp(clients - 1,
      colluding, neighbours) >= threshold]``, because that leaves out the places on the ring
      that a colluder occupies.
    * Partition: some two runs of ``neighbours / 2`` consecutive sites are all bad.
    * Failure: ``clients * Pr[fewer than threshold survivors among the neighbours]``. A
      site's own share is not counted, so the bound also holds for a site that left.

    Raises :class:`PlanError` for an argument out of range.

    Source: Bell et al. (CCS 2020), section 3; same bounds as :func:`graph_parameters`.
    """
    _check_count("clients", clients, 3, _MAX_CLIENTS)
    _check_count("colluding", colluding, 0, clients)
    _check_count("dropouts", dropouts, 0, clients - colluding)
    _check_count("neighbours", neighbours, 2, clients - 1)
    if neighbours % 2 and neighbours != clients - 1:
        raise _refuse("must be even (half on either side of the ring)", "neighbours")
    # A site holds one share of its own secret, hence the neighbours plus one.
    _check_count("threshold", threshold, 1, neighbours + 1)

    log_sites = math.log(clients)
    capture = log_sites + _log_at_least(clients, colluding, neighbours, threshold)
    partition = _log_partition(clients, colluding + dropouts, neighbours)
    failure = log_sites + _log_at_most(clients, clients - dropouts, neighbours, threshold - 1)
    return GraphSecurity(
        capture_bits=_bits(capture),
        connectivity_bits=_bits(partition),
        security_bits=_bits(float(np.logaddexp(capture, partition))),
        correctness_bits=_bits(failure),
    )


def bonawitz17_expansion(
    clients: int,
    length: int,
    *,
    input_bits: int = 16,
    key_bits: int = 256,
    share_bits: int = 256,
) -> float:
    """Bits that a client of SecAgg transfers, as a multiple of sending its input in clear.

    ``(2 n a_K + (5 n - 4) a_S + m ceil(log2 R)) / (m b)`` for ``clients`` n, vectors of
    ``length`` m with ``input_bits`` b a coordinate, public keys of ``key_bits`` a_K, shares
    of ``share_bits`` a_S, and a sum below R = n (2^b - 1) + 1. It is the published formula
    of the complete graph, semi-honest server; it leaves framing out.

    Raises :class:`PlanError` for an argument out of range.

    Source: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine
    Learning" (CCS 2017), section 7; the abstract gives 1.73 for 2^10 clients and 2^20
    coordinates, and 1.98 for 2^14 and 2^24.
    """
    _check_count("clients", clients, 1, _MAX_CLIENTS)
    _check_count("length", length, 1, 2**62)
    _check_count("input_bits", input_bits, 1, 64)
    _check_count("key_bits", key_bits, 1, 2**20)
    _check_count("share_bits", share_bits, 1, 2**20)
    # For an integer R >= 2, the bit length of R - 1 is ceil(log2 R), exactly.
    sum_bits = (clients * ((1 << input_bits) - 1)).bit_length()
    sent = 2 * clients * key_bits + (5 * clients - 4) * share_bits + length * sum_bits
    return sent / (length * input_bits)


def two_list_attack_possible(clients: int, colluding: int, threshold: int) -> bool:
    """Whether a malicious server can have both secrets of one site reconstructed.

    On the complete graph the server tells one part of the honest sites that the victim
    survived and the other part that it dropped; its ``colluding`` sites answer both ways.
    Each part has to reach ``threshold``, so it can exactly when
    ``2 * threshold <= clients + colluding``.

    Raises :class:`PlanError` for an argument out of range.

    Source: Bonawitz et al. (CCS 2017), section 6 (security against active adversaries).
    """
    _check_count("clients", clients, 1, _MAX_CLIENTS)
    _check_count("colluding", colluding, 0, clients)
    _check_count("threshold", threshold, 1, clients)
    return 2 * threshold <= clients + colluding


def _refuse(message: str, field: str) -> PlanError:
    return PlanError(message, rule=_RULE, field=field)


def _check_count(field: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refuse("must be an int", field)
    if not least <= value <= most:
        raise _refuse(f"must be from {least} to {most}", field)


def _check_fraction(field: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _refuse("must be a fraction of the sites", field)
    # Written so that NaN, which fails every comparison, is refused.
    if not 0 <= value < 1:
        raise _refuse("must be at least 0 and below 1", field)


def _bits(log_bound: float) -> float:
    # A union bound above one says no more than one does.
    return max(0.0, -log_bound / math.log(2))


def _log_partition(clients: int, bad: int, degree: int) -> float:
    """Log of the bound on a cut of the ring by ``bad`` random sites.

    A cut needs two disjoint runs of ``degree / 2`` bad sites. There are at most
    ``clients * (clients - degree - 1) / 2`` pairs of places for them, and one pair is all
    bad with the probability that ``degree`` draws without replacement are.
    """
    pairs = clients * (clients - degree - 1) // 2
    if pairs == 0:  # The complete graph has no cut.
        return -math.inf
    return math.log(pairs) + _log_at_least(clients, bad, degree, degree)


def _capture_quantile(clients: int, colluding: int, degree: int, log_limit: float) -> int:
    """Smallest x with log Pr[Hyp(clients, colluding, degree) > x] < ``log_limit``."""
    return bisect.bisect_left(
        range(min(degree, colluding) + 1),
        True,
        key=lambda x: _log_at_least(clients, colluding, degree, x + 1) < log_limit,
    )


def _survival_quantile(clients: int, surviving: int, degree: int, log_limit: float) -> int:
    """Smallest x with log Pr[Hyp(clients, surviving, degree) <= x] >= ``log_limit``."""
    return bisect.bisect_left(
        range(min(degree, surviving) + 1),
        True,
        key=lambda x: _log_at_most(clients, surviving, degree, x) >= log_limit,
    )


def _log_at_most(clients: int, marked: int, drawn: int, most: int) -> float:
    """Log of Pr[Hyp(clients, marked, drawn) <= most]."""
    return _log_at_least(clients, clients - marked, drawn, drawn - most)


def _log_at_least(clients: int, marked: int, drawn: int, least: int) -> float:
    """Log of Pr[Hyp(clients, marked, drawn) >= least], good to about 1e-12 (absolute)."""
    low, high = max(0, drawn + marked - clients), min(drawn, marked)
    if least <= low:
        return 0.0
    if least > high:
        return -math.inf
    # Sums always run away from the mode: the terms fall, so the first one is the scale and
    # the end of what matters is known. Up to the mode, the other tail is the one to sum.
    mode = (drawn + 1) * (marked + 1) // (clients + 2)
    if least > mode:
        return _log_sum_falling(clients, marked, drawn, least, high)
    return math.log1p(-math.exp(_log_sum_falling(clients, marked, drawn, least - 1, low)))


def _log_sum_falling(clients: int, marked: int, drawn: int, first: int, last: int) -> float:
    """Log of the sum of the probabilities of ``first`` to ``last``, which must not increase."""
    step = 1 if last >= first else -1
    left = abs(last - first) + 1
    width, total = 256, -math.inf
    while True:
        take = min(width, left)
        x = first + step * np.arange(take, dtype=np.int64)
        terms = _log_pmf(clients, marked, drawn, x)
        scale = float(terms[0])
        part = scale + math.log(float(np.exp(terms - scale).sum()))
        total = float(np.logaddexp(total, part))
        left -= take
        # What is left is at most `left` times the last term: below e^-40 of the sum it is
        # smaller than the rounding error of a double.
        if left == 0 or float(terms[-1]) + math.log(left) < total - 40:
            return total
        first += step * take
        width = min(2 * width, 1 << 16)


def _log_pmf(
    clients: int, marked: int, drawn: int, x: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Log of Pr[Hyp(clients, marked, drawn) = x], for x in the support.

    With ln n! = n ln n - n + s(n), the large parts of the nine log-factorials collapse to
    ``x ln(x / mean)`` in the four cells of the two-by-two table. These terms are as small as
    the distance to the mean is, where the log-factorials themselves cancel to nothing: at a
    million sites differences of them keep nine digits, and this keeps twelve (the saddle
    point form of Loader, "Fast and Accurate Computation of Binomial Probabilities", 2000).
    """
    # The distance to the mean is formed from the integer quotient, so that it is exact to
    # one rounding.
    whole, rest = divmod(marked * drawn, clients)
    distance = (x - whole) - rest / clients
    cells = (
        (x, marked * drawn, distance),
        (marked - x, marked * (clients - drawn), -distance),
        (drawn - x, (clients - marked) * drawn, -distance),
        (clients - marked - drawn + x, (clients - marked) * (clients - drawn), distance),
    )
    margins = np.array([marked, clients - marked, drawn, clients - drawn, clients], np.int64)
    outer = _stirling_rest(margins)
    log_p = np.full(x.shape, float(outer[:4].sum() - outer[4]))
    for count, scaled_mean, off in cells:
        # Python divides big integers correctly rounded. An empty cell contributes nothing.
        relative = np.where(count > 0, off / (scaled_mean / clients), 0.0)
        log_p -= count * np.log1p(relative) + _stirling_rest(count)
    return log_p


def _stirling_rest(n: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """ln n! - (n ln n - n), from a table for small n and by Stirling's series above it."""
    large = np.maximum(n, _TABLE.size).astype(np.float64)
    square = large * large
    # At 32, the first term left out (1/1188 n^9) is below 3e-17.
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * square)) / square) / square) / large
    series += 0.5 * np.log(2 * math.pi * large)
    return np.where(n < _TABLE.size, _TABLE[np.minimum(n, _TABLE.size - 1)], series)


_TABLE: Final[npt.NDArray[np.float64]] = np.array(
    [0.0] + [math.log(math.factorial(n)) - (n * math.log(n) - n) for n in range(1, 32)]
)
