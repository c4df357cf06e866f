"""Trial spaces, transfers between them, and hierarchies."""

from __future__ import annotations

from dnnfem.spaces.feedforward import FeedforwardSpace, Neuron
from dnnfem.spaces.fields import AffineMap, TimeSteps, register_field
from dnnfem.spaces.flow import FlowSpace
from dnnfem.spaces.hierarchy import Hierarchy
from dnnfem.spaces.layers import Antisymmetric, DoubleLayer, Hamiltonian, SingleLayer
from dnnfem.spaces.layout import Coordinates, Purpose, Space, generator, space_from_attributes
from dnnfem.spaces.transfer import Transfer

__all__ = [
    "AffineMap",
    "Antisymmetric",
    "Coordinates",
    "DoubleLayer",
    "FeedforwardSpace",
    "FlowSpace",
    "Hamiltonian",
    "Hierarchy",
    "Neuron",
    "Purpose",
    "SingleLayer",
    "Space",
    "TimeSteps",
    "Transfer",
    "generator",
    "register_field",
    "space_from_attributes",
]
