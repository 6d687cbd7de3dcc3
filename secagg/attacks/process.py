"""The process of an attack: transcripts and keys come in, evidence goes out.

Run as ``python -m secagg.attacks.process ID``. It is started for one cell of the matrix, in an
empty folder and with no environment but the number of threads. It holds nothing but what it is
sent, and tells with each answer whether any module of a party was loaded in it.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import tempfile
import threading
from types import TracebackType
from typing import IO, Final, Self

from secagg_protocols.errors import SecAggError

from .attack import Attack, Evidence, Keys, Transcript, barred, decode, encode
from .catalogue import load_attack

_HEAD: Final = struct.Struct("<QQ")
_ANSWER: Final = struct.Struct("<Q?")


#: Cells share the cores; libraries of linear algebra that take all of them only get in the way.
ONE_THREAD: Final = {
    f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "BLIS", "VECLIB")
}


#: Seconds after which an attack that has not answered is ended.
LONGEST: Final = 900.0


class LabError(RuntimeError):
    """The laboratory itself failed: a law that does not hold, an attack that crashed."""


class Bench:
    """One attack in a process of its own, for as many transcripts as are sent to it."""

    def __init__(self, attack: type[Attack]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="secagg-attack-")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._child = subprocess.Popen(
            # Without the isolated mode the empty working folder would be on the path.
            [sys.executable, "-I", "-m", "secagg.attacks.process", attack.id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=self._folder.name,
            env=ONE_THREAD,
            close_fds=True,
        )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """What the attack makes of it. `LabError` where it crashed or knew too much."""
        first, second = encode(transcript), encode(keys)
        into, out = self._pipes()
        timer = threading.Timer(LONGEST, self._child.kill)
        timer.start()
        try:
            into.write(_HEAD.pack(len(first), len(second)) + first + second)
            into.flush()
            size, failed = _ANSWER.unpack(_exactly(out, _ANSWER.size))
            answer = _exactly(out, size)
        except (OSError, EOFError) as error:
            raise LabError(f"the attack's process ended: {self._said()}") from error
        finally:
            timer.cancel()
        if failed:
            raise LabError(answer.decode())
        return decode(Evidence, answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        into, out = self._pipes()
        try:
            # A child that has crashed reads no more; what it was told is of no use to it.
            with contextlib.suppress(OSError):
                into.close()
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        finally:
            out.close()
            self._errors.close()
            self._folder.cleanup()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._child.stdin is None or self._child.stdout is None:
            raise LabError("the attack's process has no pipes")
        return self._child.stdin, self._child.stdout

    def _said(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"


class Inside:
    """The same in this process, for tests: the bytes are encoded and decoded all the same."""

    def __init__(self, attack: type[Attack]) -> None:
        self._attack = attack()

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """See :class:`Bench`; nothing is checked of what else is in the process."""
        return answer(self._attack, encode(transcript), encode(keys))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        """Nothing is held."""


def answer(attack: Attack, transcript: bytes, keys: bytes) -> Evidence:
    """Run an attack on bytes; a transcript of which it can make nothing is no evidence."""
    try:
        found = attack.run(decode(Transcript, transcript), decode(Keys, keys))
    except SecAggError as error:
        found = Evidence(note=f"{type(error).__name__}: {error}")
    return decode(Evidence, encode(found))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def main(name: str, into: IO[bytes], out: IO[bytes]) -> None:
    """Answer until the input ends."""
    attack = load_attack(name)()
    while head := into.read(_HEAD.size):
        first, second = _HEAD.unpack(head)
        try:
            found = encode(answer(attack, _exactly(into, first), _exactly(into, second)))
            known = barred(sys.modules)
            failed = bool(known)
            if known:
                found = f"{name} has parties in its process: {', '.join(known)}".encode()
        except Exception as error:  # noqa: BLE001 - whatever went wrong is told to the parent
            failed, found = True, f"{name}: {type(error).__name__}: {error}".encode()
        out.write(_ANSWER.pack(len(found), failed) + found)
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)


__all__ = ["ONE_THREAD", "Bench", "Inside", "LabError", "answer", "main"]
