"""What estimators share that solve in an enriched space, jointly for old and new coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dnnfem.functionals import Functional, LeastSquaresSystem
from dnnfem.functionals.sampling import integrals_of
from dnnfem.records import Index

QUANTITY = "discretization error sqrt(2 (J(x) - J*))"

SHARE = 1.0 / 3.0
"""Largest part of the degrees of freedom that the present network leaves to be spent on candidates in the joint solve:
the rest shows what is noise."""


WITHOUT_SYSTEM = (
    "functional: got one without a least-squares system, expected residual laws, or losses with a root of L''"
)


@dataclass(frozen=True, eq=False)
class Enriched:
    """The system of old coefficients (first columns) and groups of new ones."""

    system: LeastSquaresSystem
    groups: list[Index]


def joint(
    enriched: Enriched, dispersion: float | None, part: str, seen: float = 1.0, share: float = SHARE
) -> tuple[float, dict[str, float]]:
    """Return the total of the joint solve and its parts; the variance of the noise is estimated if not known.

    What the new coefficients gain is called `part`; it is `seen`, a part of what ever more of them would gain.
    They are as many as take a `share` of the degrees of freedom that are left.
    """
    system, groups = enriched.system, enriched.groups
    old = np.arange(groups[0][0])
    room = max(system.samples - len(old), 1) * share
    stride = max(1, math.ceil(sum(len(g) for g in groups) / max(room, 1.0)))
    chosen = np.concatenate(groups[::stride])
    together = system[np.concatenate([old, chosen])].candidates(len(old) + np.arange(len(chosen))).joint()
    base, added = together.freedom
    left = 2.0 * together.remaining / max(system.samples - base - added, 1.0)
    variance = left if dispersion is None else dispersion
    gain = max(2.0 * together.gain - added * variance, 0.0) / seen
    algebraic, sampling = 2.0 * together.present, variance * base
    parts = {part: math.sqrt(gain), "algebraic": math.sqrt(algebraic), "sampling": math.sqrt(sampling)}
    if dispersion is None:
        parts["noise"] = math.sqrt(variance * system.samples)
    return math.sqrt(gain + algebraic + sampling), parts


def dispersion_of(functional: Functional) -> float | None:
    """Return twice the gain of one degree of freedom from noise if it is known: of likelihoods."""
    found = [(factor, integral.dispersion) for factor, integral in integrals_of(functional)]
    known = [factor * dispersion for factor, dispersion in found if dispersion is not None]
    return max(known) if known and len(known) == len(found) else None
