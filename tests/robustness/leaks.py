"""A scanner for secrets: any eight bytes of any secret, in any usual spelling, in any output."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from robustness.rounds import SERVER, Round, entropy_of, vector_of

from secagg_protocols import keys, shamir
from secagg_protocols.masked_sum import masks

WINDOW = 8


class Leak(NamedTuple):
    """A secret that shows: in which output, which one, in which spelling."""

    output: str
    secret: str
    spelling: str


def windows(secret: bytes) -> list[bytes]:
    """Pieces of eight bytes: a leak of a part is a leak. Plain filler is no secret."""
    starts = {*range(0, len(secret) - WINDOW + 1, WINDOW), max(0, len(secret) - WINDOW)}
    pieces = [secret[at : at + WINDOW] for at in sorted(starts)]
    return [piece for piece in pieces if len(piece) == WINDOW and len(set(piece)) >= 4]


def spellings(piece: bytes) -> dict[str, bytes]:
    """How eight bytes may be written."""
    found = {
        "raw": piece,
        "raw, reversed": piece[::-1],
        "hex": piece.hex().encode(),
        "HEX": piece.hex().upper().encode(),
        "hex with spaces": piece.hex(" ").encode(),
        "repr": repr(piece)[2:-1].encode(),
        "list": ", ".join(map(str, piece)).encode(),
        "uint64": str(struct.unpack("<Q", piece)[0]).encode(),
        "int64": str(struct.unpack("<q", piece)[0]).encode(),
    }
    for shift in range(3):
        # The characters that depend on nothing but the piece, at each of three alignments.
        first, last = -(-shift * 8 // 6), (shift + WINDOW) * 8 // 6
        for name, encode in (
            ("base64", base64.standard_b64encode),
            ("base64url", base64.urlsafe_b64encode),
        ):
            found[f"{name} +{shift}"] = encode(bytes(shift) + piece)[first:last]
    return found


def search(outputs: Mapping[str, bytes], secrets: Mapping[str, bytes]) -> list[Leak]:
    """Every secret that shows in an output, once per spelling."""
    patterns: dict[int, list[tuple[bytes, str, str]]] = {}
    for secret, value in secrets.items():
        for piece in windows(value):
            for spelling, pattern in spellings(piece).items():
                if len(pattern) >= WINDOW:
                    head = int.from_bytes(pattern[:WINDOW], "little")
                    patterns.setdefault(head, []).append((pattern, secret, spelling))
    heads = np.array(sorted(patterns), dtype=np.uint64)
    found = set()
    for output, data in outputs.items():
        # Line breaks inside base64 or lists must not hide anything.
        for hay in {data, data.replace(b"\n", b"").replace(b"\\n", b"")}:
            for at in places(hay, heads):
                head = int.from_bytes(hay[at : at + WINDOW], "little")
                for pattern, secret, spelling in patterns[head]:
                    if hay.startswith(pattern, at):
                        found.add(Leak(output, secret, spelling))
    return sorted(found)


def places(data: bytes, heads: np.ndarray[Any, Any]) -> Iterator[int]:
    """Where eight bytes of ``data`` are one of ``heads``: one pass, however many secrets."""
    for offset in range(WINDOW):
        count = (len(data) - offset) // WINDOW
        if count > 0:
            words = np.frombuffer(data, dtype="<u8", count=count, offset=offset)
            near = np.searchsorted(heads, words)
            hits = heads[np.minimum(near, heads.size - 1)] == words
            yield from (offset + WINDOW * hit for hit in np.flatnonzero(hits).tolist())


class Secrets(NamedTuple):
    """What must not show anywhere, and what may travel because it was revealed by design."""

    hidden: dict[str, bytes]
    revealed: dict[str, bytes]


def all_secrets(round_: Round, survivors: Iterable[str], sharers: Iterable[str]) -> Secrets:
    """Derive everything that a round of ``round_``'s parties keeps secret.

    survivors and sharers: U3 and U2 by name; they decide which shares are revealed.
    """
    plan, names = round_.plan, round_.plan.roster.names
    contexts = round_.parties[SERVER].contexts
    setup_context, round_context = contexts.setup, contexts.round
    sites: dict[str, masks.SiteSecrets] = {}
    hidden: dict[str, bytes] = {}
    revealed: dict[str, bytes] = {}
    for identity in round_.identities.values():
        hidden[f"identity seed of {identity.name}"] = bytes(identity._key)
        hidden[f"sealing key of {identity.name}"] = identity.derive(b"seal")
    for index, name in enumerate(names):
        own = masks.SiteSecrets.derive(entropy_of(name, round_.tag)(32), setup_context)
        sites[name] = own
        hidden[f"round seed of {name}"] = own.seed
        hidden[f"mask seed of {name}"] = own.mask_seed
        hidden[f"channel seed of {name}"] = own.channel_seed
        hidden[f"self seed of {name}"] = own.self_seed
        hidden[f"share seed of {name}"] = own.share_seed(setup_context)
        hidden[f"stage seed of {name}"] = own.stage_seed(round_context, 0)
        hidden[f"self mask of {name}"] = masks.self_mask(own.self_seed, index, round_context)
        hidden |= vector_secrets(plan, name)
    u3, u2 = set(survivors), set(sharers)
    for index, name in enumerate(names):
        own = sites[name]
        table = shamir.split(
            [own.self_seed, own.mask_seed],
            range(len(names)),
            plan.protocol.share_threshold,
            own.share_seed(setup_context),
        )
        for holder, row in zip(names, table, strict=True):
            for kind, share in zip(("self", "mask"), row, strict=True):
                label = f"{kind} share of {name} held by {holder}"
                by_design = (name in u3) == (kind == "self") and name in u2 and holder in u3
                (revealed if by_design else hidden)[label] = shamir.encode_shares(share)
        for other, peer in enumerate(names):
            if other == index:
                continue
            there = sites[peer]
            shared = keys.agree(own.channel_seed, there.channel_key, sender=peer)
            hidden[f"channel secret of {name} and {peer}"] = shared
            hidden[f"channel key from {name} to {peer}"], _ = masks.channel_keys(
                own.channel_exchange, index, (other, there.channel_key), setup_context, sender=peer
            )
            shared = keys.agree(own.mask_seed, there.mask_key, sender=peer)
            hidden[f"pair secret of {name} and {peer}"] = shared
            hidden[f"pair mask of {name} and {peer}"] = masks.pair_mask(
                own.mask_seed,
                (index, own.mask_key),
                (other, there.mask_key),
                round_context,
                sender=peer,
            )
    return Secrets(hidden, revealed)


def vector_secrets(plan: Any, name: str) -> dict[str, bytes]:
    """The vector as it lies in memory and as it is rounded."""
    x = vector_of(plan, name)
    found = {f"vector of {name}": x.tobytes()}
    if x.dtype.kind == "f":
        levels = plan.stages[-1].levels / plan.stages[0].clip
        found[f"rounded vector of {name}"] = np.rint(x * levels).astype("<i8").tobytes()
        found[f"vector of {name} in single precision"] = x.astype("<f4").tobytes()
        text = b"".join(repr(float(v)).encode()[2:10] for v in x)
        # Eight digits after the point of each coordinate, as any print would show them.
        found[f"digits of the vector of {name}"] = text
    return found
