"""Run one script of journal operations again and again, killed before each of its system calls.

``python journal_kills.py FOLDER START`` forks a process for each k that kills itself just before
its k-th call, until one gets through, and prints what each returned before it died.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secagg import FileJournal, Journal

Operation = tuple[Any, ...]

SERIES, NAME, OTHER = b"s" * 32, b"n" * 32, b"m" * 32


def _script() -> list[Operation]:
    """Rounds as a session has them, large enough for the file to be written anew twice."""
    found: list[Operation] = [("claim", b"f" * 32, 1000, b"1" * 32, b"", b"", 0)]
    count = b""
    for number in range(5):
        key = bytes([number]) * 32
        for step in (1, 5):
            reply = bytes([number, step]) * 20_000
            found.append(("claim", key, step, b"2" * 32, reply, SERIES, number))
        now = b"%d" % (number + 1)
        found.append(("swap", NAME, count, now))
        count = now
        if number:
            found.append(("retire", SERIES, number))
    found.append(("swap", OTHER, b"", b"set"))
    found.append(("swap", OTHER, b"set", b""))
    return found


OPERATIONS = _script()


@dataclass(frozen=True)
class Model:
    """What a journal should hold, by the meaning of its operations alone."""

    records: dict[tuple[bytes, int], tuple[bytes, bytes]]
    floors: dict[bytes, int]
    registers: dict[bytes, bytes]

    def after(self, operation: Operation) -> Model:
        """The content after one more operation."""
        records, floors, registers = dict(self.records), dict(self.floors), dict(self.registers)
        kind, *rest = operation
        if kind == "claim":
            key, step, digest, reply, _, _ = rest
            records[key, step] = (digest, reply)
        elif kind == "retire":
            series, below = rest
            floors[series] = below
            for _, key, step, _, _, of, number in [o for o in OPERATIONS if o[0] == "claim"]:
                if of == series and number < below:
                    records.pop((key, step), None)
        else:
            name, _, new = rest
            registers[name] = new
            registers = {n: value for n, value in registers.items() if value}
        return Model(records, floors, registers)


def do(journal: Journal, operation: Operation) -> None:
    """Do one operation."""
    kind, *rest = operation
    if kind == "claim":
        key, step, digest, reply, series, number = rest
        assert journal.claim(key, step, digest, reply, series=series, number=number) == reply
    elif kind == "retire":
        journal.retire(*rest)
    else:
        journal.swap(*rest)


#: Every call of the journal that may change something outside its process, or wait.
CALLS = [
    (os, name)
    for name in (
        *("open", "close", "pread", "pwrite", "fsync", "ftruncate", "rename", "unlink", "stat"),
        *("fstat", "setxattr", "getxattr"),
    )
    if hasattr(os, name)
]
CALLS += [(fcntl, "flock"), (fcntl, "ioctl")]


def run(folder: Path, kill_at: int) -> None:
    """The script, with two handles in turn, killed before call number ``kill_at``."""
    made = 0
    says = os.open(folder / "returned", os.O_WRONLY | os.O_CREAT)
    write = os.write

    def wrap(name: str, call: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            if made == kill_at:
                write(says, b"!" + name.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return counted

    for module, name in CALLS:
        setattr(module, name, wrap(name, getattr(module, name)))
    handles = [FileJournal(folder / "journal") for _ in range(2)]
    for at, operation in enumerate(OPERATIONS):
        do(handles[at % 2], operation)
        write(says, b".")


def main(folder: Path, start: str) -> None:
    """``start``: "nothing", or "a rest" of a file that was being written anew in a crash."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["killed"]:
        place = folder / f"run-{len(found)}"
        place.mkdir()
        if start == "a rest":
            (place / "journal.new").write_bytes(b"secagg journal 2\n and then a crash")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(place, len(found) + 1)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        assert killed or status == 0
        said = (place / "returned").read_text()
        returned, _, before = said.partition("!")
        found.append({"killed": killed, "returned": len(returned), "before": before})
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
