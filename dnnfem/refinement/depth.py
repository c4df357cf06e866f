"""Refinement in depth: an identity layer is inserted, the function stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import overload

import numpy as np
import scipy.sparse as sp

from dnnfem.kernels.activations import derivatives
from dnnfem.refinement.time import insert_step
from dnnfem.spaces import FeedforwardSpace, FlowSpace, Transfer

BIAS = {"relu": 1.0}
"""Bias of the new neurons where an activation is flat at zero: there the layer could not be trained; default 0."""


@overload
def insert_layer(space: FeedforwardSpace, position: int) -> tuple[FeedforwardSpace, Transfer]: ...


@overload
def insert_layer(space: FlowSpace, position: int) -> tuple[FlowSpace, Transfer]: ...


def insert_layer(
    space: FeedforwardSpace | FlowSpace, position: int
) -> tuple[FeedforwardSpace, Transfer] | tuple[FlowSpace, Transfer]:
    """Insert a residual layer ``y + sigma(W y + b)`` with ``W = 0`` before hidden layer `position`.

    A plain layer cannot be the identity for a smooth activation, a residual one can: with zero weights it adds the
    constant ``sigma(b)``, which the bias of the next layer takes back.  The derivative with respect to the new weights
    is ``sigma'(b) lam y^T``; ``b`` is zero except for relu, where it is one, so that the layer is no saddle.

    In a flow a cell is inserted on which the state stands still, see `dnnfem.refinement.time.insert_step`.

    Parameters
    ----------
    space : FeedforwardSpace or FlowSpace
    position : int
        From 1 (after the first hidden layer) to ``len(hidden)`` (before the output layer); for a flow from 0 to
        ``cells``.

    Returns
    -------
    space : FeedforwardSpace or FlowSpace
        With one more layer.
    transfer : Transfer
        The function of ``P(x)`` is that of ``x``.

    Raises
    ------
    ValueError
        If `position` is out of range, or a flow has no such cell.

    Examples
    --------
    >>> space = fem.FeedforwardSpace(inputs=1, hidden=(3,), outputs=1)
    >>> deep, P = fem.insert_layer(space, 1)
    >>> deep.hidden, deep.residual
    ((3, 3), (False, True))
    """
    return insert_step(space, position) if isinstance(space, FlowSpace) else _identity(space, position)


def _identity(space: FeedforwardSpace, position: int) -> tuple[FeedforwardSpace, Transfer]:
    """Insert a residual layer."""
    whole = isinstance(position, int | np.integer) and not isinstance(position, bool)
    if not whole or not 1 <= position <= len(space.hidden):
        raise ValueError(f"position: got {position}, expected 1 to {len(space.hidden)} for {space}")
    width = space.hidden[position - 1]
    fine = replace(
        space,
        hidden=(*space.hidden[:position], width, *space.hidden[position:]),
        residual=(*space.residual[:position], True, *space.residual[position:]),
    )
    cut = space.blocks[position].start
    step = fine.blocks[position + 1].start - cut
    columns = np.arange(space.dim)
    rows = np.where(columns < cut, columns, columns + step)
    values = np.ones(space.dim)
    # A residual layer that follows reads y + sigma(b) as well, in its matrix and in its skip connection: everything
    # that reads the new register is shifted back by its bias, and the constant travels on with the skip connection.
    bias = BIAS.get(space.activation, 0.0)
    constant = float(derivatives(space.activation, np.array([bias]), 0)[0][0])
    if constant != 0.0:
        reader = position
        while reader <= len(space.hidden):
            old, new = space.blocks[reader], fine.blocks[reader + 1]
            weights = old.start + np.arange(old.rows * old.columns)
            rows = np.concatenate([rows, new.bias_start + np.repeat(np.arange(old.rows), old.columns)])
            columns = np.concatenate([columns, weights])
            values = np.concatenate([values, np.full(weights.size, -constant)])
            if reader == len(space.hidden) or not space.residual[reader]:
                break
            reader += 1
    matrix = sp.csr_array(sp.coo_array((values, (rows, columns)), shape=(fine.dim, space.dim)))
    offset = np.zeros(fine.dim)
    offset[fine.blocks[position].bias_start : fine.blocks[position].stop] = bias
    return fine, Transfer(matrix, offset)
