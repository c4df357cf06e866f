"""Runs the operations of `dnnfem.kernels.jets` on the rows of one stage of a tile."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from dnnfem.kernels.compiled.elementary import higher
from dnnfem.kernels.compiled.products import DOUBLE, INTEGER, _add_multiple, _at, _loaded, _Loop, _spread, _vectors
from dnnfem.kernels.compiled.tables import ACTIVATION, INTERNAL, KEPT, LANES, OPEN, OUT, ROWS
from dnnfem.kernels.jets import DIRECTION, DUAL, RESULT, SIGMAS, TEMPORARY, Z

VECTORS = 4
"""Vectors that are worked on at a time."""


@intrinsic
def _address(typingctx: Any, array: Any, offset: Any) -> Any:
    """Return the address of an entry of a flat array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(_at(context, builder, signature.args[0], *args), INTEGER)

    return types.int64(array, types.int64), codegen


def _accumulate(start: bool, factors: int) -> Any:
    """Return the intrinsic ``target = (0 if start else target) + coefficient * a * b``, with one or two factors."""

    @intrinsic
    def operation(typingctx: Any, target: Any, a: Any, b: Any, coefficient: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            *addresses, coefficient_, count_ = args
            bases = [builder.inttoptr(address, DOUBLE.as_pointer()) for address in addresses]
            scale = _spread(builder, coefficient_)
            loop = _Loop(builder, builder.udiv(count_, INTEGER(LANES * VECTORS)), [])
            at = builder.mul(loop.index, INTEGER(LANES * VECTORS))
            target_, a_, b_ = (_vectors(builder, builder.gep(base, [at], inbounds=True), VECTORS) for base in bases)
            terms = _loaded(builder, a_)
            if factors == 2:
                terms = [builder.fmul(x, y) for x, y in zip(terms, _loaded(builder, b_), strict=True)]
            if start:
                sums = [builder.fmul(scale, term) for term in terms]
            else:
                before = _loaded(builder, target_)
                sums = [_add_multiple(builder, x, scale, term) for x, term in zip(before, terms, strict=True)]
            for place, value in zip(target_, sums, strict=True):
                builder.store(value, place, align=8)
            loop.close([])
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, i, i, types.float64, i), codegen

    return operation


_set_one, _set_two, _add_one, _add_two = (_accumulate(start, factors) for start in (True, False) for factors in (1, 2))


@njit(**INTERNAL)
def apply(code, kind, s, kept, k0, direction, dual, l0, result, o0, step, work):  # type: ignore[no-untyped-def]
    """Run one list of operations for stage `s` on all of its rows.

    Parameters
    ----------
    kind : int
        Number of the list.
    direction, dual : array
        Registers: tangents of the arguments, and cotangents from `l0` on.
    result : array
        From `o0` on: component c begins at ``c * step``.
    work : array
        Room for rows that last for one strip, and for two numbers of each row.
    """
    stage, tile, count = code.stages[s], code.tile, code.components
    size, at, out, stride = stage[ROWS] * tile, k0 + stage[KEPT] * tile, stage[OUT] * tile, code.rows * tile
    begin, end, top, strip = code.lists[kind, 0], code.lists[kind, 1], code.lists[kind, 2], code.lists[kind, 3]
    # Every row has an address, and moves on from strip to strip or is there for each of them alone.
    rows = len(work) // (code.strip + 2)
    addresses, moves = work[code.strip * rows :].view(np.int64), work[(code.strip + 1) * rows :].view(np.int64)
    for row in range(rows):
        addresses[row], moves[row] = _address(work, row * code.strip), 0
    # Components of the argument but the value follow what is kept of that.
    jets = k0 + (code.kept - count * code.rows) * tile + out
    for c in range(count):
        row = SIGMAS + c
        addresses[row + Z * count] = _address(kept, jets + c * stride) if c > 0 else 0
        addresses[row + DIRECTION * count] = _address(direction, out + c * stride)
        addresses[row + DUAL * count] = _address(dual, l0 + out + c * stride)
        addresses[row + RESULT * count] = _address(result, o0 + c * step)
    moves[SIGMAS : SIGMAS + TEMPORARY * count] = 8
    if stage[OPEN]:
        for k in range(top + 1):
            addresses[k], moves[k] = _address(kept, at + k * size), 8
    for start in range(0, size, strip):
        length = min(strip, size - start)
        if not stage[OPEN]:
            higher(stage[ACTIVATION], code.scales[s], kept[at + start : at + start + length], work, code.strip, top)
        for n in range(begin, end):
            target, a, b = code.operations[n, 0], code.operations[n, 1], code.operations[n, 2]
            x, y = addresses[target] + moves[target] * start, addresses[a] + moves[a] * start
            z = addresses[b] + moves[b] * start if b >= 0 else y
            coefficient, fresh = code.coefficients[n], code.operations[n, 3]
            if b >= 0:
                if fresh:
                    _set_two(x, y, z, coefficient, length)
                else:
                    _add_two(x, y, z, coefficient, length)
            elif fresh:
                _set_one(x, y, y, coefficient, length)
            else:
                _add_one(x, y, y, coefficient, length)
