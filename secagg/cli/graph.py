"""``graph``: how many neighbours a site of a sparse graph needs."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import typer

from secagg_protocols.errors import PlanError
from secagg_protocols.parameters import graph_parameters, graph_security

from .common import ExitCode, describe, fail, stdout, table, write_json

GraphThreat = Literal["none", "semi-honest", "semi-malicious"]


def graph(
    clients: Annotated[
        list[int] | None,
        typer.Option("--clients", "-n", min=3, help="Number of sites, repeatable for a table."),
    ] = None,
    adversarial: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of sites that collude with the server.")
    ] = 0.05,
    dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of sites that may leave in a round.")
    ] = 0.05,
    threat: Annotated[
        GraphThreat,
        typer.Option(help="'semi-malicious' rows are for analysis; plans use 'semi-honest'."),
    ] = "semi-honest",
    security_bits: Annotated[
        int, typer.Option(min=1, max=128, help="A privacy break has probability 2^-bits a round.")
    ] = 40,
    correctness_bits: Annotated[
        int, typer.Option(min=1, max=128, help="A failed round has probability 2^-bits.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show the sparsest SecAgg+ graph that is secure: neighbours and share threshold.

    With k neighbours instead of n - 1, a site's work and bytes grow with log n. Found by exact
    search (Bell et al., CCS 2020). Sparse graphs trust the server to draw them, so they go with
    the semi-honest threat only.
    """
    rows, last = [], None
    for n in clients or [100, 1_000, 10_000, 100_000]:
        row: dict[str, float | int | None] = {"clients": n, "neighbours": None, "threshold": None}
        try:
            found = graph_parameters(
                n,
                adversarial,
                dropout,
                threat=threat,
                security_bits=security_bits,
                correctness_bits=correctness_bits,
            )
        except PlanError as error:
            last = error
        else:
            bad, lost = int(adversarial * n + 1e-9), int(dropout * n + 1e-9)
            reached = graph_security(n, bad, lost, *found)
            row |= {"neighbours": found.neighbours, "threshold": found.threshold}
            row |= {"colluding": bad, "dropouts": lost}
            row |= {
                # An event that cannot happen has infinitely many bits, which JSON cannot say.
                f"{what}_bits": None if math.isinf(value) else round(value, 2)
                for what in ("capture", "connectivity", "security", "correctness")
                for value in (getattr(reached, f"{what}_bits"),)
            }
        rows.append(row)
    feasible = any(row["neighbours"] is not None for row in rows)
    if as_json and feasible:
        given = {"adversarial": adversarial, "dropout": dropout, "threat": threat}
        write_json({**given, "rows": rows})
        return
    if last is not None and not feasible:
        fail(describe(last), ExitCode.INFEASIBLE)
    title = f"Sparse graphs, {adversarial:.0%} colluding, {dropout:.0%} dropouts, {threat}"
    columns = ("sites", "colluding", "dropouts", "neighbours", "threshold")
    shown = table(title, *columns, "privacy bits", "success bits", numbers=range(7))
    for row in rows:
        n = int(row["clients"] or 0)
        if row["neighbours"] is None:
            shown.add_row(f"{n:,}", "", "", "none", "", "", "")
            continue
        shown.add_row(
            f"{n:,}",
            f"{row['colluding']:,}",
            f"{row['dropouts']:,}",
            str(row["neighbours"]),
            str(row["threshold"]),
            *(
                "never" if row[name] is None else f"{row[name]:.1f}"
                for name in ("security_bits", "correctness_bits")
            ),
        )
    console = stdout()
    console.print(shown)
    console.print(
        "neighbours: sites that each site shares masks with. threshold: shares that open one mask. "
        "privacy bits: a break has probability 2^-bits a round, success bits: a failed round has; "
        "never: it cannot happen" + (" (semi-honest server)." if threat != "semi-honest" else ".")
    )
    if last is not None:
        console.print("none: no sparse graph is secure and correct there; use the complete graph.")


__all__ = ["graph"]
