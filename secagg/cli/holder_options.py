"""Options of a Paillier sum: its holders and their key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from secagg.sim.settings import PaillierSettings
from secagg_protocols.errors import DecodeError, MisuseError
from secagg_protocols.paillier import KeyShare, PrivateKey, PublicKey

SimProtocol = Literal["masked", "paillier"]
Protocol = Annotated[
    SimProtocol,
    typer.Option(
        help="masked: pair masks that cancel, sites alone. paillier: sites encrypt, and holders "
        "of a shared key open the sum."
    ),
]
Holders = Annotated[
    int | None,
    typer.Option(help="Paillier: holders of shares of the key, 1 for all of it (default: 5)."),
]
HolderThreshold = Annotated[
    int | None,
    typer.Option(
        "--threshold",
        help="Paillier: holders who open a sum together (default: the fewest that are safe "
        "against a malicious server, 3 of 5).",
    ),
]
ColludingHolders = Annotated[
    int | None,
    typer.Option(
        "--colluding-holders",
        min=0,
        help="Paillier: holders that may collude with the server (default: 0).",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Paillier: a private key, which this process deals to the holders (default: a new "
        "one, which takes seconds to minutes).",
    ),
]
KeyBits = Annotated[
    int | None, typer.Option(help="Paillier: of a new key, 2048, 3072 or 4096 (default: 3072).")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Paillier: cores to encrypt and open with (default: 1).")
]


def paillier_settings(protocol: SimProtocol, **options: Any) -> PaillierSettings | None:
    """The holders of a Paillier sum; `MisuseError` for an option of theirs with masked sums."""
    given = {name: value for name, value in options.items() if value is not None}
    if protocol == "masked":
        for name in given:
            option = name.replace("_", "-")
            raise MisuseError(
                f"--{option} is of a Paillier sum, not of masked ones", rule="options"
            )
        return None
    if "key" in given and "key_bits" in given:
        raise MisuseError("--key has its own --key-bits", rule="options")
    if "key" in given:
        given["key"] = read_private_key(given["key"])
    return PaillierSettings(**given)


def read_private_key(path: Path) -> PrivateKey:
    """The private key in a file of `secagg paillier keygen`; `MisuseError` for others."""
    from .paillier_files import read_private

    return read_private(path)


def read_share(path: Path) -> KeyShare | PrivateKey:
    """A holder's share of a private key, or all of it, in a file of `secagg paillier`."""
    from . import paillier_files as files

    return files.read_private(path) if _is_private(path) else files.read_share(path)


def _is_private(path: Path) -> bool:
    from .paillier_files import kind_of

    try:
        return kind_of(path) == "private key"
    except MisuseError:
        return False  # whoever reads it as a share says what is wrong


def read_public_key(path: Path) -> PublicKey:
    """The public key in a file, as ``PublicKey.to_bytes`` gives it; `MisuseError` for others."""
    try:
        return PublicKey.from_bytes(path.read_bytes())
    except DecodeError:
        raise MisuseError(f"{path} is not a public key", rule="key-bytes") from None


__all__ = [
    "ColludingHolders",
    "HolderThreshold",
    "Holders",
    "KeyBits",
    "KeyFile",
    "Protocol",
    "SimProtocol",
    "Threads",
    "paillier_settings",
    "read_private_key",
    "read_public_key",
    "read_share",
]
