"""The estimators: what scikit-learn asks for around the loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from dnnfem.estimators import calibrated
from dnnfem.learn import classification, regression
from dnnfem.learn.growth import Fit, Outcome
from dnnfem.learn.samples import checked_weights, distinct
from dnnfem.learn.spread import Spread
from dnnfem.problems import Classification, Classifier, Regression
from dnnfem.records import Array


@dataclass(frozen=True, eq=False)
class Memory:
    """What a warm start goes on from.

    Attributes
    ----------
    seed : int
    fit : Fit
        The network.
    starts : dict of (str, float) to Fit
        Networks of the folds, see `dnnfem.learn.growth.chosen`.
    """

    seed: int
    fit: Fit
    starts: dict[tuple[str, float], Fit]


class Adaptive(BaseEstimator):
    """What both estimators have in common; see `AdaptiveRegressor`."""

    def __init__(self, *, random_state: Any = 0, warm_start: bool = False) -> None:
        self.random_state = random_state
        self.warm_start = warm_start

    @property
    def _before(self) -> Memory | None:
        return getattr(self, "_memory", None) if self.warm_start else None

    def _seed(self) -> int:
        if self._before is not None:
            return self._before.seed
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _known(self, outputs: int) -> tuple[dict[tuple[str, float], Fit], Sequence[Fit]]:
        """Return networks that the path goes on from in the folds, and those that the last solve may start from."""
        before, shape = self._before, (self.n_features_in_, outputs)
        if before is None or (before.fit.space.inputs, before.fit.space.outputs) != shape:
            return {}, ()
        return before.starts, (before.fit,)

    def _keep(self, problem: Regression | Classification, seed: int, outcome: Outcome) -> None:
        alpha: Any = outcome.validation.setting
        starts = {
            (outcome.trained(problem.quadrature, number).hash, alpha): fit for number, fit in enumerate(outcome.folds)
        }
        self._memory = Memory(seed, outcome.fit, starts)
        self.hierarchy_ = outcome.fit.hierarchy
        self.validation_ = outcome.validation

    def _points(self, X: Any) -> Array:
        check_is_fitted(self)
        # A copy: kernels are compiled once more for arrays that are read-only.
        return np.array(validate_data(self, X, reset=False, dtype=np.float64, order="C"))


class AdaptiveRegressor(RegressorMixin, Adaptive):
    """Regression by a network that grows until cross-validation says that it is wide enough.

    The network has two hidden layers.  It is solved by a trust-region method, with a penalty that the evidence sets,
    from a weak or from a strong one on; candidates for new neurons are ranked by what they would gain, and the best of
    them are added.  The whole path is repeated without each of three folds of the samples: this chooses the width,
    estimates the error at unseen samples, and calibrates the standard deviations.  Inputs and targets need no scaling.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        Of the division into folds, initial weights and candidates.  With an integer, fits to the same samples are
        the same to the bit, in whatever order these are given.
    warm_start : bool
        Whether `fit` goes on from the network of the fit before.  With the same samples all folds go on too, from the
        level that was chosen, and compete with paths that begin anew with another penalty.  With other samples all
        begin anew, as networks can only be judged by samples that they have not seen, and only the last solve may start
        from the network before.  What was random in the first fit is kept.

    Attributes
    ----------
    score_estimate_ : float
        Estimated root mean square error at unseen samples, in the units of the targets, over all of them.
    hierarchy_ : Hierarchy
        The spaces that the network has grown through; printing it gives a table.
    validation_ : Validation
        What cross-validation found, see `dnnfem.cross_validation`; printing it gives a table with remarks.
    solution_ : Solution
        The network as a function, with ``gradient`` and ``to_torch``.
    n_features_in_ : int
    feature_names_in_ : array of str, shape (d,)
        If the samples were a data frame with names of columns.

    Notes
    -----
    The cost grows with the number of coefficients squared times the samples: made for tables with up to some hundred
    features.  Samples that occur several times count as one with the sum of their weights.

    Examples
    --------
    >>> import numpy as np
    >>> import dnnfem as fem
    >>> random = np.random.default_rng(0)
    >>> X = random.uniform(-1.0, 1.0, (100, 1))
    >>> y = np.sin(3.0 * X[:, 0]) + 0.1 * random.normal(size=100)
    >>> model = fem.learn.AdaptiveRegressor().fit(X, y)
    >>> mean, std = model.predict([[0.5]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(1.5)) < 0.1), bool(0.08 < std[0] < 0.15)
    (True, True)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Grow and solve.

        Parameters
        ----------
        X : array-like, shape (m, d)
        y : array-like, shape (m,) or (m, outputs)
        sample_weight : array-like, shape (m,), optional
            Not negative; a sample of weight two is the same as one that is there twice.  A common factor does not
            matter.

        Raises
        ------
        ValueError
            On what scikit-learn does not accept, weights that are negative or all zero, or samples that are all at
            the same point.
        """
        X, y = validate_data(
            self, X, y, dtype=np.float64, order="C", multi_output=True, y_numeric=True, ensure_min_samples=2
        )
        seed, weights = self._seed(), checked_weights(sample_weight, X)
        targets = np.asarray(y, dtype=np.float64)
        self._flat = targets.ndim == 1
        problem = Regression(*distinct(X, targets.reshape(len(X), -1), weights, seed))
        starts, others = self._known(problem.targets.shape[1])
        outcome = regression.fitted(problem, seed, starts=starts, others=others)
        self._keep(problem, seed, outcome)
        self.solution_ = problem.solution(outcome.fit.space, outcome.fit.x)
        self._spread = Spread.calibrated(problem, outcome)
        self.score_estimate_ = float(np.sqrt(np.mean(self._spread.error**2)))
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return predictions, and the standard deviations of targets about them.

        Parameters
        ----------
        X : array-like, shape (m, d)
        return_std : bool
            Whether to return standard deviations too.  They are those of *targets*, noise included: nine tenths of
            unseen targets should be within 1.645 of them.  They come from a linearization about the network (Laplace),
            and are scaled so that they fit the residuals at samples that were held out.

        Returns
        -------
        mean : array, shape (m,) or (m, outputs)
        std : array of the same shape, if `return_std`
        """
        points = self._points(X)
        mean = self.solution_(points)
        if not return_std:
            return mean[:, 0] if self._flat else mean
        std = self._spread(points)
        return (mean[:, 0], std[:, 0]) if self._flat else (mean, std)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class AdaptiveClassifier(ClassifierMixin, Adaptive):
    """Classification by a network that grows until cross-validation says that it is wide enough.

    The network has one hidden layer, whose first neurons lie between pairs of samples.  A trust-region method minimizes
    the mean cross-entropy, with a penalty that the evidence sets; the neurons that would gain most are added, and the
    width doubles.  The whole path is repeated without each of three folds of the samples: this chooses the width,
    estimates the error at unseen samples, and calibrates the probabilities.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        See `AdaptiveRegressor`.
    warm_start : bool
        See `AdaptiveRegressor`.

    Attributes
    ----------
    classes_ : array, shape (classes,)
        The labels, sorted.
    score_estimate_ : float
        Estimated error rate at unseen samples: ``1 - score(X, y)`` is expected to be about this.  It is that of the
        networks of the folds, which were trained with fewer samples.
    log_loss_estimate_ : float
        Estimated mean cross-entropy at unseen samples, before the calibration of the probabilities.
    temperature_ : float
        Logits are divided by it, see `dnnfem.calibrated`; one where the held-out samples do not determine it.
    hierarchy_, validation_, n_features_in_, feature_names_in_
        See `AdaptiveRegressor`.
    solution_ : Classifier
        The network as a function, with ``labels``, ``probabilities`` and, called, logits.

    Examples
    --------
    >>> import numpy as np
    >>> import dnnfem as fem
    >>> X = np.random.default_rng(0).uniform(-1.0, 1.0, (200, 2))
    >>> model = fem.learn.AdaptiveClassifier().fit(X, np.where(X[:, 0] * X[:, 1] > 0.0, "same", "different"))
    >>> model.predict([[0.5, 0.5], [0.5, -0.5]])
    array(['same', 'different'], dtype='<U9')
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Grow and solve.

        Parameters
        ----------
        X : array-like, shape (m, d)
        y : array-like, shape (m,)
            Labels of at least two classes.
        sample_weight : array-like, shape (m,), optional
            Not negative; a sample of weight two is the same as one that is there twice.  A common factor does not
            matter.

        Raises
        ------
        ValueError
            On what scikit-learn does not accept, labels of one class only, weights that are negative or all zero, or
            samples that are all at the same point.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, order="C", ensure_min_samples=2)
        check_classification_targets(y)
        seed, weights = self._seed(), checked_weights(sample_weight, X)
        before, classes = getattr(self, "classes_", None), np.unique(y if weights is None else y[weights > 0.0])
        if len(classes) < 2:
            raise ValueError(f"y: got one class ({classes.tolist()}), expected labels of at least two classes")
        numbers = np.searchsorted(classes, y).astype(np.float64)
        points, data, sums = distinct(X, numbers[:, None], weights, seed)
        problem = Classification(points, data[:, 0].astype(np.int64), sums)
        same = before is not None and np.array_equal(before, classes)
        starts, others = self._known(len(classes)) if same else ({}, ())
        outcome = classification.fitted(problem, seed, starts=starts, others=others)
        self.classes_ = classes
        self._keep(problem, seed, outcome)
        logits = outcome.unseen(problem, lambda fit, where: problem.solution(fit.space, fit.x)(where))
        held = data[outcome.held, 0].astype(np.int64)
        share = problem.quadrature.weights[outcome.held]
        self.score_estimate_ = float(share @ (np.argmax(logits, axis=1) != held) / np.sum(share))
        self.log_loss_estimate_ = 0.5 * outcome.validation.estimate.total**2
        self.temperature_ = _temperature(logits, held, share)
        network = problem.solution(outcome.fit.space, outcome.fit.x).network
        self.solution_ = Classifier(network, classes, self.temperature_)
        return self

    def predict(self, X: Any) -> Array:
        """Return the most probable labels of samples (m, d), shape (m,)."""
        points = self._points(X)
        return self.solution_.labels(points)

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the classes of samples (m, d), calibrated, shape (m, classes)."""
        points = self._points(X)
        return self.solution_.probabilities(points)


def _temperature(logits: Array, numbers: Array, weights: Array) -> float:
    """Return the temperature of held-out samples, one if they are all right, or the network knows nothing."""
    try:
        return calibrated(logits, numbers, weights)
    except ValueError:
        return 1.0
