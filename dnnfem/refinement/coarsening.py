"""Coarsening: neurons are removed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from dnnfem.refinement.width import embed, group
from dnnfem.spaces import FeedforwardSpace, Transfer


def coarsen(space: FeedforwardSpace, cells: Iterable[tuple[int, int]]) -> tuple[FeedforwardSpace, Transfer]:
    """Remove neurons.

    Parameters
    ----------
    space : FeedforwardSpace
    cells : iterable of (layer, neuron)
        E.g. ``estimate.cells[marked]`` of `dnnfem.removal`.

    Returns
    -------
    space : FeedforwardSpace
        The smaller space.
    transfer : Transfer
        From the *smaller* space into the old one; the iterate goes by ``transfer.project(x)``.

    Raises
    ------
    ValueError
        If a number is no integer, a neuron does not exist, its layer is residual, or a layer would lose all its
        neurons.
    """
    gone: dict[int, set[int]] = {}
    for layer, neuron in cells:
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
