"""Functionals on coefficient vectors: integrals of a law, their algebra, and static condensation."""

from __future__ import annotations

from dnnfem.functionals.algebra import Composed, Scaled, Shifted, Sum
from dnnfem.functionals.condensation import Condensed, CondensedLinearization, condense
from dnnfem.functionals.external import as_scipy, from_callables
from dnnfem.functionals.horizon import TimeHorizon
from dnnfem.functionals.integral import Integral
from dnnfem.functionals.penalty import Tikhonov
from dnnfem.functionals.protocols import Functional, LeastSquaresSystem, Linearization, Metric, Norm
from dnnfem.functionals.work import gradient_work

__all__ = [
    "Composed",
    "Condensed",
    "CondensedLinearization",
    "Functional",
    "Integral",
    "LeastSquaresSystem",
    "Linearization",
    "Metric",
    "Norm",
    "Scaled",
    "Shifted",
    "Sum",
    "Tikhonov",
    "TimeHorizon",
    "as_scipy",
    "condense",
    "from_callables",
    "gradient_work",
]
