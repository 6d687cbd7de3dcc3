"""FedAvg of substrafl with its mean as a secure sum, as a static compute plan."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from substrafl.remote import remote_data
from substrafl.strategies import FedAvg

from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.keys import Identity
from secagg_protocols.plan import MaskedSum, Plan
from secagg_protocols.plan_file import dump_plan, load_plan
from secagg_protocols.roster import SERVER_NAME

from .algo import SecAggAlgo
from .assets import ServerState, SiteOrders, SiteReport, aggregate_task
from .opener import plain_data
from .steps import ServerKey, Steps

_SESSION_SIZE: Final = 16


class SecAggFedAvg(FedAvg):
    """Federated averaging whose aggregation node sees the mean and no site's update.

    algo: a :class:`SecAggAlgo`. plan: of a masked sum with a malicious server, over vectors of as
    many coordinates as the update has; its sites are those of the experiment, and where its
    ``max_weight`` is 1 every site counts the same. identity: the one that the roster pins for the
    server. It is carried by the functions of the aggregation node, so it is for this and nothing
    else (``docs/integrations/substra.md``). num_rounds: as given to ``execute_experiment``.
    metric_functions: as for ``FedAvg``. propose: sites pin the roster and a policy, and take the
    plan from the orders. session: left out; nodes make the same session again.

    One object is one session, whose name is drawn here: it is executed once. :class:`PlanError`
    names what a plan lacks (``substra-threat``, ``substra-plan``, ``substra-algo``).
    """

    def __init__(
        self,
        algo: SecAggAlgo,
        plan: Plan | str,
        identity: Identity | ServerKey,
        num_rounds: int,
        metric_functions: dict[str, Any] | list[Any] | Callable[..., Any] | None = None,
        propose: bool = False,
        session: bytes | None = None,
    ) -> None:
        if not isinstance(algo, SecAggAlgo):
            raise PlanError(
                f"{type(algo).__name__} would hand its updates out; wrap it: SecAggAlgo(algo)",
                rule="substra-algo",
            )
        if not isinstance(plan, (Plan, str)):
            raise PlanError("a Plan is needed", rule="substra-plan", field="plan")
        if not isinstance(identity, (Identity, ServerKey)):
            raise PlanError(
                "the server's Identity is needed", rule="roster-member", field="identity"
            )
        # A node makes this object again from these arguments, the session's name among them.
        key = ServerKey(identity) if isinstance(identity, Identity) else identity
        text = dump_plan(plan) if isinstance(plan, Plan) else plan
        drawn = secrets.token_bytes(_SESSION_SIZE) if session is None else session
        super().__init__(algo=algo, metric_functions=metric_functions)
        self.kwargs = {
            "algo": algo,
            "plan": text,
            "identity": key,
            "num_rounds": num_rounds,
            "metric_functions": metric_functions,
            "propose": propose,
            "session": drawn,
        }
        self.plan = _checked(load_plan(text), key)
        if type(num_rounds) is not int or num_rounds < 1:
            raise PlanError("num_rounds is a whole number from 1", rule="substra-rounds")
        self._local_states: Any = None
        self._steps = Steps(self.plan, key, drawn, num_rounds, algo.start, propose)

    # The compute plan.

    def build_compute_plan(
        self,
        train_data_nodes: Any,
        aggregation_node: Any,
        evaluation_strategy: Any,
        num_rounds: int,
        clean_models: bool = True,
    ) -> None:
        """As ``Strategy.build_compute_plan``.

        :class:`PlanError` (``substra-sites``, ``substra-test-org``, ``substra-rounds``) for an
        experiment that the plan is not for.
        """
        if num_rounds != self._steps.rounds:
            raise PlanError(
                f"the strategy was made for {self._steps.rounds} rounds", rule="substra-rounds"
            )
        if aggregation_node is None:
            raise PlanError("an aggregation node is needed", rule="substra-sites")
        if len(train_data_nodes) != self.plan.clients:
            raise PlanError(
                f"the plan is over {self.plan.clients} sites and the experiment over "
                f"{len(train_data_nodes)} train nodes; a compute plan leaves none out",
                rule="substra-sites",
            )
        if evaluation_strategy is not None:
            train = {node.organization_id for node in train_data_nodes}
            strangers = sorted(set(evaluation_strategy.test_data_nodes_org_ids) - train)
            if strangers:
                raise PlanError(
                    f"{', '.join(strangers)} would test on another site's local model, which is "
                    "its update; a test node is at a train node's organisation",
                    rule="substra-test-org",
                )
        super().build_compute_plan(
            train_data_nodes=train_data_nodes,
            aggregation_node=aggregation_node,
            evaluation_strategy=evaluation_strategy,
            num_rounds=num_rounds,
            clean_models=clean_models,
        )

    def initialization_round(
        self,
        *,
        train_data_nodes: Any,
        clean_models: bool,
        round_idx: int | None = 0,
        additional_orgs_permissions: set[str] | None = None,
    ) -> None:
        """As ``Strategy.initialization_round``; no state is for other organisations."""
        super().initialization_round(
            train_data_nodes=train_data_nodes,
            clean_models=clean_models,
            round_idx=round_idx,
            additional_orgs_permissions=set(),
        )

    def perform_round(
        self,
        *,
        train_data_nodes: Any,
        aggregation_node: Any,
        round_idx: int,
        clean_models: bool,
        additional_orgs_permissions: set[str] | None = None,
    ) -> None:
        """The tasks of one round: consent, reveal, and the training that the next sum is of. Before
        the first one come the setup's two exchanges and the first training.

        additional_orgs_permissions: not granted; a local model is its site's alone.
        """
        nodes = _Nodes(train_data_nodes, aggregation_node)
        if round_idx == 1:
            opening = self._steps.opening()
            self._reports = [
                nodes.answer(node, self.algo.secagg_enter(node.data_sample_keys, opening=opening))
                for node in train_data_nodes
            ]
            self._state: Any = None
            orders = self._advance(nodes)
            orders = self._answered(nodes, orders)
            self._trained(nodes, orders, round_idx=0, clean_models=clean_models)
        orders = self._advance(nodes)  # the masked inputs are in; who consents?
        orders = self._answered(nodes, orders)
        orders = self._answered(nodes, orders, round_idx=round_idx, clean_models=clean_models)
        self._trained(nodes, orders, round_idx=round_idx, clean_models=clean_models)

    def _answered(self, nodes: _Nodes, orders: Any, **last: Any) -> Any:
        self._reports = [
            nodes.answer(node, self.algo.secagg_answer(node.data_sample_keys, shared_state=orders))
            for node in nodes.sites
        ]
        return self._advance(nodes, **last)

    def _advance(
        self, nodes: _Nodes, round_idx: int | None = None, clean_models: bool = True
    ) -> Any:
        """Two tasks: the server's next state, which is the aggregation node's own, and of it the
        orders, which are for all sites."""
        before = [] if self._state is None else [self._state]
        self._state = nodes.server.update_states(
            self.secagg_advance(shared_states=[*before, *self._reports]),
            authorized_ids={nodes.server.organization_id},
            clean_models=True,
        )
        return nodes.server.update_states(
            self.secagg_orders(shared_states=[self._state]),
            authorized_ids={node.organization_id for node in nodes.sites},
            round_idx=round_idx,
            clean_models=clean_models,
        )

    def _trained(self, nodes: _Nodes, orders: Any, *, round_idx: int, clean_models: bool) -> None:
        pairs = [
            node.update_states(
                self.algo.secagg_train(
                    node.data_sample_keys,
                    shared_state=orders,
                    _algo_name=f"Training with {type(self.algo.algo).__name__}",
                ),
                local_state=local,
                round_idx=round_idx,
                authorized_ids={node.organization_id},
                aggregation_id=nodes.server.organization_id,
                clean_models=clean_models,
            )
            for node, local in zip(nodes.sites, self._local_states, strict=True)
        ]
        self._local_states = [local for local, _ in pairs]
        self._reports = [shared for _, shared in pairs]

    # Tasks of the aggregation node, and of test nodes.

    @aggregate_task
    def secagg_advance(self, shared_states: Sequence[Any]) -> ServerState:
        """The state before, where there is one, and all sites' reports: the next state."""
        states = [found for found in shared_states if isinstance(found, ServerState)]
        reports = [found for found in shared_states if isinstance(found, SiteReport)]
        if len(states) > 1 or len(states) + len(reports) != len(shared_states):
            raise MisuseError("a step takes one state and reports", rule="substra-order")
        return self._steps.take(states[0] if states else None, reports)

    @aggregate_task
    def secagg_orders(self, shared_states: Sequence[Any]) -> SiteOrders:
        """Of a state what the sites get."""
        (state,) = shared_states
        if not isinstance(state, ServerState):
            raise MisuseError("orders are made of a state", rule="substra-order")
        return SiteOrders(state.orders, state.arrays, state.last)

    @remote_data
    def evaluate(self, data_from_opener: Any, shared_state: Any = None) -> dict[str, float]:
        """As ``Strategy.evaluate``; metric functions get the data alone."""
        predictions = self.algo.predict(data_from_opener, shared_state)
        data = plain_data(data_from_opener)
        return {
            name: metric(data_from_opener=data, predictions=predictions)
            for name, metric in self.metric_functions.items()
        }

    def avg_shared_states(self, shared_states: Any) -> Any:
        """Refused: this would be the mean over updates in the clear."""
        raise MisuseError("the mean is a secure sum here", rule="substra-strategy")


class _Nodes:
    """The nodes of one experiment."""

    def __init__(self, sites: Any, server: Any) -> None:
        self.sites, self.server = sites, server

    def answer(self, node: Any, operation: Any) -> Any:
        """An exchange at a site that keeps no model; only the aggregation node may read it."""
        _, report = node.update_states(
            operation,
            authorized_ids={node.organization_id},
            aggregation_id=self.server.organization_id,
            clean_models=True,
        )
        return report


def _checked(plan: Plan, key: ServerKey) -> Plan:
    if not plan.signed:
        raise PlanError(
            "the platform relays every message, so sites must sign theirs: the plan's threat is "
            "'malicious-server' here",
            rule="substra-threat",
            field="threat",
        )
    if not isinstance(plan.protocol, MaskedSum) or plan.fixed_data or not plan.sites_receive:
        raise PlanError(
            "a masked sum of updates that sites receive is needed: no Paillier sum (its holders "
            "have no tasks), no fixed data, sites_receive=True",
            rule="substra-plan",
        )
    if key.identity().public != plan.roster.server:
        raise PlanError(f"the roster pins another key for {SERVER_NAME!r}", rule="roster-member")
    return plan


__all__ = ["SecAggFedAvg"]
