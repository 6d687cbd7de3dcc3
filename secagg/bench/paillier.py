"""Cases of Paillier sums: each operation beside phe, the GMP twin, the multipliers' limit, peers.

Figures are per number: a ciphertext of 3072 bits holds 85 slots of 36 bits, where those of the
peers hold one number each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from secagg_native import features

from . import child, paillier_peers, paillier_works, peers, text
from .measure import Work, spread
from .results import Bar
from .sheet import Case, NotHereError, Sheet

#: The environment variable that forces a variant of the big-integer arithmetic.
FORCE: Final = features.BIGINT_ENVIRONMENT
#: Cases that run in a process of their own, with the variant that is forced there.
FORCED: Final = {"paillier-gmp": features.GMP}

_PHE: Final = "phe"


def _sizes(full: int, quick: int, **more: int) -> dict[str, dict[str, int]]:
    """Sizes of a case: numbers of ours, and numbers of a peer's in each sample."""
    common = {"bits": 3072, **more}
    return {
        "full": {"length": full, "peer_numbers": 16, **common},
        "quick": {"length": quick, "peer_numbers": 4, **common},
        "tiny": {"length": 100, "peer_numbers": 2, **common, "bits": 2048},
    }


def _per_number(samples: Sequence[float], numbers: int) -> list[float]:
    return [seconds / numbers for seconds in samples]


def _beside_phe(
    sheet: Sheet,
    operation: str,
    ours: Mapping[str, tuple[Work, int]],
    bars: Mapping[str, str],
    least_seconds: float | None = None,
) -> None:
    """Time ours and phe's in turns, per number. ``bars``: bar -> the work that it judges."""
    reason = peers.left_out(sheet.given).get(_PHE, "")
    group = dict(ours)
    peer = f"phe, {operation}"
    if not reason:
        made = paillier_peers.make(_PHE, sheet.sizes["peer_numbers"], sheet.sizes["bits"])
        group[peer] = made.works[operation]
    found = sheet.alternate(
        {name: work for name, (work, _) in group.items()}, seconds=least_seconds
    )
    each = {name: _per_number(found[name], numbers) for name, (_, numbers) in group.items()}
    for name, samples in each.items():
        sheet.timed(f"{name}, a number", samples, 1, "numbers")
    if reason:
        for bar in bars:
            sheet.leave_out(bar, reason)
        sheet.notes.append(f"left out: {reason}")
        return
    for bar, name in bars.items():
        sheet.compare(bar, each[peer], each[name])


def _encrypt(sheet: Sheet) -> None:
    length, bits = sheet.sizes["length"], sheet.sizes["bits"]
    plain, proved = "secagg, floats to bytes", "secagg, with the knowledge proof"
    sheet.notes.append(f"big integers: {features.bigint_variant()}")
    size, least = paillier_works.bytes_a_number(length, bits)
    sheet.judge("paillier-encrypt/bytes", size / least)
    at = paillier_works.layout(length, bits)
    sheet.notes.append(
        f"{size:.4f} bytes a number with the header; slots of {at.slot_bits} bits need {least:.2f}"
    )
    sheet.notes.append(
        f"a ciphertext holds {at.slots} numbers, and one of phe's a single number: so much of each "
        "ratio is packing"
    )
    _beside_phe(
        sheet,
        "encrypt",
        {
            plain: (paillier_works.encrypting(length, bits), length),
            proved: (paillier_works.proving(length, bits), length),
        },
        {"paillier-encrypt/phe": plain, "paillier-encrypt/phe-proved": proved},
    )
    _split_encryption(sheet)


def _split_encryption(sheet: Sheet) -> None:
    """Where the time of an encryption goes: the table alone against the whole."""
    slots, bits = paillier_works.layout(1, sheet.sizes["bits"]).slots, sheet.sizes["bits"]
    rows = max(8, sheet.sizes["length"] // slots)
    variant = features.bigint_variant()
    names = {
        "the table and the plaintexts alone": paillier_works.table_encrypting(rows, bits, variant),
        "rounding and packing": paillier_works.packing(rows * slots, bits),
        "random exponents": paillier_works.drawing(rows, bits),
        "check of the ciphertexts": paillier_works.checking(rows, bits),
    }
    found = sheet.alternate(names, seconds=0.0)
    for name, samples in found.items():
        sheet.timed(f"part of it: {name}, a ciphertext", _per_number(samples, rows), 1, "rows")


def _gmp(sheet: Sheet) -> None:
    found = features.bigint_variants()
    if features.GMP not in found or features.bigint_variant() != features.GMP:
        raise NotHereError(f"{FORCE} did not choose gmp; this host has {', '.join(found)}")
    length, bits = sheet.sizes["length"], sheet.sizes["bits"]
    plain, proved = "secagg, GMP twin", "secagg, GMP twin, with the knowledge proof"
    _beside_phe(
        sheet,
        "encrypt",
        {
            plain: (paillier_works.encrypting(length, bits), length),
            proved: (paillier_works.proving(length, bits), length),
        },
        {"paillier-gmp/phe": plain},
        least_seconds=0.0,
    )


def _add(sheet: Sheet) -> None:
    length, bits = sheet.sizes["length"], sheet.sizes["bits"]
    ours = "secagg, sum of ten vectors"
    additions = length * (paillier_works.SITES - 1)
    _beside_phe(
        sheet,
        "add",
        {
            ours: (paillier_works.adding(length, bits), additions),
            "secagg, one more into a running sum": (
                paillier_works.multiplying(length, bits),
                length,
            ),
            "secagg, from bytes with every check": (
                paillier_works.receiving(length, bits),
                length,
            ),
        },
        {"paillier-add/phe": ours},
    )


def _decrypt(sheet: Sheet) -> None:
    length, bits = sheet.sizes["length"], sheet.sizes["bits"]
    ours = "secagg, ciphertexts to floats"
    _beside_phe(
        sheet,
        "decrypt",
        {ours: (paillier_works.opening(length, bits), length)},
        {"paillier-decrypt/phe": ours},
        least_seconds=0.0,
    )


def _share(sheet: Sheet) -> None:
    """The share of a decryption on the multipliers and on the twin, without and with its proof."""
    rows, bits = sheet.sizes["rows"], sheet.sizes["bits"]
    paillier_works.need_ifma()
    if features.GMP not in features.bigint_variants():
        raise NotHereError("gmpy2 is not installed: pip install 'secagg[gmp]'")
    exponent = paillier_works.exponent_of_share(bits)
    ifma, gmp = f"secagg, {features.IFMA}, power alone", f"secagg, {features.GMP}, power alone"
    few = max(8, rows // 8)
    works = {
        ifma: paillier_works.raising(rows, bits, exponent, features.IFMA),
        gmp: paillier_works.raising(few, bits, exponent, features.GMP),
    }
    found = sheet.alternate(works, seconds=0.0)
    each = {ifma: _per_number(found[ifma], rows), gmp: _per_number(found[gmp], few)}
    for name, samples in each.items():
        sheet.timed(f"{name}, a ciphertext", samples, 1, "rows")
    sheet.compare("paillier-share/power", each[gmp], each[ifma])
    whole = _whole_shares(sheet)
    for name, samples in whole.items():
        each_row = _per_number(samples, rows)
        sheet.timed(f"secagg, {name}, whole share, a ciphertext", each_row, 1, "rows")
    sheet.compare("paillier-share/whole", whole[features.GMP], whole[features.IFMA])


def _whole_shares(sheet: Sheet) -> dict[str, list[float]]:
    """Seconds of whole shares, each variant forced in fresh processes that take turns."""
    runs = sheet.given.runs
    turns = runs if sheet.given.scale == "full" else 1
    found: dict[str, list[float]] = {features.IFMA: [], features.GMP: []}
    for _ in range(turns):
        for variant in found:
            found[variant] += child.call(
                "paillier-shares",
                {
                    "rows": sheet.sizes["rows"],
                    "bits": sheet.sizes["bits"],
                    "count": runs // turns,
                },
                {FORCE: variant},
            )
    return found


def _limit(sheet: Sheet) -> None:
    """What of the multipliers' own speed is reached: instructions of an operation a second."""
    paillier_works.need_ifma()
    rows, bits, slots = sheet.sizes["rows"], sheet.sizes["bits"], sheet.sizes["instructions"]
    exponent = paillier_works.exponent_of_share(bits)
    blocks = rows // 8
    wanted = {
        "register-only multiplications": (paillier_works.ifma_limit(slots), slots),
        "power of a share": (
            paillier_works.raising(rows, bits, exponent, features.IFMA),
            blocks * paillier_works.power_adds(bits, exponent),
        ),
        "encryption by the table": (
            paillier_works.table_encrypting(rows, bits, features.IFMA),
            blocks * paillier_works.encrypt_adds(bits),
        ),
    }
    found = sheet.alternate({name: work for name, (work, _) in wanted.items()})
    speeds = {}
    for name, (_, instructions) in wanted.items():
        sheet.timed(name, found[name], instructions, "instructions")
        speeds[name] = instructions / spread(found[name]).median
    limit = speeds.pop("register-only multiplications")
    for name, speed in speeds.items():
        sheet.notes.append(
            f"{name}: {100 * speed / limit:.0f} % of the register-only loop's multiplications a "
            "second, counting those that its products and reductions cannot do without"
        )


def _keys(sheet: Sheet) -> None:
    """Seconds a number of every operation for each length of the key."""
    rows = sheet.sizes["rows"]
    operations: dict[str, Callable[[int, int], tuple[Work, int]]] = {
        "encrypt": lambda length, bits: (paillier_works.encrypting(length, bits), length),
        "encrypt and prove": lambda length, bits: (paillier_works.proving(length, bits), length),
        "open with the private key": lambda length, bits: (
            paillier_works.opening(length, bits),
            length,
        ),
        "a holder's share": lambda length, bits: (paillier_works.sharing(rows, bits), length),
        "add": lambda length, bits: (paillier_works.multiplying(length, bits), length),
    }
    points: dict[str, dict[float, Sequence[float]]] = {name: {} for name in operations}
    for bits in sheet.sizes["bits"]:
        length = rows * paillier_works.layout(1, bits).slots
        made = {name: make(length, bits) for name, make in operations.items()}
        found = sheet.alternate({name: work for name, (work, _) in made.items()}, seconds=0.0)
        for name, (_, numbers) in made.items():
            points[name][bits] = [1e6 * value for value in _per_number(found[name], numbers)]
    for name, at in points.items():
        sheet.curve("paillier-keys", name, at)
    sheet.notes.append(f"big integers: {features.bigint_variant()}")


def _peers(sheet: Sheet) -> None:
    """A table of public packages, each in its own way, microseconds a number; all take turns."""
    bits, count = sheet.sizes["bits"], sheet.sizes["peer_numbers"]
    missing = peers.left_out(sheet.given)
    parties = {f"secagg, {features.bigint_variant()}": _ourselves(sheet)}
    for package in paillier_peers.MAKERS:
        if package in missing:
            sheet.notes.append(f"left out: {missing[package]}")
        else:
            made = paillier_peers.make(package, count, bits)
            parties[f"{package} {peers.PINNED[package]}"] = made
    group = {
        (name, operation): handled
        for name, party in parties.items()
        for operation, handled in party.works.items()
    }
    found = sheet.alternate(
        {f"{name}, {what}": work for (name, what), (work, _) in group.items()}, seconds=0.0
    )
    medians: dict[str, dict[str, float]] = {name: {} for name in parties}
    for (name, what), (_, numbers) in group.items():
        each = _per_number(found[f"{name}, {what}"], numbers)
        sheet.timed(f"{name}, {what}, a number", each, 1, "numbers")
        medians[name][what] = spread(each).median
    sheet.listing(
        f"Microseconds a number on one core, keys of {bits} bits; a holder's share and the whole "
        f"opening are of {paillier_works.THRESHOLD} of {paillier_works.HOLDERS} holders",
        ["package", *paillier_peers.OPERATIONS, "bytes", "note"],
        [_row(name, medians[name], party) for name, party in parties.items()],
        list(range(1, len(paillier_peers.OPERATIONS) + 2)),
    )


def _ourselves(sheet: Sheet) -> paillier_peers.Peer:
    """Our own line of the table."""
    bits, length, rows = (sheet.sizes[name] for name in ("bits", "length", "rows"))
    held = rows * paillier_works.layout(1, bits).slots
    return paillier_peers.Peer(
        {
            "encrypt": (paillier_works.encrypting(length, bits), length),
            "add": (paillier_works.adding(length, bits), length * (paillier_works.SITES - 1)),
            "decrypt": (paillier_works.opening(held, bits), held),
            "share": (paillier_works.sharing(rows, bits), held),
            "whole opening": (paillier_works.whole_opening(rows, bits), held),
        },
        paillier_works.bytes_a_number(length, bits)[0],
        "36-bit slots for ten sites; shares with their proofs, openings with their checks",
    )


def _row(name: str, medians: Mapping[str, float], party: paillier_peers.Peer) -> list[str]:
    cells = [
        text.significant(1e6 * medians[operation]) if operation in medians else "-"
        for operation in paillier_peers.OPERATIONS
    ]
    return [name, *cells, f"{party.size:,.2f}", party.note]


def _bar(name: str, text_: str, bar: float, **more: Any) -> Bar:
    return Bar(id=name, text=text_, bar=bar, **more)


_SETTING: Final = "3072 bits, 32-bit values in 36-bit slots, one core"

CASES: Final = (
    Case(
        "paillier-encrypt",
        "Paillier: encrypt a vector",
        _encrypt,
        _sizes(1_000_000, 100_000),
        (
            _bar(
                "paillier-encrypt/phe",
                f"encrypt, {_SETTING}, tables at constant addresses: times as fast as phe, a "
                "number",
                12_000,
                peer=_PHE,
            ),
            _bar(
                "paillier-encrypt/phe-proved",
                "the same with the proof of plaintext knowledge: times as fast as phe, which "
                "proves nothing",
                4000,
                peer=_PHE,
            ),
            _bar(
                "paillier-encrypt/bytes",
                "bytes of an encrypted vector over twice the bits of its slots",
                1.05,
                sense="at most",
            ),
        ),
    ),
    Case(
        "paillier-gmp",
        "Paillier: encrypt on the GMP twin",
        _gmp,
        _sizes(100_000, 10_000),
        (
            _bar(
                "paillier-gmp/phe",
                f"encrypt on the GMP twin, {_SETTING}: times as fast as phe, a number",
                1500,
                peer=_PHE,
            ),
        ),
    ),
    Case(
        "paillier-add",
        "Paillier: add encrypted vectors",
        _add,
        _sizes(1_000_000, 100_000),
        (
            _bar(
                "paillier-add/phe",
                f"add ten encrypted vectors, {_SETTING}: times as fast as phe at one precision, an "
                "addition",
                200,
                peer=_PHE,
            ),
        ),
    ),
    Case(
        "paillier-decrypt",
        "Paillier: open with the private key",
        _decrypt,
        _sizes(50_000, 5000),
        (
            _bar(
                "paillier-decrypt/phe",
                f"decrypt with the two primes, {_SETTING}: times as fast as phe, a number",
                350,
                peer=_PHE,
            ),
        ),
    ),
    Case(
        "paillier-share",
        "Paillier: a holder's share of a decryption",
        _share,
        {
            "full": {"bits": 3072, "rows": 256},
            "quick": {"bits": 3072, "rows": 32},
            "tiny": {"bits": 2048, "rows": 8},
        },
        (
            _bar(
                "paillier-share/power",
                "a holder's share, one of 5, 3072 bits, without its proof: times as fast as the "
                "GMP twin",
                6,
            ),
            _bar(
                "paillier-share/whole",
                "the same with checks and proof: times as fast as the GMP twin",
                6,
            ),
        ),
    ),
    Case(
        "paillier-limit",
        "Paillier: beside the 52-bit multipliers' own speed",
        _limit,
        {
            "full": {"bits": 3072, "rows": 256, "instructions": 100_000_000},
            "quick": {"bits": 3072, "rows": 32, "instructions": 10_000_000},
            "tiny": {"bits": 2048, "rows": 8, "instructions": 100_000},
        },
    ),
    Case(
        "paillier-keys",
        "Paillier: by the length of the key",
        _keys,
        {
            "full": {"bits": [2048, 3072, 4096], "rows": 64},
            "quick": {"bits": [2048, 3072], "rows": 16},
            "tiny": {"bits": [2048], "rows": 8},
        },
    ),
    Case(
        "paillier-peers",
        "Paillier: beside public packages",
        _peers,
        {
            "full": {"bits": 3072, "length": 100_000, "rows": 64, "peer_numbers": 8},
            "quick": {"bits": 2048, "length": 10_000, "rows": 16, "peer_numbers": 2},
            "tiny": {"bits": 2048, "length": 100, "rows": 2, "peer_numbers": 2},
        },
    ),
)

__all__ = ["CASES", "FORCE", "FORCED"]
