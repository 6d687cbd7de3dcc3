"""What comes out of rounds with recognisable secrets: every output, every provoked error."""

from __future__ import annotations

import logging
import pprint
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robustness.leaks import Secrets, all_secrets
from robustness.malform import Station, stations
from robustness.rounds import (
    SERVER,
    Round,
    clone,
    cut_frame,
    identities_of,
    names_of,
    roster_of,
    setup,
    vector_of,
)
from robustness.variants import general, particular

import secagg
from secagg import ClipLinf, FileJournal, Floors, Identity, MemoryJournal, Plan, Quantise
from secagg_protocols.masked_sum import messages
from secagg_protocols.masked_sum.masks import SiteSecrets
from secagg_protocols.waiting import Waiting
from secagg_protocols.wire import split_frame


def canary_plan(kind: str) -> tuple[Plan, dict[str, Identity]]:
    """Ring elements of 64 bits, so that an unmasked number would travel byte for byte."""
    if kind != "floats":
        return setup(kind, length=6, high=1 << 60, bits=64)
    identities = identities_of(names_of(4))
    plan = Plan.recommend(
        roster_of(identities),
        length=6,
        stages=(ClipLinf(1.0), Quantise(1 << 50, rounding="nearest")),
        threat="semi-honest",
        colluding=1,
        max_dropouts=1,
        min_honest=2,
        bits=64,
    )
    return plan, identities


KINDS = ("semi-honest", "malicious-server", "sparse", "floats")


@dataclass
class Evidence:
    """Everything that came out, by where it came out."""

    texts: dict[str, None] = field(default_factory=dict)  # in order, each once
    errors: dict[str, None] = field(default_factory=dict)
    wire: list[bytes] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    provoked: set[str] = field(default_factory=set)

    def show(self, *values: Any) -> None:
        """All that a caller's debugging would print."""
        for value in values:
            for text in (
                repr(value),
                str(value),
                f"{value}",
                pprint.pformat(value),
                repr([value]),
                repr({"key": value}),
            ):
                self.texts[text] = None

    def catch(self, error: BaseException) -> None:
        """An error as any handler may write it down: text, attributes, the whole chain."""
        self.errors["".join(traceback.format_exception(error))] = None
        chain: BaseException | None = error
        while chain is not None:
            self.show(chain, chain.args, vars(chain))
            self.provoked.add(getattr(chain, "rule", type(chain).__name__))
            chain = chain.__cause__ or chain.__context__

    @contextmanager
    def provoke(self, *kinds: type[BaseException]) -> Iterator[None]:
        """Something goes wrong here, and what it says is kept."""
        with pytest.raises(kinds or secagg.SecAggError) as caught:
            yield
        self.catch(caught.value)

    def outputs(self) -> dict[str, bytes]:
        found = {
            "texts": "\n".join(self.texts).encode(),
            "errors": "\n".join(self.errors).encode(),
            "wire": b"\n".join(self.wire),
        }
        return found | self.files


def whole_round(round_: Round, evidence: Evidence) -> None:
    """A round in which everything is shown at every message."""
    plan = round_.plan
    evidence.show(plan, plan.roster, *round_.identities.values(), Floors(), plan.explain())
    true = round_.deliver

    def deliver(message: Any) -> list[Any]:
        events = true(message)
        evidence.show(*events, events)
        return events

    round_.deliver = deliver  # type: ignore[method-assign]
    for message in round_.deliveries():
        evidence.wire.append(message.data)
        for name in (message.sender, message.recipient):
            party = round_.parties[name]
            evidence.show(party, party.contexts, party.journal, party._ended)
            own = getattr(party, "_secrets", None)
            evidence.show(
                own, getattr(own, "mask_exchange", None), getattr(party, "_pending", None)
            )
            stored = secagg.seal(party.dump(), round_.identities[name])
            label = f"sealed dumps of {name}"
            evidence.files[label] = evidence.files.get(label, b"") + stored
        trailer = 64 if plan.signed else 32
        evidence.show(split_frame(message.data, trailer_size=trailer))
        evidence.show(messages.KINDS[message.kind])
    for done in round_.answers.values():
        evidence.show(done)
    evidence.show(round_.result().sum, round_.result())


def provoke_inputs(round_: Round, evidence: Evidence) -> None:
    """Every way to hand in a vector that is refused."""
    plan, name = round_.plan, round_.plan.roster.names[0]
    x = vector_of(plan, name)
    party = round_.parties[name]
    bad: list[tuple[Any, Any]] = [
        (x.tolist(), 1),
        (x[:-1], 1),
        (x.reshape(2, 3), 1),
        (x.astype("<c16"), 1),
        (x.astype("<f4").astype(object), 1),
        (x, 0.5),
        (x, 10**6),
        (x, True),
        (None, 1),
    ]
    if x.dtype.kind == "f":
        bad += [(np.where(np.arange(6) == 5, hole, x), 1) for hole in (np.nan, np.inf, -np.inf)]
        bad += [(x.astype(np.int64), 1)]
    else:
        bad += [(x.astype(np.float64), 1), (x | (1 << 62), 1), (-x, 1), (x.astype("<u8") * 8, 1)]
    for vector, weight in bad:
        with evidence.provoke():
            party.submit(vector, weight)
    party.submit(x)
    with evidence.provoke():
        party.submit(x)
    with evidence.provoke():
        party.use_model(b"another model")
    with evidence.provoke():
        clone(round_.parties[SERVER]).close_step()


def some_stations(kind: str) -> Iterator[Station]:
    """Both roles before every kind of message, while the last site is gone from some step on."""
    plan, identities = canary_plan(kind)
    for gone_before in (1, 3, 5):
        silent = {plan.roster.names[-1]: gone_before}
        yield from stations(Round(plan, identities, silent=silent)).values()
    if kind != "floats":
        # Words of 64 bits leave no unused bits that could be set.
        yield stations(Round(*setup(kind)))[5]


def provoke_messages(kind: str, evidence: Evidence) -> None:
    """Every malformed message of the tests beside this one, at both roles."""
    for station in some_stations(kind):
        sender = station.message.sender
        for _, parts, _ in (*general(station), *particular(station)):
            party = station.fresh()
            evidence.show(party)
            try:
                events = party.receive(station.seal(parts), sender=sender)
            except secagg.SecAggError as error:
                evidence.catch(error)
            else:
                for event in events:
                    evidence.show(event)
                    if isinstance(event, (secagg.Dropped, secagg.Ignored)):
                        evidence.catch(event.error)
            if station.message.recipient != SERVER:
                with evidence.provoke():
                    party.submit(vector_of(party.plan, party.name))
        other = replace(station.parts, tail=station.parts.tail + b"x")
        party = station.fresh()
        party.receive(station.message.data, sender=sender)
        try:
            evidence.show(*party.receive(station.seal(other), sender=sender))
        except secagg.EquivocationError as error:
            evidence.catch(error)
        for data in (b"", b"SA", station.message.data[:-1], station.message.data + b"x"):
            for event in party.receive(data, sender=sender):
                evidence.show(event)
                evidence.catch(event.error)


def provoke_aborts(kind: str, evidence: Evidence) -> None:
    """Shares that do not open or do not fit, and too few sites."""
    plan, identities = canary_plan(kind)
    for number, spoil in ((3, 20), (9, 40)):
        # Sealed shares changed by everybody, or half of everybody's revealed shares.
        # The same site leaves as in the searched round: the shares that one seed reveals for two
        # lists of survivors would be a leak that these tests make themselves.
        round_ = Round(plan, identities, silent={plan.roster.names[-1]: 5})
        try:
            for message in round_.deliveries():
                if message.kind == number:
                    party = round_.parties[SERVER]
                    context = party.contexts.round if number >= 5 else party.contexts.setup
                    station = stations_free(round_, message, context)
                    tail = bytearray(station.parts.tail)
                    tail[spoil % len(tail)] ^= 1
                    message.data = station.seal(replace(station.parts, tail=bytes(tail)))
                    evidence.wire.append(message.data)
        except secagg.SecAggError as error:
            evidence.catch(error)
            with evidence.provoke():
                round_.parties[SERVER].close_step()
        else:
            assert round_.result().suspects
            evidence.show(round_.result())
    for first in (1, 3, 5, 7, 9):
        if first == 7 and not plan.signed:
            continue
        round_ = Round(plan, identities, silent=dict.fromkeys(plan.roster.names[1:], first))
        with evidence.provoke(secagg.ThresholdError):
            round_.run()


def stations_free(round_: Round, message: Any, context: bytes) -> Any:
    """A station for sealing only."""
    return Station(None, message, cut_frame(round_.plan, message.data), context, round_, [])


def provoke_storage(round_: Round, evidence: Evidence, folder: Path) -> None:
    """Dumps, seals, journals and identity files that are refused."""
    plan, name = round_.plan, round_.plan.roster.names[0]
    own, other = round_.identities[name], round_.identities[plan.roster.names[1]]
    identity = round_.identity(name)
    party = round_.parties[name]
    dump = party.dump()
    for bad in (dump[:-1], dump[:40], b"", dump + b"x"):
        with evidence.provoke():
            secagg.load(bad, plan, identity, MemoryJournal())
    with evidence.provoke():
        secagg.load(dump, setup("semi-honest", length=9)[0], None, MemoryJournal())
    with evidence.provoke():
        secagg.load(dump, plan, other, MemoryJournal())
    sealed = secagg.seal(dump, own)
    for bad, who in ((sealed, other), (sealed[:-1], own), (dump, own)):
        with evidence.provoke():
            secagg.unseal(bad, who)
    with evidence.provoke():
        party.journal.claim(party._journal_key, 1, bytes(32), b"")
    path = folder / "identity"
    own.save(path)
    with evidence.provoke():
        own.save(path)
    path.chmod(0o644)
    with evidence.provoke():
        Identity.load(path)
    path.chmod(0o600)
    text = path.read_text()
    for changed in (
        text + "x",
        text.replace("seed ", "seed z"),
        text[:-3],
        text.replace("1", "", 1),
    ):
        path.write_text(changed)
        with evidence.provoke():
            Identity.load(path)
    # The file of an identity holds its seed by design; it is no output to search.
    path.unlink()
    with evidence.provoke(TypeError):
        own.__reduce__()
    secrets = SiteSecrets.derive(own.derive(b"seal"), bytes(32))
    waiting = Waiting(vector_of(plan, name), 1, shared=True)
    for holds in (secrets, secrets.mask_exchange, secrets.channel_exchange, waiting):
        with evidence.provoke(TypeError):
            holds.__reduce__()
    with evidence.provoke():
        secagg.client(
            plan,
            "nobody",
            identity=own,
            session="s",
            round=0,
            model=b"",
            floors=None,
            journal=MemoryJournal(),
        )


def run_all(
    kind: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    *,
    only_round: bool = False,
) -> tuple[Evidence, Secrets]:
    """A round with all its outputs, and all errors that these tests know to provoke."""
    plan, identities = canary_plan(kind)
    gone = plan.roster.names[-1]
    evidence = Evidence()
    log = folder / "log"
    handler = logging.FileHandler(log, encoding="utf-8")
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            round_ = Round(plan, identities, silent={gone: 5})
            for name in round_.parties:
                round_.journals[name] = FileJournal(folder / f"journal of {name}")
                round_.parties[name] = round_.make(name)
            secrets = all_secrets(
                round_, [n for n in plan.roster.names if n != gone], plan.roster.names
            )
            whole_round(round_, evidence)
            if not only_round:
                if kind != "floats":
                    round_.assert_exact()
                assert round_.result().dropped == {gone: "input"}
                provoke_inputs(Round(plan, identities, submitted=False), evidence)
                provoke_messages(kind, evidence)
                provoke_aborts(kind, evidence)
                provoke_storage(round_, evidence, folder)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
    out, err = capfd.readouterr()
    evidence.files["stdout"], evidence.files["stderr"] = out.encode(), err.encode()
    evidence.files["log"] = log.read_bytes()
    said = [warnings.formatwarning(w.message, w.category, w.filename, 1) for w in caught]
    evidence.files["warnings"] = "\n".join(said).encode()
    for path in folder.glob("journal of *"):
        evidence.files[path.name] = path.read_bytes()
    return evidence, secrets
