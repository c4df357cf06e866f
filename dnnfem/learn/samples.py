"""Samples as the loops want them: without copies, and in an order that depends on what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_array, check_consistent_length

from dnnfem.estimators.folds import Copies
from dnnfem.records import Array


def checked_weights(sample_weight: Any, points: Array) -> Array | None:
    """Return weights as an array, None if they say nothing.

    Raises
    ------
    ValueError
        If they are no vector of the length of the points, not finite, negative, or all zero.
    """
    if sample_weight is None:
        return None
    weights: Array = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weights.ndim != 1:
        raise ValueError(f"sample_weight: got shape {weights.shape}, expected one number per sample")
    check_consistent_length(weights, points)
    if weights.min() < 0.0:
        raise ValueError(f"sample_weight: got {weights.min():g}, expected no negative ones")
    if not weights.any():
        raise ValueError("sample_weight: got zeros only, expected a positive weight of some samples")
    return weights


def distinct(points: Array, data: Array, weights: Array | None, seed: int) -> tuple[Array, Array, Array | None]:
    """Return points, data and weights of the different samples, in random order.

    A sample that occurs several times is one with the sum of the weights: it says no more, and must not be held out in
    one copy and seen in another.  The order is drawn from samples that are sorted, so that it does not matter in which
    order they are given, and a sample of weight two is the same to the bit as one that is there twice.

    Parameters
    ----------
    points : array, shape (m, d)
    data : array, shape (m, k)
    weights : array, shape (m,), optional
        Not negative; samples of weight zero are dropped.
    seed : int
        Of the order.
    """
    given = np.ones(len(points)) if weights is None else weights
    positive = given > 0.0
    points, data, given = points[positive], data[positive], given[positive]
    copies = Copies.of(np.hstack([points, data]))
    sums = np.asarray(np.bincount(copies.group, given), dtype=np.float64)
    order = np.random.default_rng(seed).permutation(len(sums))
    rows = copies.first[order]
    equal = bool((sums == sums[0]).all())
    return points[rows], data[rows], None if equal else sums[order]
