"""Calibration: do predicted probabilities mean what they say?"""

from __future__ import annotations

from typing import Any

import numpy as np

from dnnfem.quadrature import as_finite
from dnnfem.records import Array, Index

BINS = 15

LARGEST = 1e6
"""Inverse temperatures, relative to the size of the logits, beyond which there is no minimum."""


def _checked(name: str, values: Any, labels: Any) -> tuple[Array, Index]:
    table, numbers = as_finite(name, values, 2), np.asarray(labels)
    if table.shape[1] < 2 or len(table) == 0:
        raise ValueError(f"{name}: got shape {table.shape}, expected (m, classes) with m > 0 and at least two classes")
    if numbers.shape != (len(table),) or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"labels: got shape {numbers.shape} and dtype {numbers.dtype}, expected {len(table)} numbers of classes"
        )
    if numbers.min() < 0 or numbers.max() >= table.shape[1]:
        raise ValueError(
            f"labels: got numbers from {numbers.min()} to {numbers.max()}, expected 0 to {table.shape[1] - 1}"
        )
    return table, numbers.astype(np.int64)


def calibrated(logits: Any, labels: Any, weights: Any = None) -> float:
    """Return the temperature ``T`` that minimizes the cross-entropy of ``logits / T`` on samples not trained on.

    The cross-entropy is convex in ``1/T``.  Classes keep their order, only confidences change.

    Parameters
    ----------
    logits : array, shape (m, classes)
        At samples that were held out.
    labels : int array, shape (m,)
        Numbers of the classes, as `dnnfem.Classification.numbers` gives them.
    weights : array, shape (m,), optional
        Of the samples; default equal.

    Returns
    -------
    float
        For ``problem.solution(space, x, temperature)``; above one if the network is too sure of itself.

    Raises
    ------
    ValueError
        If shapes do not match, or there is no such temperature: all samples are classified correctly, or the logits
        know no more than chance.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML, PMLR 70 (2017) 1321-1330.
    """
    table, numbers = _checked("logits", logits, labels)
    margins = table - table[np.arange(len(table)), numbers][:, None]
    given = np.ones(len(table)) if weights is None else as_finite("weights", weights, 1)
    if given.shape != (len(table),) or given.min() < 0.0 or not given.sum() > 0.0:
        raise ValueError(f"weights: got shape {given.shape}, expected {len(table)} numbers >= 0, not all of them zero")
    shares = given / given.sum()
    unit = float(np.abs(margins).max())
    if unit > 0.0:
        margins = margins / unit
    lower, upper = 0.0, LARGEST
    if not _slopes(margins, shares, lower)[0] < 0.0 < _slopes(margins, shares, upper)[0]:
        raise ValueError(
            "logits: got ones without a temperature, expected logits that are better than chance and not always right"
        )
    inverse = 1.0
    for _ in range(200):
        slope, bend = _slopes(margins, shares, inverse)
        lower, upper = (inverse, upper) if slope < 0.0 else (lower, inverse)
        following = inverse - slope / bend if bend > 0.0 else upper
        if not lower < following < upper:
            following = np.sqrt(max(lower, 1e-3 * upper) * upper)
        if abs(following - inverse) <= 1e-14 * inverse or upper - lower <= 1e-14 * upper:
            break
        inverse = following
    return float(unit / inverse)


def _slopes(margins: Array, shares: Array, inverse: float) -> tuple[float, float]:
    """Return the first and second derivative of the mean of ``log sum exp(inverse * margins)``."""
    scaled = inverse * margins
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    mean = np.sum(powers * margins, axis=1)
    return float(shares @ mean), float(shares @ (np.sum(powers * margins**2, axis=1) - mean**2))


def expected_calibration_error(probabilities: Any, labels: Any, bins: int = BINS) -> float:
    """Return the mean distance between confidence and accuracy.

    Samples are sorted into `bins` intervals by the probability of their most probable class; in each interval the mean
    of these is compared with the share that is right.

    Parameters
    ----------
    probabilities : array, shape (m, classes)
    labels : int array, shape (m,)
        Numbers of the classes.
    bins : int
        Of equal width.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If shapes do not match, a row is no probability distribution, or `bins` is not positive.

    Notes
    -----
    With few samples it is biased upwards: a perfectly calibrated classifier has a positive value, of the order of
    ``sqrt(bins / m)`` times the root mean square of the deviation of one answer.

    References
    ----------
    Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning, AAAI (2015)
    2901-2907.
    """
    table, numbers = _checked("probabilities", probabilities, labels)
    if table.min() < 0.0 or np.abs(table.sum(axis=1) - 1.0).max() > 1e-6:
        raise ValueError("probabilities: got rows that are no distributions, expected sums of one")
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
        raise ValueError(f"bins: got {bins!r}, expected a positive integer")
    chosen = np.argmax(table, axis=1)
    confidence = table[np.arange(len(table)), chosen]
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, confidence - (chosen == numbers), minlength=bins)
    return float(np.sum(np.abs(gaps)) / len(table))
