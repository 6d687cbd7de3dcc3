"""Transcripts of a simulation: every party of every session writes its own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from secagg.session.transcript import KEEP_TAILS, Recorder
from secagg_protocols.errors import MisuseError
from secagg_protocols.events import Aggregate
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME

#: Which of several rounds of one kind a label names.
_NUMBER: Final = re.compile(r"-\d+$")


class SessionLog:
    """The transcripts of one session, by party; without any, nothing is recorded."""

    def __init__(self, recorders: Mapping[str, Recorder]) -> None:
        self._recorders = recorders

    def sent(self, sender: str, recipient: str, data: bytes) -> None:
        """``sender`` let go of a message, whether it arrives or not."""
        if sender in self._recorders:
            self._recorders[sender].sent(recipient, data)

    def received(self, sender: str, recipient: str, data: bytes) -> None:
        """A message reached ``recipient``, who has not taken it yet."""
        if recipient in self._recorders:
            self._recorders[recipient].received(sender, data)

    def outcome(self, round: int, aggregate: Aggregate) -> None:
        """The server has the result of a round."""
        if SERVER_NAME in self._recorders:
            self._recorders[SERVER_NAME].outcome(round, aggregate)


class Transcripts:
    """A new folder with a transcript of every party of every session of a run.

    Files are called after the rounds of the session, and the party: ``counts-server.transcript``.
    The server's keep whole vectors, which the audit of a sum needs; sites keep the hash of a
    vector of more than 64 KiB. Use it as a context: the files are open until it ends.

    Raises `MisuseError` (rule ``output-file``) where the folder holds anything, and ``OSError``
    of the disk.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise MisuseError(
                f"{folder} holds something; name a folder that is new or empty",
                rule="output-file",
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._kinds: set[str] = set()
        self._files = ExitStack()

    def begin(self, plan: Plan, label: str, session: str) -> SessionLog:
        """The transcripts of the session whose first round is ``label``."""
        kind = _NUMBER.sub("", label)
        if kind in self._kinds:
            kind = label  # another plan for rounds of one kind
        self._kinds.add(kind)
        return SessionLog(
            {
                party: self._files.enter_context(
                    Recorder(
                        # Names are any printable text, slashes included.
                        self.folder / f"{quote(f'{kind}-{party}', safe='')}.transcript",
                        plan,
                        party,
                        session,
                        keep_tails=None if party == SERVER_NAME else KEEP_TAILS,
                    )
                )
                for party in (SERVER_NAME, *plan.roster.names)
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()


__all__ = ["SessionLog", "Transcripts"]
