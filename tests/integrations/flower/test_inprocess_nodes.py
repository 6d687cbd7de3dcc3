"""Nodes that never become sites: the server's program ends with the reason, and does not wait."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

import secagg
from secagg.integrations.flower import Fault, secagg_mod
from secagg.integrations.flower import grid as grid_module
from secagg.integrations.flower import nodes as module
from secagg.integrations.folder import write_folders
from secagg_protocols.errors import MisuseError, ThresholdError
from secagg_protocols.plan_file import dump_plan

from .worlds import CLIP, NAMES, fed_avg, make_plan, start_arrays, toy_app

REFUSES = "min_honest = 99\n"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """A strategy that waits for nodes is a test that hangs."""

    def wait(_):
        raise AssertionError("the strategy waits for nodes")

    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", wait)


class Waits(list):
    """Nodes that come while the grid waits, the last one first."""

    grid = None

    def __call__(self, seconds):
        assert seconds == 1.0
        if self.grid is not None:
            self.grid.offline.discard(self.pop())


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    found = Waits()
    monkeypatch.setattr(grid_module.time, "sleep", found)
    return found


def start(grid, n=5, **options):
    return fed_avg(n, **options).start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def refuse(made, *names):
    for name in names:
        (made.folders[name] / "policy.toml").write_text(REFUSES, encoding="utf-8")


def test_one_site_that_refuses_is_a_dropout(world):
    made = world()
    refuse(made, "south")
    grid = made.grid(toy_app())
    start(grid, 4)
    assert grid.reports[0].survivors == tuple(name for name in NAMES if name != "south")


def test_more_sites_that_refuse_than_the_plan_bears(world):
    made = world()
    refuse(made, "south", "west")
    grid = made.grid(toy_app())
    with pytest.raises(ThresholdError) as caught:
        start(grid)
    assert caught.value.rule == "no-parties"
    assert (caught.value.have, caught.value.need) == (3, 4)
    assert "node 1002: south refuses this session [floors]" in str(caught.value)
    assert "node 1004: west refuses this session [floors]" in str(caught.value)
    assert "north" not in str(caught.value)


def test_refusals_count_while_others_have_not_come_yet(world):
    """Two of five refuse: the last three need not be waited for."""
    made = world()
    refuse(made, "north", "south")
    grid = made.grid(toy_app())
    made.inner.offline |= {1003, 1004, 1005}
    with pytest.raises(ThresholdError, match="no-parties"):
        start(grid)


def test_a_site_that_refused_and_comes_back(world):
    made = world()
    refuse(made, "south")
    grid = made.grid(toy_app())
    assert len(list(grid.get_node_ids())) == 4
    (made.folders["south"] / "policy.toml").unlink()
    made.inner.offline.add(1002)
    made.inner.add(toy_app(), made.nodes[1])
    assert len(list(grid.get_node_ids())) == 5
    refuse(made, "west")
    made.inner.offline.add(1004)
    made.inner.add(toy_app(), made.nodes[3])
    assert len(list(grid.get_node_ids())) == 4  # the refusal of south is forgotten


def test_nodes_that_have_not_come_yet_are_no_error(world):
    made = world()
    grid = made.grid(toy_app())
    made.inner.offline |= {1002, 1003, 1004, 1005}
    assert list(grid.get_node_ids()) == [1001]
    made.inner.offline.clear()
    start(grid)


def test_an_app_without_the_mod(world, caplog):
    """It fails on the question who it is, or answers it: either way it is said, and all end."""

    def fails(message, context):
        return message.content["arrays"]

    def answers(message, context):
        content = RecordDict({"metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    made = world()
    for train, reason in ((fails, "its app has no "), (answers, "its app needs ")):
        grid = made.grid(toy_app(mods=[], train=train), strategy=fed_avg())
        with pytest.raises(ThresholdError) as caught:
            for _ in range(3):  # one that says nothing is asked again
                grid.get_node_ids()
        assert caught.value.rule == "no-parties"
        assert f"{reason}@app.train(mods=[secagg_mod])" in str(caught.value)
        assert "node 1001, 1002, 1003, 1004, 1005: " in str(caught.value)


def stranger(made, tmp_path, name="elsewhere"):
    """A node of another study: its folder is of another consortium."""
    roster, identities = secagg.Roster.generate([name, "b", "c", "d", "e"])
    folders = write_folders(tmp_path / name, make_plan(roster, 5), identities)
    return made.inner.add(toy_app(), {"secagg": str(folders[name])})


def test_strangers_and_second_nodes_end_nothing(world, waits, tmp_path, caplog):
    """They fill no site's place: three sites are there, and the others come later."""
    made = world()
    grid = made.grid(toy_app())
    for name in ("stranger", "other", "third"):
        stranger(made, tmp_path, name)
    for _ in range(3):  # one site's key at more nodes
        made.inner.add(toy_app(), made.nodes[0])
    made.inner.offline |= {1004, 1005}
    waits.extend([1004, 1005])
    waits.grid = made.inner
    start(grid, 4)
    assert grid.reports[0].survivors == ("north", "south", "east", "centre")
    assert caplog.text.count("is kept out") >= 6


def test_sites_that_are_away_between_two_rounds_end_nothing(world, monkeypatch, tmp_path):
    """Nodes that are no sites stay; Flower's strategies wait for the sites."""
    made = world()
    grid = made.grid(toy_app(), on_failure="skip_round")
    for name in ("stranger", "other", "third"):
        stranger(made, tmp_path, name)
    waited = []

    def back(seconds):
        waited.append(seconds)
        made.inner.offline.clear()

    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", back)

    class Leaving(FedAvg):
        def configure_train(self, server_round, *args):
            if server_round == 2:
                made.inner.offline |= {1001, 1002, 1003}
            return super().configure_train(server_round, *args)

    strategy = fed_avg(kind=Leaving)
    strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=3)
    assert waited
    assert [len(report.survivors) for report in grid.reports] == [5, 5, 5]


def test_sites_that_refuse_later_end_nothing(world, monkeypatch, caplog):
    """Restarted under another policy, after a round: what is trained is not lost with the run."""
    made = world()
    grid = made.grid(toy_app(), on_failure="skip_round")

    class Leaving(FedAvg):
        def configure_train(self, server_round, *args):
            if server_round == 2:
                for at in (0, 1):
                    refuse(made, NAMES[at])
                    made.inner.offline.add(1001 + at)
                    made.inner.add(toy_app(), made.nodes[at])
            return super().configure_train(server_round, *args)

    strategy = fed_avg(3, kind=Leaving)
    strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=3)
    assert [report.outcome for report in grid.reports] == ["done", "aborted", "aborted"]
    assert caplog.text.count("refuses this session [floors]") == 2


def test_only_strangers_end_the_program(world, tmp_path):
    made = world()
    grid = made.grid(toy_app())
    for name in ("one", "two", "three", "four", "five"):
        stranger(made, tmp_path, name)
    made.inner.offline |= {1001, 1002, 1003, 1004, 1005}
    with pytest.raises(ThresholdError, match="a node is no party of the roster") as caught:
        start(grid)
    assert caught.value.rule == "no-parties"


def test_a_wrong_folder_setting(world):
    made = world()
    for node in made.nodes:
        node["secagg"] = str(made.folders["server"] / "nowhere")
    grid = made.grid(toy_app(), strategy=fed_avg())
    with pytest.raises(ThresholdError, match="its own log may say why"):
        start(grid)


def test_an_evaluation_without_the_mod_is_found_before_training(world):
    """Whether the app fails on the question or answers it; the model's inputs are not used up."""

    def fails(message, context):
        return message.content["arrays"]

    for evaluate in (fails, None):
        made = world(evaluate=2)
        app = toy_app(evaluate_mods=[])
        if evaluate is not None:
            app = toy_app(evaluate_mods=[], score=evaluate)
        grid = made.grid(app, evaluate_metrics={"loss": 9.0, "accuracy": 1.0})
        with pytest.raises(ThresholdError, match="evaluate: the plan's sums") as caught:
            start(grid, fraction_evaluate=1.0)
        assert caught.value.rule == "no-parties"
        assert grid.reports == []
        shutil.rmtree(made.folders["server"].parent)


def test_a_strategy_waits_for_as_many_sites_as_a_sum_needs(world, waits):
    """Flower's own default starts with two nodes; here they come one by one."""
    made = world()
    grid = made.grid(toy_app())
    made.inner.offline |= {1001, 1002, 1003, 1004, 1005}
    waits.extend([1003, 1001, 1005, 1004, 1002])
    made.inner.offline.discard(waits.pop())
    waits.grid = made.inner
    start(grid, 2)
    assert [len(report.survivors) for report in grid.reports] == [4]
    assert list(waits) == [1003]


def test_a_node_whose_app_fails_once_is_asked_again(world):
    """A full disk, say, at one moment: it is a site all the same, and nobody waits for it."""
    made = world()
    met = []

    def failing(message, context, call_next):
        met.append(context.node_config["partition-id"])
        if met.count(2) == 1 and met[-1] == 2:
            raise OSError("no space left")
        return secagg_mod(message, context, call_next)

    grid = made.grid(toy_app(mods=[failing]), strategy=fed_avg())
    assert 1003 not in grid.get_node_ids()
    assert sorted(grid.get_node_ids()) == [1001, 1002, 1003, 1004, 1005]
    assert met.count(2) == 2


def test_a_node_that_is_away_is_not_asked_without_end(world):
    made = world()
    grid = made.grid(
        toy_app(), strategy=fed_avg(4), fault=lambda d: Fault.DROP if d.number == 2 else None
    )
    assert len(list(grid.get_node_ids())) == 4


def test_who_is_missing_is_said_again(world, caplog, monkeypatch):
    made = world()
    refuse(made, "south")
    grid = made.grid(toy_app(), strategy=fed_avg())
    made.inner.offline |= {1004}
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO):
        for _ in range(50):
            grid.get_node_ids()
            now[0] += 5.0
    said = [each.getMessage() for each in caplog.records]
    assert said.count("secagg: no node yet for south, west") == 5
    assert said.count("secagg: node 1002 is kept out: south refuses this session [floors]") == 5


def test_a_plan_of_integers_is_refused_at_the_server(world):
    made = world()
    plan = made.plan
    whole = secagg.Plan.recommend(
        plan.roster,
        length=5,
        stages=(secagg.Integers(0, 9),),
        threat="semi-honest",
        colluding=1,
        max_dropouts=1,
    )
    for name in (*NAMES, "server"):
        (made.folders[name] / "plan.toml").write_text(dump_plan(whole), encoding="utf-8")
    grid = made.grid(toy_app())
    with pytest.raises(MisuseError, match="plan it with a clip") as caught:
        start(grid)
    assert caught.value.rule == "layout"
    assert grid.reports == []


def test_a_clip_that_bites_is_in_the_sites_log(world, caplog):
    made = world()
    loud = np.arange(5) == 2

    def train(message, context):
        at = int(context.node_config["partition-id"])
        (record,) = message.content.array_records.values()
        for array_name, array in record.items():
            value = array.numpy() + (3 * CLIP if loud[at] else 0.0)
            record[array_name] = type(array)(np.asarray(value))
        return Message(
            RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 2})}),
            reply_to=message,
        )

    start(made.grid(toy_app(mods=[secagg_mod], train=train)))
    said = [each.getMessage() for each in caplog.records if "clip" in each.getMessage()]
    assert said == [
        f"east: round 0: the update is beyond the plan's clip {CLIP:.4g}, and is clipped"
    ]


def test_reasons_leave_out_sites_that_were_not_asked(world, caplog):
    made = world()
    plan = make_plan(made.plan.roster, 5)
    assert plan.min_survivors == 4
    grid = made.grid(toy_app())
    with pytest.raises(ThresholdError):
        start(grid, fraction_train=0.4, min_train_nodes=2)
    assert "are out, and their own logs say why" not in caplog.text
