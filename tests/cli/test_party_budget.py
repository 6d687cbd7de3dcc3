"""party --budget: what a site's own file refuses, charges and remembers from command to command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from urllib.parse import quote

import pytest
from cli.test_party import LENGTH, SITES, Round, built_once, run, runner

import secagg
from secagg.cli import party as party_module
from secagg.cli.app import app
from secagg.dp import DiscreteGaussianSum, compose
from secagg_protocols.stages.noise import Noise

VARIANCE, DELTA, DATA = 4_000_000, 1e-5, "trial 7"
NOISE = Noise(law="discrete-gaussian", variance_levels2=VARIANCE)
CENTRAL = Noise(law="central-discrete-gaussian", variance_levels2=VARIANCE)


def spent(rounds, norm=1):
    """Epsilon of so many inputs, from the numbers: 4 sites, of which one may be missing and one
    collude, and counts up to 100; `norm` 2 where neighbours differ in another input."""
    mechanism = DiscreteGaussianSum(
        local_variance_levels2=VARIANCE, shares=2, l2_levels=norm * 100 * math.sqrt(LENGTH),
        dimension=LENGTH,
    )  # fmt: skip
    return compose([(mechanism, rounds)], delta=DELTA)


class Noisy(Round):
    """Rounds whose plan has noise, of which site `a` has a budget file."""

    def __init__(self, base, noise=NOISE, **more):
        super().__init__(base, **more)
        stages = (secagg.Integers(0, 100), *([noise] if noise else []))
        self.plan = secagg.Plan.recommend(
            roster=self.plan.roster, length=LENGTH, stages=stages, threat=self.plan.threat,
            colluding=1, max_dropouts=1, min_honest=2, sites_receive=True,
        )  # fmt: skip
        (base / "plan.toml").write_text(secagg.dump_plan(self.plan))
        self.file = base / "budget.toml"
        self.budget(10.0)

    def budget(self, epsilon, *lines, file=None):
        text = "\n".join([f"epsilon = {epsilon}", f"delta = {DELTA}", *lines])
        (file or self.file).write_text(text)

    def begin_budgeted(self, *more):
        """Up to where everybody may submit."""
        self.start("server")
        result = self.start("a", "--budget", self.file, "--data", DATA, *more)
        for name in SITES[1:]:
            self.start(name)
        self.up()
        self.step()
        self.do("close", "server")
        self.down()
        return result

    def another(self, name):
        """Another round of the same parties: their journals, folders of its own."""
        more = Noisy.__new__(Noisy)
        more.__dict__ = dict(self.__dict__)
        folders = self.base / name
        more.dir = lambda who: folders / f"party-{self.slot(who)}"
        folders.mkdir()

        def start(who, *args, code=0):
            journal = self.base / f"{quote(who, safe='')}.journal"
            return run(
                "start", more.dir(who), "--plan", self.base / "plan.toml", "--identity",
                self.key(who), "--session", name, "--round", 0, "--journal", journal, *args,
                code=code,
            )  # fmt: skip

        more.start = start
        return more

    def ledger(self, site="a"):
        return self.do("status", site)["ledger"]


@pytest.fixture
def rnd(tmp_path):
    return Noisy(tmp_path)


def sent(rnd):
    return sorted(path.name for path in (rnd.dir("a") / "outbox").glob("*.msg"))


def close_to(value):
    return pytest.approx(value, rel=1e-9)


def test_a_round_is_charged_once_and_status_tells(rnd):
    rnd.begin_budgeted()
    told = rnd.ledger()
    assert (told["spent"], told["remaining"], told["budget"]) == (0.0, 10.0, 10.0)
    assert (told["data"], told["delta"], told["entries"]) == (DATA, DELTA, [])
    for site in SITES:
        rnd.submit(site)
    told = rnd.ledger()
    assert told["spent"] == close_to(spent(1))
    assert told["remaining"] == close_to(10.0 - spent(1))
    assert [entry["rounds"] for entry in told["entries"]] == [1]
    text = rnd.do("status", "a", json_=False).stdout
    assert f"budget of data '{DATA}': epsilon {spent(1):.6g} of 10 spent at delta 1e-05" in text
    assert f"{10.0 - spent(1):.6g} left" in text
    rnd.up()
    for _ in range(3):
        rnd.step()
    assert rnd.result("server")[1]["survivors"] == list(SITES)
    assert rnd.ledger()["spent"] == close_to(spent(1))
    # The others have none, and the server has no budget to tell.
    assert "ledger" not in rnd.do("status", "d")
    assert "ledger" not in rnd.do("status", "server")


def test_account_tells_the_same(rnd):
    rnd.begin_budgeted()
    rnd.submit("a")
    told = rnd.ledger()
    args = ["dp", "account", rnd.base / "plan.toml", "--ledger", rnd.base / "a.journal"]
    args += ["--site", "a", "--data", DATA, "--epsilon", 10, "--delta", DELTA, "--json"]
    result = runner.invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    account = json.loads(result.stdout)
    assert account["rounds_left"][0]["rounds"] >= 1
    assert {key: account[key] for key in told} == told | {"rounds_left": account["rounds_left"]}
    assert account["spent"] == close_to(spent(1))


def test_an_input_that_would_overspend_is_not_written(rnd):
    """Two rounds at once, each of which the budget bears alone."""
    rnd.budget((spent(1) + spent(2)) / 2)
    rnd.begin_budgeted()
    other = rnd.another("other")
    other.begin_budgeted()
    rnd.submit("a")
    before, messages = (other.dir("a") / "state").read_bytes(), sent(other)
    result = other.submit("a", code=8)
    assert "[budget]" in result.stderr
    assert "goes on without this site" in result.stderr
    assert (other.dir("a") / "state").read_bytes() == before
    assert sent(other) == messages
    assert other.ledger()["spent"] == close_to(spent(1))
    status = other.do("status", "a")
    assert status["ended"] is None
    assert status["waits"]["for"] == "submit"
    # The round has its sum without it, and the site is told so.
    for site in SITES[1:]:
        other.submit(site)
    other.up(SITES[1:])
    other.do("close", "server")
    mails = dict(other.mail("server"))
    (row,) = other.do("receive", "a", mails["a"], code=5)["files"]
    assert (row["outcome"], row["rule"]) == ("dropped", "late")
    for site in SITES[1:]:
        other.do("receive", site, mails[site])
    other.up(SITES[1:])
    other.step(SITES[1:])
    other.step(SITES[1:])
    assert other.result("server")[1]["survivors"] == list(SITES[1:])
    assert other.do("status", "a")["ledger"]["spent"] == close_to(spent(1))


def test_a_party_that_was_refused_goes_on_under_a_larger_budget(rnd):
    rnd.budget(spent(1) / 2)
    assert "`submit` will refuse it" in rnd.begin_budgeted().stderr
    for _ in range(2):
        assert "[budget]" in rnd.submit("a", code=8).stderr
    assert rnd.ledger()["entries"] == []
    rnd.budget(spent(1) * 2, file=rnd.dir("a") / "budget.toml")
    rnd.submit("a")
    assert rnd.ledger()["spent"] == close_to(spent(1))


def test_a_later_round_remembers_whatever_its_session_and_folder(rnd):
    rnd.budget((spent(1) + spent(2)) / 2)
    rnd.begin_budgeted()
    rnd.submit("a")
    other = rnd.another("other")
    assert "`submit` will refuse it" in other.begin_budgeted().stderr
    assert "[budget]" in other.submit("a", code=8).stderr
    # Other data have a budget of their own.
    third = rnd.another("third")
    third.start("server")
    third.start("a", "--budget", rnd.file, "--data", "other data")
    assert third.ledger()["spent"] == 0.0


def test_a_command_that_died_after_the_charge_is_run_again_and_charged_once(rnd, monkeypatch):
    rnd.budget((spent(1) + spent(2)) / 2)
    rnd.begin_budgeted()

    class Death(BaseException):
        pass

    def die(*_):
        raise Death

    before = sent(rnd)
    with monkeypatch.context() as patch:
        patch.setattr(party_module.Desk, "save", die)
        with pytest.raises(Death):
            rnd.submit("a")
    assert sent(rnd) == before
    assert rnd.ledger()["spent"] == close_to(spent(1))
    rnd.submit("a")
    assert len(sent(rnd)) == len(before) + 1
    assert rnd.ledger()["spent"] == close_to(spent(1))


def test_every_command_may_be_a_process_of_its_own(rnd):
    """From the disk alone, in a process that has none of this one's memory."""
    rnd.begin_budgeted()
    command = [sys.executable, "-c", "from secagg.cli.app import main; main()", "party"]
    folder = [str(rnd.dir("a")), "--identity", str(rnd.key("a")), "--json"]
    for words in (["submit", folder[0], str(rnd.base / "0.npy"), *folder[1:]], ["status", *folder]):
        done = subprocess.run(
            [*command, *words], capture_output=True, text=True, check=True, env=dict(os.environ)
        )
    assert json.loads(done.stdout)["ledger"]["spent"] == close_to(spent(1))


def test_without_its_budget_file_a_party_does_not_go_on(rnd):
    rnd.begin_budgeted()
    copy = rnd.dir("a") / "budget.toml"
    text = copy.read_text()
    assert text == rnd.file.read_text()
    copy.unlink()
    for command in (["status"], ["submit", rnd.base / "0.npy"], ["receive", rnd.base / "0.npy"]):
        error = rnd.do(command[0], "a", *command[1:], code=2).stderr
        assert "budget.toml is missing" in error
        assert "[party-folder]" in error
    copy.write_text("epsilon = 3\n")
    assert "[options]" in rnd.do("status", "a", code=2).stderr
    copy.write_text(text)
    rnd.submit("a")
    assert rnd.ledger()["spent"] == close_to(spent(1))


BAD = {
    "empty": "",
    "no delta": "epsilon = 1.0",
    "no epsilon": "delta = 1e-5",
    "unknown field": "epsilon = 1.0\ndelta = 1e-5\nepsilom = 2",
    "a table": "[epsilon]\nx = 1\n[delta]\n",
    "text": 'epsilon = "1.0"\ndelta = 1e-5',
    "a truth": "epsilon = true\ndelta = 1e-5",
    "nothing to spend": "epsilon = 0\ndelta = 1e-5",
    "below nothing": "epsilon = -1\ndelta = 1e-5",
    "no bound": "epsilon = inf\ndelta = 1e-5",
    "no number": "epsilon = nan\ndelta = 1e-5",
    "beyond floats": f"epsilon = 1{'0' * 400}\ndelta = 1e-5",
    "delta of one": "epsilon = 1\ndelta = 1",
    "delta no number": "epsilon = 1\ndelta = nan",
    "adjacency": 'epsilon = 1\ndelta = 1e-5\nadjacency = "add-one"',
    "adjacencies": 'epsilon = 1\ndelta = 1e-5\nadjacency = ["zero-out"]',
    "adversary": 'epsilon = 1\ndelta = 1e-5\nadversary = "nobody"',
    "no toml": "epsilon: 1",
    "not text": b"\xff\xfe",
}


@pytest.mark.parametrize("content", BAD.values(), ids=list(BAD))
def test_a_bad_file_is_refused_before_anything_is_made(tmp_path_factory, bad_world, content):
    rnd = bad_world
    rnd.file.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(rnd.base.iterdir())
    error = rnd.start("a", "--budget", rnd.file, code=2).stderr
    assert error.startswith(f"error: {rnd.file}: ")
    assert error.endswith("[options]\n")
    assert "[arguments]" not in error
    assert sorted(rnd.base.iterdir()) == before


@pytest.fixture(scope="module")
def bad_world(tmp_path_factory):
    return Noisy(tmp_path_factory.mktemp("bad"))


def test_start_refuses_a_missing_file_and_a_budget_of_the_server(rnd):
    error = rnd.start("a", "--budget", rnd.base / "absent.toml", code=2).stderr
    assert "[options]" in error
    error = rnd.start("server", "--budget", rnd.file, code=2).stderr
    assert "a site's; the server has none" in error
    assert not rnd.dir("server").exists()


def test_the_other_fields_of_the_file_count(rnd):
    """Another input in place of this one is twice as far away as zeros."""
    rnd.budget(10.0, 'adjacency = "replace-one"', 'adversary = "model-consumer"')
    rnd.begin_budgeted()
    rnd.submit("a")
    told = rnd.ledger()
    assert (told["adjacency"], told["adversary"]) == ("replace-one", "model-consumer")
    assert told["spent"] == close_to(spent(1, norm=2))
    # What was kept under one adjacency is not counted on under another.
    other = rnd.another("other")
    rnd.budget(10.0)
    assert "[ledger-adjacency]" in other.start(
        "a", "--budget", rnd.file, "--data", DATA, code=2
    ).stderr  # fmt: skip
    assert not other.dir("a").exists()


@pytest.mark.parametrize(
    ("noise", "threat"), [(None, "malicious-server"), (CENTRAL, "semi-honest")]
)
def test_no_budget_bears_a_sum_without_noise_against_the_server(tmp_path, noise, threat):
    rnd = Noisy(tmp_path, noise, threat=threat)
    assert "`submit` will refuse it" in rnd.begin_budgeted().stderr
    before = sent(rnd)
    assert "[no-noise]" in rnd.submit("a", code=8).stderr
    assert sent(rnd) == before


def test_who_gives_no_budget_is_told_and_not_refused(rnd):
    result = rnd.start("d")
    assert "charged to no budget" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not rnd.start("server").stderr
    assert not rnd.start("a", "--budget", rnd.file, "--data", DATA).stderr


def test_who_forgets_the_budget_of_charged_data_is_told(rnd):
    rnd.begin_budgeted()
    rnd.submit("a")
    other = rnd.another("other")
    other.start("server")
    assert "were charged to a budget" in other.start("a", "--data", DATA).stderr
    third = rnd.another("third")
    assert "this plan has noise" in third.start("a", "--data", "other data").stderr


def test_a_plan_without_noise_says_nothing_about_budgets(tmp_path):
    rnd = Noisy(tmp_path, None)
    assert not rnd.start("a").stderr


__all__ = ["built_once"]
