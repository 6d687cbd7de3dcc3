"""The audit of transcripts, offline and without any secret: :func:`audit`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from secagg_protocols.errors import MisuseError, PeerError
from secagg_protocols.masked_sum import messages as inner
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import SERVER

from . import messages
from .audit_checks import Checks, name_of, printable
from .audit_evidence import Evidence, is_evidence
from .audit_replay import Replay
from .audit_rules import Conviction, Doubt, Signed
from .messages import Slot
from .transcript import Model, Moved, Outcome, Piece, Transcript, require_auditable

#: Most frames that are listed one by one as not authentic; the rest is counted.
_MOST_LISTED: Final = 20
#: Most rounds that a replay has open at a time.
_MOST_OPEN: Final = 8


@dataclass(slots=True)
class Account:
    """What one file holds.

    plan, roster: digest of the plan, fingerprint of its roster: an account is about these keys.
    frames, authentic: counts. strangers: where and why frames are attributed to nobody.
    stopped: why reading ended before the end of the file, or empty.
    """

    path: str
    party: str
    plan: str
    roster: str
    session: str
    signed: bool
    frames: int = 0
    authentic: int = 0
    strangers: list[str] = field(default_factory=list)
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What the signed messages say of one round, and whether a replay confirms it.

    sets: names by ``U1``, ``U2``, ``U3``, where the server said so without contradiction.
    result: aggregate digest, or empty. agreed: sites that signed it. replay: ``"confirmed"``,
    ``"contradicted"``, ``""`` without a server's transcript, or why and how far there was none.
    """

    round: int
    sets: dict[str, tuple[str, ...]]
    result: str
    agreed: tuple[str, ...]
    replay: str
    suspects: tuple[str, ...]
    ended: dict[str, str]


@dataclass(slots=True)
class Verdict:
    """What an audit found. ``convictions`` rest on signatures, ``doubts`` on accounts."""

    accounts: list[Account] = field(default_factory=list)
    rounds: list[RoundReport] = field(default_factory=list)
    convictions: list[Conviction] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: Plan and session of each conviction, for an evidence file.
    cases: list[tuple[Plan, bytes]] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether everything was whole, authentic and without contradiction."""
        whole = all(not a.stopped and a.authentic == a.frames for a in self.accounts)
        return whole and not self.convictions and not self.doubts

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "holds": self.holds,
            "convictions": [c.to_dict() for c in self.convictions],
            "doubts": [d.to_dict() for d in self.doubts],
            "rounds": [_plain(r) for r in self.rounds],
            "transcripts": [_plain(a) for a in self.accounts],
            "notes": self.notes,
        }


def audit(
    paths: Iterable[str | os.PathLike[str]],
    *,
    plan: Plan | None = None,
    replay: bool = True,
    checks: type[Checks] = Checks,
) -> Verdict:
    """Check transcripts and evidence files; those of one plan and session are held together.

    plan: the plan that the parties agreed on. Without it the caller compares the keys: anybody
    can make a plan with these names and keys of their own, and convict them.
    replay: whether rounds of a server's transcript are lived through again.
    checks: the class that holds the rules, for tests that override one.

    Raises :class:`~secagg.MisuseError` (rule ``transcript-file``) for a file that is neither, or
    of another plan, (rule ``protocol``) for one of a Paillier sum, which it would misread, and
    ``OSError`` for one that cannot be read. Memory grows with the number of
    frames (about 0.6 kB each) and, in a replay, by one vector for each of at most eight rounds.
    """
    if plan is not None and not isinstance(plan, Plan):
        raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")
    files = [] if isinstance(paths, (str, bytes, os.PathLike)) or paths is None else list(paths)
    if not files:
        raise MisuseError("paths is a list of transcripts", rule="arguments")
    groups: dict[tuple[bytes, bytes], list[Transcript | Evidence]] = {}
    for path in files:
        source = Evidence(path) if is_evidence(path) else Transcript(path)
        if plan is not None and source.plan.digest != plan.digest:
            raise MisuseError(f"{path} is of another plan", rule="transcript-file")
        require_auditable(source.plan)
        groups.setdefault((source.plan.digest, source.session), []).append(source)
    verdict = Verdict()
    if len(groups) > 1:
        verdict.notes.append(
            "The files are of different plans or sessions, which were checked each by itself."
        )
    for sources in groups.values():
        _Group(sources, checks, replay).judge(verdict)
    return verdict


class _Group:
    """The files of one plan and session."""

    def __init__(
        self, sources: Sequence[Transcript | Evidence], checks: type[Checks], replay: bool
    ) -> None:
        self.sources = sources
        self.plan, self.session = sources[0].plan, sources[0].session
        self.checks = checks(self.plan, self.session)
        self.replaying = replay
        self.replays: dict[int, Replay] = {}
        self.bundled = False  # a session, whose rounds overlap
        self.banned: set[str] = set()

    def judge(self, verdict: Verdict) -> None:
        """Read every file twice: models first, since a frame may come before its model."""
        for source in self.sources:
            self._learn(source)
        for source in self.sources:
            verdict.accounts.append(self._take(source))
        self.checks.conclude()
        # Of a round that was only prepared, adverts came and nothing was announced.
        begun = {n for n, replay in self.replays.items() if not replay.only_prepared}
        numbers = {number for number, _ in self.checks.sets} | begun
        verdict.rounds += [self._report(number) for number in sorted(numbers)]
        verdict.convictions += self.checks.convictions
        verdict.doubts += self.checks.doubts
        verdict.cases += [(self.plan, self.session)] * len(self.checks.convictions)
        if not self.plan.signed:
            verdict.notes.append(
                "This plan is semi-honest: nothing is signed, so a transcript proves nothing "
                "about who sent what. Checked was only that it is consistent in itself."
            )
        if not self.plan.complete:
            verdict.notes.append("On a sparse graph the sets of different sites are not compared.")

    def _learn(self, source: Transcript | Evidence) -> None:
        """Every model that is stated: by an entry, or by an order that its server signed."""
        frames = self.checks.frames
        for at, entry in enumerate(source.entries(), 1):
            if isinstance(entry, Model):
                frames.state_model(entry.round, (entry.model, entry.parameters))
            elif isinstance(entry, Moved) and len(entry.pieces) > 1:
                try:
                    frame = frames.authenticate(entry.pieces[0], (), f"{at}")
                except PeerError:
                    continue
                header = frame.header
                if isinstance(header, messages.Order) and header.slot == Slot.INPUT:
                    frames.state_model(header.round, (header.model, header.parameters))

    def _take(self, source: Transcript | Evidence) -> Account:
        account = Account(
            str(source.path),
            source.party,
            self.plan.digest.hex(),
            self.plan.roster.fingerprint,
            _shown_session(self.session),
            self.plan.signed,
        )
        replayed = self.replaying and source.party == SERVER_NAME and isinstance(source, Transcript)
        hint: int | None = None
        for at, entry in enumerate(source.entries(), 1):
            if isinstance(entry, Model):
                hint = entry.round
                if replayed:
                    self._tell_model(entry.round, (entry.model, entry.parameters))
            elif isinstance(entry, Outcome):
                if replayed:
                    self._hold_outcome(entry)
            else:
                self._take_message(account, entry, at, hint, replayed)
        account.stopped = source.stopped
        return account

    def _take_message(
        self, account: Account, entry: Moved, at: int, hint: int | None, replayed: bool
    ) -> None:
        for piece in entry.pieces:
            account.frames += 1
            where = f"{account.path} #{at}"
            rounds = self._rounds_of(entry, piece, hint)
            try:
                frame = self.checks.frames.authenticate(piece, rounds, where)
            except PeerError as error:
                if len(account.strangers) < _MOST_LISTED:
                    account.strangers.append(f"#{at} {_direction(entry)}: {error}")
                continue
            account.authentic += 1
            self.checks.admit(frame)
            if replayed:
                self._relive(frame, entry)

    def _rounds_of(self, entry: Moved, piece: Piece, hint: int | None) -> list[int]:
        """Where to look for the context of a frame, the likeliest first."""
        number = getattr(piece, "round", None)
        if number is not None and len(entry.pieces) > 1:
            return [number]  # of a bundle, which says it of each of its frames
        number = hint if number is None else number
        if number is None:
            return [0, *self.checks.frames.stated_rounds()]
        # Keys may be exchanged before the model of their round is known.
        return [number, number + 1, number - 1]

    # Replay.

    def _round(self, number: int) -> Replay:
        if number not in self.replays:
            open_rounds = [n for n, replay in self.replays.items() if replay.running]
            if len(open_rounds) >= _MOST_OPEN:
                # Aborted, most likely: a session has two rounds under way.
                self.replays[min(open_rounds)].stop()
            self.replays[number] = Replay(self.plan, self.session, number)
        return self.replays[number]

    def _tell_model(self, number: int, stated: tuple[bytes, bytes]) -> None:
        self._round(number).model(stated)

    def _relive(self, frame: Signed, entry: Moved) -> None:
        """Give a message of the server's transcript to the replay of its round."""
        header: Any = frame.header
        if frame.kind.number in messages.KINDS:
            self.bundled = True
            if frame.kind is messages.ORDER and entry.sent and header is not None:
                if header.slot == Slot.INPUT:
                    self._tell_model(header.round, (header.model, header.parameters))
            elif frame.kind is messages.AGREE and header is not None and not entry.sent:
                known = self.checks.results.get(header.round, {})
                if known and header.digest not in known:
                    self._ban(entry.peer)
            return
        replay = self._round(frame.round)
        if entry.sent and frame.signer == SERVER:
            replay.sent(frame, self.checks.frames.name(frame.recipient))
        elif not entry.sent and frame.signer != SERVER and entry.peer not in self.banned:
            replay.received(frame, entry.peer)
            if entry.peer in replay.dropped and self.bundled:
                self._ban(entry.peer)

    def _ban(self, site: str) -> None:
        """A session ends with a site that was caught cheating, in all its rounds."""
        if site in self.plan.roster.names:
            self.banned.add(site)
            for replay in self.replays.values():
                replay.exclude(site)

    def _hold_outcome(self, outcome: Outcome) -> None:
        replay = self.replays.get(outcome.round)
        if replay is None:
            return
        # Known before it is sent: a session delivers it with its next orders.
        replay.settle(inner.RESULT)
        following = self.replays.get(outcome.round + 1)
        if self.bundled and following is not None:
            following.settle(inner.SHARES_FOR)
        self.checks.hold_outcome(outcome.round, replay.outcome(outcome))

    def _report(self, number: int) -> RoundReport:
        sets = {}
        for name in ("U1", "U2", "U3"):
            told = self.checks.sets.get((number, name), {})
            if len(told) == 1:
                sets[name] = name_of(self.plan, next(iter(told)))
        results = list(self.checks.results.get(number, {}))
        agreed = {
            self.checks.frames.name(site)
            for site, digest in self.checks.agreements.get(number, {})
            if results == [digest]
        }
        replay = self.replays.get(number)
        status, ended = "", {}
        suspects: tuple[str, ...] = ()
        if replay is not None:
            status, ended = replay.status, replay.dropped
            suspects = () if replay.aggregate is None else replay.aggregate.suspects
            self.checks.hold_replay(number, replay.differences)
        return RoundReport(
            number,
            sets,
            results[0].hex() if len(results) == 1 else "",
            tuple(sorted(agreed)),
            status,
            suspects,
            ended,
        )


def _direction(entry: Moved) -> str:
    return printable(f"to {entry.peer}" if entry.sent else f"from {entry.peer}")


def _shown_session(session: bytes) -> str:
    text = session.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else session.hex()


def _plain(value: Any) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in value.__dataclass_fields__}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


__all__ = ["Account", "RoundReport", "Verdict", "audit"]
