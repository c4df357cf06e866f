"""Maps of which a program knows nothing, a module of torch say, and their derivatives by torch.

Such a map stands where other stages have ``z = W y + b``.  Tensors are as in `dnnfem.kernels.device.sweeps`: registers
(components, samples, width), tangents and cotangents with k directions in front.  Jets are mapped by nested
differentiation forwards: with one generator per order, ``d_ij f(z)`` is the derivative of
``f(z + s z_i + t z_j + s t z_ij)`` in ``s`` and ``t``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from dnnfem.kernels.components import Component, Laplacian, squares
from dnnfem.kernels.device.pointwise import Tensor
from dnnfem.kernels.program import Block, Opaque

SUMMED = 2048
"""Samples that torch sums up in float32; the sums of so many are summed up in float64."""


def _generated(function: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Return the mixed derivative in p generators for the ``2^p`` coefficients of the argument, by bits."""
    half = len(parts) // 2
    if half == 0:
        return function(parts[0])

    def lower(*low: Tensor) -> Tensor:
        return _generated(function, low)

    return torch.func.jvp(lower, tuple(parts[:half]), tuple(parts[half:]))[1]


def _derivative(function: Callable[[Tensor], Tensor], jet: dict[Component, Tensor], component: Component) -> Tensor:
    """Return a component of the jet of ``function(z)`` from the jet of ``z``."""
    value = jet[()]
    if isinstance(component, Laplacian):
        total = _generated(function, (value, jet[component]))
        for weight, (i, _) in squares(component):
            if weight:
                squared = _generated(function, (value, jet[i,], jet[i,], torch.zeros_like(value)))
                total = total + weight * squared
        return total
    subsets = (
        tuple(sorted(axis for place, axis in enumerate(component) if bits >> place & 1))
        for bits in range(2 ** len(component))
    )
    return _generated(function, [jet[subset] for subset in subsets])


def _mapped(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """Apply a function to each of k directions; what it returns has these in front."""
    if len(arguments[0]) == 1:
        found = function(*(argument[0] for argument in arguments))
        return tuple(part[None] for part in found) if isinstance(found, tuple) else found[None]
    return torch.vmap(function)(*arguments)


@dataclass(frozen=True, eq=False)
class OpaqueStage:
    """An opaque map on jets with some components, and what its derivatives do to tangents and cotangents.

    Methods take the weights of the whole program, and the register `y` that the map reads.
    """

    map: Opaque
    block: Block
    components: tuple[Component, ...]

    @cached_property
    def _part(self) -> slice:
        return slice(self.block.start, self.block.stop)

    def _function(self, theta: Tensor, y: Tensor) -> Tensor:
        """Return the register (components, samples, rows)."""

        def values(z: Tensor) -> Tensor:
            found: Tensor = self.map(theta, z)
            return found

        if len(self.components) == 1:
            return values(y[0])[None]
        jet = dict(zip(self.components, y, strict=True))
        return torch.stack([_derivative(values, jet, component) for component in self.components])

    def forward(self, weights: Tensor, y: Tensor) -> Tensor:
        """Return the argument z of the stage."""
        return self._function(weights[self._part], y)

    def tangent(self, weights: Tensor, y: Tensor, direction: Tensor, inner: Tensor | None) -> Tensor:
        """Return the tangents of z along directions (k, weights), where those of the register are `inner`."""
        theta = weights[self._part]

        def along(theta_along: Tensor, y_along: Tensor) -> Tensor:
            return torch.func.jvp(self._function, (theta, y), (theta_along, y_along))[1]

        found: Tensor = _mapped(along, direction[:, self._part], _given(inner, y, len(direction)))
        return found

    def adjoint(self, weights: Tensor, y: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cotangents of the weights (k, size), summed up in float64, and of the register, for those of z."""
        theta = weights[self._part]

        def part(where: slice) -> tuple[Tensor, Tensor]:
            pull = torch.func.vjp(self._function, theta, y[:, where])[1]
            found: tuple[Tensor, Tensor] = _mapped(pull, own[:, :, where])
            return found

        return _in_parts(part, y)

    def bend(
        self, weights: Tensor, y: Tensor, own: Tensor, delta: Tensor, direction: Tensor, inner: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the derivatives of what `adjoint` gives for `delta` (1, components, samples, rows).

        They are along directions (k, weights), with the tangents `inner` of the register, and `own` of `delta`.
        """
        theta, tangents = weights[self._part], _given(inner, y, len(direction))

        def pulled(theta: Tensor, y: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = torch.func.vjp(self._function, theta, y)[1](dual)
            return found

        def part(where: slice) -> tuple[Tensor, Tensor]:
            point = (theta, y[:, where], delta[0, :, where])

            def along(*parts: Tensor) -> tuple[Tensor, Tensor]:
                found: tuple[Tensor, Tensor] = torch.func.jvp(pulled, point, parts)[1]
                return found

            result: tuple[Tensor, Tensor] = _mapped(
                along, direction[:, self._part], tangents[:, :, where], own[:, :, where]
            )
            return result

        return _in_parts(part, y)

    def rows(self, weights: Tensor, y: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `adjoint` does, but the cotangents of the weights sample by sample, shape (k, samples, size)."""
        theta = weights[self._part]

        def one(y: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
            pull = torch.func.vjp(self._function, theta, y[:, None])[1]
            found, pulled = _mapped(pull, own[:, :, None])
            return found, pulled[:, :, 0]

        result: tuple[Tensor, Tensor] = torch.vmap(one, in_dims=(1, 2), out_dims=(1, 2))(y, own)
        return result


def _given(inner: Tensor | None, y: Tensor, count: int) -> Tensor:
    """Return the tangents of a register, zeros if it does not depend on the coefficients."""
    return torch.zeros_like(y).expand(count, *y.shape) if inner is None else inner


def _in_parts(function: Callable[[slice], tuple[Tensor, Tensor]], y: Tensor) -> tuple[Tensor, Tensor]:
    """Sum up the first result over some samples at a time, in float64, and join the second ones."""
    count = y.shape[1]
    step = count if y.dtype == torch.float64 else SUMMED
    found = [function(slice(start, min(start + step, count))) for start in range(0, count, step)]
    sums = found[0][0].to(torch.float64)
    for more, _ in found[1:]:
        sums = sums + more
    return sums, found[0][1] if len(found) == 1 else torch.cat([pulled for _, pulled in found], dim=2)
