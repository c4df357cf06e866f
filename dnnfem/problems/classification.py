"""Classification: the law is the cross-entropy of the softmax, the quadrature is the sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from dnnfem import kernels
from dnnfem.functionals import Integral
from dnnfem.functionals.integral import budget
from dnnfem.kernels.laws import CrossEntropy
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.problems.solution import Solution
from dnnfem.problems.unknowns import check_unknowns
from dnnfem.quadrature import Quadrature, as_finite
from dnnfem.records import Array, Index
from dnnfem.spaces.layout import NetworkSpace


@dataclass(frozen=True, eq=False)
class Classification:
    """Mean cross-entropy: ``J = sum_q w_q (log sum_k exp u_k(p_q) - u_{y_q}(p_q))`` with weights that sum to one.

    The network has one output per class, its logits.  Their common constant is free: a penalty, such as
    `dnnfem.Tikhonov`, fixes it; without one, steps of least length leave it alone.  Where the classes can be separated,
    only a penalty keeps the logits finite.

    Parameters
    ----------
    inputs : array, shape (m, d) or (m,)
        Mapped to [-1, 1]^d; types, copies and constant inputs as for `dnnfem.Regression`.
    labels : sequence of m labels
        Strings, integers, ...; at least two different ones, floats without a fraction.  `classes` are these, sorted.
    weights : array, shape (m,), optional
        Positive; default equal.
    class_weights : "balanced" or mapping from label to positive number, optional
        Factors for the weights of the samples of each class, 1 for those that are not named; ``"balanced"`` gives all
        classes the same sum of weights.  Probabilities then are those of a population with these shares.
    backend : str, optional
        ``"compiled"``, ``"reference"`` or ``"device"``; default the first, or the last where a space has a field that
        only torch can run.  ``"distributed"``: in several processes, see `dnnfem.distributed`.
    memory : int, optional
        Bytes that a linearization may keep besides the samples; default half of what they take, at least 300 MB; on a
        GPU a fourth of what is free, for both.
    device : str, optional
        ``"cuda"``, ``"cuda:1"``, ...: kernels are those of the backend ``"device"``, on that GPU; or ``"cpu"``, for the
        same kernels on the CPU.
    precision : str, optional
        ``"double"``, or ``"single"`` on a device: what is as large as samples times neurons is in float32, everything
        that is summed in float64.

    Raises
    ------
    ValueError
        On inputs that are not finite, labels of mixed types or with fractions or of fewer than two classes, shapes that
        do not match, or weights that are not positive or belong to no class.

    Examples
    --------
    >>> t = np.linspace(-1.0, 1.0, 40)
    >>> problem = fem.Classification(t, t > 0.1)
    >>> space = fem.FeedforwardSpace(inputs=1, hidden=(2,), outputs=2)
    >>> J = fem.Sum(problem.on(space), fem.Tikhonov(space, fem.Euclidean, 1e-4))
    >>> u = problem.solution(space, fem.trust_region(J, space.initial(seed=0), 1e-4).x)
    >>> u.labels([[-0.5], [0.5]])
    array([False,  True])
    """

    inputs: Array
    labels: Any
    weights: Array | None = None
    class_weights: str | Mapping[Any, float] | None = None
    backend: str | None = None
    memory: int | None = None
    device: str | None = None
    precision: str = "double"
    classes: Array = field(init=False)
    quadrature: Quadrature = field(init=False)
    ansatz: AffineAnsatz = field(init=False)

    def __post_init__(self) -> None:
        points = as_finite("inputs", self.inputs, 2)
        if points.shape[1] == 0:
            raise ValueError(f"inputs: got shape {points.shape}, expected at least one column")
        classes, numbers = _numbered(self.labels)
        if len(numbers) != len(points):
            raise ValueError(f"labels: got {len(numbers)}, expected {len(points)} as inputs have {points.shape}")
        kernels.check(self.backend, self.device, self.precision)
        quadrature = Quadrature.samples(points, numbers.astype(points.dtype), self.weights)
        if self.class_weights is not None:
            factors = _factors(self.class_weights, classes, np.bincount(numbers, quadrature.weights).astype(np.float64))
            quadrature = Quadrature.samples(points, quadrature.data, quadrature.weights * factors[numbers])
        ansatz = AffineAnsatz.fitted(points, np.zeros((1, len(classes))), np.ones(1))
        budget(self.memory, quadrature)
        for name, value in (
            ("inputs", points),
            ("classes", classes),
            ("quadrature", quadrature),
            ("ansatz", ansatz),
        ):
            object.__setattr__(self, name, value)

    @property
    def identity(self) -> dict[str, Any]:
        """What an archive compares when a run is resumed."""
        return {
            "kind": "classification",
            "data": self.quadrature.hash,
            "classes": "\n".join(str(label) for label in self.classes),
            "input_shift": self.ansatz.input_shift,
            "input_scale": self.ansatz.input_scale,
        }

    def on(self, space: NetworkSpace, quadrature: Quadrature | None = None) -> Integral:
        """Discretize: return the functional on `space`.

        Raises
        ------
        ValueError
            If the space does not have one output per class, has another number of inputs than the data, or unknowns.
        """
        quadrature = self.quadrature if quadrature is None else quadrature
        if space.outputs != len(self.classes):
            raise ValueError(
                f"space: got {space.outputs} outputs ({space}), expected {len(self.classes)}, one per class"
            )
        check_unknowns(space)
        memory, law = budget(self.memory, self.quadrature, self.device), CrossEntropy()
        return Integral(space, quadrature, self.ansatz, law, self.backend, memory, self.device, self.precision)

    def solution(self, space: NetworkSpace, x: Array, temperature: float = 1.0) -> Classifier:
        """Return the classifier with coefficients `x`, in the user's coordinates.

        Parameters
        ----------
        space : NetworkSpace
        x : array, shape (dim,)
        temperature : float
            Logits are divided by it; see `dnnfem.calibrated`.

        Raises
        ------
        ValueError
            If `x` is no finite vector of the space, or `temperature` is not positive.
        """
        network = Solution(space, x, self.ansatz, self.backend, self.device, self.precision)
        return Classifier(network, self.classes, temperature)

    def numbers(self, labels: Any) -> Index:
        """Return the numbers of the classes of labels, shape (m,): columns of logits and probabilities.

        Raises
        ------
        ValueError
            If a label is none of `classes`.
        """
        given = _labels(labels)
        numbers = np.minimum(np.searchsorted(self.classes, given), len(self.classes) - 1)
        unknown = np.unique(given[self.classes[numbers] != given])
        if len(unknown):
            raise ValueError(f"labels: got {unknown.tolist()}, expected labels among {self.classes.tolist()}")
        return numbers.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network read as probabilities of classes.

    Parameters
    ----------
    network : Solution
        Its outputs are the logits.
    classes : array, shape (classes,)
        Labels, one per output.
    temperature : float
        Logits are divided by it.

    Raises
    ------
    ValueError
        If `temperature` is not positive and finite.
    """

    network: Solution
    classes: Array
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < np.inf:
            raise ValueError(f"temperature: got {self.temperature!r}, expected a positive finite number")

    def __call__(self, points: Any) -> Array:
        """Return the logits at points (m, d), divided by the temperature, shape (m, classes)."""
        return np.asarray(self.network(points) / self.temperature)

    def probabilities(self, points: Any) -> Array:
        """Return the probability of each class at points (m, d), shape (m, classes)."""
        logits = self(points)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def labels(self, points: Any) -> Array:
        """Return the most probable label at points (m, d), shape (m,)."""
        return np.asarray(self.classes[np.argmax(self(points), axis=1)])


def _labels(labels: Any) -> Array:
    """Return labels as an array that sorts.

    Raises
    ------
    ValueError
        If they are no sequence of labels of one type, or a label is missing or a fraction.
    """
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"labels: got shape {array.shape}, expected one axis")
    kinds = {type(label) for label in labels}
    # NumPy turns 1 and "1" into the same string.
    mixed = len(kinds) > 1 and (array.dtype.kind == "O" or any(issubclass(kind, str) for kind in kinds))
    if mixed or array.dtype.kind not in "biufUSO":
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"labels: got values of type {names}, expected all of one type: strings, integers, ...")
    if array.dtype.kind == "O":
        # Strings of pandas, or integers in an array of objects: archives and files have no objects.
        array = np.array(array.tolist())
    if array.dtype.kind not in "biufUS":
        raise ValueError(f"labels: got {array.dtype} numbers, expected strings, or integers of at most 64 bits")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("labels: got NaN or infinity, expected a label for every sample")
    if array.dtype.kind == "f" and (fractions := array[array != np.round(array)]).size:
        raise ValueError(
            f"labels: got {fractions[0]:g}, expected whole numbers or names of classes; real values are the targets of "
            "dnnfem.Regression"
        )
    return array


def _numbered(labels: Any) -> tuple[Array, Index]:
    """Return the classes, sorted, and the number of the class of each sample."""
    classes, numbers = np.unique(_labels(labels), return_inverse=True)
    if classes.dtype.kind == "U" and any("\0" in name for name in classes.tolist()):
        raise ValueError("labels: got a string with a null character, expected strings without")
    if len(classes) < 2:
        raise ValueError(f"labels: got {len(classes)} different ones ({classes.tolist()}), expected at least two")
    classes.setflags(write=False)
    return classes, numbers.astype(np.int64)


def _factors(rule: str | Mapping[Any, float], classes: Array, shares: Array) -> Array:
    """Return the factor of each class, given the sums of the weights."""
    if isinstance(rule, str) and rule == "balanced":
        return np.asarray(1.0 / shares)
    if not isinstance(rule, Mapping):
        raise ValueError(f'class_weights: got {rule!r}, expected "balanced" or a mapping from label to factor')
    unknown = [label for label in rule if label not in classes.tolist()]
    if unknown:
        raise ValueError(f"class_weights: got {unknown}, expected labels among {classes.tolist()}")
    given = [rule.get(label, 1.0) for label in classes.tolist()]
    if not all(isinstance(factor, Real) and 0.0 < factor < np.inf for factor in given):
        raise ValueError(f"class_weights: got {dict(rule)}, expected positive finite numbers")
    return np.array(given, dtype=np.float64)
