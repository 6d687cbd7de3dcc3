"""What this host can run: asked of LLVM before anything is compiled, because LLVM ends the whole
process on an instruction that its target lacks."""

import os
from collections.abc import Callable
from functools import cache

OPENSSL = "openssl"
AES_ENVIRONMENT = "SECAGG_AES"
"""Environment variable that forces one variant of the mask kernel."""

# Best first, with what each needs. The 512-bit form also shuffles bytes, hence avx512bw.
_AES_NEEDS = {
    "vaes512": {"aes", "vaes", "avx512f", "avx512bw"},
    "vaes256": {"aes", "vaes", "avx2"},
    "aesni": {"aes", "ssse3"},
}
AES_VARIANTS = (*_AES_NEEDS, OPENSSL)

IFMA, GMP, PYTHON = "ifma", "gmp", "python"
BIGINT_ENVIRONMENT = "SECAGG_BIGINT"
"""Environment variable that forces one variant of the big-integer arithmetic."""
BIGINT_VARIANTS = (IFMA, GMP, PYTHON)
_IFMA_NEEDS = {"avx512f", "avx512ifma"}


@cache
def aes_variants() -> tuple[str, ...]:
    """Name the variants of the mask kernel that this host can run, best first.

    "openssl" is always among them.
    """
    from .kernels._host import target_features

    here = target_features()
    return (*(name for name, needs in _AES_NEEDS.items() if needs <= here), OPENSSL)


@cache
def aes_variant() -> str:
    """Name the variant of the mask kernel that this process uses.

    It is the best one, or the one that the environment variable SECAGG_AES names. Raises
    ValueError where that is none of AES_VARIANTS or cannot run here.
    """
    forced = os.environ.get(AES_ENVIRONMENT)
    if not forced:
        return aes_variants()[0]
    return check_aes_variant(forced, AES_ENVIRONMENT)


@cache
def bigint_variants() -> tuple[str, ...]:
    """Name the variants of the big-integer arithmetic that this host can run, best first.

    "gmp" needs gmpy2 to be installed; "python" is always among them.
    """
    from . import gmp
    from .kernels._host import target_features

    found = [PYTHON]
    if gmp.available():
        found.insert(0, GMP)
    if target_features() >= _IFMA_NEEDS:
        found.insert(0, IFMA)
    return tuple(found)


@cache
def bigint_variant() -> str:
    """Name the variant of the big-integer arithmetic that this process uses.

    It is the best one, or the one that the environment variable SECAGG_BIGINT names. Raises
    ValueError where that is none of BIGINT_VARIANTS or cannot run here.
    """
    forced = os.environ.get(BIGINT_ENVIRONMENT)
    if not forced:
        return bigint_variants()[0]
    return check_bigint_variant(forced, BIGINT_ENVIRONMENT)


def check_environment() -> None:
    """Raise ValueError where the environment asks for what cannot run; load nothing otherwise.

    That is a variant in SECAGG_AES or SECAGG_BIGINT that this host lacks, or NUMBA_DISABLE_JIT.
    """
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ValueError("NUMBA_DISABLE_JIT is set, and kernels need numba's compiler")
    if os.environ.get(AES_ENVIRONMENT):
        aes_variant()
    if os.environ.get(BIGINT_ENVIRONMENT):
        bigint_variant()


def check_aes_variant(name: str, where: str) -> str:
    """Return `name`, or raise ValueError (naming `where` it was given) if it cannot run here."""
    return _check_variant(name, where, AES_VARIANTS, aes_variants)


def check_bigint_variant(name: str, where: str) -> str:
    """Return `name`, or raise ValueError (naming `where` it was given) if it cannot run here."""
    return _check_variant(name, where, BIGINT_VARIANTS, bigint_variants)


def _check_variant(
    name: str, where: str, known: tuple[str, ...], here: Callable[[], tuple[str, ...]]
) -> str:
    if name not in known:
        raise ValueError(f"{where} must be one of {', '.join(known)}")
    if name not in here():
        raise ValueError(
            f"{where} names {name}, which this host cannot run; it can run {', '.join(here())}"
        )
    return name
