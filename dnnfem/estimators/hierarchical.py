"""Hierarchical estimate: what would an enriched space gain?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from dnnfem.estimators.bisection import of_bisection
from dnnfem.estimators.enrichment import QUANTITY, WITHOUT_SYSTEM, Enriched, dispersion_of, joint
from dnnfem.functionals import Composed, Functional
from dnnfem.functionals.sampling import integrals_of
from dnnfem.records import Array, Estimate, Index
from dnnfem.refinement.width import cost, embed, readers, widen
from dnnfem.solvers import gauss_newton, trust_region
from dnnfem.spaces import FeedforwardSpace, FlowSpace, Transfer
from dnnfem.spaces.feedforward import Neuron

GROWTH = 0.5
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
    candidates: Candidates | Sequence[Neuron] | None = None,
    *,
    count: int | None = None,
    polish: int = POLISH_STEPS,
) -> Estimate:
    """Estimate the error by what a wider space gains, and say which neurons gain it; or what a deeper flow gains.

    1. All candidates are added with outgoing weights zero and the functional is linearized there, once.
    2. The total comes from one joint solve of this enriched system.  What re-solving the old coefficients gains is the
       algebraic part.  With the Schur complement ``S`` and the derivative ``g`` of the candidates after that, the width
       part is ``g^T S^-1 g``, less what as many coefficients would gain from noise alone: ``k sigma^2`` for ``k`` new
       degrees of freedom, with ``sigma^2`` from what the joint solve leaves per degree of freedom.  The sampling part
       is the error that this noise has caused in the present coefficients, ``sigma^2`` times their degrees of freedom.
       The squares add up.  Degrees of freedom are traces of hat matrices over the data: ranks, without penalties.
    3. For marking, candidates are chosen one after another with re-projection (orthogonal matching pursuit); these
       local gains are not additive and serve as indicators alone.
    4. The chosen ones are polished: a few steps in their own coefficients, and in those of the output layer, minimize
       the functional itself on the enriched space.

    For a `FlowSpace` the enriched space is the one with all cells of the weight mesh bisected.  The total comes from
    one joint solve there; it is divided by the part that bisection captures of what ever more cells would gain:
    ``1 - 4^-q`` with ``q = degree + 1``, or one less if a penalty is in H1.  The gain of each cell on its own, after
    re-solving for the present coefficients, is its indicator.

    For a loss law the system is the quadratic model of the loss, as in iteratively reweighted least squares, and
    ``sigma^2`` is known, see `dnnfem.functionals.Integral.dispersion`: ``1/m`` for the mean of ``m`` log-likelihoods.

    Parameters
    ----------
    functional : Functional
        On a `FeedforwardSpace` or a `FlowSpace`, with a least-squares system: residual laws, and losses with a root of
        ``L''``.
    x : array, shape (dim,)
        The discrete solution.
    candidates : Candidates or sequence of Neuron, optional
        E.g. ``ridge_candidates(space, quadrature, seed=0)``; a flow has none.
    count : int, optional
        How many neurons to choose; default half the present width, at least `MIN_COUNT`.
    polish : int
        Steps in step 4.

    Returns
    -------
    Estimate
        Of ``sqrt(2 (J(x) - J*))`` with ``J`` the integral that the samples stand for and ``J*`` the best that wider
        networks reach: for regression, the root mean square distance to the function behind the noise.  Cells are the
        polished neurons, for `dnnfem.widen`, or cells of the weight mesh, for `dnnfem.bisect`.  Parts: ``width`` or
        ``weights``, ``algebraic`` and ``sampling`` as above, ``noise``
        (root mean square of what the joint solve leaves; not for losses), ``candidates`` (their number).

    Raises
    ------
    ValueError
        If the functional is not on a feedforward space or a flow or has no least-squares system, or there is no
        candidate, or there are some for a flow.

    Notes
    -----
    The estimate sees the sample and nothing else: where a network with many coefficients interpolates few noise-free
    samples, its error between the points is larger.

    References
    ----------
    Bank and Smith, SIAM J. Numer. Anal. 30 (1993) 921-935, for the principle and the saturation assumption.

    Examples
    --------
    >>> t = np.linspace(-3.0, 3.0, 100)
    >>> problem = fem.Regression(t, np.sin(2.0 * t))
    >>> J = problem.on(fem.FeedforwardSpace(inputs=1, hidden=(2,), outputs=1))
    >>> x = fem.gauss_newton(J, J.space.initial(seed=0), fem.relative(1e-2)).x
    >>> estimate = fem.hierarchical(J, x, fem.ridge_candidates(J.space, problem.quadrature))
    >>> space, P = fem.widen(J.space, estimate.cells[fem.dorfler(estimate.indicators)])
    >>> space.hidden > J.space.hidden, estimate.total > 0.1
    (True, True)
    """
    space = functional.space
    if isinstance(space, FlowSpace):
        if candidates is not None or count is not None:
            raise ValueError(f"candidates: got some for {space}, expected none: all of its cells are candidates")
        return of_bisection(functional, x)
    if not isinstance(space, FeedforwardSpace):
        raise ValueError(f"functional: got one on {space}, expected a FeedforwardSpace or a FlowSpace")
    pool = pool_of(functional, x, () if candidates is None else candidates)
    if count is None:
        count = max(MIN_COUNT, math.ceil(GROWTH * sum(space.hidden)))
    enriched = _linearized(functional, x, pool)
    total, parts = joint(enriched, dispersion_of(functional), "width")
    order, gains = _select(enriched, count)
    neurons = _polished(functional, x, [pool[k] for k in order], polish) if order else []
    cells = np.empty(len(neurons), dtype=object)
    cells[:] = neurons
    costs = np.array([float(cost(space, neuron.layer)) for neuron in neurons])
    parts = {"candidates": float(len(pool)), **parts}
    return Estimate(QUANTITY, cells, np.sqrt(2.0 * gains), total, parts=parts, cost=costs)


def pool_of(functional: Functional, x: Array, candidates: Candidates | Sequence[Any]) -> list[Any]:
    """Return candidates as a list, drawn if they are a rule.

    Raises
    ------
    ValueError
        If there are none, or they were made for another space.
    """
    made_for = getattr(candidates, "space", functional.space)
    if made_for != functional.space:
        raise ValueError(f"candidates: got a rule for {made_for}, expected one for {functional.space}, the space of J")
    pool = list(candidates.draw(_reference(functional), x)) if hasattr(candidates, "draw") else list(candidates)
    if not pool:
        raise ValueError("candidates: got none, expected at least one")
    return pool


def _linearized(functional: Functional, x: Array, pool: Sequence[Neuron]) -> Enriched:
    """Add all candidates and linearize there."""
    wide, start, outgoing = widened(functional, x, pool)
    coarse, fine = functional.space, wide.space
    assert isinstance(coarse, FeedforwardSpace) and isinstance(fine, FeedforwardSpace)
    old = embed(coarse, fine, [np.arange(width) for width in coarse.hidden]).tocoo().row
    system = wide.linearize(start).system(np.concatenate([old, *outgoing]))
    if system is None:
        raise ValueError(WITHOUT_SYSTEM)
    ends = len(old) + np.cumsum([0, *(len(columns) for columns in outgoing)])
    return Enriched(system, [np.arange(a, b) for a, b in pairwise(ends)])


def _select(enriched: Enriched, count: int) -> tuple[list[int], Array]:
    """Choose candidates one after another against the present features; return their numbers and gains."""
    numbers: dict[int, list[int]] = {}
    for number, columns in enumerate(enriched.groups):
        numbers.setdefault(len(columns), []).append(number)
    old = np.arange(enriched.groups[0][0])
    chosen: list[int] = []
    gains: list[float] = []
    for size, members in numbers.items():
        # Neurons of one layer have equally many readers; layers are searched one by one.
        part = enriched.system[np.concatenate([old, *(enriched.groups[k] for k in members)])]
        order, gain = part.candidates(len(old) + np.arange(len(members) * size).reshape(-1, size)).select(count)
        chosen += [members[k] for k in order]
        gains += gain.tolist()
    best = sorted(range(len(chosen)), key=lambda k: -gains[k])[:count]
    return [chosen[k] for k in best], np.array([gains[k] for k in best])


def _reference(functional: Functional) -> Callable[[Array], Array]:
    """Return the map to reference coordinates of the first integral inside a functional."""
    found = integrals_of(functional)
    return found[0][1].ansatz.reference if found else _identity


def _identity(points: Array) -> Array:
    return points


def widened(functional: Functional, x: Array, neurons: Sequence[Neuron]) -> tuple[Functional, Array, list[Index]]:
    """Return the functional on the wider space, the prolonged iterate, and the outgoing coefficients per neuron."""
    space = functional.space
    assert isinstance(space, FeedforwardSpace)
    fine, transfer = widen(space, neurons)
    numbers = _numbers(space, neurons)
    # Read by the present neurons of later layers alone, not by their candidates.
    outgoing = [readers(fine, n.layer, k, present=space) for n, k in zip(neurons, numbers, strict=True)]
    return functional.on(space=fine, transfer=transfer), transfer(x), outgoing


def _numbers(space: FeedforwardSpace, neurons: Sequence[Neuron]) -> list[int]:
    """Return the number that each new neuron gets in its layer."""
    following = list(space.hidden)
    numbers = []
    for neuron in neurons:
        numbers.append(following[neuron.layer])
        following[neuron.layer] += 1
    return numbers


def _polished(functional: Functional, x: Array, neurons: Sequence[Neuron], steps: int) -> list[Neuron]:
    """Minimize the functional over the new neurons and the output layer; return them and the decrease of ``J``."""
    wide, start, outgoing = widened(functional, x, neurons)
    coarse, fine = functional.space, wide.space
    assert isinstance(coarse, FeedforwardSpace) and isinstance(fine, FeedforwardSpace)
    numbers = _numbers(coarse, neurons)
    incoming = []
    for neuron, number in zip(neurons, numbers, strict=True):
        place = fine.incoming(neuron.layer, number)
        # A new neuron reads the present ones of the layer before: any subset of the new ones may be refined.
        incoming.append(np.append(place[: coarse.blocks[neuron.layer].columns], place[-1]))
    outer = fine.condensable
    rest = np.setdiff1d(np.concatenate([*incoming, *outgoing]), outer)
    free = np.concatenate([outer.ravel(), rest])
    matrix = sp.csr_array(sp.coo_array((np.ones(len(free)), (free, np.arange(len(free)))), shape=(fine.dim, len(free))))
    offset = start.copy()
    offset[free] = 0.0
    condensable = np.arange(outer.size).reshape(outer.shape) if wide.condensable is not None else None
    part = Composed(wide, Transfer(matrix, offset), condensable)
    if wide.condensable is None and wide.linearize(start).residual() is None:
        result = trust_region(part, start[free], 0.0, max_steps=steps, dense=False)
    else:
        result = gauss_newton(part, start[free], 0.0, max_steps=steps)
    full = part.transfer(result.x)
    sharpest = max(float(np.linalg.norm(neuron.weights)) for neuron in neurons)
    return [_capped(n.layer, full[place], sharpest) for n, place in zip(neurons, incoming, strict=True)]


def _capped(layer: int, coefficients: Array, sharpest: float) -> Neuron:
    """Return a neuron no sharper than the sharpest candidate: polished against few samples, one may become a step."""
    length = float(np.linalg.norm(coefficients[:-1]))
    capped = coefficients * min(1.0, sharpest / length) if length > 0.0 else coefficients
    return Neuron(layer, capped[:-1], float(capped[-1]))
