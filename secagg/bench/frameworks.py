"""What a secure sum costs a round under Flower: messages, bytes, seconds.

The same app runs in one process without protection, with ``SecAggGrid`` and ``secagg_mod`` under
both threats, and with Flower's own SecAgg+ workflow and mod, which exist for its legacy interface
only.
Run it where Flower is installed::

    python -m secagg.bench.frameworks --out benchmarks/results/frameworks.json
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

import secagg

from . import flower, machine, peers, text
from .results import Machine

FORMAT: Final = "secagg frameworks 1"
CLIENTS: Final = 5
LENGTHS: Final = (1_000, 100_000, 1_000_000)
ROUNDS: Final = 15
#: How often the variants take turns.
TURNS: Final = 5
PEER: Final = "secaggplus"
#: How a variant is called, and what it is.
VARIANTS: Final = {
    "plain": "no protection",
    "semi-honest": "`SecAggGrid`, `semi-honest`",
    "malicious-server": "`SecAggGrid`, `malicious-server`",
    PEER: "Flower's SecAgg+ (legacy interface)",
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One variant at one length. seconds: of each warm round. cold: of the first one.

    exchanges, messages: of a warm round, both directions. to_site, from_site: bytes of a warm
    round to and from one site.
    """

    variant: str
    length: int
    exchanges: int
    messages: int
    to_site: int
    from_site: int
    seconds: list[float]
    cold: float | None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A whole measurement. turns: how often the variants took turns, 0 if one ran after another."""

    format: str
    date: str
    clients: int
    machine: Machine
    flower: str
    rows: list[Row]
    turns: int = 0


@dataclass
class _Clock:
    """When each round began, and how many messages and bytes there had been by then."""

    began: list[float]
    seen: list[tuple[int, int, int]]


def measure(lengths: Sequence[int] = LENGTHS, *, rounds: int = ROUNDS) -> Iterator[Row]:
    """Rows, length by length. ``rounds`` warm rounds each; SecAgg+ knows cold ones only.

    The variants take turns, so that what else the machine does falls on all of them: rounds of the
    same place in ``seconds`` are of the same turn.
    """
    turns = [len(part) for part in np.array_split(np.arange(rounds), _turns(rounds))]
    for length in lengths:
        counted = {variant: _counted(variant, length) for variant in VARIANTS}
        seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        cold: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for count in turns:
            for variant in VARIANTS:
                first, warm = _timed(variant, length, count)
                seconds[variant] += warm
                cold[variant] += first
        for variant, row in counted.items():
            starts = cold[variant]
            yield msgspec.structs.replace(
                row,
                seconds=seconds[variant],
                cold=statistics.median(starts) if starts else None,
            )


def _turns(rounds: int) -> int:
    return min(TURNS, rounds)


def _shape(length: int) -> flower.Shape:
    return flower.Shape(clients=CLIENTS, dropped=0, length=length, threshold=4)


def _timed(variant: str, length: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the first round, and of ``rounds`` warm ones."""
    if variant == PEER:
        # Its round after another variant's finds the caches as cold as theirs, and does not count.
        return [], [flower.run(_shape(length)).seconds for _ in range(rounds + 1)][1:]
    gaps = np.diff(_play(variant, length, rounds, record=False).began).tolist()
    return gaps[:1], gaps[1:]


def _counted(variant: str, length: int) -> Row:
    """Messages and bytes of a warm round, which is not timed: what is counted is copied."""
    if variant == PEER:
        one = flower.run(_shape(length))
        messages, to_site, from_site = 2 * 4 * CLIENTS, one.received, one.sent
    else:
        before, after = _play(variant, length, 1, record=True).seen[-2:]
        messages, sent, received = (b - a for a, b in zip(before, after, strict=True))
        to_site, from_site = sent // CLIENTS, received // CLIENTS
    return Row(
        variant=variant,
        length=length,
        exchanges=messages // (2 * CLIENTS),
        messages=messages,
        to_site=to_site,
        from_site=from_site,
        seconds=[],
        cold=None,
    )


def _play(variant: str, length: int, rounds: int, *, record: bool) -> _Clock:
    """Rounds of federated averaging over an app that adds a fixed vector to the model.

    A cold round, ``rounds`` warm ones, and one that ends the session and is not measured.
    """
    peers.quiet_flower()
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp.strategy import FedAvg

    from secagg.integrations.flower import InProcessGrid, SecAggConfig, SecAggGrid, secagg_mod
    from secagg.integrations.folder import write_folders

    app = ClientApp()
    step = np.linspace(-1e-3, 1e-3, length, dtype=np.float32)

    def train(message: Any, context: Any) -> Any:
        model = message.content["arrays"]["w"].numpy()
        records = {
            "arrays": ArrayRecord({"w": Array(model + step)}),
            "metrics": MetricRecord({"num-examples": 100}),
        }
        return Message(RecordDict(records), reply_to=message)

    app.train(mods=[] if variant == "plain" else [secagg_mod])(train)
    clock = _Clock([], [])

    class Timed(FedAvg):  # type: ignore[misc]  # not there when types are checked
        def configure_train(self, *args: Any, **more: Any) -> Any:
            tick()
            return super().configure_train(*args, **more)

    with tempfile.TemporaryDirectory() as folder:
        names = [f"site-{number}" for number in range(CLIENTS)]
        roster, identities = secagg.Roster.generate(names)
        plan = secagg.Plan.recommend(
            roster,
            length=length,
            stages=(secagg.ClipL2(10.0), secagg.Quantise(1 << 16)),
            threat="malicious-server" if variant == "malicious-server" else "semi-honest",
            colluding=1,
            max_dropouts=1,
            max_weight=1000,
        )
        folders = write_folders(Path(folder) / "parties", plan, identities)
        nodes = [{"secagg": str(folders[name])} for name in names]
        inner = InProcessGrid(app, nodes, record=record)

        def tick() -> None:
            clock.began.append(time.perf_counter())
            sizes = sum(map(len, inner.sent)), sum(map(len, inner.received))
            clock.seen.append((len(inner.sent) + len(inner.received), *sizes))

        grid: Any = inner
        if variant != "plain":
            grid = SecAggGrid(inner, SecAggConfig(folder=folders["server"]))
        strategy = Timed(
            fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS
        )
        start = ArrayRecord({"w": Array(np.zeros(length, dtype=np.float32))})
        gc.collect()
        found = strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds + 2)
        wanted = step.astype(np.float64) * (rounds + 2)
        if not np.allclose(found.arrays["w"].numpy(), wanted, atol=1e-3):
            raise ValueError("the run came to another model")
    return clock


def section(run: Run) -> str:
    """Markdown for ``docs/performance.md``."""
    busy = text.busy(run.machine.load, run.machine.cores)
    order = f"in {run.turns} turns" if run.turns else "one after another"
    parts = [
        f"Federated averaging over {run.clients} sites in one process (flwr {run.flower}, "
        f"{run.date}), training that costs nothing: what is timed is Flower, copying, and the "
        f"secure sum with its journals on the disk. The variants ran {order}. Medians of warm "
        "rounds, quartiles in brackets. Ratios pair the rounds of two variants in their order; one "
        "above 1 takes longer. What ends a session is asked once a run and not counted. "
        "Flower's SecAgg+ works with its legacy interface only and has no warm rounds; its bytes "
        "are those of the values alone, and its copying is not counted. Made from "
        "`benchmarks/results/frameworks.json` by `python -m secagg.bench.frameworks`.",
        *([f"Beware: {busy}."] if busy else []),
    ]
    for length in dict.fromkeys(row.length for row in run.rows):
        rows = {row.variant: row for row in run.rows if row.length == length}
        parts += [
            f"#### {length:,} coordinates (float32)",
            "\n".join(
                [
                    "| | exchanges | messages | bytes to a site | bytes from a site | seconds a "
                    "round | beyond no protection | to no protection | to SecAgg+ | first round |",
                    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
                    *(_line(row, rows["plain"], rows[PEER]) for row in rows.values()),
                ]
            ),
        ]
    return "\n\n".join(parts)


def _line(row: Row, plain: Row, peer: Row) -> str:
    beyond = statistics.median(row.seconds) - statistics.median(plain.seconds)
    cells = [
        VARIANTS[row.variant],
        str(row.exchanges),
        str(row.messages),
        f"{row.to_site:,}",
        f"{row.from_site:,}",
        _spread(row.seconds),
        "" if row is plain else f"{text.significant(beyond)} s",
        "" if row is plain else _ratio(row, plain),
        "" if row in (plain, peer) else _ratio(row, peer),
        "" if row.cold is None else f"{text.significant(row.cold)} s",
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(row: Row, other: Row) -> str:
    return _spread([ours / its for ours, its in zip(row.seconds, other.seconds, strict=True)])


def _spread(values: Sequence[float]) -> str:
    """Median, and quartiles in brackets."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{text.significant(middle)} ({text.significant(low)} to {text.significant(high)})"


def load(path: Path) -> Run:
    """A saved measurement."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], object] = print) -> None:
    """Measure, print the tables, save the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="file for the results (JSON)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="warm rounds of each variant")
    parser.add_argument("--length", type=int, action="append", help="coordinates (repeatable)")
    given = parser.parse_args(arguments)
    if given.rounds < 2:
        parser.error("--rounds must be 2 or more: quartiles are of several rounds")
    where = machine.describe()
    rows = []
    for row in measure(given.length or LENGTHS, rounds=given.rounds):
        say(f"{row.variant}, {row.length:,}: {statistics.median(row.seconds):.4f} s a round")
        rows.append(row)
    run = Run(
        format=FORMAT,
        date=machine.now(),
        clients=CLIENTS,
        machine=where,
        flower=machine.installed("flwr") or "",
        rows=rows,
        turns=_turns(given.rounds),
    )
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    say(section(run))


if __name__ == "__main__":
    main()
