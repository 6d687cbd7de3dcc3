"""``secagg paillier``: encrypted sums by hand, for a few sites that exchange files."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from secagg_native import MAX_THREADS
from secagg_protocols.errors import MisuseError
from secagg_protocols.paillier import Ciphertexts, PublicKey, generate
from secagg_protocols.paillier import encrypt as encrypt_vector
from secagg_protocols.paillier import split as split_key

from .common import EPILOG, counted, human_bytes, stderr
from .enrol import _refusing
from .paillier_files import (
    Job,
    about,
    check_by_hand,
    check_job_size,
    check_new,
    read_array,
    read_job,
    read_private,
    read_public,
    read_vector,
    reason,
    use_of,
    write_folder,
    write_new,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Encrypted sums by hand: files for a few sites, one key or several holders of its shares.",
    epilog=EPILOG,
)

PRIVATE_FILE, PUBLIC_FILE = "private.key", "public.key"

PublicFile = Annotated[
    Path, typer.Option("--key", metavar="PUBLIC", help="The public key that all sites use.")
]
Threads = Annotated[int, typer.Option(min=1, max=MAX_THREADS, help="Threads of the arithmetic.")]


class Bits(StrEnum):
    """Lengths of a modulus."""

    SHORT = "2048"
    USUAL = "3072"
    LONG = "4096"


@app.command("keygen", epilog=EPILOG)
def keygen(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; must not exist.")],
    bits: Annotated[
        Bits, typer.Option(help="Length of the modulus: 112, 128 or more bits of security.")
    ] = Bits.USUAL,
    conservative: Annotated[
        bool,
        typer.Option(
            "--conservative",
            help="Random exponents of half the modulus instead of 512 bits: encryption is slower.",
        ),
    ] = False,
    rounds: Annotated[
        bool,
        typer.Option(
            "--rounds",
            help="For rounds (secagg plan, simulate, party), where sites prove what they encrypt; "
            "without it the key is for these commands.",
        ),
    ] = False,
) -> None:
    """Make a key pair of two safe primes: FOLDER/private.key (mode 0600) and FOLDER/public.key.

    A key has one use, by hand or in rounds (--rounds), and is refused in the other, by which
    protected vectors could be opened. The public key carries a proof that its modulus is not a weak
    one, which every command that reads the key checks. Whoever has the private key can open every
    vector that is encrypted under the public one, not only sums.
    """
    check_new(out)
    exponent_bits = int(bits) // 2 if conservative else 512
    with bar("candidates tested for two safe primes", None) as tell:
        private = generate(
            int(bits), exponent_bits=exponent_bits, knowledge_proofs=rounds, progress=tell
        )
    public = private.public
    contents = {
        PRIVATE_FILE: (private.to_bytes(), 0o600),
        PUBLIC_FILE: (public.to_bytes(), 0o644),
    }
    write_folder(out, contents)
    typer.echo(f"{out / PRIVATE_FILE}: keep it here (mode 0600); it opens every vector, not only "
               "sums")  # fmt: skip
    typer.echo(f"{out / PUBLIC_FILE}: give it to every site")
    _show_id(public)


def _show_id(public: PublicKey) -> None:
    """The key's use, its id, and what the id is for."""
    typer.echo(f"for {use_of(public)}")
    typer.echo(f"id {public.digest.hex()}")
    where = "over another channel, such as the telephone"
    if not public.knowledge_proofs:
        typer.echo(f"all compare the id {where}")
        return
    typer.echo(f"all compare the id {where}; then each site puts it into its floors file:")
    typer.echo(f'paillier_key = "{public.digest.hex()}"')


@app.command("split", epilog=EPILOG)
def split(
    key: Annotated[Path, typer.Option("--key", metavar="PRIVATE", help="The private key.")],
    holders: Annotated[int, typer.Option(min=1, max=64, help="Holders; each gets one share.")],
    threshold: Annotated[int, typer.Option(min=1, help="How many of them open together.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; must not exist.")],
) -> None:
    """Deal a private key to holders: FOLDER/share-1.key and so on, and FOLDER/public.key.

    That is a new public key, with which holders check each other; sites use it instead of the
    first. Trust: whoever ran keygen and split could open everything, and nobody can see whether
    they kept a copy. Delete the private key when every holder has its share.
    """
    if threshold > holders:
        raise MisuseError(
            f"--threshold {threshold}: of --holders {holders} no more than that can open together",
            rule="options",
        )
    check_new(out)
    private = read_private(key)
    with about(key):
        public, shares = split_key(private, holders, threshold)
    contents = {PUBLIC_FILE: (public.to_bytes(), 0o644)}
    for share in shares:
        contents[f"share-{share.index}.key"] = (share.to_bytes(), 0o600)
    write_folder(out, contents)
    names = "share-1.key" if holders == 1 else f"share-1.key to share-{holders}.key"
    typer.echo(
        f"{out}: {names}, one for each holder, over a confidential channel; "
        + ("each of them opens alone" if threshold == 1 else f"any {threshold} of them open")
    )
    if threshold == 1:
        typer.echo("warning: --threshold 1: every holder can open every vector alone", err=True)
    typer.echo(f"{out / PUBLIC_FILE}: give it to every site and holder, instead of the key before")
    _show_id(public)
    typer.echo(
        "trust: whoever ran keygen and split could open everything, and so can whoever gets "
        f"{key} or {counted(threshold, 'share')}. Once every holder has its share, delete {key} "
        "and the shares here."
    )


@app.command("job", epilog=EPILOG)
def job(
    key: PublicFile,
    sites: Annotated[int, typer.Option(min=1, help="Sites in the sum, at most.")],
    length: Annotated[int, typer.Option(min=1, help="Numbers in each site's vector.")],
    limit: Annotated[str, typer.Option(metavar="NUMBER", help="Largest size of a number.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; must not exist.")],
    places: Annotated[
        int,
        typer.Option(
            min=0,
            max=1022,
            help="Binary places: numbers are rounded to multiples of 2^-PLACES. 0: integers only.",
        ),
    ] = 0,
    max_weight: Annotated[
        int, typer.Option(min=1, help="Largest integer weight that a site gives its vector.")
    ] = 1,
) -> None:
    """Write what all sites of one sum must agree on. One person does, and every site gets the file.

    Vectors of different jobs cannot be added. No sum within these limits overflows.
    """
    check_new(out)
    with _refusing():
        public = read_public(key)
    check_by_hand(public, key)
    check_job_size(sites, max_weight)
    with about("job"):
        made = Job(
            name=secrets.token_hex(16),
            key=public.digest.hex(),
            key_bits=public.bits,
            sites=sites,
            max_weight=max_weight,
            length=length,
            places=places,
            limit=_number(limit),
        )
    write_new(out, made.dump().encode(), mode=0o644)
    layout = made.layout
    typer.echo(
        f"{out}: {counted(length, 'number')} in {counted(layout.rows, 'ciphertext')}, "
        f"{human_bytes(layout.rows * 16 * public.words)} from each site"
    )
    typer.echo(f"digest {made.context.hex()}")


@app.command("encrypt", epilog=EPILOG)
def encrypt(
    source: Annotated[Path, typer.Argument(metavar="IN.npy", help="This site's vector.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; must not exist.")],
    key: PublicFile,
    job: Annotated[Path, typer.Option("--job", help="The job, the same file at every site.")],
    weight: Annotated[
        int, typer.Option(min=1, help="Multiply the vector by this; everybody sees it.")
    ] = 1,
    threads: Threads = 1,
) -> None:
    """Encrypt a vector for a job: integers (0 places), or integers and floats.

    A second file of the same vector looks unrelated to the first, and both can be added: send one.
    """
    check_new(out)
    with _refusing():
        public = read_public(key)
    check_by_hand(public, key)
    agreed = read_job(job, public)
    if weight > agreed.max_weight:
        raise MisuseError(
            f"--weight {weight}: {job} has weights up to {agreed.max_weight}", rule="count"
        )
    array = read_array(source)
    if agreed.places == 0 and array.dtype.kind == "f":
        raise MisuseError(
            f"{source}: floats, and {job} takes integers (0 places)", rule="input-dtype"
        )
    layout = agreed.layout
    with about(source):
        ring = agreed.precision.encode(array, layout)
    with bar("encrypting", layout.rows) as tell:
        made = encrypt_vector(
            public, ring, layout, context=agreed.context, places=agreed.places,
            weight=weight, threads=threads, progress=tell,
        )  # fmt: skip
    data = made.to_bytes()
    write_new(out, data, mode=0o644)
    typer.echo(
        f"{out}: {counted(layout.length, 'number')} in {counted(layout.rows, 'ciphertext')}, "
        f"weight {weight}, {human_bytes(len(data))}"
    )
    typer.echo(f"digest {hashlib.sha256(data).hexdigest()}")


@app.command("add", epilog=EPILOG)
def add(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="IN... OUT", help="Encrypted vectors, and a file to write."),
    ],
    key: PublicFile,
    threads: Threads = 1,
) -> None:
    """Add encrypted vectors of one job. It takes no secret: anybody can do it, and do it again.

    The same files give the same sum, byte for byte, in any order. Refused are vectors of another
    key, layout, job or precision, more weight than the job has room for, and a vector that is in
    two of the files: a sum names what was added to it.
    """
    *sources, out = files
    if len(sources) < 2:
        raise MisuseError("two encrypted vectors or more, and a file to write", rule="options")
    check_new(out)
    with _refusing():
        public = read_public(key)
    check_by_hand(public, key)
    with bar("adding", len(sources)) as tell:
        made = _Adding(public, sources, tell).run(threads)
    data = made.to_bytes()
    write_new(out, data, mode=0o644)
    typer.echo(f"{out}: {counted(len(sources), 'file')}; {weights(made)}")
    typer.echo(f"digest {hashlib.sha256(data).hexdigest()}")


class _Adding:
    """Reads one vector after the other, and knows which one a refusal is about."""

    def __init__(self, key: PublicKey, sources: list[Path], tell: Callable[[int], None]) -> None:
        self._key, self._sources, self._tell = key, sources, tell
        self._current = sources[0]

    def run(self, threads: int) -> Ciphertexts:
        """The sum of all; :class:`MisuseError` naming the file that does not belong."""
        try:
            return Ciphertexts.sum_of(self._read(), threads=threads)
        except MisuseError as error:
            if str(error).startswith(f"{self._current}: "):
                raise
            text = f"{self._current}, added to {self._sources[0]}: {reason(error)}"
            raise MisuseError(text, rule=error.rule) from None

    def _read(self) -> Iterator[Ciphertexts]:
        seen: dict[bytes, Path] = {}
        holding: dict[bytes, Path] = {}
        for number, path in enumerate(self._sources):
            self._current = path
            vector, _ = read_vector(path, self._key)
            # Of the rows: what the header says of them may have been changed.
            digest = hashlib.sha256(vector.rows.data).digest()
            if digest in seen:
                raise MisuseError(
                    f"{path}: the same vector as {seen[digest]}, and each is added once",
                    rule="parts",
                )
            seen[digest] = path
            for part in vector.parts:
                if part in holding:
                    raise MisuseError(
                        f"{path}: a vector in it is in {holding[part]} too, and each is added once",
                        rule="parts",
                    )
                holding[part] = path
            yield vector
            self._tell(number + 1)


def _number(text: str) -> int | float:
    """A number as typed; a whole one stays an integer, since floats end at 2^53."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise MisuseError(f"--limit {text}: a number", rule="options")


def weights(total: Ciphertexts) -> str:
    """How much weight is in a sum, in words."""
    return (
        f"{counted(len(total.parts), 'vector')}, weights add up to {total.count:,} of at most "
        f"{total.layout.most:,}"
    )


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; call what it yields with how much is done."""
    console = stderr()
    count = MofNCompleteColumn() if total else TextColumn("{task.completed:,}")
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.update(task, completed=done)


__all__ = ["app", "bar", "weights"]
