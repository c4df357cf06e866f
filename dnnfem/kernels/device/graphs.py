"""CUDA graphs: a product of a small network as one launch.

A product is some dozens of kernels, each of which takes less time than its launch if the network is small.  A graph is
captured once for all linearizations with the same shapes; it owns the tensors that it reads, and what a linearization
has kept is copied there when that is asked for its first product.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from dnnfem.kernels.device.pointwise import Tensor
from dnnfem.kernels.device.sweeps import State

SMALL = 2**27
"""Bytes per stage of the largest state that is copied: a GPU moves them in the time of some ten launches."""

FIRST = 8
"""Products that are launched kernel by kernel before there is a graph: a capture takes as long as some dozens, and the
functional on a small batch is asked for few."""

WARMUPS = 3
"""Runs before the capture, in which libraries take what memory they need."""


def leaves(value: Any) -> list[Tensor]:
    """Return all tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    return [leaf for part in value or () for leaf in leaves(part)]


def _copied(value: Any) -> Any:
    """Return nested lists and tuples with copies of their tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, State):
        return State(*map(_copied, value))
    return None if value is None else type(value)(map(_copied, value))


def is_small(state: State) -> bool:
    """Whether a state is so small that launches cost more than copying it."""
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(state)) <= SMALL * len(state.first)


@dataclass(frozen=True, eq=False)
class Captured:
    """A product whose kernels are launched together.

    Attributes
    ----------
    graph : torch.cuda.CUDAGraph
    state : State
        What it reads.
    direction, result : tensor
        What it takes and gives.
    owner : list
        A weak reference to what the state was copied from last.
    """

    graph: Any
    state: State
    direction: Tensor
    result: Tensor
    owner: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, function: Callable[[State, Tensor], Tensor], state: State, direction: Tensor) -> Captured:
        """Capture a function of a state and a direction that does nothing but launch kernels."""
        state, direction = _copied(state), direction.clone()
        stream = torch.cuda.Stream(direction.device)
        stream.wait_stream(torch.cuda.current_stream(direction.device))
        with torch.cuda.stream(stream):
            for _ in range(WARMUPS):
                function(state, direction)
        torch.cuda.current_stream(direction.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(direction.device), torch.cuda.graph(graph):
            result = function(state, direction)
        return cls(graph, state, direction, result)

    def __call__(self, owner: object, state: State, direction: Tensor) -> Tensor:
        """Return the product; `state` is copied unless the last product was for the same `owner`."""
        if not self.owner or self.owner[0]() is not owner:
            torch._foreach_copy_(leaves(self.state), leaves(state))
            self.owner[:] = [weakref.ref(owner)]
        self.direction.copy_(direction)
        self.graph.replay()
        return self.result.clone()


@dataclass(frozen=True, eq=False)
class Graphs:
    """The graphs of an evaluator, that of the Hessian and that of the curvature, once there are enough products."""

    found: dict[bool, Captured] = field(default_factory=dict)
    _asked: dict[bool, int] = field(default_factory=dict)

    def __call__(
        self,
        exact: bool,
        function: Callable[[State, Tensor], Tensor],
        owner: object,
        state: State,
        direction: Tensor,
    ) -> Tensor:
        """Return ``function(state, direction)``; `owner` is what the state belongs to."""
        if exact not in self.found:
            self._asked[exact] = self._asked.get(exact, 0) + 1
            if self._asked[exact] <= FIRST:
                return function(state, direction)
            self.found[exact] = Captured.of(function, state, direction)
        return self.found[exact](owner, state, direction)
