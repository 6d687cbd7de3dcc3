"""Cases, sheets, and what happens to what is missing or fails."""

from __future__ import annotations

import re
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secagg.bench import catalogue, kernels, machine, peers, works
from secagg.bench.results import Bar, CaseResult
from secagg.bench.sheet import Case, Given, NotHereError, Sheet, perform

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
BAR = Bar(id="one/fast", text="fast", bar=2.0)


def case(run: Callable[[Sheet], None], *bars: Bar) -> Case:
    return Case("one", "One", run, {"full": {"size": 10}, "tiny": {"size": 1}}, bars or (BAR,))


def verdict_of(result: CaseResult) -> Any:
    (verdict,) = result.verdicts
    return verdict


def test_bars_speak_of_full_sizes_only() -> None:
    def run(sheet: Sheet) -> None:
        sheet.compare("one/fast", [6.0] * 7, [2.0] * 7)

    full = verdict_of(perform(case(run), Given(scale="full")))
    assert (full.figure, full.met, full.spread.median) == (3.0, True, 3.0)
    tiny = verdict_of(perform(case(run), Given(scale="tiny")))
    assert (tiny.figure, tiny.met) == (3.0, None)
    # A scale without sizes of its own runs at full size, and counts.
    assert verdict_of(perform(case(run), Given(scale="quick"))).met is True


def test_fewer_than_seven_samples_do_not_count() -> None:
    def run(sheet: Sheet) -> None:
        sheet.compare("one/fast", [6.0] * 6, [2.0] * 6)

    found = verdict_of(perform(case(run), Given()))
    assert (found.met, found.reason) == (None, "6 samples, 7 are needed")


def test_what_is_missing_leaves_out_the_rest_and_keeps_what_was_found() -> None:
    second = Bar(id="one/small", text="small", bar=1.0, sense="at most")

    def run(sheet: Sheet) -> None:
        sheet.judge("one/small", 0.5)
        raise NotHereError("no such instruction")

    result = perform(case(run, BAR, second), Given())
    reasons = {verdict.bar.id: (verdict.met, verdict.reason) for verdict in result.verdicts}
    assert reasons == {"one/fast": (None, "no such instruction"), "one/small": (True, "")}
    assert result.notes == ["left out: no such instruction"]


def test_a_bar_that_was_forgotten_is_not_met() -> None:
    found = verdict_of(perform(case(lambda sheet: None), Given()))
    assert found.met is None
    assert found.reason


def test_a_bar_of_another_case_is_refused() -> None:
    with pytest.raises(KeyError, match="no bar"):
        perform(case(lambda sheet: sheet.judge("other/fast", 1.0)), Given())


def test_a_case_that_fails_is_recorded_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(sheet: Sheet) -> None:
        raise ArithmeticError("the sum is wrong")

    bad = Case("bad", "Bad", fail, {"full": {}}, (Bar(id="bad/fast", text="fast", bar=1.0),))
    good = Case("good", "Good", lambda sheet: sheet.notes.append("here"), {"full": {}})
    monkeypatch.setattr(catalogue, "CASES", {"bad": bad, "good": good})
    run = catalogue.run(["good", "bad"], Given())
    assert [found.id for found in run.cases] == ["bad", "good"]
    assert (run.cases[0].failed, run.cases[1].failed) == (True, False)
    assert run.cases[0].error == "ArithmeticError: the sum is wrong"
    assert verdict_of(run.cases[0]).met is None
    assert run.cases[1].notes == ["here"]


def test_a_run_is_kept_after_each_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(sheet: Sheet) -> None:
        raise KeyboardInterrupt

    good = Case("good", "Good", lambda sheet: None, {"full": {}})
    late = Case("late", "Late", interrupted, {"full": {}})
    monkeypatch.setattr(catalogue, "CASES", {"good": good, "late": late})
    kept: list[list[str]] = []
    with pytest.raises(KeyboardInterrupt):
        catalogue.run(
            ["good", "late"],
            Given(),
            keep=lambda run: kept.append([case.id for case in run.cases]),
        )
    assert kept == [["good"]]


def mask_sheet(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[CaseResult, list[bool]]:
    """A case of masks with a Flower of 3 s a mask, or 30 s on fresh memory."""
    asked: list[bool] = []

    def flower_masks(length: int, count: int, *, fresh: bool) -> list[float]:
        asked.append(fresh)
        return [30.0 if fresh else 3.0] * count

    monkeypatch.setattr(peers, "installed", peers.PINNED.get)
    monkeypatch.setattr(peers, "flower_masks", flower_masks)
    return perform(catalogue.CASES[name], Given.of("tiny", threads=1, peers=True)), asked


def test_flower_is_judged_as_its_client_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = mask_sheet(monkeypatch, "mask-1m")
    assert asked == [False, True]
    times = {timed.name: timed.spread.median for timed in result.timings}
    ours = times["secagg, one of 4 masks at once"]
    figure = {verdict.bar.id: verdict.figure for verdict in result.verdicts}["mask-1m/flower"]
    assert figure == pytest.approx(3.0 / ours)
    assert times["Flower, one mask, in its client's loop"] == 3.0
    anew = "Flower, one mask, every array mapped anew (MALLOC_MMAP_THRESHOLD_)"
    assert times[anew] == 30.0
    assert times["secagg, a single mask"] > 0
    assert f"ours is {30.0 / ours:.0f} times as fast; that is not judged" in " ".join(result.notes)


def test_the_limit_of_two_threads_is_beside_ours() -> None:
    if machine.cores() < 2:
        pytest.skip("one core only")
    try:
        works.aes_limit(16)
    except NotHereError as missing:
        pytest.skip(str(missing))
    result = perform(catalogue.CASES["mask-threads"], Given.of("tiny", threads=2, peers=False))
    assert len(result.timings) == 4
    assert re.search(r"the register-only loop scales by \d+\.\d\dx", " ".join(result.notes))


def test_an_unknown_case() -> None:
    with pytest.raises(KeyError, match="nothing"):
        catalogue.run(["mask-1m", "nothing"], Given())


def test_the_catalogue_is_consistent() -> None:
    assert len({bar.id for bar in catalogue.BARS}) == len(catalogue.BARS)
    for name, one in catalogue.CASES.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert {"full", "tiny"} <= set(one.sizes)
        for bar in one.bars:
            assert bar.case == name
            assert not bar.peer or bar.peer in peers.PINNED


#: Every line that is judged, with its bar.
ASKED = {
    "mask-1m/aes-limit": 0.75,
    "mask-1m/flower": 150,
    "mask-threads/one-thread": 1.8,
    "mask-aesni/openssl": 0.85,
    "mask-openssl/flower": 40,
    "unpack-20/copy": 0.5,
    "quantise-1m/flower": 15,
    "noise-gaussian/opendp-2": 2000,
    "noise-gaussian/opendp-100": 2000,
    "noise-skellam/numpy-2": 10,
    "noise-skellam/numpy-100": 10,
    "paillier-encrypt/phe": 12_000,
    "paillier-encrypt/phe-proved": 4000,
    "paillier-encrypt/bytes": 1.05,
    "paillier-gmp/phe": 1500,
    "paillier-add/phe": 200,
    "paillier-decrypt/phe": 350,
    "paillier-share/power": 6,
    "paillier-share/whole": 6,
    "shamir/split": 300,
    "shamir/recover": 300,
    "round-100/flower": 80,
    "round-100/composition": 0.15,
    "memory/client": 64,
    "memory/server-receiving": 64,
    "memory/server-opening": 64,
    "cold-start/seconds": 1,
    "round-1000/finishes": 1,
    "round-1000/growth": 0.5,
}


def test_every_bar_that_was_asked_for_is_there() -> None:
    assert {bar.id: bar.bar for bar in catalogue.BARS} == ASKED


def test_pins_of_the_extra_are_those_of_the_code() -> None:
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    pins = dict(name.split("==") for name in extras["bench"] if "==" in name)
    assert pins == peers.PINNED
    # The environment of developers and of continuous integration does without them.
    assert not [name for name in extras["dev"] if name.startswith(("secagg[bench", *pins))]


def test_peers_that_are_switched_off_or_of_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    off = peers.left_out(Given(peers=False))
    assert set(off) == set(peers.PINNED)
    assert all("--no-peers" in reason for reason in off.values())
    monkeypatch.setattr(peers, "installed", lambda package: "0.0.1")
    assert "0.0.1 is installed" in peers.left_out(Given())["flwr"]
    with pytest.raises(NotHereError, match="figures compare with"):
        peers.need(Given(), "flwr")
    monkeypatch.setattr(peers, "installed", lambda package: None)
    assert peers.INSTALL in peers.left_out(Given())["declearn"]
    monkeypatch.setattr(peers, "installed", {**peers.PINNED, "gmpy2": "2.2.1"}.get)
    assert peers.left_out(Given()) == {}
    peers.need(Given(), "flwr")


def test_a_variant_that_was_not_forced_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    import secagg_native

    monkeypatch.setattr(secagg_native, "variant", lambda: "vaes512")
    monkeypatch.setenv(kernels.FORCE, "aesni")
    result = perform(catalogue.CASES["mask-aesni"], Given.of("tiny", threads=1, peers=False))
    assert result.timings == []
    assert "vaes512" in verdict_of(result).reason


def test_machine_names_neither_host_nor_folder() -> None:
    where = machine.describe()
    shown = str(where)
    assert where.cpu
    assert where.cores >= 1
    assert "/" not in shown.replace("%", "")
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", shown)


def test_data_of_works() -> None:
    x = works.vector(5000, 3.0)
    assert x.dtype == "float32"
    assert -3.0 <= x.min() < -2.9
    assert 2.9 < x.max() <= 3.0
    assert abs(x.mean()) < 0.2
    assert len(set(works.secrets(20))) == 20
    assert {len(secret) for secret in works.secrets(3)} == {32}
    keys, nonces, signs = works.mask_keys(6)
    assert len({bytes(key) for key in keys}) == 6
    assert nonces.shape == (6, 8)
    assert signs.tolist() == [1, -1, 1, -1, 1, -1]
