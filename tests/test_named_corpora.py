"""The corpora known by name: no test text is ever pretrained on, no text is in two parts."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from test_corpora import FILMS, JSONL, error_of, texts, write

from minilm.corpora import NAMES, fingerprint, labelled, python_docs, splitting


def review(number: int, label: str) -> str:
    return f"A film, number {number}.<br />I found it {label}."


@pytest.fixture(params=["official", "jsonl"])
def imdb(request, tmp_path, monkeypatch) -> str:
    """A small IMDB under data/ in the current folder, in either layout."""
    monkeypatch.chdir(tmp_path)
    rows = {
        "train": [(review(i, label), label) for i in range(4) for label in ("pos", "neg")],
        "test": [(review(i, label), label) for i in range(3, 6) for label in ("pos", "neg")],
        "unsup": [(review(i, "dull"), "unsup") for i in range(3)] + [(review(5, "pos"), "unsup")],
    }
    for part, examples in rows.items():
        if request.param == "official":
            folder = Path("data/imdb/aclImdb", "train" if part == "unsup" else part)
            for number, (text, label) in enumerate(examples):
                write(folder / label / f"{number}_7.txt", text)
        else:
            lines = [json.dumps({"text": text, "label": label}) for text, label in examples]
            write(Path(f"data/imdb/{part}.jsonl.gz"), gzip.compress("\n".join(lines).encode()))
    return request.param


def test_imdb_reads_the_same_in_both_layouts_and_keeps_its_test_reviews_apart(imdb):
    parts = labelled("imdb")
    assert {part: len(examples) for part, examples in parts.items()} == {"train": 8, "test": 6}
    assert all(f"found it {label}." in text for text, label in parts["train"] + parts["test"])
    assert "A film, number 0.\nI found it pos." in [text for text, _ in parts["train"]]
    seen = texts("imdb")
    assert not set(seen) & {text for text, _ in parts["test"]}
    # 8 - 2 train reviews and 4 - 1 unlabelled ones repeat no test review.
    assert len(seen) == 9 and "A film, number 2.\nI found it dull." in seen
    labels = [example.label for example in parts["train"]]
    assert labels not in (sorted(labels), sorted(labels, reverse=True))


def test_sms_spam_is_split_by_text_without_repeats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"ham\tCall me at \"{i} o'clock" for i in range(300)]
    lines += [f"spam\tWIN {i} pounds" for i in range(100)] + ["spam\twin  7 POUNDS"]
    write(Path("data/sms-spam/SMSSpamCollection"), "\n".join(lines) + "\n")
    parts = labelled("sms-spam")
    assert sum(map(len, parts.values())) == 400
    assert 50 < len(parts["test"]) < 110
    assert texts("sms-spam") == [example.text for example in parts["train"]]
    write(Path("data/sms-spam/train.jsonl"), JSONL)
    write(Path("data/sms-spam/test.jsonl"), JSONL)
    assert labelled("sms-spam") == {"train": FILMS, "test": FILMS}


def test_tinyshakespeare_is_one_text_without_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("data/tinyshakespeare/input.txt"), "First Citizen:\nBefore we proceed\n")
    assert texts("tinyshakespeare") == ["First Citizen:\nBefore we proceed\n"]
    assert "has no labels" in error_of(labelled, "tinyshakespeare")
    assert "no known corpus" in error_of(labelled, "nonsense")


@pytest.mark.parametrize("name", ["imdb", "sms-spam", "tinyshakespeare"])
def test_a_corpus_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    message = error_of(texts, name)
    assert f"python -m minilm fetch {name}" in message and f"{Path('data') / name}" in message
    assert name in NAMES and len(fingerprint([name])) == 16


# python-docs

SENTENCE = "It takes numbers and returns {} numbers, as the examples below will show."


@pytest.fixture
def library(tmp_path, monkeypatch) -> dict[str, Path]:
    """Two small libraries in place of the installed ones, and a folder for the cache."""
    monkeypatch.chdir(tmp_path)
    folders = {"torch": tmp_path / "lib" / "torch", "numpy": tmp_path / "lib" / "numpy"}
    monkeypatch.setattr(python_docs, "roots", lambda: folders)
    for number in range(200):
        name, folder = [("torch", "nn"), ("numpy", "lib")][number % 2]
        prose = SENTENCE.format(f"{number}")
        write(folders[name] / folder / f"{number:03}.py", f'def f():\n    """{prose}"""\n')
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
    """The last of the strings in this file, which has its place after all the others."""
'''
    write(tmp_path / "a.py", body)
    write(tmp_path / "tests" / "b.py", f'"""A test. {prose}"""')
    write(tmp_path / "broken.py", f'"""A broken file. {prose}""" def')
    write(tmp_path / "code.py", f'"""Code. {prose}"""\n' + "x = 1\n" * 200)
    rows = python_docs.extract({"numpy": tmp_path})
    assert rows == [
        ("numpy/a.py", prose),
        (
            "numpy/a.py",
            "First line of the documentation, which is followed by\n\nan indented one.",
        ),
        (
            "numpy/a.py",
            "The last of the strings in this file, which has its place after all the others.",
        ),
    ]


def test_no_part_of_the_python_docs_task_repeats_another_and_none_is_pretrained_on(library):
    parts = labelled("python-docs")
    keys = Counter(
        splitting.normalised(example.text) for examples in parts.values() for example in examples
    )
    assert sum(keys.values()) == 200 and max(keys.values()) == 1
    assert 0.5 < len(parts["train"]) / 200 < 0.7 and min(map(len, parts.values())) > 10
    held_out = {example.text for part in ("valid", "test") for example in parts[part]}
    assert set(texts("python-docs")) == {example.text for example in parts["train"]} - held_out
    assert {example.label for example in parts["test"]} == {"torch.nn", "numpy arrays"}


def test_a_text_keeps_its_part_when_other_texts_come_and_go(library):
    before = labelled("python-docs")
    write(library["numpy"] / "lib" / "new.py", f'"""A new text. {SENTENCE}"""')
    for file in Path("data/python-docs").iterdir():
        file.unlink()
    after = labelled("python-docs")
    assert sum(map(len, after.values())) == 201
    assert all(set(before[part]) <= set(after[part]) for part in before)


def test_the_extracted_texts_are_cached_and_nothing_half_written_is_left(library, monkeypatch):
    first, before = python_docs.load(), fingerprint(["python-docs"])
    (cache,) = Path("data/python-docs").iterdir()
    assert cache.name == f"{python_docs.version()}.jsonl"
    monkeypatch.setattr(python_docs, "extract", lambda folders: pytest.fail("read again"))
    assert python_docs.load() == first
    monkeypatch.setattr(python_docs.metadata, "version", lambda name: "another")
    assert python_docs.version() != cache.stem
    assert fingerprint(["python-docs"]) != before


def test_a_large_class_is_capped_by_a_choice_that_depends_on_the_texts_alone():
    rows = [("torch/nn/a.py", SENTENCE.format(i)) for i in range(900)]
    rows += [("_pytest/a.py", SENTENCE.format(-i - 1)) for i in range(50)]
    parts = python_docs.task_of(rows)
    counts = Counter(example.label for examples in parts.values() for example in examples)
    assert counts == {"torch.nn": python_docs.LARGEST_CLASS, "pytest": 50}
    assert python_docs.task_of(rows[::-1]) == parts


def test_the_installed_packages_give_a_task_of_some_size():
    """On half of the real thing, to be quick."""
    roots = python_docs.roots()
    assert (roots["stdlib"] / "email").is_dir() and len(roots) == 6
    rows = python_docs.extract({name: roots[name] for name in ("torch", "numpy", "_pytest")})
    assert sum(len(text) for _, text in rows) > 6_000_000
    parts = python_docs.task_of(rows)
    keys = [splitting.normalised(text) for part in parts.values() for text, _ in part]
    assert len(keys) == len(set(keys)) >= 2_500
    counts = Counter(label for part in parts.values() for _, label in part)
    assert len(counts) >= 8 and min(counts.values()) >= 100
