"""Rounds whose clip adapts: every party finds the same clip, and holds the server to it."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

import secagg
from secagg.session import Finished
from support.sessions import Played, session_plan

CLIP = struct.Struct("<d")
STAGES = (
    secagg.AdaptiveClip(clip=4.0, quantile=0.5, rate=0.5, lowest=0.5, highest=8.0),
    secagg.Quantise(1000, "nearest"),
)


def norms(name: str) -> float:
    return 1.0 + int(name[-1])


def vector(name: str, number: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One coordinate holds the norm: 1, 2, 3, 4 for the four sites, in all rounds."""
    x = np.zeros(10)
    x[number % 10] = norms(name)
    return x


def play(threat: str, rounds: int, reload: bool = False) -> list[tuple[float, float]]:
    """(clip, share of sites within it) of each round, by the server's own announcements."""
    plan, identities = session_plan(threat, stages=STAGES)
    played = Played(plan, identities, vector=vector)
    parameters, found = b"", []
    for number in range(rounds):
        result = played.round(b"model %d" % number, parameters)
        assert result is not None
        (clip,) = CLIP.unpack(parameters) if parameters else (4.0,)
        expected = sum(min(norms(name), clip) for name in plan.roster.names)
        assert math.isclose(result.sum[number % 10], expected, abs_tol=4 * clip / 1000)
        found.append((clip, result.extras["within"] / len(result.survivors)))
        parameters = secagg.next_parameters(plan, result, parameters)
        if reload:
            played.reload(*played.sites, "server")
    played.finish()
    ends = [played.of(name, Finished) for name in plan.roster.names]
    assert all(len(events) == rounds for events in ends)
    return found


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
@pytest.mark.parametrize("reload", [False, True])
def test_the_clip_follows_the_rule_and_finds_the_quantile(threat: str, reload: bool) -> None:
    found = play(threat, 8, reload)
    clip = 4.0
    for stated, share in found:
        assert math.isclose(stated, clip, rel_tol=1e-12)
        assert share == sum(norms(f"site-{i}") <= clip for i in range(4)) / 4
        clip = min(max(clip * math.exp(-0.5 * (share - 0.5)), 0.5), 8.0)
    # Half of the norms 1, 2, 3, 4 are at most 2 and half at least 3.
    assert 1.7 < found[-1][0] < 3.3


@pytest.mark.parametrize(
    "stated", [CLIP.pack(0.1), CLIP.pack(9.0), CLIP.pack(math.nan), CLIP.pack(-1.0), b"clip"]
)
def test_a_clip_out_of_range_is_refused_by_whoever_hears_of_it(stated: bytes) -> None:
    plan, identities = session_plan("semi-honest", stages=STAGES)
    played = Played(plan, identities, vector=vector)
    with pytest.raises(secagg.MisuseError) as caught:
        played.begin(b"model", stated)
    assert caught.value.rule in {"round-clip", "round-parameters"}


def test_a_site_without_the_last_result_goes_by_the_range_alone() -> None:
    plan, identities = session_plan("semi-honest", stages=STAGES, sites_receive=False)
    played = Played(plan, identities, vector=vector)
    assert played.round(b"one") is not None
    result = played.round(b"two", CLIP.pack(3.0))
    assert result is not None and result.extras["within"] == 3
