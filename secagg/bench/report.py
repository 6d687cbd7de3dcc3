"""The page that is made from a run: every number in it comes from the file, none is typed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from . import peers, plots, text
from .results import CaseResult, Run

#: Where a report says that its plots lie, beside the page.
FIGURES: Final = "figures"

_INTRODUCTION: Final = """\
What masking, packing, sharing, encrypting and whole rounds cost, beside public peers and beside
what the hardware can do at best, all measured in one run. This page is made from
[{source}]({source}) by `secagg bench --report`; no number in it is typed by hand.
"""

_METHOD: Final = """\
- Works that are compared take turns (A B A B ...), so that a busy spell of the machine meets all
  of them. A figure is the ratio of the medians, while its spread is that of the ratios of
  neighbouring samples, so that a figure may lie outside its quartiles.
- Seven samples are the least, with these exceptions: `round-1000` takes 3 turns, `memory` runs
  each party once, `paillier-round` plays each round once, and `paillier-cold` starts 3 processes
  with an empty cache folder.
- Every work runs once or twice before it is timed; the garbage collector is off meanwhile.
- Limits are measured in the same run: AES-128's ten rounds on blocks that never leave the
  registers, OpenSSL's keystream in the best of several piece sizes, a copy of as many bytes.
- Peers are unmodified and pinned. Flower's mask is timed in fresh processes and judged as its
  client's loop runs it: each result takes the place of the one before, and memory is used again.
  The same loop where each array is mapped anew (`MALLOC_MMAP_THRESHOLD_`), as malloc does by
  default beyond 4M coordinates and for the first masks of a process, is timed beside it and not
  judged. Ours works in place. It is judged with many masks in one call, and its time is divided
  by their number; a single mask is timed beside it.
- Flower's whole round is composed: each function that its workflow and mod call, timed at the real
  size, times its calls. The calls are counted in a real round of every run, and a composed round
  is compared with real ones at a size that can be run whole. Dropped sites leave after their keys
  are shared and mask nothing, on both sides. On both the sum stays at the server. The driver of
  the real round sets the identities that Flower's runtime would give a task, and counts calls by
  wrapping functions; they are put back before its parts are timed.
- Memory is the largest resident set of a fresh process less what was resident before, libraries
  and compiled kernels being loaded by then. The sum stays at the server (`sites_receive=False`).
  `memory/server-opening` is held against accumulator and result, plus 64 MiB: opening makes the
  result, which is of float64.
- Paillier keys are published test keys of safe primes, the same for ours and for every peer that
  takes primes. Figures are a number: a ciphertext of ours holds a slot for each of many, one of a
  peer's holds one, and this packing is part of every ratio. Ours goes from floats to bytes and back
  and includes the checks of ciphertexts; a peer's from floats (or integers) to its own objects. phe
  has gmpy2 and one fixed precision. The GMP twin runs in a process in which it is forced
  (`SECAGG_BIGINT`), and so does each whole share.
- The limit of Paillier's arithmetic is a loop of 52-bit multiplications that never leave the
  registers. An operation is counted as the multiplications of its products and reductions, without
  conversions, look-ups and carries.
- A client's cost over clients is CPU time; bytes are those of the messages, all counted.
"""

_REPEAT: Final = """\
`make bench` installs the peers into an environment of their own and runs everything. By hand:

```console
$ secagg bench --out bench-output
$ secagg bench --quick --only mask-1m --only shamir
$ secagg bench --report bench-output/results.json --out docs
```

The first takes about {minutes} minutes on the machine above. Without the peers
(`{install}`) the rest still runs, and the table says what was left out.
`pytest benchmarks` times the same works one by one with pytest-benchmark, at small sizes unless
`--full` is given.
"""


def page(run: Run, *, source: str, drawn: Collection[str] | None = None, under: str = "") -> str:
    """Markdown of a run. ``source``: the file of the run, as a link from the page.

    under: the section of :mod:`.frameworks`, which is measured by itself. drawn: names of the plots
    that were drawn and are shown; ``None`` for all of the run.
    """
    shown = [name for name in plots.named(run) if drawn is None or name in drawn]
    images = [_image(name) for name in shown if name != plots.BARS]
    busy = text.busy(run.machine.load, run.machine.cores)
    met = sum(verdict.met is True for verdict in run.verdicts)
    missed = sum(verdict.met is False for verdict in run.verdicts)
    rest = len(run.verdicts) - met - missed
    parts = [
        "# Performance",
        _INTRODUCTION.format(source=source).strip(),
        "## Bars",
        f"{met} met, {missed} missed, {rest} not measured.",
        _table(
            ["line", "bar", "measured", "quartiles (extremes)", "verdict"],
            [
                [
                    verdict.bar.text,
                    text.wanted(verdict.bar),
                    text.figure(verdict.figure, verdict.bar.unit),
                    text.between(verdict.spread),
                    text.outcome(verdict),
                ]
                for verdict in run.verdicts
            ],
        ),
        _image(plots.BARS) if plots.BARS in shown else "",
        "## Machine",
        f"Beware: {busy}." if busy else "",
        _table(["what", "value"], _machine(run)),
        "## Plots" if images else "",
        *images,
        "## Cases",
        *(line for case in run.cases for line in _case(case)),
        "## Under Flower" if under else "",
        under,
        "## How it is measured",
        _METHOD.strip(),
        "## How to repeat",
        _REPEAT.format(minutes=max(1, round(run.seconds / 60)), install=peers.INSTALL).strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(run: Run) -> list[list[str]]:
    where = run.machine
    rows = [
        ["date", run.date],
        ["secagg", run.version],
        ["processor", where.cpu],
        ["features", ", ".join(where.features)],
        ["cores, threads at most", f"{where.cores}, {run.threads}"],
        ["memory", f"{where.memory_gib} GiB"],
        ["system", where.system],
        ["Python", where.python],
        ["OpenSSL", where.openssl],
        ["mask kernel", where.kernel],
        ["load before the run (1, 5, 15 minutes)", ", ".join(map(str, where.load))],
        ["samples at least", str(run.runs)],
        ["sizes", run.scale],
        ["duration", text.duration(run.seconds)],
    ]
    rows += [[name, version] for name, version in where.packages.items()]
    rows += [[f"left out: {name}", reason] for name, reason in run.left_out.items()]
    return rows


def _case(case: CaseResult) -> list[str]:
    sizes = ", ".join(
        f"{name.replace('_', ' ')} {_plain(value)}" for name, value in case.sizes.items()
    )
    lines = [f"### {case.title}", f"`{case.id}`: {sizes}."]
    if case.error:
        lines.append(f"It did not finish: {case.error}")
    if case.timings:
        rows = [
            [
                timed.name,
                text.duration(timed.spread.median),
                f"{text.duration(timed.spread.first)} to {text.duration(timed.spread.third)}",
                f"{text.duration(timed.spread.lowest)} to {text.duration(timed.spread.highest)}",
                str(len(timed.seconds)),
                text.rate(timed),
            ]
            for timed in case.timings
        ]
        head = ["work", "median", "quartiles", "extremes", "samples", "at the median"]
        lines.append(_table(head, rows, [1, 4, 5]))
    for listing in case.listings:
        lines += [f"{listing.title}:", _table(listing.columns, listing.rows, listing.numbers)]
    if case.notes:
        lines.append("\n".join(f"- {note}" for note in case.notes))
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(_plain(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _image(name: str) -> str:
    return f"![{plots.title(name)}]({FIGURES}/{plots.file_name(name)})"


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()
) -> str:
    """A table in Markdown; ``numbers`` are the columns set flush right."""
    rule = ["---:" if index in numbers else "---" for index in range(len(columns))]
    cells = [columns, rule, *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in row)} |" for row in cells)


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


__all__ = ["FIGURES", "page"]
