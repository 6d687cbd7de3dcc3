"""``keygen`` and ``roster``: who takes part, under which pinned keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from secagg_protocols.errors import MisuseError
from secagg_protocols.keys import KEY_SIZE, Identity
from secagg_protocols.plan_file import dump_roster, load_roster
from secagg_protocols.roster import SERVER_NAME, Roster

from .common import EPILOG, counted, stdout, table, write_json

roster_app = typer.Typer(
    no_args_is_help=True,
    help="Build, show and compare rosters: the names and public keys of all parties.",
    epilog=EPILOG,
)

_PUBLIC_HELP = "a public key (64 hexadecimal digits) or the .pub file that keygen wrote"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
RosterFile = Annotated[Path, typer.Argument(help="A roster, as `roster build` wrote it.")]


def keygen(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the site or holder in the roster, or 'server' for the server."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File for the private identity; must not exist.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make the identity of a site, of a holder or of the server: an Ed25519 key pair.

    The private key goes to --out, readable by its owner only (mode 0600), and never leaves the
    party. The public key is printed and written beside it as FILE.pub, one line `name key`: send
    that to whoever builds the roster. Existing files are never overwritten.
    """
    _check_name(name)
    public_file = out.with_name(out.name + ".pub")
    if public_file.exists():
        raise MisuseError(f"{public_file} exists; it is never overwritten", rule="identity-file")
    identity = Identity.generate(name)
    identity.save(out)
    with public_file.open("x", encoding="utf-8") as file:
        file.write(f"{name} {identity.public.hex()}\n")
    if as_json:
        data = {"name": name, "public_key": identity.public.hex()}
        write_json({**data, "identity_file": str(out), "public_file": str(public_file)})
        return
    typer.echo(f"{name} {identity.public.hex()}")
    console = stdout()
    console.print(
        f"Private identity in {out} (mode 0600; keep it here). Public line above and in "
        f"{public_file}: send it to whoever builds the roster.",
        markup=False,
    )


@roster_app.command("build", epilog=EPILOG)
def build(
    server: Annotated[
        str, typer.Option("--server", metavar="KEY|FILE", help=f"The server: {_PUBLIC_HELP}.")
    ],
    site: Annotated[
        list[str],
        typer.Option(
            "--site",
            metavar="NAME=KEY|FILE",
            help=f"A site, repeatable, in roster order: NAME={_PUBLIC_HELP}; or just FILE, which "
            "holds the name too.",
        ),
    ],
    holder: Annotated[
        list[str] | None,
        typer.Option(
            "--holder",
            metavar="NAME=KEY|FILE",
            help="A holder of a Paillier sum, likewise, in the order of the shares: the first one "
            "gets share-1.key of `paillier split`, the second share-2.key.",
        ),
    ] = None,
    epoch: Annotated[
        int,
        typer.Option(min=0, max=2**32 - 1, help="Raised by one whenever the roster changes."),
    ] = 0,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE|-", help="File to write; - for stdout.")
    ] = "-",
) -> None:
    """Write a roster from public keys. No private key is read.

    Afterwards every party compares the fingerprint with the others over a channel they trust
    (a telephone call): a roster with one swapped key lets its owner pose as that site.
    """
    server_name, server_key = _public(server)
    if server_name not in {None, SERVER_NAME}:
        raise MisuseError(
            f"the server's file names {server_name!r}; run keygen with the name {SERVER_NAME!r}",
            rule="roster",
        )
    made = Roster(
        sites=tuple(member(text, "--site") for text in site),
        server=server_key,
        epoch=epoch,
        holders=tuple(member(text, "--holder") for text in holder or []),
    )
    if out == "-":
        typer.echo(dump_roster(made), nl=False)
        return
    _write_new(Path(out), dump_roster(made))
    typer.echo(f"{members(made)}, epoch {epoch}, written to {out}")
    typer.echo(f"fingerprint {made.fingerprint}")


@roster_app.command("show", epilog=EPILOG)
def show(path: RosterFile, as_json: AsJson = False) -> None:
    """Show who is in a roster, with keys and fingerprint."""
    made = read_roster(path)
    if as_json:
        write_json({**made.to_dict(), "fingerprint": made.fingerprint})
        return
    shown = table(f"Roster of {members(made)}, epoch {made.epoch}", "#", "name", "key")
    shown.add_row("", SERVER_NAME, made.server.hex())
    for index, (name, key) in enumerate(made.sites):
        shown.add_row(str(index), Text(name), key.hex())
    for index, (name, key) in enumerate(made.holders, start=1):
        # Counted as the shares are, from 1.
        shown.add_row(f"holder {index}", Text(name), key.hex())
    console = stdout()
    console.print(shown)
    console.print("Fingerprint (compare it with the others over a channel you trust):")
    console.print(made.fingerprint)


@roster_app.command("fingerprint", epilog=EPILOG)
def fingerprint(path: RosterFile) -> None:
    """Print the fingerprint of a roster: equal fingerprints mean equal rosters."""
    typer.echo(read_roster(path).fingerprint)


def read_roster(path: Path) -> Roster:
    """The roster in a TOML file; `PlanError` where it is none."""
    try:
        return load_roster(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise MisuseError(f"{path} is not a roster (not UTF-8 text)", rule="roster") from None


def member(text: str, option: str) -> tuple[str, bytes]:
    """(name, key) from NAME=KEY, NAME=FILE or FILE, as ``option`` was given it."""
    # A file may have "=" in its name, so what exists as a file is one.
    name, equals, key = ("", "", text) if Path(text).is_file() else text.rpartition("=")
    named, public = _public(key)
    if equals and named not in {None, name}:
        raise MisuseError(f"{option} {text}: the file names {named!r}", rule="roster")
    if not (name or named):
        raise MisuseError(f"{option} {text}: NAME=KEY is needed, or a .pub file", rule="roster")
    return name or str(named), public


def members(roster: Roster) -> str:
    """``4 sites``, or ``4 sites, 3 holders`` where there are any."""
    sites = counted(len(roster.sites), "site")
    return f"{sites}, {counted(len(roster.holders), 'holder')}" if roster.holders else sites


def _check_name(name: str) -> None:
    # The roster checks names too, but a site should learn of a bad one before it has a key.
    if not name.isprintable() or not name.strip() or len(name.encode()) > 64 or " " in name:
        raise MisuseError(
            "a name is printable text of at most 64 bytes without spaces", rule="roster"
        )


def _public(text: str) -> tuple[str | None, bytes]:
    """(name or None, key) of a key in hexadecimal or a public file of keygen."""
    path = Path(text)
    if path.is_file():
        if path.stat().st_size > 4096:
            raise MisuseError(f"{path} is not a public key file", rule="roster")
        words = path.read_text(encoding="utf-8", errors="replace").split()
        if len(words) != 2:
            raise MisuseError(
                f"{path} is not a public key file (one line: name and key); give the .pub file, "
                "never the private identity",
                rule="roster",
            )
        return words[0], _key(words[1], str(path))
    if path.suffix == ".pub":
        raise MisuseError(f"{path}: there is no such file", rule="roster")
    return None, _key(text, "")


def _key(text: str, source: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        # The text may be a mistyped secret, so it is not repeated.
        where = f"{source}: " if source else ""
        raise MisuseError(
            f"{where}a public key is {2 * KEY_SIZE} hexadecimal digits, or an existing .pub file",
            rule="roster",
        )
    return key


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise MisuseError(f"{path} exists; it is not overwritten", rule="output-file") from None


__all__ = [
    "build",
    "fingerprint",
    "keygen",
    "member",
    "members",
    "read_roster",
    "roster_app",
    "show",
]
