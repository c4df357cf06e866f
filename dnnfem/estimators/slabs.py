"""Time slabs: what would networks of their own on parts of the time interval gain?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from dnnfem.estimators.enrichment import QUANTITY, WITHOUT_SYSTEM, Enriched, dispersion_of, joint
from dnnfem.functionals import Functional
from dnnfem.functionals.integral import Integral
from dnnfem.functionals.sampling import terms_of
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, Estimate
from dnnfem.spaces.layout import check_coefficients


def slabs(functional: Functional, x: Array, times: Sequence[float]) -> Estimate:
    """Estimate what is gained by cutting the time interval: every slab then has a network with coefficients of its own.

    The functional is linearized once.  In the enriched system the points of a slab see the present coefficients and a
    change of their own, ``A_k (d + d_k)``; as in `dnnfem.hierarchical` the total comes from one joint solve, and what
    as many coefficients would gain from noise is taken off.  That slabs are solved one after another, and that each
    begins with what the one before ends with, plays no role at first order: initial values hold in any case.

    Parameters
    ----------
    functional : Functional
        Of a problem with time, the last coordinate of its points: integrals with a least-squares system; penalties
        count for the common coefficients alone.
    x : array, shape (dim,)
        The discrete solution.
    times : sequence of float
        Where to cut, in the user's units, increasing; with points before, between and after them.

    Returns
    -------
    Estimate
        Of the same quantity as `dnnfem.hierarchical`, so that `dnnfem.decide` compares both.  Cells are the `times`,
        for `dnnfem.next_slab`; each costs ``dim`` coefficients, and its indicator is what they gain alone in the slab
        that begins there.  Parts: ``slabs``, ``algebraic``, ``sampling`` and ``noise`` as ``width`` there.

    Raises
    ------
    ValueError
        If the functional has no integral or no least-squares system, `x` is no finite vector of the space, a slab has
        no points, or all slabs together more coefficients than there are residuals.

    References
    ----------
    Bank and Smith, SIAM J. Numer. Anal. 30 (1993) 921-935, for hierarchical estimates.
    """
    space = functional.space
    x = check_coefficients(space, x, finite=True)
    cuts = np.asarray(times, dtype=np.float64)
    if cuts.ndim != 1 or not len(cuts) or not np.isfinite(cuts).all() or (np.diff(cuts) <= 0.0).any():
        raise ValueError(f"times: got {times!r}, expected increasing numbers")
    groups = space.dim * np.arange(1, len(cuts) + 1)[:, None] + np.arange(space.dim)
    enriched = Enriched(_system(functional, x, cuts), list(groups))
    if space.dim * (len(cuts) + 1) > enriched.system.samples:
        raise ValueError(
            f"times: got {len(cuts)} cuts, {space.dim} coefficients on each slab, {enriched.system.samples} residuals"
            ", expected no more coefficients than residuals: fewer cuts, or more points"
        )
    total, parts = joint(enriched, dispersion_of(functional), "slabs", share=np.inf)
    indicators = np.sqrt(2.0 * np.maximum(enriched.system.candidates(groups).score(), 0.0))
    return Estimate(QUANTITY, cuts, indicators, total, parts=parts, cost=np.full(len(cuts), float(space.dim)))


def _system(functional: Functional, x: Array, cuts: Array) -> Any:
    """Return the system of common coefficients and of those that only some slabs have besides."""
    dim, counts = functional.space.dim, np.zeros(len(cuts) + 1, dtype=np.int64)
    total: Any = None
    for factor, term in terms_of(functional):
        pieces: list[tuple[int, Functional]] = [(0, term)]
        if isinstance(term, Integral):
            q = term.quadrature
            owner = np.searchsorted(cuts, np.asarray(q.points[:, -1], dtype=np.float64), side="right")
            numbers, found = np.unique(owner, return_counts=True)
            counts[numbers] += found
            parts = (Quadrature(q.points[owner == k], q.weights[owner == k], q.data[owner == k]) for k in numbers)
            pieces = [(int(k), replace(term, quadrature=p, region=None)) for k, p in zip(numbers, parts, strict=True)]
        for number, piece in pieces:
            system = piece.linearize(x).system()
            if system is None:
                raise ValueError(WITHOUT_SYSTEM)
            places = [0] if number == 0 else [0, number]
            columns = sp.csr_array(
                sp.kron(np.isin(np.arange(len(counts)), places)[None].astype(float), sp.eye_array(dim))
            )
            rows = factor * (system @ columns)
            total = rows if total is None else total + rows
    if (counts == 0).any():
        empty = int(np.flatnonzero(counts == 0)[0])
        raise ValueError(
            f"times: got {cuts.tolist()}, of which slab {empty} has no points, expected times between points"
        )
    return total
