"""Solutions as modules of torch: for laws that read them, for automatic differentiation, to be trained elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dnnfem.kernels.program import Program
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


class TorchFunction(torch.nn.Module):
    """A function of the trial space in torch: points (m, d) to values (m, outputs), in the type of the points.

    Parameters
    ----------
    program : Program
    x : array, shape (dim,)
        Coefficients.
    ansatz : AffineAnsatz or ExactAnsatz
    trainable : bool
        Whether the coefficients are a parameter, ``coefficients`` (dim,), that torch may change; otherwise the module
        has none.
    """

    def __init__(self, program: Program, x: Array, ansatz: Any, trainable: bool = False) -> None:
        super().__init__()
        self.program, self.ansatz = program, ansatz
        base = ansatz.base if isinstance(ansatz, ExactAnsatz) else ansatz
        constants = {
            name: getattr(base, name) for name in ("input_shift", "input_scale", "output_shift", "output_scale")
        }
        if trainable:
            self.coefficients = torch.nn.Parameter(torch.tensor(x))
            entries = program.embedding.tocoo()
            constants |= {"offset": program.offset, "entries": entries.data}
            constants |= {"rows": np.int64(entries.row), "columns": np.int64(entries.col)}
        else:
            constants["fixed"] = program.weights(x)
        for name, array in constants.items():
            self.register_buffer(name, torch.tensor(np.array(array)))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return the values, as a differentiable function of the points."""
        if not isinstance(self.ansatz, ExactAnsatz):
            return self._network(points)
        conditions = self.ansatz.conditions
        lift: torch.Tensor = conditions.lift(points)
        factor: torch.Tensor = conditions.factor(points)
        return lift.T + factor[:, None] * self._network(points)

    def with_speed(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values and their derivatives in the last coordinate, which are not differentiable in that one."""
        network, change = self._network(points), speed(lambda p: self._network(p).T, points).T
        if not isinstance(self.ansatz, ExactAnsatz):
            return network, change
        conditions: Any = self.ansatz.conditions
        (lift, rate), time = conditions.lift_and_speed(points), points.shape[1] - 1
        factor, slope = conditions.factor(points, ())[:, None], conditions.factor(points, (time,))[:, None]
        return lift.T + factor * network, rate.T + slope * network + factor * change

    def _weights(self) -> torch.Tensor:
        """Return the weights of the program."""
        buffers = dict(self.named_buffers())
        if "fixed" in buffers:
            return buffers["fixed"]
        products = buffers["entries"] * self.coefficients[buffers["columns"]]
        return buffers["offset"].index_add(0, buffers["rows"], products)

    def _network(self, points: torch.Tensor) -> torch.Tensor:
        here = {name: buffer.to(points) for name, buffer in self.named_buffers() if "put_" in name}
        weights = self._weights().to(points)
        registers = [(points - here["input_shift"]) / here["input_scale"]]
        for stage in self.program.stages:
            block = self.program.blocks[stage.block]
            own, read = weights[block.start : block.stop], registers[stage.input]
            if block.map is not None:
                z = block.map(own, read)
            else:
                z = read @ own[: block.rows * block.columns].reshape(block.rows, block.columns).T
                if block.bias:
                    z = z + own[block.rows * block.columns :]
            value = points.new_tensor(stage.scale) * ACTIVATIONS[stage.activation](z)
            for register, factor in stage.carry:
                value = value + points.new_tensor(factor) * registers[register]
            registers.append(value)
        shift, scale = here["output_shift"], here["output_scale"]
        # Behind the functions there may be unknowns.
        values: torch.Tensor = shift + scale * registers[-1][:, : len(shift)]
        return values
