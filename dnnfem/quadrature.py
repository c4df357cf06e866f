"""Quadratures: points, weights, cells and the data that a law reads there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem.records import Array, Index


def as_finite(name: str, value: Any, ndim: int) -> Array:
    """Return `value` as a contiguous float64 array with `ndim` axes (a missing last axis is added).

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
    array = np.array(raw, dtype=np.float64, order="C")
    if array.ndim == ndim - 1 and ndim > 1:
        array = array[:, None] if array.ndim == 1 else array
    if array.ndim != ndim:
        raise ValueError(f"{name}: got shape {raw.shape}, expected {ndim} axes")
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)) if array.size else np.empty(0)
    if len(bad):
        raise ValueError(
            f"{name}: got NaN or infinity in {len(bad)} rows (first: row {int(bad[0])}), expected finite numbers"
        )
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Points with weights; for regression, the samples.

    Parameters
    ----------
    points : array, shape (m, d)
        In the user's coordinates.
    weights : array, shape (m,)
        Positive.
    data : array, shape (m, k), optional
        What the law reads at each point, e.g. targets.
    cells : int array, shape (m,), optional
        Cell that each point belongs to; default: every point is a cell of its own.

    Raises
    ------
    ValueError
        On NaN or infinity, shapes that do not match, no points, or weights that are not positive.
    """

    points: Array
    weights: Array
    data: Array = field(default_factory=lambda: np.empty((0, 0)))
    cells: Index = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        points = as_finite("points", self.points, 2)
        m = len(points)
        if m == 0:
            raise ValueError("points: got none, expected at least one")
        weights = as_finite("weights", self.weights, 1)
        if weights.shape != (m,):
            raise ValueError(f"weights: got shape {weights.shape}, expected {(m,)} as there are {m} points")
        if not (weights > 0).all():
            raise ValueError(f"weights: got {float(weights.min())}, expected positive numbers")
        data = as_finite("data", self.data, 2) if np.size(self.data) else np.empty((m, 0))
        if len(data) != m:
            raise ValueError(f"data: got {len(data)} rows, expected {m} as there are {m} points")
        cells = np.array(self.cells if np.size(self.cells) else np.arange(m))
        if cells.dtype.kind not in "iu" or cells.shape != (m,):
            raise ValueError(f"cells: got shape {cells.shape} and dtype {cells.dtype}, expected integers, shape {(m,)}")
        if cells.min() < 0:
            raise ValueError(f"cells: got {int(cells.min())}, expected non-negative cell numbers")
        cells = cells.astype(np.int64)
        for name, value in (("points", points), ("weights", weights), ("data", data), ("cells", cells)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def samples(cls, points: Any, data: Any, weights: Any = None) -> Quadrature:
        """Return samples with weights that sum to one (default: equal)."""
        points = as_finite("points", points, 2)
        weights = np.ones(len(points)) if weights is None else as_finite("weights", weights, 1)
        if weights.size and not (weights > 0).all():
            raise ValueError(f"weights: got {float(weights.min())}, expected positive numbers")
        if weights.size:
            # By the largest one first: the sum of huge weights overflows, that of tiny ones has few digits.
            weights = weights / weights.max()
            weights = weights / np.sum(weights)
        return cls(points, weights, as_finite("data", data, 2))

    @property
    def inputs(self) -> int:
        """Dimension d of the points."""
        return int(self.points.shape[1])

    def subset(self, index: Any) -> Quadrature:
        """Return the points `index` (integers or a mask), weights scaled so that their sum is kept."""
        index = np.arange(len(self))[index]
        weights = self.weights[index]
        weights = weights * (float(np.sum(self.weights)) / float(np.sum(weights))) if len(index) else weights
        return Quadrature(self.points[index], weights, self.data[index], self.cells[index])

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content, in hexadecimal: what identifies a data set in an archive."""
        digest = hashlib.sha256()
        for array in (self.points, self.weights, self.data, self.cells):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
