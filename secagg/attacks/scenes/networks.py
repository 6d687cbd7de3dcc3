"""A small network of numpy arrays that sites train in the laboratory, and real images for it.

One hidden layer of rectified linear units and a softmax, with gradients by hand: an attack that
reads gradients must be shown on the exact ones, and nothing heavier is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from secagg_protocols.errors import MisuseError

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

#: Grey values of the digits: 0..GREY.
GREY: Final = 16
#: The digits are images of SIDE by SIDE pixels, of CLASSES kinds.
SIDE: Final = 8
CLASSES: Final = 10


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a network: inputs, hidden neurons, classes."""

    inputs: int
    hidden: int
    classes: int

    @property
    def length(self) -> int:
        """Coordinates of a model, or of its update, as one vector."""
        return self.first + (self.hidden + 1) * self.classes

    @property
    def first(self) -> int:
        """Coordinates of the first layer; they come first in the vector."""
        return self.hidden * (self.inputs + 1)


@dataclass(frozen=True, slots=True)
class Network:
    """softmax(V relu(W x + b) + c), its update, or its gradient.

    W: float64[hidden, inputs]; b: float64[hidden]; V: float64[classes, hidden];
    c: float64[classes].
    """

    W: Floats
    b: Floats
    V: Floats
    c: Floats

    @classmethod
    def initial(cls, shape: Shape, rng: np.random.Generator) -> Self:
        """Weights uniform within one over the root of a layer's inputs, as frameworks do."""

        def layer(*size: int, inputs: int) -> Floats:
            drawn: Floats = rng.uniform(-1.0, 1.0, size) / np.sqrt(inputs)
            return drawn

        return cls(
            layer(shape.hidden, shape.inputs, inputs=shape.inputs),
            layer(shape.hidden, inputs=shape.inputs),
            layer(shape.classes, shape.hidden, inputs=shape.hidden),
            layer(shape.classes, inputs=shape.hidden),
        )

    @classmethod
    def of(cls, shape: Shape, vector: Floats) -> Self:
        """The inverse of :attr:`vector`. `ValueError` for another length."""
        if vector.shape != (shape.length,):
            raise ValueError(f"{shape.length} coordinates, not {vector.shape}")
        first = vector[: shape.first].reshape(shape.hidden, shape.inputs + 1)
        last = vector[shape.first :].reshape(shape.classes, shape.hidden + 1)
        return cls(
            first[:, :-1].copy(), first[:, -1].copy(), last[:, :-1].copy(), last[:, -1].copy()
        )

    @property
    def vector(self) -> Floats:
        """float64[length]: a row (W_j, b_j) of each hidden neuron, then a row of each class."""
        return np.concatenate([join(self.W, self.b).ravel(), join(self.V, self.c).ravel()])

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return Shape(self.W.shape[1], self.W.shape[0], self.V.shape[0])

    def hidden(self, x: Floats) -> Floats:
        """What goes into the hidden neurons, float64[samples, hidden]: active where positive."""
        z: Floats = x @ self.W.T + self.b
        return z

    def predict(self, x: Floats) -> Floats:
        """Chances of the classes, float64[samples, classes]."""
        out = np.maximum(self.hidden(x), 0.0) @ self.V.T + self.c
        out = np.exp(out - out.max(axis=1, keepdims=True))
        chances: Floats = out / out.sum(axis=1, keepdims=True)
        return chances

    def loss(self, x: Floats, y: Labels) -> float:
        """Mean cross-entropy."""
        return float(-np.log(self.predict(x)[np.arange(len(y)), y]).mean())

    def accuracy(self, x: Floats, y: Labels) -> float:
        """Part of the samples that are given their own class."""
        return float((self.predict(x).argmax(axis=1) == y).mean())


def join(weights: Floats, bias: Floats) -> Floats:
    """A layer as one matrix, the bias in the last column."""
    return np.concatenate([weights, bias[:, None]], axis=1)


def gradient(net: Network, x: Floats, y: Labels) -> tuple[Network, Floats]:
    """Gradient of the mean cross-entropy of a batch, and each sample's part in each neuron.

    The second value is float64[batch, hidden]: the gradient of ``W_j`` is the sum of the samples
    weighted by column ``j``, that of ``b_j`` the sum of the column. It is zero where a sample does
    not activate a neuron.
    """
    z = net.hidden(x)
    out = net.predict(x)
    out[np.arange(len(y)), y] -= 1.0
    out /= len(y)
    parts = (out @ net.V) * (z > 0.0)
    found = Network(parts.T @ x, parts.sum(axis=0), out.T @ np.maximum(z, 0.0), out.sum(axis=0))
    return found, parts


@dataclass(frozen=True, slots=True)
class Local:
    """What a site has after its training in one round.

    update: the change of the model; parts: float64[samples of the site, hidden], by how much each
    sample moved each hidden neuron, zero where it never activated it.
    """

    update: Network
    parts: Floats


def local_training(
    net: Network, x: Floats, y: Labels, batches: Sequence[npt.NDArray[np.int64]], rate: float
) -> Local:
    """Stochastic gradient descent from ``net``, one step a batch of indices into ``x``."""
    now = net
    parts = np.zeros((len(x), net.shape.hidden))
    for batch in batches:
        step, share = gradient(now, x[batch], y[batch])
        np.add.at(parts, batch, -rate * share)
        now = Network(
            now.W - rate * step.W,
            now.b - rate * step.b,
            now.V - rate * step.V,
            now.c - rate * step.c,
        )
    update = Network(now.W - net.W, now.b - net.b, now.V - net.V, now.c - net.c)
    return Local(update, parts)


def batches_of(
    samples: int, size: int, steps: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Batches of indices: all samples in a random order, again and again."""
    rounds = -(-size * steps // samples)
    order = np.concatenate([rng.permutation(samples) for _ in range(rounds)])
    return [order[i * size : (i + 1) * size] for i in range(steps)]


@cache
def digits() -> tuple[Floats, Labels]:
    """Images of handwritten digits: float64[1797, 64] within 0..1 in steps of 1/16, and labels.

    The test set of the Optical Recognition of Handwritten Digits data (Alpaydin and Kaynak, UCI,
    1998), which scikit-learn carries. The arrays are shared and cannot be written to.
    :class:`MisuseError` (rule ``extra``) where that is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MisuseError(
            "the images come with scikit-learn: pip install 'secagg[demo]'", rule="extra"
        ) from error
    found: Any = load_digits()
    x = np.asarray(found.data, dtype=np.float64) / GREY
    y = np.asarray(found.target, dtype=np.int64)
    x.flags.writeable = y.flags.writeable = False
    return x, y


__all__ = [
    "CLASSES",
    "GREY",
    "SIDE",
    "Floats",
    "Labels",
    "Local",
    "Network",
    "Shape",
    "batches_of",
    "digits",
    "gradient",
    "join",
    "local_training",
]
