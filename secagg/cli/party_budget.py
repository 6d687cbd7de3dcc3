"""``party --budget``: a site's own privacy budget, kept beside the state of its party."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from secagg_protocols.errors import MisuseError
from secagg_protocols.journal import Journal, MemoryJournal
from secagg_protocols.ledger import InputLedger
from secagg_protocols.plan import Plan
from secagg_protocols.registers import ledger_register

from .dp_view import Adjacency, Adversary, ledger_report

if TYPE_CHECKING:
    from secagg.dp.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a site may spend over one data set, as its own file says; see ``secagg.dp.Ledger``."""

    epsilon: float
    delta: float
    adjacency: Adjacency = "zero-out"
    adversary: Adversary = "server"

    @classmethod
    def load(cls, path: Path) -> Budget:
        """Read a TOML file with the fields above; :class:`MisuseError` for anything else."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            raise _wrong(path, error) from error
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise _wrong(path, f"unknown fields {unknown}")
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in data]
        if missing:
            raise _wrong(path, f"{' and '.join(missing)} missing")
        made = cls(**data)
        try:
            # A ledger knows what its numbers may be.
            made.ledger(MemoryJournal(), "site", "")
        except MisuseError as error:
            raise _wrong(path, str(error).removesuffix(" [arguments]")) from error
        return made

    def ledger(self, journal: Journal, site: str, data: str) -> Ledger:
        """The ledger of ``site`` over ``data`` that is held against this budget."""
        from secagg.dp.ledger import Ledger

        return Ledger(
            journal,
            site,
            data=data,
            epsilon=self.epsilon,
            delta=self.delta,
            adjacency=self.adjacency,
            adversary=self.adversary,
        )


def hint(plan: Plan, ledger: Ledger | None, journal: Journal, site: str, data: str) -> None:
    """Say at the start what would surprise at `submit`, or never be noticed."""
    if ledger is not None:
        if not ledger.affords(plan):
            _note("the budget does not bear an input under this plan; `submit` will refuse it")
    elif journal.read(ledger_register(site, data)):
        _note(
            "inputs of these data were charged to a budget; without --budget `submit` will refuse"
        )
    elif plan.pipeline.noise is not None:
        _note("this plan has noise; without --budget this site's input is charged to no budget")


def spending(ledger: InputLedger) -> dict[str, Any]:
    """What was spent and what is left, as `dp account --ledger` tells it."""
    from secagg.dp.ledger import Ledger

    return ledger_report(ledger, ()) if isinstance(ledger, Ledger) else {}


def spending_line(told: dict[str, Any]) -> str:
    """The same for people."""
    spent = "unbounded" if told["spent"] is None else f"{told['spent']:.6g}"
    return (
        f"budget of data {told['data']!r}: epsilon {spent} of {told['budget']:g} spent at delta "
        f"{told['delta']:g}, {told['remaining']:.6g} left"
    )


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)


def _wrong(path: Path, what: object) -> MisuseError:
    return MisuseError(f"{path}: {what}", rule="options")


__all__ = ["Budget", "hint", "spending", "spending_line"]
