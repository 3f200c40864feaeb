"""README says what is: its figures are those of the results, its links, flags and commands exist,
and its Python runs."""

import json
import re
import runpy
import shlex

import pytest

from minilm.cli.commands import run_command
from minilm.cli.flags import Parser, parse_flags
from minilm.cli.options import FinetuneConfig, PretrainConfig
from tests.benchmarks import report
from tests.benchmarks.report import ROOT

README, TRANSLATED = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")
)
COMMANDS = [
    part.split("#")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    for part in line.split("&&")
]


def test_the_figures_are_those_of_the_measured_results():
    results, cure = report.load(), "run python -m tests.benchmarks.report"
    assert report.fill_in(README, results) == README, cure
    assert report.with_blocks_of(README, TRANSLATED) == TRANSLATED, cure
    assert report.page(results) == report.PAGE.read_text(encoding="utf-8")
    assert json.loads(report.CURVE.read_text(encoding="utf-8")) == results["ladder"]["curve"]


def test_every_linked_file_exists():
    links = [
        link for link in re.findall(r"\]\(([^)#]+)\)", README + TRANSLATED) if "://" not in link
    ]
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_every_page_of_the_book_is_in_the_reading_order():
    pages = {path.stem for path in ROOT.glob("minilm/[a-z]*.py")}
    assert set(report.READING_ORDER) == pages


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python train_")])
def test_every_quoted_flag_is_one_that_the_scripts_take(command):
    words = shlex.split(command)
    parse_flags(PretrainConfig if "pretrain" in words[1] else FinetuneConfig, "", words[2:])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m minilm ")])
def test_every_quoted_command_is_one_that_minilm_takes(command, monkeypatch):
    class Parsed(Exception):
        pass

    def parse_args(parser, argv=None, parse_args=Parser.parse_args):
        parse_args(parser, argv)
        raise Parsed  # go no further

    monkeypatch.setattr(Parser, "parse_args", parse_args)
    with pytest.raises(Parsed):
        run_command(shlex.split(command)[3:])


def test_the_first_commands_are_the_main_job_and_the_tests():
    install = "pip install -r requirements.txt"
    main_job = [install, "python train_pretrain.py", "python train_finetune.py"]
    quoted = [command for command in COMMANDS if command.startswith(("pip", "python", "pytest"))]
    assert quoted[:5] == [*main_job, install, "pytest"]


def test_the_whole_thing_is_a_file_and_runs_as_it_is_printed(capsys):
    [block] = [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Plan" in b]
    assert block == (ROOT / "tests" / "book" / "forty_lines.py").read_text(encoding="utf-8")
    runpy.run_module("tests.book.forty_lines")
    assert re.search(r"fine-tuning 20: 0\.\d+ nats a text, 100% right", capsys.readouterr().out)
