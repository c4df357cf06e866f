"""Machine code for what an activation does: the operations of `dnnfem.kernels.jets` on vectors.

The drivers are the same for all jets, values alone among them.  What an activation does differs with the components, so
small functions are made for those at hand, in which everything stays in vector registers between one load and one store
of each number.  They are straight-line code, which LLVM compiles in milliseconds, and the drivers call them by address.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import count
from threading import RLock
from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic

from dnnfem.kernels.compiled.tables import CLOSED, INTERNAL, KEPT, LANES, OUT, ROWS
from dnnfem.kernels.compiled.vectors import DOUBLE, INTEGER, VECTOR, Loop, entry, spread
from dnnfem.kernels.components import Component
from dnnfem.kernels.jets import KINDS, SIGMAS, TEMPORARY, Operation, operations

POINTER = DOUBLE.as_pointer()
SIGNATURE = ir.FunctionType(ir.VoidType(), [POINTER, INTEGER] * 5 + [INTEGER, DOUBLE])
"""Addresses and distances of ``h sigma^(k)(z)`` (or only the value of ``sigma``) and of the components of z, the
direction, the cotangent and the result; how many numbers of each there are, and ``h``."""


class _Code:
    """Vector arithmetic at one place of a loop."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def constant(self, value: float) -> Any:
        """Return a vector of equal numbers."""
        return ir.Constant(VECTOR, [value] * LANES)

    def times(self, a: Any, b: Any) -> Any:
        """Return ``a b``; a number stands for a vector of it."""
        if isinstance(b, float):
            return a if b == 1.0 else self.times(a, self.constant(b))
        return self.builder.fmul(a, b, flags=("contract",))

    def plus(self, a: Any, b: Any) -> Any:
        """Return ``a + b``, fused with the product that one of them is."""
        return self.builder.fadd(a, self.constant(b) if isinstance(b, float) else b, flags=("contract",))

    def minus(self, a: float, b: Any) -> Any:
        """Return ``a - b``."""
        return self.builder.fsub(self.constant(a), b, flags=("contract",))

    def horner(self, x: Any, *coefficients: float) -> Any:
        """Return ``c_0 + c_1 x + ...``."""
        result = self.constant(coefficients[-1])
        for c in coefficients[-2::-1]:
            result = self.plus(self.times(result, x), c)
        return result


def _closed(code: _Code, activation: str, y: Any, h: Any) -> list[Any]:
    """Return ``h sigma^(k)``, k = 0, ..., 6, from the value of ``sigma``; code that is not used costs nothing."""
    value, zero = code.times(h, y), code.constant(0.0)
    if activation == "tanh":
        q = code.times(y, y)
        s = code.times(h, code.minus(1.0, q))
        r = code.times(s, y)
        third, fourth = code.times(s, code.horner(q, -2.0, 6.0)), code.times(r, code.horner(q, 16.0, -24.0))
        fifth, sixth = code.horner(q, 16.0, -120.0, 120.0), code.horner(q, -272.0, 960.0, -720.0)
        return [value, s, code.times(r, -2.0), third, fourth, code.times(s, fifth), code.times(r, sixth)]
    if activation == "sigmoid":
        d, t = code.times(y, code.minus(1.0, y)), code.horner(y, 1.0, -2.0)
        s = code.times(h, d)
        r = code.times(s, t)
        third, fourth = code.times(s, code.horner(d, 1.0, -6.0)), code.times(r, code.horner(d, 1.0, -12.0))
        fifth, sixth = code.horner(d, 1.0, -30.0, 120.0), code.horner(d, 1.0, -60.0, 360.0)
        return [value, s, r, third, fourth, code.times(s, fifth), code.times(r, sixth)]
    if activation == "relu":
        # The derivative at the kink is 0, in every backend.
        positive = code.builder.fcmp_ordered(">", y, zero)
        return [value, code.builder.select(positive, h, zero), *[zero] * 5]
    return [value, h, *[zero] * 5]


def _body(code: _Code, activation: str, list_: tuple[Operation, ...], count: int, arrays: Any, at: Any, h: Any) -> None:
    """Write the code for one vector of numbers from `at` on."""
    builder = code.builder

    def place(group: int, c: int) -> Any:
        base, step = arrays[group]
        there = builder.add(builder.mul(step, INTEGER(c)), at)
        return builder.bitcast(builder.gep(base, [there], inbounds=True), VECTOR.as_pointer())

    def loaded(group: int, c: int) -> Any:
        return builder.load(place(group, c), align=8)

    known: dict[int, Any] = {}
    if activation in CLOSED:
        known |= enumerate(_closed(code, activation, loaded(0, 0), h))

    def value(name: int) -> Any:
        if name not in known:
            group, c = divmod(name - SIGMAS, count)
            known[name] = loaded(0, name) if name < SIGMAS else loaded(1 + group, c)
        return known[name]

    written: set[int] = set()
    for o in list_:
        term = value(o.a) if o.b is None else code.times(value(o.a), value(o.b))
        if o.fresh:
            known[o.target] = code.times(term, o.coefficient)
        else:
            total = known[o.target]
            known[o.target] = code.plus(total, code.times(term, o.coefficient))
        written.add(o.target)
    for name in sorted(written):
        group, c = divmod(name - SIGMAS, count)
        if name >= SIGMAS and group < TEMPORARY:
            builder.store(known[name], place(1 + group, c), align=8)


@cache
def _engine() -> Any:
    """Return what keeps all machine code: one of its own for each function would take ten times the memory."""
    features = binding.get_host_cpu_features().flatten()
    options = {"cpu": binding.get_host_cpu_name(), "features": features, "opt": 2}
    machine = binding.Target.from_default_triple().create_target_machine(**options)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)


_numbers, _lock = count(), RLock()


@lru_cache(maxsize=64)
def functions(carried: tuple[Component, ...], duals: frozenset[int], activation: str) -> tuple[int, ...]:
    """Return the addresses of the machine code for all lists of operations; see `dnnfem.kernels.jets`."""
    lists = [operations(carried, kind, duals) for kind in KINDS]
    return machine_code(lists, len(carried), activation)


def machine_code(lists: Sequence[tuple[Operation, ...]], size: int, activation: str) -> tuple[int, ...]:
    """Return addresses of functions of type `SIGNATURE` that run operations on groups of `size` numbers."""
    module, names = ir.Module("pointwise"), []
    module.triple = binding.get_process_triple()
    for list_ in lists:
        names.append(f"run{next(_numbers)}")
        function = ir.Function(module, SIGNATURE, names[-1])
        builder = ir.IRBuilder(function.append_basic_block())
        *pairs, length, h = function.args
        arrays = list(zip(pairs[::2], pairs[1::2], strict=True))
        factor = spread(builder, h)
        loop = Loop(builder, builder.udiv(length, INTEGER(LANES)), [])
        at = builder.mul(loop.index, INTEGER(LANES))
        _body(_Code(builder), activation, list_, size, arrays, at, factor)
        loop.close([])
        builder.ret_void()
    with _lock:
        _engine().add_module(binding.parse_assembly(str(module)))
        _engine().finalize_object()
        return tuple(int(_engine().get_function_address(name)) for name in names)


@intrinsic
def _call(
    typingctx: Any, address: Any, s: Any, s0: Any, z: Any, z0: Any, d: Any, d0: Any, l_: Any, l0: Any, y: Any, y0: Any,
    steps: Any, size: Any, h: Any,
) -> Any:  # fmt: skip
    """Call a function by its address, with entries of five flat arrays."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address_, *places, steps_, size_, h_ = args
        kinds = signature.args[1:11:2]
        pointers = [
            entry(context, builder, kind, array, offset)
            for kind, array, offset in zip(kinds, places[::2], places[1::2], strict=True)
        ]
        distances = [builder.extract_value(steps_, n) for n in range(5)]
        arguments = [x for pair in zip(pointers, distances, strict=True) for x in pair]
        builder.call(builder.inttoptr(address_, SIGNATURE.as_pointer()), [*arguments, size_, h_])
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, s, i, z, i, d, i, l_, i, y, i, types.UniTuple(i, 5), i, types.float64), codegen


@njit(**INTERNAL)
def apply(code, kind, s, kept, k0, direction, dual, l0, result, o0, step):  # type: ignore[no-untyped-def]
    """Run one list of operations for stage `s` on all of its rows.

    Parameters
    ----------
    kind : int
        Number of the list.
    direction, dual : array
        Registers: tangents of the arguments, and cotangents from `l0` on.
    result : array
        From `o0` on: component c begins at ``c * step``.
    """
    stage, tile = code.stages[s], code.tile
    size, at, out, stride = stage[ROWS] * tile, k0 + stage[KEPT] * tile, stage[OUT] * tile, code.rows * tile
    # Components of the argument but the value follow what is kept of that.
    jets = k0 + (code.kept - code.components * code.rows) * tile + out
    steps = (size, stride, stride, stride, step)
    _call(
        code.functions[s, kind], kept, at, kept, jets, direction, out, dual, l0 + out, result, o0, steps, size,
        code.scales[s],
    )  # fmt: skip
