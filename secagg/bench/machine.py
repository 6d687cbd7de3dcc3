"""Where a run is made: processor, versions, load. Neither host names nor folders are recorded."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Final

from .results import Machine

#: CPU features that decide how fast the kernels are.
_FEATURES: Final = (
    "aes", "ssse3", "avx2", "vaes", "avx512f", "avx512bw", "avx512ifma", "sha_ni", "bmi2",
)  # fmt: skip
_PACKAGES: Final = (
    "numpy", "numba", "llvmlite", "cryptography", "pynacl", "msgspec", "phe", "matplotlib",
    "flwr", "pycryptodome", "declearn", "opendp", "gmpy2", "pypaillier",
    "tno-mpc-encryption-schemes-paillier", "damgard-jurik", "lightphe", "tenseal",
)  # fmt: skip


def describe() -> Machine:
    """The machine and software of this process."""
    from cryptography.hazmat.backends.openssl import backend

    import secagg_native

    fields = _cpuinfo()
    flags = cpu_flags() or frozenset()
    return Machine(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        features=[name for name in _FEATURES if name in flags],
        cores=cores(),
        memory_gib=round(_memory() / (1 << 30), 1),
        system=f"{platform.system()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        openssl=backend.openssl_version_text(),
        kernel=secagg_native.variant(),
        packages={name: found for name in _PACKAGES if (found := installed(name)) is not None},
        load=load(),
    )


def load() -> list[float]:
    """Load averages of 1, 5 and 15 minutes, empty where the system does not say."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return []


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed(package: str) -> str | None:
    """Version of a distribution, ``None`` where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_flags() -> frozenset[str] | None:
    """What the processor says it can do, ``None`` where the system does not tell."""
    fields = _cpuinfo()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split()) or None


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor, empty where the system has no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _memory() -> int:
    """Bytes of memory, 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


__all__ = ["cores", "describe", "installed", "load", "now"]
