"""The report of a comparison: one file, every arm in it, nothing fetched from elsewhere."""

import re
import sys
from xml.etree import ElementTree

import pytest
from compare_example import EXAMPLE

from minilm.config import UserError
from minilm.experiments.compare_report import page
from minilm.experiments.drawing import INK


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("matplotlib")
    return page(EXAMPLE)


def test_every_figure_is_whole_and_in_the_readers_colour(report):
    figures = re.findall(r"<svg.*?</svg>", report, re.DOTALL)
    assert (
        len(figures) == 1 + 4 + 1 + 1 + 1 + 1 + 7
    )  # curves, axes, labels, final, pooling, rates, analyses
    for figure in figures:
        ElementTree.fromstring(figure)
        assert "currentColor" in figure and INK not in figure


def test_every_arm_and_baseline_has_its_final_accuracy_in_the_report(report):
    text = re.sub(r"<svg.*?</svg>", "", report, flags=re.DOTALL)
    for name, mean in EXAMPLE["finals"]["mean"].items():
        assert f"<td>{name}</td><td>{mean:.1%}</td>" in text


def test_what_a_model_wrote_is_shown_and_never_obeyed(report):
    assert "number of &lt;items&gt;" in report and "<items>" not in report


def test_the_report_asks_nothing_of_the_network(report):
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", report)


def test_losses_are_drawn_in_a_panel_for_each_reading_and_never_ranked(report):
    assert "next-token loss" in report and "are not ranked against each other" in report


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"minilm\[report\]"):
        page(EXAMPLE)


def test_each_section_begins_with_the_question_it_answers(report):
    for title in re.findall("<h2>(.*?)</h2>", report):
        assert re.search(f"<h2>{re.escape(title)}</h2><p class=.question.>[^<]+[?]</p>", report)


def test_grammar_shows_counted_words_beside_every_reading(report):
    for name, mean in (("unigram", "50.0%"), ("trigram", "62.5%"), ("causal, causal", "87.5%")):
        assert f"<td>{name}</td><td>{mean}</td>" in report
