"""``info``: what runs here, for bug reports and for choosing a machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from secagg_protocols.errors import MisuseError

from .common import stdout, table, write_json

#: CPU features that decide how fast masks are made, with what they are for.
_FEATURES: Final = {
    "aes": "AES-NI: AES rounds in hardware",
    "vaes": "VAES: AES on 256 and 512 bits at once",
    "avx2": "AVX2: vectors of 256 bits",
    "avx512f": "AVX-512: vectors of 512 bits",
    "avx512ifma": "AVX-512 IFMA: big-integer arithmetic",
    "sha_ni": "SHA extensions: SHA-256 in hardware",
}
_PACKAGES: Final = (
    "cryptography",
    "pynacl",
    "numpy",
    "numba",
    "msgspec",
    "phe",
    "typer",
    "rich",
    "lifelines",
    "scikit-learn",
    "matplotlib",
)


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show versions, cryptographic suite, chosen kernels and CPU features. Nothing secret."""
    found = collect()
    if as_json:
        write_json(found)
        return
    shown = table("secagg on this machine", "what", "value")
    shown.add_row("secagg", found["version"])
    shown.add_row("Python", found["python"])
    shown.add_row("system", found["system"])
    shown.add_row("cores", str(found["cores"]))
    shown.add_row("suite", found["suite"])
    shown.add_row("mask kernel", found["kernel"])
    shown.add_row("mask kernels here", ", ".join(found["kernels"]))
    for name, value in found["libraries"].items():
        shown.add_row(name, value)
    console = stdout()
    console.print(shown)
    cpu = table("CPU features", "feature", "here", "what for")
    for name, what in _FEATURES.items():
        here = found["cpu_features"].get(name)
        cpu.add_row(name, "unknown" if here is None else "yes" if here else "no", what)
    console.print(cpu)
    packages = table("Packages", "package", "version")
    for name, version in found["packages"].items():
        packages.add_row(name, version or "not installed")
    console.print(packages)


def collect() -> dict[str, Any]:
    """Everything that ``info`` shows, JSON-able."""
    from cryptography.hazmat.backends.openssl import backend

    import secagg
    import secagg_native
    from secagg_native import features

    forced = bool(os.environ.get(features.AES_ENVIRONMENT))
    try:
        kernel = secagg_native.variant()
    except ValueError as error:
        raise MisuseError(str(error), rule="kernel") from None
    return {
        "version": secagg.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        "suite": secagg.SUITE,
        "kernel": f"{kernel} (forced by {features.AES_ENVIRONMENT})" if forced else kernel,
        "kernels": list(features.aes_variants()),
        "libraries": {
            "OpenSSL": f"{backend.openssl_version_text()}, from cryptography "
            f"{_version('cryptography')}",
            "libsodium": f"from PyNaCl {_version('pynacl')}",
        },
        "cpu_features": _cpu_features(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_features() -> dict[str, bool | None]:
    """Feature -> present, or None where the system does not say (no /proc/cpuinfo)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return dict.fromkeys(_FEATURES)
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    flags = set(lines[0].partition(":")[2].split()) if lines else set()
    return {name: name in flags for name in _FEATURES}


__all__ = ["collect", "info"]
