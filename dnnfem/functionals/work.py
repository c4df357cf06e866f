"""What a gradient costs, so that the work on different levels can be added up."""

from __future__ import annotations

from dnnfem.functionals.algebra import Composed
from dnnfem.functionals.integral import Integral
from dnnfem.functionals.protocols import Functional
from dnnfem.functionals.sampling import terms_of


def gradient_work(functional: Functional) -> float:
    """Return the work of a value with derivative, in a unit that functionals of the same data share.

    It is the number of weights that the network applies to all samples, summed over the integrals in the functional;
    penalties are free.  A functional without samples counts as many as it has coefficients.

    Parameters
    ----------
    functional : Functional

    Returns
    -------
    float
        Products of a weight with a number.
    """
    found = [_sweep(term) for _, term in terms_of(functional)]
    return sum(found) or float(functional.space.dim)


def _sweep(term: Functional) -> float:
    if isinstance(term, Composed):
        return sum(_sweep(part) for _, part in terms_of(term.functional))
    return float(len(term.quadrature) * term.space.program.applied) if isinstance(term, Integral) else 0.0
