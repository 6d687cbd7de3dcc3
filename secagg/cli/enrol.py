"""``roster sign`` and what follows it: epochs of a roster, signed by an enrolment key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from secagg.durable import write_durably
from secagg_protocols.enrolment import Membership, Succession, claim_epoch, plan_for_epoch
from secagg_protocols.errors import MisuseError, PeerError
from secagg_protocols.journal import FileJournal
from secagg_protocols.keys import Identity
from secagg_protocols.plan_file import dump_plan, dump_roster
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.signed_roster import MOST_TEXT, SignedRoster, dump_chain, load_chain

from .common import EPILOG, counted, exit_code, fail, human_names, stdout, table, write_json
from .keys import AsJson, RosterFile, _public, _write_new, member, members, read_roster, roster_app
from .plan import read_plan

_PUBLIC_HELP = "a public key (64 hexadecimal digits) or the .pub file that keygen wrote"
ChainFile = Annotated[
    Path, typer.Argument(metavar="SIGNED", help="Signed rosters, as `roster sign` began them.")
]
KeyFile = Annotated[
    Path, typer.Option("--key", metavar="KEYFILE", help="The private enrolment key (keygen).")
]
OwnerJournal = Annotated[
    Path | None,
    typer.Option(
        "--journal",
        help="Where the owner records which roster was signed for each epoch, so that none gets "
        "two (default: KEYFILE.journal).",
    ),
]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Sites or holders.")]
Pinned = Annotated[
    str,
    typer.Option(
        "--enrolment", metavar="KEY|FILE", help=f"The pinned enrolment key: {_PUBLIC_HELP}."
    ),
]


@roster_app.command("sign", epilog=EPILOG)
def sign(
    path: RosterFile,
    key: KeyFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; must not exist.")],
    journal: OwnerJournal = None,
) -> None:
    """Sign a first roster with the enrolment key, which `keygen enrolment` makes.

    Whoever owns that key decides who takes part: keep it off line, and not at the server, which
    could fill the roster with sites of its own. Every party gets the public key over a channel
    it trusts, once; after that, rosters may come from anywhere. One key signs one history.
    """
    owner = Identity.load(key)
    made = SignedRoster.first(read_roster(path), owner)
    if out.exists():
        raise MisuseError(f"{out} exists; it is not overwritten", rule="output-file")
    claim_epoch(_owners(key, journal), made)
    _write(out, [made])
    _tell(out, made)


@roster_app.command("add", epilog=EPILOG)
def add(
    path: ChainFile,
    key: KeyFile,
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            metavar="NAME=KEY|FILE",
            help=f"A new site, repeatable: NAME={_PUBLIC_HELP}; or just FILE.",
        ),
    ] = None,
    holder: Annotated[
        list[str] | None,
        typer.Option(
            "--holder",
            metavar="NAME=KEY|FILE",
            help="A new holder, likewise, after those that are there.",
        ),
    ] = None,
    journal: OwnerJournal = None,
) -> None:
    """Let sites (or holders) join: the next epoch."""
    joining, holding = _members(site or [], "--site"), _members(holder or [], "--holder")
    _change(
        path,
        key,
        journal,
        lambda last, me: last.change(enrolment=me, join=joining, holders=holding),
    )


@roster_app.command("remove", epilog=EPILOG)
def remove(path: ChainFile, names: Names, key: KeyFile, journal: OwnerJournal = None) -> None:
    """Let sites or holders leave in good standing: the next epoch. They may join again."""
    _change(path, key, journal, lambda last, me: last.change(enrolment=me, leave=names))


@roster_app.command("revoke", epilog=EPILOG)
def revoke(path: ChainFile, names: Names, key: KeyFile, journal: OwnerJournal = None) -> None:
    """Take sites or holders out for good: the next epoch.

    Their keys never come back, under any name. The site itself may, with a new key.
    """
    _change(path, key, journal, lambda last, me: last.change(enrolment=me, revoke=names))


@roster_app.command("rotate", epilog=EPILOG)
def rotate(
    path: ChainFile,
    members: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=KEY|FILE...",
            help=f"Who (also {SERVER_NAME}), and the new key: {_PUBLIC_HELP}; or just FILE.",
        ),
    ],
    key: KeyFile,
    journal: OwnerJournal = None,
) -> None:
    """Give members new keys under their old names: the next epoch. The old keys never come back."""
    rotated = _members(members, "rotate")
    server = rotated.pop(SERVER_NAME, None)
    _change(
        path,
        key,
        journal,
        lambda last, me: last.change(enrolment=me, rotate=rotated, server=server),
    )


@roster_app.command("history", epilog=EPILOG)
def history(
    path: ChainFile,
    enrolment: Annotated[
        str | None,
        typer.Option("--enrolment", metavar="KEY|FILE", help=f"Verify against {_PUBLIC_HELP}."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify signed rosters, and show what each epoch changed.

    Without --enrolment they are verified against the key that they name themselves, which says
    that they belong together and not whose they are.
    """
    chain = read_chain(path)
    pinned = chain[0].enrolment if enrolment is None else _public(enrolment)[1]
    with _refusing():
        Succession(pinned).walk(None, chain)
    if as_json:
        found = {"enrolment": pinned.hex(), "pinned": enrolment is not None}
        write_json({**found, "epochs": [_record(one) for one in chain]})
        return
    shown = table(
        f"History of {path.name}", "epoch", "sites", "changes", "revoked keys", "digest",
        numbers=(0, 1, 3),
    )  # fmt: skip
    for one in chain:
        words = _in_words(one) or ("first roster" if not any(one.previous) else "order of sites")
        shown.add_row(
            str(one.epoch),
            str(len(one.roster.sites)),
            Text(words),
            str(len(one.revoked)),
            one.digest.hex()[:16],
        )
    console = stdout()
    console.print(shown)
    if enrolment is None:
        console.print(
            f"Signed by {pinned.hex()}, as the file says: compare this key with the one you were "
            "given, or give that one (--enrolment).",
            markup=False,
        )
    else:
        console.print("Signed by the pinned enrolment key.")


@roster_app.command("check", epilog=EPILOG)
def check(
    path: ChainFile,
    enrolment: Pinned,
    identity: Annotated[
        Path, typer.Option("--identity", metavar="KEYFILE", help="This party's identity (keygen).")
    ],
    journal: Annotated[
        Path, typer.Option("--journal", help="This party's journal, which remembers the epoch.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the plain roster, for plans; must not exist."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accept the newest of the signed rosters, as one party, and remember it in the journal.

    Refuses another signer, an epoch below the newest one seen, a second roster of one epoch, a
    missing epoch, a revoked key, and a roster without this party under this key.
    """
    me = Identity.load(identity)
    membership = Membership(_public(enrolment)[1], identity=me, journal=FileJournal(journal))
    with _refusing():
        roster = membership.accept(read_chain(path))
    if out is not None:
        _write_new(out, dump_roster(roster))
    if as_json:
        write_json({"name": me.name, "epoch": roster.epoch, "fingerprint": roster.fingerprint})
        return
    typer.echo(f"{me.name} is in epoch {roster.epoch} with {members(roster)}")
    typer.echo(f"fingerprint {roster.fingerprint}")


@roster_app.command("replan", epilog=EPILOG)
def replan(
    plan: Annotated[Path, typer.Argument(help="The plan of an earlier epoch.")],
    path: Annotated[
        Path, typer.Argument(metavar="ROSTER", help="The new roster, as `roster check` wrote it.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; must not exist.")],
) -> None:
    """Write the plan for a new epoch: the same promises over the new roster.

    Where the number of sites changed, threshold and graph are chosen anew. All parties compare
    the digest, since parties with different plans cannot talk.
    """
    made = plan_for_epoch(read_plan(plan), read_roster(path))
    _write_new(out, dump_plan(made))
    typer.echo(f"{out}: epoch {made.roster.epoch}, {counted(made.clients, 'site')}, share "
               f"threshold {made.protocol.share_threshold}")  # fmt: skip
    typer.echo(f"digest {made.digest.hex()}")


def read_chain(path: Path) -> tuple[SignedRoster, ...]:
    """The signed rosters in a TOML file, unverified; `PlanError` where there are none."""
    if path.stat().st_size > MOST_TEXT:
        raise MisuseError(f"{path} is too large for signed rosters", rule="roster")
    try:
        return load_chain(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise MisuseError(f"{path} has no signed rosters (not UTF-8)", rule="roster") from None


def _owners(key: Path, journal: Path | None) -> FileJournal:
    return FileJournal(key.with_name(key.name + ".journal") if journal is None else journal)


def _change(
    path: Path,
    key: Path,
    journal: Path | None,
    change: Callable[[SignedRoster, Identity], SignedRoster],
) -> None:
    owner = Identity.load(key)
    chain = read_chain(path)
    with _refusing():
        made = change(Succession(owner.public).walk(None, chain), owner)
    # Recorded before it can be seen: the same command, repeated after a crash, signs the same.
    claim_epoch(_owners(key, journal), made)
    _write(path, [*chain, made])
    _tell(path, made)


def _write(path: Path, chain: list[SignedRoster]) -> None:
    write_durably(path, dump_chain(chain).encode())
    path.chmod(0o644)  # public, and made to be passed around


def _tell(path: Path, made: SignedRoster) -> None:
    words = _in_words(made)
    typer.echo(
        f"{path}: epoch {made.epoch}, {members(made.roster)}" + (f"; {words}" if words else "")
    )
    typer.echo(f"fingerprint {made.roster.fingerprint}")


def _in_words(one: SignedRoster) -> str:
    kinds: dict[str, list[str]] = {}
    for kind, name in one.changes:
        kinds.setdefault(kind, []).append(name)
    return "; ".join(f"{kind}: {human_names(names)}" for kind, names in kinds.items())


def _record(one: SignedRoster) -> dict[str, Any]:
    return {
        "epoch": one.epoch,
        "sites": len(one.roster.sites),
        "changes": [list(change) for change in one.changes],
        "revoked": [key.hex() for key in one.revoked],
        "digest": one.digest.hex(),
        "previous": one.previous.hex(),
        "fingerprint": one.roster.fingerprint,
    }


def _members(texts: list[str], option: str) -> dict[str, bytes]:
    """Public keys by name, from NAME=KEY, NAME=FILE or FILE."""
    found: dict[str, bytes] = {}
    for text in texts:
        name, public = member(text, option)
        if name in found:
            raise MisuseError(f"{option} {name}: is given twice", rule="roster")
        found[name] = public
    return found


@contextmanager
def _refusing() -> Iterator[None]:
    """No round is under way here, so a peer's fault is called what it is."""
    try:
        yield
    except PeerError as error:
        fail(f"refused: {error}", exit_code(error))


__all__ = ["read_chain", "roster_app"]
