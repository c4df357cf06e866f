"""Reference solutions of physics-informed networks: that they solve their equations."""

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dct, idct

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import references as ref

PI = math.pi
CENTRAL = np.array([-1.0, 9.0, -45.0, 0.0, 45.0, -9.0, 1.0]) / 60.0
"""First derivative of sixth order; CENTRAL2 is the second."""
CENTRAL2 = np.array([2.0, -27.0, 270.0, -490.0, 270.0, -27.0, 2.0]) / 180.0
OFFSETS = np.arange(-3.0, 4.0)


def points(dim, high=1.0, count=50):
    """Random ones, in `dim` dimensions."""
    return torch.as_tensor(np.random.default_rng(dim).uniform(size=(count, dim)) * high).requires_grad_()


def derivatives(u, p):
    """Gradients and diagonals of Hessians, (m, d) both."""
    (first,) = torch.autograd.grad(u.sum(), p, create_graph=True)
    # A derivative may be a constant, without a graph.
    second = [torch.autograd.grad(first[:, i].sum(), p, retain_graph=True)[0][:, i] for i in range(p.shape[1])]
    return first.detach(), torch.stack(second, dim=1)


def close(value, wanted, tolerance=1e-12):
    value, wanted = (torch.as_tensor(array, dtype=torch.float64).detach() for array in (value, wanted))
    torch.testing.assert_close(value, wanted, rtol=0.0, atol=tolerance * (1.0 + float(wanted.abs().max())))


def at(p, column, value):
    """The points with another coordinate."""
    moved = p.detach().clone()
    moved[:, column] = value
    return moved.requires_grad_()


@pytest.mark.parametrize(
    ("name", "dim", "shift"),
    [
        ("poisson2d", 2, 0.0),
        ("poisson2d_bump", 2, 0.0),
        ("poisson5d", 5, 0.0),
        ("poisson5d_product", 5, 0.0),
        ("helmholtz2d", 2, (6.0 * PI) ** 2),
    ],
)
def test_a_source_belongs_to_its_solution(name, dim, shift):
    p = points(dim)
    u, source = getattr(ref, name), getattr(ref, name + "_source")
    values = u(p)
    assert values.shape == (len(p),)
    close(source(p), -derivatives(values, p)[1].sum(dim=1) - shift * values)


@pytest.mark.parametrize("name", ["poisson2d", "helmholtz2d"])
def test_zero_at_the_boundary(name):
    for column in range(2):
        for value in (0.0, 1.0):
            close(getattr(ref, name)(at(points(2), column, value)), torch.zeros(50, dtype=torch.float64), 1e-13)


def test_factors_of_the_product():
    p = np.random.default_rng(0).uniform(size=(20, 5))
    wanted = [math.prod(math.exp(-((x - 0.4) ** 2)) * math.cos(i * x / 2) for i, x in enumerate(q, 1)) for q in p]
    close(ref.poisson5d_product(p), wanted, 1e-15)


def test_heat():
    p = points(2)
    first, second = derivatives(ref.heat1d(p), p)
    close(first[:, 1], second[:, 0] / 4.0)
    close(ref.heat1d(at(p, 1, 0.0)), torch.sin(PI * p[:, 0]))
    close(ref.heat1d(at(p, 0, 1.0)), torch.zeros(50, dtype=torch.float64))


def test_convection():
    p = points(2, np.array([2.0 * PI, 1.0]))
    first, _ = derivatives(ref.convection(p), p)
    close(first[:, 1], -40.0 * first[:, 0])
    close(ref.convection(at(p, 1, 0.0)), torch.sin(p[:, 0]))
    close(ref.convection(at(p, 0, 0.0)), ref.convection(at(p, 0, 2.0 * PI)))


def test_reaction():
    p = points(2, np.array([2.0 * PI, 1.0]))
    u = ref.reaction(p)
    close(derivatives(u, p)[0][:, 1], 5.0 * u * (1.0 - u))
    close(ref.reaction(at(p, 1, 0.0)), torch.exp(-((p[:, 0] - PI) ** 2) * 8.0 / PI**2))


def test_wave():
    p = points(2)
    _, second = derivatives(ref.wave(p), p)
    close(second[:, 1], 4.0 * second[:, 0])
    begin = at(p, 1, 0.0)
    close(ref.wave(begin), torch.sin(PI * p[:, 0]) + 0.5 * torch.sin(5.0 * PI * p[:, 0]))
    zero = torch.zeros(50, dtype=torch.float64)
    close(derivatives(ref.wave(begin), begin)[0][:, 1], zero)
    close(ref.wave(at(p, 0, 1.0)), zero)


@pytest.mark.parametrize("name", ["poisson5d_product", "poisson5d_product_source", "helmholtz2d_source", "reaction"])
def test_numpy_and_torch_agree(name):
    p = points(5 if "5d" in name else 2)
    function = getattr(ref, name)
    values = function(p.detach().numpy())
    assert isinstance(values, np.ndarray)
    close(function(p), values, 1e-14)
    assert function(p.float()).dtype == torch.float32


def test_burgers_equation():
    nu, h = 0.01 / PI, 5e-4
    # Before, in and beside the layer.
    t, x = (array.ravel() for array in np.meshgrid([0.05, 0.3, 0.5, 0.9], [-0.9, -0.3, -0.01, 0.0, 0.003, 0.5]))
    u = ref.burgers(t, x)
    in_time = ref.burgers(t[:, None] + h * OFFSETS, x[:, None]) @ CENTRAL / h
    in_space = ref.burgers(t[:, None], x[:, None] + h * OFFSETS)
    convection, diffusion = u * (in_space @ CENTRAL) / h, nu * (in_space @ CENTRAL2) / h**2
    largest = np.abs([in_time, convection, diffusion]).max()
    np.testing.assert_allclose(in_time + convection, diffusion, rtol=0.0, atol=1e-6 * largest)


def test_burgers_conditions_and_nodes():
    x = np.concatenate([np.linspace(-1.0, 1.0, 101), np.linspace(-0.02, 0.02, 40)])
    t = np.array([0.0, 1e-8, 1e-3, 0.1, 0.4, 1.0])[:, None]
    u = ref.burgers(t, x)
    assert u.shape == (6, 141)
    np.testing.assert_array_equal(u[0], -np.sin(PI * x))
    np.testing.assert_allclose(u[:, [0, 100]], 0.0, atol=1e-13)
    np.testing.assert_allclose(u, -ref.burgers(t, -x), rtol=0.0, atol=1e-13)
    np.testing.assert_allclose(u, ref.burgers(t, x, nodes=400), rtol=0.0, atol=1e-13)
    assert ref.burgers(0.5, 0.0).shape == ()
    # More points than one block holds.
    np.testing.assert_array_equal(ref.burgers(t, np.tile(x, 40)), np.tile(u, 40))


def test_burgers_with_forty_digits():
    mp = pytest.importorskip("mpmath").mp
    with mp.workdps(40):
        for t, x in ((1.0, 0.003), (0.4, 0.01), (0.66, -1 / 255), (0.001, 0.1)):
            nu, above, below = mp.mpf(1) / 100 / mp.pi, mp.mpf(0), mp.mpf(0)
            for number in range(-280, 281):
                eta = number * mp.mpf("0.05")
                y = mp.pi * (mp.mpf(x) - eta * mp.sqrt(4 * nu * mp.mpf(t)))
                weight = mp.exp(-(eta**2) - mp.cos(y) / (2 * mp.pi * nu))
                above, below = above - weight * mp.sin(y), below + weight
            assert abs(float(ref.burgers(t, x)) - float(above / below)) < 1e-13


def test_burgers_agrees_with_published_values():
    path = Path(os.environ.get("DNNFEM_DATA", ""), "pde", "Burgers.npz")
    if not path.is_file():
        pytest.skip("DNNFEM_DATA has no published values")
    with np.load(path) as data:
        t, x, wanted = data["t"].ravel(), data["x"].ravel(), data["usol"].T
    error = ref.burgers(t[:, None], x) - wanted
    # They deviate from being odd by 7e-11, and from the formula with forty digits by 4e-11 in the layer.
    assert np.abs(error).max() < 5e-11 and np.linalg.norm(error) < 6e-12 * np.linalg.norm(wanted)


def test_allen_cahn_equation():
    u, h, M = ref.allen_cahn(), 1e-3, 2048
    for t in (0.02, 0.3, 0.5, 0.9):
        values = u(t + h * OFFSETS[:, None], np.arange(M + 1) / M)
        now = values[3]
        diffusion = 1e-4 * idct(-((PI * np.arange(M + 1)) ** 2) * dct(now, 1), 1)
        residual = CENTRAL @ values / h - diffusion - 5.0 * (now - now**3)
        np.testing.assert_allclose(residual, 0.0, atol=1e-7)


def test_allen_cahn_conditions():
    u = ref.allen_cahn()
    x = np.linspace(-1.0, 1.0, 101)
    t = np.array([0.0, 1e-6, 2.0**-16, 1e-3, 0.5, 1.0])[:, None]
    np.testing.assert_allclose(u(0.0, x), x**2 * np.cos(PI * x), rtol=0.0, atol=1e-15)
    np.testing.assert_allclose(u(t, x), u(t, -x), rtol=0.0, atol=1e-14)
    np.testing.assert_allclose(u(t, x), u(t, x + 2.0), rtol=0.0, atol=1e-10)
    assert u(0.5, 0.25).shape == () and u(t, x).shape == (6, 101) and u(np.empty(0), np.empty(0)).shape == (0,)
    for time in (-0.1, 1.1):
        with pytest.raises(ValueError, match="0 <= t <= 1"):
            u(time, 0.0)


def test_allen_cahn_accuracy():
    u = ref.allen_cahn()
    assert u.error < 1e-10 and ref.allen_cahn() is u
    # Panels meet, and the closed form meets the first one, at the kink as well.
    x = np.concatenate([np.linspace(0.0, 1.0, 50), 1.0 - np.geomspace(1e-6, 0.1, 50)])
    for time in u.times[:-1]:
        np.testing.assert_allclose(u(time * (1.0 - 1e-13), x), u(time, x), rtol=0.0, atol=1e-11)
    # Stored values are interpolated.
    fewer = ref.AllenCahn(u.times[-2:], (u.panels[-1][:, ::2],))
    t = np.linspace(0.875, 1.0, 20)[:, None]
    np.testing.assert_allclose(fewer(t, x), u(t, x), rtol=0.0, atol=1e-9)


def test_early_is_a_mean_of_the_initial_value():
    y = np.linspace(-9.0, 9.0, 200_001)
    for t, x in ((1e-5, 0.3), (1e-5, 1.0), (1e-5, 0.99997), (1e-3, 0.9995)):
        place = (x - math.sqrt(4e-4 * t) * y + 1.0) % 2.0 - 1.0
        v = np.average(place**2 * np.cos(PI * place), weights=np.exp(-(y**2)))
        wanted = v * math.exp(5.0 * t) / math.sqrt(1.0 + v**2 * math.expm1(10.0 * t))
        assert abs(float(ref.early(t, np.array(x))) - wanted) < 1e-11
