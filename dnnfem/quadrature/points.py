"""Quadratures: points, weights, cells and the data that a law reads there.

What is as large as the sample is kept as it was given, neither converted nor copied, and read some rows at a time: a
process that fits a network to a large sample needs little more memory than the sample itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from dnnfem.quadrature.arrays import as_finite, cell_numbers, feed, row_blocks
from dnnfem.records import Array, Index


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


class Mesh(Protocol):
    """What a quadrature comes from, if it can be refined: cells with points.  Meshes are frozen and can be pickled."""

    @property
    def cell_count(self) -> int:
        """Number of cells."""
        ...

    def quadrature(self) -> Quadrature:
        """Return the points: weights sum to one, every cell has points, and this is their `mesh`.

        It may have data, such as normals, which every mesh that comes from this one has as well.
        """
        ...

    def refined(self, marked: Any) -> Mesh:
        """Return a mesh with the cells of these numbers refined."""
        ...

    def finer(self) -> Mesh:
        """Return a mesh whose points lie between the present ones in every cell and along every axis."""
        ...

    def attributes(self) -> dict[str, str | int | tuple[Any, ...]]:
        """Return what, with the arrays, rebuilds the mesh; ``"kind"`` names the class."""
        ...

    def arrays(self) -> dict[str, Array]:
        """Return what, with the attributes, rebuilds the mesh."""
        ...


def _regions(value: Mapping[str, Quadrature], inputs: int) -> Mapping[str, Quadrature]:
    """Return a frozen copy of named regions."""
    if not isinstance(value, Mapping):
        raise ValueError(f"regions: got {type(value).__name__}, expected names with quadratures")
    for name, region in value.items():
        # Names of groups in archives.
        if not isinstance(name, str) or name in ("", ".") or "/" in name or "\0" in name:
            raise ValueError(f"regions: got the name {name!r}, expected a word without slashes")
        if not isinstance(region, Quadrature):
            raise ValueError(f"regions: got {type(region).__name__} for {name!r}, expected a quadrature")
        if region.inputs != inputs:
            raise ValueError(f"regions: got points with {region.inputs} inputs in {name!r}, expected {inputs}")
        if region.regions:
            raise ValueError(f"regions: got regions inside of {name!r}, expected none")
    return MappingProxyType(dict(value))


def _moved(part: Quadrature, mesh: Mesh) -> Quadrature:
    """Return a quadrature on another mesh; regions and the sum of the weights stay."""
    rule = mesh.quadrature()
    if part.data.shape[1] != rule.data.shape[1]:
        raise ValueError(
            f"data: got {part.data.shape[1]} columns, expected {rule.data.shape[1]}, those that the mesh has: what was "
            "given at the points of a mesh is not known at those of a finer one"
        )
    weights = rule.weights
    # Where nobody has scaled them they stay bit for bit those of the mesh.
    if not math.isclose(part.total, 1.0, rel_tol=1e-9):
        m = len(rule)
        weights = _equal(part.total / m, m) if weights.strides == (0,) else weights * (part.total / rule.total)
    return replace(rule, weights=weights, regions=part.regions)


def _joined(whole: Quadrature, parts: list[Quadrature]) -> Quadrature:
    """Return new parts, the interior and then the regions, under the names of the old ones."""
    return replace(parts[0], regions=dict(zip(whole.regions, parts[1:], strict=True)))


def _refined(whole: Quadrature, marked: Any) -> Quadrature:
    """Return a quadrature with cells refined."""
    parts = {"the interior": whole} | {f"region {name!r}": region for name, region in whole.regions.items()}
    starts = np.cumsum([0, *(part.cell_count for part in parts.values())])
    numbers = cell_numbers(marked, int(starts[-1]))
    if len(numbers) == 0:
        return whole
    found = []
    for (name, part), start, stop in zip(parts.items(), starts[:-1], starts[1:], strict=True):
        own = numbers[(numbers >= start) & (numbers < stop)] - start
        if len(own) and part.mesh is None:
            where = f"cell {own[0] + start}, cell {own[0]} of {name}"
            raise ValueError(f"marked: got {where}, expected none there as it has no mesh")
        found.append(_moved(part, part.mesh.refined(own)) if len(own) and part.mesh is not None else part)
    return _joined(whole, found)


def _finer(whole: Quadrature) -> Quadrature:
    """Return a quadrature with all cells refined."""
    parts = (whole, *whole.regions.values())
    if all(part.mesh is None for part in parts):
        raise ValueError("mesh: got None, expected one: nothing is known between points that were given")
    return _joined(whole, [part if part.mesh is None else _moved(part, part.mesh.finer()) for part in parts])


def _digest(quadrature: Quadrature) -> str:
    """Return the SHA-256 of the content; mesh and regions are part of it where there are any."""
    digest = hashlib.sha256()
    for array in (quadrature.points, quadrature.weights, quadrature.data):
        feed(digest, array)
    digest.update(repr(((len(quadrature),), np.dtype(np.int64).str)).encode())
    for rows in row_blocks(quadrature.weights):
        stop = min(rows.stop, len(quadrature))
        cells = np.arange(rows.start, stop, dtype=np.int64) if quadrature.cells is None else quadrature.cells[rows]
        digest.update(np.ascontiguousarray(cells).data)
    if quadrature.mesh is not None:
        digest.update(repr(("mesh", sorted(quadrature.mesh.attributes().items()))).encode())
        for name, array in sorted(quadrature.mesh.arrays().items()):
            digest.update(name.encode())
            feed(digest, array)
    for name, region in quadrature.regions.items():
        digest.update(repr(("region", name, region.hash)).encode())
    return digest.hexdigest()


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
    mesh : Mesh, optional
        Where points, weights and cells come from; without one there is no refinement.
    regions : mapping of str to Quadrature, optional
        Further quadratures in the same coordinates, e.g. of the faces on which boundary conditions hold.  Everything
        else here speaks of the interior only; `hash`, `refined` and `finer` include the regions.

    Raises
    ------
    ValueError
        On NaN or infinity, shapes that do not match, no points, weights that are not positive, cells that the mesh does
        not have, or regions that have other inputs, regions of their own, or names with a slash.

    Notes
    -----
    Arrays that are contiguous and of type float64 or float32 are not copied but viewed: whoever changes them afterwards
    changes the quadrature.  A memory map stays on the disk.  Kernels compute in float64 whatever the type is.
    """

    points: Array
    weights: Array
    data: Array = field(default_factory=lambda: np.empty((0, 0)))
    cells: Index | None = None
    mesh: Mesh | None = None
    regions: Mapping[str, Quadrature] = field(default_factory=dict)

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
        if self.mesh is not None and (cells is None or cells.max() >= self.mesh.cell_count):
            got = "none" if cells is None else f"cell {int(cells.max())}"
            raise ValueError(f"cells: got {got}, expected 0 to {self.mesh.cell_count - 1}, the cells of the mesh")
        object.__setattr__(self, "regions", _regions(self.regions, points.shape[1]))
        self._set(points, weights, data, cells)

    def _set(self, points: Array, weights: Array, data: Array, cells: Index | None) -> Quadrature:
        for name, value in (("points", points), ("weights", weights), ("data", data), ("cells", cells)):
            if value is not None:
                value.setflags(write=False)
            object.__setattr__(self, name, value)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Neither read-only views, nor one number in the place of m, nor a frozen mapping come through by themselves.
        weights = self.weights[0] if self.weights.strides == (0,) else self.weights
        return Quadrature, (self.points, weights, self.data, self.cells, self.mesh, dict(self.regions))

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def samples(cls, points: Any, data: Any, weights: Any = None) -> Quadrature:
        """Return samples with weights that sum to one.

        Parameters
        ----------
        points : array, shape (m, d) or (m,)
        data : array, shape (m, k) or (m,)
            What the law reads at each point, e.g. targets.
        weights : array, shape (m,), optional
            Positive; default equal.

        Raises
        ------
        ValueError
            If shapes do not match, numbers are not finite, or a weight is not positive.
        """
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
    def cell_count(self) -> int:
        """Number of cells, without those of the regions."""
        if self.mesh is not None:
            return self.mesh.cell_count
        return len(self) if self.cells is None else int(self.cells.max()) + 1

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
        large the sample is.  There is no mesh that has only some of its points: it is dropped.  The regions stay.

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
        part = object.__new__(Quadrature)._set(points, weights, self.data.take(index, axis=0), cells)
        object.__setattr__(part, "mesh", None)
        object.__setattr__(part, "regions", self.regions)
        return part

    def refined(self, marked: Any) -> Quadrature:
        """Return the quadrature with cells refined; itself if none is marked.

        Parts without a marked cell stay as they are.  In the others the weights are those of the refined mesh,
        multiplied so that their sum is kept.

        Parameters
        ----------
        marked : int array, shape (k,)
            Numbers of cells, in any order: first the `cell_count` of the interior, then those of the regions, one
            region after another.

        Raises
        ------
        ValueError
            If there is no such cell, or it belongs to a part that has no mesh, or data that do not come from its mesh.
        """
        return _refined(self, marked)

    def finer(self) -> Quadrature:
        """Return the quadrature with all cells refined: for estimates of what happens between the points.

        Parts without a mesh stay as they are.

        Raises
        ------
        ValueError
            If no part has a mesh, or one of them has data that do not come from its mesh.
        """
        return _finer(self)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content, in hexadecimal: what identifies a data set in an archive."""
        return _digest(self)
