"""Solutions for other programs, and networks from them: NumPy's, torch's and ONNX's files, modules of torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnfem.archive import ArchiveError, read, read_ansatz
from dnnfem.functionals import Functional
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.problems.classification import Classifier
from dnnfem.problems.solution import Solution
from dnnfem.problems.unknowns import Unknowns, UnknownsAnsatz
from dnnfem.records import Array
from dnnfem.spaces import FeedforwardSpace
from dnnfem.spaces.layout import NetworkSpace, check_coefficients

PRECISIONS = ("mixed", "single", "double")

SINGLE = {"gelu", "softplus"}
"""Activations that ONNX runtimes do not have in float64."""

_ACTIVATIONS: dict[type[torch.nn.Module], str] = {
    torch.nn.Tanh: "tanh",
    torch.nn.Softplus: "softplus",
    torch.nn.GELU: "gelu",
    torch.nn.Sigmoid: "sigmoid",
    torch.nn.ReLU: "relu",
}


def load(path: str | Path, level: int | None = None, space: NetworkSpace | None = None) -> Solution | Classifier:
    """Return the solution on a level of an archive, without the problem that it belongs to.

    Parameters
    ----------
    path : str or Path
    level : int, optional
        Default the last one that is solved.
    space : NetworkSpace, optional
        A space of the run whose field is a `dnnfem.ModuleField`: modules are not stored.

    Returns
    -------
    Solution or Classifier
        In the coordinates and units of the problem.

    Raises
    ------
    ArchiveError
        If the file is not an archive, damaged or of a newer version, the level is not solved, or the solution holds
        conditions exactly: these are functions of the script, which a file cannot have.
    FileNotFoundError
        If there is no such file.
    ValueError
        If `space` is of another kind than those of the run.
    """
    levels, data = read(path, space), read_ansatz(path)
    solved = [record for record in levels if record.x is not None and level in (None, record.number)]
    if not solved:
        which = "no level is" if level is None else f"level {level} is not"
        raise ArchiveError(f"{path}: {which} solved, expected one of {[r.number for r in levels if r.x is not None]}")
    if "conditions" in data or "input_shift" not in data:
        why = "its solutions hold conditions exactly, which are functions of the script" if data else "has no ansatz"
        raise ArchiveError(f"{path}: {why}; expected problem.solution(level.space, level.x), in the script of the run")
    names = ("input_shift", "input_scale", "output_shift", "output_scale")
    ansatz: Any = AffineAnsatz(*(data[name] for name in names))
    if "unknowns_names" in data:
        unknowns = Unknowns(tuple(data["unknowns_names"].tolist()), data["unknowns_start"], data["unknowns_scale"])
        ansatz = UnknownsAnsatz(ansatz, len(ansatz.output_shift), unknowns)
    record = solved[-1]
    solution = Solution(record.space, record.x, ansatz)  # type: ignore[arg-type]
    return Classifier(solution, data["classes"]) if "classes" in data else solution


class _Probabilities(torch.nn.Module):
    """A classifier in torch: points (m, d) to probabilities (m, classes)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network, self.temperature = classifier.network.to_torch(), classifier.temperature

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return the probabilities."""
        return torch.softmax(self.network(points) / self.temperature, dim=1)


class _Mixed(torch.nn.Module):
    """A module in float64, seen from outside in float32."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return the values in float32."""
        values: torch.Tensor = self.module(points.double()).float()
        return values


def export(solution: Solution | Classifier, path: str | Path, precision: str = "mixed") -> None:
    """Write a solution to a file that other programs read, without dnnfem.

    Parameters
    ----------
    solution : Solution or Classifier
        Of a classifier it is the probabilities of the classes.
    path : str or Path
        What is written depends on its suffix.

        ``.npz``
            Weights and what a program of ten lines needs to evaluate the network with NumPy, see the manual; of a
            solution that holds conditions exactly there is none.
        ``.pt2``
            An exported program of torch, for ``torch.export.load(path).module()``; in float64.
        ``.onnx``
            For ONNX, with input ``points`` (m, d) and output ``values`` (m, outputs); needs the packages onnx and
            onnxscript.
    precision : str
        Of ONNX: ``"single"``; ``"double"``; or ``"mixed"``, float32 outside and float64 inside, so that values are
        right to float32 however large the weights are.  Networks of gelu or softplus, which runtimes do not have in
        float64, are in single precision then.

    Raises
    ------
    ValueError
        If there is no such folder, the suffix or the precision is another one, the network needs in float64 what ONNX's
        runtimes do not have, or conditions or a module cannot be exported.
    ImportError
        If a package is missing.
    """
    path = Path(path)
    writers = {".npz": _write_npz, ".pt2": _write_torch, ".onnx": _write_onnx}
    if path.suffix not in writers:
        raise ValueError(f"path: got {str(path)!r}, expected a name that ends with {', '.join(writers)}")
    if not path.parent.is_dir():
        raise ValueError(f"path: there is no folder {path.parent}, expected an existing one")
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
    writers[path.suffix](solution, path, precision)


def _network(solution: Solution | Classifier) -> Solution:
    return solution.network if isinstance(solution, Classifier) else solution


def _module(solution: Solution | Classifier) -> torch.nn.Module:
    module: torch.nn.Module = (
        _Probabilities(solution) if isinstance(solution, Classifier) else solution.to_torch()
    ).eval()
    return module


def _exported(module: torch.nn.Module, inputs: int, dtype: torch.dtype) -> Any:
    """Return the exported program of a module, for any number of points."""
    # Two points: with one of them torch takes the number for a constant.
    points = torch.zeros((2, inputs), dtype=dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (points,), dynamic_shapes=({0: torch.export.Dim("m")},))
    except Exception as error:
        raise ValueError(
            "solution: could not be exported; conditions and modules have to be functions of tensors without branches "
            f"that depend on numbers in them, and without len(p): {str(error).splitlines()[0]}"
        ) from error


def _write_torch(solution: Solution | Classifier, path: Path, precision: str) -> None:
    program = _exported(_module(solution), _network(solution).space.inputs, torch.float64)
    with open(path, "wb") as file:
        torch.export.save(program, file)


def _write_onnx(solution: Solution | Classifier, path: Path, precision: str) -> None:
    space, module = _network(solution).space, _module(solution)
    lacking = {stage.activation for stage in space.program.stages} & SINGLE
    if lacking and precision == "double":
        raise ValueError(f"precision: got 'double' for {', '.join(lacking)}, which ONNX runtimes have in float32 only")
    if lacking:
        precision = "single"
    dtype = torch.float64 if precision == "double" else torch.float32
    program = _exported(_Mixed(module) if precision == "mixed" else module.to(dtype), space.inputs, dtype)
    # It would log what packages it could do more with.
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names: dict[str, Any] = {"input_names": ["points"], "output_names": ["values"]}
        try:
            torch.onnx.export(program, (), path, dynamo=True, external_data=False, verbose=False, **names)
        finally:
            log.setLevel(level)


def _write_npz(solution: Solution | Classifier, path: Path, precision: str) -> None:
    network = _network(solution)
    program, attributes = network.space.program, network.ansatz.attributes()  # type: ignore[attr-defined]
    if program.is_opaque:
        raise ValueError(f"path: got {str(path)!r} for a network with a module of torch, expected .pt2 or .onnx")
    if "conditions" in attributes:
        raise ValueError(
            f"path: got {str(path)!r} for a solution that holds conditions exactly, expected .pt2 or .onnx"
        )
    weights = program.weights(network.x)
    arrays: dict[str, Any] = dict(attributes)
    for number, block in enumerate(program.blocks):
        arrays[f"W{number}"] = weights[block.start : block.bias_start].reshape(block.rows, block.columns)
        arrays[f"b{number}"] = weights[block.bias_start : block.stop] if block.bias else np.zeros(block.rows)
    # Behind the functions there may be unknowns.
    last, functions = program.stages[-1].block, len(attributes["output_shift"])
    arrays |= {f"{name}{last}": arrays[f"{name}{last}"][:functions] for name in "Wb"}
    for name in ("input", "block", "activation", "scale"):
        arrays[name] = np.array([getattr(stage, name) for stage in program.stages])
    carried = [(number, *pair) for number, stage in enumerate(program.stages) for pair in stage.carry]
    arrays["carry"] = np.array(carried, dtype=np.float64).reshape(-1, 3)
    if isinstance(solution, Classifier):
        arrays |= {"classes": solution.classes, "temperature": np.array(solution.temperature)}
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def from_torch(module: Any, problem: Any) -> tuple[FeedforwardSpace, Array]:
    """Return a network of torch as a space and coefficients, to go on with in a loop.

    Parameters
    ----------
    module : torch.nn.Sequential
        Linear layers with one and the same activation between them: Tanh, Softplus, GELU, Sigmoid or ReLU.
    problem : Problem
        E.g. `dnnfem.Regression`; the module is a function in its coordinates and units.

    Returns
    -------
    space : FeedforwardSpace
    x : array, shape (dim,)
        ``problem.solution(space, x)`` is the function that the module is.

    Raises
    ------
    ValueError
        If the module consists of something else, has weights that are not finite, does not fit the problem, or the
        problem's solutions hold conditions exactly.
    """
    linear, activation = _layers(module)
    ansatz = problem.ansatz
    if not isinstance(ansatz, AffineAnsatz):
        raise ValueError(
            f"problem: got one with {type(ansatz).__name__}, expected one whose solutions are networks in other units: "
            "without conditions that hold exactly, and without unknowns"
        )
    widths = (*(layer.in_features for layer in linear), linear[-1].out_features)
    if (widths[0], widths[-1]) != (len(ansatz.input_shift), len(ansatz.output_shift)):
        ends = len(ansatz.input_shift), len(ansatz.output_shift)
        raise ValueError(f"module: got {widths[0]} inputs and {widths[-1]} outputs, expected {ends[0]} and {ends[1]}")
    space = FeedforwardSpace(widths[0], widths[1:-1], widths[-1], activation)
    weights = [layer.weight.detach().cpu().double().numpy().copy() for layer in linear]
    bias = [
        np.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().cpu().double().numpy().copy()
        for layer in linear
    ]
    # A feature that is always the same has an infinite scale: it is a part of the bias.
    bias[0] += weights[0] @ ansatz.input_shift
    weights[0] *= np.where(np.isfinite(ansatz.input_scale), ansatz.input_scale, 0.0)
    bias[-1] = (bias[-1] - ansatz.output_shift) / ansatz.output_scale
    weights[-1] /= ansatz.output_scale[:, None]
    x = np.concatenate([part for pair in zip(weights, bias, strict=True) for part in map(np.ravel, pair)])
    return space, check_coefficients(space, x, "module", finite=True)


def _layers(module: Any) -> tuple[list[torch.nn.Linear], str]:
    """Return the linear layers of a module and the activation between them."""
    parts = _flat(module) if isinstance(module, torch.nn.Sequential) else []
    linear = [part for part in parts[::2] if isinstance(part, torch.nn.Linear)]
    between = {(type(part), str(part)) for part in parts[1::2]}
    plain = len(parts) % 2 == 1 and len(parts) > 1 and len(linear) == len(parts) // 2 + 1 and len(between) == 1
    activation = next((name for kind, name in _ACTIVATIONS.items() if plain and (kind, str(kind())) in between), None)
    if activation is None:
        got = ", ".join(type(part).__name__ for part in parts) or type(module).__name__
        names = ", ".join(kind.__name__ for kind in _ACTIVATIONS)
        raise ValueError(
            f"module: got {got}, expected a torch.nn.Sequential of Linear layers with one and the same activation "
            f"between them, of {names} with their defaults"
        )
    for before, after in pairwise(linear):
        if before.out_features != after.in_features:
            raise ValueError(f"module: got {after} behind {before}, expected as many inputs as there are outputs")
    return linear, activation


def _flat(module: torch.nn.Sequential) -> list[torch.nn.Module]:
    """Return the parts of a module, those of parts in their places; one part may be there several times."""
    return [part for child in module for part in (_flat(child) if isinstance(child, torch.nn.Sequential) else [child])]


class _Value(torch.autograd.Function):
    """A functional as an operation of torch."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, functional: Any) -> torch.Tensor:
        """Return the value, and keep the linearization for the derivative."""
        ctx.linearization = functional.linearize(x.detach().cpu().double().numpy())
        return x.new_tensor(ctx.linearization.value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the derivative times the one of what follows."""
        (gradient,) = gradients
        return gradient * torch.as_tensor(ctx.linearization.derivative).to(gradient), None


def as_torch(functional: Functional) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a functional as a function of torch: coefficients (dim,) to the value, a number, once differentiable.

    Values and derivatives are those of the kernels, so that the optimizers of torch run on whatever there is a
    functional of: sums, penalties and differential equations too.

    Parameters
    ----------
    functional : Functional

    Returns
    -------
    callable
        ``x -> J(x)``.  The derivative that it gives is the dual vector: with the optimizers of torch the norm is the
        Euclidean one.

    Raises
    ------
    ValueError
        At use, if the coefficients have another shape than the functional's space says.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import dnnfem as fem
    >>> points = np.linspace(-1.0, 1.0, 20)
    >>> problem, space = fem.Regression(points, np.sin(3.0 * points)), fem.FeedforwardSpace(1, (5,), 1)
    >>> x = torch.tensor(space.initial(seed=0), requires_grad=True)
    >>> J, optimizer = fem.as_torch(problem.on(space)), torch.optim.Adam([x], lr=0.01)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     J(x).backward()
    ...     _ = optimizer.step()
    >>> u = problem.solution(space, x.detach().numpy())
    """

    def value(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _Value.apply(x, functional)  # type: ignore[no-untyped-call]
        return result

    return value
