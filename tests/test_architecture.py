"""The layout of the library, enforced: who may import what, how large things may get, what is not written at all.

Every rule is a function from a module's syntax tree to findings ``(line, text)``; parts that do not exist are fine.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

import dnnfem
import dnnfem.problems

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "dnnfem"

# Direct arrows between the parts; what a part may import, it may import through others too.
# Every part may import `records`, which are plain data, and below them `given`, which checks what users hand over, and
# `notebook`.
ARROWS = {
    "records": set(),
    "given": set(),
    "notebook": set(),
    "_lazy": set(),
    "marking": set(),
    "quadrature": {"_lazy"},
    "kernels": set(),
    "spaces": {"kernels.program"},
    "functionals": {"spaces", "quadrature", "kernels"},
    "norms": {"functionals"},
    "problems": {"functionals", "norms", "_lazy"},
    "refinement": {"spaces", "quadrature", "kernels"},
    "solvers": {"functionals", "norms"},
    "estimators": {"functionals", "norms", "solvers", "marking", "refinement"},
    "control": set(),
    "archive": {"spaces", "quadrature"},
    "observers": set(),
}
UNRESTRICTED = {"", "distributed", "exchange", "testing", "plotting", "learn", "__main__"}  # "" is dnnfem/__init__.py

# Packages beside numpy, scipy and the standard library, and the modules that may import them.
FOREIGN = {
    "array_api_compat": ("kernels", "problems.ansatz", "problems.exact", "problems.unknowns"),
    # What users write with torch, and what calls it; other problems load without it.
    "torch": (
        "distributed",
        "exchange",
        "kernels.device",
        "kernels.distributed",
        "problems.conditions",
        "problems.conductivity",
        "problems.exact",
        "problems.lift",
        "problems.fields",
        "problems.density",
        "problems.flux",
        "problems.homogeneous",
        "problems.modules",
        "problems.pointwise",
        "problems.recording",
        "problems.slabs",
        "problems.torched",
        "problems.vanishing",
        "problems.weights",
    ),
    "numba": ("kernels.compiled",),
    "llvmlite": ("kernels.compiled",),
    "h5py": ("archive",),
    "matplotlib": ("plotting",),
    "sklearn": ("learn",),
    "tqdm": ("observers",),
}

# Backends are reached through `kernels.load` only, public names through `_lazy`: the only late imports.
BACKENDS = ("kernels.compiled", "kernels.device", "kernels.distributed")
LATE_IMPORTS = {"_lazy": "__getattr__", "kernels": "load"}

MODULE_LINES, CLASS_LINES, PUBLIC_METHODS = 400, 200, 10


def inside(module, part):
    return module == part or module.startswith(part + ".")


@dataclass(frozen=True)
class Module:
    """One file of the library; `name` is relative to the package, e.g. ``kernels.program``."""

    path: Path

    @cached_property
    def name(self):
        parts = self.path.relative_to(LIBRARY).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def part(self):
        return self.name.split(".")[0]

    @cached_property
    def text(self):
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self):
        return ast.parse(self.text, str(self.path))

    @cached_property
    def nodes(self):
        """All nodes with the name of the innermost function around them, None outside of functions."""

        def walk(node, function):
            for child in ast.iter_child_nodes(node):
                yield child, function
                named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from walk(child, child.name if named else function)

        return list(walk(self.tree, None))

    @cached_property
    def classes(self):
        return {node.name: node for node, _ in self.nodes if isinstance(node, ast.ClassDef)}

    @cached_property
    def imports(self):
        """All imports as (node, absolute dotted name, name in this module)."""
        found = []
        for node, _ in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node, alias.name, alias.asname or alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
                base = ["dnnfem", *package][: 2 + len(package) - node.level] if node.level else []
                prefix = ".".join([*base, *([node.module] if node.module else [])])
                found += [(node, f"{prefix}.{alias.name}", alias.asname or alias.name) for alias in node.names]
        return found


MODULES = [Module(path) for path in sorted(LIBRARY.rglob("*.py"))]
NAMES = {module.name: module for module in MODULES}


def targets():
    """For every restricted part, all modules (or whole parts) it may import."""
    below = {"given": set(), "notebook": set(), "records": {"given", "notebook"}}
    reach = {
        part: {part} | below.get(part, {"records", "given", "notebook"}) | arrows for part, arrows in ARROWS.items()
    }
    while True:
        wider = {
            part: set().union(known, *(reach[other] for other in known if other in reach))
            for part, known in reach.items()
        }
        if wider == reach:
            return reach
        reach = wider


TARGETS = targets()


def module_of(dotted):
    """The module of the library that an absolute dotted name lies in, or None if it is none of ours."""
    head, *rest = dotted.split(".")
    if head != "dnnfem":
        return None
    for length in range(len(rest), 0, -1):
        if ".".join(rest[:length]) in NAMES:
            return ".".join(rest[:length])
    return ""


# ---- the rules


def direction_of_imports(module):
    if module.part in UNRESTRICTED:
        return
    allowed = TARGETS.get(module.part)
    if allowed is None:
        yield 1, f"part {module.part!r} is not in the table ARROWS of this test: say what it may import"
        return
    for node, dotted, _ in module.imports:
        target = module_of(dotted)
        if target is not None and not any(inside(target, other) for other in allowed):
            others = ", ".join(sorted(allowed - {module.part}))
            yield node.lineno, f"imports {dotted}; {module.part} may import only {others}"


def backends_are_loaded_by_name(module):
    for node, dotted, _ in module.imports:
        for backend in BACKENDS:
            if inside(dotted, f"dnnfem.{backend}") and not inside(module.name, backend):
                yield node.lineno, f"imports {dotted}; backends are reached through kernels.load only"


def foreign_packages(module):
    for node, dotted, _ in module.imports:
        package = dotted.split(".")[0]
        if package in {"dnnfem", "numpy", "scipy", "__future__"} or package in sys.stdlib_module_names:
            continue
        homes = FOREIGN.get(package, ())
        if not any(inside(module.name, home) for home in homes):
            where = " and ".join(f"dnnfem.{home}" for home in homes) or "no part of the library"
            yield node.lineno, f"imports {package}; {where} may do that"


def no_import_inside_a_function(module):
    for node, function in module.nodes:
        if function is None or LATE_IMPORTS.get(module.name) == function:
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node.lineno, f"import inside of {function}(); imports belong to the top of a module"
        called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if called in {"import_module", "__import__"}:
            yield node.lineno, f"{called} inside of {function}(); only _lazy and kernels.load import by name"


def length_of_modules(module):
    lines = module.text.count("\n")
    if lines > MODULE_LINES:
        yield MODULE_LINES + 1, f"module of {lines} lines; at most {MODULE_LINES}"


def size_of_classes(module):
    for name, node in module.classes.items():
        lines = node.end_lineno - node.lineno + 1
        if lines > CLASS_LINES:
            yield node.lineno, f"class {name} of {lines} lines; at most {CLASS_LINES}"
        methods = {
            item.name
            for item in node.body
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            and not item.name.startswith("_")
            and not any("property" in ast.unparse(decorator) for decorator in item.decorator_list)
        }
        if len(methods) > PUBLIC_METHODS:
            yield node.lineno, f"class {name} with {len(methods)} public methods; at most {PUBLIC_METHODS}"


def find_class(module, name, seen=()):
    """The class that `name` means in a module, as (module, node), followed through re-exports; None if not ours."""
    if name in module.classes:
        return module, module.classes[name]
    for _, dotted, local in module.imports:
        prefix = local + "."
        if local == name or name.startswith(prefix):
            full = dotted + name[len(local) :]
            target = module_of(full)
            if target is not None and (target, full) not in seen and target in NAMES:
                return find_class(NAMES[target], full.split(".")[-1], (*seen, (target, full)))
    return None


def bases(module, node):
    """Base classes from the library, except protocols: those say what is expected and hand nothing down."""
    found = [find_class(module, ast.unparse(base).split("[")[0]) for base in node.bases]
    return [item for item in found if item and not any("Protocol" in ast.unparse(b) for b in item[1].bases)]


def depth_of_inheritance(module):
    for name, node in module.classes.items():
        for home, base in bases(module, node):
            above = [grand.name for _, grand in bases(home, base)]
            if above:
                chain = f"{name} < {base.name} < {above[0]}"
                yield node.lineno, f"class {name}: inheritance {chain}; at most one step inside the library"


def no_print(module):
    if module.name == "__main__":
        return
    for node, _ in module.nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield node.lineno, "print(); a library does not print"


def dataclasses_are_frozen(module):
    for name, node in module.classes.items():
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            if ast.unparse(call.func if call else decorator) not in {"dataclass", "dataclasses.dataclass"}:
                continue
            frozen = call and any(k.arg == "frozen" and ast.unparse(k.value) == "True" for k in call.keywords)
            if not frozen:
                yield node.lineno, f"class {name}: a dataclass that is not frozen=True"


RULES = [
    direction_of_imports,
    backends_are_loaded_by_name,
    foreign_packages,
    no_import_inside_a_function,
    length_of_modules,
    size_of_classes,
    depth_of_inheritance,
    no_print,
    dataclasses_are_frozen,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_library_keeps_the_rule(rule):
    findings = [f"{module.path.relative_to(ROOT)}:{line}: {text}" for module in MODULES for line, text in rule(module)]
    assert not findings, f"{rule.__name__.replace('_', ' ')}:\n" + "\n".join(findings)


# ---- the rules themselves are tested: each must find what it is there for

VIOLATIONS = {
    direction_of_imports: [
        ("records.py", "from dnnfem.spaces import Transfer"),
        ("solvers/x.py", "from dnnfem import problems"),
        ("spaces/x.py", "from dnnfem.kernels.reference import evaluate"),
        ("spaces/x.py", "from ..kernels import reference"),
        ("archive/x.py", "import dnnfem.problems.regression"),
        ("marking.py", "if TYPE_CHECKING:\n    from dnnfem import FeedforwardSpace"),
        ("newpart.py", "pass"),
    ],
    backends_are_loaded_by_name: [("__main__.py", "import dnnfem.kernels.compiled")],
    foreign_packages: [
        ("solvers/x.py", "import torch"),
        ("kernels/reference.py", "from numba import njit"),
        ("kernels/device_more.py", "import torch"),
        ("testing.py", "import pandas.core"),
    ],
    no_import_inside_a_function: [
        ("spaces/x.py", "def f():\n    import math"),
        ("spaces/x.py", "class A:\n    def f(self):\n        from os import path"),
        ("spaces/x.py", "def f():\n    importlib.import_module('torch')"),
        ("kernels/__init__.py", "def check():\n    import math"),
    ],
    length_of_modules: [("spaces/x.py", "\n" * 401)],
    size_of_classes: [
        ("spaces/x.py", "class A:\n" + "    a = 1\n" * 200),
        ("spaces/x.py", "class A:\n" + "".join(f"    def f{i}(self): ...\n" for i in range(11))),
    ],
    depth_of_inheritance: [("spaces/x.py", "class A: ...\nclass B(A): ...\nclass C(B): ...")],
    no_print: [("spaces/x.py", "def f():\n    print(1)")],
    dataclasses_are_frozen: [
        ("spaces/x.py", "@dataclass\nclass A: ..."),
        ("spaces/x.py", "@dataclasses.dataclass(frozen=False, eq=False)\nclass A: ..."),
    ],
}


def written(path, text):
    module = Module(LIBRARY / path)
    vars(module)["text"] = text + "\n"
    return module


@pytest.mark.parametrize(
    ("rule", "path", "text"), [(rule, path, text) for rule, cases in VIOLATIONS.items() for path, text in cases]
)
def test_every_rule_finds_a_violation(rule, path, text):
    assert list(rule(written(path, text)))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("solvers/x.py", "from dnnfem import kernels\nfrom dnnfem.quadrature import Quadrature\nimport scipy.linalg"),
        ("kernels/compiled/x.py", "import numba\nfrom dnnfem.kernels.compiled import y"),
        ("kernels/__init__.py", "def load(name):\n    return importlib.import_module(name)"),
        ("spaces/x.py", "class A(Protocol): ...\nclass B(A, Protocol): ...\nclass C(B): ...\nclass D(C): ..."),
        ("spaces/x.py", "class A(ValueError): ...\n@dataclass(frozen=True)\nclass B: ..."),
        ("learn.py", "import sklearn.base\nfrom dnnfem.problems import Regression"),
    ],
)
def test_no_rule_objects_to_what_is_allowed(path, text):
    assert [finding for rule in RULES for finding in rule(written(path, text))] == []


def test_the_table_has_no_cycle():
    for part in ARROWS:
        for other in TARGETS[part] - {part}:
            assert part not in TARGETS.get(other, ()), f"{part} and {other} may import each other"


# ---- lazy public names


def python(code):
    """Run code in a fresh interpreter and return what it prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_the_library_is_light():
    heavy = [*FOREIGN, "numpy", "scipy"]
    loaded = python(f"import sys, dnnfem, dnnfem.problems; print([m for m in {heavy} if m in sys.modules])")
    assert loaded.strip() == "[]", f"import dnnfem imports {loaded}"


def declared(package):
    """From the block for type checkers: public name -> module of the package that it comes from."""
    module = NAMES[package]
    block = next(n for n in module.tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom), f"{module.path}:{node.lineno}: expected only from-imports"
        source = node.module.removeprefix("dnnfem").strip(".").removeprefix(package).strip(".").split(".")[0]
        found.update({alias.asname: source or alias.name for alias in node.names})
    return found


@pytest.mark.parametrize("package", [dnnfem, dnnfem.problems], ids=lambda package: package.__name__)
def test_type_checkers_see_the_names_of_the_table(package):
    table = {name: module for module, names in package._public.items() for name in names or (module,)}
    assert declared(package.__name__.removeprefix("dnnfem").strip(".")) == table
    assert list(package._public) == sorted(package._public)
    assert sorted(package.__all__) == sorted(table)
    assert set(table) <= set(dir(package))


@pytest.mark.parametrize("package", [dnnfem, dnnfem.problems], ids=lambda package: package.__name__)
def test_every_public_name_can_be_loaded(package):
    for module, names in package._public.items():
        full = f"{package.__name__}.{module}"
        if full.removeprefix("dnnfem.") not in NAMES:
            continue
        for name in names:
            assert getattr(package, name) is getattr(sys.modules[full], name)
        if not names:
            assert getattr(package, module) is sys.modules[full]
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = package.nonsense


def test_a_name_wins_over_the_module_of_the_same_name():
    both = [name for module, names in dnnfem._public.items() for name in names if name == module]
    for name in both:
        others = [other for other in dnnfem._public[name] if other != name]
        for first in [name, *others]:
            assert "function" in python(f"import dnnfem; dnnfem.{first}; print(dnnfem.{name})")
