"""Hierarchical estimate: what would an enriched space gain?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from dnnfem.functionals import Composed, Functional, Integral, Scaled, Sum
from dnnfem.records import Array, Estimate, Index
from dnnfem.refinement.width import embed, widen
from dnnfem.solvers import gauss_newton
from dnnfem.spaces import FeedforwardSpace, Transfer
from dnnfem.spaces.feedforward import Neuron

QUANTITY = "discretization error sqrt(2 (J(x) - J*))"

GROWTH = 1.0 / 3.0
"""Neurons chosen per level, relative to the present width: levels then grow geometrically, and their number is
logarithmic in the final size."""

MIN_COUNT = 4
POLISH_STEPS = 5


class Candidates(Protocol):
    """A rule that proposes neurons, such as `dnnfem.ridge_candidates`."""

    def draw(self, reference: Callable[[Array], Array], x: Array) -> Sequence[Neuron]:
        """Return candidates in the coordinates that their layers read."""
        ...


def hierarchical(
    functional: Functional,
    x: Array,
    candidates: Candidates | Sequence[Neuron],
    *,
    count: int | None = None,
    polish: int = POLISH_STEPS,
) -> Estimate:
    """Estimate the error by what a wider space gains, and say which neurons gain it.

    1. All candidates are added with outgoing weights zero; one linearization there gives, after projection on the
       complement of the present tangent space, the decrease that each one promises.
    2. They are chosen one after another with re-projection (orthogonal matching pursuit), `count` of them.
    3. The chosen ones are polished: a few Gauss-Newton steps in their own coefficients, and in those of the output
       layer, minimize the functional itself on the enriched space.
    4. The total is ``sqrt(2 (J(x) - J_enriched))``, from this joint enriched solve; local gains are not additive and
       serve as indicators alone.

    Parameters
    ----------
    functional : Functional
        On a `FeedforwardSpace`, with a least-squares system.
    x : array, shape (dim,)
        The discrete solution.
    candidates : Candidates or sequence of Neuron
        E.g. ``ridge_candidates(space, quadrature, seed=0)``.
    count : int, optional
        How many to choose; default a third of the present width, at least `MIN_COUNT`.
    polish : int
        Gauss-Newton steps of the enriched solve.

    Returns
    -------
    Estimate
        Of ``sqrt(2 (J(x) - min J))`` over all wider networks, a lower bound by construction; cells are the polished
        neurons, for `dnnfem.widen`.

    Raises
    ------
    ValueError
        If the functional is not on a feedforward space or has no least-squares system, or there is no candidate.

    References
    ----------
    Bank and Smith, SIAM J. Numer. Anal. 30 (1993) 921-935, for the principle and the saturation assumption.
    """
    space = functional.space
    if not isinstance(space, FeedforwardSpace):
        raise ValueError(f"functional: got one on {space}, expected a FeedforwardSpace")
    pool = list(candidates.draw(_reference(functional), x)) if hasattr(candidates, "draw") else list(candidates)
    if not pool:
        raise ValueError("candidates: got none, expected at least one neuron")
    count = max(MIN_COUNT, math.ceil(GROWTH * sum(space.hidden))) if count is None else count
    chosen, gains = _select(functional, x, pool, count)
    if not chosen:
        return Estimate(QUANTITY, np.empty(0, dtype=object), np.empty(0), 0.0, parts={"candidates": float(len(pool))})
    neurons, decrease = _polished(functional, x, [pool[k] for k in chosen], polish)
    total = math.sqrt(2.0 * max(decrease, 0.0))
    cells = np.empty(len(neurons), dtype=object)
    cells[:] = neurons
    return Estimate(
        QUANTITY,
        cells,
        np.sqrt(2.0 * gains),
        total,
        parts={"candidates": float(len(pool)), "local": math.sqrt(2.0 * float(gains.sum()))},
        cost=np.array([float(len(n.weights) + 1 + space.blocks[n.layer + 1].rows) for n in neurons]),
    )


def _reference(functional: Functional) -> Callable[[Array], Array]:
    """Return the map to reference coordinates of the integral inside a functional."""
    if isinstance(functional, Integral):
        return functional.ansatz.reference
    inside: Sequence[Any] = ()
    if isinstance(functional, Sum):
        inside = functional.terms
    elif isinstance(functional, Scaled):
        inside = (functional.functional,)
    for term in inside:
        found = _reference(term)
        if found is not _identity:
            return found
    return _identity


def _identity(points: Array) -> Array:
    return points


def _enriched(functional: Functional, x: Array, neurons: Sequence[Neuron]) -> tuple[Functional, Array, list[Index]]:
    """Return the functional on the wider space, the prolonged iterate, and the outgoing coefficients per neuron."""
    space = functional.space
    assert isinstance(space, FeedforwardSpace)
    fine, transfer = widen(space, neurons)
    numbers = _numbers(space, neurons)
    outgoing = [fine.outgoing(n.layer, k) for n, k in zip(neurons, numbers, strict=True)]
    return functional.on(space=fine, transfer=transfer), transfer(x), outgoing


def _numbers(space: FeedforwardSpace, neurons: Sequence[Neuron]) -> list[int]:
    """Return the number that each new neuron gets in its layer."""
    following = list(space.hidden)
    numbers = []
    for neuron in neurons:
        numbers.append(following[neuron.layer])
        following[neuron.layer] += 1
    return numbers


def _select(functional: Functional, x: Array, pool: Sequence[Neuron], count: int) -> tuple[list[int], Array]:
    """Choose candidates one after another against the present tangent space; return their numbers and gains."""
    wide, start, outgoing = _enriched(functional, x, pool)
    groups: dict[int, list[int]] = {}
    for number, columns in enumerate(outgoing):
        groups.setdefault(len(columns), []).append(number)
    old = np.flatnonzero(np.asarray(abs(_injection(functional, wide)).sum(axis=1)).ravel())
    linearization = wide.linearize(start)
    chosen: list[int] = []
    gains: list[float] = []
    for members in groups.values():
        columns = np.concatenate([old, *(outgoing[k] for k in members)])
        system = linearization.system(columns)
        if system is None:
            raise ValueError("functional: got one without a least-squares system, expected residual laws")
        width = len(outgoing[members[0]])
        positions = len(old) + np.arange(len(members) * width).reshape(len(members), width)
        order, gain = system.select(positions, count)
        chosen += [members[k] for k in order]
        gains += gain.tolist()
    best = sorted(range(len(chosen)), key=lambda k: -gains[k])[:count]
    return [chosen[k] for k in best], np.array([gains[k] for k in best])


def _injection(functional: Functional, wide: Functional) -> sp.csr_array:
    coarse, fine = functional.space, wide.space
    assert isinstance(coarse, FeedforwardSpace) and isinstance(fine, FeedforwardSpace)
    return embed(coarse, fine, [np.arange(width) for width in coarse.hidden])


def _polished(functional: Functional, x: Array, neurons: Sequence[Neuron], steps: int) -> tuple[list[Neuron], float]:
    """Minimize the functional over the new neurons and the output layer; return them and the decrease of ``J``."""
    wide, start, outgoing = _enriched(functional, x, neurons)
    coarse, fine = functional.space, wide.space
    assert isinstance(coarse, FeedforwardSpace) and isinstance(fine, FeedforwardSpace)
    numbers = _numbers(coarse, neurons)
    incoming = [fine.incoming(n.layer, k) for n, k in zip(neurons, numbers, strict=True)]
    outer = fine.condensable
    rest = np.setdiff1d(np.concatenate([*incoming, *outgoing]), outer)
    free = np.concatenate([outer.ravel(), rest])
    matrix = sp.csr_array(sp.coo_array((np.ones(len(free)), (free, np.arange(len(free)))), shape=(fine.dim, len(free))))
    offset = start.copy()
    offset[free] = 0.0
    condensable = np.arange(outer.size).reshape(outer.shape) if wide.condensable is not None else None
    part = Composed(wide, Transfer(matrix, offset), condensable)
    result = gauss_newton(part, start[free], 0.0, max_steps=steps)
    full = part.transfer(result.x)
    polished = [
        Neuron(n.layer, full[place[:-1]], float(full[place[-1]])) for n, place in zip(neurons, incoming, strict=True)
    ]
    return polished, functional.value(x) - result.value
