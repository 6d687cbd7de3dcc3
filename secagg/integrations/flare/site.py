"""The site's end under FLARE: a component, an executor and two filters."""

from __future__ import annotations

import logging
import math
import os
import threading
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.filter import ContentBlockedException, Filter
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.logging.constants import is_log_streaming_allowed

from secagg.integrations import envelope
from secagg.integrations.layout import Array, Layout
from secagg.integrations.site import Contribution, SiteDesk, Withheld
from secagg.session import Wanted
from secagg_protocols.errors import MisuseError
from secagg_protocols.plan import Plan

from . import messages
from .messages import REPORT, SETTING, Setting

log: Final = logging.getLogger("secagg.integrations")

#: The id under which the job has the component.
STATE: Final = "secagg_state"
#: Where a site says what it is weighted by, if not by FLARE's number of steps.
WEIGHT: Final = "SECAGG_WEIGHT"
#: The only texts that a filter raises: FLARE may put them where others read them.
UNPROTECTED: Final = "this site answers under secure aggregation only [unprotected]"
NOT_IN_ROUND: Final = "this site is not in this round"


@dataclass(frozen=True, slots=True)
class _Training:
    """An order to train between the two filters of its task."""

    order: bytes
    setting: Setting
    model: bytes
    settings: bytes
    base: dict[str, Array] = field(repr=False)


class SecAggState(FLComponent):  # type: ignore[misc]
    """The party behind a FLARE client. Its id in the job is ``secagg_state``.

    threads: cores for masks. Which party it is, its plan, limits and journal come from its folder
    (:func:`secagg.integrations.flare.messages.party_folder`). What a session needs between two
    tasks is on the disk, so that a process per task is enough.

    It also looks at every result after all filters: one that is neither a report of this party
    nor without content is emptied, whatever the task is called, since FLARE's filters only see the
    tasks that they are named for.
    """

    def __init__(self, threads: int = 1) -> None:
        super().__init__()
        self.threads = threads
        self._desk: SiteDesk | None = None
        self._lock = threading.Lock()
        self._training: dict[str, _Training] = {}

    def desk(self, fl_ctx: FLContext) -> SiteDesk:
        """This party's desk. :class:`MisuseError` (``party-folder``) without a folder."""
        with self._lock:
            if self._desk is None:
                folder = messages.party_folder(fl_ctx, fl_ctx.get_identity_name())
                self._desk = SiteDesk(folder, threads=self.threads)
                log.info("secagg: this site is %s", self._desk.name)
                if is_log_streaming_allowed(fl_ctx):
                    log.warning(
                        "secagg: FLARE may send this site's log, and so the reasons of its "
                        'failures, to the server: set "allow_log_streaming": false in the '
                        "site's resources.json"
                    )
            return self._desk

    def begin(self, task_id: str, training: _Training) -> None:
        """Keep an order until the task's result is there."""
        self._training = {task_id: training}  # a client works on one task at a time

    def end(self, task_id: str) -> _Training | None:
        """The order that a result answers, once."""
        return self._training.pop(task_id, None)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Empty a result that leaves without protection."""
        if event_type != EventType.AFTER_TASK_RESULT_FILTER:
            return
        result = fl_ctx.get_prop(FLContextKey.TASK_RESULT)
        if not isinstance(result, Shareable) or messages.report_alone(result):
            return
        log.warning("emptied a result without protection [unprotected]")
        result.clear()
        result.update(make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR))


def state_of(fl_ctx: FLContext) -> SecAggState:
    """The component. :class:`MisuseError` (``component``) where the job has none."""
    engine = fl_ctx.get_engine()
    state = engine.get_component(STATE) if engine is not None else None
    if not isinstance(state, SecAggState):
        raise MisuseError(
            f"the job has no SecAggState with the id {STATE!r} at this site", rule="component"
        )
    return state


class SecAggExecutor(Executor):  # type: ignore[misc]
    """Answers the exchanges in which nobody trains: ``tasks=["secagg"]``."""

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """One order in, one report out. An order to train is answered without training. Never
        raises: the server gets a return code, and the reason is logged here."""
        try:
            order = messages.take_order(shareable)
            if order is None:
                log.warning("a task %r came without an order", task_name)
                return make_reply(ReturnCode.BAD_TASK_DATA)
            return _reply(state_of(fl_ctx).desk(fl_ctx).answer(order).reply)
        except Exception:
            log.exception("this site could not answer as a party")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)


class SecAggOrderFilter(Filter):  # type: ignore[misc]
    """Takes the order out of the task to train, and remembers the broadcast model.

    ``FilterType.TASK_DATA``, the last of the task's filters, so that it sees what the executor
    sees. A task without an order raises ``ContentBlockedException``, and the executor is not
    called.
    """

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The task's data without the order, and without all that the round does not bind."""
        task_id = fl_ctx.get_prop(FLContextKey.TASK_ID)
        order = messages.take_order(shareable)
        stated = shareable.pop(SETTING, None)
        if order is None:
            log.warning("refused a task that asks for results without protection [unprotected]")
            raise ContentBlockedException(UNPROTECTED)
        try:
            state = state_of(fl_ctx)
            setting = messages.unpack_setting(stated)
            base, model, settings = messages.model_of(shareable, stated)
            if envelope.unpack(envelope.Request, order).task != "train":
                raise MisuseError("an order of another task in a task to train", rule="setting")
            told = messages.bound_alone(shareable, base)
            # Copies are told, since training may change the arrays in their place.
            state.begin(task_id, _Training(order, setting, model, settings, base))
        except Exception:
            log.exception("this site cannot train for the sum")
            raise ContentBlockedException(NOT_IN_ROUND) from None
        return told


class SecAggFilter(Filter):  # type: ignore[misc]
    """Puts this site's report in the place of what was trained.

    ``FilterType.TASK_RESULT``, the last of the task's filters; those for privacy go before it.
    Nothing of the result but the sum's masked vector leaves: a new message is made. A result
    without an order raises ``ContentBlockedException``; one that is no model (an error of the
    executor, other shapes, no whole weight) is answered with "not in this round", the reason being
    logged here.
    """

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """A message with the report alone."""
        try:
            state = state_of(fl_ctx)
            training = state.end(fl_ctx.get_prop(FLContextKey.TASK_ID))
        except Exception:
            log.exception("this site could not answer as a party")
            raise ContentBlockedException(NOT_IN_ROUND) from None
        if training is None:
            log.warning("blocked a result that no order asked for [unprotected]")
            raise ContentBlockedException(UNPROTECTED)
        try:
            desk = state.desk(fl_ctx)

            def work(wanted: Wanted) -> Contribution:
                who = f"{desk.name}: round {wanted.round}"
                return _contribution(shareable, training, desk.plan_for(training.order), who)

            return _reply(desk.answer(training.order, work).reply)
        except Exception:
            log.exception("this site could not answer as a party")
            raise ContentBlockedException(NOT_IN_ROUND) from None


def _reply(report: bytes) -> Shareable:
    reply = make_reply(ReturnCode.OK)
    reply[REPORT] = report
    return reply


def _contribution(result: Shareable, training: _Training, plan: Plan, who: str) -> Contribution:
    """What was trained, as this site's vector."""
    if result.get_return_code() != ReturnCode.OK:
        raise Withheld(f"the executor answered with {result.get_return_code()}")
    metrics = training.setting.bounds()
    layout = Layout.of(training.base)
    metrics.check(plan, layout)
    found = _trained(result)
    new, base = messages.arrays_of(found.data), training.base
    if found.data_kind == DataKind.WEIGHT_DIFF:
        base = {name: np.zeros_like(value) for name, value in base.items()}
    # The framework does not keep the order of names.
    new = {name: new[name] for name in base if name in new} | new
    values = found.meta.get(MetaKey.INITIAL_METRICS) or {}
    vector = metrics.join(layout.difference(new, base), values, plan, who)
    weight = _weight(found.meta, training.setting, plan)
    return Contribution(vector, weight, training.model, training.settings)


def _trained(result: Shareable) -> DXO:
    try:
        found = from_shareable(result)
    except ValueError:
        raise MisuseError("the result holds no model", rule="reply") from None
    if found.data_kind not in {DataKind.WEIGHTS, DataKind.WEIGHT_DIFF}:
        raise MisuseError("the result holds neither a model nor a difference", rule="reply")
    return found


def _weight(meta: dict[str, Any], setting: Setting, plan: Plan) -> int:
    """A site's weight. Where the plan says that weights are 1, every site counts the same."""
    if plan.max_weight == 1:
        return 1
    own = os.environ.get(WEIGHT, MetaKey.NUM_STEPS_CURRENT_ROUND)
    if setting.weight != own:
        # A weight of the server's choosing could be 0, or small, at all sites but one.
        raise MisuseError(f"this site is weighted by {own!r} and nothing else", rule="setting")
    value = meta.get(setting.weight)
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value != int(value):  # type: ignore[arg-type]
        raise MisuseError(f"the result's meta has no whole number {setting.weight!r}", rule="reply")
    return int(value)  # type: ignore[arg-type]


__all__ = [
    "NOT_IN_ROUND",
    "STATE",
    "UNPROTECTED",
    "SecAggExecutor",
    "SecAggFilter",
    "SecAggOrderFilter",
    "SecAggState",
    "state_of",
]
