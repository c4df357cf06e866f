"""What laws get: points, and value and derivatives of the unknown function there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from dnnfem.kernels.components import Component, Laplacian, check
from dnnfem.records import Array

Tensor = torch.Tensor

Corners = tuple[tuple[float, ...], tuple[float, ...]]
"""Lower and upper corner of a box."""

Walls = Corners | Literal["data"]
"""Where normals come from: the box on whose sides points are, or the data that the quadrature has."""


@dataclass(frozen=True, eq=False)
class Points:
    """What a law knows of the points: the first argument `p` of ``law(p, u)``.

    Attributes
    ----------
    x : tensor, shape (d, m)
        Coordinates in space: ``p.x[0]``, ``p.x[1]``, ...
    t : tensor, shape (m,)
        Time.
    normal : tensor, shape (d, m)
        Outward unit normal; in conditions on the boundary only.
    data : tensor, shape (m, k)
        What the quadrature has at the points.
    """

    coordinates: Tensor
    space: int
    box: Walls | None = None
    data: Tensor | None = None

    @property
    def x(self) -> Tensor:
        """Coordinates in space, shape (d, m)."""
        return self.coordinates[:, : self.space].T

    @property
    def t(self) -> Tensor:
        """Time, shape (m,)."""
        if self.coordinates.shape[1] == self.space:
            raise ValueError("p.t: got a problem without time, expected one with time=(t0, t1)")
        return self.coordinates[:, self.space]

    @property
    def normal(self) -> Tensor:
        """Outward unit normal, shape (d, m)."""
        if self.box is None:
            raise ValueError("p.normal: got a point inside the domain, expected one on its boundary")
        if self.box == "data":
            if self.data is None or self.data.shape[1] < self.space:
                raise ValueError(
                    f"p.normal: got points without normals, expected {self.space} columns of data, as of a FacetMesh"
                )
            return self.data[:, : self.space].T
        low, high = (self.coordinates.new_tensor(corner[: self.space])[:, None] for corner in self.box)
        # The side that is nearest, relative to the box, for points that may be rounded.
        distances = torch.cat([self.x - low, high - self.x]).abs() / torch.cat([high - low, high - low])
        nearest = torch.nn.functional.one_hot(distances.argmin(dim=0), 2 * self.space).to(self.coordinates.dtype).T
        return nearest[self.space :] - nearest[: self.space]


class Jet:
    """Value and derivatives of the unknown function: the second argument `u` of ``law(p, u)``.

    With one output every attribute has shape (m,), with several (outputs, m), and ``u[k]`` is the jet of the k-th one.
    In arithmetic and in functions of torch, `u` is its value.

    Parameters
    ----------
    read : callable
        From a component to its numbers, (outputs, m).
    points : Points
        For the numbers of coordinates, and the normal.
    outputs : int
    output : int, optional
        The one that is looked at.
    """

    def __init__(
        self,
        read: Callable[[Component], Tensor],
        points: Points,
        outputs: int,
        output: int | None = None,
    ) -> None:
        self._read = read
        self._points = points
        self._outputs = outputs
        self._output = output

    def __getitem__(self, output: int) -> Jet:
        if self._output is not None or not -self._outputs <= output < self._outputs:
            raise IndexError(f"u: got output {output!r}, expected one of {self._outputs}")
        return Jet(self._read, self._points, self._outputs, output % self._outputs)

    def __len__(self) -> int:
        return self._outputs

    def leading(self, outputs: int) -> Jet:
        """Return the jet of the first outputs alone."""
        return Jet(lambda component: self._read(component)[:outputs], self._points, outputs)

    def _get(self, component: Component) -> Tensor:
        values = self._read(component)
        if self._output is not None:
            return values[self._output]
        return values[0] if self._outputs == 1 else values

    @property
    def value(self) -> Tensor:
        """The value."""
        return self._get(())

    def d(self, *axes: int | str) -> Tensor:
        """Return a derivative: ``u.d(0, 1)`` is ``d^2 u / dx_0 dx_1``, and ``"t"`` stands for time; order at most 4."""
        space, inputs = self._points.space, self._points.coordinates.shape[1]
        numbers = []
        for axis in axes:
            if axis == "t" and inputs > space:
                numbers.append(space)
            elif isinstance(axis, int | np.integer) and not isinstance(axis, bool) and 0 <= axis < inputs:
                numbers.append(int(axis))
            else:
                time = ' or "t"' if inputs > space else ""
                raise ValueError(f"u.d: got {axis!r}, expected the number of a coordinate, 0 to {inputs - 1}{time}")
        component = tuple(sorted(numbers))
        check((component,), inputs)
        return self._get(component)

    @property
    def grad(self) -> Tensor:
        """First derivatives in space, ``u.grad[i]``."""
        return torch.stack([self.d(i) for i in range(self._points.space)])

    @property
    def hess(self) -> Tensor:
        """Second derivatives in space, ``u.hess[i, j]``."""
        d = self._points.space
        return torch.stack([torch.stack([self.d(i, j) for j in range(d)]) for i in range(d)])

    @property
    def laplacian(self) -> Tensor:
        """Sum of the pure second derivatives in space."""
        d = self._points.space
        return self._get(Laplacian(tuple(range(d)), (1.0,) * d))

    @property
    def dt(self) -> Tensor:
        """First derivative in time."""
        return self.d("t")

    @property
    def dtt(self) -> Tensor:
        """Second derivative in time."""
        return self.d("t", "t")

    @property
    def normal(self) -> Tensor:
        """Derivative along the outward normal; in conditions on the boundary only."""
        result: Tensor = sum(n * self.d(i) for i, n in enumerate(self._points.normal))
        return result

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Sequence[Any] = (), options: dict[str, Any] | None = None
    ) -> Any:
        return function(*(value_of(a) for a in arguments), **{k: value_of(a) for k, a in (options or {}).items()})

    def __add__(self, other: Any) -> Any:
        return self.value + value_of(other)

    def __sub__(self, other: Any) -> Any:
        return self.value - value_of(other)

    def __rsub__(self, other: Any) -> Any:
        return value_of(other) - self.value

    def __mul__(self, other: Any) -> Any:
        return self.value * value_of(other)

    def __truediv__(self, other: Any) -> Any:
        return self.value / value_of(other)

    def __rtruediv__(self, other: Any) -> Any:
        return value_of(other) / self.value

    def __pow__(self, other: Any) -> Any:
        return self.value ** value_of(other)

    def __rpow__(self, other: Any) -> Any:
        return value_of(other) ** self.value

    def __neg__(self) -> Tensor:
        return -self.value

    def __abs__(self) -> Tensor:
        return self.value.abs()

    def __lt__(self, other: Any) -> Any:
        return self.value < value_of(other)

    def __gt__(self, other: Any) -> Any:
        return self.value > value_of(other)

    def __le__(self, other: Any) -> Any:
        return self.value <= value_of(other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= value_of(other)

    __radd__ = __add__
    __rmul__ = __mul__


def tensor(array: Array) -> Tensor:
    """Return an array as a tensor in float64, which has the same memory where it can."""
    array = np.ascontiguousarray(array, dtype=np.float64)
    # torch warns of memory that must not be written to.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def value_of(thing: Any) -> Any:
    """Return something with every jet in it, also in lists, replaced by its value."""
    if isinstance(thing, Jet):
        return thing.value
    return type(thing)(value_of(part) for part in thing) if isinstance(thing, list | tuple) else thing
