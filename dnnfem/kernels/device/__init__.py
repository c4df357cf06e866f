"""The device backend: values and their derivatives in the coefficients, on a CPU or a GPU, with torch.

Sweeps are derived by hand, and are products of matrices over all samples of a chunk; nothing is recorded for automatic
differentiation, but in opaque maps: these torch differentiates, stage by stage.  Samples, activations, laws and
least-squares systems stay on the device; vectors of coefficients and triangles of their size cross its border.
"""

from __future__ import annotations

import torch

from dnnfem.kernels.device.evaluator import DeviceEvaluator
from dnnfem.kernels.device.place import Place
from dnnfem.kernels.program import Program
from dnnfem.kernels.protocol import Ansatz, Law, PlacedPoints

__all__ = ["DeviceEvaluator", "place", "resources"]


def resources() -> dict[str, str]:
    """Return the number of threads, and the GPUs."""
    gpus = (torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return {"threads of torch": str(torch.get_num_threads()), "GPUs": ", ".join(gpus) or "none"}


def place(
    program: Program,
    quadrature: PlacedPoints,
    ansatz: Ansatz,
    law: Law,
    memory: int | None = None,
    device: str = "cpu",
    precision: str = "double",
) -> DeviceEvaluator:
    """Bind program, quadrature, ansatz and law and bring them to a device.

    Ansatz and law get tensors there: arrays of NumPy that they have as dataclasses are replaced.

    Parameters
    ----------
    program, quadrature, ansatz, law
        What is placed.
    memory : int, optional
        Bytes that a linearization may keep; default a fourth of what is free on a GPU.
    device : str
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``, ...
    precision : str
        ``"double"``, or ``"single"`` for registers and matrix products in float32; laws, sums and least-squares
        systems are in float64.

    Raises
    ------
    ValueError
        If there is no such device or precision, the law reads derivatives that cannot be had, or the points do not fit
        the program.
    """
    return DeviceEvaluator(program, quadrature, ansatz, law, Place.of(device, precision), memory)
