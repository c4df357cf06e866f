"""Recording of laws: one is called with random jets when a problem is built.

What it reads then is what kernels compute from there on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dnnfem.kernels.components import Component
from dnnfem.problems.fields import Jet, Points, Tensor, Walls, tensor
from dnnfem.problems.pointwise import PointwiseLaw, Residuals, rows
from dnnfem.quadrature import Quadrature

MAGNITUDES = (1e-2, 1.0, 1e2)
"""Sizes of the random jets that decide whether a law is affine."""

AFFINE = 1e-11
"""Relative difference of slopes, or deviation of the mean of two values, that counts as rounding."""

FEW = 100
"""Points up to which there may be as many equations."""

MIXED = 1e-6
"""Relative difference of residuals at the same points, alone and among others, from which on it is no rounding."""

TRIES = 60
"""Random jets at which a law may be NaN or infinite: a root or a logarithm of `u` is at every other one."""


@dataclass(frozen=True, eq=False)
class Heard:
    """What one call of a user's function with a random jet has told.

    Attributes
    ----------
    name : str
        What messages call the function.
    where : Points
        Where it was called.
    outputs : int
        Number of unknown functions.
    components : tuple of Component
        What it read.
    values : tensor, shape (rows, m)
        What it returned.
    generator : torch.Generator
        Of the random jets.
    """

    name: str
    where: Points
    outputs: int
    components: tuple[Component, ...]
    values: Tensor
    generator: torch.Generator

    def draw(self, size: float) -> Tensor:
        """Return a random jet (components, outputs, m)."""
        return size * _normal((len(self.components), self.outputs, len(self.where.coordinates)), self.generator)

    def check_finite(self, evaluate: Callable[[Points, Tensor], Tensor]) -> None:
        """Raise a `ValueError` if the function is not finite at a point, whatever `u` is there."""
        with torch.no_grad():
            wrong = ~torch.isfinite(self.values).all(dim=0)
            for number in range(TRIES):
                if not wrong.any():
                    return
                found = evaluate(self.where, self.draw(MAGNITUDES[number % len(MAGNITUDES)]))
                wrong &= ~torch.isfinite(found.reshape(-1, len(wrong))).all(dim=0)
        if wrong.any():
            point = self.where.coordinates[int(torch.nonzero(wrong)[0])].tolist()
            raise ValueError(f"{self.name}: got NaN or infinity at the point {point}, expected finite numbers")


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


def listened(
    function: Callable[[Points, Jet], Any],
    name: str,
    quadrature: Quadrature,
    space: int,
    outputs: int,
    box: Walls | None = None,
    what: str = "residuals",
) -> Heard:
    """Call a function of points and jets with a random jet; parameters are those of `recorded`, and what it returns.

    Raises
    ------
    ValueError
        If it is no function, returns something of a wrong shape, or does not read `u`.
    """
    if not callable(function):
        raise ValueError(f"{name}: got {type(function).__name__}, expected a function of p and u")
    points = tensor(quadrature.points)
    where = Points(points, space, box, tensor(quadrature.data))
    generator = torch.Generator("cpu").manual_seed(0)
    jets: dict[Component, Tensor] = {}

    def read(component: Component) -> Tensor:
        if component not in jets:
            jets[component] = _normal((outputs, len(points)), generator).requires_grad_()
        return jets[component]

    with torch.enable_grad():
        try:
            returned = function(where, Jet(read, where, outputs))
        except (RuntimeError, TypeError) as error:
            words = f"{name}: failed with '{error}', expected operations of torch on all points at once"
            raise ValueError(words) from error
        values = rows(name, returned, points)
    if len(values) == len(points) > FEW:
        raise ValueError(f"{name}: got shape {tuple(values.shape)} at {len(points)} points, expected {(len(points),)}")
    if not jets:
        raise ValueError(f"{name}: got {what} that do not read u, expected ones that depend on it")
    return Heard(name, where, outputs, tuple(jets), values, generator)


def recorded(
    function: Callable[[Points, Jet], Any],
    name: str,
    quadrature: Quadrature,
    space: int,
    outputs: int,
    box: Walls | None = None,
) -> PointwiseLaw:
    """Call a law with random jets, and return it with the components that it read and whether it is affine.

    Parameters
    ----------
    function : callable
        ``law(p, u)``.
    name : str
        What messages call it.
    quadrature : Quadrature
        Where it is called.
    space, outputs : int
        Number of space coordinates and of outputs.
    box : pair of tuples of float, or "data", optional
        For the normal: corners of the box whose sides the points are on, or it is in the data.

    Raises
    ------
    ValueError
        If it fails, returns something of a wrong shape, cannot be differentiated, does not depend on `u`, or mixes
        points; if it or its derivative is not finite at a point whatever `u` is there.
    """
    heard = listened(function, name, quadrature, space, outputs, box)
    count = len(heard.values)
    law = PointwiseLaw(function, name, space, outputs, heard.components, np.ones(count), True, box)
    heard.check_finite(law.evaluate)
    jets = [(heard.draw(size), heard.draw(size)) for size in MAGNITUDES]
    pairs = [[Residuals(law, heard.where, jet, False) for jet in (a, b, 0.5 * (a + b))] for a, b in jets]
    used = torch.zeros(count, dtype=torch.bool, device="cpu")
    if heard.values.requires_grad:
        for first, *_ in pairs:
            used |= (first.slopes != 0.0).flatten(1).any(dim=1)
    if not used.all():
        number = int(torch.nonzero(~used)[0])
        raise ValueError(
            f"{name}: got a residual {number} without a derivative in u, expected one that depends on u by operations "
            "of torch"
        )
    _check_points(heard, law, pairs)
    return replace(law, affine=all(_is_affine(*pair) for pair in pairs))


def _check_points(heard: Heard, law: PointwiseLaw, pairs: list[list[Residuals]]) -> None:
    """Raise a `ValueError` if residuals depend on other points, or slopes are not finite where residuals are."""
    places, data = heard.where.coordinates, heard.where.data
    half, (lost, found) = len(places) // 2, (torch.zeros(len(places), dtype=torch.bool, device="cpu") for _ in range(2))
    mixed = torch.zeros(len(heard.values), dtype=torch.bool, device="cpu")
    some = replace(heard.where, coordinates=places[:half], data=None if data is None else data[:half])
    for one in (one for pair in pairs for one in pair):
        finite = torch.isfinite(one.slopes).flatten(0, 2).all(dim=0)
        lost |= torch.isfinite(one.residual).all(dim=0) & ~finite
        found |= finite
        with torch.no_grad(), suppress(RuntimeError, ValueError):
            # A law with numbers of its own at all of these points cannot be called at some.
            alone, among = law.evaluate(some, one.at[..., :half]), one.residual[:, :half]
            # Rounding depends on where a point stands.
            wrong = (alone - among).abs() > MIXED * (alone.abs() + among.abs())
            mixed |= 2 * wrong.sum(dim=1) > half
    if mixed.any():
        raise ValueError(
            f"{heard.name}: got a residual {int(torch.nonzero(mixed)[0])} that depends on other points than its own, "
            "expected functions of p and u at each point alone"
        )
    if (lost & ~found).any():
        point = places[int(torch.nonzero(lost & ~found)[0])].tolist()
        raise ValueError(
            f"{heard.name}: got a derivative in u that is NaN or infinite at the point {point}, expected finite numbers"
        )


def _is_affine(first: Residuals, second: Residuals, middle: Residuals) -> bool:
    """Whether slopes at two jets are the same, and residuals at their mean the mean of those at the two.

    The slopes see a small curved term beside a large affine one, the mean what reverse differentiation does not see.
    """
    bend = (first.residual + second.residual - 2.0 * middle.residual).abs()
    scale = (first.residual.abs() + second.residual.abs()).amax(dim=1, keepdim=True)
    change, slope = (first.slopes - second.slopes).abs(), first.slopes.abs() + second.slopes.abs()
    return bool((bend <= AFFINE * scale).all() and (change <= AFFINE * slope).all())
