"""The page and the plots that are made from a run, and the committed ones."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from secagg.bench import catalogue, frameworks, plots, results, text
from secagg.bench.measure import Spread
from secagg.bench.report import FIGURES, page
from secagg.bench.results import Timed
from support.made_bench import made_run

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "benchmarks" / "results" / "reference.json"
DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.8125, "0.812"), (21.25, "21.2"), (999.6, "1,000"), (1234567, "1,234,567"),
     (0.00012345, "0.000123"), (-3.14159, "-3.14")],
)  # fmt: skip
def test_significant(value: float, shown: str) -> None:
    assert text.significant(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(12.345, "12.3 s"), (0.25, "250 ms"), (0.0025, "2.50 ms"), (4e-6, "4.00 µs"),
     (5e-9, "5.00 ns")],
)  # fmt: skip
def test_duration(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_rates_and_ranges() -> None:
    assert text.rate(Timed(name="", seconds=[0.5], amount=1e9, unit="bytes")) == "2.00 GB/s"
    assert text.rate(Timed(name="", seconds=[0.5], amount=100, unit="secrets")) == "200 secrets/s"
    assert text.rate(Timed(name="", seconds=[0.5])) == ""
    assert text.between(Spread(1, 2, 3, 4, 5)) == "2.00 to 4.00 (1.00 to 5.00)"
    assert text.between(None) == ""
    assert text.figure(None, "s") == "-"


def test_a_page_says_what_the_run_says() -> None:
    made = page(made_run(), source="results.json")
    assert "1 met, 1 missed, 1 not measured." in made
    asked, spread = "at least 0.750 (aim 0.850)", "0.790 to 0.830 (0.700 to 0.900)"
    assert f"| as fast as the limit | {asked} | 0.812 | {spread} | met |" in made
    assert "| at least 150 | 21.2 |" in made
    reason = "not measured: RuntimeError: no pipes"
    assert f"| memory of a client | at most 64.0 MiB | - |  | {reason} |" in made
    assert "| left out: declearn | declearn 2.9.1 is not installed |" in made
    assert "It did not finish: RuntimeError: no pipes" in made
    times = "25.0 ms | 22.5 ms to 27.5 ms | 20.0 ms to 30.0 ms | 3 | 16.0 GB/s"
    assert rf"| ours \| fused | {times} |" in made
    assert "| a | b |\n| --- | ---: |\n| x | 1 |" in made
    assert "[results.json](results.json)" in made
    assert "about 13 minutes" in made
    assert f"({FIGURES}/bench-mask-speed.png)" in made
    assert made.endswith("\n")
    assert "\n\n\n" not in made


def test_numbers_of_a_page_come_from_the_run() -> None:
    """Another run gives another page, with none of the first one's figures."""
    first, run = page(made_run(), source="results.json"), made_run()
    case = msgspec.structs.replace(run.cases[0], timings=[], verdicts=[], listings=[])
    second = page(msgspec.structs.replace(run, cases=[case]), source="results.json")
    for figure in ("0.812", "21.2", "16.0 GB/s", "25.0 ms"):
        assert figure in first
        assert figure not in second


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = plots.draw(made_run(), tmp_path / FIGURES)
    assert [path.name for path in written] == [
        "bench-bars.png", "bench-mask-speed.png", "bench-threads.png",
    ]  # fmt: skip
    assert {path.read_bytes()[:8] for path in written} == {b"\x89PNG\r\n\x1a\n"}
    again = plots.draw(made_run(), tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_a_run_without_curves_has_no_plots() -> None:
    run = msgspec.structs.replace(made_run(), cases=[])
    assert plots.named(run) == []
    assert "![" not in page(run, source="results.json")


def test_plots_that_were_not_drawn_are_not_shown() -> None:
    bare = page(made_run(), source="results.json", drawn=())
    assert "![" not in bare
    assert "## Plots" not in bare
    one = page(made_run(), source="results.json", drawn=["threads"])
    assert re.findall(r"\(figures/([^)]+)\)", one) == ["bench-threads.png"]


def test_a_busy_machine_is_named() -> None:
    assert text.busy([1.0, 9.0, 9.0], 2) == ""
    assert text.busy([], 2) == ""
    assert "a load of 1.01 on 2 cores" in text.busy([1.01, 0.0, 0.0], 2)
    assert "a load of 0.6 on 1 core;" in text.busy([0.6, 0.0, 0.0], 1)
    run = made_run()
    assert "Beware" not in page(run, source="results.json")
    busy = msgspec.structs.replace(run.machine, load=[1.5, 0.2, 0.3])
    made = page(msgspec.structs.replace(run, machine=busy), source="results.json")
    assert "\n\nBeware: the machine was busy when the run began: a load of 1.5 on 2 cores" in made


# The committed run.


def test_the_committed_page_is_made_from_the_committed_run() -> None:
    run = results.load(COMMITTED)
    source = "../benchmarks/results/reference.json"
    under = frameworks.section(frameworks.load(COMMITTED.with_name("frameworks.json")))
    shown = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert shown == page(run, source=source, under=under)


def test_the_committed_run_has_every_check() -> None:
    """A bar that was not measured is absent, whatever the reason; one that is missed is there."""
    run = results.load(COMMITTED)
    assert run.scale == "full"
    measured = {verdict.bar.id: verdict for verdict in run.verdicts if verdict.met is not None}
    assert {bar.id for bar in catalogue.BARS} == set(measured)
    assert [verdict.bar for verdict in run.verdicts] == list(catalogue.BARS)
    assert [case.id for case in run.cases] == list(catalogue.CASES)
    assert not run.left_out
    assert not [case.id for case in run.cases if case.error]
    for case in run.cases:
        assert case.sizes == catalogue.CASES[case.id].at("full"), case.id


def test_the_plots_of_the_committed_page_are_there() -> None:
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (DOCS / "performance.md").read_text())
    run = results.load(COMMITTED)
    assert sorted(shown) == sorted(
        f"{FIGURES}/{plots.file_name(name)}" for name in plots.named(run)
    )
    for path in shown:
        assert (DOCS / path).stat().st_size > 1000
