"""``secagg dp calibrate``: what it writes, prints, draws and refuses."""

from __future__ import annotations

import builtins
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import secagg
from secagg.attacks.arena.world import make_plan
from secagg.cli import dp_view
from secagg.cli.app import app
from secagg.cli.plan import placeholder_roster
from secagg.dp import accounting, plots
from secagg.dp.calibration import calibrate
from secagg.dp.plan_noise import mechanism_of
from secagg.dp.report import noise_reasons, promise
from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.plan_file import dump_plan, load_plan
from secagg_protocols.stages import AdaptiveClip, ClipL2, Integers, Quantise

MAIN = "from secagg.cli import main; main()"
TARGET = ("--epsilon", "2", "--delta", "1e-5", "--rounds", "4")
ZERO_OUT = ("--adjacency", "zero-out")
WHAT_IF = ("-n", "20", "--length", "50", "--max-dropouts", "2", "--colluding", "2")
PNG, SVG = b"\x89PNG\r\n", b"<?xml"


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["dp", *map(str, words)], env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def refused(*words: object, code: int) -> str:
    """The one line on stderr; nothing is on stdout."""
    done = run(*words, code=code)
    assert done.stdout == ""
    return " ".join(done.stderr.split())


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    # Where sites receive the sum, sampling is refused.
    made = make_plan(
        9,
        length=40,
        stages=(ClipL2(1.5), Quantise(4096)),
        max_dropouts=2,
        sites_receive=False,
    )
    path.write_text(dump_plan(made))
    return path


def calibrated(plan: Path, *more: object, code: int = 0) -> Result:
    return run("calibrate", plan, *TARGET, "--clip", "1.5", *ZERO_OUT, *more, code=code)


def test_help() -> None:
    assert all(name in run("--help").stdout for name in ("calibrate", "account", "audit"))
    for name in ("calibrate", "account", "audit"):
        text = run(name, "--help").stdout
        assert "Usage" in text
        assert "Exit codes" in text


def test_the_plan_that_is_written_is_the_one_that_is_told(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "noisy.toml"
    done = calibrated(plan, "--out", out)
    made = load_plan(out.read_text())
    assert f"Plan written to {out}; digest {made.digest.hex()}" in done.stdout.replace("\n", "")
    # The command adds nothing to what the library makes.
    assert made == calibrate(
        load_plan(plan.read_text()),
        epsilon=2.0,
        delta=1e-5,
        rounds=4,
        l2_clip=1.5,
        adjacency="zero-out",
    )
    found = accounting.epsilon(mechanism_of(made), delta=1e-5, rounds=4)
    assert 1.98 < found <= 2.0
    said = " ".join(done.stdout.split())
    told = promise(made)
    assert f"{told.epsilon_found:.6f} (at most 2)" in said
    assert f"{told.noise_levels:,.1f} levels" in said
    assert f"{told.noise_units:.4g}" in said
    assert f"{made.wire_bits} (before: {load_plan(plan.read_text()).wire_bits})" in said
    for line in noise_reasons(made):
        assert " ".join(line.split()) in said


def test_over_provisioning_stands_beside_its_alternatives(plan: Path) -> None:
    rows = calibrated(plan).stdout.splitlines()
    # Nine sites, two of which may be missing and one colludes.
    for way, full, worst in (
        ("this plan", 9 / 6, 1.0),
        ("XNoise", 9 / 8, 1.0),
        ("no guarantee", 1.0, 6 / 9),
    ):
        assert any(way in row and f"{full:.3f}" in row and f"{worst:.3f}" in row for row in rows)


def test_json_has_every_number_and_nothing_else(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "noisy.toml"
    done = calibrated(plan, "--json", "--out", out)
    assert done.stderr == ""
    data = json.loads(done.stdout)
    made = load_plan(out.read_text())
    assert set(data) == {
        "adjacency", "adversary", "mechanism", "epsilon", "delta", "rounds", "sampling_rate",
        "epsilon_found", "shares", "l1_levels", "l2_levels", "noise_levels", "noise_units",
        "wrap_probability", "sampler_delta", "bits", "digest", "placeholder_keys", "clients",
        "max_dropouts", "colluding", "length", "levels", "local_variance_levels2",
        "scale_levels", "noise_units_mean", "bits_before", "coordinates_before", "coordinates",
        "provision", "stages", "why", "assumes", "out", "plot",
    }  # fmt: skip
    told = promise(made)
    assert data["digest"] == made.digest.hex()
    assert data["epsilon_found"] == told.epsilon_found
    assert data["l2_levels"] == told.l2_levels
    assert data["noise_units_mean"] == pytest.approx(told.noise_units / 9)
    assert data["levels"] == made.stages[2].levels  # type: ignore[attr-defined]
    assert data["local_variance_levels2"] == made.stages[3].variance_levels2  # type: ignore[attr-defined]
    assert data["scale_levels"] is None
    assert (data["coordinates_before"], data["coordinates"]) == (40, 64)
    assert [stage["name"] for stage in data["stages"]] == ["ClipL2", "Rotate", "Quantise", "Noise"]
    assert data["provision"]["over_provisioned"] == pytest.approx(9 / 6)
    assert data["placeholder_keys"] is False
    assert (data["out"], data["plot"]) == (str(out), None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--mechanism", "skellam"), {"mechanism": "skellam"}),
        (("--bits", "16"), {"bits": 16}),
        (("--wrap-bits", "60"), {"wrap_probability": 2.0**-60}),
        (
            ("--sampling-rate", "0.5", "--adversary", "model-consumer"),
            {"sampling_rate": 0.5, "adversary": "model-consumer"},
        ),
        (("--adversary", "model-consumer"), {"sampling_rate": 1.0, "adversary": "model-consumer"}),
    ],
    ids=str,
)
def test_options_reach_the_calibration(
    plan: Path, words: tuple[str, ...], expected: dict[str, Any]
) -> None:
    data = json.loads(calibrated(plan, *words, "--json").stdout)
    assert {name: data[name] for name in expected} == expected
    assert data["epsilon_found"] <= 2.0


def test_replace_one_takes_twice_the_noise(plan: Path) -> None:
    once = json.loads(calibrated(plan, "--json").stdout)
    words = ("calibrate", plan, *TARGET, "--clip", "1.5", "--adjacency", "replace-one", "--json")
    twice = json.loads(run(*words).stdout)
    assert twice["noise_units"] == pytest.approx(2 * once["noise_units"], rel=0.02)


def test_what_if_without_a_plan(tmp_path: Path) -> None:
    out = tmp_path / "noisy.toml"
    words = ("calibrate", *WHAT_IF, *TARGET, *ZERO_OUT, "--clip", "1")
    assert "Placeholder keys" in run(*words, "--out", out).stdout
    made = load_plan(out.read_text())
    assert out.read_text().startswith("# Placeholder keys")
    assert (made.clients, made.length, made.max_dropouts, made.colluding) == (20, 50, 2, 2)
    assert json.loads(run(*words, "--json").stdout)["digest"] == made.digest.hex()


def test_what_if_with_counts_weights_and_central_noise() -> None:
    words = ("calibrate", *WHAT_IF, *TARGET, *ZERO_OUT, "--json")
    counts = ("--integers", "0", "12", "--mechanism", "discrete-laplace")
    data = json.loads(run(*words, *counts).stdout)
    assert data["l1_levels"] == 50 * 12
    assert data["levels"] is data["local_variance_levels2"] is None
    assert data["scale_levels"] > 0
    weighted = json.loads(run(*words, "--clip", "1", "--max-weight", "5").stdout)
    assert weighted["coordinates"] == 64 + 1
    central = ("--mechanism", "central-discrete-gaussian", "--adversary", "model-consumer")
    data = json.loads(run(*words, "--clip", "1", *central).stdout)
    assert data["provision"] is None
    assert data["shares"] == 1
    shown = run(*words[:-1], "--clip", "1", *central).stdout
    assert "variance of the server's noise" in shown
    assert "XNoise" not in shown
    shown = run(*words[:-1], *counts).stdout
    assert "scale of the summed noise" in shown


def test_an_adaptive_clip_takes_no_clip(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(dump_plan(make_plan(9, stages=(AdaptiveClip(clip=1.0), Quantise(1024)))))
    data = json.loads(run("calibrate", path, *TARGET, *ZERO_OUT, "--json").stdout)
    assert data["stages"][0]["name"] == "AdaptiveClip"
    assert "dp-clip" in refused("calibrate", path, *TARGET, *ZERO_OUT, "--clip", "1", code=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epsilon", "nan"), "--epsilon is a number above 0"),
        (("--epsilon", "-1"), "--epsilon is a number above 0"),
        (("--epsilon", "0"), "--epsilon is a number above 0"),
        (("--epsilon", "inf"), "--epsilon is a number above 0"),
        (("--epsilon", "many"), "Invalid value for '--epsilon'"),
        (("--delta", "nan"), "--delta is a number above 0 and below 1"),
        (("--delta", "0"), "--delta is a number above 0 and below 1"),
        (("--delta", "1"), "--delta is a number above 0 and below 1"),
        (("--delta", "-1e-5"), "--delta is a number above 0 and below 1"),
        (("--rounds", "0"), "Invalid value for '--rounds'"),
        (("--rounds", "1.5"), "Invalid value for '--rounds'"),
        (("--clip", "nan"), "--clip is a number above 0"),
        (("--clip", "-2"), "--clip is a number above 0"),
        (("--clip", "inf"), "--clip is a number above 0"),
        (("--sampling-rate", "nan"), "--sampling-rate is a number above 0"),
        (("--sampling-rate", "0"), "--sampling-rate is a number above 0"),
        (("--sampling-rate", "1.01"), "--sampling-rate is a number above 0"),
        (("--adjacency", "add-remove"), "Invalid value for '--adjacency'"),
        (("--adversary", "nobody"), "Invalid value for '--adversary'"),
        (("--mechanism", "gaussian"), "Invalid value for '--mechanism'"),
        (("--bits", "0"), "Invalid value for '--bits'"),
        (("--bits", "65"), "Invalid value for '--bits'"),
        (("--wrap-bits", "9"), "Invalid value for '--wrap-bits'"),
        (("--clients", "5"), "a plan says this itself"),
        (("--length", "5"), "a plan says this itself"),
        (("--max-dropouts", "0"), "a plan says this itself"),
        (("--colluding", "0"), "a plan says this itself"),
        (("--integers", "0", "3"), "a plan says this itself"),
        (("--max-weight", "3"), "a plan says this itself"),
        (("--threat", "semi-honest"), "a plan says this itself"),
        (("--plot", "noise.pdf"), "a plot is a .png or .svg file"),
        (("--plot", "absent/noise.png"), "cannot be written"),
    ],
    ids=str,
)
def test_bad_usage(plan: Path, words: tuple[str, ...], said: str) -> None:
    given = ["calibrate", plan, *TARGET, "--clip", "1.5", *ZERO_OUT, *words]
    assert said in refused(*given, code=2)


@pytest.mark.parametrize("missing", ["--epsilon", "--delta", "--rounds", "--adjacency"])
def test_nothing_that_decides_privacy_has_a_default(plan: Path, missing: str) -> None:
    words = [*TARGET, "--clip", "1.5", *ZERO_OUT]
    at = words.index(missing)
    del words[at : at + 2]
    assert missing in refused("calibrate", plan, *words, code=2)


@pytest.mark.parametrize(
    "words",
    [
        ("--clip", "1"),
        ("-n", "20", "--clip", "1"),
        ("--length", "20", "--clip", "1"),
        ("-n", "20", "--length", "5"),
        ("-n", "20", "--length", "5", "--clip", "1", "--integers", "0", "1"),
        ("-n", "1", "--length", "5", "--clip", "1"),
        ("-n", "20", "--length", "0", "--clip", "1"),
        ("-n", "20", "--length", "5", "--clip", "1", "--max-dropouts", "-1"),
        ("-n", "20", "--length", "5", "--clip", "1", "--colluding", "-1"),
        ("-n", "20", "--length", "5", "--clip", "1", "--max-weight", "0"),
        ("-n", "20", "--length", "5", "--integers", "3", "1"),
    ],
    ids=str,
)
def test_a_what_if_needs_its_numbers(words: tuple[str, ...]) -> None:
    refused("calibrate", *TARGET, *ZERO_OUT, *words, code=2)


def test_what_no_plan_keeps(plan: Path) -> None:
    said = refused("calibrate", plan, *TARGET, "--clip", "1.5", *ZERO_OUT, "--bits", "3", code=3)
    assert "3 bits a coordinate cannot hold" in said
    need = int(said.partition("at least ")[2].split()[0])
    # The number is true: with it there is a plan, with one less there is none.
    assert json.loads(calibrated(plan, "--bits", need, "--json").stdout)["bits"] == need
    refused("calibrate", plan, *TARGET, "--clip", "1.5", *ZERO_OUT, "--bits", need - 1, code=3)
    sampled = ("--sampling-rate", "0.1")
    said = refused("calibrate", plan, *TARGET, "--clip", "1.5", *ZERO_OUT, *sampled, code=3)
    assert "the server sees who takes part" in said
    central = ("--mechanism", "central-discrete-gaussian")
    refused("calibrate", plan, *TARGET, "--clip", "1.5", *ZERO_OUT, *central, code=3)
    # Everybody may be missing or collude.
    few = ("-n", "6", "--length", "5", "--clip", "1", "--max-dropouts", "3", "--colluding", "3")
    assert "hint" in refused("calibrate", *TARGET, *ZERO_OUT, *few, code=3)


def test_files_that_are_no_plan(tmp_path: Path, plan: Path) -> None:
    rest = (*TARGET, "--clip", "1", *ZERO_OUT)
    assert "No such file" in refused("calibrate", tmp_path / "absent.toml", *rest, code=2)
    (tmp_path / "text.toml").write_text("length = 'no'")
    refused("calibrate", tmp_path / "text.toml", *rest, code=2)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refused("calibrate", tmp_path / "bytes.toml", *rest, code=2)
    refused("calibrate", tmp_path, *rest, code=2)


def test_nothing_is_overwritten_or_left_behind(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan.read_text()
    rest = (*TARGET, "--clip", "1", *ZERO_OUT)
    assert "not overwritten" in refused("calibrate", plan, *rest, "--out", plan, code=2)
    assert plan.read_text() == before
    refused("calibrate", plan, *rest, "--out", tmp_path / "absent" / "noisy.toml", code=2)
    out = tmp_path / "noisy.toml"
    refused("calibrate", plan, *rest, "--bits", "3", "--out", out, code=3)
    refused("calibrate", plan, *rest, "--out", out, "--plot", tmp_path / "a.txt", code=2)
    assert not out.exists()


def without_module(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As where a package is not installed."""
    real = builtins.__import__

    def absent(wanted: str, *args: Any, **options: Any) -> Any:
        if wanted.partition(".")[0] == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(wanted, *args, **options)

    for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(builtins, "__import__", absent)


def test_without_matplotlib_there_is_no_plot_and_no_plan(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_module(monkeypatch, "matplotlib")
    out = tmp_path / "noisy.toml"
    words = ("calibrate", plan, *TARGET, "--clip", "1", *ZERO_OUT, "--out", out)
    said = refused(*words, "--plot", tmp_path / "a.png", code=2)
    assert "this command needs matplotlib; install it with: pip install 'secagg[demo]'" in said
    assert not out.exists()
    run(*words)


def test_without_an_accountant_the_extra_is_named(plan: Path) -> None:
    # In a process of its own, since accountants keep what they have loaded.
    code = f"import sys; sys.modules['dp_accounting'] = None; {MAIN}"
    words = ["calibrate", str(plan), *TARGET, "--clip", "1", *ZERO_OUT]
    sampled = ["--sampling-rate", "0.5", "--adversary", "model-consumer"]
    done = subprocess.run(
        [sys.executable, "-c", code, "dp", *words, *sampled],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'secagg[dp]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_process_of_its_own(plan: Path, tmp_path: Path) -> None:
    words = ["calibrate", plan, *TARGET, "--clip", "1.5", *ZERO_OUT, "--out", "noisy.toml"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MAIN, "dp", *map(str, words), "--plot", "a.svg"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # No terminal, no bar.
    assert done.stderr == ""
    assert load_plan((tmp_path / "noisy.toml").read_text()).digest.hex() in done.stdout
    assert (tmp_path / "a.svg").read_bytes().startswith(SVG)


# Plots.


def test_plots_are_written(plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "noise.PNG"
    done = calibrated(plan, "--plot", path)
    assert f"Plot written to {path}" in done.stdout.replace("\n", "")
    data = path.read_bytes()
    assert data.startswith(PNG)
    assert len(data) > 10_000


def falls(values: tuple[float, ...]) -> bool:
    return all(after < before for before, after in itertools.pairwise(values))


def test_points_are_calibrations() -> None:
    given = secagg.Plan.recommend(
        placeholder_roster(20),
        length=50,
        stages=(ClipL2(1.0), Quantise(1024)),
        threat="malicious-server",
        colluding=2,
        max_dropouts=2,
    )
    calls: list[tuple[int, float]] = []

    def make(plan: secagg.Plan, epsilon: float) -> secagg.Plan:
        calls.append((plan.clients, epsilon))
        return calibrate(
            plan, epsilon=epsilon, delta=1e-5, rounds=2, l2_clip=1.0, adjacency="zero-out"
        )

    made = make(given, 2.0)
    calls.clear()
    over_epsilon, over_clients = dp_view.noise_panels(given, made, make)
    (noise,), (mean,) = over_epsilon.lines, over_clients.lines
    assert calls == [(20, e) for e in noise.x] + [(int(n), 2.0) for n in mean.x]
    assert noise.x[0] == 0.5
    assert noise.x[-1] == 8.0
    assert mean.x == (5, 10, 20, 40, 80)
    assert falls(noise.y)
    assert falls(mean.y)
    told = promise(made)
    assert noise.y[noise.x.index(2.0)] == told.noise_units
    assert mean.y[mean.x.index(20)] == told.noise_units / 20
    # Half the epsilon takes nearly twice the noise, twice the sites nearly halve it in the mean.
    assert noise.y[noise.x.index(1.0)] == pytest.approx(2 * told.noise_units, rel=0.2)
    assert mean.y[mean.x.index(40)] == pytest.approx(told.noise_units / 40, rel=0.05)
    # The figure has exactly these points.
    axes = plots.figure([over_epsilon, over_clients]).axes
    for one, drawn in zip(axes, (noise, mean), strict=True):
        curve, asked = one.lines
        assert list(curve.get_xdata()) == list(drawn.x)
        assert list(curve.get_ydata()) == list(drawn.y)
        assert curve.get_label() == "discrete-gaussian"
        assert asked.get_xdata()[0] in drawn.x
        assert one.get_xscale() == one.get_yscale() == "log"


def test_a_plan_of_another_size_keeps_its_proportions() -> None:
    plan = make_plan(20, max_dropouts=3, colluding=1, stages=(Integers(0, 3),),
                     protocol=secagg.MaskedSum(share_threshold=12, neighbours=19))  # fmt: skip
    assert dp_view.resized(plan, 20) is plan
    double = dp_view.resized(plan, 40)
    assert (double.clients, double.max_dropouts, double.colluding) == (40, 6, 2)
    half = dp_view.resized(plan, 10)
    # Dropouts are rounded down, colluders up.
    assert (half.clients, half.max_dropouts, half.colluding) == (10, 1, 1)
    assert half.stages == plan.stages
    with pytest.raises(PlanError):
        dp_view.resized(plan, 2)


def test_places() -> None:
    places = plots.around(3.0)
    assert len(places) == 9
    assert places[4] == 3.0
    assert (places[0], places[-1]) == (0.75, 12.0)
    assert plots.rounds_up_to(1) == [1]
    assert plots.rounds_up_to(3) == [1, 2, 3]
    many = plots.rounds_up_to(10_000)
    assert (many[0], many[-1]) == (1, 10_000)
    assert len(many) <= 26
    assert all(isinstance(number, int) for number in many)


def test_places_without_a_plan_are_left_out() -> None:
    def value(place: float) -> float:
        if place < 2:
            raise PlanError("no", rule="dp-bits")
        return 1 / place

    assert plots.line("x", [1, 2, 4], value) == plots.Line(name="x", x=(2, 4), y=(0.5, 0.25))
    with pytest.raises(ZeroDivisionError):
        plots.line("x", [0], lambda place: 1 / place)


def test_where_a_plot_may_go(tmp_path: Path) -> None:
    plots.check_path(tmp_path / "a.png")
    (tmp_path / "dir.png").mkdir()
    for bad in ("a.pdf", "a", "dir.png", "no/a.png"):
        with pytest.raises(MisuseError) as caught:
            plots.check_path(tmp_path / bad)
        assert caught.value.rule == "output-file"


def test_the_same_points_give_the_same_file(tmp_path: Path) -> None:
    panel = plots.Panel(
        title="t",
        x_label="x",
        y_label="y",
        lines=(plots.Line(name="_a", x=(1, 10), y=(3, 0.1)),
               plots.Line(name="b", x=(1, 10), y=(2, 0.2))),
    )  # fmt: skip
    for name in ("a.png", "b.png"):
        plots.draw([panel], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    (axes,) = plots.figure([panel]).axes
    # matplotlib hides names that begin with an underscore; a file may be called so.
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert not math.isnan(axes.get_ylim()[0])
