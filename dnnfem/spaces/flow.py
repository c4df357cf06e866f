"""Continuous residual networks: the flow of an ordinary differential equation, whose depth is a mesh of time."""

from __future__ import annotations

from dataclasses import dataclass, field as data_field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from dnnfem.kernels.program import Program
from dnnfem.records import Array, Index
from dnnfem.spaces.fields import Field, check_field, field_from_attributes
from dnnfem.spaces.layers import SingleLayer
from dnnfem.spaces.layout import Purpose, generator, register
from dnnfem.spaces.meshes import SAME, Nodes, aligned, check_nodes, parents, uniform
from dnnfem.spaces.schemes import SCHEMES
from dnnfem.spaces.unrolling import unrolled

ENCODERS = ("padding", "affine")


@dataclass(frozen=True)
class FlowSpace:
    """Networks ``u = D z(T) + d``, ``z' = f(z, theta(t))`` on [0, T], ``z(0) = E p + e``.

    ``p`` are the reference coordinates.  There are two meshes of [0, T].  On the *weight mesh* theta is piecewise
    constant or continuous and piecewise linear; its cells are what is refined.  The *state mesh* is a refinement of it,
    on which a Runge-Kutta scheme runs.  Spaces with a common state mesh are nested: a prolonged iterate is the same
    network, to rounding.  Equal meshes, piecewise constant weights and Euler's method are an ordinary residual
    network.  Sources: E, Commun. Math. Stat. 5 (2017) 1-11; Haber and Ruthotto, Inverse Problems 34 (2018) 014004.

    Coefficients are stored in the order of time: encoder (``E`` row by row, then ``e``; if it is trained), theta at one
    cell (node) after another, decoder (``D`` row by row, then ``d``).

    Parameters
    ----------
    inputs, width, outputs : int
        Dimensions of domain, state and range.
    weight_mesh : sequence of float
        Nodes from 0 to T, increasing.
    state_mesh : sequence of float, optional
        Nodes of a refinement; default the weight mesh.
    degree : int
        0 for piecewise constant, 1 for piecewise linear theta.
    scheme : str
        ``"euler"``, ``"heun"`` or ``"rk4"``.
    field : Field
        ``f``, e.g. `SingleLayer`, `DoubleLayer`, `Antisymmetric`, `Hamiltonian`, `TimeSteps`, or a `ModuleField`.
    encoder : str or array, shape (width, inputs) or (width, inputs + 1)
        ``"padding"`` with zeros, ``"affine"`` with trained coefficients, or fixed ones, ``e`` as a last column.

    Raises
    ------
    ValueError
        If a dimension is not positive, a mesh does not begin at 0 and increase, the state mesh is no refinement of the
        weight mesh, or degree, scheme, field or encoder are not as described.

    Examples
    --------
    >>> fem.FlowSpace.uniform(inputs=2, width=4, outputs=1, cells=2, steps=8).dim
    45
    """

    inputs: int
    width: int
    outputs: int
    weight_mesh: Nodes = (0.0, 1.0)
    state_mesh: Nodes = ()
    degree: int = 0
    scheme: Literal["euler", "heun", "rk4"] = "rk4"
    field: Field = data_field(default_factory=SingleLayer)
    encoder: Any = "padding"

    def __post_init__(self) -> None:
        for name in ("inputs", "width", "outputs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name}: got {value!r}, expected a positive integer")
            object.__setattr__(self, name, int(value))
        object.__setattr__(self, "degree", _degree(self.degree))
        if not isinstance(self.scheme, str) or self.scheme not in SCHEMES:
            raise ValueError(f"scheme: got {self.scheme!r}, expected one of {', '.join(SCHEMES)}")
        weight_mesh, state_mesh = _meshes(self.weight_mesh, self.state_mesh)
        object.__setattr__(self, "weight_mesh", weight_mesh)
        object.__setattr__(self, "state_mesh", state_mesh)
        check_field(self.field, self.width)
        object.__setattr__(self, "encoder", _encoder(self.encoder, self.inputs, self.width))

    @classmethod
    def uniform(
        cls,
        inputs: int,
        width: int,
        outputs: int,
        cells: int = 1,
        steps: int | None = None,
        T: float = 1.0,
        **more: Any,
    ) -> FlowSpace:
        """Return the space with `cells` and `steps`, a multiple of them, of equal lengths, `more` parameters.

        Raises
        ------
        ValueError
            As the class, or if `steps` is no multiple of `cells`.
        """
        mesh = uniform(T, cells)
        states = mesh if steps is None else uniform(T, steps, "steps")
        return cls(inputs, width, outputs, mesh, states, **more)

    @classmethod
    def residual_network(cls, inputs: int, outputs: int, depth: int, width: int, activation: str = "tanh") -> FlowSpace:
        """Return ``z_{k+1} = z_k + sigma(W_k z_k + b_k)`` with `depth` layers: unit steps of Euler's method."""
        mesh, field = uniform(depth, depth, "depth"), SingleLayer(activation)
        return cls(inputs, width, outputs, mesh, scheme="euler", field=field)

    @property
    def cells(self) -> int:
        """Number of cells of the weight mesh."""
        return len(self.weight_mesh) - 1

    @property
    def steps(self) -> int:
        """Number of steps: cells of the state mesh."""
        return len(self.state_mesh) - 1

    @property
    def end(self) -> float:
        """``T``."""
        return self.weight_mesh[-1]

    @property
    def activation(self) -> str:
        """``"relu"`` if the field has one, so that derivatives jump, else the first activation that is not linear."""
        names = [part.activation for part in self.field.maps(self.width)]
        curved = [name for name in names if name != "identity"]
        return "relu" if "relu" in names else (curved or ["identity"])[0]

    @cached_property
    def size(self) -> int:
        """Number of parameters of the field at one time."""
        return int(self.field.embedding(self.width)[0].shape[1])

    @property
    def places(self) -> int:
        """Number of cells (degree 0) or nodes (degree 1) that theta has values at."""
        return self.cells + self.degree

    @property
    def theta_start(self) -> int:
        """Number of coefficients of the encoder, which come first."""
        return self.width * (self.inputs + 1) if self.encoder == "affine" else 0

    @property
    def theta_stop(self) -> int:
        """Index after the last coefficient of theta."""
        return self.theta_start + self.places * self.size

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.theta_stop + self.outputs * (self.width + 1)

    def at(self, place: int) -> Index:
        """Return the coefficients that theta has at a cell (degree 0) or node (degree 1), shape (size,)."""
        return self.theta_start + place * self.size + np.arange(self.size)

    def theta(self, x: Array) -> Array:
        """Return the values of theta at cells (degree 0) or nodes (degree 1), shape (places, size): a view of `x`."""
        return x[self.theta_start : self.theta_stop].reshape(self.places, self.size)

    @cached_property
    def condensable(self) -> Index:
        """Coefficients of the decoder, shape (outputs, width + 1), the bias last."""
        weights = self.theta_stop + np.arange(self.outputs * self.width).reshape(self.outputs, self.width)
        return np.column_stack([weights, self.dim - self.outputs + np.arange(self.outputs)])

    @cached_property
    def parents(self) -> Index:
        """Cell of the weight mesh that each step lies in, shape (steps,)."""
        return parents(self.weight_mesh, self.state_mesh)

    @cached_property
    def program(self) -> Program:
        """The scheme as straight-line code: one stage per evaluation and affine map, besides encoder and decoder."""
        return unrolled(self).program

    def initial(self, seed: int = 0) -> Array:
        """Return a random starting point, shape (dim,).

        Theta is what the field draws, the same at all times; encoder and decoder have variances 1/inputs and 1/width.
        """
        random = generator(seed, self.dim, Purpose.INITIAL)
        x = np.zeros(self.dim)
        if self.theta_start:
            weights = random.standard_normal((self.width, self.inputs)) / np.sqrt(self.inputs)
            x[: self.width * self.inputs] = weights.ravel()
        self.theta(x)[:] = self.field.initial(self.width, random)
        count = self.outputs * self.width
        x[self.theta_stop : self.theta_stop + count] = random.standard_normal(count) / np.sqrt(self.width)
        return x

    def attributes(self) -> dict[str, Any]:
        """Return plain data from which the space can be rebuilt."""
        return {
            "kind": "flow",
            "inputs": self.inputs,
            "width": self.width,
            "outputs": self.outputs,
            "weight_mesh": self.weight_mesh,
            "state_mesh": self.state_mesh,
            "degree": self.degree,
            "scheme": self.scheme,
            "encoder": self.encoder,
            **{name if name == "field" else f"field_{name}": value for name, value in self.field.attributes().items()},
        }

    def __str__(self) -> str:
        name = str(self.field.attributes()["field"])
        basis = ("constant", "linear")[self.degree]
        cells = f"{self.cells} cell{'s' * (self.cells > 1)} ({basis})"
        return f"{self.inputs}-{self.width}-{self.outputs} {name} flow, {cells}, {self.steps} {self.scheme} steps"


def check_flow(space: Any) -> FlowSpace:
    """Return the space, or raise a `ValueError` if it is none whose weights are functions of time."""
    if not isinstance(space, FlowSpace):
        raise ValueError(f"space: got {space}, expected a FlowSpace, whose weights are functions of time")
    return space


def _degree(degree: Any) -> int:
    if isinstance(degree, bool) or not isinstance(degree, int | np.integer) or degree not in (0, 1):
        raise ValueError(f"degree: got {degree!r}, expected 0 (piecewise constant) or 1 (piecewise linear)")
    return int(degree)


def _meshes(weights: Any, states: Any) -> tuple[Nodes, Nodes]:
    """Return both meshes, with the very same nodes where they have the same."""
    weight_mesh = check_nodes("weight_mesh", weights)
    state_mesh = weight_mesh if states is None or np.size(states) == 0 else check_nodes("state_mesh", states)
    if abs(state_mesh[-1] - weight_mesh[-1]) > SAME * weight_mesh[-1]:
        raise ValueError(f"state_mesh: got one that ends at {state_mesh[-1]:g}, expected {weight_mesh[-1]:g}")
    fitted = aligned(weight_mesh, state_mesh)
    if fitted is None:
        nodes = ", ".join(f"{node:g}" for node in weight_mesh)
        raise ValueError(
            f"state_mesh: got {len(state_mesh) - 1} cells without all nodes of the weight mesh {nodes}, "
            "expected a refinement of it"
        )
    return weight_mesh, fitted


def _encoder(encoder: Any, inputs: int, width: int) -> Any:
    """Return an encoder as plain data."""
    if isinstance(encoder, str):
        if encoder not in ENCODERS:
            raise ValueError(f"encoder: got {encoder!r}, expected {' or '.join(ENCODERS)}, or an array")
        if encoder == "padding" and width < inputs:
            raise ValueError(f"width: got {width}, expected at least the {inputs} inputs to be padded")
        return encoder
    try:
        array = np.asarray(encoder, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"encoder: got {encoder!r}, expected {' or '.join(ENCODERS)}, or an array") from None
    if array.shape not in ((width, inputs), (width, inputs + 1)) or not np.isfinite(array).all():
        raise ValueError(
            f"encoder: got shape {array.shape}, expected finite numbers of shape {(width, inputs)}, or with one more "
            "column"
        )
    return tuple(map(tuple, array.tolist()))


def _from_attributes(**attributes: Any) -> FlowSpace:
    name = attributes.pop("field")
    own = {key: attributes.pop(key) for key in list(attributes) if key.startswith("field_")}
    field = field_from_attributes({"field": name, **{key.removeprefix("field_"): value for key, value in own.items()}})
    return FlowSpace(**attributes, field=field)


register("flow", _from_attributes)
