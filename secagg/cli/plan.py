"""``plan``: from what a consortium wants to the plan that its parties agree on."""

from __future__ import annotations

import hashlib
import math
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from secagg.sim.holders import holder_names
from secagg.sim.settings import default_colluding
from secagg_protocols.errors import DecodeError, MisuseError
from secagg_protocols.masked_sum.costs import RoundCost
from secagg_protocols.paillier_sum.costs import RoundCost as PaillierCost
from secagg_protocols.plan import MaskedSum, PaillierSum, Plan
from secagg_protocols.plan_file import dump_plan, load_plan
from secagg_protocols.roster import Roster
from secagg_protocols.stages import ClipL2, ClipLinf, Integers, Quantise, Stage

from .common import counted, human_bytes, stdout, table, write_json
from .holder_options import (
    ColludingHolders,
    Holders,
    HolderThreshold,
    KeyBits,
    read_public_key,
)
from .keys import read_roster
from .plan_compare import Comparison, compare, show_comparison
from .plan_views import bytes_report, cost_of, cost_table, party_views

PlanThreat = Literal["semi-honest", "malicious-server"]
_PLACEHOLDER = (
    "Placeholder keys: made from --clients, nobody holds their private halves. This plan is for "
    "looking, not for deployment; build a roster for that."
)


def plan(
    ctx: typer.Context,
    existing: Annotated[
        Path | None,
        typer.Option("--from", help="Show the plan in this TOML file instead of recommending one."),
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option("--clients", "-n", min=2, help="Number of sites, with placeholder keys."),
    ] = None,
    roster: Annotated[
        Path | None, typer.Option("--roster", help="The roster that the plan is for (TOML).")
    ] = None,
    dropout: Annotated[
        str, typer.Option(help="Sites that may be missing: a fraction (0.1), 10%, or a count (2).")
    ] = "0.1",
    colluding: Annotated[
        int | None,
        typer.Option(
            min=0, help="Sites that may pool what they know with the server (default: a fifth)."
        ),
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="Coordinates of a site's vector.")] = 1000,
    bits: Annotated[
        int | None,
        typer.Option(
            min=1, max=62, help="A coordinate is an unsigned integer of so many bits (default: 16)."
        ),
    ] = None,
    integers: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="LOW HIGH", help="A coordinate is an integer from LOW to HIGH."),
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Coordinates are real; clip to this bound.")
    ] = None,
    norm: Annotated[
        Literal["linf", "l2"] | None,
        typer.Option(
            help="With --clip: bound each coordinate (linf, the default) or the vector's norm (l2)."
        ),
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option(min=1, help="With --clip: integer levels per clip (default: 65536)."),
    ] = None,
    threat: Annotated[
        PlanThreat,
        typer.Option(help="malicious-server: all is signed. semi-honest: the server is trusted."),
    ] = "malicious-server",
    neighbours: Annotated[
        int | None, typer.Option(min=2, help="Degree of a sparse graph (default: chosen).")
    ] = None,
    max_weight: Annotated[int, typer.Option(min=1, help="Largest integer weight of a site.")] = 1,
    min_honest: Annotated[
        int, typer.Option(min=2, help="Honest sites that are always in a sum.")
    ] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, to add up security loss.")] = 1,
    security_bits: Annotated[
        int, typer.Option(min=20, max=128, help="Statistical security a round (sparse graphs).")
    ] = 40,
    fixed_data: Annotated[
        bool, typer.Option("--fixed-data", help="Every round sums functions of the same data.")
    ] = False,
    max_inputs_per_model: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Inputs that a site sends for one model (default: 2, one retry; with "
            "--fixed-data: no limit).",
        ),
    ] = None,
    server_only: Annotated[
        bool, typer.Option("--server-only", help="The sum stays with the server.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Public key of a Paillier sum, shared among the roster's holders: plan one under "
            "it.",
        ),
    ] = None,
    colluding_holders: ColludingHolders = None,
    holders: Holders = None,
    threshold: HolderThreshold = None,
    key_bits: KeyBits = None,
    comparing: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also compare masked and Paillier sums for the same sites, by default with 5 "
            "holders; --holders, --threshold or --key-bits imply it.",
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="With --compare: seconds of each party's work, measured here."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    toml: Annotated[
        str | None,
        typer.Option(
            "--toml", metavar="FILE|-", help="Write the plan as other commands read it; - stdout."
        ),
    ] = None,
) -> None:
    """Recommend a plan: share threshold, graph and bits, why, and what it costs and shows.

    A plan that would break its promise is refused, with exit code 3 and a hint. Examples:

      secagg plan --clients 18 --dropout 4 --colluding 3 --integers 0 64 --length 4404

      secagg plan -n 1000 --threat semi-honest --clip 1 --norm l2 --length 100000

      secagg plan --roster roster.toml --toml plan.toml

      secagg plan --clients 10 --length 1000000 --holders 5 --measure

    With --key it is the plan of a Paillier sum. --compare says what either protocol would cost,
    show and trust.
    """
    given = (("--clients", clients), ("--roster", roster), ("--from", existing))
    _check_one(*given, needed=True)
    _check_one(("--bits", bits), ("--integers", integers), ("--clip", clip), needed=False)
    if levels is not None and clip is None:
        raise MisuseError("--levels goes with --clip", rule="options")
    if as_json and toml == "-":
        raise MisuseError("--json and --toml - both want stdout", rule="options")
    if norm is not None and clip is None:
        raise MisuseError("--norm goes with --clip", rule="options")
    comparing = comparing or any(x is not None for x in (holders, threshold, key_bits))
    if measure and not comparing:
        raise MisuseError("--measure goes with --compare", rule="options")
    if toml == "-" and comparing:
        raise MisuseError("--toml - and a comparison both want stdout", rule="options")
    if existing is not None:
        _check_only_shown(ctx)
        made = read_plan(existing)
    else:
        public = None if key is None else read_public_key(key)
        if public is None and colluding_holders is not None and not comparing:
            raise MisuseError("--colluding-holders goes with --key or --compare", rule="options")
        if public is not None and neighbours is not None:
            raise MisuseError("a Paillier sum has no graph: leave --neighbours out", rule="options")
        held = 0 if public is None else public.holders
        parties = (
            read_roster(roster) if roster is not None else placeholder_roster(clients or 0, held)
        )
        n = len(parties.sites)
        most = _dropouts(dropout, n)
        made = Plan.recommend(
            parties,
            length=length,
            stages=_stages(bits, integers, clip, norm, levels),
            threat=threat,
            colluding=default_colluding(n, most) if colluding is None else colluding,
            max_dropouts=most,
            sites_receive=not server_only,
            min_honest=min_honest,
            neighbours=neighbours,
            security_bits=security_bits,
            max_weight=max_weight,
            fixed_data=fixed_data,
            max_inputs_per_model=max_inputs_per_model,
            key=public,
            colluding_holders=None if public is None else colluding_holders,
        )
    found: Comparison | None = None
    if comparing:
        found = compare(
            made,
            holders=holders,
            threshold=threshold,
            # With --key they are in the plan already.
            colluding_holders=None if key is not None else colluding_holders,
            key_bits=key_bits,
            measure=measure,
        )
    cost = cost_of(made)
    placeholder = made.roster.server == placeholder_roster(0).server
    if toml is not None:
        text = dump_plan(made)
        if placeholder:
            text = f"# {_PLACEHOLDER}\n{text}"
        if toml == "-":
            typer.echo(text, nl=False)
            return
        with Path(toml).open("x", encoding="utf-8") as file:
            file.write(text)
    if as_json:
        report = plan_report(made, cost, rounds, placeholder=placeholder)
        write_json(report if found is None else report | {"comparison": found.to_dict()})
        return
    _show(made, cost, rounds, placeholder=placeholder)
    if found is not None:
        show_comparison(found)
    if toml is not None:
        typer.echo(f"Plan written to {toml}; digest {made.digest.hex()}")


def read_plan(path: Path) -> Plan:
    """The plan in a TOML file; `PlanError` where it is none, or would break its promise."""
    try:
        return load_plan(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise MisuseError(f"{path} is not a plan (not UTF-8 text)", rule="plan-file") from None
    except DecodeError:
        raise MisuseError(f"the key in {path} is no public key", rule="plan-file") from None


def placeholder_roster(clients: int, holders: int = 0) -> Roster:
    """A roster of ``clients`` generated names, and of so many holders of decryption shares, with
    keys to which nobody has the private half."""

    def key(label: str) -> bytes:
        return hashlib.sha256(f"secagg placeholder key {label}".encode()).digest()

    width = len(str(max(0, clients - 1)))
    names = [f"site-{i:0{width}d}" for i in range(clients)]
    return Roster(
        sites=tuple((name, key(name)) for name in names),
        server=key("server"),
        holders=tuple((name, key(name)) for name in holder_names(holders)),
    )


def _check_one(*options: tuple[str, object], needed: bool) -> None:
    given = [name for name, value in options if value is not None]
    names = " or ".join(name for name, _ in options)
    if len(given) > 1 or (needed and not given):
        raise MisuseError(f"give one of {names}", rule="options")


def _dropouts(text: str, clients: int) -> int:
    """Sites that may be missing: a count, a fraction below 1, or a percentage; rounded down."""
    rule = "options"
    try:
        percent = text.endswith("%")
        value = float(text.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        raise MisuseError(f"--dropout {text!r} is not a number", rule=rule) from None
    if not 0 <= value < math.inf or (percent and value > 1):
        raise MisuseError("--dropout is a fraction of the sites, or a count", rule=rule)
    if percent or value < 1:
        # 0.29 of 100 is 28.999... in doubles, and means 29.
        return math.floor(value * clients + 1e-9)
    if value != int(value):
        raise MisuseError("--dropout above 1 is a whole number of sites", rule=rule)
    return int(value)


def _stages(
    bits: int | None,
    integers: tuple[int, int] | None,
    clip: float | None,
    norm: str | None,
    levels: int | None,
) -> tuple[Stage, ...]:
    if clip is not None:
        bound = ClipL2(clip) if norm == "l2" else ClipLinf(clip)
        return (bound, Quantise(65536 if levels is None else levels))
    if integers is not None:
        return (Integers(*integers),)
    return (Integers(0, (1 << (16 if bits is None else bits)) - 1),)


def _check_only_shown(ctx: typer.Context) -> None:
    """A plan that is read is shown as it is: options that would make another are refused."""
    shown = {"existing", "rounds", "as_json", "toml", "holders", "threshold", "key_bits"}
    shown |= {"colluding_holders", "comparing", "measure"}
    given = []
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if name not in shown and source is not None and source.name == "COMMANDLINE":
            given.append(f"--{name.replace('_', '-')}")
    if given:
        raise MisuseError(
            f"--from shows a plan as it is; {', '.join(given)} would make another", rule="options"
        )


def plan_report(
    made: Plan, cost: RoundCost | PaillierCost, rounds: int, *, placeholder: bool
) -> dict[str, Any]:
    """Everything about a plan, JSON-able."""
    stages = [
        {"name": type(stage).__name__} | {f.name: getattr(stage, f.name) for f in fields(stage)}  # type: ignore[arg-type]
        for stage in made.stages
    ]
    return {
        "digest": made.digest.hex(),
        "placeholder_keys": placeholder,
        "clients": made.clients,
        "length": made.length,
        "stages": stages,
        "threat": made.threat,
        **_protocol_report(made.protocol, complete=made.complete),
        "colluding": made.colluding,
        "max_dropouts": made.max_dropouts,
        "min_survivors": made.min_survivors,
        "min_honest": made.min_honest,
        "sites_receive": made.sites_receive,
        "max_weight": made.max_weight,
        "fixed_data": made.fixed_data,
        "max_inputs_per_model": made.max_inputs_per_model,
        "suite": made.suite,
        "roster_fingerprint": made.roster.fingerprint,
        "security_bits": made.security_bits,
        "bits_per_coordinate": made.wire_bits,
        "rounds": rounds,
        "why": made.explain(rounds=rounds),
        "bytes": bytes_report(cost),
        "sees": [
            {"party": party, "sees": sees, "hidden": hidden}
            for party, sees, hidden in party_views(made)
        ],
    }


def _protocol_report(protocol: MaskedSum | PaillierSum, *, complete: bool) -> dict[str, Any]:
    common = {"protocol": type(protocol).__name__, "share_threshold": protocol.share_threshold}
    if isinstance(protocol, MaskedSum):
        return {**common, "neighbours": protocol.neighbours, "complete_graph": complete}
    return {
        **common,
        "holders": protocol.holders,
        "colluding_holders": protocol.colluding_holders,
        "knowledge_proofs": protocol.knowledge_proofs,
        "key_bits": protocol.key.bits,
        "key": protocol.key.digest.hex(),
    }


def _protocol_rows(made: Plan) -> list[tuple[str, str]]:
    protocol = made.protocol
    if isinstance(protocol, MaskedSum):
        graph = "complete" if made.complete else f"sparse, {protocol.neighbours} neighbours"
        return [
            ("graph", graph),
            ("share threshold", f"{protocol.share_threshold} of {protocol.neighbours + 1}"),
        ]
    return [
        ("protocol", "Paillier sum: sites encrypt, holders open the sum"),
        ("key", f"{protocol.key.bits} bits, {protocol.key.digest.hex()}"),
        ("holders who open a sum", f"{protocol.share_threshold} of {protocol.holders}"),
        ("holders that may collude with the server", f"{protocol.colluding_holders}"),
        ("sites prove what they encrypt", "yes" if protocol.knowledge_proofs else "no"),
    ]


def _show(made: Plan, cost: RoundCost | PaillierCost, rounds: int, *, placeholder: bool) -> None:
    console = stdout()
    if placeholder:
        console.print(Text(_PLACEHOLDER, style="yellow"))
    shown = table(f"Plan for {counted(made.clients, 'site')}", "what", "value")
    chain = " -> ".join(repr(stage) for stage in made.stages)
    for what, value in (
        ("threat", made.threat),
        *_protocol_rows(made),
        ("may be missing", f"{made.max_dropouts} of {made.clients} sites"),
        ("may collude with the server", counted(made.colluding, "site")),
        ("honest sites in every sum", f"at least {made.min_survivors - made.colluding}"),
        ("vector", f"{made.length:,} coordinates, {chain}"),
        ("largest weight", f"{made.max_weight:,}"),
        ("bits a coordinate on the wire", f"{made.wire_bits}"),
        ("sites receive the sum", "yes" if made.sites_receive else "no"),
        ("every round sums the same data", "yes" if made.fixed_data else "no"),
        ("inputs of a site for one model", f"{made.max_inputs_per_model or 'not limited'}"),
        ("suite", made.suite),
        ("roster fingerprint", made.roster.fingerprint),
        ("digest", made.digest.hex()),
    ):
        shown.add_row(what, Text(value))
    console.print(shown)
    console.print(Text("Why", style="bold"))
    for line in made.explain(rounds=rounds):
        console.print(Text(f"• {line}"))
    console.print()
    console.print(cost_table(cost))
    console.print(
        f"{human_bytes(cost.server_receives)} reach the server in a round from all sites"
        f"{' and holders' * isinstance(made.protocol, PaillierSum)}, and "
        f"{human_bytes(cost.server_sends)} leave it. "
        f"A site moves {cost.expansion:.2f} times the bits of its plain vector "
        "(the result not counted)."
        + (f" {rounds} rounds: {human_bytes(rounds * cost.site_total)} a site." * (rounds > 1))
    )
    console.print()
    sees = table("What each party sees", "party", "sees", "does not see", lines=True)
    for row in party_views(made):
        sees.add_row(*row)
    console.print(sees)
    if rounds > 1:
        console.print(
            "Over several rounds: two sums over different sites can be subtracted, and the "
            "difference is the sum over the sites that differ"
            + (f" (at least {made.release_block} of them)." if made.fixed_data else ".")
        )
    console.print(
        "What the sum itself reveals is not hidden: see docs/security-model.md.", style="dim"
    )


__all__ = ["party_views", "placeholder_roster", "plan", "plan_report", "read_plan"]
