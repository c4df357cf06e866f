"""Leave-one-out and generalized cross-validation: the error at unseen samples of one given network."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from dnnfem.estimators.folds import Copies
from dnnfem.estimators.laplace import LaplaceModel
from dnnfem.functionals import Functional
from dnnfem.kernels.influence import NEAR, LeftOut
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, Estimate, Index
from dnnfem.solvers import trust_region

QUANTITY = "root mean square misfit sqrt(2 E L) at unseen points"

MARGIN = 0.3
"""Where less than this is left of the model's curvature without a sample, the step without it is too long for the
model: the network is trained again."""

RETRAINED = 10
"""Default for the number of samples without which the network may be trained again."""

RETRAIN_STEPS = 50
RETRAIN_ACCURACY = 0.01
"""Error at the sample that is left out, relative to the estimate."""


def leave_one_out(
    functional: Functional,
    x: Array,
    *,
    hessian: Literal["full", "curvature"] = "full",
    retrained: int = RETRAINED,
) -> Estimate:
    """Estimate the error at unseen samples by what the network without each sample makes of it.

    For every sample ``i`` one Newton step is taken from `x` for ``J`` without the sample.  With ``T_i`` the derivative
    of the outputs in the coefficients and ``H`` the Hessian of ``J``, the penalty included, a regression residual
    becomes ``(I - w_i T_i H^-1 T_i^T)^-1 r_i``; other laws are evaluated at the outputs after this step.  It is exact
    for linear models whose penalty stays as it is, and of first order in the leverage else.  A sample that determines
    most of its own fit is beyond the first order: without the worst of these the network is trained again.

    It answers: what is the error of *this* network, as it was trained from the coefficients that it has?  It does not
    see that the samples have also chosen the architecture, and which minimum was found: see `dnnfem.cross_validation`.

    Parameters
    ----------
    functional : Functional
        One integral over samples, alone or in a sum with penalties.
    x : array, shape (dim,)
        A minimizer, or close to one.
    hessian : {"full", "curvature"}
        What is taken for ``H``; the curvature drops the second derivatives of the network.
    retrained : int
        Limit on the samples without which the network is trained again.

    Returns
    -------
    Estimate
        Of ``sqrt(2 E L)``, which `dnnfem.Regression.rms` turns into the units of the targets.  Cells are the numbers of
        the samples; the squares of the indicators sum up to that of the total, which is infinite if nothing can be said
        about a sample.  Parts: ``standard error`` of the total, ``training`` (the same with the sample), ``degrees of
        freedom`` (trace of the hat matrix), ``algebraic`` (distance to the minimizer, in the units of the total) and
        ``retrained`` (their number).  The remarks say where the assumptions fail.

    Raises
    ------
    ValueError
        If the functional has not exactly one integral, its losses are negative, `x` is no finite vector of the space,
        or an option is not as described.

    Notes
    -----
    The cost is that of a dense Hessian, ``dim`` products, and its eigenvalues.  Samples that occur twice are not unseen
    when one of them is left out: the estimate is too small then, which a remark says.

    References
    ----------
    Cook and Weisberg, Residuals and Influence in Regression (1982); for general losses Beirami, Razaviyayn,
    Shahrampour and Tarokh, NeurIPS 30 (2017).
    """
    if isinstance(retrained, bool) or not isinstance(retrained, int | np.integer) or retrained < 0:
        raise ValueError(f"retrained: got {retrained!r}, expected a non-negative integer")
    model = LaplaceModel.at(functional, x, hessian)
    first = _left_out(model)
    losses, remarks = _not_negative(first.losses.copy()), [*model.remarks, *_on_copies(model)]
    worst = np.argsort(first.margin, kind="stable")[: np.count_nonzero(first.margin < MARGIN)]
    again, rest = worst[:retrained], worst[retrained:]
    if worst.size:
        sure = _left_out(LaplaceModel.at(functional, x, "curvature")) if model.exact else first
        lost = rest[~np.isfinite(losses[rest])]
        losses[lost] = sure.losses[lost]
        interpolated = np.count_nonzero(sure.margin <= NEAR)
        if interpolated:
            # Trained again from `x` on, the network would stay where it is.
            losses[sure.margin <= NEAR], again = np.inf, again[:0]
            how = f"{interpolated} of them are interpolated, and nothing is known about the error there"
        else:
            known = losses[np.isfinite(losses)]
            size = math.sqrt(2.0 * float(np.mean(known))) if known.size else 0.0
            for sample in again:
                accuracy = RETRAIN_ACCURACY * size * math.sqrt(sure.margin[sample])
                losses[sample] = _retrained(functional, model, int(sample), accuracy)
            how = f"trained again without {len(again)} of them"
            how += f", by the curvature without {len(lost)}" if lost.size else ""
        remarks.append(
            f"{len(worst)} of {len(losses)} samples determine most of their own fit, which leaves a margin down to "
            f"{first.margin[worst[0]]:.2g}: {how}"
        )
    return _estimate(model, losses, float(np.sum(first.leverage)), {"retrained": float(len(again))}, remarks)


def generalized_cross_validation(
    functional: Functional, x: Array, *, hessian: Literal["full", "curvature"] = "full"
) -> Estimate:
    """Estimate the error at unseen samples by ``|r| / (1 - p/m)``, with ``p`` the degrees of freedom of the fit.

    This is `leave_one_out` with the mean leverage in place of that of each sample: smoother, and not misled by single
    samples, but blind for those that determine their own fit.  ``p`` is the trace of the hat matrix with the Hessian of
    the whole functional, ``m`` the number of values that are fitted, samples times outputs.

    Parameters
    ----------
    functional : Functional
        Of residuals; see `leave_one_out`.
    x : array, shape (dim,)
        A minimizer.
    hessian : str
        ``"full"`` or ``"curvature"``; see `leave_one_out`.

    Returns
    -------
    Estimate
        As that of `leave_one_out`, without the part ``retrained``; the standard error is that of the mean square alone.

    Raises
    ------
    ValueError
        If the law is no residual, and where `leave_one_out` does.

    References
    ----------
    Golub, Heath and Wahba, Technometrics 21 (1979) 215-223.
    """
    model = LaplaceModel.at(functional, x, hessian)
    if model.integral.law.kind != "residual":
        raise ValueError(
            f"functional: got a law of kind {model.integral.law.kind!r}, expected residuals; see leave_one_out"
        )
    freedom, remarks = float(np.sum(_left_out(model).leverage)), [*model.remarks, *_on_copies(model)]
    share = 1.0 - freedom / model.values
    if share < MARGIN:
        remarks.append(
            f"the fit takes {freedom:.1f} degrees of freedom of {model.values} values: what is left says little"
        )
    quadrature = model.integral.quadrature
    losses = model.integral.samplewise(model.x) / quadrature.weights
    losses = losses / share**2 if share > NEAR else np.full(len(losses), np.inf)
    return _estimate(model, losses, freedom, {}, remarks)


def _on_copies(model: LaplaceModel) -> list[str]:
    copies = Copies.of(model.integral.quadrature.points)
    if len(copies.first) == len(copies.group):
        return []
    return [f"{copies}: what is left out is not unseen, and the estimate too small"]


def _not_negative(losses: Array) -> Array:
    if losses.min() < 0.0:
        raise ValueError(f"functional: got losses down to {losses.min():.3g}, expected a law that is not negative")
    return losses


def _left_out(model: LaplaceModel) -> LeftOut:
    return model.integral.left_out(model.x, math.sqrt(model.factor) * model.root, model.exact)


def _retrained(functional: Functional, model: LaplaceModel, sample: int, accuracy: float) -> float:
    """Return the loss at a sample of the network that is trained again without it, from `x` on."""
    samples = model.integral.quadrature
    without, alone = np.delete(np.arange(len(samples)), sample), np.array([sample])
    weight = float(samples.weights[sample])
    rest = functional.on(quadrature=_part(samples, without))
    result = trust_region(rest, model.x, accuracy * math.sqrt(model.factor * weight), max_steps=RETRAIN_STEPS)
    loss = float(model.integral.on(quadrature=_part(samples, alone)).value(result.x)) / weight
    return loss if math.isfinite(loss) else math.inf


def _part(samples: Quadrature, index: Index) -> Quadrature:
    """Return some samples with their weights as they are: penalties keep their relative size."""
    return Quadrature(samples.points[index], samples.weights[index], samples.data[index])


def _estimate(
    model: LaplaceModel, losses: Array, freedom: float, parts: dict[str, float], remarks: list[str]
) -> Estimate:
    weights = model.integral.quadrature.weights
    share = weights / np.sum(weights)
    total = math.sqrt(2.0 * float(share @ losses))
    training = math.sqrt(max(2.0 * model.integral.value(model.x) / float(np.sum(weights)), 0.0))
    deviation = math.inf
    if 0.0 < total < math.inf:
        deviation = float(np.linalg.norm(share * (losses - 0.5 * total**2))) / total
    elif total == 0.0:
        deviation = 0.0
    return Estimate(
        QUANTITY,
        np.arange(len(losses)),
        np.sqrt(2.0 * share * losses),
        total,
        parts={
            "standard error": deviation,
            "training": training,
            "degrees of freedom": freedom,
            "algebraic": model.algebraic,
            **parts,
        },
        remarks=(*remarks, *model.on_stationarity(total)),
    )
