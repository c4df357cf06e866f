"""Coarsening: neurons are removed, cells of a flow merged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, overload

import numpy as np

from dnnfem.given import members as listed
from dnnfem.refinement.time import merge
from dnnfem.refinement.width import embed, group
from dnnfem.spaces import FeedforwardSpace, FlowSpace, Transfer


@overload
def coarsen(space: FeedforwardSpace, cells: Iterable[Any]) -> tuple[FeedforwardSpace, Transfer]: ...


@overload
def coarsen(space: FlowSpace, cells: Iterable[Any]) -> tuple[FlowSpace, Transfer]: ...


def coarsen(
    space: FeedforwardSpace | FlowSpace, cells: Iterable[Any]
) -> tuple[FeedforwardSpace, Transfer] | tuple[FlowSpace, Transfer]:
    """Remove neurons, or merge cells of the weight mesh of a flow with the cells after them.

    Parameters
    ----------
    space : FeedforwardSpace or FlowSpace
    cells : iterable of (layer, neuron), or of int
        E.g. ``estimate.cells[marked]`` of `dnnfem.removal`, for neurons; cells of a flow by their numbers.

    Returns
    -------
    space : FeedforwardSpace or FlowSpace
        The smaller space.
    transfer : Transfer
        From the *smaller* space into the old one; the iterate goes by ``transfer.project(x)``
        (for a flow in its norm, ``transfer.project(x, L2(old))``).

    Raises
    ------
    ValueError
        If a number is no integer, a neuron does not exist, its layer is residual, or a layer would lose all its
        neurons; or a cell does not exist, or is the last one.
    """
    return merge(space, cells) if isinstance(space, FlowSpace) else _without(space, cells)


def _without(space: FeedforwardSpace, cells: Iterable[Any]) -> tuple[FeedforwardSpace, Transfer]:
    """Remove neurons."""
    gone: dict[int, set[int]] = {}
    for cell in listed("cells", cells, "pairs (layer, neuron)"):
        if np.shape(cell) != (2,):
            raise ValueError(f"cells: got {cell!r}, expected pairs (layer, neuron)")
        layer, neuron = cell
        if any(isinstance(number, bool) or not isinstance(number, int | np.integer) for number in (layer, neuron)):
            raise ValueError(f"cells: got {(layer, neuron)}, expected integers (layer, neuron)")
        members = group(space, int(layer))
        if not 0 <= neuron < space.hidden[members.start]:
            raise ValueError(f"cells: got neuron {neuron} of layer {layer}, expected one of {space}")
        for member in members:
            gone.setdefault(member, set()).add(int(neuron))
    kept = [
        np.array([n for n in range(w) if n not in gone.get(k, ())], dtype=np.int64) for k, w in enumerate(space.hidden)
    ]
    for layer, neurons in enumerate(kept):
        if len(neurons) == 0:
            raise ValueError(f"cells: got all neurons of layer {layer}, expected to keep at least one")
    coarse = replace(space, hidden=tuple(len(neurons) for neurons in kept))
    return coarse, Transfer(embed(coarse, space, kept), np.zeros(space.dim))
