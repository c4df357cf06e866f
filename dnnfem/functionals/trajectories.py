"""The states of a flow between encoder and decoder, and where they cease to be finite."""

from __future__ import annotations

import numpy as np

from dnnfem.functionals.protocols import Functional
from dnnfem.functionals.sampling import integrals_of
from dnnfem.kernels.activations import derivatives
from dnnfem.kernels.program import Program
from dnnfem.records import Array
from dnnfem.spaces import FlowSpace
from dnnfem.spaces.unrolling import unrolled

TILE = 4096
"""Samples whose states are looked at together."""


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
    """Return the states at all nodes of the state mesh, shape (steps + 1, m, width), finite or not.

    Parameters
    ----------
    space : FlowSpace
    x : array, shape (dim,)
    points : array, shape (m, inputs)
        In reference coordinates.
    """
    code = unrolled(space)
    found = registers(code.program, x, points)
    return np.stack([found[number] for number in code.states])


def blown_up(space: FlowSpace, states: Array) -> str | None:
    """Return a sentence that says from which step on `trajectories` are not finite; None if they are."""
    finite = np.isfinite(states).all(axis=(1, 2))
    if finite.all():
        return None
    step = int(np.argmin(finite))
    return (
        f"the flow is not finite from step {step} of {space.steps} on, t = {space.state_mesh[step]:g}; "
        "expected smaller weights, or a finer state mesh"
    )


def why_not_finite(functional: Functional, x: Array) -> str:
    """Return a sentence that says what is not finite at `x`: of a flow, from which step on."""
    space = functional.space
    if isinstance(space, FlowSpace):
        for _, integral in integrals_of(functional):
            points = integral.ansatz.reference(integral.quadrature.points)
            for begin in range(0, len(points), TILE):
                words = blown_up(space, trajectories(space, x, points[begin : begin + TILE]))
                if words is not None:
                    return words
    return "the network, or what a law makes of it, is not finite; expected smaller weights"
