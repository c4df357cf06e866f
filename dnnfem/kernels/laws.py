"""Pointwise laws that every backend runs in its own array namespace."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from dnnfem.kernels.components import Component
from dnnfem.records import Array


@dataclass(frozen=True, eq=False)
class MisfitLinearization:
    """``r = u - y`` at given values; see `dnnfem.kernels.protocol.LawLinearization`."""

    residual: Array

    @property
    def density(self) -> Array:
        """``|r|^2 / 2`` per point, shape (m,)."""
        return np.asarray(0.5 * np.sum(self.residual * self.residual, axis=0))

    @property
    def derivative(self) -> Array:
        """``r``, shape (1, outputs, m)."""
        return self.residual[None]

    @property
    def slopes(self) -> Array:
        """The identity, shape (outputs, 1, outputs, 1)."""
        outputs = self.residual.shape[0]
        return np.eye(outputs).reshape(outputs, 1, outputs, 1)

    def hessian(self, jet: Array) -> Array:
        """``L''`` is the identity."""
        return jet

    curvature = hessian


@dataclass(frozen=True, eq=False)
class Misfit:
    """The residual law of regression, ``r(p, u) = u - (y(p) - shift) / scale``.

    Parameters
    ----------
    shift, scale : array, shape (outputs,), or float
        From the units of the targets to those of `u`.
    """

    shift: Array | float = 0.0
    scale: Array | float = 1.0
    kind: Literal["residual", "loss"] = "residual"
    components: tuple[Component, ...] = ((),)
    affine: bool = True

    def linearize(self, points: Array, data: Array, jet: Array) -> MisfitLinearization:
        """Return the law at jet (1, outputs, m) with targets `data` (m, outputs)."""
        return MisfitLinearization(jet[0] - ((data - self.shift) / self.scale).T)


FLOOR = float(np.sqrt(np.finfo(float).eps))
"""Least root of a probability: ``L''`` changes by rounding, and residuals stay below its inverse."""


@dataclass(frozen=True, eq=False)
class CrossEntropyLinearization:
    """``log sum_k exp u_k - u_y`` at given logits; see `dnnfem.kernels.protocol.LawLinearization`.

    Parameters
    ----------
    probabilities : array, shape (classes, m)
        ``p``, the softmax of the logits.
    density : array, shape (m,)
        ``-log p_y``.
    difference : array, shape (classes, m)
        ``p - e_y``.
    """

    probabilities: Array
    density: Array
    difference: Array

    @property
    def derivative(self) -> Array:
        """``p - e_y``, shape (1, classes, m)."""
        return self.difference[None]

    @cached_property
    def _roots(self) -> Array:
        return np.maximum(np.sqrt(self.probabilities), FLOOR)

    @property
    def residual(self) -> Array:
        """``(p - e_y) / sqrt p``, shape (classes, m): ``slopes^T residual = L'``."""
        return np.asarray(self.difference / self._roots)

    @property
    def slopes(self) -> Array:
        """``diag(sqrt p) (I - 1 p^T)``, a root of ``L'' = diag p - p p^T``, shape (classes, 1, classes, m)."""
        identity = np.eye(len(self.probabilities))[:, :, None]
        return np.asarray((self._roots[:, None] * (identity - self.probabilities))[:, None])

    def hessian(self, jet: Array) -> Array:
        """Apply ``L'' = diag p - p p^T``."""
        p = self.probabilities
        return np.asarray(p * (jet - np.sum(p * jet[0], axis=0)))

    curvature = hessian


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """The loss law of classification, ``L(p, u) = log sum_k exp u_k - u_y`` with logits ``u`` and the class ``y``.

    It is ``-log`` of the probability that the softmax of ``u`` gives to the class, and convex in ``u``.  Adding a
    constant to all logits changes nothing.
    """

    kind: Literal["residual", "loss"] = "loss"
    components: tuple[Component, ...] = ((),)
    affine: bool = False

    def linearize(self, points: Array, data: Array, jet: Array) -> CrossEntropyLinearization:
        """Return the law at jet (1, classes, m) with numbers of classes `data` (m, 1)."""
        logits, own = jet[0], (data[:, 0].astype(np.int64), np.arange(len(data)))
        # The largest power is one, so that nothing overflows; a trial point may have logits that are not finite.
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = logits - logits.max(axis=0)
            powers = np.exp(shifted)
            total = powers.sum(axis=0)
            probabilities = powers / total
            density = np.log(total) - shifted[own]
        # That of the own class is the sum of the others, which keeps its digits where the probability is near one.
        difference = probabilities.copy()
        difference[own] = 0.0
        difference[own] = -difference.sum(axis=0)
        return CrossEntropyLinearization(probabilities, density, difference)
