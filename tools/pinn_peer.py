"""DeepXDE on Burgers' equation, for ``bench_pinn.py burgers --peer deepxde``; ``make peers`` installs it.

The set-up is that of its documentation, in float64: three hidden layers of 20 tanh neurons; 2540 points inside, 80 on
the sides, 160 at the beginning; 15 000 steps of Adam with 1e-3, then its L-BFGS with default settings.  The end of time
is 1, as for ours, there it is 0.99.  It runs in a process of its own; reading modules is not timed.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

Array = np.ndarray

PYTHON = Path(__file__).resolve().parent.parent / ".venv-peers" / "bin" / "python"
ADAM, LBFGS = 15_000, 15_000


def available() -> bool:
    """Return whether the peer's environment is there."""
    return PYTHON.is_file()


def deepxde(places: Array, seed: int, threads: int, adam: int = ADAM, lbfgs: int = LBFGS) -> tuple[float, Array]:
    """Train in a process of its own; return the seconds that it took, and values (m,) at places (m, 2).

    Its L-BFGS stops at the first multiple of 1000 steps from `lbfgs` on; with 0 there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "places.npy"), Path(folder, "answer.npz")
        np.save(asked, places)
        numbers = ["--seed", str(seed), "--adam", str(adam), "--lbfgs", str(lbfgs)]
        # As many threads in every library, no GPU, and the backend that it is asked for.
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        environment = {**os.environ, **counts, "DDE_BACKEND": "pytorch", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("PYTHONPATH", None)
        command = [str(PYTHON), str(Path(__file__).resolve()), str(asked), str(answer), *numbers]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"DeepXDE ended with\n{done.stderr[-2000:]}")
        with np.load(answer) as found:
            return float(found["seconds"]), found["values"]


def train(places: Array, seed: int, adam: int, lbfgs: int) -> tuple[float, Array]:
    """Train here, and return what `deepxde` does."""
    dde, torch = importlib.import_module("deepxde"), importlib.import_module("torch")
    # The first optimizer would import it, which takes seconds.
    importlib.import_module("torch._dynamo")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    dde.config.set_default_float("float64")
    dde.config.set_random_seed(seed)
    began = time.perf_counter()
    domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1.0, 1.0), dde.geometry.TimeDomain(0.0, 1.0))

    def residual(p: object, u: object) -> object:
        u_x, u_t = (dde.grad.jacobian(u, p, i=0, j=axis) for axis in (0, 1))
        return u_t + u * u_x - 0.01 / math.pi * dde.grad.hessian(u, p, i=0, j=0)

    conditions = [
        dde.icbc.DirichletBC(domain, lambda p: 0.0, lambda p, on_boundary: on_boundary),
        dde.icbc.IC(domain, lambda p: -np.sin(math.pi * p[:, :1]), lambda p, on_initial: on_initial),
    ]
    data = dde.data.TimePDE(domain, residual, conditions, num_domain=2540, num_boundary=80, num_initial=160)
    model = dde.Model(data, dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal"))
    model.compile("adam", lr=1e-3)
    model.train(iterations=adam, verbose=0)
    if lbfgs:
        dde.optimizers.config.set_LBFGS_options(maxiter=lbfgs)
        model.compile("L-BFGS")
        model.train(verbose=0)
    seconds = time.perf_counter() - began
    return seconds, np.asarray(model.predict(places), dtype=np.float64)[:, 0]


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", help="file of points, (m, 2): x and t")
    parser.add_argument("answer", help="file to be written: seconds and values")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adam", type=int, default=ADAM)
    parser.add_argument("--lbfgs", type=int, default=LBFGS)
    options = parser.parse_args()
    seconds, values = train(np.load(options.places), options.seed, options.adam, options.lbfgs)
    np.savez(options.answer, seconds=seconds, values=values)


if __name__ == "__main__":
    main()
