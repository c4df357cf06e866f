"""Lift and factor of conditions that are satisfied exactly: ``u = lift + factor * N``, see `dnnfem.problems.exact`.

On a box, conditions on sides define one interpolation operator per axis,

    P_i g = (1 - s_i) g|_{s_i = 0} + s_i g|_{s_i = 1},     P_i g = g|_{s_i = 0} if there is only one side,

and for the axis of time ``P_t g = u_0 + (t - t_0) v_0``, the last term if the velocity is given.  The lift is their
Boolean sum ``(I - prod_i (I - P_i)) g`` (transfinite interpolation: Gordon and Hall 1973): it reads `g` on the sides
alone and is equal to it on all of them.  The factor is the product of ``4 s (1 - s)``, ``s``, ``1 - s`` and ``s_t^2``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np
import torch

from dnnfem.kernels.components import Component, Laplacian, squares
from dnnfem.problems.conditions import Misfit, Side, Values, values
from dnnfem.problems.fields import Tensor, tensor
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array

MOST_AXES = 6
"""Axes with conditions: the lift has up to ``3^axes`` terms."""

CONSISTENT = 1e-8
"""Relative difference of two conditions where they meet that counts as rounding."""

SAMPLES = 64
"""Random points where conditions are compared."""

GRAPH, BLOCK = 2**18, 2**12
"""Faces times points that are differentiated at a time, and most points: in five dimensions the graphs of a point take
a megabyte, and they are large as well where initial values are those of a chain of time slabs."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """Conditions on sides of a box that hold exactly.

    Parameters
    ----------
    low, high : tuple of float
        The box; time is the last axis, if `space` is one less.
    space, outputs : int
        Number of space coordinates and of outputs.
    sides : mapping of (axis, end) to Values
        Dirichlet conditions, and the initial value as ``(space, 0)``.
    velocity : Values, optional
        The initial first derivative in time.
    periodic : mapping of int to int, optional
        Axes in which the solution is periodic, with the highest order of derivatives in them that the equation has.
    points : array, shape (m, d), optional
        Some of a domain that does not fill the box: conditions may be undefined elsewhere.

    Raises
    ------
    ValueError
        If conditions contradict each other where they meet, or are not periodic where the solution is, or there are
        too many axes.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    space: int
    outputs: int
    sides: Mapping[Side, Values]
    velocity: Values | None = None
    periodic: Mapping[int, int] = field(default_factory=dict)
    points: Array | None = None

    def __post_init__(self) -> None:
        if len(self.axes) > MOST_AXES:
            raise ValueError(
                f"dirichlet: got conditions in {len(self.axes)} coordinates, expected at most {MOST_AXES} where they "
                "are satisfied exactly; pass exact=False"
            )
        _check_consistency(self)
        for axis, order in self.periodic.items():
            _check_period(self, axis, order)

    @property
    def axes(self) -> list[int]:
        """Axes with a condition on one end or both."""
        return sorted({axis for axis, _ in self.sides})

    def ends(self, axis: int) -> list[int]:
        """Ends of an axis with a condition."""
        return [end for end in (0, 1) if (axis, end) in self.sides]

    def corner(self, side: Side) -> float:
        """Coordinate of a side."""
        return (self.low, self.high)[side[1]][side[0]]

    def _moving(self, axis: int) -> bool:
        return axis == self.space and self.velocity is not None

    def values(self, side: Side, points: Tensor, velocity: bool = False) -> Tensor:
        """Return what holds on a side at points of it, shape (outputs, m)."""
        given: Any = self.velocity if velocity else self.sides[side]
        return values(self._name(side), given, points, self.space, self.outputs)

    def _name(self, side: Side) -> str:
        return "initial" if side[0] == self.space else "dirichlet"

    @property
    def fingerprint(self) -> Array:
        """The lift in some points, to six digits: an equation may read nothing of it that is not zero."""
        points = self.points
        if points is None:
            points = np.random.default_rng(0).uniform(self.low, self.high, (SAMPLES, len(self.low)))
        with torch.no_grad():
            found = self.lift(tensor(points)).ravel().numpy()
        # To digits of the largest one: others may be nothing but rounding.
        largest = float(np.abs(found).max())
        return np.array([float(f"{largest:.5e}"), *np.round(found / (largest or 1.0), 6)])

    @property
    def constant(self) -> Tensor | None:
        """The lift (outputs, 1), if all conditions are one and the same constant."""
        given = list(self.sides.values())
        if any(callable(g) for g in given) or (self.velocity is not None and np.any(np.asarray(self.velocity))):
            return None
        place = tensor(np.zeros((1, len(self.low))))
        found = [self.values(side, place) for side in self.sides]
        return found[0] if all(torch.equal(found[0], other) for other in found) else None

    def lift(self, points: Tensor) -> Tensor:
        """Return the transfinite interpolant at points (m, d), shape (outputs, m)."""
        return self._interpolated(points, False)[0]

    def lift_and_speed(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same with its derivative in time, which itself is not differentiable in time."""
        return self._interpolated(points, True)

    def _interpolated(self, points: Tensor, speeds: bool) -> tuple[Tensor, Tensor]:
        total = torch.zeros((self.outputs, points.shape[0]), dtype=points.dtype, device=points.device)
        rate, beginning = torch.zeros_like(total), None
        choices: list[list[tuple[int, bool] | None]] = [
            [None, *((end, False) for end in self.ends(axis)), *([(0, True)] if self._moving(axis) else [])]
            for axis in self.axes
        ]
        zero = {side for side, given in self.sides.items() if not callable(given) and not np.any(np.asarray(given))}
        for chosen in product(*choices):
            parts = [(axis, *choice) for axis, choice in zip(self.axes, chosen, strict=True) if choice is not None]
            # Conditions agree where sides meet: where one of them is zero, so are the others.
            if not parts or any((axis, end) in zero for axis, end, _ in parts if axis != self.space):
                continue
            columns, blend = list(points.unbind(dim=1)), torch.tensor(-1.0 * (-1.0) ** len(parts)).to(points)
            for axis, end, _ in parts:
                if len(self.ends(axis)) == 2:
                    s = (columns[axis] - self.low[axis]) / (self.high[axis] - self.low[axis])
                    blend = blend * (s if end else 1.0 - s)
            for axis, end, _ in parts:
                columns[axis] = torch.full_like(columns[axis], self.corner((axis, end)))
            (axis, end, velocity), place = parts[-1], torch.stack(columns, dim=1)
            if parts[0][0] == self.space:
                beginning = self._beginning(place) if beginning is None else beginning
                found = beginning[velocity]
            else:
                found = self._on((parts[0][0], parts[0][1]), place, velocity)
            if velocity:
                total = total + blend * (points[:, axis] - self.low[axis]) * found
                rate = rate + blend * found
            else:
                total = total + blend * found
            if speeds and axis != self.space:
                rate = rate + blend * self._on((parts[0][0], parts[0][1]), place, True)
        return total, rate

    def _beginning(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return initial values and velocities; where one solution has both it is asked once."""
        side = (self.space, 0)
        solution: Any = getattr(self.velocity, "function", None)
        own: Any = getattr(self.sides[side], "function", None)
        if hasattr(solution, "with_speed") and id(own) == id(solution):
            values, speeds = solution.with_speed(points)
            return values.T, speeds.T
        first = self.values(side, points)
        return first, first if self.velocity is None else self.values(side, points, velocity=True)

    def _on(self, side: Side, points: Tensor, moving: bool) -> Tensor:
        """Return what holds on a side, or its derivative in time.

        Where several sides meet their conditions agree, and that of the first axis is read: what holds at the beginning
        may be the solution before, with conditions of its own, and so on.
        """
        return speed(lambda p: self.values(side, p), points) if moving else self.values(side, points)

    def _polynomial(self, axis: int, times: int) -> list[float]:
        """Return the coefficients of a derivative of the factor of one axis, a polynomial in ``s``."""
        s, ends = np.polynomial.Polynomial([0.0, 1.0]), self.ends(axis)
        polynomial = 4.0 * s * (1.0 - s) if len(ends) == 2 else (1.0 - s if ends == [1] else s)
        found = (s * s if self._moving(axis) else polynomial).deriv(times)
        # Each derivative in s is one in the coordinate times the length of the side.
        return [float(c) / (self.high[axis] - self.low[axis]) ** times for c in found.coef]

    def vanishes(self, derivative: tuple[int, ...]) -> bool:
        """Whether a derivative of the factor is zero everywhere."""
        times = Counter(derivative)
        return any(axis not in self.axes or not any(self._polynomial(axis, n)) for axis, n in times.items())

    def factors(self, points: Any, derivatives: Sequence[tuple[int, ...]]) -> list[Any]:
        """Return derivatives of the factor at points (m, d) of NumPy or torch, each of shape (m,)."""
        return [self.factor(points, derivative) for derivative in derivatives]

    def factor(self, points: Any, derivative: tuple[int, ...] = ()) -> Any:
        """Return a derivative of the factor at points (m, d) of NumPy or torch, shape (m,)."""
        times, result = Counter(derivative), 1.0 + 0.0 * points[:, 0]
        for axis in self.axes:
            # Not multiplied out: far from the origin the coefficients would be huge, and their sum rounding.
            s = (points[:, axis] - self.low[axis]) / (self.high[axis] - self.low[axis])
            value = 0.0 * s
            for coefficient in reversed(self._polynomial(axis, times[axis])):
                value = value * s + coefficient
            result = result * value
        return result


def _check_consistency(conditions: Conditions) -> None:
    """Compare conditions in random points of all edges where two sides meet."""
    box = np.random.default_rng(0).uniform(conditions.low, conditions.high, (SAMPLES, len(conditions.low)))
    for first, second in combinations(sorted(conditions.sides), 2):
        if first[0] == second[0]:
            continue
        points = tensor(box.copy())
        for side in (first, second):
            points[:, side[0]] = conditions.corner(side)
        pairs = [(conditions.values(first, points), conditions.values(second, points), "values")]
        if conditions._moving(second[0]):
            rate = speed(lambda p, s=first: conditions.values(s, p), points)  # type: ignore[misc]
            pairs.append((rate, conditions.values(second, points, velocity=True), "derivatives in time"))
        names = (conditions._name(first), conditions._name(second))
        for a, b, what in pairs:
            _compare(names, what, points, a, b)


def _compare(names: tuple[str, str], what: str, points: Tensor, a: Tensor, b: Tensor) -> None:
    """Raise a `ValueError` if what two conditions say at points differs by more than rounding."""
    error = (a - b).abs().detach()
    if (error > CONSISTENT * (1.0 + float(b.detach().abs().max()))).any():
        worst = int(error.amax(dim=0).argmax())
        raise ValueError(
            f"{names[0]}, {names[1]}: got {what} {a[:, worst].tolist()} and {b[:, worst].tolist()} at "
            f"{points[worst].tolist()}, where two sides meet, expected equal ones"
        )


def check_beginning(conditions: Conditions, laws: Mapping[str, Any], quadrature: Quadrature) -> None:
    """Compare initial values that hold exactly with values on a boundary that do not, where these begin.

    Not those of a solution: it has values on the boundary to its own accuracy.

    Raises
    ------
    ValueError
        If they contradict each other.
    """
    side = (conditions.space, 0)
    if side not in conditions.sides or hasattr(conditions.sides[side], "function"):
        return
    for name, law in laws.items():
        if isinstance(law, Misfit):
            points = tensor(np.array(quadrature.regions[name].points))
            points[:, -1] = conditions.low[-1]
            given = values(law.name, law.given, points, conditions.space, conditions.outputs)
            _compare((law.name, "initial"), "values", points, given, conditions.values(side, points))


def _check_period(conditions: Conditions, axis: int, order: int) -> None:
    """Compare both ends of an axis: where conditions jump or bend the lift does so, unseen between the points."""
    box = np.random.default_rng(0).uniform(conditions.low, conditions.high, (2 * SAMPLES, len(conditions.low)))
    box[SAMPLES:] = box[:SAMPLES]
    box[:SAMPLES, axis], box[SAMPLES:, axis] = conditions.low[axis], conditions.high[axis]
    components = [(axis,) * number for number in range(max(order, 1))]
    given = [(side, False) for side in conditions.sides] + [((conditions.space, 0), True)] * (
        conditions.velocity is not None
    )
    for side, velocity in given:
        ends = box.copy()
        ends[:, side[0]] = conditions.corner(side)
        jet = function_jet(lambda p, s=side, v=velocity: conditions.values(s, p, v), tensor(ends), components)  # type: ignore[misc]
        for number, rows in enumerate(jet):
            a, b = rows[:, :SAMPLES], rows[:, SAMPLES:]
            unit = 1.0 / (conditions.high[axis] - conditions.low[axis]) ** number
            if ((a - b).abs() > CONSISTENT * (unit + float(b.abs().max()))).any():
                worst = int((a - b).abs().amax(dim=0).argmax())
                what = "values" if number == 0 else f"derivatives of order {number} in coordinate {axis}"
                raise ValueError(
                    f"{conditions._name(side)}: got {what} {a[:, worst].tolist()} at {ends[worst].tolist()} and "
                    f"{b[:, worst].tolist()} at the other end, expected equal ones, as the solution is periodic "
                    "there; pass exact=False if it is not smooth"
                )


def speed(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Return the derivative in the last coordinate of a function of torch, (m, d) -> (outputs, m), same shape.

    It can be differentiated in all coordinates but the last one.
    """
    with torch.enable_grad():
        time = points[:, -1:].detach().requires_grad_()
        found = [
            torch.autograd.grad(row.sum(), time, create_graph=True, allow_unused=True, materialize_grads=True)[0][:, 0]
            if row.requires_grad
            else torch.zeros_like(row)
            for row in function(torch.cat([points[:, :-1], time], dim=1))
        ]
    return torch.stack(found)


def _derivatives(values: Tensor, points: Tensor) -> Tensor:
    """Return first derivatives of values (outputs, m) that depend on points (m, d), shape (outputs, m, d)."""
    if not values.requires_grad:
        return torch.zeros((*values.shape, points.shape[1]), dtype=points.dtype, device=points.device)
    found = [
        torch.autograd.grad(row.sum(), points, create_graph=True, allow_unused=True, materialize_grads=True)[0]
        for row in values
    ]
    return torch.stack(found)


def function_jet(function: Callable[[Tensor], Tensor], points: Tensor, components: Sequence[Component]) -> Tensor:
    """Return the jet (components, outputs, m) of a function of torch, (m, d) -> (outputs, m), at points (m, d).

    Some points at a time: a lift has up to ``3^d`` faces, and the graphs of them all are kept for the derivatives.
    """
    size = max(1, min(BLOCK, GRAPH // 3 ** points.shape[1]))
    return torch.cat([_block_jet(function, part, components) for part in torch.split(points, size)], dim=-1)


def _block_jet(function: Callable[[Tensor], Tensor], points: Tensor, components: Sequence[Component]) -> Tensor:
    known: dict[tuple[int, ...], Tensor] = {}
    with torch.enable_grad():
        at = points.detach().clone().requires_grad_()
        known[()] = function(at)

        def get(component: tuple[int, ...]) -> Tensor:
            if component not in known:
                lower = get(component[:-1])
                for axis, values in enumerate(_derivatives(lower, at).unbind(dim=-1)):
                    known[(*component[:-1], axis)] = values
            return known[component]

        parts = []
        for component in components:
            if isinstance(component, Laplacian):
                parts.append(sum((a * get(part) for a, part in squares(component)), torch.zeros_like(known[()])))
            else:
                parts.append(get(component))
        return torch.stack(parts).detach()
