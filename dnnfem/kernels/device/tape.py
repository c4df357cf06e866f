"""The forward sweep over a chunk of samples, and what is computed from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from dnnfem.kernels.device.graphs import is_small
from dnnfem.kernels.device.outputs import seeded, written
from dnnfem.kernels.device.pointwise import Kept, Tensor
from dnnfem.kernels.device.samples import Samples
from dnnfem.kernels.device.sweeps import State, add_sums, forward, placed, reverse, second

if TYPE_CHECKING:
    from dnnfem.kernels.device.evaluator import DeviceEvaluator


@dataclass(frozen=True, eq=False)
class Tape:
    """The forward sweep over a chunk, and what is computed from it when it is asked for.

    Attributes
    ----------
    evaluator : DeviceEvaluator
    weights : tensor, shape (weights,)
    samples : Samples
    registers, bases : list of tensors
        See `dnnfem.kernels.device.sweeps.forward`.
    law : LawLinearization
        At the outputs.
    """

    evaluator: DeviceEvaluator
    weights: Tensor
    samples: Samples
    registers: list[Tensor]
    bases: list[Tensor]
    law: Any
    _states: dict[bool, State] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, evaluator: DeviceEvaluator, weights: Tensor, samples: Samples) -> Tape:
        """Run the forward sweep."""
        registers, bases = forward(evaluator.code, weights, placed(evaluator.code, samples.reference))
        return cls(evaluator, weights, samples, registers, bases, evaluator.outputs.at(samples, registers[-1]))

    @cached_property
    def first(self) -> list[Kept]:
        """What first derivatives of the activations need."""
        code = self.evaluator.code
        return [code.pointwise.first(stage, b) for stage, b in zip(code.program.stages, self.bases, strict=True)]

    def sums(self, seeds: Tensor, into: Callable[[int, Tensor, Tensor], None] | None = None) -> Tensor:
        """Return the derivative in the weights for seeds (k, samples, size), shape (k, weights), in float64."""
        code = self.evaluator.code
        sums = torch.zeros((len(seeds), len(self.weights)), dtype=torch.float64, device=seeds.device)
        for number, own, dual, found in reverse(code, self.weights, self.registers, self.first, written(code, seeds)):
            add_sums(code, number, self.registers[code.program.stages[number].input], own, sums, found)
            if into is not None:
                into(number, own, dual)
        return sums

    @cached_property
    def recorded(self) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """The derivative in the weights, and the cotangents of arguments and of registers of each stage."""
        count = len(self.evaluator.program.stages)
        deltas: list[Tensor | None] = [None] * count
        duals: list[Tensor | None] = [None] * count

        def record(number: int, own: Tensor, dual: Tensor) -> None:
            deltas[number], duals[number] = own, dual

        sums = self.sums(self.evaluator.outputs.pulled(self.samples, [self.law.derivative]), record)
        return sums[0], deltas, duals

    def state(self, exact: bool) -> State:
        """Return what products with second derivatives need."""
        if exact not in self._states:
            e = self.evaluator
            bend = e.outputs.bend(self.samples, self.law, exact)
            bents: list[Kept] = []
            deltas: list[Tensor | None] = []
            if exact:
                _, deltas, duals = self.recorded
                parts = zip(e.program.stages, self.bases, self.first, deltas, duals, strict=True)
                for stage, base, first, delta, dual in parts:
                    if delta is None or dual is None:
                        bents.append(())
                    else:
                        bents.append(e.code.pointwise.second(stage, base, first, delta[0], dual[0]))
            self._states[exact] = State(self.weights, self.registers, self.first, bents, deltas, bend)
        return self._states[exact]

    def product(self, direction: Tensor, exact: bool) -> Tensor:
        """Return products with second derivatives along directions (k, weights), same shape, in float64."""
        e, state = self.evaluator, self.state(exact)

        def function(state: State, direction: Tensor) -> Tensor:
            return second(e.code, state, direction, exact, seeded(e.code, state.bend))

        if state.bend.numel() == 0:

            def seeds(tangents: Tensor) -> Tensor:
                return e.outputs.bent_register(self.samples, self.law, tangents, exact)

            return second(e.code, state, direction, exact, seeds)
        captured = e.capture and direction.is_cuda and len(direction) == 1 and e.chunks.count == 1
        # What an opaque map launches is not known.
        if not captured or e.program.is_opaque or not is_small(state):
            return function(state, direction)
        return e.graphs(exact, function, self, state, direction)
