"""Attacks on keys, masks and contexts: every cell, their laws, and that they can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secagg
from secagg.attacks import columns, keys
from secagg.attacks.arena import controls, world
from secagg.attacks.attack import Frame, Keys
from secagg.attacks.catalogue import load_scene
from secagg.attacks.finding import Verdict
from secagg.attacks.lab import here
from secagg.attacks.process import Inside
from secagg.attacks.scene import Lab
from secagg.attacks.scenes import inconsistency, networks, reuse, rounds, weak
from secagg.attacks.scenes.keys import LOW_ORDER, _Isolated
from secagg_protocols.errors import PeerError
from secagg_protocols.keys import ExchangeKey, agree
from secagg_protocols.masked_sum import Client, messages
from secagg_protocols.paillier import Layout

ROWS = ("key-substitution", "mask-reuse", "model-inconsistency", "weak-generator", "replay")


@pytest.mark.parametrize("column", ["plain", *columns.MASKED])
@pytest.mark.parametrize("row", ROWS)
def test_quick_cells_are_as_expected(row: str, column: str) -> None:
    cell = here(row, column, separate=False)
    assert cell.problems == []
    assert cell.transcripts


@pytest.mark.slow
@pytest.mark.parametrize("column", columns.PAILLIER)
@pytest.mark.parametrize("row", ROWS)
def test_quick_cells_of_ciphertexts(row: str, column: str) -> None:
    assert here(row, column, separate=False).problems == []


@pytest.mark.parametrize("row", ["key-substitution", "mask-reuse"])
def test_cells_in_a_process_of_their_own(row: str) -> None:
    assert here(row, "malicious-server").problems == []


@pytest.mark.parametrize("row", ROWS)
def test_scenes_speak_of_every_column(row: str) -> None:
    scene = load_scene(row)
    assert set(scene.expected) == set(columns.COLUMNS)
    assert scene.attack.id == row
    assert scene.expected["plain"] == Verdict.LEAKS


# Row 5.


def isolated(kind: Any = Client, threat: str = "semi-honest") -> _Isolated:
    made = columns.plan(threat, 5, 6, stages=(secagg.Integers(0, 1000),))
    return _Isolated(made, kind, world.digest("isolated"), np.arange(6))


def claimed(site: _Isolated, held: dict[str, bytes]) -> Any:
    given_ = rounds.transcript(site.made, site.frames, public={"victim": "s1"})
    return keys.KeySubstitution().run(given_, Keys(values=held)).vectors.get("s1")


def test_a_substituted_site_is_read_with_all_keys_and_with_no_fewer() -> None:
    site = isolated()
    assert claimed(site, site.keys) == [0, 1, 2, 3, 4, 5]
    one = {k: v for k, v in site.keys.items() if k != "mask 0"}
    assert claimed(site, one) != [0, 1, 2, 3, 4, 5]
    # The four peers hold as many shares as it takes, so one that does not open is one too many.
    assert site.made.protocol.share_threshold == 4
    assert claimed(site, site.keys | {"channel 0": bytes(range(32))}) is None


def test_signed_adverts_stop_it() -> None:
    site = isolated(threat="malicious-server")
    # It is ended by the first message, and ignores the second.
    assert site.refused[0] == "client.advert-signatures"
    assert claimed(site, site.keys) is None


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_agree_on_nothing(point: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        agree(bytes(range(32)), point, sender="s1")
    assert caught.value.rule == "low-order"
    agree(bytes(range(32)), ExchangeKey(bytes(32)).public, sender="s1")


def test_low_order_points_are_points_of_low_order() -> None:
    """An X25519 ladder in plain integers sends each of them to zero, whatever the scalar."""
    p = 2**255 - 19

    def ladder(scalar: int, u: int) -> int:
        x2, z2, x3, z3 = 1, 0, u, 1
        for bit in reversed(range(255)):
            if scalar >> bit & 1:
                x2, z2, x3, z3 = x3, z3, x2, z2
            a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
            aa, bb, da, cb = a * a, b * b, d * a, c * b
            e = aa - bb
            x3, z3 = (da + cb) ** 2 % p, u * (da - cb) ** 2 % p
            x2, z2 = aa * bb % p, e * (aa + 121665 * e) % p
            if scalar >> bit & 1:
                x2, z2, x3, z3 = x3, z3, x2, z2
        return x2 * pow(z2, p - 2, p) % p

    scalar = int.from_bytes(bytes(range(1, 33)), "little") & ~7 & (1 << 254) - 1 | 1 << 254
    for point in LOW_ORDER:
        assert ladder(scalar, int.from_bytes(point, "little") % p) == 0
    assert ladder(scalar, 9) != 0


# Row 8.


@given(st.lists(st.integers(-(2**14) + 1, 2**14 - 1), min_size=1, max_size=20))
def test_slots_of_a_difference(values: list[int]) -> None:
    layout = Layout(bits=14, most=4, length=len(values), key_bits=2048)
    whole = sum(value << layout.slot_bits * i for i, value in enumerate(values))
    assert keys._balanced(whole, layout)[: len(values)] == values


def test_masks_that_serve_twice_show_the_difference() -> None:
    made = columns.plan("semi-honest", 4, 6, stages=(secagg.Integers(0, 1000),))
    rng = np.random.default_rng(5)
    x, mask = rng.integers(0, 1001, (2, 6)), rng.integers(0, 1 << made.wire_bits, 6)

    def frame(number: int, ring: Any) -> Frame:
        whole = sum(
            int(v) % (1 << made.wire_bits) << made.wire_bits * i for i, v in enumerate(ring)
        )
        tail = whole.to_bytes(-(-6 * made.wire_bits // 8), "little")
        party = rounds.arena(made, np.zeros((4, 6), np.int64), seed=b"f", round=number)
        blank = rounds.sealed(
            party.parties["s0"],
            messages.INPUT,
            "s0",
            "server",
            messages.Input(),
            tail,
            party.identities["s0"],
        )
        return Frame(number, "s0", "server", blank)

    frames = [frame(0, x[0] + mask), frame(1, x[1] + mask)]
    found = keys.MaskReuse().run(rounds.transcript(made, frames), Keys())
    assert found.vectors == {"s0 0 1": (x[1] - x[0]).tolist()}
    other = [frames[0], frame(1, x[1] + mask[::-1])]
    found = keys.MaskReuse().run(rounds.transcript(made, other), Keys())
    assert found.vectors["s0 0 1"] != (x[1] - x[0]).tolist()


def test_controls_override_what_they_name() -> None:
    for methods in (
        {"start": reuse._static_keys},
        {"use_model": rounds.constant_contexts(Client)},
        {"use_model": rounds.no_model_hash(Client)},
        {"_make_input": weak.weak_input(16)},
    ):
        control = controls.changed(Client, **methods)
        assert controls.overrides(Client, control) == set(methods)


# Row 12.


def test_dead_units_silence_all_but_the_last_bias() -> None:
    shape = inconsistency.SHAPE
    silent = inconsistency.dead_coordinates(shape)
    assert silent.sum() == shape.length - shape.classes
    net = networks.Network.initial(shape, np.random.default_rng(0))
    dead = networks.Network(net.W * 0, net.b * 0 - 1e6, net.V, net.c)
    x, y = networks.digits()
    assert not networks.gradient(dead, x[:9], y[:9])[0].vector[silent].any()
    assert networks.gradient(dead, x[:9], y[:9])[0].vector[~silent].all()
    assert networks.gradient(net, x[:9], y[:9])[0].vector[silent].any()


# Row 16.


def scan(bits: int, tried: int) -> tuple[bool, dict[str, float]]:
    """A build of ``bits`` bits, of which the attack believes that they are ``tried``."""
    made = columns.plan("semi-honest", 3, 24, stages=(secagg.Integers(0, 1000),), max_dropouts=0)
    scene = weak.WeakGeneratorScene()
    with Inside(keys.WeakGenerator) as runner:
        lab = Lab(runner, attack="weak-generator", column="semi-honest")
        if bits == tried:
            return scene._scan(lab, made, bits, 1, weak=True)
        return scene._scan(lab, made, tried, 1, weak=False)


def test_a_scan_finds_a_weak_seed_and_no_full_one() -> None:
    found, values = scan(9, 9)
    assert (found, values["tried"], values["hits"]) == (True, 512, 1)
    found, values = scan(128, 9)
    assert (found, values["tried"], values["hits"]) == (False, 512, 0)


@given(st.binary(min_size=24, max_size=24), st.integers(1, 32))
def test_a_weak_key_has_its_bits_and_no_more(key: bytes, bits: int) -> None:
    found = keys.weakened(key, bits)
    assert len(found) == 24
    assert int.from_bytes(found, "little") == int.from_bytes(key, "little") % (1 << bits)
