"""simulate and demo: small runs, their reports, and the exit code of every ending."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import secagg
from secagg.cli import show
from secagg.cli.app import app
from secagg.session.transcript import Outcome, Transcript
from secagg.sim import scenarios, survival, training
from secagg.sim.recording import Transcripts

runner = CliRunner()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Defaults write under the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args, code=0, columns=100):
    args = [str(arg) for arg in args]
    result = runner.invoke(app, args, env={"COLUMNS": str(columns)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code not in (0, 2, 7):
        assert len(result.stderr.strip().splitlines()) == 1
    return result


def random(*args, code=0):
    return run("simulate", "random", "--length", 200, "--no-figures", *args, code=code)


def report(*args):
    return json.loads(random("--json", *args).stdout)


def test_random_tells_the_whole_story(elsewhere):
    result = run(
        "simulate", "random", "--length", 700, "--rounds", 3,
        "--drop", "input:site-1,site-2", "--drop", "2/reveal:site-3",
    )  # fmt: skip
    for part in (
        "Round round-1: 700 coordinates", "1 advertise", "5 reveal", "site-1, site-2",
        "In the sum: 8 sites", "equals the plain sum exactly", "All rounds", "secure sum",
        "What the server saw", "masked word", "chi-square", "true values (control)",
        "not uniform", "What this run shows", "seconds", "wrote", "5 cold", "3 warm",
        "Sat out, having missed the setup: site-1, site-2", "Back in the sum: site-1, site-2",
        "In all: 3 rounds in 11 exchanges (15 if no round prepared the next), 2 more to end",
        "they got the same result", "Sites that left, round by round",
    ):  # fmt: skip
        assert part.lower() in result.stdout.lower(), part
    folder = elsewhere / "demo-output" / "random"
    assert (folder / "masked-words.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((folder / "report.json").read_text())
    assert data["holds"]
    assert [len(r["survivors"]) for r in data["rounds"]] == [8, 8, 9]
    first, second, third = data["rounds"]
    assert first["dropped"] == first["gone"] == {"site-1": "input", "site-2": "input"}
    assert second["left"] == second["gone"] == {"site-3": "reveal"}
    assert second["sat_out"] == third["returned"] == ["site-1", "site-2"]
    assert third["sat_out"] == ["site-3"]
    assert [r["start"] for r in data["rounds"]] == ["cold", "warm", "warm"]
    assert data["exchanges"] == {"rounds": 11, "closing": 2, "without_pipelining": 15}
    lists = [*(r["exchanges"] for r in data["rounds"]), data["closing"]]
    entries = [entry for entries in lists for entry in entries]
    assert [entry["exchange"] for entry in entries] == list(range(1, 14))
    assert data["bytes"] == sum(e["site_bytes"] + e["server_bytes"] for e in entries)
    assert all(r["agreed"] > 0 for r in data["rounds"])
    assert str(elsewhere) not in json.dumps(data)


def test_json_is_json_and_nothing_else(elsewhere):
    data = report("--out", "there")
    assert data["scenario"] == "random"
    assert data["server_saw"]["masked_bytes"]["p_value"] > 1e-9
    assert data["server_saw"]["control_true_bytes"]["p_value"] < 1e-9
    assert data == json.loads((elsewhere / "there" / "report.json").read_text())
    assert [path.name for path in (elsewhere / "there").iterdir()] == ["report.json"]


def test_seed_repeats_data_and_schedule_and_not_masks():
    args = ["--seed", 4, "--drop-rate", 0.15, "--sites", 12, "--rounds", 3]
    first, again, other = report(*args), report(*args), report(*args[2:], "--seed", 5)
    assert first["schedule"] == again["schedule"] != other["schedule"]
    assert first["schedule"]
    survivors = [[r["survivors"] for r in data["rounds"]] for data in (first, again)]
    assert survivors[0] == survivors[1]
    seen, same, new = (data["server_saw"]["example"] for data in (first, again, other))
    assert seen["true_values"] == same["true_values"] != new["true_values"]
    assert seen["masked_words"] != same["masked_words"]
    assert [r["plan"] for r in first["rounds"]] != [r["plan"] for r in again["rounds"]]


def test_schedule_file(elsewhere):
    path = elsewhere / "drops.toml"
    path.write_text('[1]\nshare = ["site-0"]\n[round-2]\ninput = ["site-1"]\n')
    data = report("--schedule", path, "--rounds", 2, "--drop", "round-2/advertise:site-9")
    assert data["rounds"][0]["dropped"] == {"site-0": "share", "site-9": "input"}
    # Adverts of the second round travel with the inputs of the first.
    assert data["rounds"][0]["gone"] == {"site-0": "share", "site-9": "input"}
    assert data["rounds"][1]["gone"] == {"site-1": "input"}
    assert data["rounds"][1]["sat_out"] == ["site-0"]
    dropped = {"site-0": "advertise", "site-1": "input", "site-9": "advertise"}
    assert data["rounds"][1]["dropped"] == dropped


def test_threats_and_graphs():
    data = report("--threat", "semi-honest")
    steps = [entry["step"] for entry in data["rounds"][0]["exchanges"]]
    assert steps == ["advertise", "share", "input", "reveal"]
    assert [entry["step"] for entry in data["closing"]] == ["finish"]
    sparse = report(
        "--sites", 70, "--threat", "semi-honest", "--neighbours", 40, "--colluding", 5,
        "--max-dropouts", 5, "--drop", "input:site-01,site-02",
    )  # fmt: skip
    assert sparse["rounds"][0]["neighbours"] == 40
    assert len(sparse["rounds"][0]["survivors"]) == 68


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--drop", "foo"], 2, "drop-schedule"),
        (["--drop", "input:nobody"], 2, "no site 'nobody'"),
        (["--drop", "9/input:site-1"], 2, "no round '9'"),
        (["--schedule", "absent.toml"], 2, "absent.toml"),
        (["--sites", 1], 2, "sites"),
        (["--bits", 60], 2, "bits"),
        (["--drop-rate", 2], 2, "drop-rate"),
        (["--threat", "none"], 2, "threat"),
        (["--seed", -1], 2, "seed"),
        (["--sites", 3], 3, "honest-survivors"),
        (["--neighbours", 4], 3, "sparse"),
        (["--max-dropouts", 6], 3, "hint:"),
        (["--colluding", 9], 3, "hint:"),
        (["--drop", "input:site-1,site-2,site-3,site-4"], 5, "too few sites"),
        (["--drop-rate", 1], 5, "too few sites"),
        (["--drop", "advertise:site-1,site-2,site-3,site-4", "--threat", "semi-honest"], 5, "few"),
    ],
)
def test_bad_input_and_bad_ends(args, code, text):
    assert text in random(*args, code=code).stderr


def test_an_aborted_round_shows_how_far_it_came():
    args = ["--drop", "input:site-1,site-2,site-3,site-4"]
    result = random(*args, code=5)
    assert "Aborted" in result.stdout
    assert "3 input" in result.stdout
    assert "--max-dropouts" in result.stderr
    data = json.loads(random(*args, "--json", code=5).stdout)
    assert "too few" in data["aborted"]
    assert data["rounds"][0]["aborted"]


def test_a_failed_comparison_is_exit_code_4(monkeypatch):
    real = scenarios.reference_sum
    monkeypatch.setattr(scenarios, "reference_sum", lambda *a: real(*a) + 1)
    result = random(code=4)
    assert "a comparison failed: the sum equals" in result.stderr
    assert "✗" in result.stdout
    assert json.loads(random("--json", code=4).stdout)["holds"] is False


def test_a_peer_at_fault_is_exit_code_5(monkeypatch):
    real = secagg.Client._reveal

    def lying(self):
        if self.name in {"site-1", "site-2"}:
            kept = self._shares.items()
            self._shares = {dealer: bytes([s[0] ^ 1, *s[1:]]) for dealer, s in kept if s}
        return real(self)

    monkeypatch.setattr(secagg.Client, "_reveal", lying)
    text = random(code=5).stderr
    assert text.startswith("round aborted: ")
    assert "; suspects: " in text
    assert "site-1" in text


def test_a_missing_extra_is_named(monkeypatch):
    def absent(*_):
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(training, "load_training", absent)
    assert "pip install 'secagg[demo]'" in run("simulate", "training", code=2).stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--integers", -5, 300],
        ["--clip", 3, "--levels", 1000, "--max-weight", 50, "--threat", "semi-honest"],
        ["--clip", 2, "--norm", "l2", "--fixed-data"],
    ],
)
def test_a_plan_of_ones_own(elsewhere, options):
    run("plan", "-n", 8, "--dropout", 2, "--length", 300, *options, "--toml", "p.toml")
    args = ["--rounds", 3, "--drop", "input:site-1", "--no-figures", "--json"]
    data = json.loads(run("simulate", "plan", "p.toml", *args).stdout)
    assert data["holds"]
    later = 7 if "--fixed-data" in options else 8
    assert [len(r["survivors"]) for r in data["rounds"]] == [7, 7, later]
    assert all(r["error"] <= r["bound"] for r in data["rounds"])


def test_a_plan_that_is_none_is_refused(elsewhere):
    (elsewhere / "p.toml").write_text("length = 3")
    run("simulate", "plan", "p.toml", code=2)
    run("simulate", "plan", "absent.toml", code=2)
    run("plan", "-n", 5, "--dropout", 0, "--toml", "q.toml")
    text = (elsewhere / "q.toml").read_text().replace("colluding = 1", "colluding = 4")
    (elsewhere / "r.toml").write_text(text)
    assert "honest-survivors" in run("simulate", "plan", "r.toml", code=3).stderr


def test_without_matplotlib_there_are_no_figures_and_all_else(elsewhere, monkeypatch):
    def absent(*_, **__):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr("secagg.sim.figures._figure", absent)
    result = run("simulate", "random", "--length", 200, "--out", "o")
    assert "need matplotlib" in result.stderr
    assert (elsewhere / "o" / "report.json").exists()


def test_survival_with_leavers(elsewhere):
    drops = ["--drop", "input:inst-01,inst-02", "--drop", "cox-19/input:inst-03"]
    result = run("simulate", "survival", *drops, "--out", "s")
    assert "cox-19, which was not run" in result.stdout
    for part in ("hazard ratio, female", "pooled patients", "event times", "Cox coefficients"):
        assert part in result.stdout
    names = sorted(path.name for path in (elsewhere / "s").iterdir())
    assert names == ["cox.png", "masked-words.png", "report.json", "survival.png"]
    data = json.loads((elsewhere / "s" / "report.json").read_text())
    assert all(len(r["survivors"]) == 16 for r in data["rounds"])
    assert data["reference"]["comparison"]["counts_equal"] is True


@pytest.mark.parametrize("colluding", [1, 6])
def test_survival_that_a_site_leaves_alone_is_given_up_before_the_others_refuse(colluding):
    args = ["simulate", "survival", "--no-figures", "--colluding", colluding]
    args += ["--drop", "cox-2/input:inst-03"]
    result = run(*args, code=5)
    assert result.stderr.startswith("analysis ended: 1 site(s) of the last sum of these data are")
    assert f"at least {3 + colluding} may leave at a time" in result.stderr
    assert "[fixed-missing]; hint: " in result.stderr
    assert "Round cox-2" in result.stdout
    assert "Aborted: 1 site(s) of the last sum" in result.stdout
    data = json.loads(run(*args, "--json", code=5).stdout)
    last = data["rounds"][-1]
    assert "fixed-missing" in data["aborted"]
    assert (last["label"], last["gone"]) == ("cox-2", {"inst-03": "input"})
    assert last["refused"] == {}


def test_survival_goes_on_where_enough_leave_at_once():
    lost = "cox-1/reveal:inst-01,inst-03,inst-05,inst-07"
    args = ["simulate", "survival", "--no-figures", "--json", "--colluding", 1]
    data = json.loads(run(*args, "--drop", lost).stdout)
    assert [len(r["survivors"]) for r in data["rounds"][:3]] == [18, 18, 14]
    assert data["holds"]


def test_survival_compares_with_the_pooled_fit(monkeypatch):
    real = survival.reference_cox

    def shifted(sites):
        fit = real(sites)
        fit.coefficients[0] += 1e-3
        return fit

    monkeypatch.setattr(survival, "reference_cox", shifted)
    text = run("simulate", "survival", "--no-figures", code=4).stderr
    assert "Cox coefficients agree" in text
    assert "counts" not in text


def test_survival_that_loses_too_many_aborts():
    drops = ["--drop", "1:inst-01,inst-02,inst-03", "--drop", "cox-2/3:inst-04,inst-05"]
    result = run("simulate", "survival", "--no-figures", *drops, code=5)
    assert "Round cox-2" in result.stdout


def test_training_short(elsewhere):
    args = ["--rounds", 2, "--sites", 5, "--out", "t", "--drop", "training-2/share:site-01"]
    result = run("simulate", "training", *args)
    assert "AUC after round 2 (4 sites)" in result.stdout
    data = json.loads((elsewhere / "t" / "report.json").read_text())
    assert data["reference"]["gap"] <= 0.002
    assert (elsewhere / "t" / "training.png").exists()
    run("simulate", "training", "--rounds", 0, code=2)
    run("simulate", "training", "--sites", 60, code=2)


def verified(folder, *more, code=0):
    """What `verify` makes of all transcripts in a folder."""
    paths = sorted(folder.glob("*.transcript"))
    return json.loads(run("verify", *paths, "--json", *more, code=code).stdout)


DROPPED = [
    (["random", "--length", 60, "--rounds", 4, "--drop", "2/input:site-1"], {"round": 10}),
    (["random", "--threat", "semi-honest", "--rounds", 2, "--drop", "share:site-1"], {"round": 10}),
    (["survival", "--drop", "input:inst-01,inst-02"], {"counts": 18, "cox": 18}),
    (
        ["training", "--rounds", 3, "--sites", 6, "--drop", "training-2/reveal:site-02"],
        {"moments": 6, "training": 6},
    ),
    (["plan", "p.toml", "--rounds", 3, "--drop", "3/advertise:site-1"], {"round": 8}),
]


@pytest.mark.parametrize(("args", "sessions"), DROPPED, ids=lambda value: str(value)[2:14])
def test_transcripts_of_all_parties_hold_and_confirm_every_sum(elsewhere, args, sessions):
    run("plan", "-n", 8, "--dropout", 2, "--length", 30, "--toml", "p.toml")
    result = run("simulate", *args, "--no-figures", "--json", "--transcripts", "t/new")
    folder = elsewhere / "t" / "new"
    report = json.loads(result.stdout)
    assert "transcript" not in json.dumps(report["settings"])
    verdict = verified(folder)
    assert verdict["holds"], verdict
    assert len(verdict["transcripts"]) == sum(sites + 1 for sites in sessions.values())
    assert len(list(folder.iterdir())) == len(verdict["transcripts"])
    for kind, sites in sessions.items():
        assert len(list(folder.glob(f"{kind}-*.transcript"))) == sites + 1
        assert (folder / f"{kind}-server.transcript").stat().st_mode & 0o777 == 0o600
    confirmed = [r for r in verdict["rounds"] if r["replay"] == "confirmed"]
    found = [tuple(r["sets"]["U3"]) for r in confirmed if r["result"]]
    assert found == [tuple(r["survivors"]) for r in report["rounds"]]
    assert len(set(found)) > 1 or "semi-honest" in args or "survival" in args
    servers = [Transcript(folder / f"{kind}-server.transcript") for kind in sessions]
    outcomes = [e for s in servers for e in s.entries() if isinstance(e, Outcome)]
    assert sorted(o.digest.hex() for o in outcomes) == sorted(r["result"] for r in confirmed)
    unsigned = any("proves nothing" in note for note in verdict["notes"])
    assert unsigned is ("semi-honest" in args)
    # One byte of one file, and not everything holds; nobody is convicted for it.
    path = next(folder.glob("*-server.transcript"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    verdict = verified(folder, code=7)
    assert verdict["convictions"] == []
    assert any(account["stopped"] for account in verdict["transcripts"])


def test_transcripts_of_an_aborted_run_are_kept_and_hold(elsewhere):
    drop = ["--drop", "2/input:site-1,site-2,site-3,site-4"]
    random("--rounds", 3, *drop, "--transcripts", "t", code=5)
    verdict = verified(elsewhere / "t")
    assert verdict["holds"], verdict
    assert [r["round"] for r in verdict["rounds"] if r["result"]] == [0]


def test_a_server_keeps_the_vectors_that_a_replay_of_the_sum_needs(elsewhere):
    random("--length", 40_000, "--sites", 4, "--transcripts", "t")
    (done,) = [r for r in verified(elsewhere / "t")["rounds"] if r["result"]]
    assert done["replay"] == "confirmed"
    sizes = {path.stem: path.stat().st_size for path in (elsewhere / "t").iterdir()}
    assert sizes["round-server"] > 4 * 80_000
    assert sizes["round-site-1"] < 40_000


def test_transcripts_go_into_a_new_folder(elsewhere):
    (elsewhere / "empty").mkdir()
    random("--transcripts", "empty")
    before = {path.name: path.read_bytes() for path in (elsewhere / "empty").iterdir()}
    assert "[output-file]" in random("--transcripts", "empty", code=2).stderr
    assert before == {path.name: path.read_bytes() for path in (elsewhere / "empty").iterdir()}
    (elsewhere / "file").write_text("mine")
    assert "[output-file]" in random("--transcripts", "file", code=2).stderr
    assert "Not a directory" in random("--transcripts", "file/t", code=2).stderr
    # Nothing is made where nothing can be simulated.
    random("--transcripts", "other", "--drop", "input:nobody", code=2)
    assert not list((elsewhere / "other").iterdir())


def test_sessions_of_one_kind_and_strange_names_get_files_of_their_own(elsewhere):
    roster, _ = secagg.Roster.generate(["a/b", "server ", "..", "é", "c"])
    plans = [
        secagg.Plan.recommend(
            roster, threat="semi-honest", length=length, stages=(secagg.Integers(0, 9),),
            colluding=1, max_dropouts=0,
        )
        for length in (2, 3, 4)
    ]  # fmt: skip
    with Transcripts(elsewhere / "t") as transcripts:
        for plan, label in zip(plans, ("cox-1", "cox-2", "x/y"), strict=True):
            transcripts.begin(plan, label, "s")
    names = {path.name for path in (elsewhere / "t").iterdir()}
    parties = ["server", "a%2Fb", "server%20", "..", "%C3%A9", "c"]
    assert names == {
        f"{kind}-{party}.transcript" for kind in ("cox", "cox-2", "x%2Fy") for party in parties
    }


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tables_keep_within_the_terminal(columns):
    args = ["--rounds", 24, "--drop", "2/input:site-1", "--drop", "11/consent:site-2,site-3"]
    result = run("simulate", "random", "--no-figures", *args, columns=columns)
    assert max(map(len, result.stdout.splitlines())) <= columns
    # The marks of a site wrap in tens.
    assert "●○·●●●●●●●" in result.stdout
    if columns >= 80:
        assert " round-11     3 warm   10     2" in result.stdout


def test_help_says_when_a_step_travels():
    text = " ".join(
        run("simulate", "random", "--help", columns=200).stdout.replace("│", " ").split()
    )
    assert "adverts and shares of a round travel with the inputs and reveals" in text
    assert "who missed them sits the next round out" in text


def test_presence_tells_every_kind_of_absence():
    drops = ("2/input:site-1", "2/reveal:site-2", "3/share:site-3")
    options = {"sites": 10, "length": 5, "rounds": 6}
    records = scenarios.run_random(scenarios.Settings(drops=drops), **options).secure.records
    console = Console(width=100)
    with console.capture() as capture:
        console.print(show.presence_table(records))
    lines = capture.get().splitlines()
    shown = dict(line.split() for line in lines if line.startswith(" site-"))
    assert shown == {"site-1": "●○·●●●", "site-2": "●◐·●●●", "site-3": "●◐○·●●"}
    console = Console(width=100)
    with console.capture() as capture:
        console.print(show.presence_table(records, most=1))
    assert "and 2 sites more" in capture.get()


def test_vectors_are_demonstration_data_only():
    one = scenarios.random_vectors(1, 1, ["a", "b"], 50, 16)
    assert np.array_equal(one["a"], scenarios.random_vectors(1, 1, ["a"], 50, 16)["a"])
    assert not np.array_equal(one["a"], one["b"])
    assert one["a"].max() < 1 << 16


@pytest.mark.slow
def test_demo(elsewhere):
    result = run("demo")
    assert "Every result equals its reference." in result.stdout
    told = " ".join(result.stdout.split())
    assert "These rounds took 37 exchanges" in told
    assert "each on its own would take 5, in all 55" in told
    assert "✗" not in result.stdout
    folder = elsewhere / "demo-output"
    reports = sorted(path.parent.name for path in folder.glob("*/report.json"))
    steps = ("advertise", "consent", "input", "reveal", "share")
    assert reports == ["survival", *(f"survival-4-dropped-at-{s}" for s in steps), "training"]
    for name in ("survival/survival", "survival/cox", "survival/masked-words", "training/training"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    trained = json.loads((folder / "training" / "report.json").read_text())
    # Sites leave and return, and sit a round out in between.
    for what in ("gone", "sat_out", "returned"):
        assert sum(bool(r[what]) for r in trained["rounds"]) >= 3, what


@pytest.mark.slow
def test_demo_fails_where_a_reference_differs(monkeypatch):
    real = survival.reference_kaplan_meier

    def shifted(sites):
        curves = real(sites)
        curves.curves[0].deaths[10] += 1
        return curves

    monkeypatch.setattr(survival, "reference_kaplan_meier", shifted)
    result = run("demo", "--no-figures", "--json", code=4)
    data = json.loads(result.stdout)
    assert data["holds"] is False
    assert "event and at-risk counts" in result.stderr
