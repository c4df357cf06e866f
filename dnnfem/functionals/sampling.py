"""A functional on some of its samples: what stochastic solvers and estimates of the sampling error look at."""

from __future__ import annotations

from dnnfem.functionals.algebra import Scaled, Shifted, Sum
from dnnfem.functionals.integral import Integral
from dnnfem.functionals.protocols import Functional
from dnnfem.quadrature import Quadrature
from dnnfem.records import Index

OBSERVATIONS = "observations"
"""Region of a quadrature that the observations of an inverse problem are."""


def quadrature_of(functional: Functional) -> Quadrature:
    """Return the quadrature of a functional: its attribute `quadrature`, or that of its terms.

    Raises
    ------
    ValueError
        If it has none, or its terms have different ones.
    """
    found = _quadratures(functional)
    if not found:
        raise ValueError(f"functional: got {type(functional).__name__} without samples, expected one with a quadrature")
    if any(other is not found[0] for other in found[1:]):
        raise ValueError("functional: got terms with different quadratures, expected one and the same")
    return found[0]


def _quadratures(functional: Functional) -> list[Quadrature]:
    if isinstance(functional, Sum):
        return [found for term in functional.terms for found in _quadratures(term)]
    if isinstance(functional, Scaled | Shifted):
        return _quadratures(functional.functional)
    own = getattr(functional, "quadrature", None)
    return [own] if isinstance(own, Quadrature) else []


def terms_of(functional: Functional, factor: float = 1.0) -> list[tuple[float, Functional]]:
    """Return what a functional is the sum of, with factors."""
    if isinstance(functional, Sum):
        return [found for term in functional.terms for found in terms_of(term, factor)]
    if isinstance(functional, Scaled):
        return terms_of(functional.functional, factor * functional.factor)
    return terms_of(functional.functional, factor) if isinstance(functional, Shifted) else [(factor, functional)]


def integrals_of(functional: Functional) -> list[tuple[float, Integral]]:
    """Return the integrals inside a functional with their factors."""
    return [(factor, term) for factor, term in terms_of(functional) if isinstance(term, Integral)]


def integral_of(functional: Functional) -> Integral | None:
    """Return the first integral inside a functional, None if there is none."""
    return next((integral for _, integral in integrals_of(functional)), None)


def on_samples(functional: Functional, index: Index) -> Functional:
    """Return a functional on the samples `index`, whose mean over all subsets of that size is the functional.

    The weights of the samples are multiplied by ``m / len(index)``, their sum is not fixed: with different weights the
    derivative would not be free of bias otherwise.
    """
    q = quadrature_of(functional)
    weights = q.weights[index] * (len(q) / len(index))
    return functional.on(quadrature=Quadrature(q.points[index], weights, q.data[index]))
