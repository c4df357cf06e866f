"""Insertion sensitivity: what would coefficients gain that are not there yet, all others held fixed?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dnnfem.estimators.enrichment import WITHOUT_SYSTEM
from dnnfem.estimators.hierarchical import Candidates, pool_of, widened
from dnnfem.functionals import Functional, Linearization
from dnnfem.functionals.trajectories import why_not_finite
from dnnfem.records import Array, Estimate, Index
from dnnfem.refinement.depth import insert_layer
from dnnfem.refinement.time import applied
from dnnfem.refinement.width import cost
from dnnfem.spaces import FeedforwardSpace, FlowSpace
from dnnfem.spaces.feedforward import Neuron
from dnnfem.spaces.layout import check_coefficients

QUANTITY = "decrease sqrt(2 (J(x) - J)) that new coefficients promise by themselves"

DAMPING = 1e-10
"""Penalty on each new coefficient, relative to the mean of the squared columns."""

BATCH = 50
"""Columns of one system: gains of candidates do not depend on each other, and products of all columns with all cost
little more than those that are needed."""


def insertion_sensitivity(
    functional: Functional, x: Array, candidates: Candidates | Sequence[Any] | None = None
) -> Estimate:
    """Estimate what virtual neurons or virtual identity layers would gain, from one linearization.

    The new coefficients get values that keep the function.  With ``g`` the derivative in them and ``C`` the curvature,
    ``g^T C^-1 g`` is the square of the dual norm of ``g`` in the norm of the function space: what a step in
    these coefficients alone promises.  It costs one linearization, whereas `dnnfem.hierarchical` re-solves for the
    present coefficients; it does not see that candidates may repeat each other, or what is already there.

    Parameters
    ----------
    functional : Functional
        On a `FeedforwardSpace` or a `FlowSpace`, with a least-squares system: residual laws, and losses with a root of
        ``L''``.
    x : array, shape (dim,)
        Coefficients (primal).
    candidates : Candidates, sequence of Neuron, or sequence of int, optional
        Neurons, e.g. ``ridge_candidates(space, quadrature)``, or positions for `dnnfem.insert_layer`; default all
        positions.  Flows have positions only.

    Returns
    -------
    Estimate
        Cells are the neurons or the positions, for `dnnfem.widen` or `dnnfem.insert_layer`.  The total is the largest
        indicator, as gains of different cells do not add up; `cost` are the coefficients that a cell adds.

    Raises
    ------
    ValueError
        If the functional is not on a feedforward space or a flow or has no least-squares system, `x` is no finite
        vector of the space, or the candidates are none, or not all neurons or all positions.

    References
    ----------
    Kreis, Herberg, Köhne, Schiela and Herzog, SensLI, arXiv 2311.15995 (2023), who use the norm of the derivative.
    """
    space = functional.space
    if not isinstance(space, FeedforwardSpace | FlowSpace):
        raise ValueError(f"functional: got one on {space}, expected a FeedforwardSpace or a FlowSpace")
    x = check_coefficients(space, x, finite=True)
    pool = list(_positions(space)) if candidates is None else pool_of(functional, x, candidates)
    neurons = [item for item in pool if isinstance(item, Neuron)]
    if len(neurons) < len(pool):
        _check_positions(space, pool)
    if neurons:
        if isinstance(space, FlowSpace):
            raise ValueError(f"candidates: got neurons for {space}, expected positions: its width does not grow")
        wide, start, outgoing = widened(functional, x, neurons)
        gains = _gains(wide.linearize(start), outgoing)
        costs = [float(cost(space, neuron.layer)) for neuron in neurons]
    else:
        gains, costs = _layers(functional, x, pool)
    cells = np.empty(len(pool), dtype=object)
    cells[:] = pool
    indicators = np.sqrt(gains)
    return Estimate(QUANTITY, cells, indicators, float(indicators.max()), cost=np.array(costs))


def _positions(space: FeedforwardSpace | FlowSpace) -> range:
    """Return where layers can be inserted."""
    return range(space.cells + 1) if isinstance(space, FlowSpace) else range(1, len(space.hidden) + 1)


def _check_positions(space: FeedforwardSpace | FlowSpace, pool: Sequence[Any]) -> None:
    positions = _positions(space)
    for item in pool:
        integer = isinstance(item, int | np.integer) and not isinstance(item, bool)
        if not integer or item not in positions:
            kind = "positions and neurons" if isinstance(item, Neuron) else repr(item)
            raise ValueError(
                f"candidates: got {kind}, expected neurons alone, or alone positions from {positions[0]} to "
                f"{positions[-1]}"
            )


def _layers(functional: Functional, x: Array, positions: Sequence[int]) -> tuple[Array, list[float]]:
    space = functional.space
    gains, costs = [], []
    for position in positions:
        deep: FeedforwardSpace | FlowSpace
        if isinstance(space, FlowSpace):
            deep, transfer = insert_layer(space, int(position))
            new, steps = deep.at(int(position)), applied(deep) * (deep.steps - space.steps)
        else:
            assert isinstance(space, FeedforwardSpace)
            deep, transfer = insert_layer(space, int(position))
            new, steps = np.arange(deep.blocks[position].start, deep.blocks[position].stop), 0.0
        linearization = functional.on(space=deep, transfer=transfer).linearize(transfer(x))
        if not np.isfinite(linearization.value):
            raise ValueError(f"x: {why_not_finite(functional, x)}")
        gains.append(float(_gains(linearization, [new])[0]))
        costs.append(float(deep.dim - space.dim + steps))
    return np.array(gains), costs


def _gains(linearization: Linearization, groups: Sequence[Index]) -> Array:
    """Return ``g^T C^-1 g`` for each group of coefficients."""
    slopes: list[Array] = []
    matrices: list[Array] = []
    for batch in _batches(groups):
        system = linearization.system(np.concatenate(batch))
        if system is None:
            raise ValueError(WITHOUT_SYSTEM)
        # More than the blocks on the diagonal, but one product instead of one for each group.
        slope, matrix = system.derivative, system.curvature(np.eye(system.shape[1]))
        ends = np.cumsum([len(group) for group in batch])
        parts = [slice(end - len(group), end) for group, end in zip(batch, ends, strict=True)]
        slopes += [slope[part] for part in parts]
        matrices += [matrix[part, part] for part in parts]
    floor = DAMPING * float(np.mean(np.concatenate([np.diagonal(matrix) for matrix in matrices]))) or 1.0
    gains, sizes = np.empty(len(groups)), np.array([len(group) for group in groups])
    for size in np.unique(sizes):
        same = np.flatnonzero(sizes == size)
        g = np.stack([slopes[number] for number in same])
        damped = np.stack([matrices[number] for number in same]) + floor * np.eye(size)
        gains[same] = np.einsum("kn,kn->k", g, np.linalg.solve(damped, g[..., None])[..., 0])
    return gains


def _batches(groups: Sequence[Index]) -> Iterator[list[Index]]:
    """Yield groups with about `BATCH` columns together: the rows of a system are as many as the residuals."""
    batch: list[Index] = []
    for group in groups:
        batch.append(group)
        if sum(len(member) for member in batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
