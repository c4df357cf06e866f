"""Where tensors live, of what type they are, and how float32 is multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from dnnfem.records import Array

DTYPES = {"double": torch.float64, "single": torch.float32}

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

    def tensor(self, array: Any) -> torch.Tensor:
        """Bring an array, or a tensor, here, in float64; what was there is not followed."""
        if isinstance(array, torch.Tensor):
            return array.to(self.device, torch.float64)
        return torch.tensor(np.asarray(array, dtype=np.float64), device=self.device)

    def index(self, array: Any) -> torch.Tensor:
        """Bring integers here."""
        return torch.tensor(np.asarray(array, dtype=np.int64), device=self.device)

    def zeros(self, *shape: int) -> torch.Tensor:
        """Return zeros in float64."""
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def placed(self, thing: T) -> T:
        """Return a law or an ansatz with its arrays here; one that is no dataclass is left alone."""
        if not is_dataclass(thing) or isinstance(thing, type):
            return thing
        values = {field.name: getattr(thing, field.name) for field in fields(thing) if field.init}
        arrays = {name: self.tensor(value) for name, value in values.items() if isinstance(value, np.ndarray)}
        return replace(thing, **arrays)

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Compute inside: nothing is recorded for automatic differentiation, and float32 is multiplied in float32.

        TF32 and bfloat16 are off, whatever the user allows elsewhere.
        """
        with torch.no_grad():
            if self.dtype == torch.float64:
                yield
            else:
                with _full_precision():
                    yield


@contextmanager
def _full_precision() -> Iterator[None]:
    """Multiply float32 in float32 inside, and put the user's settings back."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        # Before torch 2.9 there is one setting for all; since then the two ways must not be mixed.
        allowed = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(allowed)
        return
    settings = (backends.cuda.matmul, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def array(tensor: torch.Tensor) -> Array:
    """Return a tensor as an array of NumPy in float64."""
    result: Array = tensor.to(torch.float64).cpu().numpy()
    return result
