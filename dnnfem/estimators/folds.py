"""Division of samples into folds that know nothing of each other."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Copies:
    """Groups of samples at the same point.

    Attributes
    ----------
    first : int array, shape (groups,)
        The first sample of each group.
    group : int array, shape (m,)
        The number of the group of each sample.
    """

    first: Index
    group: Index

    @classmethod
    def of(cls, points: Array) -> Copies:
        """Compare points, shape (m, d)."""
        # Zero has two signs.  Rows are sorted as bytes, which is much faster than as numbers.
        rows = np.ascontiguousarray(points + 0.0)
        table = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
        _, first, group = np.unique(table, return_index=True, return_inverse=True)
        return cls(first.astype(np.int64), group.astype(np.int64))

    @property
    def sizes(self) -> Index:
        """Number of samples in each group."""
        return np.bincount(self.group).astype(np.int64)

    def __str__(self) -> str:
        repeated = self.sizes[self.sizes > 1]
        return f"{repeated.sum()} of {len(self.group)} samples are copies of {repeated.size} points"


def division(problem: Problem, copies: Copies, folds: int, seed: int) -> Index:
    """Return the number of the fold of every sample.

    Copies of a point come into one fold: what is held out must not have been seen.  The numbers of points in the folds
    differ by one at most; so do, for classification, those of each class, which is that of the first copy of a point.

    Raises
    ------
    ValueError
        If there are fewer different points than folds.
    """
    samples, first = problem.quadrature, copies.first
    if folds > len(first):
        raise ValueError(f"folds: got {folds}, expected at most {len(first)}, the number of different points")
    strata = samples.data[first, 0] if isinstance(problem, Classified) else np.zeros(len(first))
    chance = generator(seed, len(samples), Purpose.FOLDS).permutation(len(samples))[first]
    # Dealt out like cards, class after class, the largest groups of copies first.
    order = np.lexsort((chance, -copies.sizes, strata))
    place = np.empty(len(first), dtype=np.int64)
    place[order] = np.arange(len(first)) % folds
    return place[copies.group]
