"""A client's filters, executor and component in FLARE's own client runner."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from integrations.flare import jobs, trainer
from integrations.flare.clients import Server, Site, train_data
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.executor import Executor
from nvflare.apis.filter import ContentBlockedException
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from nvflare.app_common.app_constant import AppConstants

from secagg.integrations import envelope
from secagg.integrations.flare import SecAggFilter, SecAggOrderFilter, messages, site
from secagg.integrations.layout import Layout
from secagg_protocols.errors import MisuseError, ThresholdError

SITES = 5
#: What FLARE itself puts on a result.
HEADERS = {"__rc__", "__task_name__", "__task_id__", "__audit_event_id__"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Makes a server and five sites; trains: by FLARE's name, executors in place of Trainer."""
    monkeypatch.setenv("SECAGG_SIMULATION_FOLDER", str(tmp_path / "parties"))

    def make(trains=None, without=(), **options):
        plan, _ = jobs.make_folders(tmp_path / "parties", SITES, **options)
        sites = {}
        for number in range(1, SITES + 1):
            name = f"site-{number}"
            executor = (trains or {}).get(name) or trainer.Trainer()
            gone = without if number == SITES else ()
            sites[name] = Site(tmp_path, name, executor, without=gone)
        return Server(plan, tmp_path / "parties" / "server", sites)

    return make


class Answers(Executor):
    """An executor that answers as it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.calls = answer, 0

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        self.calls += 1
        return self.answer(shareable)


def mean_of(inside, name):
    total = sum(trainer.weight(n, 0) for n in inside)
    steps = [trainer.weight(n, 0) * trainer.update(n, 0, name, jobs.SHAPES[name]) for n in inside]
    return sum(steps) / total


def check_sum(total, inside):
    layout = Layout.of(jobs.start())
    moved = layout.apply({n: np.zeros_like(v) for n, v in jobs.start().items()}, total.mean[:-1])
    for name in jobs.SHAPES:
        assert np.abs(moved[name] - mean_of(inside, name)).max() < 1e-5


def test_a_round_through_the_runners(world):
    server = world()
    total = server.round(jobs.start())
    assert len(total.survivors) == SITES
    check_sum(total, [1, 2, 3, 4, 5])
    for _, _, reply in server.replies:
        assert reply.get_return_code() == ReturnCode.OK
        assert set(reply) == {ReservedHeaderKey.HEADERS, messages.REPORT}


def raising(_):
    raise ValueError(trainer.PRIVATE_TEXT)


def failing(_):
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply["hint"] = trainer.PRIVATE_TEXT
    reply.set_header("hint", trainer.PRIVATE_TEXT)
    return reply


def no_model(_):
    return Shareable({"hint": trainer.PRIVATE_TEXT})


def other_shapes(_):
    data = {"w": np.ones(3), "hint": np.ones(2)}
    return DXO(DataKind.WEIGHTS, data=data, meta={"hint": trainer.PRIVATE_TEXT}).to_shareable()


def no_weight(_):
    model = jobs.start()
    return DXO(DataKind.WEIGHTS, data=model, meta={"hint": trainer.PRIVATE_TEXT}).to_shareable()


def half_weight(_):
    meta = {"NUM_STEPS_CURRENT_ROUND": 2.5, "initial_metrics": {"loss": 0.5}}
    return DXO(DataKind.WEIGHTS, data=jobs.start(), meta=meta).to_shareable()


def not_finite(_):
    model = {**jobs.start(), "b": np.asarray(np.nan)}
    meta = {"NUM_STEPS_CURRENT_ROUND": 2, "initial_metrics": {"loss": 0.5}}
    return DXO(DataKind.WEIGHTS, data=model, meta=meta).to_shareable()


FAULTS = [raising, failing, no_model, other_shapes, no_weight, half_weight, not_finite]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_at_a_site_stays_there(world, fault):
    server = world({"site-5": Answers(fault)})
    total = server.round(jobs.start())
    assert len(total.survivors) == SITES - 1
    check_sum(total, [1, 2, 3, 4])
    assert trainer.PRIVATE_TEXT not in repr([reply for _, _, reply in server.replies])
    # The site is back in the next round.
    server.sites["site-5"].runner.task_router.task_table["train"] = trainer.Trainer()
    again = server.round(jobs.start(), last=True)
    assert len(again.survivors) == SITES


def test_texts_of_failures_are_one(world):
    """Whatever the reason is, the server gets replies of one kind from a site that trains."""
    seen = []
    server = world()
    for round_, fault in enumerate([failing, no_model, other_shapes, half_weight, not_finite]):
        server.sites["site-5"].runner.task_router.task_table["train"] = Answers(fault)
        server.replies.clear()
        # Another model each time: inputs are counted by it.
        server.round({n: v + v.dtype.type(round_) for n, v in jobs.start().items()}, round_=round_)
        (reply,) = [r for n, task, r in server.replies if (n, task) == ("site-5", "train")]
        found = envelope.unpack(envelope.Reply, messages.report_in(reply))
        seen.append((found.refused, [len(message) for message in found.messages]))
        assert reply[ReservedHeaderKey.HEADERS].keys() == HEADERS
    # The first round's report also has keys of the next.
    assert len({repr(each) for each in seen}) == 1


def test_a_task_without_an_order_does_not_reach_the_executor(world):
    executor = Answers(no_weight)
    server = world({"site-5": executor})
    site = list(server.sites.values())[-1]
    data, *_ = train_data(jobs.start())
    reply = site.task("train", data)
    assert reply.get_return_code() == ReturnCode.TASK_DATA_FILTER_ERROR
    assert executor.calls == 0
    assert set(reply) == {ReservedHeaderKey.HEADERS}


@pytest.mark.parametrize("order", [b"nonsense", b"", 5, None])
def test_a_task_with_a_false_order_does_not_reach_the_executor(world, order):
    executor = Answers(no_weight)
    site = list(world({"site-5": executor}).sites.values())[-1]
    data, *_ = train_data(jobs.start())
    data[messages.ORDER] = order
    assert site.task("train", data).get_return_code() == ReturnCode.TASK_DATA_FILTER_ERROR
    assert executor.calls == 0


def test_tasks_that_no_filter_is_on_leave_empty(world):
    """FLARE's filters know tasks by name; the component sees the results of all."""
    executor = Answers(no_weight)
    site = list(world({"site-5": executor}).sites.values())[-1]
    reply = site.task("submit_model", train_data(jobs.start())[0])
    assert executor.calls == 1
    assert reply.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert set(reply) == {ReservedHeaderKey.HEADERS}


@pytest.mark.parametrize("without", ["order", "report", "state"])
def test_a_job_that_lacks_a_part_gives_nothing_away(world, without):
    server = world(without=(without,))
    total = server.round(jobs.start())
    assert len(total.survivors) == SITES - 1
    for name, task, reply in server.replies:
        if (name, task) == ("site-5", "train"):
            assert reply.get_return_code() != ReturnCode.OK
            assert set(reply) == {ReservedHeaderKey.HEADERS}


def test_an_order_to_train_in_the_other_task_adds_nothing(world):
    server = world()
    site = server.sites["site-5"]

    class Elsewhere(Site):
        def __init__(self):
            pass

        def task(self, name, data):
            return site.task("secagg", data)

    server.sites["site-5"] = Elsewhere()
    assert len(server.round(jobs.start()).survivors) == SITES - 1


def other_weights(name, task, content):
    if (name, task) == ("site-5", "train"):
        content["DXO"]["data"]["w"] = content["DXO"]["data"]["w"] + 1


def other_meta(name, task, content):
    if (name, task) == ("site-5", "train"):
        content["DXO"]["meta"]["note"] = "another"


def other_round(name, task, content):
    if (name, task) == ("site-5", "train"):
        content.set_header("current_round", 7)


def other_metrics(name, task, content):
    if (name, task) == ("site-5", "train"):
        content[messages.SETTING] = messages.pack_setting(
            messages.Setting("NUM_STEPS_CURRENT_ROUND", (("private", 1.0),))
        )


def other_weight_key(name, task, content):
    if (name, task) == ("site-5", "train"):
        content[messages.SETTING] = messages.pack_setting(
            messages.Setting("rare-disease", (("loss", 1.0),))
        )


@pytest.mark.parametrize(
    "change", [other_weights, other_meta, other_round, other_metrics, other_weight_key]
)
def test_a_site_that_is_told_something_else_adds_nothing(world, change):
    total = world().round(jobs.start(), change=change)
    assert len(total.survivors) == SITES - 1
    check_sum(total, [1, 2, 3, 4])


def test_a_site_is_weighted_by_what_it_says_itself(world, monkeypatch):
    """With a weight that is 0 at all sites but one, the sum would be that site's update."""
    monkeypatch.setenv(site.WEIGHT, "examples")
    with pytest.raises(ThresholdError):
        world().round(jobs.start())


def test_a_site_is_warned_of_log_streaming(world, caplog, monkeypatch):
    server = world()
    server.clients.find(["site-1"], None, None)
    assert '"allow_log_streaming": false' in caplog.text
    caplog.clear()
    monkeypatch.setattr(site, "is_log_streaming_allowed", lambda _: False)
    server.clients.find(["site-2"], None, None)
    assert "allow_log_streaming" not in caplog.text


def test_a_difference_is_taken_as_one(world):
    names = [f"site-{n}" for n in range(1, SITES + 1)]
    server = world({name: trainer.Trainer(diff=True) for name in names})
    check_sum(server.round(jobs.start()), [1, 2, 3, 4, 5])


def test_a_round_with_too_few_sites_raises(world):
    server = world({name: Answers(raising) for name in ("site-1", "site-2", "site-3")})
    with pytest.raises(ThresholdError):
        server.round(jobs.start())


def test_filters_block_without_their_component(tmp_path):
    site = Site(tmp_path, "site-1", trainer.Trainer(), without=("state",))
    with site.engine.new_context() as fl_ctx:
        with pytest.raises(ContentBlockedException, match="secure aggregation only"):
            SecAggOrderFilter().process(train_data(jobs.start())[0], fl_ctx)
        with pytest.raises(ContentBlockedException):
            SecAggFilter().process(no_weight(None), fl_ctx)


def test_a_party_folder_comes_from_the_site(tmp_path, monkeypatch, world):
    monkeypatch.delenv("SECAGG_FOLDER", raising=False)
    server = world()
    site = next(iter(server.sites.values()))
    parties = tmp_path / "parties"
    with site.engine.new_context() as fl_ctx:
        assert messages.party_folder(fl_ctx, "site-2").name == "hospital-b"
        with pytest.raises(MisuseError, match="party-folder"):
            messages.party_folder(fl_ctx, "../server")
        monkeypatch.setenv("SECAGG_FOLDER", str(parties / "site-3"))
        assert messages.party_folder(fl_ctx, "site-2").name == "hospital-c"
        file = tmp_path / "flare" / "site-1" / "local" / "secagg.json"
        file.write_text(json.dumps({"folder": str(parties / "site-4")}))
        assert messages.party_folder(fl_ctx, "site-2").name == "hospital-d"
        for text in ("", "[]", '{"folder": 3}', '{"folder": ""}'):
            file.write_text(text)
            with pytest.raises(MisuseError, match="party-folder"):
                messages.party_folder(fl_ctx, "site-2")
        file.unlink()
        monkeypatch.delenv("SECAGG_FOLDER")
        monkeypatch.delenv("SECAGG_SIMULATION_FOLDER")
        with pytest.raises(MisuseError, match="does not know which party"):
            messages.party_folder(fl_ctx, "site-2")


class Keeps(trainer.Trainer):
    """Trains, and keeps what it was told."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        self.told = copy.deepcopy(shareable)
        return super().execute(task_name, shareable, fl_ctx, abort_signal)


def test_an_executor_sees_nothing_that_is_not_bound(world):
    """A server tells one site more than the others: nothing of it arrives, in whatever place."""
    executors = {f"site-{number}": Keeps() for number in range(1, SITES + 1)}
    server = world(executors)
    more = {
        AppConstants.VALIDATE_TYPE: "before_train_validate",
        AppConstants.SUBMIT_MODEL_NAME: "best",
        MetaKey.SITE_NAME: "north",
        MetaKey.JOB_ID: "x",
        "switch": "north only",
    }

    def change(name, task, data):
        if name != "site-2" or task != "train":
            return
        for key, value in more.items():
            data.set_header(key, value)
        data["anything"] = {"freeze": True}
        found = data["DXO"]
        found["meta"][MetaKey.FILTER_HISTORY] = ["north only"]
        found["data"] = {
            key: value.astype(value.dtype.newbyteorder(">"), order="F")
            for key, value in found["data"].items()
        }

    total = server.round(jobs.start(), change=change)
    assert len(total.survivors) == SITES
    check_sum(total, [1, 2, 3, 4, 5])
    plain, told = (executors[name].told for name in ("site-1", "site-2"))
    # FLARE numbers its own events.
    loose = {"__audit_event_id__", "__peer_props__"}
    headers = [
        {k: v for k, v in each.pop(ReservedHeaderKey.HEADERS).items() if k not in loose}
        for each in (plain, told)
    ]
    assert headers[0] == headers[1]
    models = [each["DXO"].pop("data") for each in (plain, told)]
    assert plain == told
    for name, value in models[0].items():
        other = models[1][name]
        assert (value.dtype.str, value.strides) == (other.dtype.str, other.strides)
        assert np.array_equal(value, other)
