"""Floors: their list of models, read strictly and enforced before anything is sent for a model."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secagg
from secagg.attacks.arena import paillier_world, world
from secagg_protocols.events import Send
from secagg_protocols.floors import Floors

KNOWN = b"the model that was looked at"
CRAFTED = b"a crafted model"


def sha(model: bytes) -> str:
    return hashlib.sha256(model).hexdigest()


LISTED = Floors(models=(sha(KNOWN),))


def rule(call: Any) -> str:
    with pytest.raises(secagg.MisuseError) as caught:
        call()
    return caught.value.rule


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=8), st.binary(max_size=8))
def test_exactly_the_listed_models_are_allowed(listed: list[bytes], model: bytes) -> None:
    hashes = [sha(each) for each in listed]
    floors = Floors(models=tuple(each.upper() for each in hashes))
    assert floors.models == tuple(sorted(set(hashes)))
    # The order of a list, and what a file or a dump makes of a tuple, change nothing.
    assert floors == Floors(models=hashes[::-1])  # type: ignore[arg-type]
    digest = hashlib.sha256(model).digest()
    if model in listed:
        floors.check_model(digest)
    else:
        assert rule(lambda: floors.check_model(digest)) == "model-allowed"
    assert rule(lambda: floors.check_model(None)) == "model-allowed"
    Floors().check_model(digest)
    Floors().check_model(None)


@pytest.mark.parametrize(
    "models",
    [
        (),
        [],
        {},
        0,
        "",
        sha(KNOWN),
        (3,),
        ("g" * 64,),
        (sha(KNOWN)[:-1],),
        (sha(KNOWN) + "0",),
        (sha(KNOWN), None),
        (hashlib.sha256(KNOWN).digest(),),
        (sha(KNOWN),) * (2**16 + 1),
    ],
    ids=lambda models: repr(models)[:40],
)
def test_what_is_no_list_of_models_is_refused(models: Any) -> None:
    assert rule(lambda: Floors(models=models)) == "floors-file"


def test_a_set_of_models_is_a_list() -> None:
    both = {sha(KNOWN), sha(CRAFTED)}
    assert Floors(models=both) == Floors(models=tuple(both))  # type: ignore[arg-type]
    assert Floors(models=frozenset(both)) == Floors(models=tuple(both))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("smallest_cohort", "5", "smallest_cohort is a whole number"),
        ("smallest_cohort", -1, "a whole number, 0 or more"),
        ("smallest_cohort", 5.5, "a whole number"),
        ("min_honest", True, "a whole number"),
        ("malicious_server", 1, "malicious_server is true or false"),
        ("noise_variance", float("nan"), "a finite number, 0 or more"),
        ("noise_variance", -1.0, "a finite number, 0 or more"),
        ("paillier_key", "ab", "the id of a key, 64 hexadecimal digits"),
        ("models", [sha(KNOWN), "abc"], "'abc' is not one"),
        ("models", (), "a list of 1 to 65536 SHA-256"),
    ],
)
def test_a_wrong_value_is_told_what_is_allowed(field: str, value: Any, said: str) -> None:
    with pytest.raises(secagg.MisuseError, match=said) as caught:
        Floors(**{field: value})
    assert str(caught.value).startswith(field)


def test_a_slip_of_the_pen_is_told_the_nearest_name(tmp_path: Any) -> None:
    path = tmp_path / "floors.toml"
    path.write_text("smalest_cohort = 3\n")
    with pytest.raises(secagg.MisuseError, match=r"'smalest_cohort' \(is it smallest_cohort\?\)"):
        Floors.load(path)
    with pytest.raises(secagg.MisuseError, match="none: No such file or directory"):
        Floors.load(tmp_path / "none")


def test_a_file_lists_models(tmp_path: Any) -> None:
    path = tmp_path / "floors.toml"
    path.write_text(f'smallest_cohort = 3\nmodels = ["{sha(KNOWN).upper()}"]\n')
    assert Floors.load(path) == Floors(smallest_cohort=3, models=(sha(KNOWN),))
    path.write_text(f'[models]\nallowed = ["{sha(KNOWN)}"]\n')
    assert rule(lambda: Floors.load(path)) == "floors-file"


def masked(floors: Floors | None = LISTED, model: bytes | None = None) -> Any:
    plan, identities = world.make_plan(), world.people(7)[1]
    return secagg.client(
        plan,
        "s0",
        identity=identities["s0"],
        floors=floors,
        session=world.SESSION,
        round=0,
        model=model,
        journal=secagg.MemoryJournal(),
    )


def encrypting(floors: Floors | None = LISTED, model: bytes | None = None) -> Any:
    made = paillier_world.PaillierWorld(paillier_world.make_plan())
    return secagg.client(
        made.plan,
        "s0",
        identity=made.identities["s0"],
        floors=floors,
        session=world.SESSION,
        round=0,
        model=model,
        journal=secagg.MemoryJournal(),
    )


@pytest.mark.parametrize("build", [masked, encrypting])
def test_a_party_refuses_a_model_that_is_not_listed(build: Any) -> None:
    assert rule(lambda: build(model=CRAFTED)) == "model-allowed"
    # Whoever sends nothing binds the empty model, which is one like any other.
    assert rule(lambda: build(model=b"")) == "model-allowed"
    party = build()
    assert rule(lambda: party.use_model(CRAFTED)) == "model-allowed"
    # A refused model is not bound, and the round may go on with a listed one.
    assert not party.contexts.model_hash
    party.use_model(KNOWN)
    assert party.contexts.model_hash == hashlib.sha256(KNOWN).digest()
    assert rule(lambda: party.use_model(CRAFTED)) == "model"
    build(model=KNOWN)
    build(floors=Floors(), model=CRAFTED)
    build(floors=None, model=CRAFTED)


def test_a_vector_that_waits_is_not_sent_for_a_refused_model() -> None:
    party = encrypting()
    party.start()
    assert party.submit(np.arange(party.plan.length)) == []
    assert rule(lambda: party.use_model(CRAFTED)) == "model-allowed"
    assert not party.sent_input
    sent = party.use_model(KNOWN)
    assert [type(event) for event in sent] == [Send]
    assert party.sent_input


@pytest.mark.parametrize("build", [masked, encrypting])
def test_the_list_lasts_through_a_dump_and_a_new_one_counts_from_the_load(build: Any) -> None:
    party = build(model=KNOWN)
    dump = party.dump()

    def load(dump: bytes, floors: Floors | None) -> Any:
        return secagg.load(dump, party.plan, party.identity, party.journal, floors=floors)

    assert load(dump, None).floors == LISTED
    assert load(dump, Floors(models=(sha(KNOWN), sha(CRAFTED)))).floors != LISTED
    assert rule(lambda: load(dump, Floors(models=(sha(CRAFTED),)))) == "model-allowed"
    # A party that has no model yet keeps the list for the one that comes.
    early = load(build().dump(), None)
    assert rule(lambda: early.use_model(CRAFTED)) == "model-allowed"
    early.use_model(KNOWN)
