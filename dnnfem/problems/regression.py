"""Regression: the law is the misfit to given targets, the quadrature is the sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem import kernels
from dnnfem.functionals import Integral
from dnnfem.functionals.integral import budget
from dnnfem.kernels.laws import Misfit
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.problems.solution import Solution
from dnnfem.problems.unknowns import check_unknowns
from dnnfem.quadrature import Quadrature, as_finite
from dnnfem.records import Array
from dnnfem.spaces.layout import NetworkSpace


@dataclass(frozen=True, eq=False)
class Regression:
    """Weighted least squares: ``J = sum_q w_q |(u(p_q) - y_q) / s|^2 / 2`` with weights that sum to one.

    Inputs are mapped to [-1, 1]^d and targets to mean 0 and deviation ``s = 1`` per output, so nothing has to be scaled
    by hand; `rms` turns estimates back into the user's units.  An input that is the same for all samples says nothing:
    solutions do not depend on it.

    Parameters
    ----------
    inputs : array, shape (m, d) or (m,)
        At least two samples.  float32 stays float32, everything else becomes float64; computed is in float64.
        Contiguous arrays of these types are not copied, so they must not be changed while the problem is in use.
    targets : array, shape (m, outputs) or (m,)
    weights : array, shape (m,), optional
        Positive; default equal.
    backend : str, optional
        ``"compiled"``, ``"reference"`` or ``"device"``; default the first, or the last where a space has a field that
        only torch can run.  ``"distributed"``: in several processes, see `dnnfem.distributed`.
    memory : int, optional
        Bytes that a linearization may keep besides the samples; default half of what they take, at least 300 MB; on a
        GPU a fourth of what is free, for both.
    device : str, optional
        ``"cuda"``, ``"cuda:1"``, ...: kernels are those of the backend ``"device"``, on that GPU; or ``"cpu"``, for the
        same kernels on the CPU.
    precision : str, optional
        ``"double"``, or ``"single"`` on a device: what is as large as samples times neurons is in float32, everything
        that is summed in float64.

    Raises
    ------
    ValueError
        On NaN or infinity, non-numeric data, shapes that do not match or fewer than two samples.

    Examples
    --------
    >>> t = np.linspace(0.0, 3.0, 50)
    >>> problem = fem.Regression(t, np.sin(t))
    >>> J = problem.on(fem.FeedforwardSpace(inputs=1, hidden=(4,), outputs=1))
    >>> u = problem.solution(J.space, fem.gauss_newton(J, J.space.initial(seed=0), 1e-4).x)
    >>> u(np.array([1.5])).round(3)
    array([[0.997]])
    """

    inputs: Array
    targets: Array
    weights: Array | None = None
    backend: str | None = None
    memory: int | None = None
    device: str | None = None
    precision: str = "double"
    quadrature: Quadrature = field(init=False)
    ansatz: AffineAnsatz = field(init=False)

    def __post_init__(self) -> None:
        points = as_finite("inputs", self.inputs, 2)
        targets = as_finite("targets", self.targets, 2)
        if len(points) != len(targets):
            raise ValueError(f"targets: got {len(targets)} rows, expected {len(points)} as inputs have {points.shape}")
        if len(points) < 2:
            raise ValueError(f"inputs: got {len(points)} samples, expected at least two")
        if points.shape[1] == 0 or targets.shape[1] == 0:
            raise ValueError(
                f"inputs, targets: got shapes {points.shape}, {targets.shape}, expected at least one column"
            )
        kernels.check(self.backend, self.device, self.precision)
        quadrature = Quadrature.samples(points, targets, self.weights)
        ansatz = AffineAnsatz.fitted(points, targets, quadrature.weights)
        budget(self.memory, quadrature)
        for name, value in (
            ("inputs", points),
            ("targets", targets),
            ("quadrature", quadrature),
            ("ansatz", ansatz),
        ):
            object.__setattr__(self, name, value)

    @property
    def identity(self) -> dict[str, Any]:
        """What an archive compares when a run is resumed."""
        return {
            "kind": "regression",
            "data": self.quadrature.hash,
            "input_shift": self.ansatz.input_shift,
            "input_scale": self.ansatz.input_scale,
            "output_shift": self.ansatz.output_shift,
            "output_scale": self.ansatz.output_scale,
        }

    def on(self, space: NetworkSpace, quadrature: Quadrature | None = None) -> Integral:
        """Discretize: return the functional on `space`.

        Raises
        ------
        ValueError
            If the space does not have the numbers of inputs and outputs of the data, or has unknowns.
        """
        quadrature = self.quadrature if quadrature is None else quadrature
        if space.outputs != quadrature.data.shape[1]:
            raise ValueError(f"space: got {space.outputs} outputs ({space}), expected {quadrature.data.shape[1]}")
        check_unknowns(space)
        law = Misfit(self.ansatz.output_shift, self.ansatz.output_scale)
        memory, ansatz = budget(self.memory, self.quadrature, self.device), self.ansatz.inputs_only
        return Integral(space, quadrature, ansatz, law, self.backend, memory, self.device, self.precision)

    def solution(self, space: NetworkSpace, x: Array) -> Solution:
        """Return the function with coefficients `x`, in the user's coordinates and units.

        Raises
        ------
        ValueError
            If `x` is no finite vector of the space.
        """
        return Solution(space, x, self.ansatz, self.backend, self.device, self.precision)

    @cached_property
    def unit(self) -> float:
        """Deviation of the targets, root of the mean square over the outputs."""
        return float(np.sqrt(np.mean(self.ansatz.output_scale**2)))

    def rms(self, total: float) -> float:
        """Turn an estimate ``sqrt(2 (J - J*))`` into a root mean square error in the units of the targets.

        Exact for one output; for several, the mean over the outputs if the error is spread like the targets.
        """
        return float(total / np.sqrt(self.targets.shape[1]) * self.unit)
