"""Quadratures: points, weights, cells and the data that a law reads there.

What is as large as the sample is kept as it was given, neither converted nor copied, and read some rows at a time: a
process that fits a network to a large sample needs little more memory than the sample itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem.records import Array, Index

BLOCK = 2**18
"""Numbers that are looked at in one go."""


def row_blocks(array: Array) -> Iterator[slice]:
    """Yield slices that cover the rows of an array, about `BLOCK` numbers at a time."""
    step = max(1, BLOCK * len(array) // max(array.size, 1))
    return (slice(start, start + step) for start in range(0, len(array), step))


def as_finite(name: str, value: Any, ndim: int) -> Array:
    """Return `value` as an array with `ndim` axes (a missing last axis is added) that cannot be written to.

    float32 stays float32, everything else becomes float64.  An array that is contiguous and has one of these types is
    not copied: the result is a view, and follows when the array is changed.

    Raises
    ------
    ValueError
        If it is not numeric, has another number of axes, or contains NaN or infinity; the message names `name`.
    """
    try:
        raw = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: got rows of different lengths, expected an array with {ndim} axes") from error
    if raw.dtype.kind not in "biuf":
        raise ValueError(f"{name}: got dtype {raw.dtype}, expected real numbers")
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


def _equal(weight: float, size: int) -> Array:
    """Return `size` times the same number in the memory of one."""
    return np.ndarray((size,), np.float64, np.array([weight]), strides=(0,))


def _weights(value: Any, size: int) -> Array:
    """Return weights of shape (size,): one number for all of them takes the memory of one."""
    raw = np.asarray(value)
    if raw.ndim == 0 or (raw.shape == (size,) and raw.strides == (0,)):
        return _equal(float(_weights(raw.reshape(-1)[:1].copy(), 1)[0]), size)
    weights = as_finite("weights", value, 1).astype(np.float64, copy=False)
    if weights.shape != (size,):
        raise ValueError(f"weights: got shape {weights.shape}, expected {(size,)} as there are {size} points")
    if not (weights > 0).all():
        raise ValueError(f"weights: got {float(weights.min())}, expected positive numbers")
    return weights


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Points with weights; for regression, the samples.

    Parameters
    ----------
    points : array, shape (m, d)
        In the user's coordinates.  float32 stays float32, everything else becomes float64.
    weights : float, or array, shape (m,)
        Positive; a number is the weight of each point.
    data : array, shape (m, k), optional
        What the law reads at each point, e.g. targets; types as for the points.
    cells : int array, shape (m,), optional
        Cell that each point belongs to; None: every point is a cell of its own.

    Raises
    ------
    ValueError
        On NaN or infinity, shapes that do not match, no points, or weights that are not positive.

    Notes
    -----
    Arrays that are contiguous and of type float64 or float32 are not copied but viewed: whoever changes them afterwards
    changes the quadrature.  A memory map stays on the disk.  Kernels compute in float64 whatever the type is.
    """

    points: Array
    weights: Array
    data: Array = field(default_factory=lambda: np.empty((0, 0)))
    cells: Index | None = None

    def __post_init__(self) -> None:
        points = as_finite("points", self.points, 2)
        m = len(points)
        if m == 0:
            raise ValueError("points: got none, expected at least one")
        weights = _weights(self.weights, m)
        data = as_finite("data", self.data, 2) if np.size(self.data) else np.empty((m, 0))
        if len(data) != m:
            raise ValueError(f"data: got {len(data)} rows, expected {m} as there are {m} points")
        cells = self.cells
        if cells is not None:
            cells = np.array(cells)
            if cells.dtype.kind not in "iu" or cells.shape != (m,):
                raise ValueError(
                    f"cells: got shape {cells.shape} and dtype {cells.dtype}, expected integers, shape {(m,)}"
                )
            if cells.min() < 0:
                raise ValueError(f"cells: got {int(cells.min())}, expected non-negative cell numbers")
            cells = cells.astype(np.int64)
        self._set(points, weights, data, cells)

    def _set(self, points: Array, weights: Array, data: Array, cells: Index | None) -> Quadrature:
        for name, value in (("points", points), ("weights", weights), ("data", data), ("cells", cells)):
            if value is not None:
                value.setflags(write=False)
            object.__setattr__(self, name, value)
        return self

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def samples(cls, points: Any, data: Any, weights: Any = None) -> Quadrature:
        """Return samples with weights that sum to one (default: equal)."""
        if weights is None:
            points = as_finite("points", points, 2)
            return cls(points, np.asarray(1.0 / max(len(points), 1)), data)
        weights = as_finite("weights", weights, 1).astype(np.float64, copy=False)
        if weights.size and not (weights > 0).all():
            raise ValueError(f"weights: got {float(weights.min())}, expected positive numbers")
        if weights.size:
            # By the largest one first: the sum of huge weights overflows, that of tiny ones has few digits.
            weights = weights / weights.max()
            weights = weights / np.sum(weights)
        return cls(points, weights, data)

    @property
    def inputs(self) -> int:
        """Dimension d of the points."""
        return int(self.points.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory that points and data take."""
        return int(self.points.nbytes + self.data.nbytes)

    @cached_property
    def total(self) -> float:
        """The sum of the weights."""
        return float(np.sum(self.weights))

    def subset(self, index: Any) -> Quadrature:
        """Return the points `index` (integers, a slice or a mask), weights scaled so that their sum is kept.

        The points are copied and keep their type and their cells.  For integers the cost is that of the subset, however
        large the sample is.

        Raises
        ------
        ValueError
            If no point is left.
        IndexError
            If there is no such point.
        """
        m = len(self)
        index = np.arange(m)[index] if isinstance(index, slice) else np.asarray(index)
        if index.dtype.kind not in "iu":
            index = np.arange(m)[index] if index.size else index
        index = index.astype(np.int64, copy=False)
        if index.ndim != 1:
            raise ValueError(f"index: got shape {index.shape}, expected one axis")
        if len(index) == 0:
            raise ValueError("points: got none, expected at least one")
        if self.weights.strides == (0,):
            weights = _equal(self.total / len(index), len(index))
        else:
            weights = self.weights[index]
            weights = weights * (self.total / float(np.sum(weights)))
        points = self.points.take(index, axis=0)
        cells = index % m if self.cells is None else self.cells[index]
        # What was checked once is not checked again.
        return object.__new__(Quadrature)._set(points, weights, self.data.take(index, axis=0), cells)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content, in hexadecimal: what identifies a data set in an archive."""
        digest = hashlib.sha256()
        for array in (self.points, self.weights, self.data):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            for rows in row_blocks(array):
                digest.update(np.ascontiguousarray(array[rows]).reshape(-1).view(np.uint8).data)
        digest.update(repr(((len(self),), np.dtype(np.int64).str)).encode())
        for rows in row_blocks(self.weights):
            stop = min(rows.stop, len(self))
            cells = np.arange(rows.start, stop, dtype=np.int64) if self.cells is None else self.cells[rows]
            digest.update(np.ascontiguousarray(cells).data)
        return digest.hexdigest()
