"""The norm of weight decay: weights count, biases hardly."""

from __future__ import annotations

import numpy as np

from dnnfem.norms.diagonal import Weighted
from dnnfem.spaces import FeedforwardSpace

BIAS = 1e-3
"""Weight of a bias: it moves a neuron and does not make the function rougher, but must not run away."""


def weight_decay(space: FeedforwardSpace) -> Weighted:
    """Return the norm ``sum of squares of all weights + 1e-3 times that of all biases``.

    It is a rule for `dnnfem.Tikhonov`, whose ``alpha`` then is what is called weight decay.

    Parameters
    ----------
    space : FeedforwardSpace

    Returns
    -------
    Weighted
        Diagonal.
    """
    weights = np.ones(space.dim)
    for block in space.blocks:
        weights[block.bias_start : block.stop] = BIAS
    return Weighted(space, weights)
