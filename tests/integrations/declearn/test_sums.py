"""Masking, sum and reading against plain integers, without a network."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from declearn.aggregator import ModelUpdates
from declearn.model.sklearn import NumpyVector
from declearn.secagg.messaging import SecaggEvaluationReply, SecaggTrainReply
from declearn.utils import Aggregate
from declearn.utils.serialize import msgpack_deserialize, msgpack_serialize
from hypothesis import given, settings
from hypothesis import strategies as st
from integrations.declearn.app import NAMES, make_plan, set_up

import secagg
from secagg.integrations.declearn import agreement, ring
from secagg.integrations.declearn.view import View

CLIP = 8.0


@dataclasses.dataclass
class Stats(Aggregate, base_cls=True):
    """What a metric may consist of."""

    reals: np.ndarray
    counts: np.ndarray
    signed: np.ndarray
    single: float
    number: int

    _group_key = "StatsOfTests"


@functools.cache
def plan_of(levels: int, names: tuple[str, ...] = NAMES, rounding: str = "nearest", **changes):
    stages = (secagg.ClipLinf(CLIP), secagg.Quantise(levels, rounding=rounding))
    return make_plan(names, stages=stages, **changes)


def parties(levels: int = 1 << 20, **changes):
    return set_up(None, *plan_of(levels, **changes))


def travelled(value):
    """As it is after the wire."""
    return msgpack_deserialize(msgpack_serialize(value))


def stats(rng, shape, levels, kind):
    return Stats(
        reals=rng.uniform(-CLIP, CLIP, shape).astype(kind),
        counts=rng.integers(0, levels, shape, dtype=np.uint64),
        signed=rng.integers(-levels, levels, shape[::-1], dtype=np.int64),
        single=float(rng.uniform(-CLIP, CLIP)),
        number=int(rng.integers(0, levels)),
    )


def rounded(x, levels):
    """The oracle's quantisation: nearest level, half to even, as Python integers."""
    return [round(float(v) * (levels / CLIP)) for v in np.asarray(x, np.float64).ravel()]


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(0, 5), max_size=3).map(tuple),
    levels=st.sampled_from([1 << 6, 1 << 12, 1 << 20, 1 << 35, 1 << 50]),
    count=st.integers(3, 6),
    kind=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_are_those_of_plain_integers(shape, levels, count, kind, seed):
    names = tuple(f"s{i}" for i in range(count))
    sites, _, reader = parties(levels, names=names)
    rng = np.random.default_rng(seed)
    given_ = [stats(rng, shape, levels, kind) for _ in names]
    masked = [
        travelled(s.encrypt_aggregate(x)) for s, x in zip(sites.values(), given_, strict=True)
    ]
    total = reader.decrypt_aggregate(functools.reduce(lambda a, b: a + b, masked))

    want = [sum(column) for column in zip(*(rounded(x.reals, levels) for x in given_), strict=True)]
    have = np.asarray(total.reals, np.float64).ravel()
    step = CLIP / levels
    assert total.reals.shape == shape and total.reals.dtype == kind
    slack = 0 if kind == "float64" else count * CLIP * 2.0**-23
    assert np.allclose(have, [w * step for w in want], rtol=1e-12, atol=slack)
    assert total.counts.ravel().tolist() == [
        sum(int(v) for v in column)
        for column in zip(*(x.counts.ravel() for x in given_), strict=True)
    ]
    assert (total.signed == sum(x.signed for x in given_)).all()
    assert total.number == sum(x.number for x in given_)
    assert total.single == pytest.approx(
        sum(sum(rounded([x.single], levels)) for x in given_) * step
    )


@given(values=st.lists(st.integers(0, 1 << 20), max_size=6), at=st.floats(-CLIP, CLIP))
@settings(deadline=None, max_examples=25)
def test_single_values(values, at):
    sites, _, reader = parties()
    lists = [site.encrypt_uint_list(values) for site in sites.values()]
    sums = [reader.sum_encrypted(list(column)) for column in zip(*lists, strict=True)]
    assert [reader.decrypt_uint(total) for total in sums] == [4 * v for v in values]
    one = reader.sum_encrypted([site.encrypt_float(at) for site in sites.values()])
    assert reader.decrypt_float(one) == 4 * rounded([at], 1 << 20)[0] * CLIP / (1 << 20)


def test_values_one_by_one_as_declearns_interface_has_them():
    sites, _, reader = parties()
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    vector = NumpyVector({"a": x, "b": x[0].astype(np.float32)})
    arrays = [site.encrypt_numpy_array(x) for site in sites.values()]
    vectors = [site.encrypt_vector(vector) for site in sites.values()]
    for made, read in ((arrays, reader.decrypt_numpy_array), (vectors, reader.decrypt_vector)):
        sums = [reader.sum_encrypted(list(c)) for c in zip(*(v for v, _ in made), strict=True)]
        out = read(sums, made[0][1])
        have = out.coefs["a"] if made is vectors else out
        assert np.abs(have - 4 * x).max() <= 4 * CLIP / (1 << 20)


def test_stochastic_rounding_stays_within_a_level():
    sites, _, reader = parties(rounding="stochastic", length=1000)
    x = np.full(1000, 0.3)
    masked = [s.encrypt_aggregate(updates(x, 1)) for s in sites.values()]
    total = reader.decrypt_aggregate(sum(masked[1:], masked[0]))
    assert np.abs(total.updates.coefs["w"] - 1.2).max() <= 4 * CLIP / (1 << 20)
    assert total.weights == 4


def updates(x, weight):
    return ModelUpdates(NumpyVector({"w": np.asarray(x)}), weight)


def test_the_masks_hide_and_differ_for_each_value():
    sites, _, _ = parties(1 << 50, length=4096)
    site = sites["north"]
    zero = np.zeros(4096)
    seen = [site.encrypt_aggregate(updates(zero, 0)).encrypted for _ in range(3)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not np.any(seen[one] == seen[other])
    # As many ones as zeros, within 8 standard deviations.
    ones = np.unpackbits(np.frombuffer(ring.pack(seen[0], 54), np.uint8))
    assert abs(ones.mean() - 0.5) < 8 * 0.5 / np.sqrt(len(ones))


def test_fewer_or_other_inputs_are_no_sum():
    sites, _, reader = parties(length=5)
    x = np.arange(5.0)

    def masked(name):
        return sites[name].encrypt_aggregate(updates(x, 1))

    first = {name: masked(name) for name in NAMES}
    second = {name: masked(name) for name in NAMES}
    missing = first["north"] + first["south"] + first["east"]
    with pytest.raises(secagg.ThresholdError) as caught:
        reader.decrypt_aggregate(missing)
    assert caught.value.rule == "zero-missing"
    missing.n_aggrg = 4  # a site or server that says otherwise
    replaced = first["north"] + first["south"] + first["east"] + second["west"]
    twice = first["north"] + first["south"] + first["east"] + first["east"]
    for wrong in (missing, replaced, twice):
        with pytest.raises(secagg.PeerError) as caught:
            reader.decrypt_aggregate(wrong)
        assert caught.value.rule == "zero-sum"
    # The sum of all, in any order, is one.
    right = second["west"] + second["north"] + second["east"] + second["south"]
    assert reader.decrypt_aggregate(right).weights == 4


def test_another_request_for_one_site_is_no_sum():
    sites, views, reader = parties(length=3)
    views["west"].digest = b"another request".ljust(32)
    masked = [site.encrypt_aggregate(updates(np.ones(3), 1)) for site in sites.values()]
    with pytest.raises(secagg.PeerError) as caught:
        reader.decrypt_aggregate(sum(masked[1:], masked[0]))
    assert caught.value.rule == "zero-sum"
    single = reader.sum_encrypted([site.encrypt_uint(1) for site in sites.values()])
    with pytest.raises(secagg.PeerError):
        reader.decrypt_uint(single)


def test_other_layouts_are_no_sum():
    sites, _, reader = parties(length=4)
    names = list(sites)
    masked = [sites[n].encrypt_aggregate(updates(np.ones(4), 1)) for n in names[:3]]
    shaped = sites[names[3]].encrypt_aggregate(updates(np.ones((2, 2)), 1))
    with pytest.raises(secagg.PeerError) as caught:
        sum(masked[1:], masked[0]) + shaped
    assert caught.value.rule == "zero-layout"
    shaped.enc_specs = masked[0].enc_specs  # the server pretends
    with pytest.raises(secagg.PeerError) as caught:
        reader.decrypt_aggregate(sum(masked[1:], masked[0]) + shaped)
    assert caught.value.rule == "zero-sum"


def test_a_list_that_differs_gives_no_sum():
    """A site that signs two keys, and a server that shows each to some."""
    plan, identities = plan_of(1 << 20, length=3)
    other = []

    def lists(name, adverts):
        if not other:
            _, second = agreement.advertise(plan, identities["west"], b"n" * 16, View().digest)
            other.append(second)
        return [*adverts[:3], other[0]] if name == "north" else adverts

    sites, _, reader = set_up(None, plan, identities, lists=lists)
    masked = [site.encrypt_aggregate(updates(np.ones(3), 1)) for site in sites.values()]
    with pytest.raises(secagg.PeerError) as caught:
        reader.decrypt_aggregate(sum(masked[1:], masked[0]))
    assert caught.value.rule == "zero-sum"


def test_a_sum_of_some_sites_stays_masked():
    """Colluders subtract what they know; of the others' sum nothing is open without them all."""
    sites, _, _ = parties(1 << 50, length=4096)
    x = np.ones(4096)
    masked = [sites[name].encrypt_aggregate(updates(x, 1)) for name in NAMES[:3]]
    lanes = (masked[0] + masked[1] + masked[2]).encrypted
    ones = np.unpackbits(np.frombuffer(ring.pack(lanes, 54), np.uint8))
    assert abs(ones.mean() - 0.5) < 8 * 0.5 / np.sqrt(len(ones))
    assert len(np.unique(lanes[:4096] & np.uint64((1 << 54) - 1))) == 4096


def test_values_beyond_the_ring_are_refused():
    sites, _, _ = parties(length=2)
    site = sites["north"]
    for call in (
        lambda: site.encrypt_uint((1 << 20) + 1),
        lambda: site.encrypt_uint(-1),
        lambda: site.encrypt_float(CLIP * 1.01),
        lambda: site.encrypt_numpy_array(np.array([CLIP * 2])),
        lambda: site.encrypt_numpy_array(np.array([1 << 30])),
        lambda: site.encrypt_aggregate(updates(np.ones(2), (1 << 20) + 1)),
    ):
        with pytest.raises(secagg.MisuseError) as caught:
            call()
        assert caught.value.rule == "value-range"
    for call in (
        lambda: site.encrypt_float(float("nan")),
        lambda: site.encrypt_aggregate(updates([1.0, np.nan], 1)),
        lambda: site.encrypt_aggregate(updates([1.0, np.inf], 1)),
    ):
        with pytest.raises(secagg.MisuseError) as caught:
            call()
        assert caught.value.rule == "input-finite"
    with pytest.raises(secagg.MisuseError) as caught:
        site.encrypt_numpy_array(np.array([1j]))
    assert caught.value.rule == "value-kind"


def test_an_update_beyond_the_clip_is_clipped_and_logged(caplog):
    sites, _, reader = parties(length=2)
    masked = [s.encrypt_aggregate(updates([100.0, 1.0], 1)) for s in sites.values()]
    total = reader.decrypt_aggregate(sum(masked[1:], masked[0]))
    assert np.allclose(total.updates.coefs["w"], [4 * CLIP, 4], atol=1e-4)
    assert "clipped" in caplog.text and "100" not in caplog.text


def test_an_update_of_another_length_is_refused():
    sites, _, _ = parties()
    with pytest.raises(secagg.MisuseError) as caught:
        sites["north"].encrypt_aggregate(updates(np.ones(5), 1))
    assert caught.value.rule == "update-length"


def test_the_largest_sum_does_not_wrap():
    levels = 1 << 20
    sites, _, reader = parties(levels)
    for sign in (1, -1):
        value = Stats(
            reals=np.full(3, sign * CLIP),
            counts=np.full(3, levels, np.uint64),
            signed=np.full(3, sign * levels),
            single=sign * CLIP,
            number=levels,
        )
        masked = [site.encrypt_aggregate(value) for site in sites.values()]
        total = reader.decrypt_aggregate(sum(masked[1:], masked[0]))
        assert (total.reals == 4 * sign * CLIP).all() and (total.counts == 4 * levels).all()
        assert (total.signed == 4 * sign * levels).all() and total.number == 4 * levels


def test_wire_refuses_other_bytes():
    sites, _, _ = parties(length=4)
    masked = sites["north"].encrypt_aggregate(updates(np.ones(4), 1))
    kind, data = type(masked), masked.to_dict()
    for change in (
        {"encrypted": data["encrypted"][:-1]},
        {"encrypted": data["encrypted"] + b"\0"},
        {"encrypted": [1, 2, 3]},
        {"bits": 0},
        {"bits": 65},
        {"bits": "24"},
        {"enc_specs": [("updates", 1 << 60, True)]},
        {"enc_specs": [("updates", -4, True)]},
        {"agg_cls": ["no such class", "ModelUpdates"]},
    ):
        with pytest.raises(TypeError):
            kind.from_dict({**data, **change})


def test_the_fields_of_declearns_replies_are_in_the_sum():
    """What stays in clear is written on the page of the docs, and nothing more."""
    train = {f.name for f in dataclasses.fields(SecaggTrainReply)}
    assert train == {"n_steps", "t_spent", "updates", "aux_var"}
    evaluation = {f.name for f in dataclasses.fields(SecaggEvaluationReply)}
    assert evaluation == {"loss", "n_steps", "t_spent", "metrics"}
