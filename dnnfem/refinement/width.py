"""Refinement in width: neurons are added, the function stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from dnnfem.given import members
from dnnfem.records import Index
from dnnfem.spaces import FeedforwardSpace, Transfer
from dnnfem.spaces.feedforward import Neuron


def group(space: FeedforwardSpace, layer: int) -> range:
    """Return the layers whose width is that of `layer`: it and the residual layers that follow it.

    Raises
    ------
    ValueError
        If there is no such hidden layer, or it is a residual one (its width is that of the layer before).
    """
    if not 0 <= layer < len(space.hidden):
        raise ValueError(f"layer: got {layer}, expected 0 to {len(space.hidden) - 1} for {space}")
    if space.residual[layer]:
        raise ValueError(f"layer: got {layer}, a residual layer of {space}; widen the plain layer before it")
    stop = layer + 1
    while stop < len(space.hidden) and space.residual[stop]:
        stop += 1
    return range(layer, stop)


def readers(space: FeedforwardSpace, layer: int, neuron: int, present: FeedforwardSpace | None = None) -> Index:
    """Return the coefficients by which later layers read a neuron; skip connections pass it on to several.

    With `present`, a space with fewer neurons, only those by which the neurons of that space read it.
    """
    following = [number + 1 for number in group(space, layer)]
    rows = {number: (present or space).blocks[number].rows for number in following}
    blocks = [(space.blocks[number], np.arange(rows[number])) for number in following]
    return np.concatenate([block.start + neuron + block.columns * rows for block, rows in blocks])


def cost(space: FeedforwardSpace, layer: int, change: int = 1) -> int:
    """Return the number of coefficients by which the space grows when its layer gets `change` more neurons."""
    widths = [space.blocks[0].columns, *space.hidden, space.outputs]
    for member in group(space, layer):
        widths[member + 1] += change
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths)) - space.blocks[-1].stop


def embed(coarse: FeedforwardSpace, fine: FeedforwardSpace, kept: list[Index]) -> sp.csr_array:
    """Return the injection of coefficients that keeps, per layer, the neurons ``kept[layer]`` of the fine space.

    Parameters
    ----------
    coarse, fine : FeedforwardSpace
        Of equal depth.
    kept : list of int array
        ``kept[layer][i]`` is the fine number of the coarse neuron ``i``.

    Returns
    -------
    sparse array, shape (fine.dim, coarse.dim)
    """
    inputs = [np.arange(coarse.blocks[0].columns), *kept]
    outputs = [*kept, np.arange(coarse.outputs)]
    rows = []
    for block, source, target in zip(fine.blocks, inputs, outputs, strict=True):
        weights = block.start + target[:, None] * block.columns + source[None, :]
        rows += [weights.ravel(), block.bias_start + target]
    row = np.concatenate([*rows, fine.dim - coarse.unknowns + np.arange(coarse.unknowns)])
    entries = (np.ones(coarse.dim), (row, np.arange(coarse.dim)))
    return sp.csr_array(sp.coo_array(entries, shape=(fine.dim, coarse.dim)))


def check_feedforward(space: Any) -> None:
    """Raise a `ValueError` unless a space has layers of neurons."""
    if not isinstance(space, FeedforwardSpace):
        raise ValueError(f"space: got {space}, expected a FeedforwardSpace: others have no layers to be widened")


def widen(space: FeedforwardSpace, neurons: Iterable[Neuron]) -> tuple[FeedforwardSpace, Transfer]:
    """Add neurons; their outgoing weights start at zero, so that the function does not change.

    Neurons are appended to their layer in the order given.  Residual layers after it are widened with it and pass the
    new components through.

    Parameters
    ----------
    space : FeedforwardSpace
    neurons : iterable of Neuron
        E.g. ``estimate.cells[marked]``.

    Returns
    -------
    space : FeedforwardSpace
        The wider space.
    transfer : Transfer
        ``P(x) = P x + c``; ``c`` holds the incoming weights and biases of the new neurons.

    Raises
    ------
    ValueError
        If the space is not feedforward, there is no neuron, a layer does not exist or is residual, or the weights do
        not fit its fan-in or are not finite.

    Examples
    --------
    >>> space = fem.FeedforwardSpace(inputs=1, hidden=(3,), outputs=1)
    >>> problem = fem.Regression([0.0, 1.0, 2.0], [0.0, 1.0, 4.0])
    >>> candidates = fem.ridge_candidates(space, problem.quadrature, count=2)
    >>> neurons = candidates.draw(problem.ansatz.reference, space.initial(seed=0))
    >>> wide, P = fem.widen(space, neurons)
    >>> wide.hidden, P.shape
    ((5,), (16, 10))
    """
    check_feedforward(space)
    added: dict[int, list[Neuron]] = {}
    for neuron in members("neurons", neurons, "neurons, e.g. estimate.cells[marked]"):
        if not isinstance(neuron, Neuron):
            raise ValueError(f"neurons: got {neuron!r}, expected neurons, e.g. estimate.cells[marked]")
        group(space, neuron.layer)
        fan_in = space.blocks[neuron.layer].columns
        if np.shape(neuron.weights) != (fan_in,):
            raise ValueError(
                f"weights: got shape {np.shape(neuron.weights)}, expected {(fan_in,)} in layer {neuron.layer}"
            )
        if not (np.isfinite(neuron.weights).all() and np.isfinite(neuron.bias)):
            raise ValueError(f"neurons: got NaN or infinity in {neuron}, expected finite weights and bias")
        added.setdefault(neuron.layer, []).append(neuron)
    if not added:
        raise ValueError("neurons: got none, expected at least one; where nothing was marked a loop has to stop")
    hidden = list(space.hidden)
    for layer, new in added.items():
        for member in group(space, layer):
            hidden[member] += len(new)
    fine = replace(space, hidden=tuple(hidden))
    offset = np.zeros(fine.dim)
    for layer, new in added.items():
        fan_in = space.blocks[layer].columns
        for number, neuron in enumerate(new, start=space.hidden[layer]):
            incoming = fine.incoming(layer, number)
            # Neurons that were added to the layer before in the same call are not read: their weights stay zero.
            offset[incoming[:fan_in]] = neuron.weights
            offset[incoming[-1]] = neuron.bias
    matrix = embed(space, fine, [np.arange(width) for width in space.hidden])
    return fine, Transfer(matrix, offset)
