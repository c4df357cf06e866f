"""Arrays and numbers as a user gives them: what is refused, and how large ones are read some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dnnfem.given import real_array
from dnnfem.records import Array, Index

BLOCK = 2**18
"""Numbers that are looked at in one go."""


def row_blocks(array: Array) -> Iterator[slice]:
    """Yield slices that cover the rows of an array, about `BLOCK` numbers at a time.

    Parameters
    ----------
    array : array, shape (m, ...)

    Yields
    ------
    slice
        Of rows.
    """
    step = max(1, BLOCK * len(array) // max(array.size, 1))
    return (slice(start, start + step) for start in range(0, len(array), step))


def as_finite(name: str, value: Any, ndim: int) -> Array:
    """Return `value` as an array with `ndim` axes (a missing last axis is added) that cannot be written to.

    float32 stays float32, everything else becomes float64.  An array that is contiguous and has one of these types is
    not copied: the result is a view, and follows when the array is changed.

    Parameters
    ----------
    name : str
        For the message of an error.
    value : array_like
        Numbers, in any form that NumPy takes.
    ndim : int
        Number of axes.

    Returns
    -------
    array, any shape with `ndim` axes
        Of float64 or float32.

    Raises
    ------
    ValueError
        If it is not numeric, has another number of axes, or contains NaN or infinity; the message names `name`.
    """
    raw = real_array(name, value)
    # For the type checker it is float64, in which everything computes.
    dtype: Any = np.float32 if raw.dtype == np.float32 else np.float64
    array: Array = np.asarray(raw, dtype=dtype, order="C").view()
    if array.ndim == ndim - 1 and ndim > 1:
        array = array[:, None] if array.ndim == 1 else array
    if array.ndim != ndim:
        raise ValueError(f"{name}: got shape {raw.shape}, expected {ndim} axes")
    _check_finite(name, array)
    array.setflags(write=False)
    return array


def _check_finite(name: str, array: Array) -> None:
    bad: list[int] = []
    for rows in row_blocks(array) if array.size else ():
        finite = np.isfinite(array[rows])
        if not finite.all():
            bad += (rows.start + np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))).tolist()
    if bad:
        raise ValueError(
            f"{name}: got NaN or infinity in {len(bad)} rows (first: row {bad[0]}), expected finite numbers"
        )


def feed(digest: Any, array: Array) -> None:
    """Let a digest read shape, type and content of an array."""
    digest.update(repr((array.shape, array.dtype.str)).encode())
    for rows in row_blocks(array):
        digest.update(np.ascontiguousarray(array[rows]).reshape(-1).view(np.uint8).data)


def cell_numbers(marked: Any, count: int) -> Index:
    """Return numbers of cells, sorted and each once.

    Raises
    ------
    ValueError
        If they are no integers in one axis, or there is no such cell; the message names it.
    """
    try:
        raw = np.asarray(marked)
    except ValueError:
        raise ValueError("marked: got rows of different lengths, expected numbers of cells in one axis") from None
    if raw.size == 0:
        return np.empty(0, dtype=np.int64)
    if raw.ndim != 1 or raw.dtype.kind not in "iu":
        raise ValueError(f"marked: got shape {raw.shape} and dtype {raw.dtype}, expected numbers of cells in one axis")
    numbers = np.unique(raw)
    for number in (int(numbers[0]), int(numbers[-1])):
        if not 0 <= number < count:
            raise ValueError(f"marked: got cell {number}, expected 0 to {count - 1}")
    return numbers.astype(np.int64)


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return an integer that is neither below one bound nor above the other.

    Raises
    ------
    ValueError
        If it is none.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        limit = "on" if high is None else f"to {high}"
        raise ValueError(f"{name}: got {value!r}, expected an integer from {low} {limit}")
    return int(value)


def corners(low: Any, high: Any) -> tuple[Array, Array]:
    """Return copies of two opposite corners of a box, shape (d,); numbers are boxes in one dimension.

    Raises
    ------
    ValueError
        On NaN or infinity, shapes that differ, no axes, or a corner above the other one.
    """
    found = []
    for name, value in (("low", low), ("high", high)):
        row = [value] if isinstance(value, int | float | np.generic) else value
        found.append(np.array(as_finite(name, row, 1), dtype=np.float64))
    if found[0].shape != found[1].shape or found[0].size == 0:
        raise ValueError(f"high: got shape {found[1].shape}, expected {found[0].shape} as low, and at least one axis")
    inverted = np.flatnonzero(found[0] > found[1])
    if len(inverted):
        axis = inverted[0]
        raise ValueError(f"low: got {found[0][axis]} along axis {axis}, expected at most high = {found[1][axis]}")
    extents("high", *found)
    return found[0], found[1]


def extents(name: str, low: Array, high: Array) -> Array:
    """Return the sides of a box.

    Raises
    ------
    ValueError
        If one overflows.
    """
    with np.errstate(over="ignore"):
        sides: Array = high - low
    if not np.isfinite(sides).all():
        raise ValueError(f"{name}: got a box from {low} to {high}, expected sides below the largest number")
    return sides
