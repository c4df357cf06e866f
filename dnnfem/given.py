"""What users hand over, as numbers and arrays: a clear error for everything that is none."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np


def real_array(name: str, value: Any, axes: int | None = None) -> np.ndarray[Any, np.dtype[Any]]:
    """Return integers or floating-point numbers as an array of NumPy; a view where that is possible.

    Tensors that require a gradient are detached.

    Raises
    ------
    ValueError
        If it is ragged, is masked in places, has something else than real numbers, objects for instance, or has another
        number of `axes` than that.
    """
    if np.ma.is_masked(value):
        raise ValueError(f"{name}: got masked entries, expected real numbers everywhere")
    detach = getattr(value, "detach", None)
    try:
        raw = np.asarray(detach() if callable(detach) else value)
    except ValueError as error:
        raise ValueError(f"{name}: got rows of different lengths, expected an array") from error
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name}: got {type(value).__name__}, expected an array of real numbers ({error})") from error
    if raw.dtype.kind not in "biuf":
        raise ValueError(f"{name}: got dtype {raw.dtype}, expected real numbers")
    if axes not in (None, raw.ndim):
        raise ValueError(f"{name}: got shape {raw.shape}, expected {axes} ax{'i' if axes == 1 else 'e'}s")
    return raw


def real_number(name: str, value: Any, expected: str) -> float:
    """Return one real number, which may be NaN or infinite.

    Raises
    ------
    ValueError
        If it is none: got this, expected that.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise ValueError(f"{name}: got {value!r}, expected {expected}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: got an integer beyond 1.8e308, expected {expected}") from None


def members(name: str, value: Any, expected: str) -> list[Any]:
    """Return the members of an iterable.

    Raises
    ------
    ValueError
        If it is none, or a string.
    """
    try:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError
        return list(value)
    except TypeError:
        raise ValueError(f"{name}: got {value!r}, expected {expected}") from None
