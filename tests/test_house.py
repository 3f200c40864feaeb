"""The house holds: a book that stands alone, in front of machinery; and neither grows."""

import ast
import doctest
import importlib
import pkgutil
import sys
from pathlib import Path

import pytest

import minilm

PACKAGE = Path(minilm.__file__).parent
BOOK = ("config", "tokenizer", "model", "objectives", "heads", "data", "optim", "training",
        "generate", "metrics", "reference")  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "minilm.")]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("page", BOOK)
def test_a_page_of_the_book_imports_only_the_book_the_standard_library_numpy_and_torch(page):
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{page}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    ours = {name.split(".")[1] for name in found if name.startswith("minilm.")}
    others = {name.split(".")[0] for name in found} - {"minilm"}
    assert ours <= set(BOOK) and "minilm" not in found - {f"minilm.{page}" for page in BOOK}
    assert others <= sys.stdlib_module_names | {"numpy", "torch"}


def test_the_book_is_read_in_an_evening_and_the_package_is_compact():
    assert sum(lines(PACKAGE / f"{page}.py") for page in BOOK) <= 1700
    assert sum(map(lines, FILES)) <= 10_130  # the aim is 8,500: what grows here needs a reason
    assert {path.name: lines(path) for path in FILES if lines(path) > 300} == {}
    tests = [path for path in Path(__file__).parent.rglob("*.py") if "benchmarks" not in path.parts]
    assert sum(map(lines, tests)) <= 8_080  # the aim is 6,500
    assert {path.name: lines(path) for path in tests if lines(path) > 300} == {}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_right(name):
    if name in ("minilm.__main__", "minilm.cli.api"):
        pytest.skip("importing it runs it, or its examples need a run: machinery/test_api.py")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] == "minilm":
            raise
        pytest.skip(f"an extra is not installed: {error.name}")
    assert doctest.testmod(module).failed == 0


FLOORS = ("book", "io", "fast", "corpora", "runs", "tasks", "huggingface", "view", "learn",
          "cli", "compare")  # fmt: skip


def imports(path: Path, lazy: bool) -> set[str]:
    """The files of the package that a file imports; lazy: those inside of functions, too."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    file = lambda *parts: PACKAGE.joinpath(*".".join(parts).split(".")[1:])
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.ImportFrom):  # of a room a file, or of a file a name
            for name in (alias.name for alias in node.names):
                inner, outer = file(node.module, name), file(node.module)
                found |= {inner} if inner.with_suffix(".py") in FILES else {outer}
        elif isinstance(node, ast.Import):
            found |= {file(alias.name) for alias in node.names}
    found = {path.with_suffix(".py") for path in found} | {path / "__init__.py" for path in found}
    return {path.relative_to(PACKAGE).as_posix() for path in found & {*FILES}}


def test_no_room_imports_a_higher_one_and_no_files_import_each_other_in_a_circle():
    floor = lambda name: FLOORS.index(name.split("/")[0] if "/" in name else "book")
    names = {file.relative_to(PACKAGE).as_posix() for file in FILES}
    names -= {"__init__.py", "__main__.py"}  # the doors, which call what stands highest
    house = {name: imports(PACKAGE / name, lazy=not name.startswith("cli/")) for name in names}
    assert [(a, b) for a, found in house.items() for b in found if floor(b) > floor(a)] == []
    while house:  # take away what imports nothing that is left, until nothing is
        ground = [name for name, found in house.items() if not found & house.keys()]
        assert ground, f"a circle among {sorted(house)}"
        for name in ground:
            del house[name]
