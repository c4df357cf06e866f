"""Feedforward networks: width is a quadrature of a measure over neurons, depth grows by identity layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from dnnfem.given import members
from dnnfem.kernels.program import SMOOTH_ACTIVATIONS, Block, Program, Stage
from dnnfem.records import Array, Index
from dnnfem.spaces.layout import Purpose, generator, register

SCALES = (1.0, 3.0)
"""Lengths of the weights of a new neuron in reference coordinates: its transition is neither flat nor sharp there."""

HIDDEN_ACTIVATIONS = (*SMOOTH_ACTIVATIONS, "relu")


@dataclass(frozen=True, eq=False)
class Neuron:
    """A neuron that may be added: the cell of refinement in width.

    Attributes
    ----------
    layer : int
        Hidden layer, counted from 0.
    weights : array, shape (fan_in,)
        Incoming weights.
    bias : float
        Bias.
    """

    layer: int
    weights: Array
    bias: float


@dataclass(frozen=True)
class FeedforwardSpace:
    """Networks ``u = W_L y_{L-1} + b_L``, ``y_l = sigma(W_l y_{l-1} + b_l)``, ``y_0`` the reference coordinates.

    With periodic inputs ``y_0`` are features of them: ``sin(pi z_i)`` in the place of each periodic ``z_i``, and after
    all inputs ``cos(pi z_i)``.

    With `unknowns` there are as many further outputs behind these, functions that are constant and therefore have one
    coefficient each: what an inverse problem looks for.

    A layer marked in `residual` has a skip connection, ``y_l = y_{l-1} + sigma(W_l y_{l-1} + b_l)``.  Coefficients are
    stored layer by layer, ``W_l`` row by row, then ``b_l``, and at the end the unknowns.

    Parameters
    ----------
    inputs, outputs : int
        Dimensions of domain and range, without the unknowns.
    hidden : tuple of int
        Width of each hidden layer.
    activation : str
        ``"tanh"``, ``"sin"``, ``"softplus"``, ``"gelu"``, ``"sigmoid"`` or ``"relu"``.
    residual : tuple of bool, optional
        Which hidden layers have a skip connection; default none.
    periodic : tuple of int, optional
        Numbers of the inputs in which all functions of the space have the period 2, the length of the reference box;
        default none.
    unknowns : int
        Number of constants among the outputs.

    Raises
    ------
    ValueError
        If a width is not positive, there is no hidden layer, the activation is unknown, a residual layer would change
        the width, `periodic` are not different inputs, or `unknowns` is negative.

    Examples
    --------
    >>> fem.FeedforwardSpace(inputs=2, hidden=(8, 8), outputs=1, activation="sin").initial(seed=0).shape
    (105,)
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    activation: str = "tanh"
    residual: tuple[bool, ...] = ()
    periodic: tuple[int, ...] = ()
    unknowns: int = 0

    def __post_init__(self) -> None:
        single = isinstance(self.hidden, int | np.integer)
        hidden = (self.hidden,) if single else tuple(members("hidden", self.hidden, "the width of each hidden layer"))
        residual = tuple(bool(r) for r in self.residual) or (False,) * len(hidden)
        widths: dict[str, tuple[int, ...]] = {"inputs": (self.inputs,), "hidden": hidden, "outputs": (self.outputs,)}
        for name, values in widths.items():
            for value in values or (0,):
                if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                    raise ValueError(f"{name}: got {getattr(self, name)!r}, expected positive integers, at least one")
        if isinstance(self.unknowns, bool) or not isinstance(self.unknowns, int | np.integer) or self.unknowns < 0:
            raise ValueError(f"unknowns: got {self.unknowns!r}, expected their number, an integer from 0 on")
        if self.activation not in HIDDEN_ACTIVATIONS:
            raise ValueError(f"activation: got {self.activation!r}, expected one of {', '.join(HIDDEN_ACTIVATIONS)}")
        if len(residual) != len(hidden):
            raise ValueError(f"residual: got {len(residual)} flags for {len(hidden)} hidden layers")
        periodic = tuple(self.periodic) if isinstance(self.periodic, Iterable) else (None,)
        integers = all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in periodic)
        if not integers or not set(periodic) <= set(range(self.inputs)) or len(set(periodic)) < len(periodic):
            raise ValueError(
                f"periodic: got {self.periodic!r}, expected different numbers of inputs from 0 to {self.inputs - 1}"
            )
        for layer, (before, after) in enumerate(zip((self.inputs + len(periodic), *hidden), hidden, strict=False)):
            if residual[layer] and before != after:
                raise ValueError(f"residual: layer {layer} would change the width from {before} to {after}")
        object.__setattr__(self, "inputs", int(self.inputs))
        object.__setattr__(self, "outputs", int(self.outputs))
        object.__setattr__(self, "unknowns", int(self.unknowns))
        object.__setattr__(self, "hidden", tuple(int(w) for w in hidden))
        object.__setattr__(self, "residual", residual)
        object.__setattr__(self, "periodic", tuple(sorted(int(i) for i in periodic)))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Affine maps of the layers in the coefficients, the output layer last; the unknowns belong to none."""
        widths = (self.inputs + len(self.periodic), *self.hidden, self.outputs)
        blocks: list[Block] = []
        start = 0
        for fan_in, fan_out in pairwise(widths):
            blocks.append(Block(fan_out, fan_in, start))
            start = blocks[-1].stop
        return tuple(blocks)

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.blocks[-1].stop + self.unknowns

    def _features(self) -> tuple[Array, Array, Array]:
        """``W_0, b_0, W_1`` of what the first layer reads, ``sin(W_0 z + b_0) + W_1 z``."""
        unit, periodic = np.eye(self.inputs), list(self.periodic)
        sines = np.isin(np.arange(self.inputs), periodic)
        waves = np.pi * np.concatenate([unit * sines, unit[periodic]])
        phases = np.repeat([0.0, np.pi / 2.0], [self.inputs, len(periodic)])
        return waves, phases, np.concatenate([unit * ~sines, 0.0 * unit[periodic]])

    @property
    def _stages_ahead(self) -> int:
        """Number of stages with fixed weights, which compute the features, ahead of those of the layers."""
        return (len(self.periodic) > 0) + (0 < len(self.periodic) < self.inputs)

    def reads(self, layer: int) -> int:
        """Return the register that a layer reads; hidden layers count from 0, then comes the output layer."""
        return layer + self._stages_ahead

    @cached_property
    def program(self) -> Program:
        """One stage per layer; the weights are the coefficients, followed by those of the features.

        The rows of the output layer that belong to the unknowns have no coefficients but their biases: their weights
        are fixed at zero, between those of the other rows and the biases.
        """
        ahead, width, last = self._stages_ahead, self.blocks[0].columns, len(self.hidden)
        outer = self.blocks[-1]
        outputs = Block(self.outputs + self.unknowns, outer.columns, outer.start)
        sines = Block(width, self.inputs, outputs.stop)
        blocks = (*self.blocks[:-1], outputs, *(sines, Block(width, self.inputs, sines.stop, bias=False))[:ahead])
        stages = [Stage(1, 0, last + 1, "sin"), Stage(2, 0, last + 2, carry=((1, 1.0),))][:ahead]
        for layer, skip in enumerate(self.residual):
            r = self.reads(layer)
            stages.append(Stage(r + 1, r, layer, self.activation, carry=((r, 1.0),) if skip else ()))
        stages.append(Stage(self.reads(last) + 1, self.reads(last), last))
        fixed = self._features()[: ahead + 1] if ahead else ()
        offset = np.concatenate([np.zeros(outputs.stop), *map(np.ravel, fixed)])
        coefficients = np.arange(self.dim)
        places = np.where(coefficients < outer.bias_start, coefficients, coefficients + outputs.stop - self.dim)
        entries = (np.ones(self.dim), (places, coefficients))
        embedding = sp.csr_array(sp.coo_array(entries, shape=(offset.size, self.dim)))
        widths = (self.inputs, *[width] * ahead, *self.hidden, outputs.rows)
        return Program(widths, tuple(stages), blocks, embedding, offset)

    @cached_property
    def condensable(self) -> Index:
        """Coefficients of the output layer, shape (outputs, width + 1), the bias last; without the unknowns."""
        last = self.blocks[-1]
        weights = last.start + np.arange(last.rows * last.columns).reshape(last.rows, last.columns)
        return np.column_stack([weights, last.bias_start + np.arange(last.rows)])

    def incoming(self, layer: int, neuron: int) -> Index:
        """Coefficients of one neuron: its weights, then its bias, shape (fan_in + 1,)."""
        block = self.blocks[layer]
        row = block.start + neuron * block.columns + np.arange(block.columns)
        return np.append(row, block.bias_start + neuron)

    def outgoing(self, layer: int, neuron: int) -> Index:
        """Coefficients by which the next layer reads one neuron, shape (fan_out,)."""
        block = self.blocks[layer + 1]
        return block.start + neuron + block.columns * np.arange(block.rows)

    def initial(self, seed: int = 0) -> Array:
        """Return a random starting point, shape (dim,).

        Neurons of the first layer are ridges through random points of the reference box [-1, 1]^d, so that the kink or
        transition of each one lies inside the data; deeper layers have weights of variance 1/fan_in.  The unknowns
        start at zero.
        """
        random = generator(seed, self.dim, Purpose.INITIAL)
        x = np.zeros(self.dim)
        for layer, block in enumerate(self.blocks):
            if layer == 0:
                points = random.uniform(-1.0, 1.0, (block.rows, self.inputs))
                if self.periodic:
                    waves, phases, copies = self._features()
                    points = np.sin(points @ waves.T + phases) + points @ copies.T
                weights, bias = ridges(random, points)
            else:
                scale = 0.1 if layer < len(self.hidden) and self.residual[layer] else 1.0
                weights = scale * random.standard_normal((block.rows, block.columns)) / np.sqrt(block.columns)
                bias = np.zeros(block.rows)
            x[block.start : block.bias_start] = weights.ravel()
            x[block.bias_start : block.stop] = bias
        return x

    def attributes(self) -> dict[str, Any]:
        """Return plain data from which the space can be rebuilt."""
        # Without periodic inputs and unknowns they are those of the first versions.
        further: dict[str, Any] = {"periodic": self.periodic} if self.periodic else {}
        further |= {"unknowns": self.unknowns} if self.unknowns else {}
        return {
            "kind": "feedforward",
            "inputs": self.inputs,
            "hidden": self.hidden,
            "outputs": self.outputs,
            "activation": self.activation,
            "residual": self.residual,
            **further,
        }

    def __str__(self) -> str:
        hidden = "-".join(f"{w}r" if r else str(w) for w, r in zip(self.hidden, self.residual, strict=True))
        periodic = f", periodic in {', '.join(map(str, self.periodic))}" if self.periodic else ""
        unknowns = f", {self.unknowns} unknown{'s' * (self.unknowns > 1)}" if self.unknowns else ""
        return f"{self.inputs}-{hidden}-{self.outputs} {self.activation}{periodic}{unknowns}"


def ridges(
    random: np.random.Generator, points: Array, scales: tuple[float, float] = SCALES, sparse: bool = False
) -> tuple[Array, Array]:
    """Draw one ridge ``w . (p - p_0)`` through each point.

    Directions are uniform on the sphere, lengths log-uniform between the two `scales`.  If `sparse`, spheres are those
    of k random coordinates, with probability ``2^-k`` (what is left belongs to all of them).

    Returns
    -------
    weights : array, shape (m, d)
    bias : array, shape (m,)
    """
    weights = random.standard_normal(points.shape)
    if sparse:
        active = random.geometric(0.5, size=(len(points), 1))
        weights[np.argsort(np.argsort(random.uniform(size=points.shape), axis=1), axis=1) >= active] = 0.0
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    weights *= np.exp(random.uniform(np.log(scales[0]), np.log(scales[1]), (len(points), 1)))
    return weights, -np.einsum("md,md->m", weights, points)


register("feedforward", FeedforwardSpace)
