"""Where tensors live, of what type they are, and how float32 is multiplied."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from dnnfem.records import Array

DTYPES = {"double": torch.float64, "single": torch.float32}

LOCKED = range(2**17, 2**28)
"""Bytes of arrays that cross the border by page-locked memory, which a GPU reads and writes itself: fresh memory of the
system takes longer than the transfer.  There is not much of it for what is larger."""

STAGED = range(2**17, 2**24)
"""Those that are copied there on their way to a GPU: a driver moves longer ones faster from where they are."""

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A device, and the type of what is as large as samples times neurons there.

    Sums, laws and least-squares systems are in float64 whatever that is.
    """

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, device: str, precision: str) -> Place:
        """Return the place that two names stand for.

        Raises
        ------
        ValueError
            If there is no such device, or no such precision.
        """
        if precision not in DTYPES:
            raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(DTYPES)}")
        kind, _, number = device.partition(":")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if kind == "cuda" and int(number or 0) >= count:
            there = f"one of cpu, cuda:0, ..., cuda:{count - 1}" if count else "cpu, as torch finds no CUDA device"
            raise ValueError(f"device: got {device!r}, expected {there}")
        return cls(torch.device(device), DTYPES[precision])

    @property
    def is_gpu(self) -> bool:
        """Whether this is another device than the CPU."""
        return self.device.type != "cpu"

    @property
    def size(self) -> int:
        """Memory of a GPU in bytes."""
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def tensor(self, array: Any) -> torch.Tensor:
        """Bring an array, or a tensor, here, in float64; what was there is not followed."""
        if isinstance(array, torch.Tensor):
            return array.to(self.device, torch.float64)
        host = np.asarray(array, dtype=np.float64)
        if not self.is_gpu or host.nbytes not in STAGED:
            return torch.tensor(host, device=self.device)
        staged = _locked(host.shape)
        np.copyto(staged.numpy(), host)
        return staged.to(self.device, non_blocking=True)

    def copied(self, array: Any) -> Array:
        """Return a copy of an array on the host, in float64, from where it comes here fast."""
        host = np.asarray(array, dtype=np.float64)
        result = _locked(host.shape).numpy() if self.is_gpu and host.nbytes in LOCKED else np.empty(host.shape)
        np.copyto(result, host)
        return result

    def index(self, array: Any) -> torch.Tensor:
        """Bring integers here."""
        return torch.tensor(np.asarray(array, dtype=np.int64), device=self.device)

    def zeros(self, *shape: int) -> torch.Tensor:
        """Return zeros in float64."""
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def placed(self, thing: T) -> T:
        """Return a law or an ansatz with its arrays, and those of its parts, here; other things are left alone.

        So are functions of users, which may be dataclasses too.
        """
        if not is_dataclass(thing) or isinstance(thing, type) or callable(thing):
            return thing
        values = {field.name: getattr(thing, field.name) for field in fields(thing) if field.init}
        here = {name: self.tensor(v) if isinstance(v, np.ndarray) else self.placed(v) for name, v in values.items()}
        changed = {name: value for name, value in here.items() if value is not values[name]}
        return replace(thing, **changed) if changed else thing

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Compute inside: nothing is recorded for automatic differentiation, and float32 is multiplied in float32.

        TF32 and bfloat16 are off, whatever the user allows elsewhere.
        """
        with torch.no_grad(), _full_precision:
            yield


class _FullPrecision:
    """Multiplies float32 in float32 inside, and puts the user's settings back.

    The settings are those of the process: of several threads the first one changes them, and the last one changes them
    back.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before: tuple[str, ...] = ()

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.before = _settings()
                _set(("highest",) if len(self.before) == 1 else ("ieee",) * len(self.before))
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                _set(self.before)


_full_precision = _FullPrecision()


def _matmuls() -> tuple[Any, ...]:
    """Return what has a setting of its own; nothing before torch 2.9, which has one setting for all."""
    backends: Any = torch.backends
    return (backends.cuda.matmul, backends.mkldnn.matmul) if hasattr(backends.cuda.matmul, "fp32_precision") else ()


def _settings() -> tuple[str, ...]:
    """Return how float32 is multiplied; the two ways of torch must not be mixed."""
    return tuple(matmul.fp32_precision for matmul in _matmuls()) or (torch.get_float32_matmul_precision(),)


def _set(values: tuple[str, ...]) -> None:
    matmuls = _matmuls()
    if not matmuls:
        torch.set_float32_matmul_precision(values[0])
    for matmul, value in zip(matmuls, values, strict=False):
        matmul.fp32_precision = value


def array(tensor: torch.Tensor) -> Array:
    """Return a tensor as an array of NumPy in float64."""
    double = tensor.to(torch.float64)
    on_host = _locked(double.shape).copy_(double) if double.is_cuda and double.nbytes in LOCKED else double.cpu()
    result: Array = on_host.numpy()
    return result


def _locked(shape: Sequence[int]) -> torch.Tensor:
    """Return page-locked memory, which torch takes back and gives out again."""
    return torch.empty(shape, dtype=torch.float64, pin_memory=True)
