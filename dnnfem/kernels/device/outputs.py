"""Between the sweeps: the law at the outputs, and the ansatz that stands between both, in float64.

The numbers of a jet that are read of the outputs, components slower than outputs, are the last axis here, after the
samples; for ansatz and law the samples are last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dnnfem.kernels.device.pointwise import Tensor
from dnnfem.kernels.device.samples import Samples
from dnnfem.kernels.device.sweeps import Code

MOST = 16
"""Most numbers of a jet of which the second derivatives of the law are kept as matrices, sample by sample."""


def read(code: Code, register: Tensor) -> Tensor:
    """Return what is read of the output register (k, components, samples, outputs), shape (k, samples, size)."""
    return torch.stack([register[:, c] for c in code.reads], dim=2).flatten(2)


def written(code: Code, values: Tensor) -> Tensor:
    """Return the cotangents of the output register for those of what is read of it: the transpose of `read`."""
    if len(code.components) == 1 and len(code.reads) == 1:
        return values[:, None].contiguous()
    parts = values.unflatten(2, (len(code.reads), -1))
    register = values.new_zeros((len(values), len(code.components), values.shape[1], parts.shape[3]))
    for i, c in enumerate(code.reads):
        register[:, c] += parts[:, :, i]
    return register


def seeded(code: Code, bend: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the map from tangents of the output register to its cotangents for matrices (samples, size, size)."""

    def seeds(tangents: Tensor) -> Tensor:
        jets = read(code, tangents)
        product = bend[:, 0] * jets if bend.shape[1] == 1 else torch.einsum("nij,knj->kni", bend, jets)
        return written(code, product)

    return seeds


@dataclass(frozen=True, eq=False)
class Outputs:
    """Ansatz and law, with their arrays on the device, and the program whose outputs they read."""

    code: Code
    ansatz: Any
    law: Any

    @property
    def shape(self) -> tuple[int, int]:
        """(components that are read, outputs)."""
        return len(self.code.reads), self.code.program.outputs

    def _jet(self, values: Tensor) -> Tensor:
        """Return numbers (samples, size) as a reference jet (components, outputs, samples)."""
        return values.to(torch.float64).mT.reshape(*self.shape, -1)

    def jet(self, samples: Samples, output: Tensor) -> Tensor:
        """Return the user's jet (components, outputs, samples) for an output register."""
        return samples.map.jet(self._jet(read(self.code, output[None])[0]))

    def at(self, samples: Samples, output: Tensor) -> Any:
        """Return the law at an output register (components, samples, outputs)."""
        return self.law.linearize(samples.points, samples.data, self.jet(samples, output))

    def pulled(self, samples: Samples, duals: list[Tensor], root: bool = False) -> Tensor:
        """Return ``w A^T dual`` for cotangents of the user's jet, shape (k, samples, size).

        With `root`, the root of the weights takes their place.
        """
        weights = torch.sqrt(samples.weights) if root else samples.weights
        full = (len(self.law.components), self.code.program.outputs, len(weights))
        found = [weights * samples.map.cotangent(dual.expand(full)) for dual in duals]
        return torch.stack([dual.flatten(0, 1).mT for dual in found]).to(samples.reference.dtype)

    def bent(self, samples: Samples, here: Any, jets: Tensor, exact: bool) -> Tensor:
        """Return products with the second derivatives of the law for jets (k, samples, size), same shape."""
        apply = here.hessian if exact else here.curvature
        return self.pulled(samples, [apply(samples.map.tangent(self._jet(values))) for values in jets])

    def bent_register(self, samples: Samples, here: Any, tangents: Tensor, exact: bool) -> Tensor:
        """Return the cotangents of the output register for its tangents (k, components, samples, outputs)."""
        return written(self.code, self.bent(samples, here, read(self.code, tangents), exact))

    def bend(self, samples: Samples, here: Any, exact: bool) -> Tensor:
        """Return the second derivatives of the law as matrices (samples, size, size); nothing if they are large."""
        size, count = self.shape[0] * self.shape[1], len(samples.weights)
        if size > MOST:
            return samples.reference.new_empty(0)
        units = torch.eye(size, dtype=torch.float64, device=samples.weights.device)
        columns = self.bent(samples, here, units[:, None].expand(size, count, size), exact)
        return columns.permute(1, 2, 0).contiguous()
