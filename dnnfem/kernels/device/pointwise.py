"""What an activation does to values and to jets, and what its derivatives do to tangents and cotangents.

Of a stage with argument z there are, with ``S_k = h sigma^(k)(z)``,

    forward     y from z, and what the derivatives are computed from,
    first       what tangents and adjoints need,
    second      what products with second derivatives need besides, from the cotangents lambda.

Tensors are (components, samples, width); those of tangents and cotangents have the directions in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from dnnfem.kernels.activations import formulas
from dnnfem.kernels.components import Component, order
from dnnfem.kernels.jets import ADJOINT, BEND, DIRECTION, DUAL, FORWARD, RESULT, SIGMAS, TANGENT, Z, operations
from dnnfem.kernels.program import Stage

Tensor = torch.Tensor
Kept = tuple[Tensor, ...]

CLOSED = ("identity", "tanh", "relu", "sigmoid")
"""Activations whose derivatives follow from their values: these are kept, of others the arguments."""


class Pointwise(Protocol):
    """What the sweeps ask for."""

    def forward(self, stage: Stage, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return y, and what the derivatives are computed from."""
        ...

    def first(self, stage: Stage, base: Tensor) -> Kept:
        """Return what `adjoint` and `tangent` take."""
        ...

    def second(self, stage: Stage, base: Tensor, first: Kept, delta: Tensor, cotangent: Tensor) -> Kept:
        """Return what `bend` takes besides; `cotangent` is lambda, `delta` its adjoint."""
        ...

    def adjoint(self, stage: Stage, first: Kept, dual: Tensor, more: Tensor | None = None) -> Tensor:
        """Return the cotangents of z for those of y, added to `more`."""
        ...

    def tangent(self, stage: Stage, first: Kept, direction: Tensor) -> Tensor:
        """Return the tangents of y for those of z."""
        ...

    def bend(self, stage: Stage, first: Kept, second: Kept, direction: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return `tangent`, and the derivative of the adjoint of lambda, None for zero."""
        ...


def _scaled(factor: float, tensor: Tensor) -> Tensor:
    return tensor if factor == 1.0 else factor * tensor


def _derivative(stage: Stage, z: Tensor, order: int) -> Tensor:
    """Return ``S_k``."""
    derivative: Tensor = formulas(stage.activation, z, torch, torch.special)[order]()
    return _scaled(stage.scale, derivative)


@dataclass(frozen=True)
class Values:
    """Of values alone: derivatives are factors."""

    def forward(self, stage: Stage, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and, of closed activations, sigma, of others z."""
        value: Tensor = formulas(stage.activation, z, torch, torch.special)[0]()
        return _scaled(stage.scale, value), value if stage.activation in CLOSED else z

    def first(self, stage: Stage, base: Tensor) -> Kept:
        """Return ``S_1``; that of the identity is a number."""
        if stage.activation == "identity":
            return ()
        if stage.activation == "tanh":
            slope = torch.addcmul(base.new_ones(()), base, base, value=-1.0)
        elif stage.activation == "sigmoid":
            slope = base * (1.0 - base)
        elif stage.activation == "relu":
            # The value is not positive where the slope is zero; what is not a number stays so.
            slope = torch.where(base > 0.0, torch.ones_like(base), 0.0 * base)
        else:
            return (_derivative(stage, base, 1),)
        return (_scaled(stage.scale, slope),)

    def second(self, stage: Stage, base: Tensor, first: Kept, delta: Tensor, cotangent: Tensor) -> Kept:
        """Return ``S_2 lambda``, of piecewise linear activations nothing."""
        if stage.activation in ("identity", "relu"):
            return ()
        if stage.activation == "tanh":
            return (torch.mul(base, delta).mul_(-2.0),)
        if stage.activation == "sigmoid":
            return (torch.addcmul(delta, base, delta, value=-2.0),)
        return (_derivative(stage, base, 2).mul_(cotangent),)

    def adjoint(self, stage: Stage, first: Kept, dual: Tensor, more: Tensor | None = None) -> Tensor:
        """``S_1 mu``, added to `more`."""
        if more is not None:
            return torch.addcmul(more, first[0], dual)
        return self.tangent(stage, first, dual)

    def tangent(self, stage: Stage, first: Kept, direction: Tensor) -> Tensor:
        """``S_1 z'``."""
        return first[0] * direction if first else _scaled(stage.scale, direction)

    def bend(self, stage: Stage, first: Kept, second: Kept, direction: Tensor) -> tuple[Tensor, Tensor | None]:
        """``S_1 z'`` and ``S_2 lambda z'``, None for zero."""
        return self.tangent(stage, first, direction), second[0] * direction if second else None


@dataclass(frozen=True, eq=False)
class Jets:
    """Of jets with several components, by the operations of `dnnfem.kernels.jets`."""

    components: tuple[Component, ...]

    @property
    def _count(self) -> int:
        return len(self.components)

    @property
    def _order(self) -> int:
        return max(map(order, self.components))

    def _run(
        self, kind: int, sigmas: Kept, z: Tensor, direction: Tensor | None, dual: Tensor | None
    ) -> dict[int, Tensor]:
        """Run one list of operations; return all numbers by their names."""
        count, found = self._count, dict(enumerate(sigmas))
        for group, values in ((Z, z), (DIRECTION, direction), (DUAL, dual)):
            if values is not None:
                found.update({SIGMAS + group * count + c: values[..., c, :, :] for c in range(count)})
        for step in operations(self.components, kind, frozenset(range(count))):
            a, b = found[step.a], None if step.b is None else found[step.b]
            if step.fresh:
                found[step.target] = _scaled(step.coefficient, a if b is None else a * b)
            elif b is None:
                found[step.target] = torch.add(found[step.target], a, alpha=step.coefficient)
            else:
                found[step.target] = torch.addcmul(found[step.target], a, b, value=step.coefficient)
        return found

    def _group(self, found: dict[int, Tensor], group: int) -> Tensor:
        """Return the components of a group as one tensor; some may not depend on the directions."""
        begin = SIGMAS + group * self._count
        return torch.stack(torch.broadcast_tensors(*(found[begin + c] for c in range(self._count))), dim=-3)

    def forward(self, stage: Stage, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and z."""
        sigmas = tuple(_derivative(stage, z[0], k) for k in range(self._order + 1))
        return self._group(self._run(FORWARD, sigmas, z, None, None), RESULT), z

    def first(self, stage: Stage, base: Tensor) -> Kept:
        """Return z, ``S_0``, ..., also those that only second derivatives take."""
        found = formulas(stage.activation, base[0], torch, torch.special)[: self._order + 3]
        return (base, *(_scaled(stage.scale, formula()) for formula in found))

    def second(self, stage: Stage, base: Tensor, first: Kept, delta: Tensor, cotangent: Tensor) -> Kept:
        """Return lambda."""
        return (cotangent,)

    def adjoint(self, stage: Stage, first: Kept, dual: Tensor, more: Tensor | None = None) -> Tensor:
        """Return the cotangents of z, added to `more`."""
        z, *sigmas = first
        own = self._group(self._run(ADJOINT, tuple(sigmas), z, None, dual), RESULT)
        return own if more is None else own + more

    def tangent(self, stage: Stage, first: Kept, direction: Tensor) -> Tensor:
        """Return the tangents of y."""
        z, *sigmas = first
        return self._group(self._run(TANGENT, tuple(sigmas), z, direction, None), RESULT)

    def bend(self, stage: Stage, first: Kept, second: Kept, direction: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the tangents of y, and of the adjoint at lambda."""
        z, *sigmas = first
        found = self._run(BEND, tuple(sigmas), z, direction, second[0])
        return self._group(found, RESULT), self._group(found, DIRECTION)
