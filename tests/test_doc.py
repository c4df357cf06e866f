"""The manual: its code runs, its references are there, and all public names are documented."""

import doctest
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import dnnfem as fem
from dnnfem import testing

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
sys.path.insert(0, str(Path(__file__).parent.parent / "doc"))

import _gallery
import check_docs

ROOT = Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MADE = {"_api", "_build", "_demos", "gallery"}
PAGES = [page for page in sorted((ROOT / "doc").rglob("*.rst")) if not MADE & set(page.relative_to(ROOT / "doc").parts)]
WITH_CODE = [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT / "doc").as_posix())
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(page), module_relative=False, optionflags=FLAGS, encoding="utf-8")
    assert found.attempted
    assert not found.failed


def test_tutorials_and_most_how_tos_have_code():
    tutorials, guides = (
        {page for page in PAGES if page.parent.name == folder and page.stem != "index"}
        for folder in ("tutorial", "howto")
    )
    assert len(tutorials) == 7
    assert tutorials <= set(WITH_CODE)
    assert len(guides & set(WITH_CODE)) >= 9


def examples(path, value):
    """Return the examples of a docstring, and of those of the methods of a class."""
    found = doctest.DocTestFinder().find(value, path, globs={"np": np, "fem": fem, "testing": testing})
    return [test for test in found if test.examples]


@pytest.mark.parametrize("part", check_docs.PARTS)
def test_the_examples_of_docstrings_run(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for path, value in check_docs.documented():
        if path.startswith(f"dnnfem.{part}."):
            for test in examples(path, value):
                runner.run(test)
    assert not runner.failures


MAIN = (
    "Box Boxes Classification Collocation Energy FeedforwardSpace FlowSpace Regression Simplices Tikhonov "
    "Transfer as_scipy bisect decide dorfler from_callables gain_per_cost gauss_newton hierarchical insert_layer "
    "observe refine_quadrature residual trust_region widen"
)


@pytest.mark.parametrize("name", MAIN.split())
def test_the_main_names_have_examples(name):
    assert examples(name, getattr(fem, name))


# ---- the checker


def test_all_public_names_are_documented():
    assert check_docs.check() == []


def no_docstring(x):
    return x


def no_parameter(x, y) -> None:
    """Do nothing.

    Parameters
    ----------
    x : float
    """


def no_such_parameter(x) -> None:
    """Do nothing.

    Parameters
    ----------
    x, y : float
    """


def no_shape(x) -> None:
    """Do nothing.

    Parameters
    ----------
    x : array
    """


def no_returns(x: float) -> float:
    """Give it back.

    Parameters
    ----------
    x : float
    """
    return x


def no_raises(x) -> None:
    """Do nothing.

    Parameters
    ----------
    x : float
    """
    if x:
        raise ValueError("x: got something, expected nothing")


class NoAttribute:
    """Has none.

    Attributes
    ----------
    x : float
    """


class NoRaises:
    """Built from nothing."""

    def __init__(self) -> None:
        raise ValueError("expected something")


def in_order(x: float) -> float:
    """Give it back.

    Parameters
    ----------
    x : array, shape (n,)

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If it is zero.
    """
    if not x:
        raise ValueError("x: got zero, expected another number")
    return x


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (no_docstring, "does not have a docstring"),
        (no_parameter, "does not describe y"),
        (no_such_parameter, "Unknown parameters {'y'}"),
        (no_shape, "no shape of x"),
        (no_returns, "what it returns"),
        (no_raises, "when it raises ValueError"),
        (NoAttribute, "x, which is no attribute"),
        (NoRaises, "when it raises ValueError"),
        (in_order, None),
    ],
)
def test_the_checker_finds_what_it_is_there_for(value, words):
    found = list(check_docs.findings(f"{__name__}.{value.__name__}", value))
    if words is None:
        assert not found
    else:
        assert len(found) == 1
        assert words in found[0]


# ---- references

ENTRY = re.compile(r"^\.\. _(\w+):\n\n((?:\S.*\n)+)", re.MULTILINE)


def test_every_reference_is_complete_and_cited():
    text = (ROOT / "doc" / "references.rst").read_text(encoding="utf-8")
    entries = dict(ENTRY.findall(text))
    assert len(entries) == text.count("\n.. _") >= 80
    for label, entry in entries.items():
        authors, _, rest = entry.partition(": ")
        assert re.search(r"[A-Z]\. ", authors), f"{label}: initials of {authors}"
        assert "et al" not in authors, f"{label}: all authors"
        assert re.search(r"\b(19|20)\d\d\b", rest), f"{label}: a year"
        assert re.search(r"[.?] \S|[.?]\n\S", rest.strip()), f"{label}: a journal, a publisher or arXiv"
    cited = set()
    for page in PAGES:
        cited |= set(re.findall(r":ref:`[^`]*<(\w+)>`", page.read_text(encoding="utf-8"), re.DOTALL))
    assert not set(entries) - cited, "references that no page cites"


# ---- what is printed in several places


def test_the_estimator_of_the_guide_for_contributors_is_that_of_the_demo():
    def function(text):
        return re.search(r"^def sensitivity.*?^    \)\n", text, re.MULTILINE | re.DOTALL).group()

    guide = function((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert guide == function((ROOT / "demos" / "own_estimator.py").read_text(encoding="utf-8"))
    assert guide.count("\n") <= 20


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {fem.__version__}\n" in citation


def test_every_demo_has_its_place_in_the_gallery():
    assert {*_gallery.ORDER, *_gallery.SLOW} <= {path.stem for path in (ROOT / "demos").glob("*.py")}
    for path in (ROOT / "demos").glob("*.py"):
        assert re.match(r'"""\n\S.*\n=+\n', path.read_text(encoding="utf-8")), f"{path.name}: no title"


def test_examples_show_what_is_public():
    for path, value in check_docs.documented():
        for test in examples(path, value):
            assert "dnnfem." not in "".join(example.source for example in test.examples), path
            assert inspect.getsourcefile(value)
