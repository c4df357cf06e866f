"""Between the sweeps: the law at the outputs, and the ansatz that stands between both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dnnfem.kernels.compiled import drivers
from dnnfem.kernels.compiled.samples import Samples, Tape
from dnnfem.records import Array

if TYPE_CHECKING:
    from dnnfem.kernels.compiled.evaluator import CompiledEvaluator
    from dnnfem.kernels.compiled.linearization import CompiledLinearization

MOST = 16
"""Most numbers of a jet of which the second derivatives of the law are kept as matrices, sample by sample."""


def pulled(evaluator: CompiledEvaluator, samples: Samples, duals: list[Array], root: bool = False) -> Array:
    """Return ``w A^T dual`` for cotangents of the user's jet, shape (k, reads * outputs, samples).

    With `root`, the root of the weights takes their place.
    """
    e, outputs, components = evaluator, evaluator.program.outputs, evaluator.law.components
    weights = np.sqrt(samples.weights) if root else samples.weights
    result = np.empty((len(duals), len(e.code.reads), outputs, weights.size))
    with np.errstate(over="ignore", invalid="ignore"):
        for seed, dual in zip(result, duals, strict=True):
            shape = (len(components), outputs, weights.size)
            full = dual if dual.shape == shape else np.broadcast_to(dual, shape)
            np.multiply(weights, samples.map.cotangent(full), out=seed)
    return result.reshape(len(duals), -1, weights.size)


def bends(linearization: CompiledLinearization, tape: Tape, v: Array, exact: bool) -> tuple[Array, Array]:
    """Return what turns tangents of the outputs into seeds, for `dnnfem.kernels.compiled.drivers.differentiate`.

    These are the second derivatives of the law in the jet that it reads; where that has many numbers, the products of
    these with the tangents along the directions `v`, which are then computed twice.
    """
    e, none = linearization.evaluator, np.empty((0, 0, 0))
    shape = (len(e.code.reads), e.program.outputs)
    size = shape[0] * shape[1]
    if exact in tape.bends:
        return tape.bends[exact], none
    if size <= MOST:
        tangents = np.empty((size, size, tape.samples.weights.size))
        tangents[:] = np.eye(size)[:, :, None]
    else:
        tangents = np.empty((len(v), size, tape.samples.weights.size))
        sums = np.empty((linearization.groups, len(v), 0))
        linearization.run(drivers.differentiate, tape, len(v), tape.lam, v, none, tangents, sums, drivers.TANGENT)
    apply = tape.law.hessian if exact else tape.law.curvature
    with np.errstate(over="ignore", invalid="ignore"):
        jets = (tape.samples.map.tangent(jet.reshape(*shape, -1)) for jet in tangents)
        result = pulled(e, tape.samples, [apply(jet) for jet in jets])
    if size > MOST:
        return none, result
    tape.bends[exact] = result
    return result, none
