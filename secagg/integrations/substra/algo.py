"""The sites' side: an algorithm of substrafl whose update leaves a site only inside a sum."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from substrafl.algorithms.algo import Algo
from substrafl.remote import remote
from substrafl.strategies.schemas import FedAvgAveragedState, FedAvgSharedState, StrategyName

from secagg.integrations import envelope
from secagg.integrations.layout import Layout, Metrics
from secagg.integrations.site import Answer, Contribution, SiteDesk
from secagg.session import Finished, Wanted
from secagg_protocols.errors import MisuseError, PeerError, PlanError, SecAggError

from .assets import Form, SiteOrders, SiteReport, data_task
from .opener import party_of, plain_data
from .steps import Arrays, first_model, mean_arrays, named, next_model, zeros

_MAGIC: Final = b"secagg substra local state v1\n"
_MODEL_SIZE: Final = 32
#: Rules about how an experiment was set up, which may leave a site by name. Any other reason may
#: speak of its data, and stays in its log.
_OPEN_RULES: Final = ("layout", "plan-differs", "plan-pinned", "roster-member", "roster-pinned")


class SecAggAlgo(Algo):
    """A FedAvg algorithm of substrafl, for :class:`SecAggFedAvg`.

    algo: any whose ``train`` returns a ``FedAvgSharedState``; :class:`PlanError`
    (``substra-algo``) otherwise. start: names the model that training starts from. Inputs of a site
    are counted by model, over all experiments on its data, so experiments from another start have
    another name: bytes of the first parameters are a good one.

    The opener returns :func:`with_party`; the wrapped algorithm sees its data alone.
    """

    def __init__(self, algo: Algo, start: bytes = b"") -> None:
        super().__init__(algo=algo, start=start)
        # Not by its class: substrafl's tasks carry a base class of their own with an algorithm that
        # was written in a script.
        if isinstance(algo, SecAggAlgo) or not callable(getattr(algo, "train", None)):
            raise PlanError("an algorithm of substrafl is needed", rule="substra-algo")
        if StrategyName.FEDERATED_AVERAGING not in algo.strategies:
            raise PlanError(
                f"{type(algo).__name__} is made for {[str(s.value) for s in algo.strategies]}; a "
                "secure sum replaces the mean of federated averaging and nothing else",
                rule="substra-algo",
            )
        if type(start) is not bytes:
            raise PlanError("start is bytes", rule="substra-algo", field="start")
        self.algo, self.start = algo, start
        self._model: bytes | None = None  # stands for the model of the round under way
        self._bare = False

    # What substrafl asks of an algorithm.

    @property
    def model(self) -> Any:
        """The wrapped algorithm's model."""
        return self.algo.model

    @property
    def strategies(self) -> list[Any]:
        """Federated averaging."""
        return [StrategyName.FEDERATED_AVERAGING]

    @remote
    def initialize(self, shared_states: Any) -> Any:
        """The wrapped algorithm's."""
        return self.algo.initialize(shared_states, _skip=True)

    def train(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: another strategy would hand this site's update out as it is."""
        raise MisuseError(
            "an algorithm for secure sums trains under SecAggFedAvg only", rule="substra-strategy"
        )

    def predict(self, data_from_opener: Any, shared_state: Any = None) -> Any:
        """The wrapped algorithm's, on its data."""
        return self.algo.predict(plain_data(data_from_opener), shared_state)

    def summary(self) -> dict[str, Any]:
        """The wrapped algorithm's, and that it is wrapped."""
        return {**self.algo.summary(), "secagg": str(type(self))}

    def save_local_state(self, path: Path) -> None:
        """The wrapped algorithm's state, after the bytes that stand for its model."""
        if self._bare:
            Path(path).write_bytes(_MAGIC)
            return
        with tempfile.TemporaryDirectory() as folder:
            inner = Path(folder) / "state"
            self.algo.save_local_state(inner)
            model = self._model or bytes(_MODEL_SIZE)
            Path(path).write_bytes(_MAGIC + model + inner.read_bytes())

    def load_local_state(self, path: Path) -> Any:
        """What :meth:`save_local_state` wrote; :class:`MisuseError` (``substra-state``)."""
        data = Path(path).read_bytes()
        start = len(_MAGIC) + _MODEL_SIZE
        if not data.startswith(_MAGIC) or len(data) < start:
            raise MisuseError("a local state of another kind", rule="substra-state")
        model = data[len(_MAGIC) : start]
        self._model = None if model == bytes(_MODEL_SIZE) else model
        with tempfile.TemporaryDirectory() as folder:
            inner = Path(folder) / "state"
            inner.write_bytes(data[start:])
            self.algo = self.algo.load_local_state(inner)
        return self

    # Tasks. Their names are those of functions on the platform.

    @data_task
    def secagg_enter(
        self, data_from_opener: Any, shared_state: Any, opening: dict[str, bytes]
    ) -> SiteReport:
        """The first exchange. opening: its orders, which no task of the server comes before."""
        return self._exchange(data_from_opener, SiteOrders(opening))

    @data_task
    def secagg_answer(self, data_from_opener: Any, shared_state: SiteOrders) -> SiteReport:
        """An exchange that needs no data: shares, consent, reveal."""
        return self._exchange(data_from_opener, shared_state)

    @data_task
    def secagg_train(self, data_from_opener: Any, shared_state: SiteOrders) -> SiteReport:
        """Apply the mean, train, and put the update into the next sum; after the last one train
        and let nothing out."""
        self._bare = False
        site = _Site(data_from_opener, shared_state)
        arrays = None
        if shared_state.arrays is not None:
            arrays = named(array.array() for array in shared_state.arrays)
        self._model = self._moved(arrays)
        if shared_state.last:
            # The last order comes after the training, so that a task which is killed in it
            # can be run again: nothing else says whose mean this is.
            self._train(data_from_opener, arrays)
            answer = site.desk.answer(site.request)
            _require(answer, answer.error is None)
            if not answer.results:
                raise PeerError("the last mean came without its result", rule="substra-result")
            self._same(answer.results, arrays)
            return SiteReport(b"")
        forms: tuple[Form, ...] = ()
        model = self._model
        plan = site.plan()

        def work(_: Wanted) -> Contribution:
            nonlocal forms
            update, weight = self._train(data_from_opener, arrays)
            layout = Layout.of(update)
            Metrics().check(plan, layout)
            forms = tuple(Form.of(array) for array in update.values())
            if plan.max_weight == 1:
                weight = 1  # the plan says that every site counts the same
            return Contribution(layout.difference(update, zeros(forms)), weight, model)

        answer = site.desk.answer(site.request, work)
        _require(answer, answer.sent_input)
        self._same(answer.results, arrays)
        return SiteReport(answer.reply, forms)

    def _exchange(self, data: Any, orders: SiteOrders) -> SiteReport:
        self._bare = True
        site = _Site(data, orders)
        answer = site.desk.answer(site.request)
        _require(answer, answer.error is None)
        return SiteReport(answer.reply)

    def _moved(self, arrays: Arrays | None) -> bytes:
        if arrays is None:
            return first_model(self.start)
        if self._model is None:
            raise MisuseError(
                "this site has no model that the mean update could move", rule="substra-state"
            )
        return next_model(self._model, arrays)

    def _train(self, data: Any, arrays: Arrays | None) -> tuple[Arrays, int]:
        state = None
        if arrays is not None:
            state = FedAvgAveragedState(avg_parameters_update=list(arrays.values()))
        found = self.algo.train(data_from_opener=plain_data(data), shared_state=state, _skip=True)
        if not isinstance(found, FedAvgSharedState):
            raise MisuseError(
                f"train of {type(self.algo).__name__} returned a {type(found).__name__}, not a "
                "FedAvgSharedState",
                rule="substra-shared-state",
            )
        return named(found.parameters_update), int(found.n_samples)

    @staticmethod
    def _same(results: tuple[Finished, ...], arrays: Arrays | None) -> None:
        """The mean that this site goes on with is the one that the server signed for its session.

        Compared up to rounding: two machines may decode one sum with other last bits.
        """
        aggregate = results[-1].aggregate if results else None
        if arrays is None or aggregate is None:
            # Of an order that was taken before, in a task that was killed, the result does not come
            # again. The order states the digest of this mean in any case.
            return
        signed = mean_arrays([Form.of(array) for array in arrays.values()], aggregate)
        for name, array in arrays.items():
            scale = float(np.max(np.abs(array), initial=0.0))
            if not np.allclose(signed[name], array, rtol=1e-5, atol=1e-6 * scale):
                raise PeerError(
                    "the mean is not the one of the signed result", rule="substra-result"
                )


class _Site:
    """This site's party, and what the orders say to it."""

    def __init__(self, data: Any, orders: SiteOrders) -> None:
        if not isinstance(orders, SiteOrders):
            raise PeerError("a task of a site is given orders", rule="substra-order")
        self.desk = SiteDesk(party_of(data))
        request = orders.orders.get(self.desk.name)
        if request is None:
            raise PeerError(f"there is no order for {self.desk.name}", rule="substra-order")
        self.request = request

    def plan(self) -> Any:
        """The site's plan of this session."""
        return self.desk.plan_for(self.request)


def _require(answer: Answer, done: bool) -> None:
    """:class:`MisuseError` (``substra-out``) where the site has no report, without a reason."""
    error = answer.error
    if isinstance(error, SecAggError) and (
        error.rule in _OPEN_RULES or error.rule.startswith("substra-")
    ):
        raise error
    if not done or not envelope.unpack(envelope.Reply, answer.reply).messages:
        raise MisuseError(
            "this site has no report for this order; the reason is in its own log. Where the "
            "session was used before, build the strategy anew",
            rule="substra-out",
        )


__all__ = ["SecAggAlgo"]
