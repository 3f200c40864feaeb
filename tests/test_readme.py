"""README says what is: its tables are those of the results, its links and flags exist."""

import json
import re
import shlex

import pytest

from minilm.__main__ import run_command
from minilm.config import FinetuneConfig, PretrainConfig
from minilm.experiments.report import READING_ORDER, RESULTS, ROOT, fill_in
from minilm.flags import Parser, add_flags

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    part.split("#")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    for part in line.split("&&")
]


def test_the_tables_are_those_of_the_measured_results():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert fill_in(README, results) == README, "run python -m minilm.experiments.report"


def test_every_linked_file_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_every_module_with_a_formula_is_in_the_reading_order():
    modules = {path: path.read_text(encoding="utf-8") for path in ROOT.glob("minilm/*.py")}
    with_formulas = {
        f"minilm/{path.name}"
        for path, text in modules.items()
        if "arXiv" in text or "L = -" in text
    }
    assert {"minilm/objectives.py", "minilm/model.py", "minilm/heads.py"} < with_formulas
    assert with_formulas <= set(READING_ORDER)
    assert all((ROOT / path).exists() for path in READING_ORDER)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python train_")])
def test_every_quoted_flag_is_one_that_the_scripts_take(command):
    words = shlex.split(command)
    parser = Parser()
    add_flags(parser, PretrainConfig if "pretrain" in words[1] else FinetuneConfig)
    if "--help" not in words:
        parser.parse_args(words[2:])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m minilm ")])
def test_every_quoted_command_is_one_that_minilm_takes(command, monkeypatch):
    class Parsed(Exception):
        pass

    def parse_args(parser, argv=None, parse_args=Parser.parse_args):
        parsed = parse_args(parser, argv)
        if parser.prog != "python -m minilm":  # the command's own parser: go no further
            raise Parsed
        return parsed

    monkeypatch.setattr(Parser, "parse_args", parse_args)
    words = shlex.split(command)[3:]
    with pytest.raises(SystemExit if "--help" in words else Parsed):
        run_command(words)


def test_the_first_two_commands_are_the_main_job_and_the_tests():
    install = "pip install -r requirements.txt"
    main_job = [install, "python train_pretrain.py", "python train_finetune.py"]
    assert COMMANDS[:5] == [*main_job, install, "pytest"]
