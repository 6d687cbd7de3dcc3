"""What a plan with noise claims, as plain data of the plan (``plan.privacy``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.plan import Plan
from secagg_protocols.stages import Noise

Adjacency = Literal["zero-out", "replace-one"]
Adversary = Literal["server", "model-consumer"]
ADJACENCIES: Final[tuple[Adjacency, ...]] = get_args(Adjacency)
ADVERSARIES: Final[tuple[Adversary, ...]] = get_args(Adversary)


def noise_of(plan: Plan) -> Noise:
    """The noise stage of ``plan``; :class:`PlanError` (``dp-noise``) where it has none."""
    if not isinstance(plan, Plan):
        raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")
    noise = plan.pipeline.noise
    if noise is None:
        raise PlanError("the plan has no noise", rule="dp-noise", field="stages")
    return noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Epsilon and delta over all rounds, and what they mean. Any number here is only a claim.

    adjacency: what neighbouring inputs are. adversary: whom it holds against. rounds: masked
    inputs of a site that it covers. sampling_rate: of Poisson sampling, 1.0 without.
    """

    adjacency: Adjacency
    adversary: Adversary
    delta: float
    epsilon: float
    rounds: int
    sampling_rate: float

    @classmethod
    def of(cls, plan: Plan) -> Claims:
        """The claims of ``plan``, which its noise can keep in kind.

        Raises :class:`PlanError`: ``dp-noise`` for a plan without noise; ``dp-claims`` for claims
        that are missing or out of range; ``dp-promise`` for one against a server that sees past
        the noise.
        """
        noise = noise_of(plan)
        found: dict[str, Any] = dict(plan.privacy or ())
        kinds = (
            ("adjacency", str, lambda value: value in ADJACENCIES),
            ("adversary", str, lambda value: value in ADVERSARIES),
            ("epsilon", float, lambda value: value > 0),
            ("delta", float, lambda value: 0 < value < 1),
            ("rounds", int, lambda value: value >= 1),
            ("sampling_rate", float, lambda value: 0 < value <= 1),
        )
        wrong = [
            name
            for name, kind, right in kinds
            if type(found.get(name)) is not kind or not right(found[name])
        ]
        if wrong:
            raise PlanError(
                f"the plan claims no {', '.join(wrong)}; secagg dp calibrate does",
                rule="dp-claims",
                field="privacy",
            )
        claims = cls(**{name: found[name] for name, _, _ in kinds})
        if found.get("mechanism", noise.law) != noise.law:
            raise PlanError(
                f"the plan claims {found['mechanism']}, its noise is {noise.law}",
                rule="dp-promise",
                field="privacy",
            )
        sampled = claims.sampling_rate < 1
        if claims.adversary == "server" and (sampled or noise.central):
            what = "noise that it adds" if noise.central else "sampling that it sees"
            raise PlanError(
                f"{what} hides nothing from the server", rule="dp-promise", field="privacy"
            )
        if sampled and (claims.adjacency != "zero-out" or plan.sites_receive):
            raise PlanError(
                "sampling amplifies under zero-out alone, and only where sites, which are told who "
                "takes part, do not receive the sum",
                rule="dp-promise",
                field="privacy",
            )
        return claims

    def over(self, plan: Plan, mechanism: str) -> tuple[tuple[str, str | int | float], ...]:
        """The claims of ``plan`` with these in their place, as a plan holds them.

        ``mechanism`` is stated for people; accountants read the stages.
        """
        made = dict(plan.privacy or ()) | asdict(self) | {"mechanism": mechanism}
        return tuple(sorted(made.items()))
