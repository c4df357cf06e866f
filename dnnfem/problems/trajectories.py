"""The states of a flow between encoder and decoder."""

from __future__ import annotations

import numpy as np

from dnnfem.kernels.activations import derivatives
from dnnfem.records import Array
from dnnfem.spaces import FlowSpace
from dnnfem.spaces.unrolling import unrolled


def trajectories(space: FlowSpace, x: Array, points: Array) -> Array:
    """Return the states at all nodes of the state mesh, shape (steps + 1, m, width).

    Parameters
    ----------
    space : FlowSpace
    x : array, shape (dim,)
    points : array, shape (m, inputs)
        In reference coordinates.

    Raises
    ------
    ValueError
        If a state is not finite: the message says from which step on.
    """
    code = unrolled(space)
    program, weights = code.program, code.program.weights(x)
    registers = [points]
    for stage in program.stages:
        block = program.blocks[stage.block]
        matrix = weights[block.start : block.bias_start].reshape(block.rows, block.columns)
        with np.errstate(over="ignore", invalid="ignore"):
            argument = registers[stage.input] @ matrix.T
            if block.bias:
                argument = argument + weights[block.bias_start : block.stop]
            value = stage.scale * derivatives(stage.activation, argument, 0)[0]
            for j, factor in stage.carry:
                value = value + factor * registers[j]
        registers.append(value)
    states = np.stack([registers[number] for number in code.states])
    finite = np.isfinite(states).all(axis=(1, 2))
    if not finite.all():
        step = int(np.argmin(finite))
        raise ValueError(
            f"x: the flow is not finite from step {step} of {space.steps} on, t = {space.state_mesh[step]:g}; "
            "expected smaller weights, or a finer state mesh"
        )
    return states
