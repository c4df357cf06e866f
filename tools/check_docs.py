"""Check the docstrings of all public names: what is public is documented, with shapes, returns and errors.

    python tools/check_docs.py

prints one line per finding and ends with 1 if there are any.  Public are the names of ``import dnnfem`` and of the
pages of the manual, and the public methods of classes.  numpydoc says whether sections are well formed and name what
the signature has; the rest is the convention of this library:

- a function describes every parameter and what it returns; a class describes what it is built from, as parameters or,
  where these are what a reader finds in it, as attributes; a method may do so in its one sentence, but a section of
  parameters is complete;
- an array has a shape;
- who raises an error by name has it in the section "Raises", a class those of its construction.
"""

from __future__ import annotations

import ast
import enum
import importlib
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from numpydoc.docscrape import ClassDoc, FunctionDoc
from numpydoc.validate import validate

PARTS = [
    "records",
    "marking",
    "quadrature",
    "kernels",
    "spaces",
    "functionals",
    "norms",
    "problems",
    "refinement",
    "solvers",
    "estimators",
    "control",
    "archive",
    "exchange",
    "distributed",
    "observers",
    "testing",
    "plotting",
    "learn",
]
"""The parts of the library that have a page in the manual, in its order."""

NUMPYDOC = {
    "GL06": "unknown section",
    "GL07": "order of sections",
    "GL08": "no docstring",
    "SS02": "summary without a capital letter",
    "PR02": "describes what is no parameter",
    "PR04": "no type",
    "PR05": "type ends with a full stop",
    "RT02": "one returned value has a type, no name",
    "YD01": "no yields section",
}
"""What is taken from numpydoc; the other codes are matters of taste, or answered below."""

FEW = 3
"""A class that is built from so few may name them in its text."""

ARRAY = re.compile(r"\barrays?\b")
SHAPE = re.compile(r"\bshapes?\b|\(\w+,\)|\(\w+, |without axes|\bany shape\b")


def public_names(module: Any) -> list[str]:
    """Return what ``__all__`` says, or else the functions and classes that the module itself defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def parts() -> Iterator[tuple[str, Any]]:
    """Yield names and modules of the parts that there are."""
    for part in PARTS:
        name = f"dnnfem.{part}"
        if importlib.util.find_spec(name) is not None:
            yield name, importlib.import_module(name)


def documented() -> Iterator[tuple[str, Any]]:
    """Yield path and value of every public function and class, each once."""
    seen = set()
    for path, module in parts():
        for name in public_names(module):
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in seen:
                seen.add(id(value))
                yield f"{path}.{name}", value


def methods(path: str, kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield path and function of the public methods that a class defines itself."""
    for name, value in vars(kind).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_") and inspect.isfunction(function):
            yield f"{path}.{name}", function


def raised(function: Callable[..., Any]) -> set[str]:
    """Return the errors that the body of a function raises by name, without those that it catches itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names, todo = set(), list(tree.body[0].body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            names.add(node.exc.func.id)
        todo += ast.iter_child_nodes(node)
    return names


def construction(kind: type) -> list[Callable[..., Any]]:
    """Return what runs when an object is made, without what the standard library writes."""
    found = [vars(kind).get(name) for name in ("__init__", "__post_init__")]
    return [f for f in found if inspect.isfunction(f) and f.__module__ == kind.__module__ and _has_source(f)]


def _has_source(function: Callable[..., Any]) -> bool:
    return function.__code__.co_filename == inspect.getfile(sys.modules[function.__module__])


def names_of(section: list[Any]) -> set[str]:
    """Return the names in a section; one entry may describe several."""
    return {name.strip().lstrip("*") for entry in section for name in entry.name.split(",") if name.strip()}


def signature(value: Any) -> tuple[set[str], bool]:
    """Return the parameters of a function or of the construction of a class, and whether all must be described."""
    # Members of enumerations, protocols and errors with a message are not built from what has to be described.
    if inspect.isclass(value) and (issubclass(value, enum.Enum | Exception) or getattr(value, "_is_protocol", False)):
        return set(), False
    parameters = inspect.signature(value).parameters
    return {name for name in parameters if name not in ("self", "cls")}, True


def findings(path: str, value: Any, method: bool = False) -> Iterator[str]:
    """Yield what is wrong with one docstring."""
    errors = [(code, text) for code, text in validate(path)["errors"] if code in NUMPYDOC]
    yield from (text for _, text in errors)
    if any(code == "GL08" for code, _ in errors):
        return
    sections = (ClassDoc if inspect.isclass(value) else FunctionDoc)(value, config={"show_class_members": False})
    wanted, complete = signature(value)
    found = names_of(sections["Parameters"]) | names_of(sections["Other Parameters"])
    if inspect.isclass(value):
        found |= names_of(sections["Attributes"])
        if len(wanted) <= FEW:
            found |= set(
                re.findall(r"(?<!`)`(\w+)`(?!`)", " ".join(sections["Summary"] + sections["Extended Summary"]))
            )
    if missing := sorted(wanted - found if complete and (found or not method) else ()):
        yield f"does not describe {', '.join(missing)}"
    for title in ("Parameters", "Other Parameters", "Attributes", "Returns", "Yields"):
        for entry in sections[title]:
            text = " ".join([entry.name, entry.type, *entry.desc])
            if ARRAY.search(f"{entry.type} {entry.name if title == 'Returns' else ''}") and not SHAPE.search(text):
                yield f"{title}: no shape of {entry.name or entry.type}"
    if inspect.isclass(value):
        for name in sorted(names_of(sections["Attributes"]) - wanted):
            # What scikit-learn's estimators have after a fit ends with an underscore.
            known = name.endswith("_") or hasattr(value, name) or name in getattr(value, "__annotations__", {})
            if not known:
                yield f"describes {name}, which is no attribute"
    elif not (method or sections["Returns"] or sections["Yields"]) and inspect.signature(
        value
    ).return_annotation not in (
        None,
        "None",
    ):
        yield "does not say what it returns"
    told = {entry.type for entry in sections["Raises"]}
    bodies = construction(value) if inspect.isclass(value) else [value]
    for error in sorted(set().union(*map(raised, bodies)) - told if bodies else ()):
        yield f"does not say when it raises {error}"


def check() -> list[str]:
    """Return one line per finding."""
    lines = []
    for path, value in documented():
        lines += [f"{path}: {text}" for text in findings(path, value)]
        if inspect.isclass(value):
            for place, function in methods(path, value):
                lines += [f"{place}: {text}" for text in findings(place, function, method=True)]
    return lines


if __name__ == "__main__":
    found = check()
    print("\n".join(found))
    print(f"{len(found)} findings in {sum(1 for _ in documented())} functions and classes")
    sys.exit(bool(found))
