"""Laws that users write with torch: ``law(p, u)`` at all points at once.

Derivatives with respect to the jet are taken by reverse differentiation of sums over the points, which are exact as
the law acts point by point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from dnnfem.kernels.components import Component
from dnnfem.problems.fields import Jet, Points, Tensor, Walls, tensor, value_of
from dnnfem.records import Array


def _rows(name: str, part: Any, like: Tensor, alone: bool) -> Tensor:
    """Return one part of what a user's function returned as rows; see `rows`."""
    m = like.shape[0]
    if isinstance(part, int | float | np.floating | np.integer):
        part = torch.full((m,), float(part), dtype=like.dtype, device=like.device)
    if not isinstance(part, Tensor) or not part.dtype.is_floating_point:
        kind = f"a tensor of {part.dtype}" if isinstance(part, Tensor) else type(part).__name__
        raise ValueError(f"{name}: got {kind}, expected a floating tensor of torch, a number, or a list of these")
    if part.ndim == 0 and part.requires_grad:
        # Such as (u.grad**2).sum(), which has lost dim=0.
        raise ValueError(f"{name}: got one number for all points together, expected shape {(m,)} at {m} points")
    full = part.expand(m) if part.ndim == 0 else part
    if full.shape[-1] != m or full.ndim > 2 or (full.ndim == 2 and not alone):
        raise ValueError(f"{name}: got shape {tuple(full.shape)}, expected {(m,)} at {m} points")
    return full.to(like.dtype).reshape(-1, m)


def rows(name: str, result: Any, like: Tensor, count: int | None = None) -> Tensor:
    """Return what a user's function returned as rows (k, m).

    Parameters
    ----------
    name : str
        Of the function, for messages.
    result
        A tensor (m,) or (k, m), a number, or a sequence of tensors (m,) and numbers.
    like : tensor
        Points (m, ...).
    count : int, optional
        Number of rows that are expected.

    Raises
    ------
    ValueError
        If it is something else.
    """
    m, parts = like.shape[0], list(result) if isinstance(result, list | tuple) else [result]
    if not parts:
        raise ValueError(f"{name}: got an empty list, expected at least one tensor of shape {(m,)}")
    stacked = torch.cat([_rows(name, value_of(part), like, len(parts) == 1) for part in parts])
    if count is not None and len(stacked) == 1:
        stacked = stacked.expand(count, m)
    if count is not None and len(stacked) != count:
        raise ValueError(f"{name}: got {len(stacked)} rows, expected {count}, one per output")
    return stacked


def reading(name: str, components: tuple[Component, ...], jet: Tensor) -> Callable[[Component], Tensor]:
    """Return a function that gives the numbers (outputs, m) of a component of a jet (components, outputs, m)."""

    def read(component: Component) -> Tensor:
        if component not in components:
            raise ValueError(
                f"{name}: reads {component}, which it did not when it was recorded; expected a function that reads the "
                "same derivatives in every call"
            )
        return jet[components.index(component)]

    return read


@dataclass(frozen=True, eq=False)
class Residuals:
    """Residuals at given jets; see `dnnfem.kernels.protocol.LawLinearization`."""

    law: PointwiseLaw
    where: Points
    at: Tensor
    host: bool

    def _out(self, tensor: Tensor) -> Any:
        return tensor.numpy() if self.host else tensor

    def _in(self, array: Any) -> Tensor:
        return tensor(array) if self.host else array

    @cached_property
    def _residual(self) -> Tensor:
        with torch.no_grad():
            return self.law.evaluate(self.where, self.at)

    @cached_property
    def _slopes(self) -> Tensor:
        # Their graph is not kept: trial points are many, and most of them are only asked for their values.
        with torch.enable_grad():
            jet = self.at.detach().requires_grad_()
            residual = self.law.evaluate(self.where, jet)
            found = [torch.autograd.grad(row.sum(), jet, retain_graph=True, allow_unused=True)[0] for row in residual]
        return torch.stack([torch.zeros_like(self.at) if slope is None else slope for slope in found])

    @property
    def residual(self) -> Any:
        """``r``, shape (equations, m)."""
        return self._out(self._residual)

    @property
    def slopes(self) -> Any:
        """``dr/djet``, shape (equations, components, outputs, m)."""
        return self._out(self._slopes)

    @property
    def density(self) -> Any:
        """``|r|^2 / 2``, shape (m,)."""
        return self._out(0.5 * (self._residual * self._residual).sum(dim=0))

    @property
    def derivative(self) -> Any:
        """``r'^T r``, shape (components, outputs, m)."""
        return self._out((self._residual[:, None, None] * self._slopes).sum(dim=0))

    def curvature(self, jet: Any) -> Any:
        """Apply ``r'^T r'``."""
        return self._out(self._curvature(self._in(jet)))

    def _curvature(self, jet: Tensor) -> Tensor:
        along = (self._slopes * jet).sum(dim=(1, 2))
        return (along[:, None, None] * self._slopes).sum(dim=0)

    def hessian(self, jet: Any) -> Any:
        """Apply ``r'^T r' + r r''``."""
        direction = self._in(jet)
        product = self._curvature(direction)
        if not self.law.affine:
            with torch.enable_grad():
                at = self.at.detach().requires_grad_()
                total = (self._residual * self.law.evaluate(self.where, at)).sum()
                (slope,) = torch.autograd.grad(total, at, create_graph=True)
                if slope.requires_grad:
                    (bend,) = torch.autograd.grad((slope * direction).sum(), at, allow_unused=True)
                    product = product if bend is None else product + bend
        return self._out(product.detach())


@dataclass(frozen=True, eq=False)
class PointwiseLaw:
    """Residuals ``weight(p) law(p, u) / scale`` as kernels read them; see `dnnfem.kernels.protocol.Law`.

    Parameters
    ----------
    function : callable
        ``law(p, u)``.
    name : str
        What messages call it.
    space, outputs : int
        Number of space coordinates and of outputs.
    components : tuple of Component
        What it reads, in the user's coordinates.
    scale : array, shape (equations,)
        Sizes of the equations.
    affine : bool
        Whether the residuals are affine in the jet.
    box : pair of tuples of float, or "data", optional
        For the normal: corners of the box whose sides points are on, or it is in the data.
    weight : callable, optional
        Factors of the residuals at points, in torch: (m,), or (equations, m).
    """

    function: Callable[[Points, Jet], Any]
    name: str
    space: int
    outputs: int
    components: tuple[Component, ...]
    scale: Array = field(default_factory=lambda: np.ones(1))
    affine: bool = True
    box: Walls | None = None
    kind: Literal["residual", "loss"] = "residual"
    weight: Callable[[Points], Tensor] | None = None

    def evaluate(self, where: Points, jet: Tensor) -> Tensor:
        """Return the residuals (equations, m) for a jet (components, outputs, m)."""
        points, read = where.coordinates, reading(self.name, self.components, jet)
        found = rows(self.name, self.function(where, Jet(read, where, self.outputs)), points)
        found = found / torch.as_tensor(self.scale, dtype=points.dtype, device=points.device)[:, None]
        return found if self.weight is None else self.weight(where) * found

    def linearize(self, points: Any, data: Any, jet: Any) -> Residuals:
        """Return the residuals at points (m, d) with data (m, k) and a jet (components, outputs, m), NumPy or torch."""
        host = isinstance(jet, np.ndarray)
        if host:
            points, data, jet = tensor(points), tensor(data), tensor(jet)
        return Residuals(self, Points(points, self.space, self.box, data), jet, host)
