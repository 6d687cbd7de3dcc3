"""``party``: one party of a round, over files: any file share or mailbox is a transport.

What must survive a crash is written in this order: the journal's claim (by the party), result
files, the sealed state together with the messages that are still to be written, the messages.
A transcript has what came in before the party takes it, and what goes out before it is written.
A command that dies in between is run again: what the state holds goes out first.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from secagg import api
from secagg.dp.budget import Budget
from secagg.durable import sync_folder, write_durably
from secagg.policy import load_policy
from secagg.session.transcript import KEEP_TAILS, Recorder
from secagg_protocols.errors import MisuseError, SecAggError
from secagg_protocols.events import Done, Event, Send
from secagg_protocols.journal import KEY_SIZE, FileJournal
from secagg_protocols.keys import SEED_SIZE, Identity, seal, unseal
from secagg_protocols.ledger import LEDGER_RULE
from secagg_protocols.masked_sum import Server
from secagg_protocols.plan import PaillierSum
from secagg_protocols.roster import SERVER_NAME

from .common import EPILOG
from .holder_options import read_share
from .party_budget import hint
from .party_steps import check_share, misuse, submit_vector, take, write_result
from .party_view import CLIENTS, SERVERS, AnyParty, show, waits
from .plan import read_plan

app = typer.Typer(
    no_args_is_help=True,
    epilog=EPILOG,
    help="Step one party of a round over files: copy what a command writes to outbox/ to the "
    "party that the file's name ends with, by any file share or mailbox. A site runs `start`, "
    "`receive`, `submit`, then `receive` for every message of the server; the server runs "
    "`start`, then `receive` and `close` for every step; a holder of a Paillier sum runs `start`, "
    "then `receive`. A command that was interrupted is "
    "simply run again.",
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that `start` made.")]
IdentityFile = Annotated[
    Path, typer.Option("--identity", metavar="KEYFILE", help="This party's identity (keygen).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """Content of the sealed file ``state``: the party's dump, and what it has yet to send."""

    dump: bytes
    journal: str  # its path; rounds share it
    transcript: str = ""  # its path, where there is one; rounds may share it
    counter: int = 0
    pending: list[tuple[str, str, bytes]] = []  # file name, recipient, message
    command: str = ""  # the command that left them
    data: str = ""  # what the site calls its data, as its ledger does
    share: str = ""  # path of a holder's share of the key
    claims: bool = False  # its policy limits what a plan may claim, which no dump holds

    def __repr__(self) -> str:
        return "Record(<sealed state>)"


@dataclass
class Desk:
    """A party and its folder while one command works on them."""

    folder: Path
    identity: Identity
    party: AnyParty
    record: Record
    recorder: Recorder | None = None

    def save(self) -> None:
        """Seal and store the party as it stands; on return it is durable."""
        self.record.dump = self.party.dump()
        data = msgspec.msgpack.encode(self.record)
        write_durably(self.folder / "state", seal(data, self.identity))

    def act(self, call: Callable[[], list[Event]], command: str) -> list[tuple[str, str]]:
        """Do one step and keep what came of it, also where that is the party's end."""
        try:
            events = call()
        except SecAggError:
            if self.party._ended is None:
                raise
            events = []
        return self.commit(events, command)

    def commit(self, events: list[Event], command: str) -> list[tuple[str, str]]:
        """Store results and state, and only then write messages: (recipient, file) of each."""
        for event in events:
            if isinstance(event, Done) and event.aggregate is not None:
                # Before the state: the dump of a finished party no longer holds the sum, and
                # what a crash leaves behind is overwritten by the same command run again.
                write_result(self.folder, self.party, event.aggregate)
                if self.recorder is not None and isinstance(self.party, SERVERS):
                    self.recorder.outcome(self.party.round, event.aggregate)
            elif isinstance(event, Send):
                self.record.counter += 1
                # A roster's names are any printable text, slashes included.
                ends = f"from-{quote(self.party.name, safe='')}-to-{quote(event.to, safe='')}"
                name = f"{self.record.counter:04d}-{ends}.msg"
                self.record.pending.append((name, event.to, event.data))
        self.record.command = command
        self.save()
        return self.flush()

    def flush(self) -> list[tuple[str, str]]:
        """Write the messages that the stored state still holds, and note that they are out."""
        if not self.record.pending:
            return []
        for _, to, data in self.record.pending:
            if self.recorder is not None:
                self.recorder.sent(to, data)
        for name, _, data in self.record.pending:
            write_durably(self.folder / "outbox" / name, data)
        sent = [(to, name) for name, to, _ in self.record.pending]
        self.record.pending, self.record.command = [], ""
        self.save()
        return sent

    def recover(self, command: str) -> tuple[list[tuple[str, str]], bool]:
        """Write what an interrupted command left; also whether that finishes ``command``."""
        left = self.record.command if self.record.pending else ""
        sent = self.flush()
        if left:
            typer.echo(f"note: the interrupted `{left}` is finished", err=True)
        return sent, left == command


@app.command("start", epilog=EPILOG)
def start(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to make; one that holds files is refused.")
    ],
    plan: Annotated[Path, typer.Option(help="The plan (TOML) of all parties.")],
    identity: IdentityFile,
    session: Annotated[str, typer.Option(metavar="TEXT", help="Name of the run, 1 to 64 bytes.")],
    round: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Number of the round.")],
    model: Annotated[
        Path | None, typer.Option(help="The broadcast model. Without it the empty model is bound.")
    ] = None,
    floors: Annotated[
        Path | None,
        typer.Option(
            help="TOML: what this site insists on, whatever a plan says: floors, or a whole "
            "policy (`secagg policy`)."
        ),
    ] = None,
    budget: Annotated[
        Path | None,
        typer.Option(
            help="TOML: epsilon and delta that this site may spend over these data, whatever a "
            "plan says; optional adjacency, adversary."
        ),
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="One for all rounds (default: NAME.journal beside DIR).")
    ] = None,
    data: Annotated[
        str, typer.Option(metavar="NAME", help="What this site calls its data, if it has several.")
    ] = "",
    share: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A holder's share of the private key (`secagg paillier split`), or all of it "
            "where it is the only holder. Every later command reads it again.",
        ),
    ] = None,
    transcript: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Record here what this party sends and receives, for `secagg verify`; all rounds "
            "of one session may share it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Begin a round as the server, a site or a holder, whichever the identity names.

    DIR (mode 0700) gets plan.toml, the sealed state and outbox/. It is made whole or not at all.
    What keeps a party from answering twice, and a site from summing one model too often, is its
    journal: use one for all rounds and never delete it. It refuses a round that was started before.
    What was spent of a budget is in it, too: give --budget and --data at every round.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise misuse(f"{folder} exists and is not empty")
    if folder == Path.cwd():
        # It is put into place by a rename, which would leave the caller's shell nowhere.
        raise misuse("name a folder other than the current one")
    me, agreed = Identity.load(identity), read_plan(plan)
    policy = None if floors is None else load_policy(floors)
    kept = None if policy is None else policy.floors()
    spends = None if budget is None else Budget.load(budget)
    held = me.name in dict(agreed.roster.holders)
    if me.name == SERVER_NAME and (kept is not None or spends is not None or data):
        raise misuse("floors, budget and data are a site's; the server has none")
    if held and (spends is not None or data):
        raise misuse("budget and data are a site's; a holder has none")
    check_share(me.name, agreed, given=share is not None)
    if transcript is not None and isinstance(agreed.protocol, PaillierSum):
        raise misuse("transcripts are of masked sums so far", rule="options")
    if journal is None:
        # Beside the folder, so that it outlives the round: what a site sends for one model, or
        # over fixed data, is counted over all of them.
        journal = folder.parent / f"{quote(me.name, safe='')}.journal"
    seed_file = _seed_file(folder, me)
    fresh = None if transcript is None or transcript.exists() else transcript
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (draft / "outbox").mkdir(mode=0o700)
        write_durably(draft / "lock", b"")
        for name, copied in (("plan", plan), ("floors", floors), ("budget", budget)):
            if copied is not None:
                write_durably(draft / f"{name}.toml", copied.read_bytes())
        book = FileJournal(journal.resolve())
        book.newest(bytes(KEY_SIZE))  # makes the file, which later commands insist on
        bound = b"" if model is None else model.read_bytes()
        if policy is not None:
            policy.check(agreed, bound, round_number=round)
        run = session.encode("utf-8", "surrogateescape")
        common: dict[str, Any] = {
            "identity": me,
            "session": run,
            "model": bound,
            "journal": book,
            "_entropy": lambda _: _seed(seed_file, me),
        }
        party: AnyParty
        if me.name == SERVER_NAME:
            party = api.server(agreed, round=round, **common)
        elif share is not None:
            part = read_share(share)
            party = api.holder(agreed, me.name, share=part, round=round, floors=kept, **common)
        else:
            ledger = None if spends is None else spends.ledger(book, me.name, data)
            hint(agreed, ledger, book, me.name, data, policy=policy)
            party = api.client(
                agreed, me.name, round=round, floors=kept, data=data, ledger=ledger, **common
            )
        kept_in = "" if transcript is None else str(transcript.resolve())
        where = "" if share is None else str(share.resolve())
        claims = policy is not None and policy.limits_claims
        record = Record(b"", str(book.path), kept_in, data=data, share=where, claims=claims)
        desk = Desk(draft, me, party, record)
        with recording(desk):
            if desk.recorder is not None:
                desk.recorder.model(round, bound)
            sent = desk.commit(party.start(), "start")
            # State and first message appear together, so a start that dies leaves nothing to mend.
            draft.rename(folder)
    except BaseException:
        if draft.exists():  # so nothing has left it
            shutil.rmtree(draft, ignore_errors=True)
            if fresh is not None:
                fresh.unlink(missing_ok=True)
        raise
    seed_file.unlink(missing_ok=True)  # another command may have been faster
    sync_folder(folder.parent)
    desk.folder = folder
    show(desk.party, desk.folder, sent, as_json)


@app.command("receive", epilog=EPILOG)
def receive(
    folder: Folder,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Messages, in the order of arrival.")
    ],
    identity: IdentityFile,
    sender: Annotated[
        str | None, typer.Option(help="Who sent them, as the transport knows (default: as stated).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take messages, say what became of each, and write what answers them to outbox/.

    Under a semi-honest plan nothing is signed: without --sender whoever can write the files is
    trusted. A site that catches the server cheating, or is told that it came too late, is ended
    for good (exit code 5).
    """
    rows: list[dict[str, Any]] = []
    with opened(folder, identity) as desk:
        roster = desk.party.plan.roster
        if sender not in {None, SERVER_NAME, *roster.names, *dict(roster.holders)}:
            raise misuse(f"{sender!r} is not in the roster", rule="roster-member")
        for path in files:
            path.stat()  # all are there before the first one counts
        sent, _ = desk.recover("receive")
        for path in files:
            row, events = take(desk.party, path, sender, desk.recorder)
            rows.append(row)
            if not isinstance(desk.party, Server) and row["outcome"] != "ignored":
                # One by one: a dump may lag behind the journal by one answer and no more.
                sent += desk.commit(events, "receive")
        if isinstance(desk.party, Server) and any(row["outcome"] != "ignored" for row in rows):
            desk.commit([], "receive")
        show(desk.party, desk.folder, sent, as_json, rows)


@app.command("submit", epilog=EPILOG)
def submit(
    folder: Folder,
    vector: Annotated[
        Path, typer.Argument(metavar="VECTOR.npy", help="This site's vector, by numpy.save.")
    ],
    identity: IdentityFile,
    weight: Annotated[int, typer.Option(help="This site's integer weight.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Mask or encrypt this site's vector and write the message that carries it.

    Once per round, in a masked sum after the server's second message: the vector itself is never
    stored. Where
    the site's --budget does not bear the input, nothing is charged or written: exit code 8.
    """
    with opened(folder, identity) as desk:
        party = desk.party
        if not isinstance(party, CLIENTS):
            raise misuse("only a site has a vector to submit", rule="options")
        sent, again = desk.recover("submit")
        sent += [] if again else desk.act(lambda: submit_vector(party, vector, weight), "submit")
        show(desk.party, desk.folder, sent, as_json)


@app.command("close", epilog=EPILOG)
def close(folder: Folder, identity: IdentityFile, as_json: AsJson = False) -> None:
    """Server: stop waiting for the open step and go on with the sites that answered.

    Look at `status` first: with fewer answers than needed the round is aborted for good (exit
    code 5). The last step opens the sum: result.npz (sum, mean) and result.json.
    """
    with opened(folder, identity) as desk:
        party = desk.party
        if not isinstance(party, SERVERS):
            raise misuse("only the server closes steps", rule="options")
        sent, again = desk.recover("close")
        awaited = waits(party)
        if awaited and not again and not awaited["have"]:
            # Most likely a `close` that is run again although a crash had let it finish.
            raise misuse("nobody has answered this step; closing it would abort the round")
        sent += [] if again else desk.act(party.close_step, "close")
        show(desk.party, desk.folder, sent, as_json)


@app.command("status", epilog=EPILOG)
def status(folder: Folder, identity: IdentityFile, as_json: AsJson = False) -> None:
    """Show what the party waits for, whether it is done, or which rule ended it."""
    with opened(folder, identity) as desk:
        sent, _ = desk.recover("status")
        show(desk.party, desk.folder, sent, as_json, asked=True)


@contextmanager
def opened(folder: Path, identity: Path) -> Iterator[Desk]:
    """The party in ``folder``, under a lock: a second command waits until the first is done."""
    if not (folder / "state").is_file():
        raise misuse(f"{folder} holds no party; `secagg party start` makes one")
    me = Identity.load(identity)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        desk = _load(folder, me)
        # Left by a start that died between the folder and this.
        _seed_file(folder.resolve(), me).unlink(missing_ok=True)
        with recording(desk):
            yield desk
    finally:
        os.close(handle)  # the lock goes with it


@contextmanager
def recording(desk: Desk) -> Iterator[None]:
    """Within, the party's transcript is open, where it keeps one."""
    party = desk.party
    if not desk.record.transcript:
        yield
        return
    with Recorder(
        desk.record.transcript,
        party.plan,
        party.name,
        party.session,
        # The replay of a sum needs the vectors themselves; of its own a site needs the hash.
        keep_tails=None if isinstance(party, SERVERS) else KEEP_TAILS,
    ) as desk.recorder:
        desk.recorder.begin(party.round)
        yield


def _seed_file(folder: Path, me: Identity) -> Path:
    return folder.parent / f".{folder.name}.{quote(me.name, safe='')}.seed"


def _seed(path: Path, me: Identity) -> bytes:
    """The seed of a round that is being started, kept (sealed) until its folder is there.

    A start that dies after its journal has the first message is run again and has to say the same.
    """
    if not path.exists():
        write_durably(path, seal(secrets.token_bytes(SEED_SIZE), me))
    return unseal(path.read_bytes(), me)


def _load(folder: Path, me: Identity) -> Desk:
    data = unseal((folder / "state").read_bytes(), me)
    try:
        record = msgspec.msgpack.decode(data, type=Record)
    except msgspec.DecodeError:
        raise misuse(f"{folder / 'state'} is not the state of a party") from None
    book = Path(record.journal)
    if not book.is_file():
        # A new one would forget what was sent.
        raise misuse(f"{book} is missing; without its journal the party does not go on")
    if record.transcript and not Path(record.transcript).is_file():
        raise misuse(
            f"{record.transcript} is missing; bring it back, or make an empty file there to begin "
            "another transcript"
        )
    # Where the copy is gone, the floors that the dump holds stay in force; limits of claims are
    # in the copy alone.
    copy = folder / "floors.toml"
    if record.claims and not copy.is_file():
        raise misuse(
            f"{copy} is missing; this party was started with a policy that limits epsilon and does "
            "not go on without, so bring it back"
        )
    policy = load_policy(copy) if copy.is_file() else None
    kept = None if policy is None else policy.floors()
    agreed = read_plan(folder / "plan.toml")
    held, spends = FileJournal(book), folder / "budget.toml"
    ledger = Budget.load(spends).ledger(held, me.name, record.data) if spends.is_file() else None
    try:
        part = read_share(Path(record.share)) if record.share else None
        party = api.load(record.dump, agreed, me, held, floors=kept, ledger=ledger, share=part)
    except MisuseError as error:
        if error.rule != LEDGER_RULE:
            raise
        # Unlike floors a budget is not in the dump, which says no more than that there was one.
        raise misuse(
            f"{spends} is missing; this party was started with a budget and does not go on "
            "without, so bring it back"
        ) from error
    if policy is not None:
        policy.check(agreed, round_number=party.round)
    return Desk(folder, me, party, record)


__all__ = ["app", "close", "receive", "start", "status", "submit", "write_durably"]
