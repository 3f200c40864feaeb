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
    assert sum(map(lines, FILES)) <= 9_400  # the aim is 7,500: what grows here needs a reason
    assert {path.name: lines(path) for path in FILES if lines(path) > 300} == {}
    tests = [path for path in Path(__file__).parent.rglob("*.py") if "benchmarks" not in path.parts]
    assert sum(map(lines, tests)) <= sum(map(lines, FILES))


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
