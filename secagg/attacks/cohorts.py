"""Attacks on who is in a sum: strangers, few sites, captured neighbours, split graphs, differences.

None of them breaks a cipher: they choose, or wait for, a set of sites whose sum says too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg_protocols import wire
from secagg_protocols.masked_sum import masks

from .attack import Array, Attack, Evidence, Frame, Keys, Transcript

_PRIME: Final = (1 << 61) - 1
_LIMBS: Final = 5
_LIMB_BITS: Final = 52
_SHARE: Final = 8 * _LIMBS
_KEY: Final = 32
#: Free coordinates of a membership that are tried one by one: 2^16 candidates a site.
_MOST_FREE: Final = 16
_CLOSE: Final = 1e-6


class View:
    """What the transcript of a masked round says of masks: public keys, the graph, the sets.

    public: "sites" names in roster order; "adverts" by site, mask key and channel key; "graph"
    neighbours by site; "sharers" and "survivors"; "context" of the round; "bits", "length",
    "threshold", "trailer". Sites are numbers here.
    """

    def __init__(self, transcript: Transcript) -> None:
        public = transcript.public
        self.sites: list[str] = public["sites"]
        self.adverts: list[bytes] = public["adverts"]
        self.graph: list[list[int]] = public["graph"]
        self.sharers: set[int] = set(public["sharers"])
        self.survivors: set[int] = set(public["survivors"])
        self.context: bytes = public["context"]
        self.bits, self.length = int(public["bits"]), int(public["length"])
        self.threshold, self.trailer = int(public["threshold"]), int(public["trailer"])

    @property
    def modulus(self) -> int:
        """Ring elements are integers modulo this."""
        return 1 << self.bits

    def near(self, site: int, among: set[int]) -> list[int]:
        """Neighbours of a site among some."""
        return [peer for peer in self.graph[site] if peer in among]

    def tail(self, frame: Frame) -> bytes:
        """What follows the header of a frame."""
        return bytes(wire.split_frame(frame.data, trailer_size=self.trailer).tail)

    def masked(self, frame: Frame) -> list[int]:
        """The masked vector in a site's input."""
        packed = int.from_bytes(self.tail(frame), "little")
        return [(packed >> (self.bits * i)) % self.modulus for i in range(self.length)]

    def stream(self, key: bytes) -> list[int]:
        """The mask of a mask key: AES-128 in counter mode, read as little-endian lanes."""
        lane = next(size for size in (2, 4, 8) if 8 * size >= self.bits)
        cipher = Cipher(algorithms.AES128(key[:16]), modes.CTR(key[16:] + bytes(8))).encryptor()
        stream = cipher.update(bytes(lane * self.length))
        return [int(value) for value in np.frombuffer(stream, dtype=f"<u{lane}")]

    def own_mask(self, site: int, seed: bytes) -> list[int]:
        """The self mask of a site, from its seed."""
        return self.stream(masks.self_mask(seed, site, self.context))

    def pair(self, seed: bytes, site: int, peer: int) -> list[int]:
        """What ``site`` added for ``peer``, from the mask seed of ``site``."""
        mine, other = self.adverts[site][:_KEY], self.adverts[peer][:_KEY]
        key = masks.pair_mask(seed, (site, mine), (peer, other), self.context, sender="")
        sign = masks.pair_sign(site, peer)
        return [sign * value for value in self.stream(key)]

    def lifted(self, ring: Sequence[int]) -> list[int]:
        """Integers from ring elements: honest ones are not negative here."""
        return [value % self.modulus for value in ring]


def _minus(left: list[int], right: list[int]) -> list[int]:
    return [a - b for a, b in zip(left, right, strict=True)]


def _secret(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """A 32-byte secret from shares by site (Shamir over GF(2^61-1), Lagrange at zero)."""
    chosen = sorted(shares)[:threshold]
    value = 0
    for limb in range(_LIMBS):
        total = 0
        for site in chosen:
            above, below = 1, 1
            for other in chosen:
                if other != site:
                    above = above * (other + 1) % _PRIME
                    below = below * (other - site) % _PRIME
            part = int.from_bytes(shares[site][8 * limb : 8 * limb + 8], "little")
            total += part * above * pow(below, -1, _PRIME)
        value |= (total % _PRIME) << (_LIMB_BITS * limb)
    # Shares of too few holders join to numbers that are no seed.
    return (value % (1 << (8 * _KEY))).to_bytes(_KEY, "little")


def open_by_shares(view: View, frames: Sequence[Frame], keys: Keys) -> dict[str, list[Any]]:
    """The vectors of all sites of which the colluders hold enough shares of both secrets.

    keys: by "holder:dealer", numbers in the roster, the share of the self seed and the share of
    the mask seed, as dealt.
    """
    dealt: dict[int, dict[int, bytes]] = {}
    for label, pair in keys.values.items():
        holder, dealer = map(int, label.split(":"))
        dealt.setdefault(dealer, {})[holder] = pair
    found: dict[str, list[Any]] = {}
    for frame in frames:
        site = view.sites.index(frame.sender)
        held = dealt.get(site, {})
        if len(held) < view.threshold:
            continue
        self_seed = _secret({h: pair[:_SHARE] for h, pair in held.items()}, view.threshold)
        mask_seed = _secret({h: pair[_SHARE:] for h, pair in held.items()}, view.threshold)
        ring = _minus(view.masked(frame), view.own_mask(site, self_seed))
        for peer in view.near(site, view.sharers):
            ring = _minus(ring, view.pair(mask_seed, site, peer))
        found[frame.sender] = view.lifted(ring)
    return found


class Sybils(Attack):
    """Row 6: the server chooses who takes part, or how much protection there is."""

    number = 6
    id = "sybils"
    title = "Made-up sites (Sybils) and weaker parameters"
    source = "Douceur, IPTPS 2002; Bonawitz et al., CCS 2017, section 6.2"
    adversary = "malicious server that makes up sites, or writes a weaker plan"
    sees = "the sum and the vectors of the sites that it made up; shares dealt to colluding sites"
    tests = ("member.enrolment-signature", "member.plan-epoch", "client.floors")
    law = "n - 1 made-up sites give x_v exactly; so do t colluding holders of x_v's shares"
    remedy = (
        "Accept only rosters that the consortium's enrolment key has signed, and give every site "
        "a file of floors. Floors stop a weak plan and not strangers; a signed roster stops "
        "strangers and not a weak plan: it takes both."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Subtract the made-up vectors, rebuild secrets from shares, or decrypt."""
        public = transcript.public
        if "sum" in transcript.arrays:
            total, own = transcript.arrays["sum"], transcript.arrays["own"]
            return Evidence(vectors={public["victim"]: (total - own.sum(axis=0)).tolist()})
        if "p" in keys.values:
            return Evidence(vectors={public["victim"]: _decrypted(transcript, keys)})
        found = open_by_shares(View(transcript), transcript.frames, keys)
        return Evidence(vectors=found, note="" if found else "too few shares")


def _decrypted(transcript: Transcript, keys: Keys) -> list[Any]:
    """A site's vector from its ciphertexts, under a key that the server has made."""
    public = transcript.public
    p, q = (int.from_bytes(keys.values[name], "little") for name in ("p", "q"))
    n, bits, width = p * q, int(public["bits"]), int(public["slot_bits"])
    order = (p - 1) * (q - 1)
    size = 2 * ((n.bit_length() + 7) // 8)
    frame = wire.split_frame(transcript.frames[0].data, trailer_size=int(public["trailer"]))
    found: list[Any] = []
    for start in range(0, int(public["rows"]) * size, size):
        cipher = int.from_bytes(frame.tail[start : start + size], "little")
        plain = (pow(cipher, order, n * n) - 1) // n * pow(order, -1, n) % n
        for slot in range(int(public["slots"])):
            value = (plain >> (slot * width)) % (1 << width)
            found.append(value - (1 << (bits - 1)))
    return found[: int(public["length"])]


class SmallCohort(Attack):
    """Row 7: subtract what the colluding sites put in."""

    number = 7
    id = "small-cohort"
    title = "Small cohort and n-1 collusion"
    source = "Bonawitz et al., CCS 2017, section 1 (what the sum itself says)"
    adversary = "server with colluding sites"
    sees = "the sum, who is in it, and the colluding sites' own vectors"
    tests = ("plan.honest-survivors", "client.survivor-cohort", "holder.cohort")
    law = "what is left is the sum of h honest sites: exact for h = 1, correlation 1/sqrt(h) above"
    remedy = (
        "No protocol for sums hides this, since it is the result itself. Choose colluding and "
        "min_honest so that the sum of min_honest sites may be known, and add noise "
        "(differential privacy) where it may not."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """The sum of the honest sites, and the best guess at each of them: their mean."""
        honest: list[str] = transcript.public["honest"]
        left = transcript.arrays["sum"] - transcript.arrays["own"].sum(axis=0)
        guess = left / len(honest)
        if len(honest) == 1:
            return Evidence(vectors={honest[0]: left.tolist()}, arrays={"guess": guess})
        note = f"a sum of {len(honest)} honest sites is left"
        return Evidence(arrays={"guess": guess, "residual": left}, note=note)


class NeighbourCapture(Attack):
    """Row 9: in a sparse graph, wait for a site most of whose neighbours collude."""

    number = 9
    id = "neighbour-capture"
    title = "Neighbour capture"
    source = "Bell et al., CCS 2020, section 3"
    adversary = (
        "semi-honest server with colluding sites; beside it, a server that chooses the graph itself"
    )
    sees = "the graph, the masked inputs, and the shares dealt to colluding sites"
    tests = ("plan.sparse-security", "plan.sparse-threat")
    law = "a site is captured with Pr[Hyp(n - 1, c, k) >= t], some site with at most n times that"
    remedy = (
        "Let Plan.recommend choose the graph, or keep the complete graph. A sparse graph is only "
        "as good as the server's dice: with a server that may choose it, use malicious-server."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Count captured sites in drawn graphs, and open those of a round."""
        if transcript.frames:
            return Evidence(vectors=open_by_shares(View(transcript), transcript.frames, keys))
        graphs = transcript.arrays["graphs"]
        bad = np.zeros(graphs.shape[1], dtype=bool)
        bad[transcript.public["colluding"]] = True
        held = bad[graphs].sum(axis=2)
        held[:, bad] = 0
        return Evidence(arrays={"held": held.astype(np.int16)})


class GraphPartition(Attack):
    """Row 10: where the graph of the remaining sites falls apart, each part has its own sum."""

    number = 10
    id = "graph-partition"
    title = "Graph partition"
    source = "Bell et al., CCS 2020, section 3 (connectivity)"
    adversary = "semi-honest server that sees sites leave, with colluding sites"
    sees = "the graph, the masked inputs, and the shares that the protocol reveals"
    tests = ("plan.sparse-security",)
    law = "the ring is cut with at most n (n - k - 1) / 2 times Pr[k random sites are all bad]"
    remedy = (
        "Let Plan.recommend choose the graph for the dropouts that are really to be expected, or "
        "keep the complete graph, which cannot be cut."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Parts of drawn graphs, or the sums of the parts of a round."""
        if transcript.frames:
            return _part_sums(View(transcript), transcript.frames)
        graphs, gone = transcript.arrays["graphs"], transcript.arrays["gone"]
        parts = [components(g, ~lost) for g, lost in zip(graphs, gone, strict=True)]
        return Evidence(
            arrays={
                "parts": np.array([len(found) for found in parts]),
                "smallest": np.array([min(map(len, found), default=0) for found in parts]),
            }
        )


def components(graph: Array, stays: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Connected parts of the sites that stay, ascending. graph: int[sites, neighbours]."""
    label = np.where(stays, np.arange(len(stays)), len(stays))
    near = np.asarray(graph)
    while True:
        # Each site takes the least label around it; a site that left has a label above all.
        least = np.where(stays, np.minimum(label, label[near].min(axis=1)), len(stays))
        if np.array_equal(least, label):
            break
        label = least
    return [np.flatnonzero(label == mark).tolist() for mark in np.unique(label[stays])]


def _part_sums(view: View, frames: Sequence[Frame]) -> Evidence:
    """The sum of each connected part, from inputs and from what every site revealed."""
    relations: dict[int, dict[int, bytes]] = {}
    inputs: dict[int, Frame] = {}
    for frame in frames:
        site = view.sites.index(frame.sender)
        if wire.split_frame(frame.data, trailer_size=view.trailer).kind == _INPUT:
            inputs[site] = frame
            continue
        shares = view.tail(frame)
        dealers = sorted((*view.near(site, view.sharers), site))
        for at, dealer in enumerate(dealers):
            share = shares[at * _SHARE : (at + 1) * _SHARE]
            relations.setdefault(dealer, {})[site] = share
    seeds = {site: _secret(given, view.threshold) for site, given in relations.items()}
    stays = np.zeros(len(view.sites), dtype=bool)
    stays[sorted(view.survivors)] = True
    vectors: dict[str, list[Any]] = {}
    for part in components(np.array(view.graph), stays):
        ring = [0] * view.length
        for site in part:
            ring = _minus(view.masked(inputs[site]), [-value for value in ring])
            ring = _minus(ring, view.own_mask(site, seeds[site]))
            for peer in view.near(site, view.sharers - view.survivors):
                # The pair mask is known from the seed of the site that left.
                ring = _minus(ring, [-value for value in view.pair(seeds[peer], peer, site)])
        vectors[",".join(view.sites[site] for site in part)] = view.lifted(ring)
    return Evidence(vectors=vectors)


#: Kind of a masked input on the wire.
_INPUT: Final = 5


class Disaggregation(Attack):
    """Row 11: solve the sums of rounds with varying cohorts for the vectors of single sites."""

    number = 11
    id = "disaggregation"
    title = "Disaggregation over rounds"
    source = "Lam et al., ICML 2021, sections 3-4; So et al., AAAI 2023"
    adversary = "semi-honest server over several rounds, or one that asks again after an abort"
    sees = "the sums of all rounds, and who was in each (or only how often, per stretch of rounds)"
    tests = ("client.inputs-per-model", "client.fixed-nested", "client.fixed-difference")
    law = "error covariance P+ D (P+)' of least squares, D the drift or noise in each sum"
    remedy = (
        "Limit the inputs per model, and say fixed_data where the data do not change: sites then "
        "compare cohorts. Over rounds of training nothing but noise (differential privacy, with "
        "a ledger over all rounds) or batches of sites that always take part together bounds what "
        "differences say."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Least squares, after finding who was in which round where only counts are known."""
        sums = transcript.arrays["sums"].astype(float)
        note = ""
        if "members" in transcript.arrays:
            members = transcript.arrays["members"].astype(float)
        else:
            counts = transcript.arrays["counts"].astype(float)
            solved = _memberships(sums, counts, int(transcript.public["stretch"]))
            if isinstance(solved, str):
                return Evidence(note=solved)
            known = ~np.isnan(solved).any(axis=0)
            if not known.all():
                note = f"memberships that are not determined: {int((~known).sum())}"
                return Evidence(arrays={"members": np.nan_to_num(solved, nan=-1.0)}, note=note)
            members = solved
        inverse = np.linalg.pinv(members)
        # A vector is determined where the sums can be combined to it and nothing else.
        combined = inverse @ members
        sure = np.abs(combined - np.eye(len(combined))).max(axis=1) < _CLOSE
        found = inverse @ sums
        return Evidence(
            arrays={"found": found, "sure": sure, "members": members},
            note=note or ("" if sure.any() else "the sums determine no single site"),
        )


def _memberships(sums: Array, counts: Array, stretch: int) -> Array | str:
    """Who was in which round: float[rounds, sites] of 0 and 1, NaN where not determined.

    The sums span the same space as the memberships, so each membership is a combination of a
    basis of it (Lam et al., section 4.1). Its counts fix some coordinates; what is free is tried
    in full. counts: [stretches, sites], rounds of each stretch in which the site was.
    """
    rounds, sites = len(sums), counts.shape[1]
    left, values, _ = np.linalg.svd(sums, full_matrices=False)
    rank = int((values > values[0] * 1e-9).sum())
    if rank != sites:
        return f"the sums have rank {rank}, and {sites} sites take part"
    basis = left[:, :rank]
    starts = np.arange(0, rounds, stretch)
    windows = np.add.reduceat(basis, starts, axis=0)
    _, sizes, right = np.linalg.svd(windows)
    fixed = int((sizes > sizes[0] * 1e-9).sum())
    free = basis @ right[fixed:].T
    if free.shape[1] > _MOST_FREE:
        return f"{free.shape[1]} coordinates are free: this needs an integer program"
    pivots = _pivots(free)
    steer = free @ np.linalg.inv(free[pivots]) if pivots else free
    grid = np.array(np.meshgrid(*[[0.0, 1.0]] * len(pivots), indexing="ij"))
    tries = grid.reshape(len(pivots), -1) if pivots else np.zeros((0, 1))
    found = np.full((rounds, sites), np.nan)
    for site in range(sites):
        start = basis @ (np.linalg.pinv(windows) @ counts[:, site])
        fits = np.ones(tries.shape[1], dtype=bool)
        # In stretches of rounds, so that most candidates are gone before all was calculated.
        for low in range(0, rounds, 32):
            rows = slice(low, low + 32)
            guess = start[rows, None] + steer[rows] @ (tries[:, fits] - start[pivots, None])
            good = (np.abs(guess * (guess - 1)) < _CLOSE).all(axis=0)
            fits[np.flatnonzero(fits)[~good]] = False
        if fits.sum() == 1:
            found[:, site] = np.rint(start + steer @ (tries[:, fits][:, 0] - start[pivots]))
    return found


def _pivots(table: Array) -> list[int]:
    """Rows that determine all others, by elimination with the largest entry first."""
    rest, rows = table.copy(), list[int]()
    for _ in range(table.shape[1]):
        row = int(np.argmax((rest**2).sum(axis=1)))
        rows.append(row)
        unit = rest[row] / np.linalg.norm(rest[row])
        rest = rest - np.outer(rest @ unit, unit)
    return rows


__all__ = [
    "Disaggregation",
    "GraphPartition",
    "NeighbourCapture",
    "SmallCohort",
    "Sybils",
    "View",
    "components",
    "open_by_shares",
]
