"""Whole rounds of a Paillier sum, and the cold start of a process that encrypts.

Both run in processes of their own: one for its peak memory, the other because it starts from
nothing. Keys are the published test keys.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from . import child, machine, measure
from .sheet import Case, Sheet

#: What ten sites can add in 32 bits: clip 8 in multiples of 2^-24.
_LEVELS: Final = 1 << 27
_CLIP: Final = 8.0


# Whole rounds.


@dataclass(slots=True)
class _Clock:
    """Seconds of each kind of party, by the wall clock; parties take turns."""

    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, name: str, work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = work(*given, **named)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result


def play(
    sites: int,
    length: int,
    bits: int,
    holders: int,
    threshold: int,
    threads: int,
    proved: bool,
) -> dict[str, Any]:
    """One round of all parties in this process: seconds by party, bytes, peak memory.

    proved: a plan against a malicious server, with signatures and all proofs; otherwise a
    semi-honest one without. The holders beyond the threshold do not answer. Raises ValueError
    where the sum is wrong.
    """
    import numpy as np

    import secagg

    from . import works
    from .memory import Watch

    plan, identities, shares = _world(sites, length, bits, holders, threshold, proved)
    _warm_up(plan)
    x = works.vector(length)
    common: dict[str, Any] = {
        "session": "bench",
        "round": 0,
        "model": b"",
        "threads": threads,
    }

    def own(name: str) -> dict[str, Any]:
        identity = identities[name] if plan.signed else None
        return {"identity": identity, "journal": secagg.MemoryJournal(), **common}

    watch, clock = Watch(), _Clock()
    begun = time.perf_counter()
    hub = secagg.server(plan, **own("server"))
    opening = {
        name: secagg.holder(plan, name, share=share, floors=None, **own(name))
        for name, share in shares.items()
    }
    silent = set(list(opening)[threshold:])
    hub.start()
    sent = 0
    for name in plan.roster.names:
        site: Any = secagg.client(plan, name, floors=None, **own(name))
        events = [*site.start(), *clock.timed("sites", site.submit, x)]
        for event in events:
            sent = len(event.data)
            # The server passes a site's message on to every holder, as it is.
            passed_on = clock.timed("server, inputs", hub.receive, event.data, sender=name)
            for copy in passed_on:
                if isinstance(copy, secagg.Send):
                    clock.timed(
                        "holders, inputs", opening[copy.to].receive, copy.data, sender="server"
                    )
    share_size, found = 0, None
    for event in clock.timed("server, inputs", hub.close_step):
        if not isinstance(event, secagg.Send) or event.to not in opening or event.to in silent:
            continue
        party = opening[event.to]
        answers = clock.timed("holders, shares", party.receive, event.data, sender="server")
        for answer in answers:
            if isinstance(answer, secagg.Send):
                share_size = len(answer.data)
                clock.timed("server, shares", hub.receive, answer.data, sender=event.to)
    for event in clock.timed("server, opening", hub.close_step):
        if isinstance(event, secagg.Done):
            found = event.aggregate
    whole, peak = time.perf_counter() - begun, watch.peak()
    if found is None:
        raise ValueError("the round came to no result")
    worst = float(np.abs(found.sum - sites * x.astype(np.float64)).max())
    if worst > sites * _CLIP / _LEVELS:
        raise ValueError(f"the sum is wrong by {worst}")
    return {
        "seconds": clock.seconds,
        "whole": whole,
        "peak": peak,
        "sent": sent,
        "share": share_size,
        "bits": plan.wire_bits,
    }


def _world(
    sites: int, length: int, bits: int, holders: int, threshold: int, proved: bool
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A plan, identities by name, and the holders' shares of the test key."""
    import secagg
    from secagg_protocols.paillier import PrivateKey, modulus_proof, split

    from .paillier_key import private

    one = private(bits)
    proof = modulus_proof.prove(one.p, one.q) if proved else b""
    one = PrivateKey(one.p, one.q, proof=proof, knowledge_proofs=proved)
    key, shares = split(one, holders, threshold)
    names = [f"holder-{i}" for i in range(holders)]
    roster, identities = secagg.Roster.generate((f"site-{i}" for i in range(sites)), holders=names)
    plan = secagg.Plan(
        roster=roster,
        length=length,
        stages=(secagg.ClipLinf(_CLIP), secagg.Quantise(_LEVELS)),
        protocol=secagg.PaillierSum(key=key, colluding_holders=1),
        threat="malicious-server" if proved else "semi-honest",
        colluding=1,
        max_dropouts=1,
        min_honest=2,
        sites_receive=False,
        suite=secagg.PAILLIER_SUITE,
        security_bits=40,
        bits=32,
    )
    return plan, identities, dict(zip(names, shares, strict=True))


def _warm_up(plan: Any) -> None:
    """Kernels and tables of the key, which any process makes once."""
    from . import paillier_works

    bits = plan.protocol.key.bits
    paillier_works.proving(100, bits)()
    paillier_works.opening(100, bits)()
    paillier_works.whole_opening(8, bits)()


def _rounds(sheet: Sheet) -> None:
    """Two rounds: one trusting the server, and a shorter one against a malicious server."""
    sizes = sheet.sizes
    threads = min(sheet.given.threads, machine.cores(), 2)
    rows = []
    for proved, length in ((False, sizes["length"]), (True, sizes["proved_length"])):
        found = child.call(
            "paillier-round",
            {
                "sites": sizes["sites"],
                "length": length,
                "bits": sizes["bits"],
                "holders": sizes["holders"],
                "threshold": sizes["threshold"],
                "threads": threads,
                "proved": proved,
            },
        )
        kind = "malicious server, all proofs" if proved else "semi-honest"
        sheet.timed(f"whole round, {kind}", [found["whole"]], length, "coordinates")
        for name, seconds in found["seconds"].items():
            sheet.timed(f"{kind}: {name}", [seconds])
        rows.append(
            [
                kind,
                f"{length:,}",
                f"{found['whole']:,.1f}",
                f"{found['peak'] / (1 << 20):,.0f}",
                f"{found['sent'] / length:,.2f}",
                f"{found['share'] / length:,.2f}",
            ]
        )
    sheet.listing(
        f"Rounds of {sizes['sites']} sites in one process on {threads} threads, "
        f"{sizes['threshold']} of {sizes['holders']} holders answering; parties take turns, so a "
        "deployment waits for the slowest of each kind only. Peak memory is that of all parties",
        [
            "round",
            "coordinates",
            "seconds",
            "peak MiB",
            "bytes of a site's message, a coordinate",
            "bytes of a holder's, a coordinate",
        ],
        rows,
        [1, 2, 3, 4, 5],
    )


# Cold start.


def encrypt_once(bits: int, length: int) -> dict[str, float]:
    """Seconds of each part of the first encryption of this process, and of the second one."""
    clock = _Clock()
    clock.timed("imports", _import_everything)
    from secagg_protocols.paillier import encrypt

    from . import works
    from .paillier_key import PRIMES
    from .paillier_works import FIXED, layout

    p, q = (int(prime, 16) for prime in PRIMES[bits])
    key = clock.timed("public key, checked", _public, p * q)
    x, at = works.vector(length), layout(length, bits)
    clock.timed("table of powers", getattr, key, "table")
    ring = FIXED.encode(x, at)
    for turn in ("first encryption", "second encryption"):
        clock.timed(turn, encrypt, key, ring, at)
    return clock.seconds


def _import_everything() -> None:
    # What a program imports to encrypt: numba and LLVM, with our packages.
    for module in (
        "secagg_native.kernels._jit",
        "secagg_native._ifma",
        "secagg_protocols.paillier",
    ):
        import_module(module)


def _public(n: int) -> Any:
    from secagg_protocols.paillier import PublicKey

    return PublicKey(n, knowledge_proofs=False)


def _cold(sheet: Sheet) -> None:
    given = {"bits": sheet.sizes["bits"], "length": sheet.sizes["length"]}
    for folder, starts in (("warm", sheet.sizes["starts"]), ("empty", sheet.sizes["empty_starts"])):
        found: dict[str, list[float]] = {}
        for turn in range(starts + (folder == "warm")):
            answer = _start(given, empty=folder == "empty")
            if folder == "warm" and turn == 0:
                continue  # it has filled the cache folder, if that was empty
            for name, seconds in answer.items():
                found.setdefault(name, []).append(seconds)
        for name, samples in found.items():
            sheet.timed(f"fresh process, {folder} cache folder: {name}", samples)
        median = sum(
            measure.spread(samples).median
            for name, samples in found.items()
            if name not in {"imports", "second encryption", "whole process"}
        )
        sheet.notes.append(
            f"{folder} cache folder: {median:.2f} s from the imports to the end of the first "
            "encryption"
        )


def _start(given: dict[str, Any], *, empty: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        answer = child.call("paillier-cold", given, {"NUMBA_CACHE_DIR": folder} if empty else None)
        return {**answer, "whole process": time.perf_counter() - start}


_ROUND: Final = {"sites": 10, "holders": 5, "threshold": 4}

CASES: Final = (
    Case(
        "paillier-round",
        "Paillier: whole rounds of ten sites",
        _rounds,
        {
            "full": {**_ROUND, "bits": 3072, "length": 1_000_000, "proved_length": 100_000},
            "quick": {**_ROUND, "bits": 3072, "length": 10_000, "proved_length": 1000},
            "tiny": {
                "sites": 4,
                "holders": 3,
                "threshold": 3,
                "bits": 2048,
                "length": 100,
                "proved_length": 20,
            },
        },
    ),
    Case(
        "paillier-cold",
        "Paillier: the first encryption of a fresh process",
        _cold,
        {
            "full": {"bits": 3072, "length": 10_000, "starts": 7, "empty_starts": 3},
            "quick": {"bits": 3072, "length": 10_000, "starts": 3, "empty_starts": 1},
            "tiny": {"bits": 2048, "length": 100, "starts": 1, "empty_starts": 1},
        },
    ),
)

__all__ = ["CASES", "encrypt_once", "play"]
