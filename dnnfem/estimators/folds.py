"""Division of samples into folds that know nothing of each other."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from dnnfem.functionals import Integral
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, Index
from dnnfem.spaces import Purpose, generator
from dnnfem.spaces.layout import NetworkSpace


class Problem(Protocol):
    """What has samples and can be discretized on some of them, such as `dnnfem.Regression`."""

    @property
    def quadrature(self) -> Quadrature:
        """The samples."""
        ...

    def on(self, space: NetworkSpace, quadrature: Quadrature | None = None) -> Integral:
        """Discretize."""
        ...


@runtime_checkable
class Classified(Protocol):
    """A problem whose data are numbers of classes, such as `dnnfem.Classification`."""

    @property
    def classes(self) -> Array:
        """The labels."""
        ...


def copies(points: Array) -> tuple[Index, Index]:
    """Return the first sample of every group of equal points, and the number of the group of every sample."""
    # Zero has two signs.  Rows as bytes are sorted much faster than rows of numbers.
    rows = np.ascontiguousarray(points + 0.0)
    _, first, group = np.unique(
        rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel(),
        return_index=True,
        return_inverse=True,
    )
    return first.astype(np.int64), group.astype(np.int64)


def on_copies(points: Array) -> str:
    """Return a sentence that says how many points occur more than once, empty if none does."""
    sizes = np.bincount(copies(points)[1])
    repeated = sizes[sizes > 1]
    if not repeated.size:
        return ""
    return f"{repeated.sum()} of {len(points)} samples are copies of {repeated.size} points"


def division(problem: Problem, folds: int, seed: int) -> Index:
    """Return the number of the fold of every sample.

    Copies of a point come into one fold: what is held out must not have been seen.  The numbers of points in the folds
    differ by one at most; so do, for classification, those of each class, which is that of the first copy of a point.

    Raises
    ------
    ValueError
        If there are fewer different points than folds.
    """
    samples = problem.quadrature
    first, group = copies(samples.points)
    if folds > len(first):
        raise ValueError(
            f"folds: got {folds}, expected at most {len(first)} as there are {len(first)} different points"
        )
    strata = samples.data[first, 0] if isinstance(problem, Classified) else np.zeros(len(first))
    chance = generator(seed, len(samples), Purpose.FOLDS).permutation(len(samples))[first]
    # Dealt out like cards, class after class, the largest groups of copies first.
    order = np.lexsort((chance, -np.bincount(group), strata))
    place = np.empty(len(first), dtype=np.int64)
    place[order] = np.arange(len(first)) % folds
    return place[group]
