"""Masked sum or Paillier sum: what either costs, shows and trusts, for the same sites."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from rich.text import Text

from secagg.sim.holders import shape_of
from secagg.sim.settings import PaillierSettings
from secagg.sim.work import (
    MaskedWork,
    PaillierSpeed,
    masked_work,
    measure_masked,
    paillier_work,
)
from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.masked_sum.costs import RoundCost as MaskedCost
from secagg_protocols.masked_sum.costs import round_cost as masked_cost
from secagg_protocols.paillier_sum.costs import RoundCost as PaillierCost
from secagg_protocols.paillier_sum.costs import Work
from secagg_protocols.paillier_sum.costs import round_cost as paillier_cost
from secagg_protocols.plan import MaskedSum, PaillierSum, Plan

from .common import counted, human_bytes, stdout, table
from .plan_views import View, bytes_report, party_views


@dataclass(frozen=True, slots=True)
class Side:
    """One protocol in the comparison.

    exchanges: of a round that shares none with another; warm: of one whose setup travelled with
    the round before. work: by party, lines for people; counts: the same JSON-able. seconds: by
    party, of its work on one core of this machine, where that was measured. impossible: why there
    is no such plan; then there is nothing else.
    """

    name: str
    exchanges: int = 0
    warm: int = 0
    bytes: dict[str, Any] | None = None
    work: dict[str, tuple[str, ...]] | None = None
    counts: dict[str, Any] | None = None
    seconds: dict[str, float] | None = None
    missing: str = ""
    sees: tuple[View, ...] = ()
    trusts: tuple[str, ...] = ()
    impossible: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        if self.impossible:
            return {"impossible": self.impossible}
        skipped = {"name", "impossible", "sees", "work", "counts"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
        names = ("party", "sees", "hidden")
        return {
            **values,
            "trusts": list(self.trusts),
            "work": self.counts,
            "sees": [dict(zip(names, view, strict=True)) for view in self.sees],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both protocols for the sites of one plan."""

    masked: Side
    paillier: Side

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"masked": self.masked.to_dict(), "paillier": self.paillier.to_dict()}


def compare(
    made: Plan,
    *,
    holders: int | None,
    threshold: int | None,
    colluding_holders: int | None,
    key_bits: int | None,
    measure: bool,
) -> Comparison:
    """The plan beside what it would be under the other protocol.

    The options describe the holders where the plan has none; :class:`MisuseError` where it has,
    and the :class:`PlanError` of a Paillier plan with such holders.
    """
    asked = {
        "holders": holders,
        "threshold": threshold,
        "colluding_holders": colluding_holders,
        "key_bits": key_bits,
    }
    if isinstance(made.protocol, PaillierSum):
        for name, value in asked.items():
            if value is not None:
                option = name.replace("_", "-")
                raise MisuseError(f"the plan itself answers --{option}", rule="options")
        return Comparison(_masked_twin(made, measure), _paillier(made, made.protocol, measure))
    given: dict[str, Any] = {n: value for n, value in asked.items() if value is not None}
    settings = PaillierSettings(**given)
    try:
        shape = shape_of(settings, signed=made.signed, fixed_data=made.fixed_data)
    except PlanError as error:
        if error.rule != "fixed-data-holders":
            raise
        return Comparison(_masked(made, measure), Side("paillier", impossible=str(error)))
    return Comparison(_masked(made, measure), _paillier(made, shape, measure))


def _masked_twin(made: Plan, measure: bool) -> Side:
    """A Paillier plan's sites and promises under a masked sum."""
    try:
        twin = Plan.recommend(
            made.roster,
            length=made.length,
            stages=made.stages,
            threat=made.threat,
            colluding=made.colluding,
            max_dropouts=made.max_dropouts,
            sites_receive=made.sites_receive,
            min_honest=made.min_honest,
            security_bits=made.security_bits,
            max_weight=made.max_weight,
            max_inputs_per_model=made.max_inputs_per_model,
            bits=made.bits,
        )
    except PlanError as error:
        return Side("masked", impossible=str(error))
    return _masked(twin, measure)


def _masked(made: Plan, measure: bool) -> Side:
    if not isinstance(made.protocol, MaskedSum):
        raise TypeError("not the plan of a masked sum")  # pragma: no cover - a bug of ours
    cost, work = masked_cost(made), masked_work(made)
    speed = measure_masked() if measure else None
    steps = len(cost.steps)
    return Side(
        "masked",
        exchanges=steps,
        warm=steps - 2,
        bytes=_bytes(cost),
        work={party: _masked_lines(done) for party, done in work.items()},
        counts={
            party: {"keystream_bytes": done.keystream, "key_agreements": done.agreements}
            for party, done in work.items()
        },
        seconds=None if speed is None else {p: speed.seconds(done) for p, done in work.items()},
        missing=f"{made.max_dropouts} of {made.clients} sites, at any step",
        sees=tuple(party_views(made)),
        trusts=(
            f"at most {counted(made.colluding, 'site')} with the server",
            "nobody deals keys: every site makes its own",
            *_server_trust(made),
        ),
    )


def _paillier(made: Plan, protocol: PaillierSum, measure: bool) -> Side:
    cost = paillier_cost(made, protocol)
    work = paillier_work(cost)
    t, holders, bad = protocol.share_threshold, protocol.holders, protocol.colluding_holders
    seconds: dict[str, float] | None = None
    if measure:
        speed = PaillierSpeed(protocol.key.bits)
        seconds = {p: sum(speed.seconds(one) for one in done) for p, done in work.items()}
    dealer = (
        f"at most {counted(bad, 'holder')} with the server; any {t} together open everything",
        "the dealer of the key, to have dealt it rightly and forgotten it",
    )
    alone = (
        "the holder, never to open a single vector, and not to be the server",
        "the holder's key, to be well made",
    )
    return Side(
        "paillier",
        exchanges=2,
        warm=2,
        bytes=_bytes(cost),
        work={party: tuple(_line(one) for one in done) for party, done in work.items()},
        counts={
            party: [
                {
                    "what": one.what,
                    "kernel": one.kernel,
                    "count": one.count,
                    "exponent_bits": one.exponent_bits,
                    "multiplications": round(one.multiplications),
                }
                for one in done
            ]
            for party, done in work.items()
        },
        seconds=seconds,
        missing=f"{made.max_dropouts} of {made.clients} sites at the input, and none is needed "
        f"after it; {holders - t} of {counted(holders, 'holder')}",
        sees=tuple(party_views(made, protocol)),
        trusts=(
            f"at most {counted(made.colluding, 'site')} with the server",
            *(dealer if holders > 1 else alone),
            *_server_trust(made),
        ),
    )


def _server_trust(made: Plan) -> tuple[str, ...]:
    return () if made.signed else ("the server, to follow the protocol",)


def _bytes(cost: MaskedCost | PaillierCost) -> dict[str, Any]:
    report = bytes_report(cost)
    for what in ("site", "holder"):
        for does in ("sends", "receives"):
            sizes = [step.get(f"{what}_{does}", 0) for step in report["steps"]]
            report[f"{what}_{does}"] = sum(sizes)
    return report


def _masked_lines(work: MaskedWork) -> tuple[str, ...]:
    lines = [f"{human_bytes(work.keystream)} of AES keystream"]
    if work.agreements:
        lines.append(f"{work.agreements:,} key agreements")
    return tuple(lines)


def _line(work: Work) -> str:
    if work.kernel == "product":
        return f"{work.what}: {work.count:,} multiplications"
    kind = {
        "fixed-base": "fixed-base powers",
        "power": "powers",
        "multi-power": "factors of a product of powers",
        "decrypt": "decryptions with the whole key",
    }[work.kernel]
    return f"{work.what}: {work.count:,} {kind}, {work.exponent_bits:,} bits"


def show_comparison(found: Comparison) -> None:
    """Print both protocols side by side."""
    console = stdout()
    sides = (found.masked, found.paillier)
    console.print()
    possible = [side for side in sides if not side.impossible]
    for side in sides:
        if side.impossible:
            console.print(Text(f"No {side.name} sum: {side.impossible}", style="yellow"))
    shown = table("Masked sum or Paillier sum", "", *(s.name for s in possible), lines=True)
    for what, values in _rows(possible):
        shown.add_row(what, *(Text(value) for value in values))
    console.print(shown)
    if any(side.seconds for side in possible):
        console.print(
            "Seconds are processor time on one core of this machine, measured now; they are no "
            "promise.",
            style="dim",
        )
    sees = table("What each party sees", "protocol", "party", "sees", "does not see", lines=True)
    for side in possible:
        for view in side.sees:
            if view[0] != "network":
                sees.add_row(side.name, *view)
    console.print(sees)


def _rows(sides: list[Side]) -> list[tuple[str, list[str]]]:
    rows = [
        ("exchanges of a round", [_exchanges(side) for side in sides]),
        *(
            (f"{label}, bytes", [_size(side, key) for side in sides])
            for label, key in (
                ("a site sends", "site_sends"),
                ("a site receives", "site_receives"),
                ("a holder sends", "holder_sends"),
                ("a holder receives", "holder_receives"),
                ("the server sends", "server_sends"),
                ("the server receives", "server_receives"),
            )
        ),
        ("a site's bytes over its plain vector", [_expansion(side) for side in sides]),
    ]
    for party, label in (
        ("site", "work of a site"),
        ("server", "work of the server"),
        ("server, most missing", "the same with the most sites missing"),
        ("holder", "work of a holder"),
    ):
        if any(party in (side.work or {}) for side in sides):
            rows.append((label, [_work(side, party) for side in sides]))
    rows.append(("may be missing", [side.missing for side in sides]))
    rows.append(("is trusted", ["\n".join(side.trusts) for side in sides]))
    return rows


def _exchanges(side: Side) -> str:
    return f"{side.exchanges}" + (f", then {side.warm}" if side.warm != side.exchanges else "")


def _size(side: Side, key: str) -> str:
    size = (side.bytes or {}).get(key, 0)
    return f"{size:,} ({human_bytes(size)})" if size else "-"


def _expansion(side: Side) -> str:
    return f"{(side.bytes or {}).get('expansion', 0.0):.2f} times"


def _work(side: Side, party: str) -> str:
    lines = list((side.work or {}).get(party, ("-",)))
    if side.seconds is not None and party in side.seconds:
        lines.append(f"about {_human_seconds(side.seconds[party])}")
    return "\n".join(lines)


def _human_seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2g} ms" if seconds < 1 else f"{seconds:,.3g} s"


__all__ = ["Comparison", "Side", "compare", "show_comparison"]
