"""How kernels are compiled: without the interpreter's lock, and kept on disk where possible.

A kernel is one pure body over arrays and numbers: at most six arguments, no global state, no
allocation, no fast-math. It checks nothing; the wrappers do. `tests/project/test_kernels.py`
enforces what can be read from the source.

A compiled kernel is kept in the folder that NUMBA_CACHE_DIR names, or else, in this order, beside
the `.pyc` of this file or in the user's cache folder. Reading needs no right to write, so that an
image may be filled once and run read-only. Where nothing can be written, kernels are compiled
anew in each process, with one `UncachedWarning`; a damaged file is compiled anew and replaced.

Loading a kernel is running code, so whoever can write the file or its folder runs code as this
user. The folder of the `.pyc` files has that property already: whoever can write there can change
what `import secagg` runs, and it is used as it is. Every other folder must add nobody to those: it
and the folders above it must belong to the user or to root, and be writable by no one else.
Folders made here are made with mode 700. Two exceptions keep ordinary systems working: above the
folder, the sticky bit is enough (others cannot replace what is not theirs), and a group may write
where it is root's or the user's own and nobody else is in it (as systems with umask 002 have it;
access lists are not looked at). A folder that fails is neither read nor written. A file must be a
regular one, belong to the user, root or its folder's owner, and be writable by no one else; files
are made so, whatever the umask. The checksum in each is for accidents, not for attackers.
"""

import errno
import hashlib
import inspect
import os
import secrets
import stat
import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba

Body = TypeVar("Body", bound=Callable[..., Any])

#: The last release of numba that `Store` was tried with: it takes the place of a part that numba
#: does not publish. Newer releases keep kernels in numba's own cache.
LAST_KNOWN_NUMBA = (0, 68)

_HERE = Path(__file__).parent
_DIGEST = hashlib.sha256().digest_size

_warned = False


class UncachedWarning(RuntimeWarning):
    """Kernels are compiled anew, because no folder can hold them or a file was damaged."""


def kernel(body: Body) -> Body:
    """Compile `body` at its first call, for the types of that call, releasing the lock."""
    if body.__closure__ is not None:
        raise TypeError(
            "a kernel must not close over variables: files on disk know nothing of them"
        )
    if numba.config.DISABLE_JIT:
        raise RuntimeError("kernels need numba's compiler: unset NUMBA_DISABLE_JIT")
    if numba.version_info[:2] > LAST_KNOWN_NUMBA:
        return _kept_by_numba(body)
    compiled = numba.njit(nogil=True)(body)
    module = body.__module__.rpartition(".")[2]
    compiled._cache = Store(f"{module}.{body.__qualname__}", _stamp(inspect.getfile(body)))
    return cast(Body, compiled)


def _kept_by_numba(body: Body) -> Body:
    """Compile for a release that `Store` was not tried with; a given folder must be private."""
    given = numba.config.CACHE_DIR
    try:
        if given:
            Path(given).mkdir(mode=0o700, parents=True, exist_ok=True)
            if private(Path(given)) is None:
                raise PermissionError(errno.EACCES, "others could write to it")
        return cast(Body, numba.njit(nogil=True, cache=True)(body))
    except OSError as error:
        _warn_uncached(f"{given}: {error.strerror}")
    except RuntimeError:
        _warn_uncached("no folder can be written")
    return cast(Body, numba.njit(nogil=True)(body))


def inlined(body: Body) -> Body:
    """Compile a small function that kernels call; it becomes part of its caller."""
    return cast(Body, numba.njit(nogil=True, inline="never")(body))


class Store:
    """The compiled forms of one kernel on disk, one file for each host and types of arguments.

    It stands in for numba's own cache, whose index and code files can disagree after two
    processes wrote at once, and whose damaged files end a call in an error of pickle or LLVM. A
    file holds the code, a stamp of all that it was made from, and a checksum of both and of its
    key; it is replaced as a whole.
    """

    def __init__(self, label: str, stamp: bytes) -> None:
        self._label, self._stamp = label, stamp

    @property
    def cache_path(self) -> str:
        """The folder that is tried first; numba's dispatchers report it."""
        return str(_folders()[0][0])

    def enable(self) -> None:
        """Do nothing: a store is always on."""

    def disable(self) -> None:
        """Do nothing: a store is always on."""

    def flush(self) -> None:
        """Do nothing: a stale file is replaced when it is met."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compiled form for these types, or None where it must be compiled."""
        try:
            return self._load(self._key(signature, target.codegen()), target)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - whatever is wrong with a file, compiling helps
            _warn("a compiled kernel on disk is damaged: it is compiled anew")
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Write a compiled form to the first folder that takes it, or warn."""
        if compiled.lifted or compiled.library.has_dynamic_globals:
            _warn_uncached(f"{self._label} refers to data of its process")
            return
        from numba.core.serialize import dumps

        key = self._key(signature, compiled.codegen)
        body = dumps(compiled._reduce()) + self._stamp
        reason = "no folder"
        for folder, must_be_private in _folders():
            try:
                folder.mkdir(mode=0o700 if must_be_private else 0o777, parents=True, exist_ok=True)
                place = private(folder) if must_be_private else folder
                if place is None:
                    raise PermissionError(errno.EACCES, "others could write to it")
                mode = 0o600 if must_be_private else 0o644
                _replace(place / self._file(key), body + _checksum(key, body), mode)
            except OSError as error:
                reason = f"{folder}: {error.strerror}"
            else:
                return
        _warn_uncached(reason)

    def _key(self, signature: Any, codegen: Any) -> bytes:
        """Describe the types, and the processor and its features that the code is for."""
        return repr((self._label, signature, codegen.magic_tuple())).encode()

    def _file(self, key: bytes) -> str:
        tag = f"{sys.implementation.cache_tag}{sys.abiflags}"
        return f"{self._label}.{tag}.{hashlib.sha256(key).hexdigest()[:16]}.nbc"

    def _load(self, key: bytes, target: Any) -> Any:
        for folder, must_be_private in _folders():
            try:
                place = private(folder) if must_be_private else folder
                if place is None:
                    continue
                data = _read(place / self._file(key))
            except OSError:
                continue  # it is not there, or not for us to read
            body, checksum = data[:-_DIGEST], data[-_DIGEST:]
            if checksum != _checksum(key, body):
                raise ValueError("the checksum is wrong")
            if body[-_DIGEST:] != self._stamp:
                continue  # of another release, to be replaced
            from numba.core.compiler import CompileResult
            from numba.core.serialize import loads

            _prepare(target)
            return CompileResult._rebuild(target, *loads(body[:-_DIGEST]))
        return None


def private(folder: Path) -> Path | None:
    """Return `folder` without links, if nobody but the user and root can change or swap it.

    What is returned is what was looked at, so it is the path to use. Raises OSError where the
    folder or one above it cannot be looked at.
    """
    resolved = folder.resolve(strict=True)
    for place in (resolved, *resolved.parents):
        found = place.stat()
        if found.st_uid not in (0, os.geteuid()):
            return None
        sticky = place != resolved and found.st_mode & stat.S_ISVTX
        if found.st_mode & stat.S_IWOTH and not sticky:
            return None
        if found.st_mode & stat.S_IWGRP and not sticky and not _is_own_group(found.st_gid):
            return None
    return resolved


def _is_own_group(group: int) -> bool:
    """Tell whether a group is root's or the user's own, and nobody else's by list or account."""
    import grp
    import pwd

    try:
        entry, user = grp.getgrgid(group), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    if group != 0 and (entry.gr_name, entry.gr_gid) != (user.pw_name, user.pw_gid):
        return False
    members = set(entry.gr_mem) | {who.pw_name for who in pwd.getpwall() if who.pw_gid == group}
    return members <= {user.pw_name, "root"}


def _folders() -> list[tuple[Path, bool]]:
    """Return the folders to try in order, each with whether it must be private."""
    # The name tells several installations apart that share a folder.
    name = "secagg-kernels-" + hashlib.sha256(str(_HERE).encode()).hexdigest()[:16]
    if numba.config.CACHE_DIR:
        return [(Path(numba.config.CACHE_DIR).absolute() / name, True)]
    found = []
    if sys.implementation.cache_tag is not None:
        found.append((Path(cache_from_source(__file__)).parent, False))
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return found  # there is no home
    # The standard says to ignore a relative folder.
    return [*found, (user / "secagg" / name, True)] if user.is_absolute() else found


@cache
def _stamp(source: str) -> bytes:
    """Digest what compiled code depends on but for its key: versions, this file and the kernel's.

    Hence a kernel's helpers are in its own file. It is taken when a kernel is defined, since a
    source that changes later is not what this process compiles.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in (__file__, source):
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.digest()


def _checksum(key: bytes, body: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(key).digest() + body).digest()


def _read(path: Path) -> bytes:
    """Read a file that only the user, root or the folder's owner can have written.

    Raises OSError where it is not there, or is anybody else's to write.
    """
    with os.fdopen(
        os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb"
    ) as file:
        found = os.fstat(file.fileno())
        owners = {0, os.geteuid(), path.parent.stat().st_uid}
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in owners or shared:
            raise PermissionError(errno.EACCES, "others could have written it")
        return file.read()


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Write a whole file or none, whatever other processes do meanwhile."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _prepare(target: Any) -> None:
    """Make ready what compiled code links to: numba's runtime.

    Compiling also needs numba's registries, whose import takes longer than all else here (and
    loads SciPy where it is installed); running compiled code does not.
    """
    from numba.core.runtime import rtsys

    rtsys.initialize(target)


def _warn_uncached(reason: str) -> None:
    _warn(
        f"kernels cannot be kept on disk ({reason}), so each process compiles them anew; "
        "set NUMBA_CACHE_DIR to a folder that is writable and private"
    )


def _warn(message: str) -> None:
    global _warned  # noqa: PLW0603 - one warning a process, however many kernels
    if not _warned:
        _warned = True
        warnings.warn(message, UncachedWarning, stacklevel=3)
