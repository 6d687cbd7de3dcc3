"""A platform that reads and changes assets, and tasks that are run again.

Every task runs from files, as on the platform; the assets and who may read them are known here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from integrations.substra.app import NumpyAlgo
from integrations.substra.experiment import NAMES, SERVER, SIZES, Experiment, out, plain_updates
from integrations.substra.platform import Task

import secagg
from secagg.integrations import envelope
from secagg.integrations.substra import steps
from secagg.integrations.substra.assets import Array, AssetFile, SiteOrders, SiteReport

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def test_files_give_the_same_model(experiment: Experiment) -> None:
    experiment.run()
    base = NumpyAlgo().arrays
    algos = [NumpyAlgo() for _ in NAMES]
    mean = None
    for _ in range(experiment.rounds + 1):
        found = [
            algo.train(data_from_opener=data, shared_state=mean, _skip=True)
            for algo, data in zip(algos, experiment.data, strict=True)
        ]
        mean = type("Mean", (), {})()
        mean.avg_parameters_update = [
            sum(
                state.parameters_update[i] * (state.n_samples / sum(SIZES)) for state in found
            ).astype(base[i].dtype)
            for i in range(2)
        ]
    for site, algo in zip(NAMES, algos, strict=True):
        for ours, theirs in zip(experiment.final(site), algo.model, strict=True):
            assert ours.dtype == theirs.dtype
            assert np.allclose(ours, theirs, atol=3e-6)
    # Of each exchange three reports, a state and orders; three initialisations, and the last
    # training.
    assert len(experiment.platform.tasks) == 3 + 2 * 5 + experiment.rounds * 15 + 3


def test_sites_that_count_the_same(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, rounds=1, max_weight=1)
    experiment.run()
    orders = AssetFile.load(
        experiment.platform.path(experiment.tasks("secagg_orders")[-1].shared or "")
    )
    assert isinstance(orders, SiteOrders)
    assert orders.arrays is not None
    for number, array in enumerate(orders.arrays):
        mean = np.mean([update[number] for update in plain_updates(experiment)], axis=0)
        assert np.allclose(array.array(), mean, atol=1e-5)


def test_plan_that_the_server_proposes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    policy = "smallest_cohort = 3\nmin_honest = 2\nmalicious_server = true\n"
    experiment = Experiment(tmp_path / "one", policy=policy, propose=True)
    experiment.strategy = experiment.made(propose=True)
    experiment.run()
    stricter = policy.replace("3", "4")
    experiment = Experiment(tmp_path / "two", policy=stricter, propose=True)
    experiment.strategy = experiment.made(propose=True)
    out(experiment, lambda task: None, "substra-out")


def test_who_reads_what(experiment: Experiment) -> None:
    experiment.run()
    for task in experiment.platform.tasks:
        shared = experiment.platform.readers.get(task.shared or "", frozenset())
        if task.method == "secagg_advance":
            assert shared == {SERVER}
        elif task.method == "secagg_orders":
            assert shared == {node.organization_id for node in experiment.nodes}
        else:
            assert experiment.platform.readers[task.local or ""] == {task.organisation}
            assert task.method == "initialize" or shared == {task.organisation, SERVER}


def test_no_secret_and_no_update_in_what_others_read(experiment: Experiment) -> None:
    experiment.run()
    platform = experiment.platform
    seeds = {name: bytes(identity._key) for name, identity in experiment.identities.items()}
    updates = [
        update.astype(dtype).tobytes()
        for arrays in plain_updates(experiment)
        for update in arrays
        for dtype in (update.dtype, np.float32, np.float64)
    ]
    found_own = 0
    for name, readers in platform.readers.items():
        data = platform.path(name).read_bytes()
        for seed in seeds.values():
            assert seed not in data
            assert seed.hex().encode() not in data
        # A site's model after training is its own; all others may read a state only without.
        hits = sum(update in data for update in updates)
        if hits and "local" in name:
            assert len(readers) == 1
            found_own += 1
        else:
            assert hits == 0
    assert found_own == 3  # so the search finds what is there
    for folder in platform.functions:
        data = (folder / "cls_cloudpickle").read_bytes()
        for name in NAMES:
            assert seeds[name] not in data
            assert seeds[name].hex().encode() not in data
    # The server's key is in the aggregation node's functions; the documentation says so.
    assert any(seeds["server"] in (f / "cls_cloudpickle").read_bytes() for f in platform.functions)


def test_sealed_state_and_journal_stay_at_the_site(experiment: Experiment) -> None:
    experiment.run()
    folder = experiment.folders["north"]
    kept = [
        path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size
    ]
    assert any(path.suffix == ".sealed" for path in folder.rglob("*"))
    for name in experiment.platform.readers:
        data = experiment.platform.path(name).read_bytes()
        assert not any(block in data for block in kept if len(block) >= 32)


def test_functions_are_few_whatever_the_rounds(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    experiment = Experiment(tmp_path / "many", rounds=4)
    experiment.run()
    found: list[Any] = []
    for task in experiment.platform.tasks:
        if task.struct not in found:
            found.append(task.struct)
    names = sorted(struct._method_name for struct in found)
    assert names == [
        "initialize",
        "secagg_advance",
        "secagg_answer",
        "secagg_enter",
        "secagg_orders",
        "secagg_train",
    ]


def test_opening_orders_are_the_same_whenever_they_are_made(experiment: Experiment) -> None:
    assert experiment.strategy._steps.opening() == experiment.strategy._steps.opening()
    assert experiment.strategy._steps.opening() != experiment.made()._steps.opening()


# What the platform changes.


@pytest.mark.parametrize("step", range(6))
def test_swapped_reports_change_nothing(experiment: Experiment, step: int) -> None:
    seen = []

    def tamper(task: Task) -> None:
        if task.method == "secagg_advance":
            seen.append(task)
            if len(seen) == step + 1:
                first = task.inputs["shared"]
                first[-1], first[-2] = first[-2], first[-1]

    experiment.run(tamper)
    models = [experiment.final(site) for site in NAMES]
    assert all(np.isfinite(array).all() for model in models for array in model)


@pytest.mark.parametrize("step", range(6))
def test_one_report_in_anothers_place(experiment: Experiment, step: int) -> None:
    seen = []

    def tamper(task: Task) -> None:
        if task.method == "secagg_advance":
            seen.append(task)
            if len(seen) == step + 1:
                task.inputs["shared"][-1] = task.inputs["shared"][-2]

    out(experiment, tamper, "substra-all")


@pytest.mark.parametrize("step", range(1, 6))
def test_old_report_again(experiment: Experiment, step: int) -> None:
    seen: list[Task] = []

    def tamper(task: Task) -> None:
        if task.method == "secagg_advance":
            seen.append(task)
            if len(seen) == step + 1:
                task.inputs["shared"][-1] = seen[step - 1].inputs["shared"][-1]

    out(experiment, tamper, "substra-all")


def test_report_of_another_session(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    first, second = (Experiment(folder) for folder in folders)
    first.run()
    foreign = first.platform.path(first.tasks("secagg_enter", "west")[0].shared or "")

    def tamper(task: Task) -> None:
        if task.method == "secagg_advance" and not second.tasks("secagg_advance"):
            shutil.copy(foreign, second.platform.path(task.inputs["shared"][-1]))

    out(second, tamper, "envelope")


@pytest.mark.parametrize(
    ("method", "which", "rule"),
    [
        ("secagg_train", 1, "substra-out"),
        # The last order again gets the last report again, which the server has.
        ("secagg_answer", 2, "substra-all"),
    ],
)
def test_old_orders_again(experiment: Experiment, method: str, which: int, rule: str) -> None:
    def tamper(task: Task) -> None:
        if task.method == method and task.organisation == "org-south":
            before = experiment.tasks(method, "south")
            if len(before) == which:
                task.inputs["shared"] = before[-1].inputs["shared"]

    out(experiment, tamper, rule)


@pytest.mark.parametrize("method", ["secagg_train", "secagg_answer"])
def test_orders_of_another_site(experiment: Experiment, method: str) -> None:
    def tamper(task: Task) -> None:
        if task.method == method and task.organisation == "org-south":
            path = experiment.platform.path(task.inputs["shared"])
            orders = AssetFile.load(path)
            assert isinstance(orders, SiteOrders)
            changed = {**orders.orders, "south": orders.orders["north"]}
            AssetFile.save(SiteOrders(changed, orders.arrays, orders.last), path)

    out(experiment, tamper, "substra-out")


def test_no_orders_for_a_site(experiment: Experiment) -> None:
    def tamper(task: Task) -> None:
        if task.method == "secagg_answer" and task.organisation == "org-south":
            path = experiment.platform.path(task.inputs["shared"])
            AssetFile.save(SiteOrders({"north": b""}), path)

    out(experiment, tamper, "substra-order")


def test_changed_mean(experiment: Experiment) -> None:
    """Another mean than the one that the order is about: the model has another digest."""

    def tamper(task: Task) -> None:
        if task.method == "secagg_train" and task.organisation == "org-south":
            path = experiment.platform.path(task.inputs["shared"])
            orders = AssetFile.load(path)
            assert isinstance(orders, SiteOrders)
            if orders.arrays is not None:
                moved = tuple(Array.of(array.array() + 1) for array in orders.arrays)
                AssetFile.save(SiteOrders(orders.orders, moved, orders.last), path)

    out(experiment, tamper, "substra-out")
    assert len(experiment.tasks("secagg_train", "south")) == 2


def test_mean_that_the_result_is_not(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that goes on with another mean than the one whose result it signs."""
    honest = steps.mean_arrays

    def doubled(forms: Any, aggregate: Any) -> Any:
        return {name: 2 * array for name, array in honest(forms, aggregate).items()}

    monkeypatch.setattr(steps, "mean_arrays", doubled)
    out(experiment, lambda task: None, "substra-result")


def test_older_local_state(experiment: Experiment) -> None:
    """A site that would train from another model than the server says does not."""

    def tamper(task: Task) -> None:
        before = experiment.tasks("secagg_train", "south")
        if task.method == "secagg_train" and task.organisation == "org-south" and len(before) == 2:
            task.inputs["local"] = before[0].local

    experiment.rounds = 3
    experiment.strategy = experiment.made()
    out(experiment, tamper, "substra-out")


def test_state_and_orders_in_the_wrong_place(experiment: Experiment) -> None:
    def state_to_site(task: Task) -> None:
        if task.method == "secagg_answer":
            task.inputs["shared"] = experiment.tasks("secagg_advance")[-1].shared

    out(experiment, state_to_site, "substra-order")


def test_bytes_that_are_no_asset(experiment: Experiment) -> None:
    def tamper(task: Task) -> None:
        if task.method == "secagg_answer":
            # The first bytes of a pickle; nothing of it is ever run.
            experiment.platform.path(task.inputs["shared"]).write_bytes(
                b"\x80\x04\x95cos\nsystem\n"
            )

    out(experiment, tamper, "asset")


def test_only_assets_are_written(tmp_path: Path) -> None:
    with pytest.raises(secagg.DecodeError, match="asset"):
        AssetFile.save({"weights": 1}, tmp_path / "asset")
    with pytest.raises(secagg.DecodeError, match="another size"):
        Array(Array.of(np.zeros(3)).form, b"1").array()


def test_other_shapes(experiment: Experiment) -> None:
    def tamper(task: Task) -> None:
        if task.method == "secagg_advance" and experiment.tasks("secagg_train", "west"):
            path = experiment.platform.path(task.inputs["shared"][-1])
            report = AssetFile.load(path)
            if isinstance(report, SiteReport) and report.forms:
                AssetFile.save(SiteReport(report.reply, report.forms[::-1]), path)

    out(experiment, tamper, "substra-layout")


# Who signs.


def test_orders_that_the_server_did_not_sign(experiment: Experiment) -> None:
    def tamper(task: Task) -> None:
        if task.method == "secagg_enter" and task.organisation == "org-south":
            opening = task.struct._method_parameters["opening"]
            request = envelope.unpack(envelope.Request, opening["south"])
            (message,) = request.messages
            changed = message[:-1] + bytes([message[-1] ^ 1])
            request = msgspec.structs.replace(request, messages=(changed,))
            opening["south"] = envelope.pack(request)

    out(experiment, tamper, "substra-out")


def test_server_key_is_not_shown(experiment: Experiment) -> None:
    key = steps.ServerKey(experiment.identities["server"])
    seed = bytes(experiment.identities["server"]._key)
    assert repr(key) == "ServerKey(...)"
    assert key == steps.ServerKey(experiment.identities["server"])
    assert hash(key) == hash(steps.ServerKey(experiment.identities["server"]))
    for text in (repr(experiment.strategy._steps), repr(experiment.strategy.kwargs)):
        assert seed.hex() not in text
        assert repr(seed) not in text


def test_report_is_an_envelope(experiment: Experiment) -> None:
    def tamper(task: Task) -> None:
        if task.method == "secagg_advance":
            path = experiment.platform.path(task.inputs["shared"][-1])
            AssetFile.save(SiteReport(envelope.pack(envelope.Reply(1, b"x", "train"))[:-1]), path)

    out(experiment, tamper, "envelope")
