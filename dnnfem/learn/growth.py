"""What the loops of all estimators share: networks that know how they grew, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.estimators import cross_validation
from dnnfem.estimators.folds import Copies, Problem
from dnnfem.estimators.race import Network
from dnnfem.estimators.validation import Validation
from dnnfem.functionals import Sum, Tikhonov
from dnnfem.norms import weight_decay
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, State
from dnnfem.spaces import FeedforwardSpace, Hierarchy

FOLDS = 3
"""Parts that are held out in turn."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A network with the weight of its penalty, what the solver goes on with, and the spaces it has grown through."""

    hierarchy: Hierarchy
    x: Array
    alpha: float
    state: State | None = None

    @property
    def space(self) -> FeedforwardSpace:
        """The present one."""
        finest = self.hierarchy.finest
        assert isinstance(finest, FeedforwardSpace)
        return finest


def functional(problem: Problem, quadrature: Quadrature, fit: Fit) -> Sum:
    """Return the misfit at some samples, and the penalty."""
    return Sum(problem.on(fit.space, quadrature), Tikhonov(fit.space, weight_decay, fit.alpha))


Path = Callable[[Quadrature, Hashable], Iterator[Fit]]
"""A loop that yields the network of every level, grown with no other samples than those of the quadrature."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A network that was grown, and what is known about it.

    Attributes
    ----------
    fit : Fit
        Solved with all samples.
    folds : tuple of Fit
        Networks of the same level; each has not seen the samples ``validation.held`` of the same number.
    validation : Validation
    """

    fit: Fit
    folds: tuple[Fit, ...]
    validation: Validation

    def trained(self, samples: Quadrature, number: int) -> Quadrature:
        """Return the samples that the network of a fold was trained with."""
        return samples.subset(np.setdiff1d(np.arange(len(samples)), self.validation.held[number]))

    def unseen(self, problem: Problem, evaluate: Callable[[Fit, Array], Array]) -> Array:
        """Evaluate the network of each fold at the points that it has not seen; rows are in the order of `held`."""
        points = problem.quadrature.points
        pairs = zip(self.folds, self.validation.held, strict=True)
        return np.concatenate([evaluate(fit, points[held]) for fit, held in pairs])

    @property
    def held(self) -> Array:
        """Numbers of the samples that were held out, fold after fold."""
        return np.concatenate(self.validation.held)


def chosen(
    problem: Problem,
    path: Path,
    settings: Sequence[Hashable],
    solve: Callable[[Fit], Fit],
    seed: int,
    others: Sequence[Fit] = (),
) -> Outcome:
    """Choose setting and level by cross-validation over the whole path; solve the best network on all samples.

    Parameters
    ----------
    problem : Problem
    path : callable
    settings : sequence of hashable
        See `dnnfem.cross_validation`.
    solve : callable
        Solves on, with all samples, from one of the folds' networks or of the others: that with the lowest functional.
    seed : int
        Of the division into folds.
    others : sequence of Fit
        Further starts of the last solve; they may have seen any samples, as nothing is estimated with them.

    Raises
    ------
    ValueError
        If all samples are at the same point.
    """
    found: list[Fit] = []

    def networks(quadrature: Quadrature, setting: Hashable) -> Iterator[Network]:
        for fit in path(quadrature, setting):
            found.append(fit)
            yield fit.space, fit.x

    places = len(Copies.of(problem.quadrature.points).first)
    if places < 2:
        raise ValueError(f"X: got {len(problem.quadrature)} samples at the same point, expected different points")
    validation = cross_validation(problem, networks, settings, folds=min(FOLDS, places), seed=seed)
    folds = tuple(next(fit for fit in found if fit.x is x) for _, x in validation.networks)

    starts = [*folds, *(replace(fit, alpha=folds[0].alpha) for fit in others)]
    best = min(starts, key=lambda fit: functional(problem, problem.quadrature, fit).value(fit.x))
    return Outcome(solve(best), folds, validation)
