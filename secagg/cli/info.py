"""``info``: what runs here, for bug reports and for choosing a machine."""

from __future__ import annotations

import os
import platform
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
    "gmpy2",
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
    shown.add_row("big integers", found["bigints"])
    shown.add_row("big integers here", ", ".join(found["bigint_variants"]))
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
    from secagg.bench import machine
    from secagg_native import features

    flags = machine.cpu_flags()
    forced = bool(os.environ.get(features.AES_ENVIRONMENT))
    forced_bigints = bool(os.environ.get(features.BIGINT_ENVIRONMENT))
    try:
        kernel, bigints = secagg_native.variant(), features.bigint_variant()
    except ValueError as error:
        raise MisuseError(str(error), rule="kernel") from None
    return {
        "version": secagg.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": machine.cores(),
        "suite": secagg.SUITE,
        "kernel": f"{kernel} (forced by {features.AES_ENVIRONMENT})" if forced else kernel,
        "kernels": list(features.aes_variants()),
        "bigints": bigints + (f" (forced by {features.BIGINT_ENVIRONMENT})" * forced_bigints),
        "bigint_variants": list(features.bigint_variants()),
        "libraries": {
            "OpenSSL": f"{backend.openssl_version_text()}, from cryptography "
            f"{machine.installed('cryptography')}",
            "libsodium": f"from PyNaCl {machine.installed('pynacl')}",
        },
        "cpu_features": {name: None if flags is None else name in flags for name in _FEATURES},
        "packages": {name: machine.installed(name) for name in _PACKAGES},
    }


__all__ = ["collect", "info"]
