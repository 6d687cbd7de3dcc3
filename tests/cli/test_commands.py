"""keygen, roster, plan, graph, info: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib

import pytest
from typer.testing import CliRunner

import secagg
from secagg.cli.app import app
from secagg.cli.plan import placeholder_roster
from secagg_protocols.keys import Identity
from secagg_protocols.plan_file import load_plan, load_roster

runner = CliRunner()


def run(*args, code=0):
    """Run a command; its result, whose exit code is checked and whose output has no traceback."""
    result = runner.invoke(app, [str(arg) for arg in args], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code not in (0, 2):
        assert len(result.stderr.strip().splitlines()) == 1
    return result


@pytest.fixture
def keys(tmp_path):
    for name in ("server", "a", "b", "c", "d"):
        run("keygen", name, "--out", tmp_path / f"{name}.id")
    return tmp_path


@pytest.fixture
def roster(keys):
    sites = [part for name in "abcd" for part in ("--site", keys / f"{name}.id.pub")]
    path = keys / "roster.toml"
    run("roster", "build", "--server", keys / "server.id.pub", *sites, "--out", path)
    return path


# The application as a whole.


def test_help_names_every_command_and_the_exit_codes():
    text = run("--help").stdout
    for command in ("demo", "simulate", "plan", "graph", "keygen", "roster", "info"):
        assert command in text
    assert "Exit codes" in text
    assert "docs/security-model.md" in text
    assert run("--version").stdout == f"secagg {secagg.__version__}\n"


@pytest.mark.parametrize(
    "command",
    [["demo"], ["simulate"], ["simulate", "survival"], ["simulate", "training"],
     ["simulate", "random"], ["simulate", "plan"], ["plan"], ["graph"], ["keygen"],
     ["roster"], ["roster", "build"],
     ["roster", "show"], ["roster", "fingerprint"], ["info"]],
)  # fmt: skip
def test_every_command_has_help(command):
    text = run(*command, "--help").stdout
    assert "Usage" in text
    assert "Exit codes" in text


def test_bad_usage_is_exit_code_2():
    for args in (["nonsense"], ["plan", "--nonsense"], ["keygen"], ["graph", "--clients", "2"]):
        run(*args, code=2)


def test_a_bug_is_exit_code_1_and_hides_locals(monkeypatch, tmp_path):
    code = (
        "import sys, secagg.cli.info as info\n"
        "def broken():\n"
        "    secret = 'c0ffee' * 10\n"
        "    raise RuntimeError('broken')\n"
        "info.collect = broken\n"
        "sys.argv = ['secagg', 'info']\n"
        "from secagg.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "RuntimeError: broken" in done.stderr
    assert "c0ffeec0ffee" not in done.stdout + done.stderr


def test_importing_secagg_loads_no_command_line():
    code = (
        "import sys, secagg\n"
        "bad = {'typer', 'rich', 'numba', 'scipy', 'lifelines', 'sklearn', 'matplotlib'}\n"
        "assert not bad & set(sys.modules), bad & set(sys.modules)\n"
        "import secagg.cli\n"
        "heavy = bad - {'typer', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# keygen.


def test_keygen_writes_a_private_file_and_a_public_line(tmp_path):
    old = os.umask(0)
    try:
        done = run("keygen", "hospital-1", "--out", tmp_path / "h.id")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "h.id").stat().st_mode) == 0o600
    identity = Identity.load(tmp_path / "h.id")
    assert identity.name == "hospital-1"
    line = f"hospital-1 {identity.public.hex()}"
    assert done.stdout.splitlines()[0] == line
    assert (tmp_path / "h.id.pub").read_text() == line + "\n"
    seed = (tmp_path / "h.id").read_text().split()[-1]
    assert seed not in done.output + (tmp_path / "h.id.pub").read_text()


def test_keygen_never_overwrites(tmp_path):
    path = tmp_path / "h.id"
    run("keygen", "h", "--out", path)
    before = path.read_bytes(), (tmp_path / "h.id.pub").read_bytes()
    assert "never overwritten" in run("keygen", "h", "--out", path, code=2).stderr
    path.unlink()
    assert "never overwritten" in run("keygen", "h", "--out", path, code=2).stderr
    assert not path.exists()
    (tmp_path / "h.id.pub").unlink()
    path.write_bytes(before[0])
    run("keygen", "h", "--out", path, code=2)
    assert path.read_bytes() == before[0]
    assert not (tmp_path / "h.id.pub").exists()


def test_keygen_json_and_bad_input(tmp_path):
    data = json.loads(run("keygen", "h", "--out", tmp_path / "j.id", "--json").stdout)
    assert bytes.fromhex(data["public_key"]) == Identity.load(tmp_path / "j.id").public
    for name in ("", "two words", "x" * 65, "tab\t"):
        assert "[roster]" in run("keygen", name, "--out", tmp_path / "k.id", code=2).stderr
    assert not (tmp_path / "k.id").exists()
    run("keygen", "h", "--out", tmp_path / "absent" / "k.id", code=2)


# roster.


def test_roster_from_files_and_from_keys_is_the_same(keys, roster):
    key = {n: Identity.load(keys / f"{n}.id").public.hex() for n in ("server", "a", "b", "c", "d")}
    built = run(
        "roster", "build", "--server", key["server"], "--site", f"a={key['a']}",
        "--site", f"b={keys / 'b.id.pub'}", "--site", keys / "c.id.pub", "--site", f"d={key['d']}",
    ).stdout  # fmt: skip
    assert built == roster.read_text()
    made = load_roster(built)
    assert made.names == ("a", "b", "c", "d")
    assert made.server.hex() == key["server"]
    assert run("roster", "fingerprint", roster).stdout == made.fingerprint + "\n"
    shown = run("roster", "show", roster).stdout
    assert all(text in shown for text in (*key.values(), made.fingerprint))
    data = json.loads(run("roster", "show", roster, "--json").stdout)
    assert data["fingerprint"] == made.fingerprint
    assert [site["name"] for site in data["sites"]] == ["a", "b", "c", "d"]


def test_roster_epoch_changes_the_fingerprint(keys, roster):
    args = ["--server", keys / "server.id.pub", "--site", keys / "a.id.pub", "--epoch", 7]
    made = load_roster(run("roster", "build", *args).stdout)
    assert made.epoch == 7
    run("roster", "build", *args, "--out", keys / "r7.toml")
    run("roster", "build", *args, "--out", keys / "r7.toml", code=2)
    assert run("roster", "fingerprint", keys / "r7.toml").stdout.strip() == made.fingerprint


def test_roster_refuses(keys, roster):
    server, a = ["--server", keys / "server.id.pub"], keys / "a.id.pub"
    key = a.read_text().split()[1]

    def build(*args):
        return run("roster", "build", *args, code=2).stderr

    assert "twice" in build(*server, "--site", a, "--site", a)
    assert "twice" in build(*server, "--site", a, "--site", f"other={key}")
    assert "hexadecimal" in build(*server, "--site", "a=xyz")
    assert "hexadecimal" in build(*server, "--site", "a=" + "00" * 31)
    assert "NAME=KEY" in build(*server, "--site", key)
    assert "names 'a'" in build(*server, "--site", f"b={a}")
    assert "names 'a'" in build("--server", a, "--site", keys / "b.id.pub")
    absent = build(*server, "--site", keys / "absent.pub")
    assert "absent.pub: there is no such file [roster]" in absent
    build(*server)
    # A private identity is refused, and nothing of it is shown.
    private = (keys / "a.id").read_text().split()[-1]
    text = build(*server, "--site", keys / "a.id")
    assert "never the private identity" in text
    assert private not in text
    (keys / "bad.toml").write_text("epoch = 'x'")
    assert "[roster]" in run("roster", "show", keys / "bad.toml", code=2).stderr
    (keys / "bad.toml").write_text("= 3")
    assert "not TOML" in run("roster", "fingerprint", keys / "bad.toml", code=2).stderr
    (keys / "bad.toml").write_bytes(b"\xff\xfe")
    run("roster", "show", keys / "bad.toml", code=2)
    said = run("roster", "show", keys / "absent.toml", code=2).stderr
    assert "No such file" in said
    assert said.endswith(" [file]\n")
    assert "directory" in run("roster", "show", keys, code=2).stderr


# plan.


def test_plan_file_is_the_plan(roster, tmp_path):
    args = ["plan", "--roster", roster, "--dropout", 0, "--colluding", 1, "--integers", -5, 64]
    data = json.loads(run(*args, "--toml", tmp_path / "plan.toml", "--json").stdout)
    plan = load_plan((tmp_path / "plan.toml").read_text())
    assert plan.digest.hex() == data["digest"]
    assert plan.roster == load_roster(roster.read_text())
    assert plan.stages == (secagg.Integers(-5, 64),)
    assert not data["placeholder_keys"]
    assert load_plan(run(*args, "--toml", "-").stdout).digest == plan.digest
    assert data["digest"] in run(*args).stdout
    again = json.loads(run("plan", "--from", tmp_path / "plan.toml", "--json").stdout)
    assert again == data
    run(*args, "--toml", tmp_path / "plan.toml", code=2)
    run(*args, "--toml", "-", "--json", code=2)


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ([], (secagg.Integers(0, 65535),)),
        (["--bits", 8], (secagg.Integers(0, 255),)),
        (["--clip", 2.5], (secagg.ClipLinf(2.5), secagg.Quantise(65536))),
        (
            ["--clip", 1, "--norm", "l2", "--levels", 1000],
            (secagg.ClipL2(1.0), secagg.Quantise(1000)),
        ),
    ],
)
def test_plan_stages(options, stages):
    plan = load_plan(run("plan", "-n", 18, *options, "--toml", "-").stdout)
    assert plan.stages == stages
    assert (plan.colluding, plan.max_dropouts, plan.min_honest) == (3, 1, 3)


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("4", 4), ("0.25", 4), ("25%", 4), ("0.1", 1), ("1.0", 1)]
)
def test_plan_dropout_as_fraction_percentage_or_count(text, count):
    data = json.loads(run("plan", "-n", 18, "--dropout", text, "--json").stdout)
    assert data["max_dropouts"] == count


def test_plan_json_says_why_what_it_costs_and_who_sees_what():
    args = ["plan", "-n", 1000, "--threat", "semi-honest", "--rounds", 50, "--length", 5000]
    data = json.loads(run(*args, "--json").stdout)
    assert not data["complete_graph"]
    assert any("50 round(s)" in line for line in data["why"])
    steps = data["bytes"]["steps"]
    assert [step["step"] for step in steps] == ["advertise", "share", "input", "reveal"]
    total = sum(step["site_sends"] + step["site_receives"] for step in steps)
    assert total == data["bytes"]["site_total"]
    parties = [row["party"] for row in data["sees"]]
    assert parties == ["server", "one site", "server + 200 sites", "network"]
    text = run(*args).stdout
    for part in ("Why", "Bytes of one site", "What each party sees", "not for deployment"):
        assert part in text


def test_plan_with_placeholders_is_marked_and_holds_no_private_key(tmp_path):
    text = run("plan", "-n", 5, "--toml", "-").stdout
    assert "not for deployment" in text.splitlines()[0]
    assert load_plan(text).roster == placeholder_roster(5)
    (tmp_path / "p.toml").write_text(text)
    assert "not for deployment" in run("plan", "--from", tmp_path / "p.toml").stdout
    (tmp_path / "p.toml").unlink()
    assert "seed" not in text
    assert tomllib.loads(text)["length"] == 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["-n", 10, "--dropout", 5, "--colluding", 3], "one-survivor-set"),
        (["-n", 5, "--dropout", 0, "--colluding", 4], "honest-survivors"),
        (["-n", 10, "--colluding", 0], "insiders"),
        (["-n", 100, "--neighbours", 60], "sparse-threat"),
        (["-n", 100, "--neighbours", 4, "--threat", "semi-honest"], "sparse-security"),
        (["-n", 100, "--neighbours", 21, "--threat", "semi-honest"], "graph"),
        (["-n", 1000, "--bits", 60], "modulus"),
    ],
)
def test_infeasible_plans_are_exit_code_3_with_a_hint(options, rule):
    text = run("plan", *options, code=3).stderr
    assert f"[{rule}" in text
    assert "hint:" in text


@pytest.mark.parametrize(
    "options",
    [[], ["-n", 5, "--from", "x"], ["--from", "absent"],
     ["-n", 5, "--bits", 3, "--clip", 1], ["-n", 5, "--levels", 3], ["-n", 5, "--clip", 0],
     ["-n", 5, "--clip", "nan"], ["-n", 5, "--integers", 4, 3], ["-n", 5, "--integers", 4],
     ["-n", 5, "--dropout", "some"], ["-n", 5, "--dropout", "-1"], ["-n", 5, "--dropout", "nan"],
     ["-n", 5, "--dropout", "2.5"], ["-n", 5, "--dropout", "120%"], ["-n", 5, "--dropout", "inf"],
     ["-n", 1], ["-n", 5, "--length", 0], ["-n", 5, "--roster", "x"], ["--roster", "absent"],
     ["-n", 5, "--threat", "none"], ["-n", 5, "--clip", 1, "--levels", 2**53]],
)  # fmt: skip
def test_bad_plan_options_are_exit_code_2(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("plan", *options, code=2)


# graph and info.


def test_graph_prints_parameters():
    args = ["graph", "--adversarial", 0.1, "--dropout", 0.1]
    data = json.loads(run(*args, "-n", 1000, "-n", 5000, "--json").stdout)
    want = secagg.graph_parameters(1000, 0.1, 0.1, threat="semi-honest")
    assert (data["rows"][0]["neighbours"], data["rows"][0]["threshold"]) == tuple(want)
    assert data["rows"][0]["security_bits"] >= 40
    assert [row["clients"] for row in data["rows"]] == [1000, 5000]
    assert "1,000" in run(*args).stdout
    never = json.loads(run("graph", "-n", 100, "--json").stdout)["rows"][0]
    assert never["security_bits"] is None
    assert "never" in run("graph", "-n", 100).stdout


def test_graph_where_there_is_none():
    hard = ["graph", "--adversarial", 0.45, "--dropout", 0.45]
    text = run(*hard, "-n", 10, code=3).stderr
    assert "graph-parameters" in text
    assert "hint:" in text
    assert run(*hard, "-n", 10, "--json", code=3).stdout == ""
    mixed = run("graph", "--adversarial", 0.3, "--dropout", 0.3, "-n", 5, "-n", 1000).stdout
    assert "none" in mixed
    run("graph", "--adversarial", 1.5, code=2)
    run("graph", "--adversarial", 0.5, "--dropout", 0.6, code=3)
    run("graph", "--threat", "evil", code=2)


def test_info_tells_versions_and_features():
    import secagg_native

    data = json.loads(run("info", "--json").stdout)
    assert data["version"] == secagg.__version__
    assert data["kernel"] == secagg_native.variant()
    assert data["suite"] == secagg.SUITE
    assert {"aes", "vaes", "avx512f"} <= set(data["cpu_features"])
    assert "OpenSSL" in data["libraries"]["OpenSSL"]
    assert data["cores"] >= 1
    text = run("info").stdout
    assert all(what in text for what in ("libsodium", "mask kernel", "cryptography"))
    run("info", "extra", code=2)


def test_plan_never_ignores_an_option(tmp_path):
    file = tmp_path / "plan.toml"
    run("plan", "--clients", "7", "--toml", str(file))
    said = run("plan", "--clients", "8", "--toml", str(file), code=2).stderr
    assert said.endswith(
        "File exists; commands overwrite nothing, remove it or name another [file]\n"
    )
    for more in (["--length", "5"], ["--dropout", "3"], ["--threat", "semi-honest"]):
        refused = run("plan", "--from", str(file), *more, code=2)
        assert more[0] in refused.stderr
    run("plan", "--from", str(file), "--rounds", "5", "--json")
    assert "--norm" in run("plan", "--clients", "7", "--norm", "l2", code=2).stderr


@pytest.mark.parametrize("length", [1, 3, 4, 6, 8, 15, 20])
def test_short_vectors_are_not_called_a_failure(length, tmp_path):
    run(
        "simulate", "random", "--sites", "5", "--length", str(length), "--no-figures",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
