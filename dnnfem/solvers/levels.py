"""Functionals on a hierarchy of spaces, with the transfers, norms and costs that go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dnnfem.functionals import Functional, Norm
from dnnfem.functionals.work import gradient_work
from dnnfem.norms.galerkin import galerkin
from dnnfem.spaces import Transfer


@dataclass(frozen=True, eq=False)
class Level:
    """A functional and how its space is reached.

    Attributes
    ----------
    functional : Functional
    transfer : Transfer or None
        From the space of the level below; None on the coarsest.
    work : float
        Of a gradient, in gradients of the finest level.
    dense : bool
        Whether steps come from a dense matrix.
    """

    functional: Functional
    transfer: Transfer | None
    work: float
    dense: bool


def levels_of(
    functionals: Sequence[Functional],
    transfers: Sequence[Transfer],
    costs: Sequence[float] | None,
    dense_up_to: float,
) -> tuple[Level, ...]:
    """Return the levels from coarse to fine; steps are dense up to that many coefficients.

    Raises
    ------
    ValueError
        If there are less than two functionals, transfers do not fit or lose a coefficient, or costs are no positive
        numbers that increase.
    """
    _check_kinds("functionals", functionals, "functionals", lambda item: callable(getattr(item, "linearize", None)))
    _check_kinds("transfers", transfers, "transfers (dnnfem.Transfer)", lambda item: isinstance(item, Transfer))
    if len(functionals) < 2:
        raise ValueError(
            f"functionals: got {len(functionals)}, expected at least two, from coarse to fine; on one level there is "
            "trust_region"
        )
    if len(transfers) != len(functionals) - 1:
        raise ValueError(f"transfers: got {len(transfers)} for {len(functionals)} functionals, expected one less")
    for number, transfer in enumerate(transfers):
        pair = (functionals[number + 1].space.dim, functionals[number].space.dim)
        if transfer.shape != pair:
            raise ValueError(
                f"transfers: number {number} has shape {transfer.shape}, expected {pair}: functionals and transfers go "
                "from coarse to fine"
            )
        lost = np.flatnonzero(np.asarray(abs(transfer.matrix).sum(axis=0)) == 0.0)
        if len(lost):
            raise ValueError(
                f"transfers: number {number} maps coefficient {lost[0]} to zero, expected one that loses nothing: "
                "coarse coefficients are as long as what they become"
            )
    work = _costs(functionals, costs)
    return tuple(
        Level(functional, transfer, float(cost), functional.space.dim <= dense_up_to)
        for functional, transfer, cost in zip(functionals, (None, *transfers), work / work[-1], strict=True)
    )


def _check_kinds(name: str, items: Sequence[object], expected: str, right: Callable[[object], bool]) -> None:
    """Raise a `ValueError` unless these are several items of the right kind."""
    if not isinstance(items, Sequence):
        raise ValueError(f"{name}: got one {type(items).__name__}, expected a list of {expected}, from coarse to fine")
    for number, item in enumerate(items):
        if not right(item):
            raise ValueError(f"{name}: number {number} is a {type(item).__name__}, expected {expected}")


def _costs(functionals: Sequence[Functional], costs: Sequence[float] | None) -> np.ndarray:
    """Return what gradients cost, those given or those counted."""
    found = [gradient_work(functional) for functional in functionals] if costs is None else costs
    try:
        work = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        work = np.empty(0)
    if work.shape != (len(functionals),) or not (np.isfinite(work) & (work > 0.0)).all():
        raise ValueError(f"costs: got {costs!r}, expected {len(functionals)} positive numbers, one for each functional")
    if (np.diff(work) < 0.0).any():
        raise ValueError(
            f"functionals: got gradients that cost {', '.join(f'{cost:g}' for cost in work)}, expected costs that do "
            "not fall: functionals go from coarse to fine"
        )
    return work


def norms_of(levels: Sequence[Level], norm: Norm) -> tuple[Norm, ...]:
    """Return the norms of all levels from that of the finest one, ``|s|_H = |P s|_h``."""
    norms = [norm]
    for coarse, fine in zip(levels[-2::-1], levels[:0:-1], strict=True):
        assert fine.transfer is not None
        norms.insert(0, galerkin(norms[0], fine.transfer, coarse.functional.space))
    return tuple(norms)
