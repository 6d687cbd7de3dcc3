"""The server's end under FLARE: a workflow in the place of FedAvg."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from nvflare.apis.client import Client
from nvflare.apis.dxo import MetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.base_fedavg import make_fedavg_metrics_aggregation_info
from nvflare.app_common.workflows.fedavg import FedAvg

from secagg.integrations.layout import Array, Layout
from secagg.integrations.rounds import RoundReport, Rounds
from secagg_protocols.errors import MisuseError, PlanError, SecAggError, ThresholdError
from secagg_protocols.events import Aggregate
from secagg_protocols.roster import SERVER_NAME

from . import messages
from .carrier import Clients, JobAborted
from .messages import SETTING, TASK, Setting

log: Final = logging.getLogger("secagg.integrations")

ABORT: Final = "abort"
SKIP_ROUND: Final = "skip_round"
#: In the job's folder at the server: what became of each round.
REPORTS: Final = "secagg_rounds.json"
#: Entries of a model's meta that a round's result has.
_OWN: Final = frozenset(
    {
        "nr_aggregated",
        "current_round",
        MetaKey.NUM_STEPS_CURRENT_ROUND,
        AppConstants.METRICS_AGGREGATION_INFO,
    }
)


class SecAggFedAvg(FedAvg):  # type: ignore[misc]
    """FLARE's FedAvg, with a secure sum in place of single results.

    num_clients: sites that train in a round; ``None`` for all. Sites that are not drawn stay out of
    the sum, so that the plan's ``max_dropouts`` has to bear them. model: initial arrays by name, or
    nested lists of them; without it the persistor has the model. dtypes: of the arrays of
    ``model``, by name; float64 where none is given. metrics: names of the results' metrics that are
    in the sum, each with its largest absolute value; all others are withheld. weight_key: the entry
    of a result's meta that it is weighted by. on_failure: a round without a sum fails the job
    (``"abort"``) or leaves the model as it was, with a warning (``"skip_round"``); a job without
    any sum fails. timeout, train_timeout: seconds of one exchange, and of the one in which sites
    train. propose: send the plan to sites that pin the roster only. threads: cores that opening a
    sum may use. The others as of FedAvg.

    The server's party folder comes from its own side, as a site's does. ``reports`` has one entry a
    round. :class:`PlanError` (``config``) for values that cannot be meant.
    """

    def __init__(
        self,
        num_clients: int | None = None,
        num_rounds: int = 5,
        start_round: int = 0,
        persistor_id: str = AppConstants.DEFAULT_PERSISTOR_ID,
        model: Mapping[str, Any] | None = None,
        dtypes: Mapping[str, str] | None = None,
        save_filename: str = "FL_global_model.fobs",
        stop_cond: str | None = None,
        patience: int | None = None,
        task_name: str = AppConstants.TASK_TRAIN,
        metrics: Mapping[str, float] | None = None,
        weight_key: str = MetaKey.NUM_STEPS_CURRENT_ROUND,
        on_failure: str = ABORT,
        timeout: int = 300,
        train_timeout: int = 3600,
        propose: bool = False,
        threads: int = 1,
    ) -> None:
        super().__init__(
            persistor_id=persistor_id,
            num_clients=num_clients,
            num_rounds=num_rounds,
            start_round=start_round,
            save_filename=save_filename,
            stop_cond=stop_cond,
            patience=patience,
            task_name=task_name,
        )
        for name, value in {"timeout": timeout, "train_timeout": train_timeout}.items():
            if not _whole(value):
                raise _wrong("whole seconds above 0 are needed", name)
        if not _whole(num_rounds):
            raise _wrong("a whole number from 1 is needed", "num_rounds")
        if num_clients is not None and not _whole(num_clients):
            raise _wrong("a whole number from 1, or None for all, is needed", "num_clients")
        if on_failure not in {ABORT, SKIP_ROUND}:
            raise _wrong(f"{ABORT!r} or {SKIP_ROUND!r}", "on_failure")
        if task_name == TASK:
            raise _wrong(f"the task to train cannot be {TASK!r}", "task_name")
        try:
            Setting(weight_key, tuple((metrics or {}).items())).bounds()
        except MisuseError as error:
            raise _wrong(str(error).removesuffix(f" [{error.rule}]"), "metrics") from None
        # FLARE writes a job's arguments as JSON, and finds them by the names of the attributes.
        self.model, self.dtypes = _listed(model, dtypes)
        self.metrics = None if metrics is None else dict(metrics)
        self.weight_key = weight_key
        self.on_failure = on_failure
        self.timeout = timeout
        self.train_timeout = train_timeout
        self.propose = propose
        self.threads = threads
        self._rounds: Rounds | None = None
        self._clients: Clients | None = None

    @property
    def reports(self) -> list[RoundReport]:
        """What became of each round."""
        return [] if self._rounds is None else self._rounds.reports

    # The workflow.

    def run(self) -> None:
        """All rounds. What ends one without a sum is raised, which FLARE makes a failed job of."""
        try:
            self._train()
        except JobAborted:
            self.info("the job was aborted")
        finally:
            self._write_reports()

    def _train(self) -> None:
        folder = messages.party_folder(self.fl_ctx, SERVER_NAME)
        plan = folder.plan()
        if plan.max_weight == 1:
            log.info("secagg: max_weight of the plan is 1: every site counts the same")
        rounds = Rounds(
            plan,
            identity=folder.identity,
            folder=folder,
            propose=self.propose,
            threads=self.threads,
        )
        self._rounds = rounds
        self._clients = Clients(
            self, rounds, timeout=self.timeout, train_timeout=self.train_timeout
        )
        self.fl_ctx.set_prop(AppConstants.NUM_ROUNDS, self.num_rounds, private=True, sticky=False)
        model = self._first_model()
        setting = Setting(self.weight_key, tuple((self.metrics or {}).items()))
        layout = Layout.of(messages.arrays_of(model.params))
        setting.bounds().check(plan, layout)
        setting.bounds().tell_steps(plan, layout)
        model.start_round, model.total_rounds = self.start_round, self.num_rounds
        after = self.start_round + self.num_rounds
        for number in range(self.start_round, after):
            self._begin(model, number)
            found = self._summed(model, setting, last=number == after - 1)
            if found is None:
                continue
            self.fire_event_with_data(
                AppEventType.AFTER_AGGREGATION,
                self.fl_ctx,
                AppConstants.AGGREGATION_RESULT,
                found,
            )
            model = self.update_model(model, found)
            if self.stop_condition is None or self.is_curr_model_better(model):
                self.save_model(model)
            self._maybe_cleanup_memory()
            if self.should_stop(model.metrics):
                self.info(f"stopping after round {number}")
                break
        rounds.finish(
            lambda requests, slot: self._book.carry(requests, slot, self.fl_ctx, self.abort_signal)
        )
        if all(report.outcome != "done" for report in rounds.reports):
            raise ThresholdError(
                "no round of this job came to a sum, so that there is no trained model",
                rule="no-sum",
                step="job",
                have=0,
                need=1,
            )

    @property
    def _book(self) -> Clients:
        if self._clients is None:
            raise MisuseError("the workflow has not begun", rule="no-exchange")
        return self._clients

    def _first_model(self) -> FLModel:
        if self.model is None:
            found = self.load_model()
            if found is None or not found.params:
                raise MisuseError(
                    "there is no initial model: give model=, or a persistor", rule="layout"
                )
            return found
        dtypes = self.dtypes or {}
        return FLModel(
            params_type=ParamsType.FULL,
            params={
                name: np.array(value, dtype=dtypes.get(name, "float64"))
                for name, value in self.model.items()
            },
        )

    def _begin(self, model: FLModel, number: int) -> None:
        self.current_round = model.current_round = number
        self.set_fl_context(model)
        self.event(AppEventType.ROUND_STARTED)
        listed = [client.name for client in self.engine.get_clients()]
        self._book.find(listed, self.fl_ctx, self.abort_signal)

    def _summed(self, model: FLModel, setting: Setting, *, last: bool) -> FLModel | None:
        """One round; ``None`` where it is skipped."""
        rounds = self._rounds
        if rounds is None:
            raise MisuseError("the workflow has not begun", rule="no-exchange")
        # Of the last round, and no part of what sites train from.
        model.metrics = None
        model.meta = {name: v for name, v in (model.meta or {}).items() if name not in _OWN}
        data = self._build_shareable(model)
        stated = messages.pack_setting(setting)
        base, stands, settings = messages.model_of(data, stated)
        data[SETTING] = stated
        sampled = self._sampled()
        least = rounds.plan.min_survivors
        if len(sampled) < least:
            log.warning(
                "secagg: %d sites are to train, and the plan's sums are of %d at least",
                len(sampled),
                least,
            )

        def transport(requests: Mapping[str, bytes], slot: Any) -> Any:
            return self._book.carry(
                requests,
                slot,
                self.fl_ctx,
                self.abort_signal,
                train=(self.task_name, data),
                sampled=sampled,
            )

        try:
            total = rounds.run(stands, transport, settings=settings, last=last)
            self.event(AppEventType.BEFORE_AGGREGATION)
            return self._result(base, setting, total)
        except SecAggError as error:
            if self.on_failure != SKIP_ROUND:
                raise
            self.warning(f"round {self.current_round} is skipped: {error}")
            return None

    def _sampled(self) -> list[str]:
        """Clients that train in this round."""
        sites = self._book.sites
        if self.num_clients is None or self.num_clients >= len(sites):
            return list(sites)
        drawn = self.sample_clients()
        return [client for client in drawn if client in sites][: self.num_clients]

    def _result(self, base: Mapping[str, Array], setting: Setting, total: Aggregate) -> FLModel:
        """The model of the round, in the shapes and dtypes of the broadcast one."""
        update, metrics = setting.bounds().split(total.sum / total.weight, self._plan())
        return FLModel(
            params_type=ParamsType.FULL,
            params=Layout.of(base).apply(base, update),
            metrics=metrics or None,
            current_round=self.current_round,
            meta={
                "nr_aggregated": len(total.survivors),
                "current_round": self.current_round,
                MetaKey.NUM_STEPS_CURRENT_ROUND: int(total.weight),
                AppConstants.METRICS_AGGREGATION_INFO: make_fedavg_metrics_aggregation_info(
                    weight_key=self.weight_key
                ),
            },
        )

    def _plan(self) -> Any:
        return self._rounds.plan if self._rounds is not None else None

    def _write_reports(self) -> None:
        if not self.reports:
            return
        text = json.dumps([report.to_dict() for report in self.reports], indent=1)
        Path(self.get_run_dir(), REPORTS).write_text(text, encoding="utf-8")

    def process_result_of_unknown_task(
        self,
        client: Client,
        task_name: str,
        client_task_id: str,
        result: Shareable,
        fl_ctx: FLContext,
    ) -> None:
        """A result that came too late is left alone."""
        log.info("secagg: client %s answered %s too late", client.name, task_name)


def _listed(
    model: Mapping[str, Any] | None, dtypes: Mapping[str, str] | None
) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
    """Arrays as nested lists, and their dtypes."""
    if model is None:
        return None, None if dtypes is None else dict(dtypes)
    if not isinstance(model, Mapping) or not model:
        raise _wrong("a dict of arrays by name is needed", "model")
    kinds, found = dict(dtypes or {}), {}
    for name, given in model.items():
        value = given
        if isinstance(given, np.ndarray):
            kinds.setdefault(name, given.dtype.name)
            value = given.tolist()
        try:
            array = np.asarray(value, dtype=kinds.get(name, "float64"))
        except (TypeError, ValueError):
            raise _wrong(f"{name!r} is no array of numbers", "model") from None
        if array.dtype.kind == "f" and not all(map(math.isfinite, array.ravel().tolist())):
            raise _wrong(f"{name!r} holds numbers that are not finite", "model")
        found[name] = value
    return found, kinds or None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _wrong(text: str, name: str) -> PlanError:
    return PlanError(text, rule="config", field=name)


__all__ = ["ABORT", "REPORTS", "SKIP_ROUND", "SecAggFedAvg"]
