"""Work in a process of its own, which may be killed at a chosen point."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final, NoReturn

from secagg.integrations.folder import PartyFolder
from secagg_protocols.journal import FileJournal

from .faults import Kind

#: Records of the journal after which a process may die, by ``Fault.at``.
RECORDS: Final = 6


def in_child(
    act: Callable[[], bytes | None], kill: Kind | None = None, at: float = 0.0
) -> bytes | None:
    """What ``act`` returns, done in a forked process; ``None`` where it died before.

    kill: the process ends itself by SIGKILL at this point. A point that is never reached ends it
    before its result is used, so that it dies in any case. at: from 0 to 1, of ``KILL_JOURNAL``:
    after the first to the sixth record. :class:`RuntimeError` where it failed otherwise.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _live(writing, act, kill, at)
    os.close(writing)
    pieces = []
    while piece := os.read(reading, 1 << 16):
        pieces.append(piece)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    dead = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if dead != (kill is not None) or (kill is None and status != 0):
        raise RuntimeError(f"a party's process ended with status {status}")
    return b"".join(pieces)[1:] if pieces else None


def _live(writing: int, act: Callable[[], bytes | None], kill: Kind | None, at: float) -> NoReturn:
    try:
        if kill is Kind.KILL_BEFORE:
            _die()
        elif kill is Kind.KILL_JOURNAL:
            left = [1 + min(int(at * RECORDS), RECORDS - 1)]
            for name in ("claim", "swap"):
                setattr(FileJournal, name, _dying(getattr(FileJournal, name), left))
        elif kill is Kind.KILL_STATE:
            setattr(PartyFolder, "write_state", _dying(PartyFolder.write_state, [1]))  # noqa: B010
        data = act()
        if data is not None:
            view = memoryview(b"+" + data)
            while view:
                view = view[os.write(writing, view) :]
        if kill is not None:
            _die()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - whatever it was, this process ends here
        traceback.print_exc(file=sys.stderr)
    finally:
        # Nothing of the process that it was forked from is to be done a second time.
        os._exit(1)


def _dying(act: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def acts(*args: Any, **named: Any) -> Any:
        found = act(*args, **named)
        left[0] -= 1
        if left[0] == 0:
            _die()
        return found

    return acts


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


__all__ = ["RECORDS", "in_child"]
