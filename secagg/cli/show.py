"""Tables of a simulation: rounds step by step, result beside reference, what the server saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from secagg.session.messages import Slot
from secagg.sim.records import RoundRecord
from secagg.sim.scenarios import Claim, Run
from secagg.sim.secure import Observer, SecureSummation
from secagg.sim.sight import Sight
from secagg_protocols.events import Step
from secagg_protocols.paillier_sum.costs import round_cost
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.roster import SERVER_NAME

from .common import counted, human_bytes, human_names, mark, stderr, table


class Watch(Observer):
    """Shows a bar on stderr while rounds run, and keeps their records."""

    def __init__(self) -> None:
        console = stderr()
        self.records: list[RoundRecord] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # Without a terminal a bar is noise in a log.
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("keys", total=None, visible=False, told="")
        self._paillier: _Shares | None = None
        self._done: dict[str, int] = {}

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def round_starts(self, label: str, plan: Plan, present: int, exchanges: int) -> None:
        """Begin a bar: every exchange is one order and one report per site.

        In a Paillier sum it shows the work, which is known in advance, and not the messages.
        """
        total: float = 2 * exchanges * present
        self._paillier, self._done = None, {}
        if isinstance(plan.protocol, PaillierSum):
            self._paillier = _Shares.of(plan)
            total = self._paillier.total(present)
        self._progress.reset(
            self._task, description=f"round {label}", total=total, visible=True, told=""
        )

    def message(self, slot: Slot, sender: str, recipient: str, size: int) -> None:
        """Advance the bar."""
        if self._paillier is None:
            self._advance(1, "messages")
        else:
            self._advance(self._paillier.received(slot, recipient), f"{recipient} checks")

    def searched(self, candidates: int) -> None:
        """Show that a key is being made: nobody knows how long it takes."""
        told = f"{candidates:,} candidates"
        self._progress.update(self._task, description="safe primes", visible=True, told=told)

    def work(self, party: str, done: int, most: int) -> None:
        """Advance the bar by the ciphertexts that ``party`` has done since it told of them."""
        if self._paillier is None:
            return
        fresh = done - self._done.get(party, 0)
        self._done[party] = done
        holds = party in self._paillier.holders
        doing = "opens" if holds else "encrypts"
        each = self._paillier.opened if holds else self._paillier.encrypted
        self._advance(fresh * each, f"{party} {doing} {done:,} of {most:,} ciphertexts")

    def _advance(self, by: float, told: str) -> None:
        self._progress.advance(self._task, by)
        task = self._progress.tasks[self._task]
        if self._paillier is None:
            text = f"{task.completed:,.0f}/{task.total or 0:,.0f} {told}"
        else:
            text = f"{task.percentage:3.0f} %  {told}"
        self._progress.update(self._task, told=text)

    def round_ends(self, record: RoundRecord) -> None:
        """Keep the record."""
        self.records.append(record)


@dataclass(frozen=True, slots=True)
class _Shares:
    """How much of a Paillier round's work each of its parts is, in multiplications.

    encrypted, opened: of one ciphertext at a site and at a holder; server, holder: of one message
    of the input step there; answer: of one holder's answer at the server.
    """

    rows: int
    holders: frozenset[str]
    encrypted: float
    opened: float
    server: float
    holder: float
    answer: float

    @classmethod
    def of(cls, plan: Plan) -> _Shares:
        cost = round_cost(plan)

        def of(party: str, step: Step) -> float:
            found = (w for w in cost.work if (w.party, w.step) == (party, step))
            return sum(w.multiplications for w in found)

        return cls(
            rows=cost.rows,
            holders=frozenset(name for name, _ in plan.roster.holders),
            encrypted=of("site", Step.INPUT) / cost.rows,
            opened=of("holder", Step.REVEAL) / cost.rows,
            server=of("server", Step.INPUT) / cost.clients,
            # Of each input that the server passes on, and of its request to open.
            holder=of("holder", Step.INPUT) / (cost.clients + 1),
            answer=of("server", Step.REVEAL) / cost.holders,
        )

    def total(self, sites: int) -> float:
        """Of a round with so many sites and all holders."""
        site = self.rows * self.encrypted + self.server
        holder = (sites + 1) * self.holder + self.rows * self.opened + self.answer
        return sites * site + len(self.holders) * holder

    def received(self, slot: Slot, recipient: str) -> float:
        """What a message makes its recipient do."""
        if recipient == SERVER_NAME:
            return self.server if slot == Slot.INPUT else self.answer
        return self.holder if recipient in self.holders else 0.0


def step_table(record: RoundRecord) -> Any:
    """One round, a line per exchange."""
    title = (
        f"Round {record.label}: {record.length:,} coordinates of {record.bits} bits"
        + (f" in {counted(record.ciphertexts, 'ciphertext')}" if record.holders else "")
        + f", {counted(record.sites, 'site')}, "
        + (
            f"{record.threshold} of {counted(record.holders, 'holder')} open"
            if record.holders
            else f"{record.start} start"
        )
    )
    to = "from server" if record.holders else "to sites"
    columns = ("exchange", "sent", "to server", to, "seconds", "left here")
    shown = table(title, *columns, numbers=(1, 2, 3, 4))
    for entry in record.exchanges:
        shown.add_row(
            f"{Slot[entry.step.upper()].value} {entry.step}",
            counted(entry.senders, entry.sender),
            human_bytes(entry.site_bytes),
            human_bytes(entry.server_bytes),
            f"{entry.seconds:.3f}",
            Text(human_names(entry.gone), style="yellow"),
        )
    return Group(shown, Text(outcome(record), style="red" if record.aborted else ""))


def outcome(record: RoundRecord) -> str:
    """How a round ended, in a few sentences."""
    if record.aborted:
        who = f"{counted(len(record.refused), 'site')} refused: " if record.refused else ""
        return f"Aborted: {who}{record.aborted}"
    text = f"In the sum: {counted(len(record.survivors), 'site')}"
    if record.dropped:
        masks = "" if record.holders else " (masks that they left behind were removed)"
        text += f"; not in it: {len(record.dropped)}{masks}"
    if record.left:
        text += f"; left after being counted: {len(record.left)}"
    check = (
        "equals the plain sum exactly"
        if record.error == 0
        else f"is within {record.error:.1g} of the plain sum (rounding, and noise where there is "
        f"any, allow {record.bound:.1g})"
    )
    text += f". The sum {check if record.holds else 'DIFFERS from the plain sum'}."
    if record.sat_out:
        text += f" Sat out, having missed the setup: {human_names(record.sat_out)}."
    if record.silent_holders:
        silent = human_names(record.silent_holders)
        text += f" Opened without {silent}."
    if record.returned:
        text += f" Back in the sum: {human_names(record.returned)}."
    if record.why and record.number > 1:
        text += f" Started cold: {record.why}."
    return text


def rounds_table(records: Sequence[RoundRecord]) -> Any:
    """All rounds, a line each."""
    shown = table(
        "All rounds",
        "round",
        "exchanges",
        "in\nsum",
        "left",
        "sat\nout",
        "returned",
        "bytes",
        "seconds",
        "sum",
        numbers=range(1, 8),
    )
    for record in records:
        shown.add_row(
            record.label,
            f"{len(record.exchanges)} {record.start}",
            f"{len(record.survivors)}",
            *(
                f"{len(sites)}" if sites else ""
                for sites in (record.gone, record.sat_out, record.returned)
            ),
            human_bytes(record.total_bytes),
            f"{record.seconds:.2f}",
            Text("aborted", style="red") if record.aborted else mark(record.holds),
        )
    return shown


#: Marks of a site in a round: in its sum to the end, in the sum and then gone, heard without a
#: setup, absent.
_STAYED, _COUNTED, _WAITING, _ABSENT = "●", "◐", "·", "○"


def presence_table(records: Sequence[RoundRecord], most: int = 12) -> Any:
    """A line per site that was ever missing, a mark per round; empty where nobody was."""
    finished = [record for record in records if not record.aborted]
    away = sorted({site for r in finished for site in (*r.dropped, *r.left, *r.gone)})
    if not away:
        return Text("")
    shown = table("Sites that left, round by round", "site", "rounds in tens")
    for site in away[:most]:
        marks = "".join(_presence(record, site) for record in finished)
        tens = (marks[at : at + 10] for at in range(0, len(marks), 10))
        shown.add_row(site, " ".join(tens))
    legend = (
        f"{_STAYED} in the sum   {_COUNTED} in the sum, then left   {_ABSENT} missing   "
        f"{_WAITING} heard again, without a setup for this round"
    )
    more = f"\n... and {counted(len(away) - most, 'site')} more" if len(away) > most else ""
    return Group(shown, Text(legend + more, style="dim"))


def _presence(record: RoundRecord, site: str) -> str:
    if site in record.sat_out:
        return _WAITING
    if site in record.survivors:
        return _COUNTED if site in record.left else _STAYED
    return _ABSENT


def in_all(secure: SecureSummation) -> str:
    """Rounds, exchanges, bytes and seconds of a whole run."""
    parts = [
        f"In all: {counted(len(secure.records), 'round')} in "
        f"{counted(secure.exchanges, 'exchange')}"
    ]
    if secure.exchanges != secure.exchanges_alone:
        parts.append(f" ({secure.exchanges_alone:,} if no round prepared the next)")
    if secure.closing:
        parts.append(f", {len(secure.closing)} more to end")
    parts.append(f"; {human_bytes(secure.total_bytes)}, {secure.seconds:.1f} seconds.")
    agreed = sum(secure.agreed(record) > 0 for record in secure.records)
    if agreed:
        parts.append(
            f" In {agreed} of {counted(len(secure.records), 'round')} sites confirmed to each "
            "other, signed, that they got the same result."
        )
    return "".join(parts)


def shown_rounds(records: Sequence[RoundRecord], most: int = 3) -> list[RoundRecord]:
    """The first round and the next ones in which somebody left or nothing came out."""
    rest = [r for r in records[1:] if r.aborted or r.gone or r.sat_out]
    first, aborted = list(records[:1]), [r for r in rest if r.aborted]
    eventful = [r for r in rest if not r.aborted][: most - 1]
    return [*first, *eventful, *aborted]


def result_table(run: Run) -> Any:
    """What the secure sums gave, beside the reference."""
    reference = {"survival": "pooled patients", "training": "plain training"}.get(
        run.scenario, "plain sum"
    )
    shown = table("Result", "what", "secure sum", reference, numbers=(1, 2))
    for row in run.lines:
        shown.add_row(*row)
    return shown


def sight_table(sight: Sight, count: int = 6) -> Any:
    """Masked words beside true values of one site, and the test on all of them."""
    if not sight.glimpses:
        return Text("The server received no input.")
    glimpse = sight.glimpses[0]
    shown = table(
        f"What the server saw of {glimpse.site} in round {glimpse.label}",
        "coordinate",
        "true value (hidden)",
        "lowest word of its ciphertext (seen)"
        if glimpse.ciphertext
        else f"masked word, of 2^{glimpse.bits} (seen)",
        numbers=range(3),
    )
    for index in glimpse.interesting(count):
        shown.add_row(f"{index}", f"{glimpse.truth[index]:,}", f"{glimpse.words[index]:,}")
    seen, control = sight.seen, sight.control
    if seen is None or control is None:
        return Group(shown, Text("Too few bytes for a test of uniformity."))
    unit = "bytes" if seen.bins == 256 else "half bytes"
    tests = table(
        f"Chi-square test against uniform, over all {seen.count:,} {unit} of all inputs",
        "of",
        "chi-square",
        "freedom",
        "p value",
        "looks",
        numbers=(1, 2, 3),
    )
    received = "ciphertexts" if glimpse.ciphertext else "masked"
    for name, test in ((f"{received}, as received", seen), ("true values (control)", control)):
        looks = "uniform" if test.uniform else "not uniform"
        row = (f"{test.statistic:,.0f}", f"{test.bins - 1}", test.p_text, looks)
        tests.add_row(name, *row)
    return Group(shown, tests)


def claims_table(claims: Sequence[Claim], title: str = "What this run shows") -> Any:
    """A check mark per claim."""
    shown = table(title, "", "claim", "evidence")
    for claim in claims:
        shown.add_row(mark(claim.holds), claim.text, claim.detail)
    return shown


def show_run(console: Console, run: Run, *, every: bool = False) -> None:
    """Print a finished simulation from the first step to the claims."""
    records = run.secure.records
    detailed = list(records) if every else shown_rounds(records)
    for record in detailed:
        console.print(step_table(record))
        console.print()
    if len(records) > 1:
        console.print(rounds_table(records))
        if len(detailed) < len(records):
            console.print("--all-rounds shows every round step by step.", style="dim")
        console.print()
        if any(record.gone for record in records):
            console.print(presence_table(records))
            console.print()
    console.print(result_table(run))
    for note in run.notes:
        console.print(Text(f"• {note}", style="dim"))
    console.print()
    console.print(sight_table(run.secure.sight))
    console.print()
    console.print(in_all(run.secure))
    for label in run.secure.unused():
        console.print(f"The schedule names round {label}, which was not run.", style="yellow")
    console.print()
    console.print(claims_table(run.claims))


def show_end(console: Console, records: Sequence[RoundRecord]) -> None:
    """Print how far a simulation came that was aborted."""
    if len(records) > 1:
        console.print(rounds_table(records))
        console.print()
    console.print(step_table(records[-1]))


def show_figures(console: Console, paths: Sequence[Path]) -> None:
    """Say which files were written."""
    for path in paths:
        console.print(Text(f"wrote {path}"), soft_wrap=True)


__all__ = [
    "Watch",
    "claims_table",
    "in_all",
    "outcome",
    "presence_table",
    "result_table",
    "rounds_table",
    "show_end",
    "show_figures",
    "show_run",
    "sight_table",
    "step_table",
]
