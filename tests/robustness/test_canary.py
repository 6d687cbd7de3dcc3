"""Canary: rounds with recognisable secrets, and a search of everything that comes out."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from robustness.evidence import KINDS, canary_plan, run_all
from robustness.leaks import search, spellings, windows
from robustness.malform import BROKEN


def rules_of(kind: str) -> set[str]:
    """Rules whose error texts a round of this kind can show, and so have to be searched."""
    found: set[str] = set().union(*BROKEN.values()) - {"late"}
    found |= {"enough", "equivocation", "journal-once", "dump", "seal", "ended", "trailer"}
    found |= {"frame", "input-dtype", "input-shape", "input-weight", "identity-file", "identity"}
    found |= {"roster-member", "model", "input-once"}
    found |= {"input-finite"} if kind == "floats" else {"input-range"}
    if kind == "floats":
        found -= {"padding"}
    if kind != "sparse":
        found -= {"advert-holders", "sharer-holders", "survivor-holders"}
    if kind == "malicious-server":
        return found - {"distinct-keys"}
    return found - {
        "advert-signatures",
        "consent-set",
        "consent-count",
        "consent-members",
        "consent-signatures",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_output_shows_a_secret(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evidence, secrets = run_all(kind, tmp_path, capfd)
    outputs = evidence.outputs()
    assert search(outputs, secrets.hidden) == []
    # Revealed shares are on the wire and in the journals of those who revealed them, nowhere
    # else; and the scanner finds them there, so it does look.
    places = {leak.output for leak in search(outputs, secrets.revealed)}
    survivors = canary_plan(kind)[0].roster.names[:-1]
    texts = {"texts", "errors"}  # repr of a frame that is split shows the bytes that travel
    assert places - texts == {"wire", *(f"journal of {name}" for name in survivors)}
    found = {leak.secret for leak in search({"wire": outputs["wire"]}, secrets.revealed)}
    near = {s for s in secrets.revealed if kind != "sparse" or s in found}
    assert found == near
    # Enough was provoked for the search to mean something.
    assert len(outputs["texts"]) > 100_000
    assert len(outputs["errors"]) > 100_000
    assert rules_of(kind) <= evidence.provoked, rules_of(kind) - evidence.provoked


# The search itself.


@pytest.mark.parametrize("offset", range(5))
def test_every_spelling_is_found_at_any_place(offset: int) -> None:
    secret = bytes(range(100, 132))
    before, after = b"\x01" * offset, b"\x02" * 3
    data = before + secret + after
    leaks = [
        data,
        data.hex().encode(),
        data.hex().upper().encode(),
        data.hex(" ").encode(),
        base64.b64encode(data),
        base64.urlsafe_b64encode(data),
        base64.encodebytes(data * 3),
        repr(data).encode(),
        repr(list(data)).encode(),
        repr(bytearray(data)).encode(),
        str(np.frombuffer(secret, dtype="<u8").tolist()).encode(),
        repr(secret[::-1]).encode(),
    ]
    for leak in leaks:
        assert search({"out": b"noise " + leak + b" noise"}, {"secret": secret}), leak
    # A part of it is enough.
    assert search({"out": secret[8:16].hex().encode()}, {"secret": secret})
    assert not search({"out": bytes(1000)}, {"secret": secret})


def test_the_search_keeps_quiet_about_strangers() -> None:
    generator = np.random.default_rng(1)
    noise = generator.bytes(1 << 20)
    outputs = {"raw": noise, "hex": noise.hex().encode(), "base64": base64.b64encode(noise)}
    assert not search(outputs, {str(i): generator.bytes(32) for i in range(8)})


def test_pieces_and_spellings_are_long_enough_to_mean_something() -> None:
    for piece in windows(bytes(range(40))):
        # At least 60 of the 64 bits of the piece.
        assert min(map(len, spellings(piece).values())) >= 8
