"""Read the sources of the project and print how it is built: lines, long functions, circles, imports that run up.

    python tests/structure.py            this checkout
    python tests/structure.py DIR        another one

tests/test_structure.py asserts what is printed here. Imports inside functions count like those at the top of a
file; imports below `if TYPE_CHECKING:` count for the layers, but make no circle.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 40  # of a function
MAX_ARGUMENTS = 7  # of a function
REQUIRED = ("numpy", "PIL", "onnx", "onnxruntime", "safetensors", "tqdm")  # what gapl/ may import
SERVING = ("fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client")
# What it may import where a user asks for it.
EXTRAS = ("pyarrow", "fsspec", "av", "ray", "c2pa", "psycopg", *SERVING)

# Who may import whom: each of these may import the ones named, and itself.
_IMAGES = {"data", "prototype_dataset", "gapl"}
_DETECTORS = {"data", "models", "gapl"}
_SCORES = {"evaluation", *_DETECTORS}
_TRAINING = {"training", "prototype", "features", *_IMAGES, *_SCORES}
_COMMANDS = {"commands", "reporting", *_TRAINING}
_SCRIPTS = {"train", "inference", "export", "benchmarks", "serve", *_COMMANDS}
LAYERS: dict[str, set[str]] = {
    "gapl": set(),
    "data": {"gapl"},
    "models": {"gapl"},
    "prototype_dataset": _IMAGES,
    "features": _DETECTORS,
    "prototype": {"features", "evaluation", "reporting", *_IMAGES, *_DETECTORS, *_SCORES},
    "evaluation": _DETECTORS,
    "training": _TRAINING,
    "reporting": _SCORES,
    "commands": _COMMANDS,
    "train": _SCRIPTS,
    "inference": _SCRIPTS,
    "export": _SCRIPTS,
    "benchmarks": _SCRIPTS,
    "serve": _SCRIPTS,
    "studies": {"studies", "timing", *_SCRIPTS},
    "timing": {"studies", "timing", *_SCRIPTS},
    "tests": {"studies", "timing", *_SCRIPTS},
}


@dataclass(frozen=True)
class Module:
    """One Python file: its dotted name, its path below the root, and its parsed source."""

    name: str
    path: Path
    lines: int
    tree: ast.Module

    @property
    def folder(self) -> str:
        """Return the top-level folder, or the name of a script at the root."""
        return self.name.split(".")[0]


@dataclass(frozen=True)
class Import:
    """One imported name, `target` as dotted as it is written: `a.b` for `from a import b`."""

    module: Module
    line: int
    target: str
    only_types: bool

    def __str__(self) -> str:
        return f"{self.module.path}:{self.line} imports {self.target}"


@dataclass(frozen=True)
class Function:
    """One function, with the lines from its `def` to its end and the number of its arguments."""

    module: Module
    name: str
    line: int
    lines: int
    arguments: int

    def __str__(self) -> str:
        return f"{self.module.path}:{self.line} {self.name}: {self.lines} lines, {self.arguments} arguments"


def read_modules(root: Path) -> list[Module]:
    """Read the scripts at `root`, every folder of LAYERS and every package below `root`, sorted by path."""
    folders = {path.parent.name for path in root.glob("*/__init__.py")} | set(LAYERS)
    paths = [*root.glob("*.py"), *(path for folder in folders for path in (root / folder).rglob("*.py"))]
    return [_read_module(path, root) for path in sorted(paths)]


def _read_module(path: Path, root: Path) -> Module:
    below = path.relative_to(root)
    parts = below.with_suffix("").parts
    text = path.read_text(encoding="utf-8")
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, below, len(text.splitlines()), ast.parse(text, str(below)))


def imports(module: Module) -> Iterator[Import]:
    """Yield what a module imports, wherever in the file. Relative imports are refused by a test of their own."""
    in_type_checking = {
        id(inner)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(module.tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
        for name in names:
            yield Import(module, node.lineno, name, id(node) in in_type_checking)


def functions(module: Module) -> Iterator[Function]:
    """Yield every function and method of a module; decorators do not count as its lines."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            own = [argument for argument in given if argument.arg not in ("self", "cls")]
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(module, node.name, node.lineno, lines, len(own))


def upward_imports(modules: list[Module]) -> list[str]:
    """Return the imports that LAYERS does not allow."""
    return [
        str(each)
        for module in modules
        for each in imports(module)
        if (target := each.target.split(".")[0]) in LAYERS
        and target not in {module.folder, *LAYERS.get(module.folder, ())}
    ]


def needless_imports(modules: list[Module]) -> list[str]:
    """Return what gapl/ imports beyond the standard library and what its wheel requires."""
    light = {"gapl", *REQUIRED, *EXTRAS, *sys.stdlib_module_names}
    ours = [module for module in modules if module.folder == "gapl"]
    return [str(each) for module in ours for each in imports(module) if each.target.split(".")[0] not in light]


def circles(modules: list[Module], *, count_types: bool = False) -> list[str]:
    """Return the groups of modules that import each other, directly or by way of others.

    count_types  count imports below `if TYPE_CHECKING:` too
    """
    direct = import_graph(modules, count_types=count_types)
    reachable = {name: reach(direct, name) for name in direct}
    groups = {
        frozenset(other for other in reachable[name] if name in reachable[other])
        for name in direct
        if name in reachable[name]
    }
    return sorted(" <-> ".join(sorted(group)) for group in groups)


def import_graph(modules: list[Module], *, count_types: bool = False) -> dict[str, set[str]]:
    """Return the names of our modules that each module imports itself."""
    names = {module.name for module in modules}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for module in modules:
        for each in imports(module):
            if (count_types or not each.only_types) and (found := _resolve(each.target, names)):
                graph[module.name].add(found)
        graph[module.name].discard(module.name)
    return graph


def _resolve(target: str, names: set[str]) -> str:
    """Return the module of ours behind an imported name, or an empty string."""
    if target in names:
        return target
    parent = target.rpartition(".")[0]
    return parent if parent in names else ""


def reach(direct: dict[str, set[str]], start: str) -> set[str]:
    """Return the modules that `start` imports, directly or by way of others."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = direct[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def literal_splats(module: Module) -> list[str]:
    """Return the lines that unpack a tuple or a list written on the spot, such as f(*(a, b))."""
    return [
        f"{module.path}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple | ast.List)
    ]


def returned_prints(module: Module) -> list[str]:
    """Return the lines with `return print(...)`."""
    return [
        f"{module.path}:{node.lineno}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Return)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "print"
    ]


def find_faults(modules: list[Module]) -> dict[str, list[str]]:
    """Return what should not be there, by kind, one line each. Tests are held to the layers and circles alone."""
    ours = [module for module in modules if module.folder != "tests"]
    every = [function for module in ours for function in functions(module)]
    return {
        f"functions over {MAX_LINES} lines": [str(each) for each in every if each.lines > MAX_LINES],
        f"functions with more than {MAX_ARGUMENTS} arguments": [
            str(each) for each in every if each.arguments > MAX_ARGUMENTS
        ],
        "circles": circles(modules),
        "imports that run up": upward_imports(modules),
        "imports of gapl/ beyond what it requires": needless_imports(modules),
        "splats of a literal": [line for module in ours for line in literal_splats(module)],
        "return print(...)": [line for module in ours for line in returned_prints(module)],
    }


def print_figures(root: Path) -> None:
    """Print the figures of a checkout, and below them every fault behind a number."""
    modules = read_modules(root)
    ours = [module for module in modules if module.folder != "tests"]
    num_lines, num_all = (sum(module.lines for module in some) for some in (ours, modules))
    lengths = [function.lines for module in ours for function in functions(module)]
    faults = find_faults(modules)
    print(f"{len(ours)} modules of {num_lines} lines; {num_all - num_lines} lines of tests")
    print(f"{len(lengths)} functions, median {statistics.median(lengths):.0f} lines")
    for kind, lines in faults.items():
        print(f"{len(lines)} {kind}")
    print(f"{len(circles(modules, count_types=True))} circles, with imports for type checkers")
    for kind, lines in faults.items():
        if lines:
            print(f"\n{kind}:", *lines, sep="\n  ")


if __name__ == "__main__":
    print_figures(Path(sys.argv[1]) if sys.argv[1:] else ROOT)
