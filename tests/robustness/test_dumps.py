"""Dumps: a party goes on from any point, and loading one twice cannot make it say two things."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robustness.malform import Station, fields_of, pack, stations
from robustness.rounds import (
    MODEL,
    PLANS,
    SERVER,
    SESSION,
    Round,
    clone,
    entropy_of,
    identities_of,
    names_of,
    roster_of,
    setup,
    vector_of,
)

import secagg
from secagg import ClipLinf, FileJournal, MemoryJournal, MisuseError, Plan, Quantise, Send


def undisturbed(kind: str, **silent: int) -> Round:
    plan, identities = setup(kind)
    round_ = Round(plan, identities, silent={k.replace("_", "-"): v for k, v in silent.items()})
    round_.run()
    round_.assert_exact()
    return round_


def same_result(one: Round, other: Round) -> None:
    a, b = one.result(), other.result()
    assert a.sum.tolist() == b.sum.tolist()
    assert a.transcript == b.transcript
    assert a.digest == b.digest
    assert (a.survivors, a.dropped, a.left, a.suspects) == (
        b.survivors,
        b.dropped,
        b.left,
        b.suspects,
    )
    assert [(c.step, c.received, c.sent) for c in a.traffic] == [
        (c.step, c.received, c.sent) for c in b.traffic
    ]


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("gone_before", [99, 5])
def test_a_round_in_which_everybody_is_reloaded_before_every_message(
    kind: str, gone_before: int
) -> None:
    plan, identities = setup(kind)
    silent = {plan.roster.names[2]: gone_before}
    reference = Round(plan, identities, silent=silent)
    reference.run()
    round_ = Round(plan, identities, silent=silent)
    for message in round_.deliveries():
        for name in round_.parties if kind != "sparse" else (message.sender, message.recipient):
            dump = round_.parties[name].dump()
            round_.reload(name)
            assert round_.parties[name].dump() == dump
    round_.assert_exact()
    same_result(round_, reference)


@pytest.mark.parametrize(
    "kind", ["semi-honest", "malicious-server", pytest.param("sparse", marks=pytest.mark.slow)]
)
def test_each_party_alone_is_reloaded_once_at_each_point(kind: str) -> None:
    reference = undisturbed(kind)
    plan, identities = setup(kind)
    points = sum(1 for _ in Round(plan, identities).deliveries())
    for at in range(points):
        round_ = Round(plan, identities)
        for number, message in enumerate(round_.deliveries()):
            if number == at:
                round_.reload(message.recipient)
                round_.reload(message.sender)
        same_result(round_, reference)


@pytest.mark.parametrize("kind", PLANS)
def test_a_dump_one_claim_old_says_the_same_again_and_an_older_one_is_refused(kind: str) -> None:
    """All dumps of all parties against all states of their journals."""
    plan, identities = setup(kind)
    round_ = Round(plan, identities)
    dumps: dict[str, list[tuple[int, bytes]]] = {name: [] for name in round_.parties}

    def claims(name: str) -> int:
        journal = round_.journals[name]
        return len(journal._records)

    def note() -> None:
        for name, party in round_.parties.items():
            entry = (claims(name), party.dump())
            if not dumps[name] or dumps[name][-1] != entry:
                dumps[name].append(entry)

    loaded = refused = 0
    for message in round_.deliveries():
        note()
        # The server has closed a step when it is about to speak to its first recipient.
        for name in (message.sender, message.recipient):
            for old, dump in dumps[name]:
                identity = identities[name] if plan.signed else None
                if claims(name) - old > 1:
                    with pytest.raises(MisuseError) as caught:
                        secagg.load(dump, plan, identity, round_.journals[name])
                    assert caught.value.rule == "dump-age"
                    refused += 1
                else:
                    secagg.load(dump, plan, identity, round_.journals[name])
                    loaded += 1
    assert loaded > 50
    assert refused > 50


@pytest.mark.parametrize("kind", PLANS)
def test_an_answer_repeated_from_an_older_dump_is_the_same_bytes(kind: str) -> None:
    """The kill between a claim and the storing of the dump: the message comes once more."""
    plan, identities = setup(kind)
    round_ = Round(plan, identities)
    repeated = 0
    for message in round_.deliveries():
        if message.recipient == SERVER:
            continue
        name = message.recipient
        before = round_.parties[name].dump()
        twin = clone(round_.parties[name], round_.journals[name])
        first = [e.data for e in twin.receive(message.data, sender=SERVER) if isinstance(e, Send)]
        round_.reload(name, before)
        events = round_.parties[name].receive(message.data, sender=SERVER)
        again = [e.data for e in events if isinstance(e, Send)]
        assert again == first
        repeated += len(again)
        round_.reload(name, before)
    round_.assert_exact()
    # One answer to each of the server's messages but the last.
    assert repeated == plan.clients * (4 if plan.signed else 3)


def float_round(kind: str) -> Round:
    """Stochastic rounding takes randomness at step 3, which must repeat after a load."""
    names = names_of(5)
    identities = identities_of(names)
    plan = Plan.recommend(
        roster_of(identities),
        length=40,
        stages=(ClipLinf(1.0), Quantise(1000, rounding="stochastic")),
        threat="malicious-server" if kind == "malicious-server" else "semi-honest",
        colluding=1,
        max_dropouts=1,
        min_honest=2,
        neighbours=4,
    )
    return Round(plan, identities, submitted=False)


def to_ready(round_: Round, name: str) -> bytes:
    """The dump of a site that has everything but its vector."""
    for message in round_.deliveries():
        # Nobody has a vector in this round, so the last message is the one of shares.
        if message.kind == 4 and message.recipient == name:
            party = round_.parties[name]
            assert party.receive(message.data, sender=SERVER) == []
            dump: bytes = party.dump()
            return dump
    raise AssertionError("no shares came")


@pytest.mark.parametrize("kind", ["semi-honest", "malicious-server"])
def test_after_a_load_the_same_vector_gives_the_same_bytes_and_another_is_refused(
    kind: str,
) -> None:
    round_ = float_round(kind)
    name = round_.plan.roster.names[0]
    dump = to_ready(round_, name)
    identity, journal = round_.identity(name), round_.journals[name]
    x = np.linspace(-1, 1, 40)

    def load() -> Any:
        return secagg.load(dump, round_.plan, identity, journal)

    first = load().submit(x)
    assert load().submit(x) == first
    assert load().submit(x.copy()) == first
    other = x.copy()
    other[7] = 0.25
    party = load()
    with pytest.raises(MisuseError) as caught:
        party.submit(other)
    assert caught.value.rule == "journal-once"
    # The refusal ends this copy of the party; it cannot be talked into the first vector either.
    with pytest.raises(MisuseError) as caught:
        party.submit(x)
    assert caught.value.rule == "ended"


@pytest.mark.parametrize("kind", ["semi-honest", "malicious-server"])
@pytest.mark.parametrize("journal_kind", ["memory", "file"])
def test_one_dump_loaded_under_two_models_reveals_once(
    kind: str, journal_kind: str, tmp_path: Path
) -> None:
    """Everything before step 3 knows no model, so one dump serves for either, but only once."""
    plan, identities = setup(kind)
    name = plan.roster.names[0]
    path = tmp_path / "journal"

    def journal() -> Any:
        return FileJournal(path) if journal_kind == "file" else memory

    memory = MemoryJournal()
    round_ = Round(plan, identities, model=b"model A", submitted=False)
    identity = round_.identity(name)
    round_.parties[name] = secagg.client(
        plan,
        name,
        identity=identity,
        session=SESSION,
        round=0,
        model=None,
        floors=None,
        journal=journal(),
        _entropy=entropy_of(name),
    )
    for other in plan.roster.names[1:]:
        round_.submit(other)
    x = vector_of(plan, name)
    dump = b""
    for message in round_.deliveries():
        if message.kind != 4 or message.recipient != name:
            continue
        party = round_.parties[name]
        assert party.receive(message.data, sender=SERVER) == []
        # A vector that comes before the model waits for it.
        waiting = clone(party)
        assert waiting.submit(x) == []
        dump = party.dump()
        party = secagg.load(dump, plan, identity, journal(), model=b"model A")
        rival = secagg.load(dump, plan, identity, journal(), model=b"model B")
        with pytest.raises(MisuseError) as caught:
            secagg.load(party.dump(), plan, identity, journal(), model=b"model B")
        assert caught.value.rule == "model"
        round_.parties[name] = party
        (answer,) = round_.sent(name, party.submit(x))
        round_.deliver(answer)
        assert round_.sent(name, waiting.use_model(b"model A")) == [answer]
        # The other copy can mask nothing under its model, so it never comes to a reveal.
        with pytest.raises(MisuseError) as caught:
            rival.submit(x)
        assert caught.value.rule == "journal-once"
        assert rival._secrets is None or rival._ended is not None
    round_.assert_exact()
    assert name in round_.result().survivors
    # After the reveal not even the old dump loads, under either model.
    for model in (b"model A", b"model B", None):
        with pytest.raises(MisuseError) as caught:
            secagg.load(dump, plan, identity, journal(), model=model)
        assert caught.value.rule == "dump-age"


def survivor_lists(kind: str) -> tuple[Station, bytes, bytes]:
    """A site that waits for the survivors, and two lists a dishonest server could sign."""
    plan, identities = setup(kind)
    station = stations(Round(plan, identities))[6]
    values = fields_of(station.parts.header)
    full = int.from_bytes(values[0], "little")
    own = station.parts.recipient
    less = next(s for s in range(plan.clients) if full >> s & 1 and s != own)
    fewer = (full & ~(1 << less)).to_bytes(len(values[0]), "little")
    header = pack([fewer, values[1] - 1])
    return station, station.message.data, station.seal(replace(station.parts, header=header))


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("journal_kind", ["memory", "file"])
def test_one_dump_loaded_twice_answers_one_survivor_list(
    kind: str, order: tuple[int, int], journal_kind: str, tmp_path: Path
) -> None:
    station, *lists = survivor_lists(kind)
    plan = station.round.plan
    identity = station.round.identity(station.message.recipient)
    dump = station.party.dump()
    memory = station.party.journal.copy()
    path = tmp_path / "journal"
    for (key, step), (digest, reply) in memory._records.items():
        FileJournal(path).claim(key, step, digest, reply)

    def load() -> Any:
        # Two processes would each open the file; two objects stand for them here.
        journal = FileJournal(path) if journal_kind == "file" else memory
        return secagg.load(dump, plan, identity, journal)

    first, second = load(), load()
    said = first.receive(lists[order[0]], sender=SERVER)
    assert [e.data[3] for e in said] == [7 if plan.signed else 9]
    with pytest.raises(MisuseError) as caught:
        second.receive(lists[order[1]], sender=SERVER)
    assert caught.value.rule == "journal-once"
    with pytest.raises(MisuseError, match="ended"):
        second.submit(vector_of(plan, station.message.recipient))
    assert second._secrets is None
    # The list that was answered gets the same bytes from any copy.
    assert load().receive(lists[order[0]], sender=SERVER) == said


def test_a_list_confirmed_by_one_copy_cannot_be_replaced_at_the_reveal() -> None:
    """Under consent, a copy dumped before and one dumped after the consent agree."""
    plan, identities = setup("malicious-server")
    round_ = Round(plan, identities)
    found = stations(round_)
    consents = found[8]
    name = consents.message.recipient
    identity, journal = identities[name], found[6].party.journal.copy()
    before, after = found[6].party.dump(), consents.party.dump()
    assert found[6].message.recipient == name
    party = secagg.load(before, plan, identity, journal)
    party.receive(found[6].message.data, sender=SERVER)
    (reveal,) = secagg.load(after, plan, identity, journal).receive(
        consents.message.data, sender=SERVER
    )
    (again,) = party.receive(consents.message.data, sender=SERVER)
    assert isinstance(reveal, Send)
    assert again == reveal
    # Both older dumps are refused now, or give the same answer.
    with pytest.raises(MisuseError) as caught:
        secagg.load(before, plan, identity, journal)
    assert caught.value.rule == "dump-age"


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_changed_or_cut_dump_is_refused(role: str) -> None:
    plan, identities = setup("semi-honest")
    round_ = Round(plan, identities)
    for message in round_.deliveries():
        if message.kind == 6:
            break
    name = SERVER if role == "server" else plan.roster.names[0]
    dump = round_.parties[name].dump()
    for at in range(len(dump)):
        changed = dump[:at] + bytes([dump[at] ^ 0x20]) + dump[at + 1 :]
        for bad in (changed, dump[:at], dump[at + 1 :]):
            with pytest.raises(MisuseError) as caught:
                secagg.load(bad, plan, None, MemoryJournal())
            assert caught.value.rule == "dump"
    with pytest.raises(MisuseError):
        secagg.load(dump + b"\0", plan, None, MemoryJournal())
    assert secagg.load(dump, plan, None, round_.journals[name]).dump() == dump
    assert secagg.load(memoryview(dump), plan, None, round_.journals[name]).dump() == dump


def test_a_dump_of_another_plan_or_identity_is_refused() -> None:
    plan, identities = setup("malicious-server")
    other_plan, _ = setup("malicious-server", length=4)
    round_ = Round(plan, identities)
    for message in round_.deliveries():
        if message.kind == 4:
            break
    for name in (plan.roster.names[0], SERVER):
        dump, journal = round_.parties[name].dump(), round_.journals[name]
        with pytest.raises(MisuseError) as caught:
            secagg.load(dump, other_plan, identities[name], journal)
        assert caught.value.rule == "dump"
        for wrong in (identities[plan.roster.names[1]], None):
            with pytest.raises(MisuseError) as caught:
                secagg.load(dump, plan, wrong, journal)
            assert caught.value.rule == "identity"
        secagg.load(dump, plan, identities[name], journal)


@pytest.mark.parametrize("kind", PLANS)
def test_what_ended_stays_ended_and_keeps_no_secret(kind: str) -> None:
    station, good, _ = survivor_lists(kind)
    plan, name = station.round.plan, station.message.recipient
    party = station.fresh()
    secrets = (party._secrets.seed, *(s for s in party._shares.values() if s))
    before = party.dump()
    assert all(secret in before for secret in secrets)
    with pytest.raises(secagg.PeerError):
        party.receive(station.seal(replace(station.parts, tail=b"x")), sender=SERVER)
    after = party.dump()
    assert not any(secret in after for secret in secrets)
    twin = secagg.load(after, plan, station.round.identity(name), party.journal.copy())
    (event,) = twin.receive(good, sender=SERVER)
    assert isinstance(event, secagg.Ignored)
    with pytest.raises(MisuseError):
        twin.submit(vector_of(plan, name))


@pytest.mark.parametrize("kind", ["semi-honest", "malicious-server"])
def test_a_finished_party_keeps_no_secret(kind: str) -> None:
    plan, identities = setup(kind)
    round_ = Round(plan, identities)
    secrets: dict[str, list[bytes]] = {}
    for message in round_.deliveries():
        if message.kind == 6 and message.recipient not in secrets:
            party = round_.parties[message.recipient]
            values = [party._secrets.seed, *(s for s in party._shares.values() if s)]
            secrets[message.recipient] = values
    for name, values in secrets.items():
        dump = round_.parties[name].dump()
        assert not any(value in dump for value in values)


def test_floors_hold_for_loaded_parties_too() -> None:
    plan, identities = setup("semi-honest")
    dump = Round(plan, identities).parties[plan.roster.names[0]].dump()
    with pytest.raises(MisuseError) as caught:
        secagg.load(dump, plan, None, MemoryJournal(), floors=secagg.Floors(malicious_server=True))
    assert caught.value.rule == "floors"


def test_the_vector_is_never_part_of_a_dump() -> None:
    plan, identities = setup("semi-honest", length=8, high=1 << 40)
    round_ = Round(plan, identities)
    name = plan.roster.names[0]
    raw = vector_of(plan, name).tobytes()
    for _ in round_.deliveries():
        dump = round_.parties[name].dump()
        assert not any(raw[at : at + 8] in dump for at in range(0, len(raw), 8))


def test_model_may_not_change_once_set() -> None:
    plan, identities = setup("semi-honest")
    party = Round(plan, identities).parties[plan.roster.names[0]]
    party.use_model(MODEL)
    with pytest.raises(MisuseError):
        party.use_model(b"another")


# Sealing for storage.


def test_a_sealed_dump_comes_back_to_its_owner_only() -> None:
    _, identities = setup("semi-honest")
    owner, other = identities["site-0"], identities["site-1"]
    for data in (b"", b"x", bytes(1000)):
        sealed = secagg.seal(data, owner)
        assert secagg.unseal(sealed, owner) == data
        # A fresh nonce each time: two dumps under one key must not share it.
        assert secagg.seal(data, owner) != sealed
        with pytest.raises(MisuseError) as caught:
            secagg.unseal(sealed, other)
        assert caught.value.rule == "seal"


def test_a_changed_or_cut_sealed_dump_is_refused() -> None:
    _, identities = setup("semi-honest")
    owner = identities["site-0"]
    sealed = secagg.seal(b"some dump", owner)
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        for bad in (changed, sealed[:at], sealed[:at] + sealed[at + 1 :], sealed + sealed[:at]):
            if bad == sealed or (bad == sealed + b""):
                continue
            with pytest.raises(MisuseError) as caught:
                secagg.unseal(bad, owner)
            assert caught.value.rule == "seal"
