"""What all commands share: exit codes, errors as one line, consoles, numbers for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

import typer
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from secagg_native import features
from secagg_protocols.errors import (
    BudgetError,
    MisuseError,
    PeerError,
    PlanError,
    ReleaseError,
    SecAggError,
    ThresholdError,
)


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    BUG = 1
    USAGE = 2
    INFEASIBLE = 3
    MISMATCH = 4
    ABORTED = 5
    CONVICTED = 6
    UNPROVEN = 7
    OVERSPENT = 8


#: What a shell expects of a program that was interrupted (128 + SIGINT).
INTERRUPTED: Final = 130

EPILOG: Final = (
    "Exit codes: 0 all good and every comparison holds; 1 a bug of secagg; 2 bad usage or a bad "
    "file; 3 no plan keeps what is asked for; 4 a comparison with the reference failed, or a "
    "privacy claim does not hold; 5 the round was aborted (too few sites left, a peer at fault, "
    "or a site's release policy); verify: 6 somebody is convicted by signatures, 7 nobody is, but "
    "not everything holds; 8 a site's privacy budget does not bear the input. "
    "What is and is not protected: docs/security-model.md and docs/limitations.md."
)

#: Rules of a PlanError that speak of a malformed file or argument, not of an impossible plan.
_MALFORMED: Final = frozenset(
    {
        "plan-file",
        "dp-claims",
        "roster",
        "field-types",
        "clip-range",
        "integer-range",
        "quantise-levels",
        "inputs-limit",
        "key-types",
        "key-share",
        "modulus-bits",
        "exponent-bits",
        "paillier-fields",
        "private-types",
        "private-length",
        "private-close",
        "private-prime",
    }
)

#: What a person can change when a rule says no.
_HINTS: Final = {
    "one-survivor-set": "allow fewer dropouts or fewer colluding sites, or add sites",
    "honest-survivors": "allow fewer dropouts or fewer colluding sites, or add sites",
    "share-threshold": "allow fewer dropouts or fewer colluding sites, or add sites",
    "insiders": "count at least one colluding site, or keep the sum from the sites (--server-only)",
    "sparse-threat": "leave --neighbours out (complete graph), or use --threat semi-honest",
    "sparse-security": "use more neighbours (and --threat semi-honest), or leave --neighbours "
    "out and let the plan choose",
    "graph-shape": "use an even number of neighbours, or leave --neighbours out",
    "graph-parameters": "use the complete graph, or more sites, fewer dropouts, fewer colluders",
    "fixed-data-graph": "leave --neighbours out: fixed data take the complete graph",
    "noise-central": "use --threat semi-honest, or noise that the sites add",
    "one-opening": "raise --threshold, or count on fewer --holders or --colluding-holders",
    "holder-threshold": "count on fewer --colluding-holders, or raise --threshold",
    "key-holders": "build a roster with as many holders as the key has shares (secagg roster "
    "build --holder)",
    "fixed-data-holders": "leave --fixed-data out, or use masked sums",
    "knowledge-proofs": "use a key for rounds (paillier keygen --rounds), or --threat semi-honest",
    "modulus-proof": "use a key with a proof about its modulus, or --threat semi-honest",
    "private-safe": "make a key of safe primes",
    "modulus": "lower the bits, the levels or the largest weight",
}

_EXTRAS: Final = frozenset({"lifelines", "sklearn", "matplotlib", "pandas", "scipy"})


def exit_code(error: SecAggError) -> ExitCode:
    """The exit code of an error: whose fault it is decides."""
    if isinstance(error, PlanError):
        if error.rule == "dp-promise":
            return ExitCode.MISMATCH
        return ExitCode.USAGE if error.rule in _MALFORMED else ExitCode.INFEASIBLE
    if isinstance(error, (ThresholdError, PeerError, ReleaseError)):
        return ExitCode.ABORTED
    if isinstance(error, BudgetError):
        return ExitCode.OVERSPENT
    return ExitCode.USAGE if isinstance(error, MisuseError) else ExitCode.BUG


def describe(error: SecAggError) -> str:
    """One line for a person: what happened, the rule, and what to change."""
    kind = {
        ExitCode.USAGE: "error",
        ExitCode.INFEASIBLE: "no such plan",
        ExitCode.MISMATCH: "violated",
        ExitCode.ABORTED: "round aborted",
    }.get(exit_code(error), "error")
    text = f"{kind}: {error}"
    if isinstance(error, PeerError) and error.suspects:
        text += f"; suspects: {', '.join(error.suspects)}"
    if isinstance(error, ThresholdError) and "too few holders are left" in str(error):
        return f"{text}; hint: lose fewer holders, or deal the key with a lower threshold"
    if isinstance(error, ThresholdError):
        return f"{text}; hint: allow more dropouts (--max-dropouts), or lose fewer sites"
    if isinstance(error, ReleaseError):
        return f"{text}; hint: sites may leave fixed data only min_honest + colluding at a time"
    if isinstance(error, BudgetError):
        return f"{text}; hint: nothing was sent, and the round goes on without this site"
    hint = _HINTS.get(error.rule) if isinstance(error, PlanError) else None
    return f"{text}; hint: {hint}" if hint else text


class Guarded(TyperGroup):
    """A group whose commands end in one clear line on stderr where the package refuses."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors of the package become exit codes, anything else is a bug."""
        try:
            return super().invoke(ctx)
        except SecAggError as error:
            fail(describe(error), exit_code(error))
        except KeyboardInterrupt:
            # Whoever started to write a file or folder has removed it on the way here.
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output has gone (`secagg demo | head`); nothing to report.
            raise
        except OSError as error:
            # A file that is absent, is a folder, may not be read, or is there already.
            text = f"{error.filename or 'file'}: {error.strerror or error}"
            if isinstance(error, FileExistsError):
                text += "; commands overwrite nothing, remove it or name another"
            fail(describe(MisuseError(text, rule="file")), ExitCode.USAGE)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".", maxsplit=1)[0] not in _EXTRAS:
                raise
            fail(
                f"error: this command needs {error.name}; install it with: "
                "pip install 'secagg[demo]'",
                ExitCode.USAGE,
            )


def check_host() -> None:
    """Raise `MisuseError` (``kernel``) where SECAGG_AES or SECAGG_BIGINT name what cannot run."""
    try:
        features.check_environment()
    except ValueError as error:
        raise MisuseError(str(error), rule="kernel") from None


def fail(text: str, code: ExitCode) -> None:
    """Write one line to stderr and leave with ``code``."""
    typer.echo(text, err=True)
    raise typer.Exit(int(code))


def stdout() -> Console:
    """A console on today's stdout; made when used, so that tests and pipes see their own."""
    return Console(file=sys.stdout, highlight=False)


def stderr() -> Console:
    """A console on stderr: progress and warnings, never results."""
    return Console(file=sys.stderr, highlight=False)


def write_json(data: Any) -> None:
    """Print JSON and nothing else."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


class Titled(Table):
    """A table under a line of its own: rich folds a title to the width of its table."""

    def __init__(self, heading: str, **options: Any) -> None:
        look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "header_style": "bold"}
        super().__init__(**look, padding=(0, 1, 0, 0), **options)
        self.heading = heading

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The heading, then the table."""
        if self.heading:
            yield Text(self.heading, style="bold")
        yield from super().__rich_console__(console, options)


def table(title: str, *columns: str, numbers: Sequence[int] = (), lines: bool = False) -> Titled:
    """A table under a title; ``numbers`` are the columns set flush right."""
    made = Titled(title, show_lines=lines)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index in numbers else "left", overflow="fold")
    return made


def counted(number: int, noun: str) -> str:
    """``1 site``, ``2 sites``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def mark(holds: bool) -> Text:
    """A check mark or a cross."""
    return Text("✓", style="bold green") if holds else Text("✗", style="bold red")


def human_bytes(count: float) -> str:
    """Bytes in units of 1000, as networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_names(names: Sequence[str], most: int = 4) -> str:
    """Names in a row, the rest counted."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


__all__ = [
    "EPILOG",
    "INTERRUPTED",
    "ExitCode",
    "Guarded",
    "check_host",
    "counted",
    "describe",
    "exit_code",
    "fail",
    "human_bytes",
    "human_names",
    "mark",
    "stderr",
    "stdout",
    "table",
    "write_json",
]
