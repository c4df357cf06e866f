"""Pictures are drawn and contain what they claim."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dnnfem import plotting
from dnnfem.archive import LevelRecord
from dnnfem.records import Estimate
from dnnfem.refinement import bisect, insert_layer, widen
from dnnfem.spaces import FeedforwardSpace, FlowSpace, Hierarchy
from dnnfem.spaces.feedforward import Neuron


@pytest.fixture(autouse=True)
def closed_figures():
    """Close what a test has drawn."""
    yield
    plt.close("all")


def estimate(total):
    """Return an estimate with three cells."""
    return Estimate("discretization error", np.arange(3), np.array([0.1, 0.5, 0.3]), total)


def level(number, width, total):
    """Return a level as an archive gives it."""
    space = FeedforwardSpace(1, (width,), 1)
    found = None if total is None else estimate(total)
    return LevelRecord(number, space, np.zeros(space.dim), None, None, None, found, None, None)


def test_convergence_has_a_point_per_level_with_an_estimate():
    levels = [level(0, 2, 1.0), level(1, 4, 0.1), level(2, 8, None)]
    ax = plotting.convergence(levels)
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [7, 13] and line.get_ydata().tolist() == [1.0, 0.1]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    ax.figure.canvas.draw()


def test_convergence_shows_errors_and_units():
    ax = plotting.convergence([level(0, 2, 1.0), level(1, 4, 0.1)], errors=[0.9, 0.2], unit=5.0)
    assert ax.lines[0].get_ydata().tolist() == [5.0, 0.5]
    assert ax.lines[1].get_ydata().tolist() == [0.9, 0.2]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["estimate", "error"]
    ax.figure.canvas.draw()


def test_indicators_are_bars_largest_first_with_the_marked_ones_in_colour():
    ax = plotting.indicators(estimate(1.0), marked=np.array([1]))
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.3, 0.1]
    colours = [bar.get_facecolor() for bar in ax.patches]
    assert colours[0] != colours[1] == colours[2]
    assert "1 of 3 marked" in [text.get_text() for text in ax.texts]
    assert len(plotting.indicators(estimate(1.0)).patches) == 3
    ax.figure.canvas.draw()


def test_a_hierarchy_has_a_bar_per_layer_and_level():
    first = FeedforwardSpace(1, (2,), 1)
    second, up = widen(first, [Neuron(0, np.ones(1), 0.0)])
    third, deeper = insert_layer(second, 1)
    hierarchy = Hierarchy((first, second, third), (up, deeper))
    ax = plotting.hierarchy(hierarchy)
    assert [bar.get_height() for bar in ax.patches] == [2, 3, 3, 0, 0, 3]
    assert [text.get_text() for text in ax.texts] == [str(space.dim) for space in hierarchy.spaces]
    assert len(ax.get_legend().get_texts()) == 2
    ax.figure.canvas.draw()
    assert plotting.hierarchy(Hierarchy((first,))).get_legend() is None


def test_pictures_are_drawn_where_asked():
    _, axes = plt.subplots(1, 3)
    space = FeedforwardSpace(1, (2,), 1)
    assert plotting.convergence([level(0, 2, 1.0)], ax=axes[0]) is axes[0]
    assert plotting.indicators(estimate(1.0), ax=axes[1]) is axes[1]
    assert plotting.hierarchy(Hierarchy((space,)), ax=axes[2]) is axes[2]
    assert plt.get_fignums() == [1]


def test_a_hierarchy_of_flows_has_a_line_of_nodes_per_level():
    first = FlowSpace.uniform(2, 2, 1, 2, 4)
    second, up = bisect(first, [1])
    ax = plotting.hierarchy(Hierarchy((first, second), (up,)))
    drawn = [line.get_xydata().tolist() for line in ax.lines]
    meshes = [(mesh, number) for number, s in enumerate((first, second)) for mesh in (s.state_mesh, s.weight_mesh)]
    assert drawn == [[[node, float(number)] for node in mesh] for mesh, number in meshes]
    assert [text.get_text().strip() for text in ax.texts] == [str(first.dim), str(second.dim)]
