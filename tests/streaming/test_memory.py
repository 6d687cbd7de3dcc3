"""Peak memory of site and server, each phase in a process of its own, against the bars.

A site: its vector and its packed input. A server while it receives: its accumulator and one
message, whatever the number of sites; when it opens the sum: the result besides, and one packed
sum where sites receive it. Each bar has 64 MiB for everything else at 100 million coordinates;
here, at 4 million, it has 4 MiB, and every array that could be copied has 9.5 MiB or more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("peak.py")
ALLOWANCE = 4 << 20
#: Phase -> (growth, what the bar has for the arrays), in bytes.
Figures = dict[str, tuple[int, int]]


def run(role: str, *options: object) -> Figures:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), role, *map(str, options)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (growth, arrays) for name, growth, arrays in rows}


def over(figures: Figures, phase: str) -> int:
    growth, arrays = figures[phase]
    # A growth far below the arrays would mean that the wrong thing was measured.
    assert growth > 0.9 * arrays, (phase, growth, arrays)
    return growth - arrays


def test_a_site_needs_its_vector_and_its_message() -> None:
    assert over(run("client", "--early"), "client") < ALLOWANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--clip", "l2"),
        ("--clip", "l2", "--early"),
        ("--weight", 3),
        ("--weight", 3, "--early"),
        ("--dtype", "float64", "--early"),
    ],
)
def test_a_site_needs_no_more_whatever_its_pipeline(options: tuple[object, ...]) -> None:
    assert over(run("client", *options), "client") < ALLOWANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "options"),
    [("copied_input", ["--early"]), ("copied_frame", []), ("copied_frame", ["--early"])],
)
def test_one_copy_at_a_site_would_be_seen(plant: str, options: list[str]) -> None:
    assert over(run("client", "--plant", plant, *options), "client") > ALLOWANCE


Recorded = Callable[..., list[object]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Options with which a recorded round is replayed; each round is recorded once."""
    rounds: dict[tuple[object, ...], list[object]] = {}

    def record(*options: object) -> list[object]:
        if options not in rounds:
            folder = tmp_path_factory.mktemp("round")
            rounds[options] = ["--folder", folder, *options]
            run("record", *rounds[options])
        return rounds[options]

    return record


@pytest.mark.slow
def test_a_server_needs_its_accumulator_and_one_message_whatever_the_number_of_sites(
    recorded: Recorded,
) -> None:
    few = run("server", *recorded("--sites", 3))
    many = run("server", *recorded("--sites", 12))
    for figures in (few, many):
        assert over(figures, "receiving") < ALLOWANCE
        assert over(figures, "opening") < ALLOWANCE
    assert abs(few["receiving"][0] - many["receiving"][0]) < ALLOWANCE


@pytest.mark.slow
def test_sites_that_receive_the_sum_share_one_copy_of_it(recorded: Recorded) -> None:
    for sites in (3, 12):
        options = recorded("--sites", sites, "--sites-receive")
        figures = run("server", *options)
        for phase in ("receiving", "opening", "sending"):
            assert over(figures, phase) < ALLOWANCE, (sites, phase)
        assert over(run("result", *options), "result") < ALLOWANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "role", "phase"),
    [
        ("copied_message", "server", "receiving"),
        ("kept_messages", "server", "receiving"),
        ("copied_sum", "server", "opening"),
        ("whole_results", "server", "opening"),
        ("copied_message", "result", "result"),
        ("copied_result", "result", "result"),
    ],
)
def test_one_copy_at_the_server_or_of_the_result_would_be_seen(
    plant: str, role: str, phase: str, recorded: Recorded
) -> None:
    options = recorded("--sites", 3, "--sites-receive")
    assert over(run(role, "--plant", plant, *options), phase) > ALLOWANCE
