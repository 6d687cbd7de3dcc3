"""Every case runs, at tiny sizes and without peers; times are not looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import secagg
from secagg.bench import child, cold, hosting, memory, rounds, works
from secagg.bench.catalogue import CASES, run
from secagg.bench.results import CaseResult, Run
from secagg.bench.sheet import Given, NotHereError

TINY = Given.of("tiny", threads=2, peers=False)
#: Cases that start processes of their own take seconds; they have tests of their own below.
SLOW = {
    "memory",
    "cold-start",
    "mask-aesni",
    "mask-openssl",
    "paillier-gmp",
    "paillier-share",
    "paillier-round",
    "paillier-cold",
}


@pytest.fixture(scope="module")
def tiny() -> Run:
    return run([name for name in CASES if name not in SLOW], TINY)


def find(found: Run, name: str) -> CaseResult:
    return next(case for case in found.cases if case.id == name)


@pytest.mark.parametrize("name", [name for name in CASES if name not in SLOW])
def test_case(tiny: Run, name: str) -> None:
    result = find(tiny, name)
    assert (result.error, result.failed) == ("", False)
    # A host without the 52-bit multipliers has nothing to compare with them.
    missing = any(note.startswith("left out") for note in result.notes)
    assert result.timings or result.curves or missing
    for timed in result.timings:
        assert timed.spread.lowest > 0
    for curve in result.curves:
        assert len(curve.x) == len(curve.y) > 0
    for verdict in result.verdicts:
        # Peers are left out and sizes are tiny, so nothing counts, and each says why.
        assert verdict.met is None
        assert verdict.reason
        if verdict.bar.peer:
            assert (verdict.figure, "--no-peers" in verdict.reason) == (None, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask-aesni", "mask-openssl", "paillier-gmp", "paillier-share"])
def test_forced_case(name: str) -> None:
    (result,) = run([name], TINY).cases
    assert not result.failed, result.error
    missing = any(note.startswith("left out") for note in result.notes)
    assert result.timings or missing


def test_kernels_that_need_no_peer_have_a_figure(tiny: Run) -> None:
    figures = {verdict.bar.id: verdict.figure for verdict in tiny.verdicts}
    assert (figures["unpack-20/copy"] or 0) > 0
    assert (figures["round-1000/growth"] or 0) != 0
    # The sum is right to less than a level per survivor.
    assert 0 < (figures["round-1000/finishes"] or 0) < 1


def test_a_timed_round_is_a_round() -> None:
    roster, _ = secagg.Roster.generate(f"site-{i}" for i in range(6))
    plan = secagg.Plan.recommend(
        roster,
        length=50,
        stages=(secagg.ClipLinf(8.0), secagg.Quantise(1 << 16)),
        threat="semi-honest",
        colluding=1,
        max_dropouts=1,
    )
    x = works.vector(50)
    costs = rounds.timed_round(plan, lambda name: x, ["site-2"])
    assert costs.aggregate is not None
    assert costs.aggregate.dropped == {"site-2": "input"}
    np.testing.assert_allclose(costs.aggregate.sum, 5 * x.astype(np.float64), atol=5 * 8 / 65536)
    stayed = [name for name in roster.names if name != "site-2"]
    assert all(costs.seconds[name] > 0 for name in stayed)
    assert costs.whole > costs.server > 0
    # Bytes are those of the frames: what the sites sent is what the server received.
    assert sum(costs.sent.values()) == sum(step.received for step in costs.aggregate.traffic)
    assert sum(costs.received.values()) == sum(step.sent for step in costs.aggregate.traffic)


def test_bytes_of_a_client_are_those_of_the_plan(tiny: Run) -> None:
    curves = {curve.name: curve for curve in find(tiny, "round-1000").curves}
    for graph in ("sparse", "complete"):
        measured = curves[f"secagg, {graph} graph, measured"]
        planned = curves[f"secagg, {graph} graph, planned"]
        assert measured.x == planned.x
        assert measured.y == pytest.approx(planned.y, abs=2)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.slow
def test_memory_case() -> None:
    (result,) = run(["memory"], TINY).cases
    assert not result.failed, result.error
    assert len(result.listings[0].rows) == 3
    assert all(verdict.figure is not None for verdict in result.verdicts)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_peak_is_seen_although_it_is_over() -> None:
    watch = memory.Watch()
    block = np.ones(30_000_000, np.uint8)
    del block
    assert watch.peak() >= 29_000_000
    assert memory.Watch().peak() < 10_000_000


def test_arrays_of_a_result_are_counted_once() -> None:
    plan = hosting.make_plan(5, 100, 1 << 8)
    vectors = {name: works.vector(100, 1.0) for name in plan.roster.names}
    result = secagg.aggregate(plan, vectors)
    assert memory.array_bytes(result) in {800, 1600}


def test_parties_in_another_process() -> None:
    plan = hosting.make_plan(4, 20, 1 << 8)
    names = list(plan.roster.names)
    hub = hosting.make_party(plan, hosting.SERVER)
    hub.start()
    with hosting.Host(plan, names) as host:
        for name in names:
            ((to, data),) = host.start(name)
            assert to == "server"
            hub.receive(data, sender=name)
        for step in range(3):
            for event in hub.close_step():
                answers = host.receive(event.to, "server", event.data)
                if step == 1:
                    answers = host.submit(event.to)
                for _, data in answers:
                    hub.receive(data, sender=event.to)
        (done,) = [event for event in hub.close_step() if isinstance(event, secagg.Done)]
    assert done.aggregate is not None
    expected = 4 * works.vector(20, 1.0).astype(np.float64)
    np.testing.assert_allclose(done.aggregate.sum, expected, atol=4 / 256)


def test_a_host_that_fails_is_not_waited_for() -> None:
    plan = hosting.make_plan(4, 20, 1 << 8)
    with pytest.raises(RuntimeError, match="ended"), hosting.Host(plan, ["site-0"]) as host:
        host.start("site-1")


@pytest.mark.slow
def test_cold_start(tmp_path: Path) -> None:
    cold.prepare(tmp_path, 5, 100)
    answer = child.call("cold", {"folder": str(tmp_path)})
    assert answer["imports"] > 0
    assert answer["masking"] > 0
    assert (tmp_path / "message").stat().st_size > 100


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"cold ended with 1: FileNotFoundError"):
        child.call("cold", {"folder": str(tmp_path / "nowhere")})


def test_a_child_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "_STATUS", Path("/proc/none"))
    child.main(["memory-client", json.dumps({"clients": 4, "length": 10, "levels": 4})])
    said = capsys.readouterr().out
    assert json.loads(said)["missing"].startswith("this system does not tell")
    echo = [sys.executable, "-c", f"print({said!r})"]
    monkeypatch.setattr(child, "command", lambda word, arguments: echo)
    with pytest.raises(NotHereError, match="peak memory"):
        child.call("memory-client", {})


def test_another_variant_than_the_forced_one_is_not_measured() -> None:
    given = {"scale": "tiny", "runs": 2, "peers": False}
    answer = child.call("case", {"case": "mask-aesni", "given": given}, {"SECAGG_AES": "openssl"})
    assert answer["timings"] == []
    assert answer["verdicts"][0]["reason"] == (
        "SECAGG_AES is openssl, yet the kernel is openssl and not aesni"
    )


def test_openssl_is_asked_in_pieces_of_several_sizes() -> None:
    assert len(works.openssl_limits(1 << 20)) == len(works.OPENSSL_PIECES)
    (small,) = works.openssl_limits(100).values()
    small()
