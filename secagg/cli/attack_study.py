"""Attacks within `simulate`: run after the study, on its protocol and its data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.text import Text

from .common import stderr, stdout

if TYPE_CHECKING:
    from secagg.attacks.lab import Cell
    from secagg.sim.scenarios import Run


@dataclass(frozen=True, slots=True)
class Tried:
    """Attacks that were run on a study, and their cells."""

    cells: tuple[Cell, ...]

    @property
    def failures(self) -> list[Cell]:
        """Those that did not come out as expected."""
        return [cell for cell in self.cells if not cell.holds]

    def to_dict(self) -> Any:
        """JSON-able."""
        return msgspec.to_builtins(self.cells)

    def show(self) -> None:
        """Print what came of each."""
        from secagg.attacks.columns import COLUMNS
        from secagg.attacks.matrix import rows_of

        from .attack import show_cell

        for cell in self.cells:
            stdout().print()
            stdout().print(Text(f"Attack {cell.attack}", style="bold"))
            (row,) = rows_of([cell.attack])
            said = "does not apply" if cell.verdict == "n/a" else cell.said
            stdout().print(Text(f"{row.title}, on {COLUMNS[cell.column]}: {said}"))
            show_cell(stdout(), cell)

    def write(self, run: Run, path: Path, figures: Sequence[Path]) -> Path:
        """Write the page of the study with them."""
        from secagg.attacks.report import simulation_page

        path.write_text(simulation_page(run, self.cells, figures), encoding="utf-8")
        return path


def check_attacks(attacks: Sequence[str]) -> None:
    """`MisuseError` (``attack-id``) for an unknown attack, before the study is run."""
    if attacks:
        from secagg.attacks.matrix import check_names

        check_names(attacks, ())


def attack_study(run: Run, attacks: Sequence[str], *, quiet: bool) -> Tried:
    """Run attacks on a finished study; what is going on is told on stderr."""
    cells = []
    if attacks:
        from secagg.attacks.clinical import attack_run

        for name in attacks:
            with stderr().status(f"attack {name}") if not quiet else nullcontext():
                cells.append(attack_run(run, name, seed=run.settings.seed))
    return Tried(tuple(cells))


__all__ = ["Tried", "attack_study", "check_attacks"]
