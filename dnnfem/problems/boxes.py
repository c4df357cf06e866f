"""Unions of boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from dnnfem.problems.domains import Box, Predicate, Times, named
from dnnfem.problems.meshing import Rectangles, mesh_of_boxes
from dnnfem.quadrature import Mesh
from dnnfem.records import Array, Index

ROUNDING = 1e-12
"""Coordinates that differ by less, relative to the domain, are the same."""


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Boxes:
    """The union of boxes that do not overlap, in any dimension: an L, a frame, a room with a niche.

    Boxes are neighbours where their sides meet, in whole or in part: what neighbours share is inside.  They need not be
    connected.

    Parameters
    ----------
    boxes : sequence of Box
        With equally many coordinates.  Coordinates that differ by rounding are taken for the same.
    parts : mapping of str to callable, optional
        Parts of the boundary: names with functions of the midpoints of faces, shape (m, d), to a mask (m,).  Faces are
        those of the boxes without what neighbours share, cut into rectangles where that is a part of them.  A face
        belongs to the first part that takes it; what is left is called ``"boundary"``.

    Raises
    ------
    ValueError
        If there are no boxes, two of them overlap, or have different numbers of coordinates; if a part has no faces, or
        its function returns no mask.

    Examples
    --------
    >>> L = fem.Boxes([fem.Box([-1, -1], [0, 0]), fem.Box([-1, 0], [0, 1]), fem.Box([0, 0], [1, 1])])
    >>> L.volume
    3.0
    """

    boxes: Sequence[Box]
    parts: Mapping[str, Rectangles]

    def __init__(self, boxes: Sequence[Box], parts: Mapping[str, Predicate] | None = None) -> None:
        found = tuple(boxes) if isinstance(boxes, Sequence) else (boxes,)
        if not found or not all(isinstance(box, Box) for box in found):
            kinds = ", ".join(sorted({type(box).__name__ for box in found})) or "none"
            raise ValueError(f"boxes: got {kinds}, expected a sequence of at least one Box")
        for k, box in enumerate(found):
            if box.dim != found[0].dim:
                raise ValueError(f"boxes: got {box.dim} coordinates in box {k}, expected {found[0].dim} as in box 0")
        object.__setattr__(self, "boxes", found)
        self._check_overlap()
        object.__setattr__(self, "parts", named(self.faces, parts))

    @cached_property
    def _grid(self) -> tuple[list[Array], Index, Index]:
        """Different coordinates along each axis, and the numbers of those of the lower and upper corners, (b, d)."""
        corners = np.array([[box.low, box.high] for box in self.boxes])
        axes, numbers = [], np.empty(corners.shape, dtype=np.int64)
        for axis in range(corners.shape[2]):
            values, place = np.unique(corners[..., axis], return_inverse=True)
            new = np.concatenate([[True], np.diff(values) > ROUNDING * (values[-1] - values[0])])
            axes.append(values[new])
            numbers[..., axis] = (np.cumsum(new) - 1)[place].reshape(numbers.shape[:2])
        thin, along = (found[:1] for found in np.nonzero(numbers[:, 0] == numbers[:, 1]))
        if len(thin):
            raise ValueError(
                f"boxes: got box {thin[0]}, {self.boxes[thin[0]]}, of which both ends of axis {along[0]} are the same, "
                "but for rounding relative to the domain, expected a thicker one"
            )
        return axes, numbers[:, 0], numbers[:, 1]

    def _check_overlap(self) -> None:
        _, low, high = self._grid
        for k in range(len(low)):
            others = np.flatnonzero(((low[k + 1 :] < high[k]) & (low[k] < high[k + 1 :])).all(axis=1))
            if len(others):
                other = k + 1 + others[0]
                raise ValueError(
                    f"boxes: got box {k}, {self.boxes[k]}, and box {other}, {self.boxes[other]}, which overlap, "
                    "expected boxes that share sides at most"
                )

    @cached_property
    def corners(self) -> tuple[Array, Array]:
        """Lower and upper corners of the boxes, shape (b, d) each."""
        axes, low, high = self._grid
        return _coordinates(axes, low), _coordinates(axes, high)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.boxes[0].dim

    @property
    def low(self) -> tuple[float, ...]:
        """Lower corner of the smallest box around the domain."""
        return tuple(self.corners[0].min(axis=0).tolist())

    @property
    def high(self) -> tuple[float, ...]:
        """Upper corner of this box."""
        return tuple(self.corners[1].max(axis=0).tolist())

    @property
    def volume(self) -> float:
        """Sum of the volumes of the boxes."""
        return float(np.sum(np.prod(self.corners[1] - self.corners[0], axis=1)))

    @cached_property
    def faces(self) -> Rectangles:
        """The boundary."""
        axes, low, high = self._grid
        corners: tuple[list[Index], list[Index]] = ([], [])
        normals = []
        for k, axis, end in product(range(len(low)), range(self.dim), (0, 1)):
            for corner, pieces in zip(corners, _free(low, high, k, axis, end), strict=True):
                corner.append(pieces)
            normal = np.zeros(self.dim)
            normal[axis] = 2.0 * end - 1.0
            normals += [normal] * len(corners[0][-1])
        lower, upper = (_coordinates(axes, np.concatenate(corner)) for corner in corners)
        return Rectangles(lower, upper, np.array(normals))

    def mesh(self, time: Times | None, seeds: Iterator[int]) -> Mesh:
        """Return Gauss points on cells of about equal sides, or Sobol' points; see `dnnfem.problems.domains.Domain`."""
        return mesh_of_boxes(*self.corners, time, seeds)

    def facet_mesh(self, names: Sequence[str], time: Times | None, seeds: Iterator[int]) -> Mesh:
        """Return the same on parts of the boundary; see `dnnfem.problems.domains.Domain`."""
        pieces = [self.parts[name] for name in names]
        fields = ("lower", "upper", "normals")
        whole = Rectangles(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in fields))
        return whole.mesh(*self.corners, time, seeds)

    def __str__(self) -> str:
        return " + ".join(map(str, self.boxes))

    def __repr__(self) -> str:
        return f"Boxes({list(self.boxes)!r})"


def _coordinates(axes: Sequence[Array], numbers: Index) -> Array:
    """Return coordinates (m, d) from their numbers along the axes."""
    return np.stack([values[numbers[:, axis]] for axis, values in enumerate(axes)], axis=1)


def _free(low: Index, high: Index, k: int, axis: int, end: int) -> tuple[Index, Index]:
    """Return what neighbours leave of a side of box `k`: rectangles, as numbers of the coordinates of their corners."""
    side = (low[k].copy(), high[k].copy())
    place = side[end][axis]
    side[0][axis] = side[1][axis] = place
    across = np.arange(low.shape[1]) != axis
    touching = ((low < high[k]) & (low[k] < high))[:, across].all(axis=1) & ((low if end else high)[:, axis] == place)
    if not touching.any():
        return side[0][None], side[1][None]
    below, above = low[touching], high[touching]
    cuts = []
    for i in range(low.shape[1]):
        inner = np.clip(np.concatenate([below[:, i], above[:, i]]), side[0][i], side[1][i])
        cuts.append(np.unique([*side[0][i : i + 1], *inner, *side[1][i : i + 1]]))
    starts = [cut[:-1] if i != axis else cut[:1] for i, cut in enumerate(cuts)]
    stops = [cut[1:] if i != axis else cut[:1] for i, cut in enumerate(cuts)]
    first, last = (np.stack(np.meshgrid(*c, indexing="ij"), axis=-1).reshape(-1, len(cuts)) for c in (starts, stops))
    covered = ((below[:, None] <= first) & (last <= above[:, None]))[..., across].all(axis=2).any(axis=0)
    return first[~covered], last[~covered]
