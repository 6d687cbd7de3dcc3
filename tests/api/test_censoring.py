"""Censoring of neurons that few samples of a site moved, against a plain-Python oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secagg
from secagg.censoring import censor, risky_neurons

#: Multiples of 1/4 add up exactly, so the oracle and the sums of floats agree at the border.
TABLES = st.integers(1, 5).flatmap(
    lambda neurons: st.lists(
        st.lists(
            st.sampled_from([0.0, 0.0, 0.25, -0.25, 0.5, 1.0, -3.0]),
            min_size=neurons,
            max_size=neurons,
        ),
        min_size=1,
        max_size=6,
    )
)


def oracle(table: list[list[float]], q: int, beta: float) -> list[bool]:
    """In whole quarters: moved by fewer than q, or by one with more than its part."""
    found = []
    for column in zip(*table, strict=True):
        quarters = [abs(int(4 * entry)) for entry in column]
        count = sum(entry > 0 for entry in quarters)
        few = 0 < count < q
        # Parts of 1, 3/4, 1/2 as whole numbers over 4.
        over = beta < 1 and 4 * max(quarters) > int(4 * beta) * sum(quarters)
        found.append(few or over)
    return found


@given(TABLES, st.integers(1, 5), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_risky_neurons_are_those_of_the_oracle(
    table: list[list[float]], q: int, beta: float
) -> None:
    assert risky_neurons(np.array(table), q, beta).tolist() == oracle(table, q, beta)


@given(TABLES, st.integers(1, 5))
def test_rows_are_zero_or_as_they_were(table: list[list[float]], q: int) -> None:
    activations = np.array(table)
    update = np.arange(1.0, 1 + 3 * activations.shape[1]).reshape(-1, 3)
    before = update.copy()
    found = censor(update, activations, q)
    assert np.array_equal(update, before)
    for row, old, risky in zip(found, before, oracle(table, q, 1.0), strict=True):
        assert row.tolist() == ([0.0] * 3 if risky else old.tolist())


def test_defaults_censor_a_neuron_of_one_sample() -> None:
    activations = np.array([[1, 1, 0], [0, 2, 0]])
    assert risky_neurons(activations).tolist() == [True, False, False]
    assert risky_neurons(activations.astype(bool)).tolist() == [True, False, False]


def test_a_dominant_sample_is_censored_by_beta_alone() -> None:
    activations = np.array([[1.0], [1e-6], [1e-6]])
    assert not risky_neurons(activations, 2).any()
    assert risky_neurons(activations, 2, 0.9).all()


@pytest.mark.parametrize("scale", [1e308, 1.0, 1e-300, 5e-324], ids=str)
def test_the_size_of_entries_changes_nothing(scale: float) -> None:
    """Sums of large entries would overflow, and then nothing is larger than its part of them."""
    assert risky_neurons(np.array([[scale], [scale], [0.0]]), 2, 0.4).all()
    assert not risky_neurons(np.array([[scale]] * 3), 2, 0.4).any()


@given(TABLES, st.integers(-1000, 1000), st.sampled_from([0.25, 0.5, 0.75]))
def test_a_scale_changes_nothing(table: list[list[float]], power: int, beta: float) -> None:
    scaled = np.ldexp(np.array(table), power)
    assert risky_neurons(scaled, 2, beta).tolist() == oracle(table, 2, beta)


def test_an_entry_below_the_smallest_double_still_counts() -> None:
    tiny = np.full((1, 1), np.longdouble(1) / np.longdouble(2) ** 1080)
    if tiny.dtype.itemsize > 8 and tiny[0, 0] > 0:
        assert risky_neurons(tiny).all()


def test_the_type_of_floats_is_kept() -> None:
    update = np.ones((1, 4), dtype=np.float32)
    assert censor(update, np.ones((3, 1)), 2).dtype == np.float32


def test_an_empty_site_censors_nothing() -> None:
    assert not risky_neurons(np.zeros((0, 3)), 2, 0.5).any()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((np.ones((2, 3)), np.ones((4, 3))), {}),
        ((np.ones(3), np.ones((4, 3))), {}),
        ((np.ones((3, 2), dtype=int), np.ones((4, 3))), {}),
        ((np.ones((3, 2)), np.ones(3)), {}),
        ((np.ones((3, 2)), np.full((4, 3), np.nan)), {}),
        ((np.ones((3, 2)), np.full((4, 3), "a")), {}),
        (([[1.0], [1.0, 2.0]], np.ones((4, 2))), {}),
        ((np.ones((2, 2)), [[1.0], [1.0, 2.0]]), {}),
        ((np.array([[1.0], [np.nan], [0.0]]), np.ones((4, 3))), {}),
        ((np.array([[1.0], [-np.inf], [0.0]]), np.ones((4, 3))), {}),
        ((np.ones((3, 2)), np.full((4, 3), np.inf)), {}),
        ((np.ones((3, 2)), np.full((4, 3), np.longdouble(2) ** 1025)), {}),
        ((np.ones((3, 2)), np.ones((4, 3))), {"beta": "0.5"}),
        ((np.ones((3, 2)), np.ones((4, 3))), {"q": 0}),
        ((np.ones((3, 2)), np.ones((4, 3))), {"q": True}),
        ((np.ones((3, 2)), np.ones((4, 3))), {"q": 2.0}),
        ((np.ones((3, 2)), np.ones((4, 3))), {"beta": 0.0}),
        ((np.ones((3, 2)), np.ones((4, 3))), {"beta": 1.5}),
        ((np.ones((3, 2)), np.ones((4, 3))), {"beta": float("nan")}),
    ],
)
def test_what_does_not_fit_is_refused(arguments: Any, named: Any) -> None:
    with pytest.raises(secagg.MisuseError) as error:
        censor(*arguments, **named)
    assert error.value.rule == "arguments"
