"""The integral of a pointwise law over a quadrature: what all problems discretize to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem import kernels
from dnnfem.kernels.influence import LeftOut
from dnnfem.kernels.protocol import MEMORY, Ansatz, Evaluator, Law, Linearization
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, Index
from dnnfem.spaces import Transfer
from dnnfem.spaces.layout import NetworkSpace, check_coefficients


def budget(memory: int | None, quadrature: Quadrature, device: str | None = None) -> int | None:
    """Return a memory budget in bytes: default half of what the samples take, at least 300 MB.

    None on a `device`, which is asked how much is free when something is placed there.

    Raises
    ------
    ValueError
        If it is no integer, or negative.
    """
    if memory is None:
        return None if device is not None else max(MEMORY, quadrature.nbytes // 2)
    if isinstance(memory, bool) or not isinstance(memory, int | np.integer) or memory < 0:
        raise ValueError(f"memory: got {memory!r}, expected a number of bytes that is not negative")
    return int(memory)


@dataclass(frozen=True, eq=False)
class Integral:
    """``J(x) = sum_q w_q L(p_q, jet_x(p_q))``.

    Parameters
    ----------
    space : NetworkSpace
        Where the coefficients live.
    quadrature : Quadrature
        Points, weights and data.
    ansatz : Ansatz
        From the network's reference function to the function that the law sees.
    law : Law
        The pointwise law.
    backend : str, optional
        Name of the kernels, see `dnnfem.kernels.place`.
    memory : int, optional
        Bytes that a linearization may keep of what it computed at the points; results do not depend on it, only what
        has to be computed again does.
    device, precision : str, optional
        See `dnnfem.kernels.place`.
    region : str, optional
        Region of a quadrature that `quadrature` is, e.g. a side of a domain.

    Raises
    ------
    ValueError
        If the space has another number of inputs than the quadrature, or `memory` is negative.
    """

    space: NetworkSpace
    quadrature: Quadrature
    ansatz: Ansatz
    law: Law
    backend: str | None = None
    memory: int | None = MEMORY
    device: str | None = None
    precision: str = "double"
    region: str | None = None

    def __post_init__(self) -> None:
        budget(self.memory, self.quadrature)
        if self.space.inputs != self.quadrature.inputs:
            raise ValueError(
                f"space: got {self.space.inputs} inputs ({self.space}), expected {self.quadrature.inputs} as the "
                f"points have shape {self.quadrature.points.shape}"
            )

    @cached_property
    def evaluator(self) -> Evaluator:
        """The placed program; built at first use."""
        where = (self.backend, self.device, self.precision)
        return kernels.place(self.space.program, self.quadrature, self.ansatz, self.law, self.memory, *where)

    @property
    def condensable(self) -> Index | None:
        """The affine output layer, if the law is a residual affine in the jet."""
        return self.space.condensable if self.law.kind == "residual" and self.law.affine else None

    @property
    def dispersion(self) -> float | None:
        """Twice what a degree of freedom gains from noise: ``sum w^2 / sum w`` of a loss; 0 of an energy.

        The loss is taken for a negative log-likelihood.  The covariance of its derivative then is its mean second
        derivative (Fisher's information), and ``k`` coefficients fit noise with a gain of ``k/2`` for unit weights.
        Nothing is random in the density of an energy.  None for residuals, whose noise has to be estimated.
        """
        if self.law.kind == "residual":
            return None
        if self.law.kind == "energy":
            return 0.0
        w = self.quadrature.weights
        return float(np.einsum("m,m->", w, w)) / self.quadrature.total

    def value(self, x: Array) -> float:
        """Return ``J(x)``."""
        return self.evaluator.value(check_coefficients(self.space, x))

    def linearize(self, x: Array) -> Linearization:
        """Return value, derivative and products at `x`."""
        return self.evaluator.linearize(check_coefficients(self.space, x))

    def cellwise(self, x: Array) -> Array:
        """Return the contribution of each cell of the quadrature, shape (cells,)."""
        return self.evaluator.cellwise(check_coefficients(self.space, x))

    def samplewise(self, x: Array) -> Array:
        """Return the contribution of each point of the quadrature, shape (m,)."""
        return self.evaluator.samplewise(check_coefficients(self.space, x))

    def left_out(self, x: Array, root: Array, exact: bool = True) -> LeftOut:
        """Return every sample as the network without it sees it, after one Newton step each.

        Parameters
        ----------
        x : array, shape (dim,)
            Where the derivative of a functional ``J`` that this integral is a term of vanishes.
        root : array, shape (dim, k)
            ``root @ root.T`` is the inverse of the Hessian of ``J`` there.
        exact : bool
            Whether the second derivative of the law is its own, or only its positive semidefinite part.
        """
        return self.evaluator.left_out(check_coefficients(self.space, x), root, exact)

    def on(
        self, *, space: Any = None, quadrature: Quadrature | None = None, transfer: Transfer | None = None
    ) -> Integral:
        """Return the same integral on another space or quadrature, or its `region`; the present ones where None.

        Raises
        ------
        ValueError
            If the numbers of inputs or outputs differ, or the quadrature has no such region.
        """
        if quadrature is not None and self.region is not None:
            if self.region not in quadrature.regions:
                names = ", ".join(quadrature.regions) or "none"
                raise ValueError(f"quadrature: got the regions {names}, expected one named {self.region}")
            quadrature = quadrature.regions[self.region]
        if space is not None and space.outputs != self.space.outputs:
            raise ValueError(f"space: got {space.outputs} outputs ({space}), expected {self.space.outputs}")
        return replace(self, space=space or self.space, quadrature=quadrature or self.quadrature)
