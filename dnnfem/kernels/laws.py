"""Pointwise laws that every backend runs in its own array namespace."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from array_api_compat import array_namespace, device

from dnnfem.kernels.components import Component
from dnnfem.records import Array


def _half_squares(residual: Array) -> Array:
    """Return ``|r|^2 / 2`` per point, shape (m,), of residuals (equations, m)."""
    density: Array = 0.5 * (residual * residual).sum(axis=0)
    return density


@dataclass(frozen=True, eq=False)
class MisfitLinearization:
    """``r = u - y`` at given values; see `dnnfem.kernels.protocol.LawLinearization`."""

    residual: Array

    @property
    def density(self) -> Array:
        """``|r|^2 / 2`` per point, shape (m,)."""
        return _half_squares(self.residual)

    @property
    def derivative(self) -> Array:
        """``r``, shape (1, outputs, m)."""
        return self.residual[None]

    @cached_property
    def slopes(self) -> Array:
        """The identity, shape (outputs, 1, outputs, 1)."""
        outputs = self.residual.shape[0]
        return _identity(outputs, self.residual).reshape(outputs, 1, outputs, 1)

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


def _identity(size: int, like: Array) -> Array:
    """Return the identity matrix where another array is."""
    identity: Array = array_namespace(like).eye(size, dtype=like.dtype, device=device(like))
    return identity


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
        roots: Array = array_namespace(self.probabilities).sqrt(self.probabilities).clip(min=FLOOR)
        return roots

    @property
    def residual(self) -> Array:
        """``(p - e_y) / sqrt p``, shape (classes, m): ``slopes^T residual = L'``."""
        return self.difference / self._roots

    @property
    def slopes(self) -> Array:
        """``diag(sqrt p) (I - 1 p^T)``, a root of ``L'' = diag p - p p^T``, shape (classes, 1, classes, m)."""
        identity = _identity(len(self.probabilities), self.probabilities)[:, :, None]
        return (self._roots[:, None] * (identity - self.probabilities))[:, None]

    def hessian(self, jet: Array) -> Array:
        """Apply ``L'' = diag p - p p^T``."""
        p = self.probabilities
        product: Array = p * (jet - (p * jet[0]).sum(axis=0))
        return product

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
        xp, logits = array_namespace(jet), jet[0]
        own = (xp.astype(data[:, 0], xp.int64), xp.arange(len(data), device=device(jet)))
        # The largest power is one, so that nothing overflows; a trial point may have logits that are not finite.
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = logits - xp.max(logits, axis=0)
            powers = xp.exp(shifted)
            total = powers.sum(axis=0)
            probabilities = powers / total
            density = xp.log(total) - shifted[own]
        # That of the own class is the sum of the others, which keeps its digits where the probability is near one.
        difference = xp.asarray(probabilities, copy=True)
        difference[own] = 0.0
        difference[own] = -difference.sum(axis=0)
        return CrossEntropyLinearization(probabilities, density, difference)


@dataclass(frozen=True, eq=False)
class LinearFormLinearization:
    """``r = l(u)`` at given jets; see `dnnfem.kernels.protocol.LawLinearization`.

    Parameters
    ----------
    slopes : array, shape (equations, components, outputs, m)
    residual : array, shape (equations, m)
    """

    slopes: Array
    residual: Array

    @property
    def density(self) -> Array:
        """``|r|^2 / 2`` per point, shape (m,)."""
        return _half_squares(self.residual)

    @property
    def derivative(self) -> Array:
        """``l^T r``, shape (components, outputs, m)."""
        return self._pulled(self.residual)

    def _pulled(self, rows: Array) -> Array:
        dual: Array = (rows[:, None, None] * self.slopes).sum(axis=0)
        return dual

    def hessian(self, jet: Array) -> Array:
        """Apply ``l^T l``."""
        return self._pulled((self.slopes * jet).sum(axis=(1, 2)))

    curvature = hessian


@dataclass(frozen=True, eq=False)
class LinearForm:
    """The residual law ``r(p, u) = l(p) . jet``, whose coefficients are the data of the points.

    Parameters
    ----------
    components : tuple of Component
        What it reads.
    equations, outputs : int
        Data have the coefficients of an equation, a component and an output as columns, outputs running fastest.
    """

    components: tuple[Component, ...]
    equations: int = 1
    outputs: int = 1
    kind: Literal["residual", "loss"] = "residual"
    affine: bool = True

    def linearize(self, points: Array, data: Array, jet: Array) -> LinearFormLinearization:
        """Return the law at a jet (components, outputs, m) with coefficients `data`, (m, equations x jet)."""
        xp = array_namespace(jet)
        slopes = xp.reshape(data.T, (self.equations, len(self.components), self.outputs, -1))
        return LinearFormLinearization(slopes, (slopes * jet).sum(axis=(1, 2)))
