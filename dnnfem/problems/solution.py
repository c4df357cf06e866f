"""Solutions: discrete functions in the user's coordinates and units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnfem import kernels, problems
from dnnfem.functionals.trajectories import blown_up, trajectories
from dnnfem.kernels.components import Component
from dnnfem.kernels.laws import Misfit
from dnnfem.kernels.protocol import Ansatz
from dnnfem.problems.unknowns import UnknownsAnsatz, of_functions
from dnnfem.quadrature import Quadrature, as_finite
from dnnfem.records import Array
from dnnfem.spaces import FlowSpace
from dnnfem.spaces.layout import NetworkSpace, check_coefficients


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """A function of the trial space, callable at points.

    Parameters
    ----------
    space : NetworkSpace
    x : array, shape (dim,)
        Coefficients; what is kept is a copy that cannot be written to.
    ansatz : Ansatz
        Coordinates and units.
    backend, device, precision : str, optional
        Kernels, see `dnnfem.kernels.place`.

    Raises
    ------
    ValueError
        If `x` is no finite vector of the space.
    """

    space: NetworkSpace
    x: Array
    ansatz: Ansatz
    backend: str | None = None
    device: str | None = None
    precision: str = "double"

    def __post_init__(self) -> None:
        x = check_coefficients(self.space, self.x, finite=True)
        x.setflags(write=False)
        object.__setattr__(self, "x", x)

    def __repr__(self) -> str:
        return f"Solution({self.space}, {self.space.dim} coefficients)"

    def _checked(self, points: Any) -> Array:
        checked = as_finite("points", points, 2)
        if checked.shape[1] != self.space.inputs:
            raise ValueError(f"points: got shape {np.shape(points)}, expected (m, {self.space.inputs})")
        return checked

    def _jet(self, points: Any, components: tuple[Component, ...]) -> Array:
        checked = self._checked(points)
        if len(checked) == 0:
            return np.empty((len(components), self.space.outputs, 0))
        place = Quadrature(checked[:1], np.ones(1), np.zeros((1, self.space.outputs)))
        where = (self.backend, self.device, self.precision)
        evaluator = kernels.place(self.space.program, place, self.ansatz, Misfit(), None, *where)
        # A copy, as kernels would be compiled once more for a vector that is read-only.
        jet = evaluator.jet(self.x.copy(), checked, components)[:, : self.space.outputs]
        if isinstance(self.space, FlowSpace) and not np.isfinite(jet).all():
            # Says at which step.
            self.trajectories(points)
        return jet

    def __call__(self, points: Any) -> Array:
        """Return the values at points (m, d), shape (m, outputs).

        Raises
        ------
        ValueError
            If the points have another shape or are not finite, or a flow blows up: the message says at which step.
        """
        return np.asarray(self._jet(points, ((),))[0].T)

    def trajectories(self, points: Any) -> Array:
        """Return the states of a flow that begin at points (m, d), shape (steps + 1, m, width).

        They are those of the network, before what an ansatz makes of its output, at the nodes of the state mesh.

        Raises
        ------
        ValueError
            If the space is no `FlowSpace`, the points have another shape or are not finite, or a state is not finite:
            the message says from which step on.
        """
        if not isinstance(self.space, FlowSpace):
            raise ValueError(f"space: got {self.space}, expected a FlowSpace: only a flow has trajectories")
        states = trajectories(self.space, self.x, self.ansatz.reference(self._checked(points)))
        words = blown_up(self.space, states)
        if words is not None:
            raise ValueError(f"x: {words}")
        return states

    def to_torch(self, trainable: bool = False) -> Any:
        """Return the same function as a module of torch: points (m, d) to values (m, outputs), in the type of points.

        Parameters
        ----------
        trainable : bool
            Whether the coefficients are a parameter of the module, ``coefficients`` (dim,), for the optimizers of
            torch.  They are those of the space: ``problem.solution(space, module.coefficients.detach().numpy())`` is
            the way back.  Otherwise the module has no parameters.
        """
        return problems.TorchFunction(self.space.program, self.x, of_functions(self.ansatz), trainable)

    @property
    def unknowns(self) -> dict[str, float]:
        """Values of the unknown coefficients of an inverse problem, by name."""
        return self.ansatz.unknowns.values(self.x) if isinstance(self.ansatz, UnknownsAnsatz) else {}

    def gradient(self, points: Any) -> Array:
        """Return the gradients at points (m, d) in the user's coordinates, shape (m, outputs, d).

        Raises
        ------
        ValueError
            As for values.
        """
        components: tuple[Component, ...] = tuple((axis,) for axis in range(self.space.inputs))
        return np.transpose(self._jet(points, components), (2, 1, 0))
