"""Laws that users write with torch: ``law(p, u)`` at all points at once.

A law is called once with random jets when a problem is built: what it reads then is what kernels compute from there on.
Derivatives with respect to the jet are taken by reverse differentiation of sums over the points, which are exact as
the law acts point by point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from dnnfem.kernels.components import Component, Laplacian, check
from dnnfem.records import Array

Tensor = torch.Tensor

MAGNITUDES = (1e-2, 1.0, 1e2)
"""Sizes of the random jets that decide whether a law is affine."""

AFFINE = 1e-11
"""Relative difference of slopes, or deviation of the mean of two values, that counts as rounding."""

TRIES = 60
"""Random jets at which a law may be NaN or infinite: a root or a logarithm of `u` is at every other one."""


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
    """

    coordinates: Tensor
    space: int
    outward: tuple[float, ...] | None = None

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
        if self.outward is None:
            raise ValueError("p.normal: got a point inside the domain, expected one on its boundary")
        normal = torch.tensor(self.outward, dtype=self.coordinates.dtype, device=self.coordinates.device)
        return normal[:, None].expand(-1, len(self.coordinates))


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
        # The numbers and not `p.normal`, which may be on a device.
        outward = self._points.outward or self._points.normal
        result: Tensor = sum(n * self.d(i) for i, n in enumerate(outward) if n != 0.0)
        return result

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Sequence[Any] = (), options: dict[str, Any] | None = None
    ) -> Any:
        return function(*(_value(a) for a in arguments), **{k: _value(a) for k, a in (options or {}).items()})

    def __add__(self, other: Any) -> Tensor:
        return self.value + _value(other)

    def __sub__(self, other: Any) -> Tensor:
        return self.value - _value(other)

    def __rsub__(self, other: Any) -> Tensor:
        return _value(other) - self.value

    def __mul__(self, other: Any) -> Tensor:
        return self.value * _value(other)

    def __truediv__(self, other: Any) -> Tensor:
        return self.value / _value(other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return _value(other) / self.value

    def __pow__(self, other: Any) -> Tensor:
        return self.value ** _value(other)

    def __rpow__(self, other: Any) -> Tensor:
        power: Tensor = _value(other) ** self.value
        return power

    def __neg__(self) -> Tensor:
        return -self.value

    def __abs__(self) -> Tensor:
        return self.value.abs()

    def __lt__(self, other: Any) -> Tensor:
        return self.value < _value(other)

    def __gt__(self, other: Any) -> Tensor:
        return self.value > _value(other)

    def __le__(self, other: Any) -> Tensor:
        return self.value <= _value(other)

    def __ge__(self, other: Any) -> Tensor:
        return self.value >= _value(other)

    __radd__ = __add__
    __rmul__ = __mul__


def tensor(array: Array) -> Tensor:
    """Return an array as a tensor in float64, which has the same memory where it can."""
    array = np.ascontiguousarray(array, dtype=np.float64)
    # torch warns of memory that must not be written to.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _value(thing: Any) -> Any:
    if isinstance(thing, Jet):
        return thing.value
    return type(thing)(_value(part) for part in thing) if isinstance(thing, list | tuple) else thing


def _rows(name: str, part: Any, like: Tensor, alone: bool) -> Tensor:
    """Return one part of what a user's function returned as rows; see `rows`."""
    m = len(like)
    if isinstance(part, int | float | np.floating | np.integer):
        part = torch.full((m,), float(part), dtype=like.dtype, device=like.device)
    if not isinstance(part, Tensor) or not part.dtype.is_floating_point:
        kind = f"a tensor of {part.dtype}" if isinstance(part, Tensor) else type(part).__name__
        raise ValueError(f"{name}: got {kind}, expected a floating tensor of torch, a number, or a list of these")
    full = part.expand(m) if part.ndim == 0 else part
    if full.shape[-1] != m or full.ndim > 2 or (full.ndim == 2 and not alone):
        raise ValueError(f"{name}: got shape {tuple(full.shape)}, expected {(m,)} at {m} points")
    return full.to(like.dtype).reshape(-1, m)


def rows(name: str, result: Any, like: Tensor, count: int | None = None) -> Tensor:
    """Return what a user's function returned as rows (k, m).

    Parameters
    ----------
    name : str
        Of the function, for messages.
    result
        A tensor (m,) or (k, m), a number, or a sequence of tensors (m,) and numbers.
    like : tensor
        Points (m, ...).
    count : int, optional
        Number of rows that are expected.

    Raises
    ------
    ValueError
        If it is something else.
    """
    m, parts = len(like), list(result) if isinstance(result, list | tuple) else [result]
    if not parts:
        raise ValueError(f"{name}: got an empty list, expected at least one tensor of shape {(m,)}")
    stacked = torch.cat([_rows(name, _value(part), like, len(parts) == 1) for part in parts])
    if count is not None and len(stacked) == 1:
        stacked = stacked.expand(count, m)
    if count is not None and len(stacked) != count:
        raise ValueError(f"{name}: got {len(stacked)} rows, expected {count}, one per output")
    return stacked


@dataclass(frozen=True, eq=False)
class Residuals:
    """Residuals at given jets; see `dnnfem.kernels.protocol.LawLinearization`."""

    law: PointwiseLaw
    points: Tensor
    at: Tensor
    host: bool

    def _out(self, tensor: Tensor) -> Any:
        return tensor.numpy() if self.host else tensor

    def _in(self, array: Any) -> Tensor:
        return tensor(array) if self.host else array

    @cached_property
    def _residual(self) -> Tensor:
        with torch.no_grad():
            return self.law.evaluate(self.points, self.at)

    @cached_property
    def _slopes(self) -> Tensor:
        # Their graph is not kept: trial points are many, and most of them are only asked for their values.
        with torch.enable_grad():
            jet = self.at.detach().requires_grad_()
            residual = self.law.evaluate(self.points, jet)
            found = [torch.autograd.grad(row.sum(), jet, retain_graph=True, allow_unused=True)[0] for row in residual]
        return torch.stack([torch.zeros_like(self.at) if slope is None else slope for slope in found])

    @property
    def residual(self) -> Any:
        """``r``, shape (equations, m)."""
        return self._out(self._residual)

    @property
    def slopes(self) -> Any:
        """``dr/djet``, shape (equations, components, outputs, m)."""
        return self._out(self._slopes)

    @property
    def density(self) -> Any:
        """``|r|^2 / 2``, shape (m,)."""
        return self._out(0.5 * (self._residual * self._residual).sum(dim=0))

    @property
    def derivative(self) -> Any:
        """``r'^T r``, shape (components, outputs, m)."""
        return self._out((self._residual[:, None, None] * self._slopes).sum(dim=0))

    def curvature(self, jet: Any) -> Any:
        """Apply ``r'^T r'``."""
        return self._out(self._curvature(self._in(jet)))

    def _curvature(self, jet: Tensor) -> Tensor:
        along = (self._slopes * jet).sum(dim=(1, 2))
        return (along[:, None, None] * self._slopes).sum(dim=0)

    def hessian(self, jet: Any) -> Any:
        """Apply ``r'^T r' + r r''``."""
        direction = self._in(jet)
        product = self._curvature(direction)
        if not self.law.affine:
            with torch.enable_grad():
                at = self.at.detach().requires_grad_()
                total = (self._residual * self.law.evaluate(self.points, at)).sum()
                (slope,) = torch.autograd.grad(total, at, create_graph=True)
                if slope.requires_grad:
                    (bend,) = torch.autograd.grad((slope * direction).sum(), at, allow_unused=True)
                    product = product if bend is None else product + bend
        return self._out(product.detach())


@dataclass(frozen=True, eq=False)
class PointwiseLaw:
    """Residuals ``law(p, u) / scale`` as kernels read them; see `dnnfem.kernels.protocol.Law`.

    Parameters
    ----------
    function : callable
        ``law(p, u)``.
    name : str
        What messages call it.
    space, outputs : int
        Number of space coordinates and of outputs.
    components : tuple of Component
        What it reads, in the user's coordinates.
    scale : array, shape (equations,)
        Sizes of the equations.
    affine : bool
        Whether the residuals are affine in the jet.
    outward : tuple of float, optional
        The normal on a side of the domain.
    """

    function: Callable[[Points, Jet], Any]
    name: str
    space: int
    outputs: int
    components: tuple[Component, ...]
    scale: Array = field(default_factory=lambda: np.ones(1))
    affine: bool = True
    outward: tuple[float, ...] | None = None
    kind: Literal["residual", "loss"] = "residual"

    def evaluate(self, points: Tensor, jet: Tensor) -> Tensor:
        """Return the residuals (equations, m) at points (m, d) for a jet (components, outputs, m)."""

        def read(component: Component) -> Tensor:
            if component not in self.components:
                raise ValueError(
                    f"{self.name}: reads {component}, which it did not when it was recorded; expected a function that "
                    "reads the same derivatives in every call"
                )
            return jet[self.components.index(component)]

        where = Points(points, self.space, self.outward)
        found = rows(self.name, self.function(where, Jet(read, where, self.outputs)), points)
        return found / torch.as_tensor(self.scale, dtype=points.dtype, device=points.device)[:, None]

    def linearize(self, points: Any, data: Any, jet: Any) -> Residuals:
        """Return the residuals at points (m, d) and a jet (components, outputs, m) of NumPy or torch."""
        if isinstance(jet, np.ndarray):
            return Residuals(self, tensor(points), tensor(jet), True)
        return Residuals(self, points, jet, False)


def recorded(
    function: Callable[[Points, Jet], Any],
    name: str,
    points: Array,
    space: int,
    outputs: int,
    outward: tuple[float, ...] | None = None,
) -> PointwiseLaw:
    """Call a law with random jets, and return it with the components that it read and whether it is affine.

    Parameters
    ----------
    function : callable
        ``law(p, u)``.
    name : str
        What messages call it.
    points : array, shape (m, d)
        Where it is called.
    space, outputs : int
        Number of space coordinates and of outputs.
    outward : tuple of float, optional
        The normal on a side of the domain.

    Raises
    ------
    ValueError
        If it returns something of a wrong shape, cannot be differentiated, or does not depend on `u`; if it is not
        finite at a point whatever `u` is there.
    """
    where = tensor(points)
    generator, m = torch.Generator("cpu").manual_seed(0), len(where)
    jets: dict[Component, Tensor] = {}

    def read(component: Component) -> Tensor:
        if component not in jets:
            draw = torch.randn((outputs, m), generator=generator, dtype=where.dtype, device="cpu")
            jets[component] = draw.requires_grad_()
        return jets[component]

    at = Points(where, space, outward)
    with torch.enable_grad():
        residual = rows(name, function(at, Jet(read, at, outputs)), where)
        if not jets:
            raise ValueError(f"{name}: got residuals that do not read u, expected ones that depend on it")
    components, count = tuple(jets), len(residual)
    law = PointwiseLaw(function, name, space, outputs, components, np.ones(count), True, outward)

    def draw(size: float) -> Tensor:
        return size * torch.randn((len(components), outputs, m), generator=generator, dtype=where.dtype, device="cpu")

    with torch.no_grad():
        wrong = ~torch.isfinite(residual).all(dim=0)
        for number in range(TRIES):
            if not wrong.any():
                break
            jet = draw(MAGNITUDES[number % len(MAGNITUDES)])
            wrong &= ~torch.isfinite(law.evaluate(where, jet)).all(dim=0)
    if wrong.any():
        point = int(torch.nonzero(wrong)[0])
        raise ValueError(f"{name}: got NaN or infinity at the point {where[point].tolist()}, expected finite numbers")
    jets_at = [(draw(size), draw(size)) for size in MAGNITUDES]
    pairs = [[Residuals(law, where, jet, False) for jet in (a, b, 0.5 * (a + b))] for a, b in jets_at]
    used = torch.zeros(count, dtype=torch.bool, device="cpu")
    if residual.requires_grad:
        for first, *_ in pairs:
            used |= (first.slopes != 0.0).flatten(1).any(dim=1)
    if not used.all():
        number = int(torch.nonzero(~used)[0])
        raise ValueError(
            f"{name}: got a residual {number} without a derivative in u, expected one that depends on u by operations "
            "of torch"
        )
    return replace(law, affine=all(_is_affine(*pair) for pair in pairs))


def _is_affine(first: Residuals, second: Residuals, middle: Residuals) -> bool:
    """Whether slopes at two jets are the same, and residuals at their mean the mean of those at the two.

    The slopes see a small curved term beside a large affine one, the mean what reverse differentiation does not see.
    """
    bend = (first.residual + second.residual - 2.0 * middle.residual).abs()
    scale = (first.residual.abs() + second.residual.abs()).amax(dim=1, keepdim=True)
    change, slope = (first.slopes - second.slopes).abs(), first.slopes.abs() + second.slopes.abs()
    return bool((bend <= AFFINE * scale).all() and (change <= AFFINE * slope).all())
