"""Forward, tangent and reverse sweeps over some samples, in matrix products.

In the notation of `dnnfem.kernels.compiled.sweeps`: registers y, arguments z, cotangents lambda, ``delta`` those of the
arguments.  A register is a tensor (components, samples, width), so that an affine map is one matrix product for all
components and samples; for opaque ones see `dnnfem.kernels.device.opaque`.  Tangents and cotangents have k directions
in front, (k, components, samples, width).  Registers that do not depend on the coefficients, and cotangents that are
zero, are None.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from dnnfem.kernels.components import Component, closure, order, places
from dnnfem.kernels.device.opaque import OpaqueStage
from dnnfem.kernels.device.pointwise import Jets, Kept, Pointwise, Tensor, Values
from dnnfem.kernels.program import Program, Stage


@dataclass(frozen=True, eq=False)
class Code:
    """A program that carries jets.

    Attributes
    ----------
    program : Program
    components : tuple
        All components that are carried along.
    reads : list of int
        Where those are that were asked for.
    order : int
        Highest order of a derivative.
    pointwise : Pointwise
        What activations do.
    """

    program: Program
    components: tuple[Component, ...]
    reads: list[int]
    order: int
    pointwise: Pointwise

    @classmethod
    def of(cls, program: Program, components: Sequence[Component]) -> Code:
        """Prepare a program from whose jets some components are read."""
        carried = closure(components)
        pointwise = Jets(carried) if len(carried) > 1 else Values()
        return cls(program, carried, places(components), max(map(order, carried)), pointwise)

    @cached_property
    def opaque(self) -> tuple[OpaqueStage | None, ...]:
        """Per stage what takes the place of the affine map, if it is an opaque one."""
        blocks = [self.program.blocks[stage.block] for stage in self.program.stages]
        return tuple(None if b.map is None else OpaqueStage(b.map, b, self.components) for b in blocks)

    @property
    def kept(self) -> int:
        """Most numbers that are kept of a sample: of a register up to six, and derivatives of the activation."""
        of_one = 6 * len(self.components) + (self.order + 3) * (len(self.components) > 1)
        return of_one * sum(self.program.widths)


class State(NamedTuple):
    """What a product with second derivatives needs of a point.

    Attributes
    ----------
    weights : tensor, shape (weights,)
    registers : list of tensors, shape (components, samples, width)
    first, second : list of tuples of tensors
        Per stage, see `dnnfem.kernels.device.pointwise`; `second` is empty for the curvature.
    deltas : list of tensors or None, shape (1, components, samples, rows)
        Cotangents of the arguments of each stage; empty for the curvature.
    bend : tensor, shape (samples, size, size)
        Second derivatives of the law in what it reads of the outputs; without numbers if they are not kept.
    """

    weights: Tensor
    registers: list[Tensor]
    first: list[Kept]
    second: list[Kept]
    deltas: list[Tensor | None]
    bend: Tensor


def matrix_of(code: Code, stage: Stage, weights: Tensor) -> Tensor:
    """Return the matrix of a stage, shape (rows, columns), or (k, rows, columns) for k vectors of weights."""
    block = code.program.blocks[stage.block]
    return weights[..., block.start : block.bias_start].unflatten(-1, (block.rows, block.columns))


def bias_of(code: Code, stage: Stage, weights: Tensor) -> Tensor | None:
    """Return the bias of a stage, shape (rows,) or (k, rows)."""
    block = code.program.blocks[stage.block]
    return weights[..., block.bias_start : block.stop] if block.bias else None


def placed(code: Code, reference: Tensor) -> Tensor:
    """Return the input register for points (samples, inputs): their own values, with the units as derivatives."""
    y = reference.new_zeros((len(code.components), *reference.shape))
    y[0] = reference
    for c, component in enumerate(code.components):
        if isinstance(component, tuple) and len(component) == 1:
            y[c, :, component[0]] = 1.0
    return y


def _affine(code: Code, stage: Stage, weights: Tensor, y: Tensor) -> Tensor:
    matrix, bias = matrix_of(code, stage, weights), bias_of(code, stage, weights)
    rows = y.flatten(0, 1)
    if bias is not None and len(y) == 1:
        return torch.addmm(bias, rows, matrix.mT).unflatten(0, y.shape[:2])
    z = (rows @ matrix.mT).unflatten(0, y.shape[:2])
    if bias is not None:
        z[0] += bias
    return z


def forward(code: Code, weights: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return all registers, and of each stage what its derivatives are computed from."""
    registers, bases = [y], []
    for stage, opaque in zip(code.program.stages, code.opaque, strict=True):
        y = registers[stage.input]
        z = _affine(code, stage, weights, y) if opaque is None else opaque.forward(weights, y)
        y, base = code.pointwise.forward(stage, z)
        for j, factor in stage.carry:
            y = torch.add(y, registers[j], alpha=factor)
        registers.append(y)
        bases.append(base)
    return registers, bases


def _along(code: Code, stage: Stage, direction: Tensor, y: Tensor) -> Tensor:
    """Return ``V y + v`` for k directions (k, weights), shape (k, components, samples, rows)."""
    matrix, bias = matrix_of(code, stage, direction), bias_of(code, stage, direction)
    rows, single = y.flatten(0, 1), len(y) == 1
    if len(direction) == 1:
        added = bias[0] if bias is not None and single else None
        z = rows @ matrix[0].mT if added is None else torch.addmm(added, rows, matrix[0].mT)
        z = z[None]
    else:
        z = torch.bmm(rows.expand(len(direction), *rows.shape), matrix.mT)
        if bias is not None and single:
            z += bias[:, None]
    z = z.unflatten(1, y.shape[:2])
    if bias is not None and not single:
        z[:, 0] += bias[:, None]
    return z


def tangent(
    code: Code, state: State, direction: Tensor, exact: bool
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Differentiate the registers along directions (k, weights).

    If `exact`, the second list has the derivatives of the adjoints of the activations at the cotangents lambda.
    """
    registers: list[Tensor | None] = [None]
    bends: list[Tensor | None] = []
    for number, stage in enumerate(code.program.stages):
        opaque, inner, read = code.opaque[number], registers[stage.input], state.registers[stage.input]
        if opaque is not None:
            z = opaque.tangent(state.weights, read, direction, inner)
        else:
            z = _along(code, stage, direction, read)
            if inner is not None:
                z.flatten(0, 2).addmm_(inner.flatten(0, 2), matrix_of(code, stage, state.weights).mT)
        bend: Tensor | None = None
        if exact and state.deltas[number] is not None:
            y, bend = code.pointwise.bend(stage, state.first[number], state.second[number], z)
        else:
            y = code.pointwise.tangent(stage, state.first[number], z)
        for j, factor in stage.carry:
            other = registers[j]
            y = y if other is None else torch.add(y, other, alpha=factor)
        registers.append(y)
        bends.append(bend)
    return registers, bends


def _add(total: Tensor | None, part: Tensor, factor: float = 1.0) -> Tensor:
    if total is None:
        return part if factor == 1.0 else factor * part
    return torch.add(total, part, alpha=factor)


class Along(NamedTuple):
    """What differentiates a reverse sweep along k directions of weights.

    Attributes
    ----------
    direction : tensor, shape (k, weights)
    registers, bends : list of tensors or None
        Tangents of the registers, and what `tangent` gives besides.
    deltas : list of tensors or None
        Cotangents of the arguments in the sweep that is differentiated.
    """

    direction: Tensor
    registers: list[Tensor | None]
    bends: list[Tensor | None]
    deltas: list[Tensor | None]


def reverse(
    code: Code,
    weights: Tensor,
    registers: Sequence[Tensor],
    first: list[Kept],
    seed: Tensor,
    last: int = 0,
    along: Along | None = None,
    single: Collection[int] | None = None,
) -> Iterator[tuple[int, Tensor, Tensor, Tensor | None]]:
    """Yield number, cotangent of the argument and cotangent of the register of each stage, from the end to `last`.

    For an opaque map there are the cotangents of its weights besides, shape (k, size), summed up in float64.  Stages
    that the output does not depend on are left out.

    Parameters
    ----------
    seed : tensor, shape (k, components, samples, outputs)
        Cotangents of the output register.
    along : Along, optional
        For products with second derivatives, where `seed` is the derivative of the cotangents along directions.
    single : collection of int, optional
        Stages for which the cotangents of the weights of opaque maps are wanted sample by sample, (k, samples, size).
    """
    duals: list[Tensor | None] = [None] * len(code.program.stages) + [seed]
    for number in range(len(code.program.stages) - 1, last - 1, -1):
        stage, dual = code.program.stages[number], duals[number + 1]
        if dual is None:
            continue
        own = code.pointwise.adjoint(stage, first[number], dual, None if along is None else along.bends[number])
        opaque, found, pulled = code.opaque[number], None, None
        if opaque is not None:
            y, delta = registers[stage.input], None if along is None else along.deltas[number]
            if along is not None and delta is not None:
                found, pulled = opaque.bend(weights, y, own, delta, along.direction, along.registers[stage.input])
            elif single is not None and number in single:
                found, pulled = opaque.rows(weights, y, own)
            else:
                found, pulled = opaque.adjoint(weights, y, own)
        yield number, own, dual, found
        duals[number + 1] = None
        if stage.input > 0 and number > last:
            if pulled is None:
                pulled = _pulled(code, number, weights, own, along)
            duals[stage.input] = _add(duals[stage.input], pulled)
        for j, factor in stage.carry:
            if j > 0:
                duals[j] = _add(duals[j], dual, factor)


def _pulled(code: Code, number: int, weights: Tensor, own: Tensor, along: Along | None) -> Tensor:
    """Return the cotangents of the register that an affine map reads."""
    stage = code.program.stages[number]
    pulled = own.flatten(0, 2) @ matrix_of(code, stage, weights)
    delta = None if along is None else along.deltas[number]
    if along is not None and delta is not None:
        matrix = matrix_of(code, stage, along.direction)
        if len(matrix) == 1:
            pulled.addmm_(delta.flatten(0, 2), matrix[0])
        else:
            one = delta.flatten(1, 2)
            pulled += torch.bmm(one.expand(len(matrix), *one.shape[1:]), matrix).flatten(0, 1)
    return pulled.unflatten(0, own.shape[:3])


SUMMED = 2048
"""Most terms that are summed up in float32; such sums are summed up in float64."""

FEWEST = 64
"""Fewest of them: small matrices have few entries, and only with many sums at a time is a GPU busy."""


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Return ``sum a b^T`` over components and samples, shape (k, rows, columns); one of both may have k = 1."""
    a, b = a.flatten(1, 2), b.flatten(1, 2)
    count, rows, columns = a.shape[1], a.shape[2], b.shape[2]
    # The sums take at most a fourth of the memory of what is summed.
    terms = min(max(FEWEST, -(-4 * rows * columns // (rows + columns))), SUMMED)
    if a.dtype == torch.float64 or count <= terms:
        return _products(a, b)
    full = count - count % terms
    blocks = _products(*(side[:, :full].unflatten(1, (-1, terms)) for side in (a, b)))
    return blocks.sum(dim=1, dtype=torch.float64) + _products(a[:, full:], b[:, full:])


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a^T b`` for (k, ..., terms, rows) and (k, ..., terms, columns), either with k = 1."""
    if len(a) == len(b) == 1 and a.ndim == 3:
        return (a[0].mT @ b[0])[None]
    return torch.matmul(a.mT, b)


def add_sums(
    code: Code,
    number: int,
    y: Tensor,
    own: Tensor,
    sums: Tensor,
    found: Tensor | None = None,
    more: Tensor | None = None,
) -> None:
    """Add what a stage with input y contributes to the derivative in the weights to `sums` (k, weights), in float64.

    `own` are the cotangents of its argument, `found` those of the weights of an opaque map, and `more` a product that
    the matrix of an affine one receives besides.
    """
    block = code.program.blocks[code.program.stages[number].block]
    if found is not None:
        sums[:, block.start : block.stop] += found
        return
    product = outer(own, y[None])
    if more is not None:
        product = product + more
    sums[:, block.start : block.bias_start] += product.flatten(1)
    if block.bias:
        sums[:, block.bias_start : block.stop] += own[:, 0].sum(dim=1, dtype=sums.dtype)


def second(code: Code, state: State, direction: Tensor, exact: bool, seeds: Callable[[Tensor], Tensor]) -> Tensor:
    """Return products with second derivatives in the weights, or with the curvature, shape (k, weights), in float64.

    Parameters
    ----------
    direction : tensor, shape (k, weights)
    seeds : callable
        From tangents of the output register to its cotangents.
    """
    registers, bends = tangent(code, state, direction, exact)
    output = registers[-1]
    assert output is not None, "a program has a stage"
    sums = torch.zeros(direction.shape, dtype=torch.float64, device=direction.device)
    along = Along(direction, registers, bends, state.deltas) if exact else None
    sweep = reverse(code, state.weights, state.registers, state.first, seeds(output), 0, along)
    for number, own, _, found in sweep:
        source = code.program.stages[number].input
        inner, delta = registers[source], state.deltas[number] if exact else None
        more = None if found is not None or inner is None or delta is None else outer(delta, inner)
        add_sums(code, number, state.registers[source], own, sums, found, more)
    return sums
