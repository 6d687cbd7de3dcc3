"""Fresh processes: one command word, arguments as JSON, the answer as JSON on the last line.

What has to start from nothing runs here: a forced kernel, peak memory, a cold start.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

from .sheet import NotHereError

#: Command -> function ``module:name`` that takes the arguments and returns the answer.
_COMMANDS: Final = {
    "case": "secagg.bench.catalogue:case_in_child",
    "cold": "secagg.bench.cold:mask_once",
    "memory-client": "secagg.bench.memory:client_peak",
    "memory-server": "secagg.bench.memory:server_peak",
    "flower-masks": "secagg.bench.peers:time_flower_masks",
    "paillier-cold": "secagg.bench.paillier_round:encrypt_once",
    "paillier-round": "secagg.bench.paillier_round:play",
    "paillier-shares": "secagg.bench.paillier_works:time_sharing",
    "host": "secagg.bench.hosting:serve",
}
#: A child that takes longer has hung.
_SECONDS: Final = 1800


def command(word: str, arguments: Mapping[str, Any]) -> list[str]:
    """The command line of a child."""
    return [sys.executable, "-m", "secagg.bench.child", word, json.dumps(dict(arguments))]


def call(
    word: str, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Any:
    """Run a child to its end and return its answer.

    Raises NotHereError where the child says that something is missing, RuntimeError with its last
    words where it fails.
    """
    done = subprocess.run(
        command(word, arguments),
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the process of {word} ended with {done.returncode}: {last}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    if "missing" in answer:
        raise NotHereError(answer["missing"])
    return answer["answer"]


def main(arguments: list[str]) -> None:
    """Entry point of a child."""
    word, options = arguments
    module, _, name = _COMMANDS[word].partition(":")
    try:
        answer = {"answer": getattr(importlib.import_module(module), name)(**json.loads(options))}
    except NotHereError as missing:
        answer = {"missing": str(missing)}
    sys.stdout.write(f"{json.dumps(answer)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
