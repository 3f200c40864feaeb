"""The corpora known by name: no test text is ever pretrained on, no text is in two parts; tags,
answers and pairs are made of what is there."""

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from minilm.cli.options import FinetuneConfig
from minilm.config import UserError
from minilm.corpora import documents, fingerprint, made, python_docs
from minilm.corpora.files import held_out, normalised
from minilm.corpora.splits import load

SENTENCE = "It takes numbers and returns {} numbers, as the examples below will show."


def labelled(name: str) -> dict:
    return load(FinetuneConfig(data=name))


def texts_of(name: str) -> list[str]:
    return [text for _, text in documents([name])]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def library(tmp_path, monkeypatch) -> dict[str, Path]:
    """Two small libraries in place of the installed ones, and a folder for the cache."""
    monkeypatch.chdir(tmp_path)
    folders = {name: tmp_path / "lib" / name for name in ("torch", "numpy")}
    monkeypatch.setattr(python_docs, "roots", lambda: folders)
    for number in range(100):
        place = ["torch/nn", "numpy/lib", "torch/other"][number % 3]
        strings = [f'"""{SENTENCE.format(f"{number}.{i}")} More {i}."""' for i in range(4)]
        write(tmp_path / "lib" / place / f"{number:03}.py", "\n".join(strings))
    return folders


def test_prose_is_taken_and_data_fragments_and_tests_are_not(tmp_path):
    prose = SENTENCE.format("more")
    body = f'''
"""{prose}"""
class A:
    """First line of the documentation, which is followed by

        an indented one.
    """
    table = """{"0x1f, 0x2e, 17; " * 9}"""
    code = """{"int the_answer_to_the_question;" * 3}
int another_answer_to_it;"""
    page = """A page from a template, about {{{{ name }}}}, which is filled in later by others."""
    short = """Too short."""
    half = """Half of a pair, \\ud800, which no file in UTF-8 can hold, whatever comes after."""
    def f(x):
        raise ValueError(f"""A fragment. {prose} {{x}}""", """{prose.upper()}""")
'''
    write(tmp_path / "a.py", body)
    write(tmp_path / "tests" / "b.py", f'"""A test. {prose}"""')
    write(tmp_path / "broken.py", f'"""A broken file. {prose}""" def')
    write(tmp_path / "code.py", f'"""Code. {prose}"""\n' + "x = 1\n" * 200)
    second = "First line of the documentation, which is followed by\n\nan indented one."
    found = python_docs.extract({"numpy": tmp_path})
    assert found == [("numpy/a.py", prose), ("numpy/a.py", second)]


@pytest.mark.parametrize("text, sentence", [
    ("abs(x, *, out=None) -> Tensor\n\nThe value\nof x. See sign.", "The value of x."),
    ("Return a, i.e. the first.\n\nMore.", "Return a, i.e. the first."),
    ("=====\n\nTitle of it", "Title of it"),
    ("f(x)", ""),
])  # fmt: skip
def test_the_first_sentence_of_a_docstring_is_on_one_line(text, sentence):
    assert python_docs.first_sentence(text) == sentence


@pytest.mark.parametrize("task", ["python-docs", "python-docs-whole"])
def test_files_are_on_one_side_and_nothing_held_out_is_pretrained_on(library, task):
    first = python_docs.first_sentence if task == "python-docs" else str
    if task == "python-docs":  # two sentences of numpy that torch has, too
        write(library["torch"] / "nn" / "new.py", f'"""{SENTENCE.format("1.0").upper()}"""')
        write(library["torch"] / "other" / "new.py", f'"""{SENTENCE.format("4.0")} Longer."""')
    parts = labelled(task)
    rows = python_docs.load()
    part_of = python_docs.parts_of(rows)
    assert {label for part in parts.values() for _, label in part} == {"torch.nn", "numpy arrays"}
    for label in ("torch/nn", "numpy/lib"):
        counts = Counter(part_of[source] for source, _ in rows if source.startswith(label))
        assert {p: round(n / counts.total(), 1) for p, n in counts.items()} == python_docs.SHARES
    sources = defaultdict(set)
    for source, text in rows:
        sources[normalised(first(text))].add(source)
    pretrained = "\n".join(normalised(text) for text in texts_of("python-docs"))
    keys = [normalised(text) for examples in parts.values() for text, _ in examples]
    assert len(keys) == len(set(keys)) > 250
    for part, examples in parts.items():
        for text, label in examples:
            found = sources[normalised(text)]
            assert {part_of.get(s, "train") for s in found} == {part}
            assert {python_docs.label_of(s) for s in found} == {label}
            assert (normalised(text) in pretrained) == (part == "train")


def test_the_language_model_is_validated_on_whole_files_of_which_no_line_is_trained_on(library):
    copied = f'"""Copied. {SENTENCE.format("many")}\n\nIts file has its own, too {{}}."""'
    for number in range(200):
        write(library["torch"] / "other" / f"copy{number}.py", copied.format(number * "x "))
    sides = {True: {}, False: {}}
    for source, text in documents(["python-docs"]):
        sides[held_out(source)].setdefault(source, []).append(text)
    assert len(sides[True]) > 1 and "Copied" not in str(sides[True])
    copies = [source for source, _ in python_docs.load() if "copy" in source]
    assert any(map(held_out, copies)) and sum("copy" in source for source in sides[False]) > 100


def test_the_texts_are_read_once_and_anew_where_the_file_of_them_is_damaged(library, monkeypatch):
    first, before = python_docs.load(), fingerprint(["python-docs"])
    (cache,) = Path("data/python-docs").iterdir()
    assert cache.name == f"{python_docs.version()}.jsonl"
    monkeypatch.setattr(python_docs, "extract", lambda folders: pytest.fail("read again"))
    assert python_docs.load() == first
    whole, again = cache.read_text(), []
    monkeypatch.setattr(python_docs, "extract", lambda folders: again.append(1) or first)
    for damaged in ("", "{" + whole, whole[:-20], whole + '{"source": "a", "text": 7}\n'):
        cache.write_text(damaged)
        assert python_docs.load() == first and cache.read_text() == whole
    assert len(again) == 4
    monkeypatch.setattr(python_docs.metadata, "version", lambda name: "another")
    assert fingerprint(["python-docs"]) != before


def review(number: int, label: str) -> str:
    return f"A film, number {number}.<br />I found it {label}."


@pytest.mark.parametrize("official", [True, False])
def test_imdb_reads_the_same_in_both_layouts_and_keeps_its_test_reviews_apart(
    tmp_path, monkeypatch, official
):
    monkeypatch.chdir(tmp_path)
    rows = {
        "train": [(review(i, label), label) for i in range(4) for label in ("pos", "neg")],
        "test": [(review(i, label), label) for i in range(3, 6) for label in ("pos", "neg")],
        "unsup": [(review(i, "dull"), "unsup") for i in range(3)] + [(review(5, "pos"), "unsup")],
    }
    for part, examples in rows.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in examples]
        for number, (text, label) in enumerate(examples if official else []):
            top = Path("data/imdb/aclImdb", "train" if part == "unsup" else part)
            write(top / label / f"{number}_7.txt", text)
        if not official:
            Path("data/imdb").mkdir(parents=True, exist_ok=True)
            Path(f"data/imdb/{part}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    parts = labelled("imdb")
    assert {part: len(examples) for part, examples in parts.items()} == {"train": 8, "test": 6}
    assert ("A film, number 0.\nI found it pos.", "pos") in parts["train"]
    labels = [example.label for example in parts["train"]]
    assert labels not in (sorted(labels), sorted(labels, reverse=True))
    seen = texts_of("imdb")  # 2 train reviews and an unlabelled one repeat test reviews
    assert len(seen) == 9 and not set(seen) & {text for text, _ in parts["test"]}


def test_the_other_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("imdb", "sms-spam", "tinyshakespeare"):
        with pytest.raises(UserError, match=f"python -m minilm fetch {name}"):
            texts_of(name)
    lines = [f"ham\tCall me at \"{i} o'clock" for i in range(300)]
    lines += [f"spam\tWIN {i} pounds" for i in range(100)] + ["spam\twin  7 POUNDS"]
    write(Path("data/sms-spam/SMSSpamCollection"), "\n".join(lines) + "\n")
    parts = labelled("sms-spam")
    assert sum(map(len, parts.values())) == 400 and 50 < len(parts["test"]) < 110
    assert texts_of("sms-spam") == [example.text for example in parts["train"]]
    write(Path("data/tinyshakespeare/input.txt"), "First Citizen:\nBefore we proceed\n")
    assert texts_of("tinyshakespeare") == ["First Citizen:\nBefore we proceed\n"]
    for name in ("tinyshakespeare", "nonsense"):  # no labels, no corpus
        with pytest.raises(UserError, match=f"--data {name}: .*choose python-docs, .*--train FILE"):
            labelled(name)


DOCSTRING = """Return a tensor.

Like :func:`torch.full`, but of :class:`~torch.Tensor` :attr:`size`. It raises ValueError.

Args:
    size (int or tuple): how many, of :obj:`nothing`.
    fill (float, optional): with what. Default: 1
    axis (int): along which. Defaults to ``None``.
"""
NUMPYDOC = """Sum.

Parameters
----------
a : array_like
    Of what.
b : int, optional
"""


def test_tags_come_from_roles_whose_markup_is_taken_away():
    parts = made.tags([("torch/a.py", DOCSTRING), ("numpy/b.py", "Like `unknown`, but so. No.")])
    [*found] = [dict(zip(*tagged, strict=True)) for part in parts.values() for tagged in part]
    assert {**found[0]} == dict.fromkeys(["Like", ",", "but", "of", "."], "O") | {
        "torch.full": "B-function", "torch.Tensor": "B-class", "size": "B-parameter",
    }  # fmt: skip
    assert found[1]["ValueError"] == "B-exception" and len(found) == 2


def test_answers_are_places_in_a_list_that_holds_others_of_the_kind():
    rows = [("torch/a.py", DOCSTRING), ("networkx/b.py", NUMPYDOC),
            ("numpy/c.py", "Sum.\n\nArgs:\n    a (int): the only one.\n")]  # fmt: skip
    parts = made.answers(rows)
    answers = {
        (part, q.context[q.start :][: len(q.answers[0])] if q.start >= 0 else None)
        for part, questions in parts.items()
        for q in questions
    }
    assert answers == {
        ("train", "int or tuple"), ("train", "float"), ("train", "int"), ("train", "1"),
        ("train", "None"), ("train", None), ("test", "array_like"), ("test", "int"),
    }  # fmt: skip
    asked = {q.question.replace(name, "") for q in parts["test"] for name in "ab"}
    trained = {q.question for q in parts["train"]}
    assert not asked & trained


def test_formulas_are_made_once_and_split_by_source(tmp_path, monkeypatch):
    pytest.importorskip("sympy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(made, "PAIRS", 60)
    parts = made.formulas()
    assert made.latex_pairs(60) == made.latex_pairs(60)
    monkeypatch.setattr(made, "latex_pairs", lambda n: pytest.fail("again"))
    assert made.formulas() == parts
    pairs = {pair for part in parts.values() for pair in part}
    assert len(pairs) == len({pair.source for pair in pairs}) == 60
    assert any("\\frac" in pair.source and "/" in pair.target for pair in pairs)
