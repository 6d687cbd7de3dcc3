"""Who carries the noise, and how a clip adapts, against reference values of public code."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from dp.golden import cases
from hypothesis import given
from hypothesis import strategies as st

from secagg.dp.shares import noise_components, provision, vector_multiplier
from secagg_protocols.errors import MisuseError
from secagg_protocols.stages import AdaptiveClip


def close(value: float, case: dict[str, Any], name: str) -> None:
    assert value == pytest.approx(case["expected"][name], rel=case["rtol"], abs=0)


@cases("adaptive_clip_noise")
def test_noise_that_the_bit_of_an_adaptive_clip_leaves(case: dict[str, Any]) -> None:
    given_ = case["inputs"]
    stddev = given_["clipped_count_stddev"]
    if stddev is None:
        # The paper's own choice, which the reference takes where none is named.
        stddev = given_["clients"] / 20
    close(stddev, case, "clipped_count_stddev")
    close(vector_multiplier(given_["noise_multiplier"], stddev), case, "value_noise_multiplier")


@cases("adaptive_clip_step")
def test_next_clip(case: dict[str, Any]) -> None:
    given_ = case["inputs"]
    stage = AdaptiveClip(clip=1.0, quantile=given_["target_quantile"], rate=given_["lr"])
    now = struct.pack("<d", given_["clip"])
    (following,) = struct.unpack("<d", stage.next(now, given_["below_fraction"]))
    close(following, case, "next_clip")


@cases("xnoise_components")
def test_components_of_noise_that_is_removed_again(case: dict[str, Any]) -> None:
    given_, expected = case["inputs"], case["expected"]
    parts = [
        given_["central_variance"] * part
        for part in noise_components(given_["n"], given_["dropout_tolerance"])
    ]
    close(parts[0], case, "base_local_variance")
    assert parts[:0:-1] == pytest.approx(
        expected["component_variances_j_T_to_1"], rel=case["rtol"], abs=0
    )
    close(sum(parts), case, "sum_total_local_variance")
    close(sum(parts), case, "equals_1_over_n_minus_T")


@cases("share_variance")
def test_what_a_site_carries(case: dict[str, Any]) -> None:
    given_ = case["inputs"]
    n, lost, central = given_["n"], given_["max_dropouts"], given_["central_variance"]
    found = provision(n, lost, given_["max_colluders"])
    close(found.over_provisioned, case, "inflation_vs_s_over_n")
    close(found.over_provisioned * central / n, case, "over_provision_local_variance")
    close(found.removed * central / n, case, "xnoise_post_removal_local_variance_if_none_drop")
    close(
        sum(noise_components(n, lost)) * central,
        case,
        "xnoise_post_removal_local_variance_if_all_Dr_drop",
    )


SITES = st.tuples(st.integers(2, 500), st.integers(0, 500), st.integers(0, 500)).filter(
    lambda sites: sites[0] > sites[1] + sites[2]
)


@given(SITES)
def test_honest_survivors_alone_carry_all_the_noise(sites: tuple[int, int, int]) -> None:
    n, lost, colluding = sites
    found = provision(n, lost, colluding)
    # In units of the variance that is needed: one site's share, times who is sure to be there.
    assert found.over_provisioned / n * (n - lost - colluding) == pytest.approx(1.0)
    assert found.removed / n * (n - colluding) == pytest.approx(1.0)
    assert 1 / n * (n - lost - colluding) == pytest.approx(found.left_if_split)
    assert found.over_provisioned >= found.removed >= 1.0 >= found.left_if_split > 0.0


@given(st.integers(2, 300), st.data())
def test_survivors_keep_what_they_need_whoever_is_missing(n: int, data: st.DataObject) -> None:
    most = data.draw(st.integers(0, n - 1))
    missing = data.draw(st.integers(0, most))
    parts = noise_components(n, most)
    assert len(parts) == most + 1
    # What was added for more missing sites than there are is taken away again.
    assert (n - missing) * sum(parts[: missing + 1]) == pytest.approx(1.0)


@pytest.mark.parametrize("sites", [(5, 3, 2), (5, 6, 0), (0, 0, 0), (5, -1, 0)])
def test_nobody_left_to_carry_it(sites: tuple[int, int, int]) -> None:
    with pytest.raises(MisuseError) as caught:
        provision(*sites)
    assert caught.value.rule == "arguments"


@given(st.floats(0.1, 50), st.floats(1.001, 1e4))
def test_vector_and_count_together_are_what_was_asked_for(z: float, more: float) -> None:
    # Half a site over this deviation is all of the noise; beyond it, something is left.
    least = z / 2
    left = vector_multiplier(z, least * more)
    assert left > z
    assert math.hypot(1 / left, 0.5 / (least * more)) == pytest.approx(1 / z)
    with pytest.raises(MisuseError) as caught:
        vector_multiplier(z, least / more)
    assert caught.value.rule == "arguments"
