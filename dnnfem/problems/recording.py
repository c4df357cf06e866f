"""Recording of laws: one is called with random jets when a problem is built.

What it reads then is what kernels compute from there on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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

TRIES = 60
"""Random jets at which a law may be NaN or infinite: a root or a logarithm of `u` is at every other one."""


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
        If it returns something of a wrong shape, cannot be differentiated, or does not depend on `u`; if it is not
        finite at a point whatever `u` is there.
    """
    points = tensor(quadrature.points)
    where = Points(points, space, box, tensor(quadrature.data))
    generator, m = torch.Generator("cpu").manual_seed(0), len(points)
    jets: dict[Component, Tensor] = {}

    def read(component: Component) -> Tensor:
        if component not in jets:
            draw = torch.randn((outputs, m), generator=generator, dtype=points.dtype, device="cpu")
            jets[component] = draw.requires_grad_()
        return jets[component]

    with torch.enable_grad():
        residual = rows(name, function(where, Jet(read, where, outputs)), points)
        if not jets:
            raise ValueError(f"{name}: got residuals that do not read u, expected ones that depend on it")
    components, count = tuple(jets), len(residual)
    law = PointwiseLaw(function, name, space, outputs, components, np.ones(count), True, box)

    def draw(size: float) -> Tensor:
        return size * torch.randn((len(components), outputs, m), generator=generator, dtype=points.dtype, device="cpu")

    with torch.no_grad():
        wrong = ~torch.isfinite(residual).all(dim=0)
        for number in range(TRIES):
            if not wrong.any():
                break
            jet = draw(MAGNITUDES[number % len(MAGNITUDES)])
            wrong &= ~torch.isfinite(law.evaluate(where, jet)).all(dim=0)
    if wrong.any():
        point = int(torch.nonzero(wrong)[0])
        raise ValueError(f"{name}: got NaN or infinity at the point {points[point].tolist()}, expected finite numbers")
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
