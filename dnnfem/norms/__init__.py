"""Norms: what turns derivatives into gradients and gives lengths a meaning."""

from __future__ import annotations

from dnnfem.functionals.protocols import Norm
from dnnfem.norms.blocks import Blocks
from dnnfem.norms.decay import weight_decay
from dnnfem.norms.diagonal import Euclidean, Weighted
from dnnfem.norms.features import feature_norm
from dnnfem.norms.frobenius import Frobenius, frobenius
from dnnfem.norms.jacobi import jacobi
from dnnfem.norms.kronecker import Kronecker, kronecker
from dnnfem.norms.mass import H1, L2, TimeNorm
from dnnfem.norms.pullback import Pullback, pulled_back

__all__ = [
    "H1",
    "L2",
    "Blocks",
    "Euclidean",
    "Frobenius",
    "Kronecker",
    "Norm",
    "Pullback",
    "TimeNorm",
    "Weighted",
    "feature_norm",
    "frobenius",
    "jacobi",
    "kronecker",
    "pulled_back",
    "weight_decay",
]
