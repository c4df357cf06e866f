"""Domains of differential equations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from dnnfem.given import real_array
from dnnfem.problems.meshing import Rectangles, mesh_of_boxes
from dnnfem.quadrature import Mesh
from dnnfem.records import Array, Index

Times = tuple[float, float]
"""Beginning and end of the time; twice the same for what is there at that time."""

Predicate = Callable[[Array], Any]
"""Which facets belong to a part of the boundary: from their midpoints (m, d) to a mask (m,)."""

BOUNDARY = "boundary"
"""Name of what is left of the boundary when all other parts are named."""


class Facets(Protocol):
    """Flat pieces of a boundary: the convex hulls of corners."""

    @property
    def corners(self) -> Array:
        """Corners of each of them, shape (m, corners, d)."""
        ...

    @property
    def normals(self) -> Array:
        """Outward unit normals, shape (m, d)."""
        ...

    @property
    def measures(self) -> Array:
        """Lengths, areas, ...; of a point it is one; shape (m,)."""
        ...

    @property
    def midpoints(self) -> Array:
        """Means of the corners, shape (m, d)."""
        ...

    def take(self, index: Index) -> Self:
        """Return some of them."""
        ...


@runtime_checkable
class Domain(Protocol):
    """What differential equations hold on: how large it is, how its boundary is called, and points that cover both."""

    @property
    def low(self) -> Sequence[float]:
        """Lower corner of the smallest box around the domain."""
        ...

    @property
    def high(self) -> Sequence[float]:
        """Upper corner of this box."""
        ...

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        ...

    @property
    def volume(self) -> float:
        """Length, area, volume, ..."""
        ...

    @property
    def parts(self) -> Mapping[str, Facets]:
        """Parts of the boundary by name."""
        ...

    def mesh(self, time: Times | None, seeds: Iterator[int]) -> Mesh:
        """Return a mesh of the domain in an interval of time, the last coordinate; seeds are for Sobol' points."""
        ...

    def facet_mesh(self, names: Sequence[str], time: Times | None, seeds: Iterator[int]) -> Mesh:
        """Return the same for parts of the boundary, with outward unit normals as data."""
        ...


@dataclass(frozen=True)
class Box:
    """A box ``low_i < x_i < high_i``, in any dimension.

    Parameters
    ----------
    low, high : sequence of float
        Opposite corners.

    Raises
    ------
    ValueError
        If they have different lengths, are not finite, or the box is empty.

    Examples
    --------
    >>> square = fem.Box([0, 0], [1, 1])
    >>> square.dim, square.volume
    (2, 1.0)
    """

    low: Sequence[float]
    high: Sequence[float]

    def __post_init__(self) -> None:
        low, high = (_corner(name, getattr(self, name)) for name in ("low", "high"))
        if len(low) != len(high):
            raise ValueError(f"high: got {len(high)} coordinates, expected {len(low)} as low has")
        for axis, (a, b) in enumerate(zip(low, high, strict=True)):
            if not a < b:
                raise ValueError(f"high: got {b} in coordinate {axis}, expected more than {a}, as the box is empty")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.low)

    @property
    def volume(self) -> float:
        """Product of the sides."""
        return prod(b - a for a, b in zip(self.low, self.high, strict=True))

    @cached_property
    def parts(self) -> Mapping[str, Rectangles]:
        """All sides as one part, ``"boundary"``, in the order of the axes and with the lower end first."""
        return {BOUNDARY: Rectangles.sides(np.array([self.low]), np.array([self.high]))}

    def mesh(self, time: Times | None, seeds: Iterator[int]) -> Mesh:
        """Return Gauss points on equal cells, or Sobol' points; see `Domain`."""
        return mesh_of_boxes(np.array([self.low]), np.array([self.high]), time, seeds)

    def facet_mesh(self, names: Sequence[str], time: Times | None, seeds: Iterator[int]) -> Mesh:
        """Return the same on all sides; see `Domain`."""
        return self.parts[BOUNDARY].mesh(np.array([self.low]), np.array([self.high]), time, seeds)

    def __str__(self) -> str:
        return " x ".join(f"[{a:g}, {b:g}]" for a, b in zip(self.low, self.high, strict=True))


def _corner(name: str, value: Any) -> tuple[float, ...]:
    try:
        array = np.atleast_1d(real_array(name, value)).astype(np.float64)
    except ValueError:
        raise ValueError(f"{name}: got {value!r}, expected one number per coordinate") from None
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {value!r}, expected one finite number per coordinate")
    return tuple(array.tolist())


F = TypeVar("F", bound=Facets)


def named(facets: F, parts: Mapping[str, Predicate] | None) -> dict[str, F]:
    """Return the parts of a boundary: a facet belongs to the first one that takes it, or else to ``"boundary"``.

    Raises
    ------
    ValueError
        If a name is no word, a predicate returns no mask, or a part has no facets.
    """
    if parts is not None and not isinstance(parts, Mapping):
        raise ValueError(f"parts: got {type(parts).__name__}, expected names with functions of the midpoints of facets")
    midpoints, found = facets.midpoints, {}
    free = np.ones(len(midpoints), dtype=bool)
    for name, predicate in (parts or {}).items():
        # Names of groups in archives; the comma is between them.
        if not isinstance(name, str) or name in ("", BOUNDARY) or set(name) & set("/\0,"):
            raise ValueError(f"parts: got the name {name!r}, expected a word, other than {BOUNDARY!r}, without slashes")
        if not callable(predicate):
            raise ValueError(f"parts: got {type(predicate).__name__} for {name!r}, expected a function of midpoints")
        mask = np.asarray(predicate(midpoints.copy()))
        if mask.shape != free.shape or mask.dtype != np.bool_:
            raise ValueError(
                f"parts: got shape {mask.shape} of {mask.dtype} from {name!r}, expected a mask of shape {free.shape}, "
                f"true or false for each of the midpoints of shape {midpoints.shape}"
            )
        if not (mask & free).any():
            taken = "all of its facets belong to parts before it" if mask.any() else "no facet has its midpoint there"
            raise ValueError(f"parts: got {name!r} without facets, expected some: {taken}")
        found[name] = facets.take(np.flatnonzero(mask & free))
        free &= ~mask
    return found | ({BOUNDARY: facets.take(np.flatnonzero(free))} if free.any() else {})
