"""Input checks shared by the wrappers: each raises ValueError and never quotes the data."""

import operator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Lanes: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""An array of ring lanes: uint16, uint32 or uint64."""

LANE_DTYPES = (np.dtype(np.uint16), np.dtype(np.uint32), np.dtype(np.uint64))


def check_array(
    name: str,
    value: object,
    dtypes: tuple[np.dtype[Any], ...],
    ndim: int,
    *,
    writeable: bool = False,
) -> None:
    """Refuse anything but an aligned, C-contiguous array of one of `dtypes` (native byte order).

    Raises ValueError naming the argument and the rule that was broken.
    """
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} must be a numpy array of {_names(dtypes)}")
    if value.dtype not in dtypes:
        raise ValueError(f"{name} must have dtype {_names(dtypes)}, not {value.dtype}")
    if value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), not {value.ndim}")
    if not (value.flags.c_contiguous and value.flags.aligned):
        raise ValueError(f"{name} must be C-contiguous and aligned")
    if writeable and not value.flags.writeable:
        raise ValueError(f"{name} must be writable")


def _names(dtypes: tuple[np.dtype[Any], ...]) -> str:
    return " or ".join(dtype.name for dtype in dtypes)


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """Return `value` as a Python integer, or raise ValueError unless low <= value <= high."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} must be an integer") from None
    if not low <= number <= high:
        raise ValueError(f"{name} must be between {low} and {high}")
    return number


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view, so that a kernel is compiled for that kind of array only."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view
