"""Wrong arguments of sessions, stores, memberships and transcripts: typed errors, nothing done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import secagg
from secagg.session import Recorder, ServerSession, SiteSession
from secagg.session.audit import audit
from secagg_protocols.errors import SecAggError
from support.sessions import SERVER, session_plan


class Things:
    """One of everything, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan, self.keys = session_plan("malicious-server")
        self.enrolment = secagg.Identity.generate("enrolment")
        self.signed = secagg.SignedRoster.first(self.plan.roster, enrolment=self.enrolment)
        self.store = secagg.Store(folder / "store", self.keys["site-0"])
        self.member = secagg.Membership(
            self.enrolment.public, identity=self.keys["site-0"], journal=secagg.MemoryJournal()
        )
        self.path = folder / "t"
        self.recorders: list[Recorder] = []

    def site(self, name: str = "site-0", **more: Any) -> SiteSession:
        given = {"journal": self.store.journal, "identity": self.keys[name], "session": "s"}
        return SiteSession(self.plan, name, floors=None, **(given | more))

    def server(self, **more: Any) -> ServerSession:
        given = {"journal": self.store.journal, "identity": self.keys[SERVER], "session": "s"}
        return ServerSession(self.plan, **(given | more))

    def recorder(self, **more: Any) -> Recorder:
        given = {"plan": self.plan, "party": "site-0", "session": "s"} | more
        self.recorders.append(Recorder(self.path, **given))
        return self.recorders[-1]


Act = Callable[[Things], Any]
ACTS: dict[str, Act] = {
    "store without identity": lambda t: secagg.Store(t.folder, None),  # type: ignore[arg-type]
    "store without folder": lambda t: secagg.Store(None, t.keys["site-0"]),  # type: ignore[arg-type]
    "store in no path": lambda t: secagg.Store("", t.keys["site-0"]),
    "save nothing": lambda t: t.store.save(None),  # type: ignore[arg-type]
    "save another journal": lambda t: t.store.save(t.site(journal=secagg.MemoryJournal())),
    "save another party": lambda t: t.store.save(t.site("site-1")),
    "save the server": lambda t: t.store.save(t.server()),
    "membership of text": lambda t: t.site(membership="x"),
    "server's membership of text": lambda t: t.server(membership="x"),
    "accept nothing": lambda t: t.member.accept(None),  # type: ignore[arg-type]
    "accept nobody": lambda t: t.member.accept([]),
    "accept a roster": lambda t: t.member.accept(t.plan.roster),  # type: ignore[arg-type]
    "admit nothing": lambda t: t.member.admit(None),  # type: ignore[arg-type]
    "a name that is none": lambda t: secagg.Membership(
        t.enrolment.public,
        identity=t.keys["site-0"],
        journal=secagg.MemoryJournal(),
        name=3,  # type: ignore[arg-type]
    ),
    "leave a number": lambda t: t.signed.change(leave=3, enrolment=t.enrolment),  # type: ignore[arg-type]
    "an empty chain": lambda t: secagg.dump_chain([]),
    "a chain of numbers": lambda t: secagg.dump_chain([3]),  # type: ignore[list-item]
    "start a site": lambda t: t.site().start(),
    "start a server": lambda t: t.server().start(),
    "abort for no reason": lambda t: t.server().abort(3),  # type: ignore[arg-type]
    "abort before a round": lambda t: t.server().abort(),
    "a model for no round": lambda t: t.site().use_model(b"m"),
    "record no plan": lambda t: t.recorder(plan=None),
    "record no session": lambda t: t.recorder(session=3),
    "keep text": lambda t: t.recorder(keep_tails="x"),
    "keep less than nothing": lambda t: t.recorder(keep_tails=-1),
    "begin before the first": lambda t: t.recorder().begin(-1),
    "begin text": lambda t: t.recorder().begin("x"),  # type: ignore[arg-type]
    "a model of no round": lambda t: t.recorder().model(-1, b"x"),
    "a model of a huge round": lambda t: t.recorder().model(1 << 70, b"x"),
    "a model of text": lambda t: t.recorder().model(0, "x"),  # type: ignore[arg-type]
    "parameters of text": lambda t: t.recorder().model(0, b"x", "y"),  # type: ignore[arg-type]
    "receive nothing": lambda t: t.recorder().received(SERVER, None),  # type: ignore[arg-type]
    "send to nobody": lambda t: t.recorder().sent(None, b""),  # type: ignore[arg-type]
    "an outcome of nothing": lambda t: t.recorder().outcome(0, None),  # type: ignore[arg-type]
    "audit nothing": lambda t: audit(None),  # type: ignore[arg-type]
    "audit no file": lambda t: audit([]),
    "audit one path": lambda t: audit(str(t.path)),
    "audit under no plan": lambda t: audit([t.path], plan="x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("act", ACTS.values(), ids=list(ACTS))
def test_a_typed_error(act: Act, tmp_path: Path) -> None:
    things = Things(tmp_path)
    with pytest.raises(SecAggError) as caught:
        act(things)
    assert caught.value.rule
    for recorder in things.recorders:
        recorder.close()
    # What was refused left nothing that could not be read.
    assert not things.store.saved
    if things.path.exists():
        assert audit([things.path]).convictions == []


def test_a_closed_recorder_says_so(tmp_path: Path) -> None:
    recorder = Things(tmp_path).recorder()
    recorder.sync()
    recorder.close()
    with pytest.raises(SecAggError, match="ended"):
        recorder.sent(SERVER, b"late")


def test_a_folder_that_others_can_read_is_no_store(tmp_path: Path) -> None:
    things = Things(tmp_path)
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(SecAggError, match="chmod 700"):
        secagg.Store(tmp_path / "open", things.keys["site-0"])


def test_what_is_saved_is_not_overwritten_by_what_could_not_be_loaded(tmp_path: Path) -> None:
    things = Things(tmp_path)
    things.store.save(things.site())
    before = (tmp_path / "store" / "session").read_bytes()
    for other in (things.site("site-1"), things.site(journal=secagg.MemoryJournal())):
        with pytest.raises(SecAggError):
            things.store.save(other)
    assert (tmp_path / "store" / "session").read_bytes() == before
    assert things.store.load_site(things.plan).round == -1
