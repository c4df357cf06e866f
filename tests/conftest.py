"""Fixtures that several test files share; hypothesis without deadlines, and without randomness in CI."""

import os

import hypothesis
import matplotlib
import numpy as np
import pytest

from dnnfem.problems import Regression
from dnnfem.spaces import FeedforwardSpace

DEVICE = os.environ.get("DNNFEM_DEVICE", "cpu")
"""Where the device backend is tested."""

matplotlib.use("Agg")
hypothesis.settings.register_profile("default", deadline=None, max_examples=25)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(params=["reference", "compiled"])
def backend(request):
    """Return the names of the backends on the host in turn."""
    return request.param


@pytest.fixture
def rng():
    """Return a seeded random generator."""
    return np.random.default_rng(20)


def _samples(count=40):
    random = np.random.default_rng(7)
    inputs = random.uniform(-1.0, 1.0, (count, 2))
    wave = np.sin(2.0 * inputs[:, 0]) * inputs[:, 1]
    return inputs, np.column_stack([wave + 0.3 * inputs[:, 0], np.exp(-np.sum(inputs**2, axis=1)) - wave])


@pytest.fixture
def scalar_problem():
    """Return a smooth regression problem with two inputs and one output."""
    inputs, targets = _samples()
    return Regression(inputs, targets[:, 0], backend="reference")


@pytest.fixture
def vector_problem():
    """Return a smooth regression problem with two inputs and two outputs."""
    inputs, targets = _samples()
    return Regression(inputs, targets, backend="reference")


@pytest.fixture
def space():
    """Return a space for `scalar_problem`, 17 coefficients."""
    return FeedforwardSpace(2, (4,), 1)


@pytest.fixture
def vector_space():
    """Return a space with two hidden layers for `vector_problem`, 29 coefficients."""
    return FeedforwardSpace(2, (3, 3), 2)
