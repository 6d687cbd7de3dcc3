"""What is said of rounds without a sum, and of sites that are not in one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from flwr.app import Error, Message

from secagg.integrations.rounds import Rounds
from secagg.session import Slot
from secagg_protocols.errors import SecAggError, ThresholdError

from .mod import PRECONDITION

log: Final = logging.getLogger("secagg.integrations")

NOT_IN_SUM: Final = "not in the secure sum of this round"


def out(message: Message) -> Message:
    """In place of the reply of a site that is not in the sum."""
    return Message(Error(PRECONDITION, NOT_IN_SUM), reply_to=message)


def no_sum() -> ThresholdError:
    """Of a run that skipped all its rounds."""
    return ThresholdError(
        "no round of this run came to a sum, so that there is no trained model",
        rule="no-sum",
        step="run",
        have=0,
        need=1,
    )


def check_sampled(rounds: Rounds, have: int) -> None:
    """:class:`ThresholdError` where a strategy sampled too few sites: before any content goes out,
    and uses up an input of the model."""
    need = rounds.plan.min_survivors
    if have >= need:
        return
    error = ThresholdError(
        f"the strategy sampled {have} sites, and the plan's sums are of {need} at least: "
        "fraction_train, min_train_nodes and min_available_nodes decide it",
        rule="enough",
        step="sampling",
        have=have,
        need=need,
    )
    rounds.pass_over(error)
    raise error


def explain(
    error: SecAggError, rounds: Rounds, sampled: Iterable[str], *, given_config: bool
) -> None:
    """Say what is not seen from here, where sites that were to train refused to take part.

    given_config: whether the run's configuration was stated.
    """
    asked, refused = set(sampled), dict[str, None]()
    for exchange in rounds.reports[-1].exchanges:
        if exchange.slot == Slot.INPUT.label:
            refused |= dict.fromkeys(name for name in exchange.out if name in asked)
    if not refused:
        return
    plan = rounds.plan
    reasons = [
        "training failed",
        f"a weight above max_weight ({plan.max_weight})",
        "a metric that the app does not return",
        "an initial model that earlier runs or rounds have used up (max_inputs_per_model "
        f"{plan.max_inputs_per_model}, or less by a site's policy)",
        "a run configuration that is not SecAggConfig.run_config"
        if given_config
        else "SecAggConfig(run_config=context.run_config) is missing",
    ]
    log.warning(
        "secagg: %s are out, and their own logs say why. It may be: %s",
        ", ".join(refused),
        "; ".join(reasons),
    )
    error.add_note("secagg: the warning above says what it may be, the sites' logs what it is")


__all__ = ["NOT_IN_SUM", "check_sampled", "explain", "no_sum", "out"]
