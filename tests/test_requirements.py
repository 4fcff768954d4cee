"""The requirement files have what the code imports, and no more; requirements.lock pins all of it."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from structure import EXTRAS, LAYERS, ROOT, import_graph, imports, reach, read_modules

MODULES = {module.name: module for module in read_modules(ROOT)}
COMMANDS = [name for name in MODULES if name.startswith("commands")]
TOOLS = ("tests", "studies", "timing")  # they may use requirements-test.txt
SERVING = {"fastapi", "starlette", "uvicorn", "python-multipart", "prometheus-client"}
OPTIONAL = {
    "ray",
    "pillow-heif",
    "av",
    "c2pa-python",
    "psycopg",
    *SERVING,
}  # of --ray, data.collect, videos, --explain
NOT_IMPORTED = {"scikit-image", "onnxscript"}  # its photographs are used; torch imports it
FILES = [ROOT / "requirements.txt", ROOT / "requirements-test.txt", *(ROOT / "requirements").glob("*.txt")]


def read_requirements(path: Path) -> dict[str, Requirement]:
    """Read a file and those that it includes, by name in lower case with dashes."""
    found: dict[str, Requirement] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            found |= read_requirements(path.parent / line[3:])
        elif line and not line.startswith("#"):
            requirement = Requirement(line)
            found[normalise(requirement.name)] = requirement
    return found


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def packages_of(names: set[str]) -> set[str]:
    """Return the packages that these modules of ours import."""
    distributions = importlib.metadata.packages_distributions()
    known = {*LAYERS, *sys.stdlib_module_names}
    used = {each.target.split(".")[0] for name in names for each in imports(MODULES[name])} - known
    return {normalise(distributions.get(name, [name])[0]) for name in used}


def test_requirements_are_what_is_imported() -> None:
    names = {name for name, module in MODULES.items() if module.folder not in TOOLS}
    required = set(read_requirements(ROOT / "requirements.txt"))
    assert packages_of(names) - OPTIONAL == required - NOT_IMPORTED


@pytest.mark.parametrize(
    ("file", "commands"), [("verdict.txt", ["inference"]), ("benchmarks.txt", ["benchmarks", *COMMANDS])]
)
def test_a_group_has_what_its_commands_import(file: str, commands: list[str]) -> None:
    graph = import_graph(list(MODULES.values()))
    names = set(commands).union(*(reach(graph, name) for name in commands))
    assert packages_of(names) - OPTIONAL - {*EXTRAS} <= set(read_requirements(ROOT / "requirements" / file))


def test_the_service_has_what_it_imports() -> None:
    names = {name for name in MODULES if name.startswith("gapl.serving")}
    own, base, shared = (
        set(read_requirements(ROOT / "requirements" / name)) for name in ("serve.txt", "gapl.txt", "postgres.txt")
    )
    assert own - base == SERVING
    assert packages_of(names) - base == SERVING | shared


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_lock_pins_every_requirement_inside_its_bounds(path: Path) -> None:
    lock = read_requirements(ROOT / "requirements.lock")
    for name, requirement in read_requirements(path).items():
        assert {each.operator for each in requirement.specifier} >= {">="}
        (pin,) = lock[name].specifier
        assert pin.operator == "=="
        assert pin.version in requirement.specifier
