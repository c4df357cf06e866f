"""The command line: what it prints, what it draws, and its exit codes."""

import json
import subprocess
import sys

import numpy as np
import pytest

import dnnfem as fem
from dnnfem.__main__ import main
from dnnfem.archive import schema
from dnnfem.records import STEP_FIELDS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the archive of two levels, of which the second one is not solved."""
    path = tmp_path_factory.mktemp("runs") / "run.h5"
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (60, 2))
    problem, space = fem.Regression(points, np.sin(2.0 * points[:, 0]) * points[:, 1]), fem.FeedforwardSpace(2, (3,), 1)
    archive = fem.Archive.open(path, problem, space, space.initial(0))
    J = problem.on(space)
    result = fem.gauss_newton(J, archive.level.x, 0.0, max_steps=3)
    estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, problem.quadrature, seed=0))
    archive.solved(result, estimate)
    wider, P = fem.widen(space, estimate.cells[:1])
    archive.refined(np.array([0]), wider, P)
    return path, result, estimate


def test_levels_are_shown_with_what_was_estimated(run, capsys):
    path, result, estimate = run
    assert main(["show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("level 0: 2-3-1 tanh, 13 coefficients, 3 steps") and f"{estimate.total:.3e}" in lines[0]
    assert lines[1].startswith(f"  {estimate.quantity}: ") and "width" in lines[1] and "not solved yet" in lines[2]
    assert main(["show", "--steps", str(path)]) == 0
    table = capsys.readouterr().out
    assert all(line in table for line in str(result.steps).splitlines())


def test_levels_are_shown_as_json(run, capsys):
    path, result, estimate = run
    assert main(["show", "--json", "--steps", str(path)]) == 0
    levels = json.loads(capsys.readouterr().out)["levels"]
    assert [level["coefficients"] for level in levels] == [13, 17] and levels[0]["marked"] == 1
    assert levels[0]["value"] == result.value and levels[0]["estimate"] == estimate.total
    assert levels[0]["status"] == "STEP_LIMIT" and levels[1]["status"] is None and levels[1]["value"] is None
    assert [row["value"] for row in levels[0]["table"]] == result.steps.column("value").tolist()
    assert set(levels[0]["table"][0]) == set(STEP_FIELDS)


def test_archives_are_checked_one_by_one(run, tmp_path, capsys):
    path, *_ = run
    damaged, text, missing = tmp_path / "damaged.h5", tmp_path / "text.h5", tmp_path / "missing.h5"
    damaged.write_bytes(path.read_bytes()[:-7])
    text.write_text("epoch, loss\n")
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: undamaged, levels: 2\n"
    assert main(["check", "--json", *map(str, (path, damaged, text, missing))]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["sound"] for line in found] == [True, False, False, False]
    for line, words in zip(found[1:], ("truncated", "not an HDF5 file", "No such file"), strict=True):
        assert words in line["says"]


def test_a_level_that_starts_elsewhere_is_no_sound_archive(run, tmp_path, capsys):
    path, *_ = run
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())
    fem.archive.container.adopt(copy)
    with fem.archive.container.writing(copy) as file:
        file["levels/0001/start"][3] += 1e-3
    assert main(["check", str(copy)]) == 1
    assert "level 1 does not start where the transfer leads" in capsys.readouterr().out


def test_a_picture_is_drawn(run, tmp_path, capsys):
    path, *_ = run
    picture = tmp_path / "run.png"
    assert main(["plot", str(path), "-o", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    assert main(["plot", str(path), "-o", str(tmp_path / "run.xyz")]) == 1
    assert "xyz" in capsys.readouterr().err


def test_a_file_that_cannot_be_used_is_an_error_in_words(tmp_path, capsys):
    path = tmp_path / "none.h5"
    for command in (["show", str(path)], ["plot", str(path), "-o", str(tmp_path / "p.png")]):
        assert main(command) == 1
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.startswith("dnnfem: ") and str(path) in shown.err


def test_information_for_reports(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dnnfem"] == fem.__version__ and found["numpy"] == np.__version__
    assert {"Python", "torch", "BLAS of numpy", "processors", "threads of numba", "GPUs"} <= set(found)
    assert main(["info"]) == 0
    words = dict(
        line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line.startswith(("dnn", "num"))
    )
    assert words == {"dnnfem": fem.__version__, "numpy": np.__version__, "numba": words["numba"]}


def test_a_wrong_command_line_has_its_own_exit_code():
    for arguments in ([], ["draw"], ["plot", "run.h5"], ["check"]):
        done = subprocess.run([sys.executable, "-m", "dnnfem", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "usage: dnnfem" in done.stderr and "Traceback" not in done.stderr


def test_what_a_file_needs_of_its_script_is_said_without_a_traceback(run, capsys, monkeypatch):
    def unknown(*_):
        raise ValueError("field: got 'gradient', expected one that is registered")

    path, *_ = run
    monkeypatch.setattr(schema, "read_space", unknown)
    for command in (["show"], ["check"], ["export", "--to", "npz"]):
        assert main([command[0], str(path), *command[1:]]) == 1
        out, err = capsys.readouterr()
        assert "field: got 'gradient', expected one that is registered" in out + err


def test_whoever_has_seen_enough_may_close_the_pipe(run):
    command = f"{sys.executable} -m dnnfem show --steps {run[0]} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
