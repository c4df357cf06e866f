"""The norm in which a step is as long as it changes the features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dnnfem.functionals import Condensed, Linearization, Norm
from dnnfem.norms.diagonal import Weighted
from dnnfem.spaces import Space

FLOOR = 1e-3
"""Least change of a feature per unit of a coefficient, relative to the largest: saturated neurons must not run away."""


def feature_norm(condensed: Condensed) -> Callable[[Space, Linearization], Norm]:
    """Return the metric ``|v|_y^2 = sum_i max(|d phi / d y_i|, floor)^2 v_i^2`` on inner coefficients.

    ``phi`` is the sum of the features that the output layer combines and the bars the root mean square over the
    quadrature; with one hidden layer ``y_i`` changes one feature only.  The outer coefficients do not enter: a neuron
    whose outer coefficient is large, because it almost cancels another one, is not held back for it, and one whose
    coefficient is small does not run away.

    Parameters
    ----------
    condensed : Condensed
        The condensed functional; its linearization at outer coefficients one gives the derivatives of the features.

    Returns
    -------
    callable
        ``(space, linearization) -> Norm``, for `dnnfem.gauss_newton`.
    """

    def metric(space: Space, linearization: Linearization) -> Norm:
        outer = np.full(condensed.outer.size, 1.0 / np.sqrt(len(condensed.outer)))
        system = condensed.functional.linearize(condensed.merge(outer, linearization.x)).system(condensed.inner)
        assert system is not None
        floor = FLOOR * float(system.lengths.max(initial=0.0)) or 1.0
        return Weighted(space, np.maximum(system.lengths, floor) ** 2)

    return metric
