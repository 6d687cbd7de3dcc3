"""One folder per party: its own files, from which a framework's process makes the party.

A framework starts a new process for a message, or moves one to another machine's core; what a
party is must then come from the party's own disk and never from the framework, whose server could
lower every limit. The folder (mode 0700) holds:

- ``identity.key``: as ``secagg keygen`` writes it; its name is the party's name in the roster.
- ``plan.toml``: the plan that this party takes part in; ``plan-TASK.toml`` for another task of the
  framework than ``train``.
- ``roster.toml``: the roster whose fingerprint was compared; plans over another one are refused.
  With ``policy.toml`` it takes the place of a plan: the server proposes one, which must meet this
  policy; that then states both ``malicious_server`` and ``min_honest``.
- ``policy.toml``: what the site insists on (``docs/policy.md``); floors files are policies.
- ``budget.toml``: the privacy budget of the site's data.
- ``share.key``: a holder's share of a Paillier key, or the whole key of the one holder.
- ``journal``, ``sessions/``, ``lock``: made and kept by the library. The journal is never copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from secagg.dp.budget import Budget
from secagg.durable import sync_folder, write_durably
from secagg.policy import Policy, load_policy
from secagg_protocols.errors import DecodeError, MisuseError, PlanError, SecAggError
from secagg_protocols.journal import FileJournal
from secagg_protocols.keys import Identity
from secagg_protocols.paillier import KeyShare, PrivateKey
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import dump_plan, dump_roster, load_plan, load_roster
from secagg_protocols.roster import SERVER_NAME, Roster
from secagg_protocols.wire import DIGEST_SIZE

if TYPE_CHECKING:
    from secagg.dp.ledger import Ledger

T = TypeVar("T")
#: The task whose plan is ``plan.toml``.
TRAIN: Final = "train"
#: Sealed states that a folder keeps.
MOST_SESSIONS: Final = 8
_MOST_SECRET: Final = 1 << 20
#: What a policy has to speak of where the server chooses the plan, be it to allow all.
_STATED: Final = ("malicious_server", "min_honest")


class PartyFolder:
    """The files of one party. path: an existing folder of mode 0700 with an ``identity.key``.

    :class:`MisuseError` (``party-folder``) where the folder is not there, is open to others, or
    lacks what a party needs; errors of the files in it are those of their readers.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
            raise _wrong("the folder of a party is a path")
        self.path = Path(path)
        try:
            mode = self.path.stat().st_mode
        except OSError as error:
            raise _wrong(f"{self.path}: {error.strerror}") from None
        if not stat.S_ISDIR(mode):
            raise _wrong(f"{self.path} is no folder")
        if mode & 0o077:
            raise _wrong(f"{self.path} is open to others; only its owner may use it (chmod 700)")
        self.identity = Identity.load(self.path / "identity.key")
        self.name = self.identity.name

    def __repr__(self) -> str:
        return f"PartyFolder({str(self.path)!r})"

    # What the party is.

    def plan(self, task: str = TRAIN, proposed: str = "") -> Plan:
        """The plan of a task: the pinned one, or the server's proposal where the site pins the
        roster and has a policy. The policy holds for both.

        proposed: the server's proposal as TOML text; ignored where a plan is pinned.
        Where ``roster.toml`` is there, both are over it. Rules: ``plan-pinned`` where neither file
        is there, nothing was proposed, or the policy leaves open what a proposed plan must meet,
        ``roster-pinned`` for a plan over another roster, ``policy-censoring`` for a policy that
        censors, and those of the policy.
        """
        pinned = self._plan_file(task)
        if _there(pinned):
            plan = _load(pinned, load_plan)
            if _there(self.path / "roster.toml"):
                # A plan holds a roster of its own, and the fingerprint was compared of this one.
                self._check_roster(plan, f"{pinned} is over another roster than roster.toml")
        elif not _there(self.path / "roster.toml"):
            raise MisuseError(
                f"{self.path} has neither {pinned.name} nor roster.toml", rule="plan-pinned"
            )
        elif task != TRAIN and _there(self._plan_file(TRAIN)):
            # Whoever fixed one plan has not left the others to the server.
            raise MisuseError(
                f"{self.path} has a plan, and no {pinned.name}; the server's is not taken",
                rule="plan-pinned",
            )
        else:
            plan = self._proposal(proposed)
        if self.policy is not None:
            self.policy.check(plan)
            if self.policy.censoring is not None:
                # Frameworks hand over updates without what the samples did to each neuron, and a
                # defence that is asked for is not left out in silence.
                raise MisuseError(
                    f"{self.path / 'policy.toml'} censors, and a framework's update comes without "
                    "the activations that this takes; censor in the training code "
                    "(secagg.censoring), and take the table out of this file",
                    rule="policy-censoring",
                )
        return plan

    def _plan_file(self, task: str) -> Path:
        if not task.isalpha():
            raise MisuseError("a task is named by letters", rule="plan-pinned")
        return self.path / ("plan.toml" if task == TRAIN else f"plan-{task}.toml")

    def _proposal(self, proposed: str) -> Plan:
        if self.policy is None:
            # Without limits of its own a site would take whatever the server thinks of.
            raise MisuseError(
                f"{self.path} has roster.toml and no policy.toml; a proposed plan needs one",
                rule="plan-pinned",
            )
        silent = [name for name in _STATED if name not in self._policy_file()]
        if silent:
            raise MisuseError(
                f"{self.path / 'policy.toml'} says nothing of {' and '.join(silent)}; a site that "
                "takes the server's plan states both",
                rule="plan-pinned",
            )
        if not proposed:
            raise MisuseError("the server proposed no plan", rule="plan-pinned")
        plan = load_plan(proposed)
        self._check_roster(plan, "the proposed plan is over another roster")
        return plan

    def _check_roster(self, plan: Plan, text: str) -> None:
        if plan.roster.to_dict() != self.roster.to_dict():
            raise MisuseError(text, rule="roster-pinned")

    def _policy_file(self) -> dict[str, Any]:
        path = self.path / "policy.toml"
        return _load(path, tomllib.loads)

    @cached_property
    def roster(self) -> Roster:
        """The pinned roster: ``roster.toml``, or that of ``plan.toml``."""
        path = self.path / "roster.toml"
        return _load(path, load_roster) if _there(path) else self.plan().roster

    @cached_property
    def policy(self) -> Policy | None:
        """What the site insists on; ``None`` where there is no file."""
        path = self.path / "policy.toml"
        if not _there(path):
            return None
        if not path.is_file():
            raise _wrong(f"{path} cannot be read")
        return load_policy(path)

    @cached_property
    def share(self) -> KeyShare | PrivateKey | None:
        """A holder's share of the key, or the whole one."""
        path = self.path / "share.key"
        if not _there(path):
            return None
        if not path.is_file():
            raise _wrong(f"{path} cannot be read")
        if path.stat().st_mode & 0o077:
            raise _wrong(f"{path}: only its owner may read it (chmod 600)")
        with path.open("rb") as file:
            data = file.read(_MOST_SECRET)
        for kind in (KeyShare, PrivateKey):
            with contextlib.suppress(SecAggError):
                return kind.from_bytes(data)
        raise _wrong(f"{path} is neither a share nor a private key")

    def check_member(self, plan: Plan) -> None:
        """:class:`MisuseError` (``roster-member``) unless the plan's roster pins this identity
        under this name."""
        roster = plan.roster
        keys = {SERVER_NAME: roster.server, **dict(roster.sites), **dict(roster.holders)}
        if keys.get(self.name) != self.identity.public:
            raise MisuseError(
                f"the roster has no {self.name!r} with this identity's key", rule="roster-member"
            )

    @property
    def holder(self) -> bool:
        """Whether this party holds a share of a key and no data."""
        return _there(self.path / "share.key")

    def ledger(self) -> Ledger | None:
        """The privacy budget of the site's data, in this folder's journal."""
        path = self.path / "budget.toml"
        if not _there(path):
            return None
        if not path.is_file():
            raise _wrong(f"{path} cannot be read")
        return Budget.load(path).ledger(self.journal, self.name, "")

    # What the party remembers.

    @cached_property
    def journal(self) -> FileJournal:
        """One journal for all sessions. :class:`MisuseError` (``party-folder``) where it is gone
        although sessions were held: a new one would forget what was sent."""
        path = self.path / "journal"
        if not path.is_file() and any(self.sessions.glob("*.sealed")):
            raise _wrong(f"{path} is missing; without its journal the party does not go on")
        made = FileJournal(path)
        # It makes its file when it is first asked, and it has to be there before any state is.
        made.read(bytes(DIGEST_SIZE))
        return made

    @property
    def sessions(self) -> Path:
        """The folder of sealed states."""
        return self.path / "sessions"

    def write_state(self, name: str, data: bytes) -> None:
        """Keep a sealed state under a name, durably, wholly or not at all."""
        if not self.sessions.is_dir():
            self.sessions.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self.path)
        write_durably(self.sessions / f"{name}.sealed", data)

    def forget_state(self, name: str) -> None:
        """Erase the state under a name."""
        (self.sessions / f"{name}.sealed").unlink(missing_ok=True)

    def forget_others(self, name: str) -> list[str]:
        """Erase the oldest states beyond the :data:`MOST_SESSIONS` newest, but never that of
        ``name``: they are of runs that never ended, and their seeds would lie on the disk for good.
        Returns the names.
        """
        others = [path for path in self.sessions.glob("*.sealed") if path.stem != name]
        others.sort(key=lambda path: path.stat().st_mtime_ns)
        gone = others[: 1 - MOST_SESSIONS]
        for old in gone:
            old.unlink(missing_ok=True)
        return [old.stem for old in gone]

    def read_state(self, name: str) -> bytes | None:
        """The sealed state under a name."""
        with contextlib.suppress(FileNotFoundError):
            return (self.sessions / f"{name}.sealed").read_bytes()
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within, no other process uses this party."""
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)  # the lock goes with it


def write_folders(
    parent: str | os.PathLike[str],
    plan: Plan,
    identities: Mapping[str, Identity],
    *,
    shares: Mapping[str, KeyShare | PrivateKey] | None = None,
    plans: Mapping[str, Plan] | None = None,
    policy: str | None = None,
    propose: bool = False,
) -> dict[str, Path]:
    """Make a folder per party below ``parent``, for tests and simulations; returns them by name.

    In a deployment each party makes its own, and nobody else ever has its ``identity.key``.
    plans: of further tasks, by task. policy: TOML text for every site. propose: sites pin the
    roster only and take the server's plan. :class:`MisuseError` (``party-folder``) where one of
    them is there already: nothing is written then.
    """
    made = {}
    root = Path(parent)
    there = [name for name in identities if os.path.lexists(root / name)]
    if there:
        raise _wrong(f"{root / there[0]} exists; the folder of a party is made once")
    texts = {task: dump_plan(each) for task, each in {TRAIN: plan, **(plans or {})}.items()}
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, identity in identities.items():
        folder = root / name
        folder.mkdir(mode=0o700)
        identity.save(folder / "identity.key")
        if propose and name != SERVER_NAME:
            (folder / "roster.toml").write_text(dump_roster(plan.roster), encoding="utf-8")
        else:
            for task, text in texts.items():
                file = "plan.toml" if task == TRAIN else f"plan-{task}.toml"
                (folder / file).write_text(text, encoding="utf-8")
        if policy is not None and name != SERVER_NAME:
            (folder / "policy.toml").write_text(policy, encoding="utf-8")
        if shares is not None and name in shares:
            write_durably(folder / "share.key", shares[name].to_bytes())
        made[name] = folder
    return made


def _there(path: Path) -> bool:
    """Whether there is anything of this name: a link to a disk that is not mounted is no leave to
    go without a limit."""
    return os.path.lexists(path)


def _load(path: Path, read: Callable[[str], T]) -> T:
    try:
        return read(path.read_text(encoding="utf-8"))
    except PlanError as error:
        text = str(error).removesuffix(f" [{error.rule}]")
        raise MisuseError(f"{path}: {text}", rule=error.rule) from error
    except (OSError, ValueError, DecodeError):
        raise _wrong(f"{path} cannot be read") from None


def _wrong(text: str) -> MisuseError:
    return MisuseError(text, rule="party-folder")


__all__ = ["TRAIN", "PartyFolder", "write_folders"]
