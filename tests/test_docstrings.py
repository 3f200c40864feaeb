"""The examples in docstrings say what is so."""

import doctest
import importlib
from pathlib import Path

import pytest

import minilm

ROOT = Path(minilm.__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(Path(minilm.__file__).parent.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_gives_what_its_docstring_shows(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried and not failed
