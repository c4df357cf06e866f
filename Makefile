# make install   virtual environment in .venv with everything, kernels compiled
# make demo      the quick start
# make test      ruff, mypy, pytest
# make doc       the manual, in doc/_build/html; SPHINX="-D plot_gallery=0" without running the demos
# make bench     short runs of all benchmarks
# make peers     what tools/bench_kernels.py and bench_pinn.py compare with, in .venv-peers
# make lint      ruff and mypy only
# make clean     remove what was built, but not .venv

PYTHON ?= python3
TORCH := torch==2.13.0
BIN := .venv/bin
KERNELS := $(shell find dnnfem/kernels -name '*.py')

.PHONY: install demo test doc bench peers lint clean
.DELETE_ON_ERROR:

install: .venv/.compiled

# torch comes first and with a fixed version, so that pip takes a build without CUDA where one is offered.
.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install "$(TORCH)"
	$(BIN)/python -m pip install -e ".[demos,dev,docs]"
	touch $@

.venv/.compiled: .venv/.installed $(KERNELS)
	$(BIN)/python -m dnnfem precompile
	touch $@

demo: install
	$(BIN)/python demos/quickstart.py

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy --strict dnnfem

# Two processes with one thread each in the linear algebra: more would compete for the cores.
test: lint install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=2 $(BIN)/python -m pytest -q -n 2

# The gallery runs all demos, which takes most of the time.
doc: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -b html $(SPHINX) doc doc/_build/html

bench: install
	set -e; for script in tools/bench_*.py; do echo "== $$script"; $(BIN)/python $$script --quick; done
	$(BIN)/python tools/bench_solvers.py --preconditioning --quick

peers: .venv-peers/.installed

# The requirements of curvlinops pull another torch: it comes without them, and then what it imports.
.venv-peers/.installed:
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install "$(TORCH)"
	.venv-peers/bin/python -m pip install jax deepxde
	.venv-peers/bin/python -m pip install einops opt_einsum tqdm
	.venv-peers/bin/python -m pip install --no-deps curvlinops-for-pytorch einconv linear_operator
	touch $@

clean:
	rm -rf build dist *.egg-info doc/_build doc/_api doc/_demos doc/gallery demos/output
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find dnnfem demos tests tools doc -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f .venv/.compiled
