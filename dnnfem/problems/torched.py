"""Solutions as functions of torch: for laws that read them, and for automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dnnfem.kernels.program import Program
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.problems.exact import ExactAnsatz
from dnnfem.problems.lift import speed
from dnnfem.records import Array

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda z: z,
    "tanh": torch.tanh,
    "sin": torch.sin,
    "softplus": torch.nn.functional.softplus,
    "gelu": torch.nn.functional.gelu,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True, eq=False)
class TorchFunction:
    """A function of the trial space in torch: points (m, d) to values (m, outputs), both in float64.

    Parameters
    ----------
    program : Program
    x : array, shape (dim,)
        Coefficients.
    ansatz : AffineAnsatz or ExactAnsatz
    """

    program: Program
    x: Array
    ansatz: Any

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Return the values, as a differentiable function of the points."""
        if isinstance(self.ansatz, ExactAnsatz):
            conditions = self.ansatz.conditions
            lift: torch.Tensor = conditions.lift(points)
            factor: torch.Tensor = conditions.factor(points)
            return lift.T + factor[:, None] * self._network(points, self.ansatz.base)
        return self._network(points, self.ansatz)

    def with_speed(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values and their derivatives in the last coordinate, which are not differentiable in that one."""
        exact = isinstance(self.ansatz, ExactAnsatz)
        base = self.ansatz.base if exact else self.ansatz
        network = self._network(points, base)
        change = speed(lambda p: self._network(p, base).T, points).T
        if not exact:
            return network, change
        conditions = self.ansatz.conditions
        (lift, rate), time = conditions.lift_and_speed(points), points.shape[1] - 1
        factor, slope = conditions.factor(points, ())[:, None], conditions.factor(points, (time,))[:, None]
        return lift.T + factor * network, rate.T + slope * network + factor * change

    def _network(self, points: torch.Tensor, ansatz: AffineAnsatz) -> torch.Tensor:
        def here(array: Any) -> torch.Tensor:
            return torch.as_tensor(np.array(array), dtype=points.dtype, device=points.device)

        weights = here(self.program.weights(self.x))
        registers = [(points - here(ansatz.input_shift)) / here(ansatz.input_scale)]
        for stage in self.program.stages:
            block = self.program.blocks[stage.block]
            own, read = weights[block.start : block.stop], registers[stage.input]
            if block.map is not None:
                z = block.map(own, read)
            else:
                z = read @ own[: block.rows * block.columns].reshape(block.rows, block.columns).T
                if block.bias:
                    z = z + own[block.rows * block.columns :]
            value = stage.scale * ACTIVATIONS[stage.activation](z)
            for register, factor in stage.carry:
                value = value + factor * registers[register]
            registers.append(value)
        shift, scale = here(ansatz.output_shift), here(ansatz.output_scale)
        # Behind the functions there may be unknowns.
        values: torch.Tensor = shift + scale * registers[-1][:, : len(shift)]
        return values
