"""``secagg dp account``: of plans, of noise as typed, of a site's ledger."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from dp.ledger_world import noisy_plan, spent, tag
from typer.testing import CliRunner, Result

import secagg
from secagg.attacks.arena.world import make_plan
from secagg.cli import dp_view
from secagg.cli.app import app
from secagg.dp import accounting, mechanisms, plots
from secagg.dp.calibration import calibrate
from secagg.dp.ledger import Ledger
from secagg.dp.plan_noise import mechanism_of
from secagg_protocols.journal import FileJournal
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.stages import Integers, Noise

DELTA = 1e-5


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["dp", "account", *map(str, words)], env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def refused(*words: object, code: int = 2) -> str:
    done = run(*words, code=code)
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def told(*words: object, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code).stdout)


def made(rounds: int = 12, **asked: Any) -> secagg.Plan:
    given: dict[str, Any] = {"epsilon": 2.0, "delta": DELTA, "adjacency": "zero-out"}
    plan = make_plan(stages=(Integers(0, 9),), sites_receive="sampling_rate" not in asked)
    return calibrate(plan, rounds=rounds, l2_clip=None, **(given | asked))


def write(path: Path, plan: secagg.Plan) -> Path:
    path.write_text(dump_plan(plan))
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write(tmp_path / "first.toml", made())


def test_a_plan_over_its_rounds(plan: Path) -> None:
    data = told(plan)
    assert set(data) == {
        "delta", "adjacency", "rows", "together", "mechanisms", "notes", "plot",
    }  # fmt: skip
    assert (data["delta"], data["adjacency"], data["together"]) == (DELTA, "zero-out", None)
    assert [row["rounds"] for row in data["rows"]] == [1, 2, 5, 10, 12]
    mechanism = mechanism_of(made())
    for row in data["rows"]:
        found = accounting.epsilon(mechanism, delta=DELTA, rounds=row["rounds"])
        assert row["epsilon"] == found
        assert row["claimed"] == (2.0 if row["rounds"] == 12 else None)
    assert data["rows"][-1]["epsilon"] <= 2.0
    (one,) = data["mechanisms"]
    assert one["mechanism"] == "DiscreteGaussianSum"
    assert one["shares"] == 5
    shown = run(plan).stdout
    assert all(f"{row['epsilon']:.6g}" in shown for row in data["rows"])


def test_rounds_and_delta_as_asked(plan: Path) -> None:
    data = told(plan, "--rounds", "3", "--rounds", "40", "--delta", "1e-7")
    mechanism = mechanism_of(made())
    assert [(row["rounds"], row["epsilon"]) for row in data["rows"]] == [
        (n, accounting.epsilon(mechanism, delta=1e-7, rounds=n)) for n in (3, 40)
    ]
    assert [row["claimed"] for row in data["rows"]] == [None, None]


def test_another_adjacency_counts_twice(plan: Path) -> None:
    (row,) = told(plan, "--rounds", "12", "--adjacency", "replace-one")["rows"]
    assert 2.5 < row["epsilon"] < 6
    # The plan claims nothing under this one.
    assert row["claimed"] is None


def test_sampling_counts_for_whom_the_plan_names(tmp_path: Path) -> None:
    sampled = made(rounds=20, sampling_rate=0.2, adversary="model-consumer")
    path = write(tmp_path / "sampled.toml", sampled)
    (row,) = told(path, "--rounds", "20")["rows"]
    assert 1.9 < row["epsilon"] <= 2.0
    # Under replace-one every site counts as drawn.
    (row,) = told(path, "--rounds", "20", "--adjacency", "replace-one")["rows"]
    assert row["epsilon"] > 4
    # And where plans are composed, which each row by itself does not suffer from.
    data = told(path, path)
    assert data["rows"][0]["epsilon"] <= 2.0
    assert data["together"] > 4
    assert "sampling is not counted" in data["notes"][0]
    assert "sampling is not counted" in run(path, path).stdout


def test_plans_together(plan: Path, tmp_path: Path) -> None:
    other = made(rounds=3, epsilon=1.0, mechanism="skellam")
    second = write(tmp_path / "second.toml", other)
    data = told(plan, second)
    runs = [(mechanism_of(made()), 12), (mechanism_of(other), 3)]
    assert data["together"] == accounting.compose(runs, delta=DELTA)
    assert [row["rounds"] for row in data["rows"]] == [12, 3]
    alone = [row["epsilon"] for row in data["rows"]]
    assert max(alone) < data["together"] < sum(alone)
    data = told(plan, second, "--rounds", "1", "--rounds", "2")
    runs = [(runs[0][0], 1), (runs[1][0], 2)]
    assert data["together"] == accounting.compose(runs, delta=DELTA)
    assert f"{data['together']:.6g}" in run(plan, second, "--rounds", "1", "--rounds", "2").stdout
    assert "one for each of 2 plans" in refused(plan, second, "--rounds", "1")


def test_plans_that_do_not_add_up(plan: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.toml", made(adjacency="replace-one"))
    assert "several adjacencies" in refused(plan, other)
    assert told(plan, other, "--adjacency", "replace-one")["together"] > 2
    loose = write(tmp_path / "loose.toml", made(delta=1e-4))
    assert "--delta is needed" in refused(plan, loose)
    assert told(plan, loose, "--delta", "1e-4")["together"] > 2


def test_a_claim_that_does_not_hold_is_exit_code_4(tmp_path: Path) -> None:
    plan = made()
    noise = plan.stages[-1]
    assert isinstance(noise, Noise)
    less = dataclasses.replace(noise, variance_levels2=noise.variance_levels2 // 2)
    path = write(tmp_path / "a.toml", dataclasses.replace(plan, stages=(plan.stages[0], less)))
    done = run(path, code=4)
    assert "the plan claims epsilon 2, its noise gives" in done.stderr
    assert "2.9" in done.stdout
    # Nothing is claimed of fewer rounds.
    run(path, "--rounds", "2")


def test_a_plan_that_claims_little(tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.toml", make_plan(stages=(Integers(0, 9),)))
    assert "the plan has no noise; secagg dp calibrate" in refused(bare)
    path = write(tmp_path / "quiet.toml", dataclasses.replace(made(), privacy=None))
    assert "dp-adjacency" in refused(path, code=3)
    assert "--delta is needed" in refused(path, "--adjacency", "zero-out")
    data = told(path, "--adjacency", "zero-out", "--delta", "1e-5")
    assert [row["rounds"] for row in data["rows"]] == [1]
    # A claim of the wrong kind is no claim.
    odd = dataclasses.replace(
        made(), privacy=(("adjacency", "zero-out"), ("delta", "small"), ("rounds", "many"))
    )
    path = write(tmp_path / "odd.toml", odd)
    assert told(path, "--delta", "1e-5")["rows"][0]["rounds"] == 1


# Noise as typed.

GAUSSIAN = ("--mechanism", "discrete-gaussian", "--sensitivity", "30", "--delta", "1e-5")


@pytest.mark.parametrize(
    ("words", "mechanism"),
    [
        (
            ("discrete-gaussian", "--variance", "100", "--shares", "9", "--length", "50"),
            mechanisms.DiscreteGaussianSum(
                local_variance_levels2=100, shares=9, l2_levels=20.0, dimension=50
            ),
        ),
        (
            ("discrete-gaussian", "--sigma", "30"),
            mechanisms.DiscreteGaussianSum(
                local_variance_levels2=900, shares=1, l2_levels=20.0, dimension=1
            ),
        ),
        (
            ("discrete-gaussian", "--sigma", "22.360679774997898"),
            mechanisms.DiscreteGaussianSum(
                local_variance_levels2=500, shares=1, l2_levels=20.0, dimension=1
            ),
        ),
        (
            ("skellam", "--variance", "400", "--shares", "3", "--length", "9"),
            mechanisms.SkellamSum(
                local_variance_levels2=400, shares=3, l1_levels=60.0, l2_levels=20.0, dimension=9
            ),
        ),
        (
            ("skellam", "--variance", "900", "--length", "9", "--l1", "33"),
            mechanisms.SkellamSum(
                local_variance_levels2=900, shares=1, l1_levels=33.0, l2_levels=20.0, dimension=9
            ),
        ),
        (
            ("discrete-laplace", "--scale", "12"),
            mechanisms.DiscreteLaplaceSum(scale_levels=12, l1_levels=20.0, dimension=1),
        ),
        (
            ("central-discrete-gaussian", "--variance", "1600"),
            mechanisms.CentralDiscreteGaussian(variance_levels2=1600, l2_levels=20.0, dimension=1),
        ),
    ],
    ids=str,
)
def test_noise_as_typed(words: tuple[str, ...], mechanism: mechanisms.Mechanism) -> None:
    data = told("--mechanism", *words, "--sensitivity", "20", "--delta", "1e-5", "--rounds", "2")
    (row,) = data["rows"]
    assert row["epsilon"] == accounting.epsilon(mechanism, delta=DELTA, rounds=2)
    assert data["mechanisms"][0] == {
        "name": words[0],
        "sampling_rate": 1.0,
        "mechanism": type(mechanism).__name__,
        **dataclasses.asdict(mechanism),
    }
    central = "hides nothing from the server" in " ".join(data["notes"])
    assert central == (words[0] == "central-discrete-gaussian")


def test_noise_as_typed_is_a_gaussian() -> None:
    # Against an accountant of others.
    import dp_accounting

    (row,) = told(*GAUSSIAN, "--sigma", "60", "--length", "1000")["rows"]
    assert row["epsilon"] == pytest.approx(dp_accounting.get_epsilon_gaussian(2.0, DELTA), rel=1e-3)
    (sampled,) = told(*GAUSSIAN, "--sigma", "60", "--sampling-rate", "0.1")["rows"]
    assert sampled["epsilon"] < row["epsilon"] / 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give a plan file, --mechanism or --ledger"),
        (("--variance", "4"), "goes with --mechanism"),
        (("--sampling-rate", "0.5"), "goes with --mechanism"),
        (("--site", "a"), "goes with --ledger"),
        (("--epsilon", "2"), "goes with --ledger"),
        (("--mechanism", "gaussian"), "Invalid value for '--mechanism'"),
        (("--mechanism", "skellam", "--variance", "4"), "goes with --sensitivity"),
        (GAUSSIAN, "give one of --variance and --sigma"),
        ((*GAUSSIAN, "--variance", "4", "--sigma", "2"), "give one of --variance and --sigma"),
        ((*GAUSSIAN, "--variance", "0"), "Invalid value for '--variance'"),
        ((*GAUSSIAN, "--variance", "2.5"), "Invalid value for '--variance'"),
        ((*GAUSSIAN, "--sigma", "nan"), "--sigma is a number above 0"),
        ((*GAUSSIAN, "--sigma", "-3"), "--sigma is a number above 0"),
        ((*GAUSSIAN, "--sigma", "0"), "--sigma is a number above 0"),
        ((*GAUSSIAN, "--sigma", "1e300"), "--sigma is a number above 0"),
        ((*GAUSSIAN, "--sigma", "1.1"), "multiply --sigma and --sensitivity by one number"),
        ((*GAUSSIAN, "--sigma", "0.001"), "multiply --sigma and --sensitivity by one number"),
        ((*GAUSSIAN, "--variance", "4", "--sensitivity", "nan"), "--sensitivity is a number above"),
        ((*GAUSSIAN, "--variance", "4", "--sensitivity", "-1"), "--sensitivity is a number above"),
        ((*GAUSSIAN, "--variance", "4", "--sensitivity", "inf"), "--sensitivity is a number above"),
        ((*GAUSSIAN, "--variance", "4", "--delta", "nan"), "--delta is a number above 0"),
        ((*GAUSSIAN, "--variance", "4", "--delta", "-1"), "--delta is a number above 0"),
        ((*GAUSSIAN, "--variance", "4", "--delta", "1"), "--delta is a number above 0"),
        ((*GAUSSIAN, "--variance", "4", "--rounds", "0"), "Invalid value for '--rounds'"),
        ((*GAUSSIAN, "--variance", "4", "--shares", "0"), "Invalid value for '--shares'"),
        ((*GAUSSIAN, "--variance", "4", "--length", "0"), "Invalid value for '--length'"),
        ((*GAUSSIAN, "--variance", "4", "--sampling-rate", "nan"), "--sampling-rate is a number"),
        ((*GAUSSIAN, "--variance", "4", "--sampling-rate", "1.5"), "--sampling-rate is a number"),
        ((*GAUSSIAN, "--variance", "4", "--scale", "4"), "--scale: goes with discrete-laplace"),
        ((*GAUSSIAN, "--variance", "4", "--l1", "4"), "--l1: goes with skellam"),
        ((*GAUSSIAN, "--variance", "4", "--adjacency", "zero-out"), "stands for itself"),
        ((*GAUSSIAN[:4], "--variance", "4"), "--delta is needed"),
        ((*GAUSSIAN, "--mechanism", "discrete-laplace"), "goes with --scale"),
        (
            (*GAUSSIAN, "--mechanism", "discrete-laplace", "--scale", "3", "--variance", "4"),
            "--variance: not with discrete-laplace",
        ),
        (
            (*GAUSSIAN, "--mechanism", "skellam", "--variance", "4", "--l1", "nan"),
            "--l1 is a number above 0",
        ),
        (
            (*GAUSSIAN, "--mechanism", "central-discrete-gaussian", "--variance", "4",
             "--shares", "2"),
            "the server adds this noise once",
        ),
        ((*GAUSSIAN, "--variance", "900", "--plot", "a.pdf"), "a plot is a .png or .svg file"),
        (("absent.toml",), "No such file"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_usage(words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words)


def test_a_plan_or_a_mechanism(plan: Path) -> None:
    assert "stands for itself" in refused(plan, *GAUSSIAN, "--variance", "4")
    assert "goes with --mechanism" in refused(plan, "--shares", "4")


# Plots.


@pytest.mark.parametrize("name", ["epsilon.png", "epsilon.svg"])
def test_a_plot_of_epsilon_over_rounds(plan: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert told(plan, plan, "--plot", path)["plot"] == str(path)
    assert path.stat().st_size > 5000


def test_points_are_the_accountants() -> None:
    one = dp_view.Charged(name="plan", mechanism=mechanism_of(made()))
    two = dp_view.Charged(name="laplace", mechanism=mechanisms.DiscreteLaplaceSum(
        scale_levels=100, l1_levels=4.0, dimension=5))  # fmt: skip
    panel = dp_view.rounds_panel([one, two], [12, 5], DELTA)
    assert [line.name for line in panel.lines] == ["plan", "laplace"]
    assert panel.lines[1].x == (1, 2, 3, 4, 5)
    (axes,) = plots.figure([panel]).axes
    for charged, line, drawn in zip((one, two), panel.lines, axes.lines, strict=True):
        assert line.y == tuple(
            accounting.epsilon(charged.mechanism, delta=DELTA, rounds=int(n)) for n in line.x
        )
        assert all(before < after for before, after in itertools.pairwise(line.y))
        assert list(drawn.get_ydata()) == list(line.y)


def test_round_numbers() -> None:
    assert dp_view.round_numbers(1) == [1]
    assert dp_view.round_numbers(2) == [1, 2]
    assert dp_view.round_numbers(130) == [1, 2, 5, 10, 20, 50, 100, 130]


# A site's ledger.


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Three inputs under one plan and one under another, over the data "scans" of site s0."""
    path = tmp_path / "s0.journal"
    book = Ledger(FileJournal(path), "s0", data="scans", epsilon=9.0, delta=DELTA)
    for number in range(3):
        book.charge(noisy_plan(), tag(number))
    book.charge(noisy_plan(variance=4_000_000), tag(9))
    return path


OWNER = ("--site", "s0", "--data", "scans", "--delta", "1e-5")


def test_a_ledger(journal: Path) -> None:
    data = told("--ledger", journal, *OWNER, "--epsilon", "4")
    assert set(data) == {
        "site", "data", "adjacency", "adversary", "delta", "budget", "spent", "remaining",
        "entries", "rounds_left",
    }  # fmt: skip
    book = Ledger(FileJournal(journal), "s0", data="scans", epsilon=4.0, delta=DELTA)
    assert data["spent"] == book.spent()
    assert data["remaining"] == 4.0 - data["spent"]
    assert sorted((e["local_variance_levels2"], e["rounds"]) for e in data["entries"]) == [
        (4_000_000, 1),
        (16_000_000, 3),
    ]
    shown = run("--ledger", journal, *OWNER, "--epsilon", "4").stdout
    assert f"epsilon {data['spent']:.6g} of 4 spent at delta 1e-05" in " ".join(shown.split())
    assert "local_variance_levels2 16,000,000" in shown


def test_how_many_inputs_are_left(journal: Path, tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.toml", noisy_plan())
    words = ("--ledger", journal, "--site", "s0", "--delta", "1e-5", "--epsilon", "1", plan)
    # The data without a name have spent nothing.
    data = told(*words)
    assert (data["spent"], data["remaining"], data["entries"]) == (0.0, 1.0, [])
    (row,) = data["rounds_left"]
    assert spent(noisy_plan(), row["rounds"]) <= 1.0 < spent(noisy_plan(), row["rounds"] + 1)
    shown = run(*words).stdout
    assert "nothing is charged" in shown
    assert f"{row['rounds']} more inputs can be sent" in " ".join(shown.split())
    fewer = told(*words, "--data", "scans")["rounds_left"][0]["rounds"]
    assert fewer < row["rounds"]


def test_a_ledger_is_only_looked_at(journal: Path) -> None:
    before = journal.read_bytes()
    run("--ledger", journal, *OWNER, "--epsilon", "4")
    assert journal.read_bytes() == before


def test_a_ledger_of_central_noise_is_unbounded_to_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s0.journal"
    plan = noisy_plan(law="central-discrete-gaussian", threat="semi-honest", variance=10**9)
    book = Ledger(
        FileJournal(path), "s0", data="", epsilon=9.0, delta=DELTA, adversary="model-consumer"
    )
    book.charge(plan, tag(0))
    words = ("--ledger", path, "--site", "s0", "--delta", "1e-5", "--epsilon", "9")
    data = told(*words)
    assert (data["spent"], data["remaining"]) == (None, 0.0)
    assert "epsilon unbounded of 9" in run(*words).stdout
    assert 0 < told(*words, "--adversary", "model-consumer")["spent"] < 9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--site", "s0", "--delta", "1e-5"), "--ledger goes with --site, --epsilon and --delta"),
        (("--site", "s0", "--epsilon", "1"), "--ledger goes with --site, --epsilon and --delta"),
        (("--epsilon", "1", "--delta", "1e-5"), "--ledger goes with --site"),
        ((*OWNER, "--epsilon", "nan"), "--epsilon is a number above 0"),
        ((*OWNER, "--epsilon", "-1"), "--epsilon is a number above 0"),
        ((*OWNER, "--epsilon", "1", "--delta", "nan"), "--delta is a number above 0"),
        ((*OWNER, "--epsilon", "1", "--adjacency", "replace-one"), "ledger-adjacency"),
        ((*OWNER, "--epsilon", "1", "--site", ""), "arguments"),
        ((*OWNER, "--epsilon", "1", "--adversary", "nobody"), "Invalid value for '--adversary'"),
        ((*OWNER, "--epsilon", "1", "--rounds", "2"), "--rounds: a ledger is shown as it is"),
        ((*OWNER, "--epsilon", "1", "--mechanism", "skellam"), "a ledger is shown as it is"),
        ((*OWNER, "--epsilon", "1", "--variance", "2"), "a ledger is shown as it is"),
    ],
    ids=str,
)
def test_bad_usage_of_a_ledger(journal: Path, words: tuple[str, ...], said: str) -> None:
    assert said in refused("--ledger", journal, *words)


def test_a_journal_that_is_none(tmp_path: Path) -> None:
    absent = tmp_path / "absent.journal"
    words = (*OWNER, "--epsilon", "1")
    assert "is not a file" in refused("--ledger", absent, *words)
    # Looking for it did not make it.
    assert not absent.exists()
    assert "is not a file" in refused("--ledger", tmp_path, *words)
    (tmp_path / "text").write_text("no journal at all, though of some length")
    assert "journal" in refused("--ledger", tmp_path / "text", *words)
