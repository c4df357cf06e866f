"""Functional majorant: a bound of the energy norm of the error from any flux."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dnnfem.functionals import Functional, Integral
from dnnfem.functionals.sampling import integrals_of
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, Estimate
from dnnfem.spaces.layout import check_coefficients

QUANTITY = "energy norm |A^(1/2) grad(u - v)| of the error"

TERMS = ("flux", "equilibrium")
"""Names of the laws of `dnnfem.Flux`."""

CONTRACTION = 0.5
"""Each finer rule has to change the integrals by at most this part of what the rule before did: then all that is
still to come is, together, at most the last change."""

MOST_POINTS = 1_000_000
"""Points beyond which quadratures are not refined."""


def majorant(functional: Functional, y: Array, *, tolerance: float = 1e-2, most_points: int = MOST_POINTS) -> Estimate:
    """Bound the error of a solution `v` of ``-div(A grad u) = f`` from above, by a flux `y`.

    For every flux::

        |A^(1/2) grad(u - v)| <= |A^(-1/2) (y - A grad v)| + C |div y + f|,

    in L2 norms over the domain, with the constant `C` of `dnnfem.Flux`.  The two norms are integrated anew, on
    quadratures that are finer and finer, `dnnfem.Quadrature.finer`, until what the last one has changed, in absolute
    values cell by cell, is at most half of what the one before it has changed, and adds at most `tolerance` of the
    bound.  The last changes are added to the squares of the norms.

    Parameters
    ----------
    functional : Functional
        A `dnnfem.Flux` on a space.
    y : array, shape (dim,)
        Coefficients of the flux.  The better these, the sharper is the bound; it is a bound for all.
    tolerance : float
        Largest part of the bound that may be due to the quadrature.
    most_points : int
        Quadratures with more points are not tried.

    Returns
    -------
    Estimate
        Of the energy norm of the error, in the units of `dnnfem.Flux`, not a mean.  Cells are those of the quadrature
        of the functional; indicators are the first term, cell by cell, which shows where the error of `v` is if the
        second one is small.  ``signed`` is what the finest quadrature adds to the square of the bound with the best
        weight, see below, on each cell: ``abs(estimate.signed) ** 0.5`` marks where the functional needs more points.
        Parts add up to the total: ``flux``, ``equilibrium`` (with its constant), ``quadrature``.

        It is `guaranteed` if the changes became small as said above, on points that are not random, in double
        precision; otherwise remarks say what is missing.  Three rules or more *verify* the quadrature error, they do
        not prove it: what none of them sees, such as a neuron much sharper than the distance of their points, is
        missed.  Rounding is not bounded.

    Raises
    ------
    ValueError
        If the functional is not that of a flux, has no mesh, `y` is no finite vector of the space, or `tolerance` is
        not in (0, 1).

    Notes
    -----
    ``(a + c)^2`` is the least value of ``(1 + b) a^2 + (1 + 1/b) c^2``, for ``b = c / a``: the total does not depend on
    the weight that the flux was computed with.

    References
    ----------
    Repin, A Posteriori Estimates for Partial Differential Equations (2008), chapter 3.
    """
    y = check_coefficients(functional.space, y, finite=True)
    if not 0.0 < tolerance < 1.0:
        raise ValueError(f"tolerance: got {tolerance!r}, expected a number between 0 and 1")
    integrals = _terms(functional)
    first = _Squares(integrals[0].quadrature, _cellwise(integrals, y, integrals[0].quadrature))
    before, last = first, _finer(first, integrals, y)
    verified = False
    while not verified:
        size = len(last.quadrature) ** 2 // len(before.quadrature)
        # Three rules are the fewest that show whether changes become smaller.
        if before is not first and size > most_points:
            break
        before, last = last, _finer(last, integrals, y)
        verified = _verified(before, last, tolerance)
    norms, total = last.norms, float(np.sum(last.bounds))
    rest, remarks = total - float(np.sum(norms)), []
    if not verified:
        remarks.append(
            f"the quadrature error is not under control: from {len(before.quadrature)} to {len(last.quadrature)} "
            f"points it still changes {rest:.2e} of {total:.2e}; refine the quadrature where abs(signed) is large"
        )
    if _random(first.quadrature):
        remarks.append("the points are random: their quadrature error is known from a few draws, which is no proof")
    if any(term.precision != "double" for term in integrals):
        remarks.append("the norms were computed in single precision, whose rounding is not bounded")
    weights = np.sum(norms) / np.where(norms > 0.0, norms, np.inf)
    return Estimate(
        quantity=QUANTITY,
        cells=np.arange(first.values.shape[1]),
        indicators=np.sqrt(last.values[0]),
        total=total,
        signed=weights @ (last.values - first.values),
        parts={**dict(zip(TERMS, norms.tolist(), strict=True)), "quadrature": rest},
        guaranteed=not remarks,
        remarks=tuple(remarks),
    )


@dataclass(frozen=True, eq=False)
class _Squares:
    """Squares of the two norms by one rule, cell by cell of the first one.

    Parameters
    ----------
    quadrature : Quadrature
        The rule.
    values : array, shape (2, cells)
    changes : array, shape (2,)
        Sums of the absolute differences from the rule before.
    """

    quadrature: Quadrature
    values: Array
    changes: Array = field(default_factory=lambda: np.full(2, np.inf))

    @cached_property
    def norms(self) -> Array:
        """The two norms, shape (2,)."""
        return np.asarray(np.sqrt(np.sum(self.values, axis=1)))

    @cached_property
    def bounds(self) -> Array:
        """The same with the last change, shape (2,)."""
        return np.asarray(np.sqrt(np.sum(self.values, axis=1) + self.changes))


def _cellwise(integrals: tuple[Integral, Integral], y: Array, quadrature: Quadrature) -> Array:
    """Return the squares of both terms on every cell of a quadrature, shape (2, cells)."""
    return np.stack([2.0 * replace(term, quadrature=quadrature).cellwise(y) for term in integrals])


def _finer(coarse: _Squares, integrals: tuple[Integral, Integral], y: Array) -> _Squares:
    """Return the squares by the next finer rule."""
    quadrature = coarse.quadrature.finer()
    # The children of a cell follow each other.
    values = _cellwise(integrals, y, quadrature).reshape(*coarse.values.shape, -1).sum(axis=2)
    return _Squares(quadrature, values, np.abs(values - coarse.values).sum(axis=1))


def _verified(before: _Squares, last: _Squares, tolerance: float) -> bool:
    """Whether the changes of both squares are small, and have become smaller or do not matter at all."""
    added, total = last.bounds - last.norms, float(np.sum(last.bounds))
    settled = (last.changes <= CONTRACTION * before.changes) | (added <= tolerance**2 * total)
    return bool(np.sum(added) <= tolerance * total and settled.all())


def _random(quadrature: Quadrature) -> bool:
    """Whether a quadrature has Sobol' points."""
    return quadrature.mesh is not None and quadrature.mesh.attributes()["kind"] == "sobol"


def _terms(functional: Functional) -> tuple[Integral, Integral]:
    """Return the two integrals of the functional of a flux, without their weights."""
    integrals = [integral for _, integral in integrals_of(functional)]
    names = tuple(getattr(integral.law, "name", type(integral.law).__name__) for integral in integrals)
    if names != TERMS:
        raise ValueError(f"functional: got one with the terms {names}, expected {TERMS}, as Flux.on(space) returns it")
    if integrals[0].quadrature.mesh is None:
        raise ValueError("functional: got a quadrature without a mesh, expected one that can be refined")
    return integrals[0], integrals[1]
