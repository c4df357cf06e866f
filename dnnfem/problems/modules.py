"""Modules of torch as fields of flows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from dnnfem.records import Array
from dnnfem.spaces.opaque import OpaqueMap

Tensor = torch.Tensor

SAMPLES = 3
"""Of the input on which a module is tried out."""

SAME = 1e-9
"""What is closer than this, relative to the largest number, is the same but for rounding."""


@dataclass(frozen=True, repr=False)
class ModuleField:
    """``f(z, theta) = module(z)`` with theta for the parameters of a module of torch, e.g. a convolutional block.

    The module maps tensors (m, width) to (m, width), each sample by itself; inside it may reshape them to images.
    Theta are all its parameters, each of them row by row, in the order of ``module.named_parameters()``; what they are
    when the field is made is where `FlowSpace.initial` begins, at all times.  The module's own parameters are neither
    changed nor read again.  It is run in the type and on the device of the kernels, those of the backend ``"device"``,
    and differentiated by torch.  Fields are equal if they have the very same module.

    Parameters
    ----------
    module : torch.nn.Module
        With parameters and without buffers, so that what it computes is determined by theta alone: batch normalization
        has no place in a flow, layer or group normalization may have.

    Attributes
    ----------
    start : array, shape (size,)
        Theta when the field was made.
    names, shapes : tuple
        Of the parameters.

    Raises
    ------
    ValueError
        If it is no module, has no parameters or any that are not real numbers, or has buffers.  A space raises one too
        if the module does not map its width to the same, couples samples, is random, or torch cannot differentiate it.
    """

    module: torch.nn.Module
    start: Array = field(init=False, compare=False)
    names: tuple[str, ...] = field(init=False, compare=False)
    shapes: tuple[tuple[int, ...], ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.module, torch.nn.Module):
            raise ValueError(f"module: got {self.module!r}, expected a torch.nn.Module")
        parameters = dict(self.module.named_parameters())
        if not parameters:
            raise ValueError(
                f"module: got {self._name} without parameters, expected some that theta can take the place of"
            )
        for name, value in parameters.items():
            if torch.nn.parameter.is_lazy(value) or not value.dtype.is_floating_point:
                raise ValueError(
                    f"module: got {self._name} with the parameter {name} of {value.dtype}, expected real numbers of a "
                    "shape that is known: call a lazy module once before"
                )
        buffers = [name for name, _ in self.module.named_buffers()]
        if buffers:
            raise ValueError(
                f"module: got {self._name} with the buffers {', '.join(buffers)}, expected parameters alone: batch "
                "normalization, say, computes something else in every call; layer or group normalization does not"
            )
        flat = torch.cat([value.detach().to("cpu", torch.float64).flatten() for value in parameters.values()])
        if not bool(torch.isfinite(flat).all()):
            raise ValueError(f"module: got {self._name} with parameters that are NaN or infinite, expected finite ones")
        start = flat.numpy()
        start.setflags(write=False)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "names", tuple(parameters))
        object.__setattr__(self, "shapes", tuple(tuple(value.shape) for value in parameters.values()))

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.start.size

    def __call__(self, weights: Any, y: Any) -> Any:
        """Return ``f(y, weights)``, shape (m, width), for theta (size,) and states (m, width): tensors, or arrays.

        Tensors are of one type and on one device, and the result can be differentiated in both.
        """
        if isinstance(y, np.ndarray):
            with torch.no_grad():
                return self(torch.tensor(weights), torch.tensor(y)).numpy()
        parts = torch.split(weights, [int(np.prod(shape)) for shape in self.shapes])
        values = {name: part.reshape(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}
        return torch.func.functional_call(self.module, values, (y,))

    def _tried(self, y: Tensor, rows: int) -> Tensor:
        """Return the values of samples at the starting point, in their type."""
        try:
            with torch.no_grad():
                value = self(torch.tensor(self.start).to(y.dtype), y)
        except Exception as error:
            raise ValueError(
                f"module: {self._name} fails for {y.dtype} of shape {tuple(y.shape)}, expected one that maps the width "
                f"of the space to itself: {error}"
            ) from error
        expected = (len(y), rows)
        if not isinstance(value, Tensor) or value.shape != expected or value.dtype != y.dtype:
            got = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"module: {self._name} returns {got} for {y.dtype} of shape {tuple(y.shape)}, expected {y.dtype} of "
                f"shape {expected}"
            )
        return value

    def check(self, columns: int, rows: int) -> None:
        """Check that the module maps samples (m, columns) to (m, rows), each by itself, smoothly.

        Raises
        ------
        ValueError
            If it does not.
        """
        y = torch.sin(torch.arange(1.0, SAMPLES * columns + 1.0, dtype=torch.float64)).view(SAMPLES, columns)
        given = y.clone()
        value, again, alone = (self._tried(part, rows) for part in (given, y.clone(), y[:-1].clone()))
        self._tried(y.float(), rows)
        if not torch.equal(given, y):
            raise ValueError(f"module: {self._name} writes to its input, expected one that leaves it as it is")
        close = SAME * float(value.abs().max())
        if not torch.allclose(again, value, rtol=0.0, atol=close, equal_nan=True):
            raise ValueError(
                f"module: {self._name} returns something else when it is called again, expected a function of its "
                "input: call module.eval() before, say, if it drops neurons"
            )
        if not torch.allclose(alone, value[:-1], rtol=0.0, atol=close, equal_nan=True):
            raise ValueError(
                f"module: what {self._name} makes of a sample depends on the others, expected each by itself, without "
                "statistics of a batch"
            )
        self._differentiate(torch.tensor(self.start), y, torch.ones_like(value))

    def _differentiate(self, theta: Tensor, y: Tensor, dual: Tensor) -> None:
        """Try out what kernels ask torch for: products with second derivatives, and derivatives sample by sample."""

        def pulled(theta: Tensor, y: Tensor, dual: Tensor) -> Any:
            return torch.func.vjp(self, theta, y)[1](dual)

        try:
            with warnings.catch_warnings():
                # What torch imports when it differentiates forwards for the first time warns of itself.
                warnings.simplefilter("ignore", DeprecationWarning)
                torch.func.jvp(pulled, (theta, y, dual), (theta, y, dual))
                torch.vmap(pulled, in_dims=(None, 0, 0))(theta, y[:, None], dual[:, None])
        except Exception as error:
            raise ValueError(
                f"module: torch cannot differentiate {self._name} twice, or sample by sample, expected one that "
                f"torch.func.jvp, vjp and vmap accept: {error}"
            ) from error

    def maps(self, width: int) -> tuple[OpaqueMap, ...]:
        """Return the one map."""
        return (OpaqueMap(width, width, self),)

    def embedding(self, width: int) -> tuple[sp.csr_array, Array]:
        """Return the identity."""
        return sp.csr_array(sp.eye_array(self.size)), np.zeros(self.size)

    def initial(self, width: int, random: np.random.Generator) -> Array:
        """Return what the parameters of the module were when the field was made."""
        return self.start.copy()

    def attributes(self) -> dict[str, Any]:
        """Return names and shapes of the parameters."""
        shapes = tuple("x".join(map(str, shape)) for shape in self.shapes)
        return {"field": "module", "names": self.names, "shapes": shapes}

    def __repr__(self) -> str:
        return f"ModuleField({self._name}, {self.size} parameters)"
