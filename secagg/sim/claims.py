"""What a simulation claims of itself, and whether it holds."""

from __future__ import annotations

from dataclasses import dataclass

from secagg.sim.secure import SecureSummation
from secagg.sim.summing import AsDict


@dataclass(frozen=True, slots=True)
class Claim(AsDict):
    """One thing that a run shows: what is claimed, whether it holds, and the evidence."""

    text: str
    holds: bool
    detail: str


def common_claims(secure: SecureSummation, *, allowed: str = "quantisation") -> tuple[Claim, ...]:
    """What every run shows: the sums are right, the bytes are planned, the server saw noise.

    allowed: what keeps a sum of reals from being exact.
    """
    records = secure.records
    whole = [record for record in records if record.bound == 0]
    real = [record for record in records if record.bound > 0]
    parts = []
    if whole:
        exact = sum(record.error == 0 for record in whole)
        parts.append(f"integers: {exact} of {len(whole)} exact")
    if real:
        worst = max(real, key=lambda record: record.error / record.bound)
        inside = sum(record.holds for record in real)
        parts.append(
            f"reals: {inside} of {len(real)} within {allowed} (error up to "
            f"{worst.error:.1g} of {worst.bound:.1g})"
        )
    detail = "; ".join(parts)
    claims = [
        Claim(
            "every secure sum is the plain sum over its survivors",
            all(record.holds for record in records),
            detail,
        )
    ]
    quiet = [record for record in records if record.undisturbed]
    if quiet:
        gaps = [abs(r.total_bytes / r.planned_total - 1) for r in quiet]
        claims.append(
            Claim(
                "measured bytes are the plan's count within 1 %",
                max(gaps) <= 0.01,
                f"largest difference {max(gaps):.2%} in the {len(quiet)} of {len(records)} rounds "
                + (
                    "with every site and holder"
                    if quiet[0].holders
                    else "with every site, now and in the round before"
                ),
            )
        )
    seen, control = secure.sight.seen, secure.sight.control
    if seen is not None and control is not None:
        what = "bytes" if seen.bins == 256 else "half bytes"
        claims.append(
            Claim(
                "what the server received looks uniform",
                seen.uniform,
                f"chi-square of {seen.count:,} {what}: {seen.statistic:,.0f} on {seen.bins - 1} "
                f"degrees of freedom, p {_equals(seen.p_text)}",
            )
        )
        if seen.bins == 256:
            # On fewer bytes the test cannot be sure enough of anything to be held to it.
            claims.append(
                Claim(
                    "the same test recognises the true values (control)",
                    not control.uniform,
                    f"chi-square {control.statistic:,.0f}, p {_equals(control.p_text)}",
                )
            )
    return tuple(claims)


def _equals(text: str) -> str:
    return text if text.startswith("<") else f"= {text}"


__all__ = ["Claim", "common_claims"]
