"""Exercises cut from a book: one body is missing, the book's own tests say when it is right, and
what was written is kept. The guard: no function of the real book goes unnoticed."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from minilm.cli.commands import run_command
from minilm.config import UserError
from minilm.data import frame
from minilm.learn import book, exercises
from minilm.learn.exercises import PATH
from minilm.learn.trace import trace
from minilm.objectives import token_nll
from minilm.tokenizer import Tokenizer
from tests.benchmarks import guard
from tests.benchmarks.report import READING_ORDER
from tests.book.small import make_model

ROOT, WRITTEN = exercises.ROOT, Path("learn/minilm/page.py")
BOOK = {page: (ROOT / "minilm" / f"{page}.py").read_text("utf-8") for page in book.PAGES}
FUNCTIONS = {t: f for page in BOOK for t, f in book.functions(page, BOOK[page]).items()}
PAGE = '''"""A page."""

def double(x):
    """Twice a number: 2 · x ≥ 0."""
    # A comment on the first line.
    y = 2 * x  # twice
    return y

class Pair:
    """Two numbers, a and b."""

    def __init__(self, a, b):
        self.a, self.b = a, b

    def total(self) -> float:
        """a + b"""
        return self.a + self.b  # the sum
'''
TESTS = '''"""What a page must do."""
from minilm.page import Pair, double

def test_a_number_is_doubled():
    assert [double(x) for x in (1, 2)] == [2, 4]

def test_the_total_is_the_sum():
    assert Pair(1, 4).total() == 5
'''


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a book of one page."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("minilm/learn", "minilm/io"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    (tmp_path / "tests" / "book").mkdir(parents=True)
    for name in ("minilm/__init__.py", "minilm/config.py", "pyproject.toml", "tests/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests" / "conftest.py").touch()
    (tmp_path / "minilm" / "page.py").write_text(PAGE, "utf-8")
    (tmp_path / "tests" / "book" / "test_page.py").write_text(TESTS, "utf-8")
    for name, value in dict(ROOT=tmp_path, PAGES=("page",), PATH=("page.double",)).items():
        monkeypatch.setattr(exercises, name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def learn(typed=""):
    run_command(["learn", *typed.split()])


def written():
    return WRITTEN.read_text("utf-8")


def answer(body):
    assert written().count("raise NotImplementedError") == 1
    WRITTEN.write_text(written().replace("raise NotImplementedError", body), "utf-8")


def test_one_body_is_missing_until_its_tests_pass_and_then_the_book_is_shown(checkout, capsys):
    learn("page.double")
    said, cut = capsys.readouterr().out, written()
    for part in ("double(x)", "Twice a number: 2 · x ≥ 0", "- a number is doubled", "3 lines",
                 f"{WRITTEN}:5"):  # fmt: skip
        assert part in said
    assert "the total is the sum" not in said
    assert cut == PAGE.replace(PAGE[PAGE.index("# A comm") : PAGE.index("\n\nclass")],
                               "raise NotImplementedError")  # fmt: skip
    answer("return 3 * x")
    with pytest.raises(SystemExit):
        learn("--check")
    said = capsys.readouterr().out
    for part in ("not yet: one test\n  - a number is doubled", "2 · x ≥ 0", "[3, 6] == [2, 4]"):
        assert part in said
    for n in (1, 2):
        learn("--hint")
        assert len(capsys.readouterr().out.splitlines()) == n
    WRITTEN.write_text(cut.replace("raise Not", "return x + x  # Not"))
    learn("--check")
    said = capsys.readouterr().out
    assert "solved" in said and "-    return x + x" in said and "+    y = 2 * x  # twice" in said
    assert "next: python -m minilm learn page.Pair.__init__" in said
    learn()
    assert "double✓" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_written_of_one_exercise_is_kept_while_another_is_done(checkout, capsys):
    learn("page.double")
    answer("return 7")
    learn("page.Pair.total")
    assert "return 7" not in written()
    answer("return self.b + self.a")
    learn("--check")
    learn("page.double")
    assert "return 7" in written()
    learn("--solution")
    capsys.readouterr()
    learn("page.double --again")
    answer("y = 2 * x\n    return y")
    learn("--check")
    assert "the same as in the book" in capsys.readouterr().out
    done = json.loads(Path("learn/state.json").read_text())["done"]
    assert done == {"page.Pair.total": "solved", "page.double": "given up"}


@pytest.mark.slow
def test_a_change_is_planted_another_each_time_or_all_bodies_of_a_page_are_missing(
    checkout, capsys
):
    planted = []
    for _ in range(3):
        learn("--bug page")
        planted.append(written())
        assert planted[-1] in [text for _, text in book.changes("page", PAGE)]
        said = capsys.readouterr().out
        assert "one test" in said and "test_page.py::test_" in said
    assert len(set(planted)) > 1
    learn("--hint")
    function = capsys.readouterr().out.split()[-1]
    assert planted[-1] in [text for name, text in book.changes("page", PAGE) if name == function]
    with pytest.raises(SystemExit):
        learn("--check")
    learn("--page page")  # every body of it is missing
    assert written().count("raise NotImplementedError") == 3
    assert "2 tests" in capsys.readouterr().out
    WRITTEN.write_text(PAGE, "utf-8")
    learn("--check")
    assert "the same as in the book" in capsys.readouterr().out


def test_what_cannot_be_is_one_line_that_says_what_to_do(checkout):
    learn("page.double")
    answer("return (")
    wrong = {"--check": r"page.py:\d+: ", "double": "page.double", "--bug pag": "choose from page",
             "--check --hint": "choose one"}  # fmt: skip
    for typed, said in wrong.items():
        with pytest.raises(UserError, match=said):
            learn(typed)
    shutil.rmtree("tests/book")
    with pytest.raises(UserError, match="checkout"):
        learn()


def test_the_path_and_the_pages_are_those_of_the_book_and_a_cut_leaves_the_rest_as_it_is():
    assert list(book.PAGES) == list(READING_ORDER)
    assert set(PATH) <= set(FUNCTIONS) and len(PATH) == 12 and len(FUNCTIONS) > 110
    for title, f in FUNCTIONS.items():
        left = book.functions(f.page, f.emptied(BOOK[f.page]))
        assert len(left) == len(book.functions(f.page, BOOK[f.page]))
        assert left[title].docstring == f.docstring


def test_a_text_is_traced_through_functions_of_the_book_to_the_loss_of_each_token(capsys):
    tokenizer = Tokenizer.train(["a cat sat on a mat"] * 3, 270)
    model = make_model(vocab_size=tokenizer.vocab_size, n_layers=2).eval()
    lm = SimpleNamespace(run="a run", model=model, tokenizer=tokenizer, max_length=16, shift=1)
    trace(lm, "a cat sat on it")
    causal, masked = [part.splitlines() for part in capsys.readouterr().out.split("\n\n")[1:]]
    assert {line[12:40].strip() for line in causal + masked} < FUNCTIONS.keys()
    targets = torch.from_numpy(frame(tokenizer.encode("a cat sat on it"), 16, tokenizer.special))
    hidden = model(targets[None, :-1].long(), causal=True)[0]
    nats, count = token_nll(model.logits(hidden), targets[1:].long())
    losses = [float(line[55:].split()[0]) for line in causal if line.startswith("loss")]
    assert sum(losses) == pytest.approx(nats.item(), abs=0.01) and len(losses) == count
    assert any("True   False" in line or "True False" in line for line in causal)
    assert not any("False" in line for line in masked)
    with pytest.raises(UserError, match="no token"):
        trace(lm, "")


@pytest.mark.slow  # about two minutes on two cores
def test_no_function_of_the_book_can_be_missing_unnoticed():
    tasks = [(title, f.emptied(BOOK[f.page])) for title, f in FUNCTIONS.items()]
    assert [title for title, _ in guard.unnoticed(tasks)] == []
