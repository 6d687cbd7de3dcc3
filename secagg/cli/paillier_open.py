"""``paillier decrypt`` and ``paillier verify``: opening sums, and checking single files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from secagg_protocols.errors import MisuseError, PeerError
from secagg_protocols.paillier import Ciphertexts, FixedPoint, PublicKey, open_with
from secagg_protocols.paillier import threshold as sharing
from secagg_protocols.paillier.packing import SlotRangeError
from secagg_protocols.paillier.vector import check_sum, signed

from .common import EPILOG, counted, write_json
from .enrol import _refusing
from .keys import AsJson
from .paillier import Threads, app, bar, weights
from .paillier_files import (
    Part,
    about,
    check_by_hand,
    check_modulus,
    check_new,
    kind_of,
    read_job,
    read_private,
    read_public,
    read_share,
    read_vector,
    reason,
    use_of,
    write_array,
    write_new,
)


@app.command("decrypt", epilog=EPILOG)
def decrypt(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[PART...] SUM OUT",
            help="The encrypted sum and a file to write; with --combine, the parts first.",
        ),
    ],
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The private key; with --combine, the public one."),
    ] = None,
    share: Annotated[
        Path | None, typer.Option("--share", help="As one holder: write this share's part.")
    ] = None,
    combine: Annotated[
        bool, typer.Option("--combine", help="Check the holders' parts, and open with them.")
    ] = False,
    threads: Threads = 1,
) -> None:
    """Open a sum: with the private key, or part by part with the holders' shares.

    Before you open or give your part, run `add` yourself on what the sites sent: a file that is
    called a sum may be one site's vector, whatever its header claims. The result has int64 for
    integers, else float64.
    """
    modes = {"--key": key is not None and not combine, "--share": share is not None,
             "--combine": combine}  # fmt: skip
    if sum(modes.values()) != 1 or (combine and key is None):
        raise MisuseError(
            "one of --key PRIVATE, --share SHARE, or --combine with --key PUBLIC", rule="options"
        )
    if len(files) < 2 or (len(files) > 2 and not combine):
        raise MisuseError("an encrypted sum, and a file to write", rule="options")
    *parts, source, out = files
    check_new(out)
    with _refusing():
        if share is not None:
            _make_part(share, source, out, threads)
        elif key is not None and combine:
            _combine(key, parts, source, out, threads)
        elif key is not None:
            private = read_private(key)
            check_by_hand(private.public, key)
            total = _read_sum(source, private.public)[0]
            with bar("opening", len(total.rows)) as tell:
                ring = open_with(private, total, threads=threads, progress=tell)
            _write_result(out, total, ring)


def _read_sum(path: Path, key: PublicKey) -> tuple[Ciphertexts, bytes]:
    """An encrypted sum and the digest of its file; what is one vector by its header is refused."""
    total, digest = read_vector(path, key)
    with about(path):
        check_sum(total)
    return total, digest


def _make_part(share_file: Path, source: Path, out: Path, threads: int) -> None:
    share = read_share(share_file)
    check_by_hand(share.public, share_file)
    total, digest = _read_sum(source, share.public)
    with bar("part of the opening", len(total.rows)) as tell:
        rows, proof = sharing.partial(
            share, total.rows, context=total.context, threads=threads, progress=tell
        )
    write_new(out, Part(share.public.digest, share.index, digest, proof, rows).to_bytes())
    typer.echo(f"{out}: part of holder {share.index}; {weights(total)}")


def _combine(key_file: Path, parts: list[Path], source: Path, out: Path, threads: int) -> None:
    key = read_public(key_file)
    check_by_hand(key, key_file)
    if not key.verification:
        raise MisuseError(f"{key_file}: the key was not split", rule="combine")
    total, digest = _read_sum(source, key)
    good, faults = _good_parts(key, parts, total, digest, threads)
    if len(good) < key.threshold:
        text = f"{counted(len(good), 'good part')}, and {key.threshold} are needed"
        if faults:
            raise PeerError("; ".join([text, *faults]), rule="share-proof")
        raise MisuseError(text, rule="combine")
    for fault in faults:
        typer.echo(f"warning: left out: {fault}", err=True)
    chosen = {index: good[index] for index in sorted(good)[: key.threshold]}
    with bar("combining", len(total.rows)) as tell:
        plain = sharing.combine(key, chosen, threads=threads, progress=tell)
    ring = np.empty(total.layout.length, np.uint64)
    try:
        total.layout.unpack(plain, total.count, ring)
    except SlotRangeError as error:
        raise PeerError(str(error), rule="slot-range") from None
    _write_result(out, total, ring)


def _good_parts(
    key: PublicKey, parts: list[Path], total: Ciphertexts, digest: bytes, threads: int
) -> tuple[dict[int, Any], list[str]]:
    """Rows by holder of the parts whose proofs hold, and what is wrong with the others."""
    good: dict[int, Any] = {}
    faults = []
    with bar("checking parts", len(parts)) as tell:
        for number, path in enumerate(parts):
            try:
                part = _checked_part(path, key, total, digest, threads)
            except PeerError as error:
                faults.append(f"{path}: {reason(error)}")
            else:
                if part.index in good:
                    raise MisuseError(
                        f"{path}: a second part of holder {part.index}", rule="combine"
                    )
                good[part.index] = part.rows
            tell(number + 1)
    return good, faults


def _checked_part(
    path: Path, key: PublicKey, total: Ciphertexts, digest: bytes, threads: int
) -> Part:
    """The part in a file; :class:`PeerError` unless it is one of this sum and its proof holds."""
    part = Part.from_bytes(path.read_bytes(), key, total, digest)
    sharing.check_partial(
        key, part.index, total.rows, part.rows, part.proof,
        context=total.context, sender=f"holder {part.index}", threads=threads,
    )  # fmt: skip
    return part


def _write_result(out: Path, total: Ciphertexts, ring: Any) -> None:
    if total.places == 0:
        result: Any = signed(ring, total.layout.bits)
    else:
        # Decoding needs no limit; this one is allowed for all places.
        result = FixedPoint(total.places, 2.0**-total.places).decode(ring, total.layout.bits)
    write_array(out, result)
    typer.echo(f"{out}: {counted(len(result), 'number')} ({result.dtype}); {weights(total)}")


@app.command("verify", epilog=EPILOG)
def verify(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A public key, share, job, vector, sum or part.")
    ],
    key: Annotated[
        Path | None, typer.Option("--key", help="The public key that it should be of.")
    ] = None,
    job: Annotated[
        Path | None, typer.Option("--job", help="The job that a vector should be of.")
    ] = None,
    total: Annotated[
        Path | None, typer.Option("--sum", help="The sum that a part should be of.")
    ] = None,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Check one file: a public key and its proof, a share, a job, a vector or sum, a part.

    Exit code 2 for a file that is malformed or of something else, 5 where a proof is wrong. A
    proof about a modulus shows that the key is no weak one, and not who has the private key. A
    vector is not signed: compare digests with the site over a channel you trust.
    """
    kind = kind_of(path)
    if kind == "private key":
        raise MisuseError(f"{path}: a private key, which needs no check", rule="options")
    _only(kind, {"--job": (job, {"vector"}), "--sum": (total, {"part"})})
    with _refusing():
        public = None
        if key is not None:
            public = read_public(key)
            if kind not in ("public key", "share"):
                check_by_hand(public, key)
        found: dict[str, Any] = {"file": str(path), "kind": kind}
        if kind == "public key":
            found |= _key_facts(read_public(path))
        elif kind == "share":
            held = read_share(path)
            check_modulus(held.public, path)
            found |= {"holder": held.index, **_key_facts(held.public)}
        elif public is None:
            raise MisuseError(f"{path}: a {kind} is checked with --key PUBLIC", rule="options")
        elif kind == "job":
            found |= {"digest": read_job(path, public).context.hex()}
        elif kind == "vector":
            found |= _vector_facts(path, public, job)
        elif total is None:
            raise MisuseError(f"{path}: a part is checked with --sum SUM", rule="options")
        else:
            sum_of, digest = read_vector(total, public)
            try:
                part = _checked_part(path, public, sum_of, digest, threads)
            except PeerError as error:
                raise PeerError(f"{path}: {reason(error)}", rule=error.rule) from None
            found |= {"holder": part.index}
    if public is not None and found.get("id", public.digest.hex()) != public.digest.hex():
        hint = ""
        if kind == "share" and not public.verification:
            hint = "; a share is of the public.key that split made, not of the key before"
        raise MisuseError(f"{path}: not of the key in {key}{hint}", rule="key")
    if as_json:
        write_json(found)
        return
    shown = (f"{name.replace('_', ' ')} {found[name]}" for name in found if name != "file")
    typer.echo(f"{path}: good; " + "; ".join(shown).removeprefix("kind "))


def _only(kind: str, options: dict[str, tuple[Path | None, set[str]]]) -> None:
    for name, (value, kinds) in options.items():
        if value is not None and kind not in kinds:
            raise MisuseError(f"{name} does not go with a {kind}", rule="options")


def _key_facts(key: PublicKey) -> dict[str, Any]:
    facts: dict[str, Any] = {"bits": key.bits, "exponent_bits": key.exponent_bits}
    if key.verification:
        facts |= {"holders": key.holders, "threshold": key.threshold}
    return {**facts, "use": use_of(key), "id": key.digest.hex()}


def _vector_facts(path: Path, key: PublicKey, job: Path | None) -> dict[str, Any]:
    vector, digest = read_vector(path, key)
    if job is not None:
        agreed = read_job(job, key)
        mine = (vector.context, vector.layout, vector.places)
        if mine != (agreed.context, agreed.layout, agreed.places):
            raise MisuseError(f"{path}: not of the job in {job}", rule="context")
    layout = vector.layout
    facts: dict[str, Any] = {
        "length": layout.length,
        "places": vector.places,
        "vectors": len(vector.parts),
        "weights": vector.count,
    }
    return {**facts, "most": layout.most, "digest": digest.hex()}


__all__ = ["app", "decrypt", "verify"]
