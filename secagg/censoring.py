"""A site's defence against samples being read off a sum: it censors neurons that few samples moved.

For a layer that sees the data, the sum of model updates can show a training sample exactly: where
one sample alone activated a neuron, the change of its weights over the change of its bias *is*
that sample (Marchand et al., SRATTA, ICML 2023). No protocol that gives the sum hides this. A site
that applies :func:`censor` before it submits contributes nothing to such neurons; the rest of its
update is unchanged. This is the defence of that paper, with the bias censored as well.

What it is not: a proof. Mixtures of ``q`` samples still leave, and methods that take mixtures apart
are known; a promise about each record takes noise (:mod:`secagg.dp`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from secagg_protocols.errors import MisuseError

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


def risky_neurons(activations: npt.NDArray[Any], q: int = 2, beta: float = 1.0) -> Flags:
    """Neurons that too few of a site's samples moved, bool[neurons].

    activations: [samples, neurons], one row a distinct sample of the site. Each entry says by how
    much the sample moved the neuron over the whole local training: the sum over all steps of the
    *absolute value* of the derivative of the loss by what goes into the neuron, zero where the
    sample never activated it. Signed sums will not do: where steps cancel, the sample would look
    as if it had never activated the neuron. Counts or booleans will do where ``beta`` is 1. A
    sample that is used in several steps is still one row: it must not be counted twice.

    q: fewest samples that must have moved a neuron, from 1 (censors none that moved); beta: in
    (0, 1], the largest part that one sample may have in the sum of the absolute entries of a
    neuron. At 1 any part is allowed; below it, a neuron that one sample dominates is censored too,
    however many others touched it.

    A neuron that no sample moved has nothing to censor and is not named. :class:`MisuseError`
    (rule ``arguments``) for other shapes and values.
    """
    table = _array(activations, "biuf", "activations are numbers of shape [samples, neurons]")
    with np.errstate(over="ignore"):
        # Of a wider type: what is beyond a double becomes infinite, and is refused as such.
        size = np.abs(table.astype(np.float64))
    if not np.isfinite(size).all():
        raise MisuseError("activations have NaN or infinity", rule="arguments")
    if isinstance(q, bool) or not isinstance(q, int) or q < 1:
        raise MisuseError("q is a number of samples, from 1", rule="arguments")
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 < beta <= 1:
        raise MisuseError("beta lies above 0 and is at most 1", rule="arguments")
    count = (table != 0).sum(axis=0)
    risky: Flags = (count > 0) & (count < q)
    if beta < 1:
        # Each column over the power of two above its largest entry, which changes no digit: a sum
        # of large entries that overflowed would let the largest of them pass.
        _, exponent = np.frexp(size.max(axis=0, initial=0.0))
        parts = np.ldexp(size, -exponent)
        risky |= parts.max(axis=0, initial=0.0) > beta * parts.sum(axis=0)
    return risky


def censor(update: Floats, activations: npt.NDArray[Any], q: int = 2, beta: float = 1.0) -> Floats:
    """A copy of a layer's update with the rows of risky neurons set to zero.

    update: [neurons, columns] of floats, the change of the layer in this round: a row holds all
    that enters one neuron, its weights *and its bias*. Biases that are kept elsewhere must be
    censored with the same neurons (:func:`risky_neurons`). activations, q, beta: see there.

    Effect on training: a censored neuron keeps its weights where no other site moves it, so the
    model learns less from what few samples have in common. The cost grows with q, with narrow
    batches and with wide layers; ``secagg attack run sratta`` measures it on real images. The
    censored update no longer tells exactly which neurons moved, but the fact that a row is zero is
    itself part of the sum.

    :class:`MisuseError` (rule ``arguments``) where the two do not fit together, and for an update
    with NaN or infinity.
    """
    rows = _array(update, "f", "an update is floats of shape [neurons, columns]")
    if not np.isfinite(rows).all():
        raise MisuseError("the update has NaN or infinity", rule="arguments")
    risky = risky_neurons(activations, q, beta)
    if len(risky) != len(rows):
        raise MisuseError(
            f"an update of {len(rows)} neurons, activations of {len(risky)}", rule="arguments"
        )
    found: Floats = rows.copy()
    found[risky] = 0.0
    return found


def _array(given: Any, kinds: str, wanted: str) -> npt.NDArray[Any]:
    """``given`` as an array of two axes and one of these kinds of numbers."""
    try:
        table = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise MisuseError(wanted, rule="arguments") from error
    if table.ndim != 2 or table.dtype.kind not in kinds:
        raise MisuseError(wanted, rule="arguments")
    return table


__all__ = ["censor", "risky_neurons"]
