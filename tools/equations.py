"""The problems of ``bench_pinn.py``: equations, exact or reference solutions, what runs begin with and should reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import references
import torch

import dnnfem as fem

Array = np.ndarray
PI = math.pi


@dataclass(frozen=True)
class Case:
    """A problem with its solution and goal; some have another goal for a longer time.

    With true `unknowns` it is an inverse problem, made for each seed, and `known` are those that least squares with the
    exact solution finds from the same observations.
    """

    make: Callable[..., fem.Collocation]
    exact: Callable[[Array], Array]
    hidden: tuple[int, ...]
    seconds: float
    rms: float | None = None
    relative: float | None = None
    slabs: int = 1
    long_seconds: float | None = None
    long_rms: float | None = None
    long_relative: float | None = None
    unknowns: Mapping[str, float] = field(default_factory=dict)
    known: Callable[[fem.Collocation], dict[str, float]] | None = None
    parameter: float | None = None

    @property
    def longer(self) -> Case:
        """The same problem with its longer time as the only one."""
        return replace(self, seconds=self.long_seconds, rms=self.long_rms, relative=self.long_relative)


def at(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function of coordinates as one of the points of a law."""
    return lambda p: function(p.coordinates)


def poisson(source: Callable[[Any], Any], dim: int, **conditions: Any) -> fem.Collocation:
    """Return ``-Lap u = f`` on the unit box."""
    return fem.Collocation(
        lambda p, u: u.laplacian + source(p.coordinates), fem.Box([0.0] * dim, [1.0] * dim), **conditions
    )


def heat1d() -> fem.Collocation:
    """Return ``u_t = u_xx / 4``."""
    return fem.Collocation(
        lambda p, u: u.dt - 0.25 * u.laplacian,
        fem.Box([0.0], [1.0]),
        time=(0.0, 1.0),
        dirichlet=0.0,
        initial=lambda p: torch.sin(PI * p.x[0]),
    )


def burgers() -> fem.Collocation:
    """Return Burgers' equation with a layer of width 0.01."""
    return fem.Collocation(
        lambda p, u: u.dt + u.value * u.d(0) - 0.01 / PI * u.laplacian,
        fem.Box([-1.0], [1.0]),
        time=(0.0, 1.0),
        dirichlet=0.0,
        initial=lambda p: -torch.sin(PI * p.x[0]),
    )


VISCOSITY = 0.01 / PI
OBSERVATIONS, NOISE, START = 500, 0.01, 0.02


def inverse_burgers(seed: int, start: float = START) -> fem.Collocation:
    """Return Burgers' equation with an unknown viscosity, and observations at random points with noise."""
    random = np.random.default_rng([seed, OBSERVATIONS])
    points = random.uniform([-1.0, 0.0], [1.0, 1.0], (OBSERVATIONS, 2))
    values = references.burgers(points[:, 1], points[:, 0])
    noise = NOISE * np.sqrt(np.mean(values**2)) * random.standard_normal(OBSERVATIONS)
    return fem.Collocation(
        lambda p, u, nu: u.dt + u.value * u.d(0) - nu * u.laplacian,
        fem.Box([-1.0], [1.0]),
        time=(0.0, 1.0),
        dirichlet=0.0,
        initial=lambda p: -torch.sin(PI * p.x[0]),
        unknowns={"nu": start},
        observations=(points, values + noise),
    )


def viscosity(problem: fem.Collocation) -> dict[str, float]:
    """Return the viscosity with which the exact solution fits the observations best, by Gauss and Newton's method."""
    assert problem.observations is not None
    (points, values), log = problem.observations, math.log(VISCOSITY)

    def solution(log: float) -> Array:
        return references.burgers(points[:, 1], points[:, 0], math.exp(log))

    for _ in range(8):
        slope = (solution(log + 1e-4) - solution(log - 1e-4)) / 2e-4
        log -= float(slope @ (solution(log) - values) / (slope @ slope))
    return {"nu": math.exp(log)}


def allen_cahn() -> fem.Collocation:
    """Return Allen and Cahn's equation; the initial value has a kink where its period ends, so it is no lift."""
    return fem.Collocation(
        lambda p, u: u.dt - 1e-4 * u.laplacian - 5.0 * (u.value - u.value**3),
        fem.Box([-1.0], [1.0]),
        time=(0.0, 1.0),
        initial=lambda p: p.x[0] ** 2 * torch.cos(PI * p.x[0]),
        periodic=(0,),
        exact=False,
    )


def convection() -> fem.Collocation:
    """Return ``u_t + 40 u_x = 0``."""
    return fem.Collocation(
        lambda p, u: u.dt + 40.0 * u.d(0),
        fem.Box([0.0], [2.0 * PI]),
        time=(0.0, 1.0),
        initial=lambda p: torch.sin(p.x[0]),
        periodic=(0,),
    )


def reaction() -> fem.Collocation:
    """Return ``u_t = 5 u (1 - u)``; no derivative in space: the solution is periodic as its initial value is."""
    return fem.Collocation(
        lambda p, u: u.dt - 5.0 * u.value * (1.0 - u.value),
        fem.Box([0.0], [2.0 * PI]),
        time=(0.0, 1.0),
        initial=lambda p: torch.exp(-((p.x[0] - PI) ** 2) / (2.0 * (PI / 4.0) ** 2)),
    )


def wave() -> fem.Collocation:
    """Return ``u_tt = 4 u_xx``."""
    return fem.Collocation(
        lambda p, u: u.dtt - 4.0 * u.laplacian,
        fem.Box([0.0], [1.0]),
        time=(0.0, 1.0),
        dirichlet=0.0,
        initial=lambda p: torch.sin(PI * p.x[0]) + 0.5 * torch.sin(5.0 * PI * p.x[0]),
        velocity=0.0,
    )


def helmholtz2d() -> fem.Collocation:
    """Return ``-Lap u - k^2 u = f`` with k = 6 pi."""
    return fem.Collocation(
        lambda p, u: u.laplacian + references.WAVENUMBER**2 * u.value + references.helmholtz2d_source(p.coordinates),
        fem.Box([0.0, 0.0], [1.0, 1.0]),
        dirichlet=0.0,
    )


CASES = {
    "poisson2d": Case(
        lambda: poisson(references.poisson2d_source, 2, dirichlet=0.0), references.poisson2d, (8,), 60.0, rms=1e-10
    ),
    "poisson2d_bump": Case(
        lambda: poisson(references.poisson2d_bump_source, 2, dirichlet=at(references.poisson2d_bump)),
        references.poisson2d_bump,
        (20, 20),
        120.0,
        relative=1e-7,
    ),
    "poisson5d": Case(
        lambda: poisson(references.poisson5d_source, 5, dirichlet=at(references.poisson5d), exact=False),
        references.poisson5d,
        (6,),
        300.0,
        rms=2e-8,
    ),
    "poisson5d_product": Case(
        lambda: poisson(
            references.poisson5d_product_source, 5, dirichlet=at(references.poisson5d_product), exact=False
        ),
        references.poisson5d_product,
        (12, 12),
        300.0,
        relative=1e-5,
    ),
    "poisson5d_product_exact": Case(
        lambda: poisson(references.poisson5d_product_source, 5, dirichlet=at(references.poisson5d_product)),
        references.poisson5d_product,
        (12, 12),
        300.0,
        relative=1e-5,
    ),
    "heat1d": Case(heat1d, references.heat1d, (8,), 60.0, rms=1e-9),
    "burgers": Case(
        burgers,
        lambda p: references.burgers(p[:, 1], p[:, 0]),
        (20, 20, 20),
        180.0,
        relative=1e-6,
        long_seconds=1200.0,
        long_relative=1.6e-8,
    ),
    "inverse_burgers": Case(
        inverse_burgers,
        lambda p: references.burgers(p[:, 1], p[:, 0]),
        (20, 20, 20),
        170.0,
        unknowns={"nu": VISCOSITY},
        known=viscosity,
        parameter=0.01,
    ),
    "allen_cahn": Case(
        allen_cahn,
        lambda p: references.allen_cahn()(p[:, 1], p[:, 0]),
        (10,) * 5,
        300.0,
        relative=1e-5,
        slabs=8,
        long_seconds=1200.0,
        long_relative=9e-7,
    ),
    "convection": Case(convection, references.convection, (10, 10), 180.0, relative=1e-6, slabs=8),
    "reaction": Case(reaction, references.reaction, (12, 12), 180.0, relative=1e-6),
    "wave": Case(wave, references.wave, (14, 14), 180.0, relative=1e-6, slabs=5),
    "helmholtz2d": Case(helmholtz2d, references.helmholtz2d, (20,), 180.0, relative=1e-7),
}
