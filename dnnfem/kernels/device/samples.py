"""Samples on the device, in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dnnfem.kernels.components import Component
from dnnfem.kernels.device.place import Place
from dnnfem.kernels.device.pointwise import Tensor
from dnnfem.kernels.protocol import PlacedPoints

CHUNK = 2**24
"""Bytes that are worked on at a time on a CPU."""

GPU_CHUNK = 2**31
"""The same on a GPU, which is idle unless there is much to do; at most a sixteenth of its memory."""

MOST_SAMPLES = 2**16
"""In a chunk."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Some samples on the device.

    Attributes
    ----------
    points, data : tensor, shape (samples, d or k), float64
        In the user's coordinates, for the law.
    weights : tensor, shape (samples,), float64
    reference : tensor, shape (samples, inputs)
        Reference coordinates, in the type of the registers.
    map : JetMap
        From reference jets to the user's.
    """

    points: Tensor
    data: Tensor
    weights: Tensor
    reference: Tensor
    map: Any


@dataclass(frozen=True, eq=False)
class Chunks:
    """The samples of a quadrature, some at a time.

    What belongs to a chunk depends on the program and the kind of the device alone: sums are the same to the last bit
    whatever the memory is, which only says how many chunks are held.

    Parameters
    ----------
    quadrature : PlacedPoints
    ansatz
        With its arrays on the device.
    components
        What the law reads.
    place : Place
    bytes : int
        What has to be held for one sample.
    memory : int
        Bytes that may be held.
    """

    quadrature: PlacedPoints
    ansatz: Any
    components: Sequence[Component]
    place: Place
    bytes: int
    memory: int

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.quadrature.points)

    @property
    def step(self) -> int:
        """Samples of a chunk."""
        budget = min(GPU_CHUNK, self.place.size // 16) if self.place.is_gpu else CHUNK
        return max(1, min(budget // self.bytes, MOST_SAMPLES))

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self.size // self.step)

    @property
    def held(self) -> int:
        """Number of chunks, the first ones, that are held."""
        return min(self.count, self.memory // (self.bytes * min(self.step, self.size)))

    def rows(self, number: int) -> slice:
        """Return the rows of the quadrature that a chunk has."""
        return slice(number * self.step, min((number + 1) * self.step, self.size))

    def samples(self, number: int) -> Samples:
        """Bring a chunk to the device."""
        q, rows = self.quadrature, self.rows(number)
        points, data, weights = (self.place.tensor(array[rows]) for array in (q.points, q.data, q.weights))
        return self.of(points, data, weights, self.components)

    def of(self, points: Tensor, data: Tensor, weights: Tensor, components: Sequence[Component]) -> Samples:
        """Return samples that are on the device, with their reference coordinates, for laws of some components."""
        reference: Tensor = self.ansatz.reference(points)
        reference = reference.to(self.place.dtype).contiguous()
        return Samples(points, data, weights, reference, self.ansatz.at(points, components))
