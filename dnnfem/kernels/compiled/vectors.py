"""Building blocks of loops over vectors, in the language of LLVM.

A compiler does not keep a block of sums in registers over a loop of unknown length, and passes arrays as many numbers;
so the innermost loops are written as vector instructions, and reach memory by its addresses.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dnnfem.kernels.compiled.tables import LANES

DOUBLE = ir.DoubleType()
VECTOR = ir.VectorType(DOUBLE, LANES)
INTEGER = ir.IntType(64)


def entry(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Return the address of an entry of a flat array."""
    data = context.make_array(array_type)(context, builder, value=array).data
    return builder.gep(data, [offset], inbounds=True)


def strided(builder: Any, base: Any, step: Any, count: int) -> list[Any]:
    """Return the addresses ``base, base + step, ...``."""
    return [builder.gep(base, [builder.mul(step, INTEGER(n))], inbounds=True) for n in range(count)]


def neighbours(builder: Any, base: Any, count: int) -> list[Any]:
    """Return the addresses of neighbouring vectors."""
    places = (builder.gep(base, [INTEGER(n * LANES)], inbounds=True) for n in range(count))
    return [builder.bitcast(place, VECTOR.as_pointer()) for place in places]


def loaded(builder: Any, places: list[Any]) -> list[Any]:
    """Return the vectors at some addresses."""
    return [builder.load(place, align=8) for place in places]


def spread(builder: Any, scalar: Any) -> Any:
    """Return a vector all entries of which are `scalar`."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def add_multiple(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Return ``total + a b``, fused where the processor can."""
    return builder.fadd(total, builder.fmul(a, b, flags=("contract",)), flags=("contract",))


class Loop:
    """A counted loop whose body carries a list of vectors, as phi nodes."""

    def __init__(self, builder: Any, count: Any, carried: list[Any]) -> None:
        self.builder, self.count = builder, count
        before = builder.block
        self.head = builder.append_basic_block("head")
        self.body = builder.append_basic_block("body")
        self.after = builder.append_basic_block("after")
        builder.branch(self.head)
        builder.position_at_end(self.head)
        self.index = builder.phi(INTEGER)
        self.index.add_incoming(INTEGER(0), before)
        self.values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(self.values, carried, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", self.index, count), self.body, self.after)
        builder.position_at_end(self.body)

    def close(self, values: list[Any]) -> list[Any]:
        """End the body with the new values; return those after the loop."""
        builder = self.builder
        self.index.add_incoming(builder.add(self.index, INTEGER(1)), builder.block)
        for phi, value in zip(self.values, values, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(self.head)
        builder.position_at_end(self.after)
        return self.values


@intrinsic
def address(typingctx: Any, array: Any, offset: Any) -> Any:
    """Return the address of an entry of a flat array: a call with addresses is cheaper than one with arrays."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(entry(context, builder, signature.args[0], *args), INTEGER)

    return types.int64(array, types.int64), codegen


@intrinsic
def prefetch(typingctx: Any, place: Any, lines: Any) -> Any:
    """Ask for some cache lines from an address on, in order to write to them; the memory need not exist."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        loop = Loop(builder, args[1], [])
        there = builder.add(args[0], builder.mul(loop.index, INTEGER(64)))
        builder.call(function, [builder.inttoptr(there, pointer), flag(1), flag(3), flag(1)])
        loop.close([])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
