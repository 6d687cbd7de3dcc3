"""The application: commands in the order in which someone new would use them."""

from __future__ import annotations

from typing import Annotated

import typer

from secagg import __version__

from . import (
    attack,
    bench,
    demo,
    dp,
    enrol,
    graph,
    info,
    keys,
    paillier_open,
    party,
    plan,
    policy,
    simulate,
    verify,
)
from .common import EPILOG, Guarded, check_host

app = typer.Typer(
    name="secagg",
    cls=Guarded,
    epilog=EPILOG,
    no_args_is_help=True,
    # A traceback must never print local variables: they may hold keys or vectors.
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


#: Commands that mask, encrypt or open: where the environment asks of the kernels what cannot run,
#: they say so before they read or make anything. `info` says it in its own way.
_COMPUTING = frozenset(
    {"demo", "simulate", "plan", "party", "paillier", "verify", "bench", "attack"}
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secagg {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Secure aggregation: several sites add up their vectors, and nobody sees but the sum.

    Start with [bold]secagg demo[/bold] (hospitals compute one analysis while sites drop out),
    then [bold]secagg simulate random[/bold], then [bold]secagg plan --clients 18[/bold]. For a
    deployment: every site runs [bold]keygen[/bold], the consortium builds a [bold]roster[/bold],
    and [bold]plan[/bold] writes what all of them agree on.
    """
    if ctx.invoked_subcommand in _COMPUTING:
        check_host()


app.command("demo", epilog=EPILOG)(demo.demo)
app.add_typer(simulate.app, name="simulate")
app.add_typer(attack.app, name="attack")
app.command("plan", epilog=EPILOG)(plan.plan)
app.command("graph", epilog=EPILOG)(graph.graph)
app.command("keygen", epilog=EPILOG)(keys.keygen)
# Importing enrol adds its commands to the group.
app.add_typer(enrol.roster_app, name="roster")
app.add_typer(party.app, name="party")
app.add_typer(policy.app, name="policy")
app.add_typer(dp.app, name="dp")
# Importing paillier_open adds its commands to the group.
app.add_typer(paillier_open.app, name="paillier")
app.command("verify", epilog=EPILOG)(verify.verify)
app.command("info", epilog=EPILOG)(info.info)
app.command("bench", epilog=EPILOG)(bench.bench)


def main() -> None:
    """Entry point of the command ``secagg``."""
    app()


__all__ = ["app", "main"]
