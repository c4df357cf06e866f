"""The wheel and the sdist in fresh environments, without the repository.

    python tools/package_test.py --json
    python tools/package_test.py --minimal tests/test_archive.py tests/test_solvers.py --json

In the first form a wheel is built from the sdist and installed with its extra ``demos``, torch before it.  From a
folder that has nothing but ``demos/quickstart.py`` that demo runs, and the commands info, show, plot, check and export
on the archive it leaves; ONNX is compared with the network.  In the second form all dependencies are as old as
``pyproject.toml`` allows, torch and those of the tests excepted, and some tests run.

quickstart, info, show, plot, check, export   1 if that worked
onnx_difference                               largest difference of onnxruntime's values in float32 and ours in float64
typed                                         1 if mypy finds the types of the installed package
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
TORCH = "torch==2.13.0"

ONNX = """
import sys, numpy as np, onnxruntime, dnnfem as fem
u = fem.load(sys.argv[1])
points = np.random.default_rng(0).uniform(0.0, 1.0, (1000, u.space.inputs)).astype(np.float32)
(values,) = onnxruntime.InferenceSession(sys.argv[2]).run(["values"], {"points": points})
print(np.abs(values - u(points.astype(np.float64))).max())
"""


class Environment:
    """A fresh virtual environment in a folder, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / "bin"

    def install(self, *what: str) -> None:
        """Install packages."""
        subprocess.run([self.bin / "python", "-m", "pip", "install", "-q", *what], check=True)

    def run(self, *command: str | Path) -> str | None:
        """Return what a program of the environment prints, or None if it fails."""
        # Neither the repository nor what its user has set is seen.
        done = subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.work,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.work)},
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"$ {' '.join(map(str, command))}\n{done.stdout}{done.stderr}", flush=True)
        return done.stdout if done.returncode == 0 else None


def built(folder: Path) -> Path:
    """Return the wheel that is built from the sdist."""
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "build"], check=True)
    subprocess.run([sys.executable, "-m", "build", "-q", "--outdir", folder, ROOT], check=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = {"pyproject.toml", "README.md", "LICENSE", "dnnfem/py.typed"} - names
    if missing:
        raise SystemExit(f"the sdist lacks {', '.join(sorted(missing))}")
    return wheel


def newest(environment: Environment, wheel: Path) -> dict[str, float]:
    """Return what works with the newest dependencies."""
    environment.install(TORCH)
    environment.install(f"{wheel}[demos]", "onnxruntime", "mypy")
    shutil.copy(ROOT / "demos" / "quickstart.py", environment.work)
    found: dict[str, float] = {"quickstart": environment.run("python", "quickstart.py", "--quick") is not None}
    archive, picture = next(environment.work.glob("output/*.h5"), Path("none.h5")), environment.work / "run.png"
    commands = {
        "info": ("info",),
        "show": ("show", archive),
        "plot": ("plot", archive, "-o", picture),
        "check": ("check", archive),
        "export": ("export", archive, "--to", "onnx", "-o", "run.onnx"),
    }
    for name, command in commands.items():
        found[name] = environment.run("dnnfem", *command) is not None
    difference = environment.run("python", "-c", ONNX, archive, "run.onnx")
    (environment.work / "typed.py").write_text("import dnnfem\nreveal_type(dnnfem.Box([0.0], [1.0]).dim)\n")
    types = environment.run("mypy", "typed.py") or ""
    found = {name: int(value) for name, value in found.items()}
    return found | {
        "onnx_difference": float("inf") if difference is None else float(difference),
        "typed": int('"int"' in types),
    }


def oldest(environment: Environment, wheel: Path, tests: list[str]) -> dict[str, float]:
    """Return whether tests pass with the oldest dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][name] for name in ("onnx", "demos"))]
    pinned = [re.sub(">=", "==", line) for lines in lists for line in lines if not line.startswith(("torch", "dnnfem"))]
    environment.install(TORCH)
    environment.install(*pinned, "pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.151", "onnxruntime")
    environment.install("--no-deps", str(wheel))
    for folder in ("tests", "tools", "demos"):
        shutil.copytree(ROOT / folder, environment.work / folder)
    shutil.copy(ROOT / "pyproject.toml", environment.work)
    # Old versions may warn of newer ones of others.
    done = environment.run("python", "-m", "pytest", "-q", "-o", "filterwarnings=default", *tests)
    return {"oldest": int(done is not None)}


def main() -> None:
    """Parse the command line, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minimal", nargs="+", metavar="TESTS", help="tests to run with the oldest dependencies")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = built(folder)
        environment = Environment(folder)
        summary = oldest(environment, wheel, options.minimal) if options.minimal else newest(environment, wheel)
    print(", ".join(f"{key} {value}" for key, value in summary.items()))
    if options.json:
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
