"""A folder that holds one party's session: its journal, and its newest dump, sealed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from secagg.durable import sync_folder, write_durably
from secagg_protocols.enrolment import Membership
from secagg_protocols.errors import MisuseError
from secagg_protocols.floors import Floors
from secagg_protocols.journal import FileJournal
from secagg_protocols.keys import Identity, seal, unseal
from secagg_protocols.ledger import InputLedger
from secagg_protocols.paillier import KeyShare, PrivateKey
from secagg_protocols.plan import Plan

from .holder import HolderSession
from .server import ServerSession
from .site import SiteSession


class Store:
    """Saves sessions so that a new process can go on from the disk alone.

    folder: of this party only, mode 0700; made where it is missing. identity: seals the dump.
    ``journal`` is the one to give to the session. Not for two processes at once: the journal
    would keep them from answering one step twice, and one of them would lose the round.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Identity) -> None:
        if not isinstance(identity, Identity):
            raise MisuseError("a store is sealed with an Identity", rule="arguments")
        if not isinstance(folder, (str, os.PathLike)) or not str(folder) or "\0" in str(folder):
            raise MisuseError("the folder of a store is a path", rule="arguments")
        self.folder = Path(folder)
        self.identity = identity
        with _disk(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.folder.stat().st_mode & 0o077:
                raise MisuseError(
                    f"{self.folder} is open to others; only its owner may use it (chmod 700)",
                    rule="store",
                )
            # Its name has to last as long as what is in it. Where this party may not look, it
            # was made by somebody else before.
            with contextlib.suppress(PermissionError):
                sync_folder(self.folder.resolve().parent)
        self.journal = FileJournal(self.folder / "journal")

    @property
    def _path(self) -> Path:
        return self.folder / "session"

    def save(self, session: SiteSession | ServerSession | HolderSession) -> None:
        """Write the session's dump, wholly or not at all. On return it is durable: what the
        session's last call returned may be transmitted now.

        Save a new session at once, too: its first seeds are in the dump, and a site that dies
        without them sits a round out. :class:`MisuseError` (``store``) where the disk fails: the
        dump from before or this one is there then, and the same call may be made again.
        """
        self._check_session(session)
        data = seal(session.dump(), self.identity)
        with _disk(self._path):
            write_durably(self._path, data)

    def _check_session(self, session: object) -> None:
        """What could not be loaded again must not take the place of what can."""
        if not isinstance(session, (SiteSession, ServerSession, HolderSession)):
            raise MisuseError(
                "a store saves SiteSession, ServerSession and HolderSession", rule="arguments"
            )
        if session.journal is not self.journal:
            raise MisuseError("the session has another journal than its store", rule="store")
        if self.identity.public != session.public:
            raise MisuseError(f"the store is not that of {session.name}", rule="store")

    @property
    def saved(self) -> bool:
        """Whether there is a session to load."""
        with _disk(self._path):
            return self._path.exists()

    def load_site(
        self,
        plan: Plan,
        *,
        floors: Floors | None = None,
        ledger: InputLedger | None = None,
        membership: Membership | None = None,
        threads: int = 1,
    ) -> SiteSession:
        """The site's session that was saved last; its ledger is in this store's journal."""
        return SiteSession.load(
            self._read(),
            plan,
            identity=self._signer(plan),
            journal=self.journal,
            floors=floors,
            ledger=ledger,
            membership=membership,
            threads=threads,
        )

    def load_server(
        self, plan: Plan, *, membership: Membership | None = None, threads: int = 1
    ) -> ServerSession:
        """The server's session that was saved last."""
        return ServerSession.load(
            self._read(),
            plan,
            identity=self._signer(plan),
            journal=self.journal,
            membership=membership,
            threads=threads,
        )

    def load_holder(
        self,
        plan: Plan,
        *,
        share: KeyShare | PrivateKey,
        floors: Floors | None = None,
        membership: Membership | None = None,
        threads: int = 1,
    ) -> HolderSession:
        """The holder's session that was saved last; its share of the key is kept elsewhere."""
        return HolderSession.load(
            self._read(),
            plan,
            share=share,
            identity=self._signer(plan),
            journal=self.journal,
            floors=floors,
            membership=membership,
            threads=threads,
        )

    def _signer(self, plan: Plan) -> Identity | None:
        return self.identity if plan.signed else None

    def _read(self) -> bytes:
        with _disk(self._path):
            return unseal(self._path.read_bytes(), self.identity)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MisuseError(f"{path}: {error.strerror}", rule="store") from error


__all__ = ["Store"]
