"""The rules of a plan for a masked sum: its graph and its share threshold."""

from __future__ import annotations

from .choose import MaskedSum, in_bits
from .errors import PlanError
from .parameters import GraphSecurity, graph_security
from .plan_fields import PlanView


def _masked(plan: PlanView) -> bool:
    return isinstance(plan.protocol, MaskedSum)


class MaskedRules:
    """What a plan checks of a :class:`MaskedSum`; plans for another protocol pass."""

    __slots__ = ()

    @property
    def complete(self: PlanView) -> bool:
        """Whether every two sites share a mask; also of a protocol that draws no graph."""
        return not _masked(self) or self.protocol.neighbours == self.clients - 1

    def graph_security(self: PlanView) -> GraphSecurity:
        """Statistical security per round of this plan's graph, in bits."""
        return graph_security(
            self.clients,
            self.colluding,
            self.max_dropouts,
            self.protocol.neighbours,
            self.protocol.share_threshold,
        )

    def _check_graph_shape(self: PlanView) -> None:
        if not _masked(self):
            return
        k = self.protocol.neighbours
        if k == self.clients - 1 or (k % 2 == 0 and 2 <= k < self.clients - 1):
            return
        raise PlanError(
            f"{self.clients - 1} for the complete graph, or an even number from 2 to "
            f"{self.clients - 2}",
            rule="graph-shape",
            field="neighbours",
        )

    def _check_fixed_data_graph(self: PlanView) -> None:
        if self.fixed_data and not self.complete:
            raise PlanError(
                f"fixed data need the complete graph, {self.clients - 1} neighbours: a site of a "
                "sparse graph is not told who is in the sum, so it cannot compare two sums",
                rule="fixed-data-graph",
                field="neighbours",
            )

    def _check_share_threshold(self: PlanView) -> None:
        if not _masked(self):
            return
        t, k = self.protocol.share_threshold, self.protocol.neighbours
        if not 2 <= t <= k + 1:
            raise PlanError(
                f"from 2 to {k + 1}, the holders of one site's shares",
                rule="share-threshold",
                field="share_threshold",
            )
        if not self.complete:
            return
        if t > self.min_survivors:
            raise PlanError(
                f"{t} shares are needed and only {self.min_survivors} sites are sure to survive",
                rule="share-threshold",
                field="share_threshold",
            )
        if t <= self.colluding:
            raise PlanError(
                f"{self.colluding} colluding sites would hold {t} shares of everybody",
                rule="share-threshold",
                field="share_threshold",
            )

    def _check_one_survivor_set(self: PlanView) -> None:
        if not _masked(self):
            return
        t, n, c = self.protocol.share_threshold, self.clients, self.colluding
        # Over fixed data the law also makes any two sums of one roster share an honest site that
        # reveals for both, and so compares them, whatever got lost on the way to the others.
        # Sums of several rosters: `fixed-roster`, which a site checks.
        if (self.signed or self.fixed_data) and self.complete and 2 * t <= n + c:
            raise PlanError(
                f"twice {t} does not exceed {n} sites + {c} colluding: a server could have two "
                "survivor sets confirmed and open one site's vector "
                f"(it takes {(n + c) // 2 + 1})",
                rule="one-survivor-set",
                field="share_threshold",
            )

    def _check_sparse_threat(self: PlanView) -> None:
        if not self.complete and self.threat != "semi-honest":
            raise PlanError(
                "a sparse graph is drawn by the server, so it needs the semi-honest threat",
                rule="sparse-threat",
                field="neighbours",
            )

    def _check_sparse_security(self: PlanView) -> None:
        if self.complete:
            return
        found = self.graph_security()
        if found.security_bits < self.security_bits:
            raise PlanError(
                f"this graph gives {in_bits(found.security_bits)} a round "
                f"({in_bits(found.capture_bits)} against captured neighbours, "
                f"{in_bits(found.connectivity_bits)} against a split graph), "
                f"{self.security_bits} are asked for",
                rule="sparse-security",
                field="neighbours",
            )
