"""``secagg bench``: what it writes, what it prints, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from secagg.bench import catalogue, machine, peers, plots, results
from secagg.bench.sheet import Case, Given, Sheet
from secagg.cli.app import app
from support.made_bench import made_run

MAIN = "from secagg.cli import main; main()"


def cli(*words: str | int | Path) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, words)])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is tiny, whatever is asked for."""

    def of(scale: str, *, threads: int, peers: bool) -> Given:
        return Given(scale="tiny", runs=2, seconds=0.0, threads=threads, peers=peers)

    monkeypatch.setattr(Given, "of", staticmethod(of))
    monkeypatch.setattr(machine, "load", lambda: [0.0, 0.0, 0.0])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved.json"
    path.write_bytes(results.encode(made_run()))
    return path


@pytest.mark.usefixtures("tiny")
def test_a_run_leaves_results_page_and_plots(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    done = cli("--only", "unpack-20", "--only", "thread-scaling", "--no-peers", "--out", out)
    assert done.exit_code == 0, done.output
    run = results.load(out / "results.json")
    assert [case.id for case in run.cases] == ["unpack-20", "thread-scaling"]
    assert (out / "performance.md").read_text().startswith("# Performance\n")
    assert (out / "figures" / "bench-threads.png").exists()
    assert "unpack-20/copy" in done.stdout
    assert "peers are switched off" in " ".join(done.stdout.split())
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("tiny")
def test_json_is_the_run_and_nothing_else(tmp_path: Path) -> None:
    done = cli("--only", "unpack-20", "--no-peers", "--out", tmp_path, "--json")
    assert done.exit_code == 0
    assert results.decode(done.stdout.encode()) == results.load(tmp_path / "results.json")
    assert done.stderr == ""


@pytest.mark.usefixtures("tiny")
def test_peers_that_are_not_installed_are_named_with_the_way_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "installed", lambda package: None)
    done = cli("--only", "quantise-1m", "--out", tmp_path)
    assert done.exit_code == 0
    said = " ".join(done.stdout.split())
    assert "left out, flwr: flwr 1.41.0 is not installed; pip install 'secagg[bench]'" in said
    # What needs no peer was measured all the same.
    assert [timed.name for timed in results.load(tmp_path / "results.json").cases[0].timings]


def test_a_page_from_a_saved_run(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs"
    done = cli("--report", saved, "--out", out)
    # A case of that run had failed, which is not forgotten.
    assert done.exit_code == 1
    assert "1 case failed: memory" in done.stderr
    assert "[../saved.json](../saved.json)" in (out / "performance.md").read_text()
    assert (out / "figures" / "bench-bars.png").exists()
    assert not (out / "results.json").exists()


def without_failure(path: Path) -> None:
    data = json.loads(path.read_bytes())
    data["cases"][1]["failed"] = False
    path.write_text(json.dumps(data))


def test_a_missed_bar_counts_with_check_only(saved: Path, tmp_path: Path) -> None:
    without_failure(saved)
    assert cli("--report", saved, "--out", tmp_path).exit_code == 0
    done = cli("--report", saved, "--out", tmp_path, "--check")
    assert done.exit_code == 4
    assert "missed: mask-1m/flower" in done.stderr


def test_plots_are_left_out_where_matplotlib_is_absent(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_failure(saved)

    def absent(run: object, folder: Path) -> None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(plots, "draw", absent)
    done = cli("--report", saved, "--out", tmp_path)
    assert done.exit_code == 0
    said = "no plots: matplotlib is not installed (pip install 'secagg[demo]')"
    assert said in " ".join(done.stderr.split())
    assert "![" not in (tmp_path / "performance.md").read_text()


def test_an_unknown_case_lists_those_there_are(tmp_path: Path) -> None:
    done = cli("--only", "mask-2m", "--out", tmp_path)
    assert done.exit_code == 2
    assert "no case 'mask-2m'" in done.stderr
    assert all(name in done.stderr for name in catalogue.CASES)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: object, **options: object) -> None:
        pytest.fail("it ran")

    monkeypatch.setattr(catalogue, "run", run)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = cli("--out", blocked)
    assert done.exit_code == 2
    assert done.stderr == f"error: --out {blocked}: not a folder\n"
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        assert cli("--out", closed).exit_code == 2


def test_a_kernel_that_cannot_be_forced_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    # The variant is looked up once in a process, so this takes a fresh one.
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "bench", "--only", "unpack-20", "--out", str(out)],
        env={**os.environ, "SECAGG_AES": "abacus"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: SECAGG_AES must be one of")
    assert not out.exists()


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_a_file_that_is_no_run(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    done = cli("--report", path, "--out", tmp_path / "docs")
    assert done.exit_code == 2
    assert "no result of secagg bench" in done.stderr
    assert not (tmp_path / "docs").exists()


def test_a_file_with_odd_values(saved: Path, tmp_path: Path) -> None:
    data = json.loads(saved.read_bytes())
    data["cases"][0]["timings"][0]["seconds"] = []
    saved.write_text(json.dumps(data))
    done = cli("--report", saved, "--out", tmp_path / "docs")
    assert done.exit_code == 2
    assert "has no samples" in done.stderr
    assert not (tmp_path / "docs").exists()


def test_a_report_into_a_file_is_refused(saved: Path) -> None:
    done = cli("--report", saved, "--out", saved)
    assert done.exit_code == 2
    assert done.stderr == f"error: --out {saved}: not a folder\n"


def test_names_in_brackets_are_printed_as_they_are(saved: Path, tmp_path: Path) -> None:
    data = json.loads(saved.read_bytes())
    one, other = data["cases"][0], data["cases"][1]
    one["title"] = one["timings"][0]["name"] = one["notes"][0] = "[/bold]"
    one["verdicts"][0]["bar"]["id"] = "[/red]x"
    other["verdicts"][0]["reason"] = peers.INSTALL
    other["failed"] = False
    saved.write_text(json.dumps(data))
    done = CliRunner(env={"COLUMNS": "300"}).invoke(
        app, ["bench", "--report", str(saved), "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert "[/red]x" in done.stdout
    assert f"not measured: {peers.INSTALL}" in done.stdout
    assert done.stdout.count("[/bold]") == 2


def test_a_list_prints_titles_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Case("odd", "[/bold]", lambda sheet: None, {"full": {}})
    monkeypatch.setattr(catalogue, "CASES", {"odd": odd})
    done = cli("--list")
    assert done.exit_code == 0, done.output
    assert "[/bold]" in done.stdout


def test_help_names_the_extra() -> None:
    assert "secagg[bench]" in cli("--help").stdout


def cases_that(monkeypatch: pytest.MonkeyPatch, late: Callable[[Sheet], None]) -> None:
    good = Case("good", "Good", lambda sheet: sheet.notes.append("here"), {"full": {}})
    monkeypatch.setattr(
        catalogue, "CASES", {"good": good, "late": Case("late", "Late", late, {"full": {}})}
    )


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("first", [False, True])
def test_an_interrupt_leaves_the_cases_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    def interrupted(sheet: Sheet) -> None:
        raise KeyboardInterrupt

    cases_that(monkeypatch, interrupted)
    done = cli("--out", tmp_path, *(["--only", "late"] if first else []))
    assert done.exit_code == 130
    saved = tmp_path / "results.json"
    if first:
        assert "cut short: nothing was saved" in done.stderr
        assert not saved.exists()
    else:
        assert f"cut short: 1 case saved in {saved}" in done.stderr
        assert [case.id for case in results.load(saved).cases] == ["good"]
    assert not (tmp_path / "performance.md").exists()


@pytest.mark.usefixtures("tiny")
def test_each_case_is_named_as_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases_that(monkeypatch, lambda sheet: None)
    done = cli("--out", tmp_path)
    assert done.exit_code == 0
    assert done.stderr.splitlines()[:2] == ["case 1 of 2: good", "case 2 of 2: late"]


@pytest.mark.usefixtures("tiny")
def test_a_busy_machine_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases_that(monkeypatch, lambda sheet: None)
    monkeypatch.setattr(machine, "load", lambda: [10_000.0, 0.0, 0.0])
    done = cli("--out", tmp_path, "--json")
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: the machine was busy when the run began: a load of 1")
    assert "Beware: the machine was busy" in (tmp_path / "performance.md").read_text()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert cli("--report", tmp_path / "none.json", "--out", tmp_path).exit_code == 2


@pytest.mark.parametrize("option", [["--quick"], ["--only", "shamir"], ["--no-peers"]])
def test_a_report_runs_nothing(saved: Path, tmp_path: Path, option: list[str]) -> None:
    done = cli("--report", saved, "--out", tmp_path, *option)
    assert done.exit_code == 2
    assert "runs nothing" in done.stderr


def test_a_list_of_cases() -> None:
    done = cli("--list")
    assert done.exit_code == 0
    for name, case in catalogue.CASES.items():
        assert name in done.stdout
        assert len(case.title) > 5


def test_threads_are_positive(tmp_path: Path) -> None:
    assert cli("--threads", "0", "--out", tmp_path).exit_code == 2


def test_threads_beyond_the_cores_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli("--threads", machine.cores() + 1, "--out", out)
    assert done.exit_code == 2
    assert f"error: --threads {machine.cores() + 1}: there " in done.stderr
    assert not out.exists()
