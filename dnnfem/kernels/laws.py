"""Pointwise laws that every backend runs in its own array namespace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dnnfem.kernels.protocol import Component
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
