"""The states of a flow between encoder and decoder."""

from __future__ import annotations

import numpy as np

from dnnfem.kernels.activations import derivatives
from dnnfem.kernels.program import Program
from dnnfem.records import Array
from dnnfem.spaces import FlowSpace
from dnnfem.spaces.unrolling import unrolled


def registers(program: Program, x: Array, points: Array) -> list[Array]:
    """Return all registers of a program (m, width) for coefficients (dim,) and points (m, inputs), finite or not."""
    found, weights = [points], program.weights(x)
    for stage in program.stages:
        block = program.blocks[stage.block]
        own, read = weights[block.start : block.stop], found[stage.input]
        with np.errstate(over="ignore", invalid="ignore"):
            if block.map is not None:
                argument = np.asarray(block.map(own, read))
            else:
                argument = read @ own[: block.rows * block.columns].reshape(block.rows, block.columns).T
                if block.bias:
                    argument = argument + own[block.rows * block.columns :]
            value = stage.scale * derivatives(stage.activation, argument, 0)[0]
            for j, factor in stage.carry:
                value = value + factor * found[j]
        found.append(value)
    return found


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
    found = registers(code.program, x, points)
    states = np.stack([found[number] for number in code.states])
    finite = np.isfinite(states).all(axis=(1, 2))
    if not finite.all():
        step = int(np.argmin(finite))
        raise ValueError(
            f"x: the flow is not finite from step {step} of {space.steps} on, t = {space.state_mesh[step]:g}; "
            "expected smaller weights, or a finer state mesh"
        )
    return states
