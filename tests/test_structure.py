"""How the code is built: who imports whom, and how long its functions are. tests/structure.py has the rules."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from structure import (
    LAYERS,
    ROOT,
    circles,
    find_faults,
    functions,
    imports,
    needless_imports,
    read_modules,
    upward_imports,
)

MODULES = read_modules(ROOT)
FAULTS = find_faults(MODULES)


@pytest.mark.parametrize("kind", FAULTS)
def test_no(kind: str) -> None:
    assert FAULTS[kind] == []


def test_every_folder_has_a_layer() -> None:
    assert {module.folder for module in MODULES} == set(LAYERS)


def test_no_relative_imports() -> None:
    assert [str(each) for module in MODULES for each in imports(module) if each.target.startswith(".")] == []


def test_every_package_says_what_it_holds() -> None:
    missing = [
        str(module.path)
        for module in MODULES
        if module.path.name == "__init__.py" and ast.get_docstring(module.tree) is None
    ]
    folders = {
        folder
        for module in MODULES
        if module.folder not in ("tests", "timing")
        for folder in module.path.parents
        if folder != Path()
    }
    assert missing == []
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


# ---------------------------------------------------------------------------------------------------------
# The rules themselves


def write_project(root: Path, **sources: str) -> Path:
    for name, text in sources.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_an_import_inside_a_function_runs_up(tmp_path: Path) -> None:
    source = "def f():\n    from training.loop import fit\n"
    root = write_project(tmp_path, data__a=source, training__loop="import data.a")
    assert upward_imports(read_modules(root)) == ["data/a.py:2 imports training.loop.fit"]


def test_gapl_may_not_import_torch(tmp_path: Path) -> None:
    root = write_project(tmp_path, gapl__a="import json, numpy\nfrom PIL import Image\nfrom torch import Tensor\n")
    assert needless_imports(read_modules(root)) == ["gapl/a.py:3 imports torch.Tensor"]


def test_imports_for_type_checkers_run_up_but_make_no_circle(tmp_path: Path) -> None:
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import train\n    from models import b\n"
    modules = read_modules(write_project(tmp_path, models__a=typing, models__b="from models.a import x", train=""))
    assert upward_imports(modules) == ["models/a.py:3 imports train"]
    assert circles(modules) == []
    assert circles(modules, count_types=True) == ["models.a <-> models.b"]


def test_a_circle_of_three_is_found_once(tmp_path: Path) -> None:
    sources = {"data__a": "import data.b", "data__b": "def f():\n import data.c", "data__c": "import data.a"}
    root = write_project(tmp_path, **sources, data__d="import data.a")
    assert circles(read_modules(root)) == ["data.a <-> data.b <-> data.c"]


def test_lines_of_a_function_are_counted_from_its_def(tmp_path: Path) -> None:
    source = "@decorated\ndef f(a, b, *, c=1):\n    '''Doc.'''\n\n    def inner(self): ...\n"
    (module,) = read_modules(write_project(tmp_path, train=source))
    assert [(each.name, each.lines, each.arguments) for each in functions(module)] == [
        ("f", 4, 3),
        ("inner", 1, 0),
    ]


def test_faults_are_found(tmp_path: Path) -> None:
    wide = "def f(a, b, c, d, e, f, g, h): return print(*(a, b))\n"
    long = "def g():\n" + "    pass\n" * 40
    faults = find_faults(read_modules(write_project(tmp_path, train=wide + long, tests__a=wide)))
    assert [len(lines) for lines in faults.values()] == [1, 1, 0, 0, 0, 1, 1]
