"""Trial spaces, transfers between them, and hierarchies."""

from __future__ import annotations

from dnnfem.spaces.feedforward import FeedforwardSpace
from dnnfem.spaces.fields import Antisymmetric, DoubleLayer, Hamiltonian, SingleLayer, TimeSteps
from dnnfem.spaces.flow import FlowSpace
from dnnfem.spaces.hierarchy import Hierarchy
from dnnfem.spaces.layout import Coordinates, Purpose, Space, generator, space_from_attributes
from dnnfem.spaces.transfer import Transfer

__all__ = [
    "Antisymmetric",
    "Coordinates",
    "DoubleLayer",
    "FeedforwardSpace",
    "FlowSpace",
    "Hamiltonian",
    "Hierarchy",
    "Purpose",
    "SingleLayer",
    "Space",
    "TimeSteps",
    "Transfer",
    "generator",
    "space_from_attributes",
]
