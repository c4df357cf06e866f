"""Enriched solutions: how far is the present one from that of a wider space, in any norm?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dnnfem.estimators.enrichment import WITHOUT_SYSTEM
from dnnfem.estimators.hierarchical import Candidates, pool_of, widened
from dnnfem.functionals import Functional
from dnnfem.functionals.sampling import integrals_of
from dnnfem.records import Array
from dnnfem.refinement.width import group
from dnnfem.spaces import FeedforwardSpace
from dnnfem.spaces.feedforward import Neuron
from dnnfem.spaces.layout import check_coefficients

SATURATION = 0.5
"""What an enriched solution may leave of the residual, if nothing else is said: in the norm of the functional, the
difference from the present solution is then at least ``sqrt(1 - 0.25)`` of its error."""

FEWEST = 100
"""Candidates of the first try; twice as many in each further one."""

ROOM = 0.5
"""Largest part of the residuals that there may be coefficients for: what more of them fit lies at the points alone."""

STEPS = 8


@dataclass(frozen=True, eq=False)
class EnrichedSolution:
    """Coefficients in a wider space, see `enriched`.

    Attributes
    ----------
    space : FeedforwardSpace
        The wider space.
    x : array, shape (space.dim,)
    start : array, shape (space.dim,)
        The present solution in the wider space.
    saturation : float
        ``sqrt(J / J_0)`` of the enriched and the present solution: the part of the residual that is left.
    """

    space: FeedforwardSpace
    x: Array
    start: Array
    saturation: float


def enriched(
    functional: Functional, x: Array, candidates: Candidates | Sequence[Neuron], *, saturation: float = SATURATION
) -> EnrichedSolution:
    """Solve in a space with many more neurons in the last hidden layer; all inner coefficients stay as they are.

    The difference between this solution and the present one estimates the error function itself, in any norm, whereas
    `dnnfem.hierarchical` says how large it is in the norm of the functional.  Saturation is not assumed but measured:
    neurons are taken in the order given, twice as many from one try to the next, until the residual has fallen enough.

    The affine output layer alone is solved for, by orthogonal factorization with truncation: a linear problem if the
    law is affine, otherwise a few Gauss-Newton steps.  In a joint linearization of *all* coefficients the inner ones
    move along directions that are nearly dependent, out of the region where the linearization holds.

    Parameters
    ----------
    functional : Functional
        On a `FeedforwardSpace`, with a least-squares system; its integrals should have several times as many points as
        the enriched space has coefficients in the output layer.
    x : array, shape (dim,)
        The present solution.
    candidates : Candidates or sequence of Neuron
        For the last hidden layer, e.g. ``ridge_candidates(space, quadrature, layers=[len(space.hidden) - 1],
        count=2000)``.
    saturation : float
        In [0, 1): the part of the residual that may be left.  With 0 all candidates are used.

    Returns
    -------
    EnrichedSolution
        Its ``saturation`` is above the bound if the candidates, or the points, do not suffice.

    Raises
    ------
    ValueError
        If the functional is not on a feedforward space, has no least-squares system, or a law without residuals, `x` is
        no finite vector of the space, there is no candidate, one is not for the last hidden layer, or `saturation` is
        not in [0, 1).

    Notes
    -----
    ``J`` of the present solution must be what its *space* leaves: noise, which no space takes away, does not saturate.

    References
    ----------
    Bank and Smith, SIAM J. Numer. Anal. 30 (1993) 921-935; Dörfler and Nochetto, Numer. Math. 91 (2002) 1-12, for
    saturation.
    """
    space = functional.space
    if not isinstance(space, FeedforwardSpace):
        raise ValueError(f"functional: got one on {space}, expected a FeedforwardSpace")
    if not 0.0 <= saturation < 1.0:
        raise ValueError(f"saturation: got {saturation!r}, expected a number in [0, 1)")
    x = check_coefficients(space, x, finite=True)
    pool = pool_of(functional, x, candidates)
    kinds = {str(integral.law.kind) for _, integral in integrals_of(functional)} - {"residual"}
    if kinds:
        # The least value of others is not zero: what is left of it says nothing.
        raise ValueError(f"functional: got a law of kind {min(kinds)!r}, expected residuals; see hierarchical")
    last = len(space.hidden) - 1
    for neuron in pool:
        if group(space, neuron.layer).stop <= last:
            raise ValueError(
                f"candidates: got a neuron in layer {neuron.layer}, expected layer {last}, which the output layer reads"
            )
    present = functional.value(x)
    count = FEWEST if saturation > 0.0 else len(pool)
    while True:
        wide, start, _ = widened(functional, x, pool[:count])
        fine = wide.space
        assert isinstance(fine, FeedforwardSpace)
        y, value, room = _solved(wide, start)
        left = math.sqrt(value / present) if present > 0.0 else 0.0
        if left <= saturation or count >= len(pool) or 2 * count * space.outputs > room:
            return EnrichedSolution(fine, y, start, left)
        count *= 2


def _solved(functional: Functional, start: Array) -> tuple[Array, float, float]:
    """Minimize over the output layer; return the coefficients, the value, and how many there should be at most.

    Steps end when the value stagnates: for an affine law after the second one, which corrects rounding errors.
    """
    space = functional.space
    assert isinstance(space, FeedforwardSpace)
    outer = space.condensable
    x, value, room = start, math.inf, 0.0
    for _ in range(STEPS):
        linearization = functional.linearize(x)
        system = linearization.system(outer.ravel())
        if system is None:
            raise ValueError(WITHOUT_SYSTEM)
        value, room = linearization.value, ROOM * system.samples
        correction, _ = system.solve(np.arange(outer.size).reshape(outer.shape))
        trial = x.copy()
        trial[outer.ravel()] += correction.ravel()
        reached = functional.value(trial)
        if not reached < value:
            break
        gained = value - reached
        x, value = trial, reached
        if gained <= 1e-3 * value:
            break
    return x, value, room
