"""Densities of energies that users write with torch: ``density(p, u)``, convex in the jet, at all points at once.

Derivatives with respect to the jet are taken by reverse differentiation of sums over the points, which are exact as
the density acts point by point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from dnnfem.kernels.components import Component
from dnnfem.problems.fields import Jet, Points, Tensor, Walls, tensor
from dnnfem.problems.pointwise import reading, rows
from dnnfem.problems.recording import MAGNITUDES, listened
from dnnfem.quadrature import Quadrature

CONVEX = 1e-9
"""Negative eigenvalues of ``L''``, relative to the largest one, that count as rounding."""


@dataclass(frozen=True, eq=False)
class Densities:
    """A density at given jets; see `dnnfem.kernels.protocol.LawLinearization`."""

    law: DensityLaw
    where: Points
    at: Tensor
    host: bool

    def _out(self, values: Tensor) -> Any:
        return values.numpy() if self.host else values

    @cached_property
    def density(self) -> Any:
        """``L``, shape (m,)."""
        with torch.no_grad():
            return self._out(self.law.evaluate(self.where, self.at))

    def _slope(self, jet: Tensor, further: bool) -> Tensor:
        total = self.law.evaluate(self.where, jet).sum()
        (slope,) = torch.autograd.grad(total, jet, create_graph=further, allow_unused=True, materialize_grads=True)
        return slope

    @cached_property
    def derivative(self) -> Any:
        """``L'``, shape (components, outputs, m)."""
        with torch.enable_grad():
            return self._out(self._slope(self.at.detach().requires_grad_(), False))

    @cached_property
    def second(self) -> Tensor:
        """``L''`` in the entries of the jet that it is curved in, shape (m, k, k)."""
        with torch.enable_grad():
            jet = self.at.detach().requires_grad_()
            slope, found = self._slope(jet, True).flatten(0, 1), []
            for entry in self.law.curved:
                row = torch.zeros_like(jet)
                if slope.requires_grad:
                    (row,) = torch.autograd.grad(
                        slope[entry].sum(), jet, retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                found.append(row.flatten(0, 1)[list(self.law.curved)])
        matrix = torch.stack(found).permute(2, 0, 1)
        return 0.5 * (matrix + matrix.mT)

    @property
    def residual(self) -> None:
        """An energy is no sum of squares: its derivative need not be in the range of ``L''``."""
        return None

    @cached_property
    def slopes(self) -> Any:
        """``S`` with ``S^T S = L''``, shape (k, components, outputs, m)."""
        values, vectors = torch.linalg.eigh(self.second)
        root = values.clamp(min=0.0).sqrt()[:, :, None] * vectors.mT
        full = torch.zeros((root.shape[1], *self.at.shape), dtype=root.dtype, device=root.device)
        full.flatten(1, 2)[:, list(self.law.curved)] = root.permute(1, 2, 0)
        return self._out(full)

    def hessian(self, jet: Any) -> Any:
        """Apply ``L''``."""
        direction, curved = tensor(jet) if self.host else jet, list(self.law.curved)
        product = torch.zeros_like(direction)
        product.flatten(0, 1)[curved] = torch.einsum("mij,jm->im", self.second, direction.flatten(0, 1)[curved])
        return self._out(product)

    curvature = hessian


@dataclass(frozen=True, eq=False)
class DensityLaw:
    """A density ``L(p, u)``, convex in the jet, as kernels read it; see `dnnfem.kernels.protocol.Law`.

    Parameters
    ----------
    function : callable
        ``density(p, u)``.
    name : str
        What messages call it.
    space, outputs : int
        Number of space coordinates and of outputs.
    components : tuple of Component
        What it reads, in the user's coordinates.
    curved : tuple of int
        Entries of the jet, components times outputs, in which it is not affine; at least one, even if it is affine.
    box : pair of tuples of float, or "data", optional
        For the normal: corners of the box whose sides points are on, or it is in the data.
    """

    function: Callable[[Points, Jet], Any]
    name: str
    space: int
    outputs: int
    components: tuple[Component, ...]
    curved: tuple[int, ...]
    box: Walls | None = None
    kind: Literal["energy"] = "energy"
    affine: bool = False

    def evaluate(self, where: Points, jet: Tensor) -> Tensor:
        """Return the density (m,) for a jet (components, outputs, m)."""
        read = reading(self.name, self.components, jet)
        return rows(self.name, self.function(where, Jet(read, where, self.outputs)), where.coordinates, 1)[0]

    def linearize(self, points: Any, data: Any, jet: Any) -> Densities:
        """Return the density at points (m, d) with data (m, k) and a jet (components, outputs, m), NumPy or torch."""
        host = isinstance(jet, np.ndarray)
        if host:
            points, data, jet = tensor(points), tensor(data), tensor(jet)
        return Densities(self, Points(points, self.space, self.box, data), jet, host)


def recorded_density(
    function: Callable[[Points, Jet], Any],
    name: str,
    quadrature: Quadrature,
    space: int,
    outputs: int,
    box: Walls | None = None,
) -> DensityLaw:
    """Call a density with random jets, and return it with the components that it reads.

    Parameters
    ----------
    function, name, quadrature, space, outputs, box
        As of `dnnfem.problems.recording.recorded`.

    Raises
    ------
    ValueError
        If it returns something of a wrong shape, cannot be differentiated, or does not depend on `u`; if it is not
        finite at a point whatever `u` is there, or not convex in the jet.
    """
    heard = listened(function, name, quadrature, space, outputs, box, "densities")
    if len(heard.values) != 1:
        raise ValueError(f"{name}: got {len(heard.values)} rows, expected one density")
    entries = tuple(range(len(heard.components) * outputs))
    law = DensityLaw(function, name, space, outputs, heard.components, entries, box)
    heard.check_finite(law.evaluate)
    at = [Densities(law, heard.where, heard.draw(size), False) for size in MAGNITUDES]
    if not heard.values.requires_grad or not any((found.derivative != 0.0).any() for found in at):
        raise ValueError(f"{name}: got a density without a derivative in u, expected one that depends on u by torch")
    for found in at:
        # Where a root or a logarithm of u is not a number, nothing is said.
        finite = torch.isfinite(found.second).all(dim=2).all(dim=1)
        values = torch.linalg.eigvalsh(torch.where(finite[:, None, None], found.second, 0.0))
        wrong = values[:, 0] < -CONVEX * values.abs().amax(dim=1)
        if wrong.any():
            point = heard.where.coordinates[int(torch.nonzero(wrong)[0])].tolist()
            raise ValueError(
                f"{name}: got a density that is not convex in the jet at the point {point}, expected convex"
            )
    used = torch.stack([(found.second != 0.0).any(dim=(0, 1)) for found in at]).any(dim=0)
    curved = tuple(int(entry) for entry in torch.nonzero(used)[:, 0]) or (0,)
    return DensityLaw(function, name, space, outputs, heard.components, curved, box)
