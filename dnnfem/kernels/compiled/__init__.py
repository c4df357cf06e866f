"""The compiled backend: jets and their derivatives in the coefficients, on a CPU, with numba.

Samples go through the sweeps in tiles; between a forward or tangent sweep and the reverse sweep the law
is evaluated with NumPy.  Sums run in an order that depends neither on the number of threads nor on the memory
that may be used for what the forward sweep computed.
"""

from __future__ import annotations

import numba

from dnnfem.kernels.compiled import cache, drivers
from dnnfem.kernels.compiled.evaluator import CompiledEvaluator
from dnnfem.kernels.compiled.notice import announce
from dnnfem.kernels.program import Program
from dnnfem.kernels.protocol import MEMORY, Ansatz, Law, PlacedPoints

__all__ = ["CompiledEvaluator", "place", "resources"]

announce()
cache.discard(drivers.forward)


def resources() -> dict[str, str]:
    """Return the number of threads, and where compiled kernels are kept."""
    return {
        "threads of numba": str(numba.get_num_threads()),
        "kernels in": drivers.forward.stats.cache_path or "memory",
    }


def place(
    program: Program, quadrature: PlacedPoints, ansatz: Ansatz, law: Law, memory: int = MEMORY
) -> CompiledEvaluator:
    """Bind program, quadrature, ansatz and law; a linearization may keep `memory` bytes.

    Raises
    ------
    ValueError
        If the law reads derivatives that the network does not have, the points do not fit the program, or that has an
        opaque map.
    """
    program.require_affine("compiled")
    return CompiledEvaluator(program, quadrature, ansatz, law, memory)
