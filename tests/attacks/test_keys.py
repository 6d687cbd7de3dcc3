"""Attacks on keys, masks and contexts: every cell, their laws, and that they can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secagg
from secagg.attacks import columns, keys
from secagg.attacks.arena import controls, world
from secagg.attacks.arena.paillier_keys import primes
from secagg.attacks.arena.paillier_world import private_key
from secagg.attacks.attack import Evidence, Frame, Keys
from secagg.attacks.catalogue import load_scene
from secagg.attacks.finding import Verdict
from secagg.attacks.lab import here
from secagg.attacks.process import Inside
from secagg.attacks.scene import Lab
from secagg.attacks.scenes import inconsistency, networks, reuse, rounds, weak
from secagg.attacks.scenes.keys import LOW_ORDER, Proposal, _Isolated
from secagg_protocols.errors import PeerError
from secagg_protocols.keys import ExchangeKey, agree
from secagg_protocols.masked_sum import Client, messages
from secagg_protocols.paillier import Layout, split
from secagg_protocols.paillier_sum import Client as PaillierClient

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


@pytest.mark.parametrize("column", columns.PAILLIER)
def test_a_server_with_a_key_of_its_own_reads_who_takes_its_plan(column: str) -> None:
    made = columns.plan(column, 5, 8, stages=(secagg.Integers(0, 1000),))
    assert isinstance(made.protocol, secagg.PaillierSum)
    own, agreed = private_key(2048, 1).public, made.protocol.key
    if agreed.holders > 1:
        own = split(private_key(2048, 1), agreed.holders, agreed.threshold)[0]
    theirs = replace(made, protocol=replace(made.protocol, key=own))
    pinned = secagg.Floors(paillier_key=agreed.digest.hex())
    with Inside(keys.KeySubstitution) as runner:
        lab = Lab(runner, attack="key-substitution", column=column)

        def tried(given_: Any, floors: Any, kind: Any = PaillierClient) -> tuple[bool, list[str]]:
            site = Proposal(lab, given_, theirs, floors, 3, kind=kind)
            return site.read(lab), site.refused

        assert tried(theirs, None) == (True, [])
        assert tried(theirs, pinned) == (False, ["client.floors"])
        assert tried(theirs, pinned, controls.without(PaillierClient, "floors")) == (True, [])
        assert tried(made, pinned) == (False, ["client.trailer"])


def test_a_ciphertext_is_opened_as_its_owner_opens_it() -> None:
    p, q = primes(1024, 0)
    n = p * q
    for plain in (0, 1, n - 1, n // 3):
        value = (1 + plain * n) * pow(5, n, n * n) % (n * n)
        assert keys._opened(value, p, q) == plain


def test_forged_signatures_are_of_four_styles_and_no_two_are_alike() -> None:
    made = columns.plan("malicious-server", 5, 6, stages=(secagg.Integers(0, 1000),))
    for style in range(4):
        found = set()
        for i in range(3):
            label = bytes([style]) + world.digest("style", i)[1:]
            site = _Isolated(made, Client, label, np.arange(6))
            assert site.refused[0] == "client.advert-signatures"
            # Of keys of the server's own, which are others each time.
            found.add(site._forged(0, world.digest(style, i) * 2))
        assert len(found) == 3


def test_who_reads_under_a_trusting_plan_is_more_than_the_plan_withstands() -> None:
    cell = here("key-substitution", "semi-honest", separate=False)
    assert cell.finding is not None
    assert (cell.finding.beyond, cell.finding.stopped_by) == (True, ())
    assert set(cell.finding.also_refused) == {"client.low-order", "server.low-order"}


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


@pytest.mark.parametrize("column", ["semi-honest", "noise"])
def test_only_what_the_full_build_met_is_said_of_it(column: str) -> None:
    cell = here("mask-reuse", column, separate=False)
    assert cell.finding is not None
    assert "client.input-once" in cell.finding.stopped_by
    assert not any("journal" in rule for rule in cell.finding.stopped_by)
    assert any("journal" in control.note for control in cell.finding.controls)


# Row 12.


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_only_the_gradient_itself_is_a_hit(noise: float) -> None:
    rng = np.random.default_rng(8)
    right, other = rng.normal(size=(2, 300)) / 300**0.5
    draw = rng.normal(size=300) * noise

    def hit(claim: Any, right: Any = right, noise: float = noise) -> bool:
        return inconsistency.judged(claim, right, [other], 0.001, noise)

    assert hit(right + draw)
    for claim in (np.zeros(300), draw, other, other + draw, -right + draw, right[:-1]):
        assert not hit(claim)
    # What a mask leaves, and what is much nearer than the noise lets it be.
    assert not hit(rng.uniform(-500, 500, 300))
    assert noise == 0.0 or not hit(right)
    assert not hit(np.zeros(300), np.zeros(300))
    # Under the noise of a plan in use nobody can tell, and that is no hit.
    assert not hit(right + rng.normal(size=300) * 20, noise=20.0)


@pytest.mark.parametrize("column", ["semi-honest", "noise"])
def test_an_attack_that_claims_nothing_recovers_nothing(
    column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = keys.ModelInconsistency.run

    def zeros(self: Any, transcript: Any, held: Any) -> Any:
        found = run(self, transcript, held)
        return Evidence(vectors={k: [0.0] * len(v) for k, v in found.vectors.items()})

    monkeypatch.setattr(keys.ModelInconsistency, "run", zeros)
    cell = here("model-inconsistency", column, separate=False)
    assert cell.finding is not None
    assert cell.finding.successes == 0
    assert [c.successes for c in cell.finding.controls] == [0]


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


def test_the_scan_is_of_the_weak_keys_and_of_an_honest_server() -> None:
    cell = here("weak-generator", "sparse", separate=False)
    assert cell.finding is not None
    assert not cell.finding.exhaustive
    assert "pairs" in cell.finding.measures[0].name


@given(st.binary(min_size=24, max_size=24), st.integers(1, 32))
def test_a_weak_key_has_its_bits_and_no_more(key: bytes, bits: int) -> None:
    found = keys.weakened(key, bits)
    assert len(found) == 24
    assert int.from_bytes(found, "little") == int.from_bytes(key, "little") % (1 << bits)
