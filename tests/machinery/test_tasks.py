"""Tags, answers and translations: what is read, measured, and learnt from start to end."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import minilm
from minilm.__main__ import main
from minilm.cli.options import FinetuneConfig
from minilm.config import UserError
from minilm.corpora.files import Example, Question, Tagged, words
from minilm.objectives import IGNORE
from minilm.tasks import answer as answering
from minilm.tasks import tag as tagging
from minilm.tasks import translate as translating
from minilm.tasks.classify import Classify
from minilm.tasks.task import bootstrap
from tests.machinery.small import pretrained


def write(path, content):
    text = content if isinstance(content, str) else "\n".join(map(json.dumps, content)) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_entity_counts_only_whole_and_of_its_type():
    true = [["B-a", "I-a", "O", "B-b"], ["B-a"]]
    found = [["B-a", "O", "O", "B-b"], ["I-a"]]
    assert tagging.span_counts(true, found).tolist() == [[1, 2, 2], [0, 0, 1]]
    assert tagging.span_counts(true, found, "b").sum(0).tolist() == [1, 1, 1]
    assert tagging.f1(np.array([1, 2, 3])) == pytest.approx(2 / 5)


def test_the_interval_holds_the_figure_and_shrinks_with_sentences():
    counts = np.array([[1, 1, 1], [0, 1, 1]])
    wide, narrow = (bootstrap(np.tile(counts, (n, 1)), tagging.f1) for n in (5, 200))
    low, high = ([float(x[i].strip("%")) for x in (wide.split()[3::2], narrow.split()[3::2])]
                 for i in (0, 1))  # fmt: skip
    assert low[0] < low[1] < 50 < high[1] < high[0]


def test_viterbi_finds_the_likeliest_tags_that_are_possible():
    classes = ["O", "B-a", "I-a", "I-b"]
    log_p = np.log([[0.1, 0.2, 0.7, 0.0001], [0.1, 0.1, 0.3, 0.5]])
    assert tagging.best_tags(log_p, classes) == ["B-a", "I-a"]


def test_answers_are_judged_by_squads_rules():
    for predicted, answers, expected in (
        ("1976", ["1976"], (1, 1)),
        ("the Denver Broncos!", ["Denver Broncos"], (1, 1)),  # articles, punctuation, case
        ("Beyonce", ["Beyoncé and Bruno Mars"], (0, 0)),
        ("climate", ["weather", "climate change"], (0, 2 / 3)),  # the answer that fits best
        ("a cat a cat", ["cat"], (0, 2 / 3)),  # a word counts as often as it is there
        ("", [""], (1, 1)),
        ("1976", [""], (0, 0)),
    ):
        assert answering.exact_and_f1(predicted, answers) == pytest.approx(expected), predicted


def test_the_baselines_of_tagging_learn_words_and_neighbours():
    train = [Tagged(("in", "Rome"), ("O", "B-loc")), Tagged(("by", "Ann"), ("O", "B-per"))] * 20
    test = [Tagged(("in", "Oslo"), ()), Tagged(("in", "Ann"), ())]
    assert tagging.frequent_tags(train, test) == [["O", "O"], ["O", "B-per"]]
    assert tagging.linear_tags(train, test, ["O", "B-loc", "B-per"])[0] == ["O", "B-loc"]


class Letters:
    """A tokenizer of single characters."""

    special = SimpleNamespace(pad=0, bos=2, eos=2, ordinary=np.arange(3, 200))

    def encode_with_offsets(self, text):
        places = np.arange(len(text))
        return np.array([ord(c) for c in text], dtype=np.uint16), np.stack([places, places + 1], 1)

    def encode(self, text):
        return self.encode_with_offsets(text)[0]


def options(**flags):
    return SimpleNamespace(**dict(max_length=12) | flags)


def test_a_long_sentence_is_cut_between_words_and_each_word_finds_its_tokens():
    task = tagging.Tagging(options(), Letters(), ["O", "B-a"])
    words = ("one", "of", "seven", "extraordinarily", "x")
    rows = task.encode([Tagged(words, ("O", "B-a", "O", "O", "B-a"))])
    assert np.concatenate([row.tags for row in rows]).tolist() == [0, 1, 0, 0, 1]
    found = ["".join(map(chr, row.tokens[a:b])) for row in rows for a, b in row.words]
    assert found == ["one", "of", "seven", "extraordin", "x"]
    assert all(row.tokens[0] == row.tokens[-1] == 2 and len(row.tokens) <= 12 for row in rows)
    assert "1 of 4 (25.0%) hold a word longer than 12 tokens" in task.left_out(rows)


@pytest.mark.parametrize("window", [3, 7, 16])
def test_every_word_of_a_long_sentence_is_tagged_once_with_words_on_both_sides(window):
    task = tagging.Tagging(options(max_length=window), Letters(), ["O"])
    words = tuple("abcdefghijklmnopqrstuvwxyz" * 3)
    rows = task.encode([Tagged(words, ("O",) * len(words))])
    found = [(row, a) for row in rows for a, _ in row.words]
    assert tuple(chr(row.tokens[a]) for row, a in found) == words
    for row, a in found[window // 2 : -window // 2]:
        assert (window - 2) // 4 <= a - 1 and a + (window - 2) // 4 < len(row.tokens)


def test_what_combines_stays_with_its_letter():
    assert words("वह नदी है।") == ["वह", "नदी", "है", "।"]
    said = "u\u0308ber 3.5-mal, x_1 ..."
    assert words(said, ".'-") == ["u\u0308ber", "3.5-mal", ",", "x_1", *"..."]
    assert words("3.5 ❤\ufe0f می\u200cروم\n") == ["3", ".", "5", "❤\ufe0f", "می\u200cروم"]
    assert words(" ") == []


def test_the_tags_of_a_sentence_are_chosen_together_however_many_windows_it_has():
    task = tagging.Tagging(options(), Letters(), ["O", "B-a", "I-a"])
    words = tuple("abcdefghijklmnopqrst")

    class Favourite(torch.nn.Linear):  # of "a" B-, of all others I-
        def forward(self, tokens, is_real, words):
            is_first = tokens.gather(1, words[..., 0]) == ord("a")
            return nn.functional.one_hot(2 - is_first.int().long(), 3) * 9.0

    rows = task.encode([Tagged(words, ("O",) * len(words))])
    [found] = task.solve(Favourite(1, 1), rows, [words])
    assert len(rows) > 2 and found == ["B-a"] + ["I-a"] * 19


def test_a_long_context_is_read_in_windows_that_overlap():
    task = answering.Answering(options(), Letters(), ["answer"])
    context = "abcdefghijklmnopq"
    for start in range(14):
        answer = context[start : start + 3]
        rows = task.encode([Question(context, "wh", (answer,), start)])
        assert "".join(chr(t) for t in rows[0].tokens[4:-1]) == context[:7]
        spans = [(row, *row.span) for row in rows if row.span[0] > 0]
        assert spans and not task.left_out(rows), start
        for row, first, last in spans:
            assert "".join(map(chr, row.tokens[first : last + 1])) == answer
            assert row.offsets[first - row.start][0] == start


def test_an_answer_ends_with_a_word_not_inside_of_one():
    for text, found, right in (
        ("Ada Lovelace wrote", "Lovel", "Lovelace"), ("in 1843.", "84", "1843"),
        ("(Привет!)", "иве", "Привет"), ("他1843年写的", "1843年", "1843年"),
        ("a cat", " ca", " cat"), ("a cat", "a", "a"),
        ("Cafe\u0301 Noir", "Cafe", "Cafe\u0301"),
    ):  # fmt: skip
        start = text.index(found)
        left, end = answering.whole_words(text, start, start + len(found))
        assert text[left:end] == right


def test_what_no_window_holds_is_said_and_not_learnt_as_no_answer():
    task = answering.Answering(options(), Letters(), ["answer"])
    rows = task.encode([Question("a" + "b" * 20 + "cdefghijk", "when?", ("b" * 20,), 1)])
    for row in rows:
        holds_a_part = ord("b") in row.tokens
        assert row.span == ((IGNORE, IGNORE) if holds_a_part else (0, 0))
    said = task.left_out(rows)
    assert "of 1 questions no window of 12 tokens holds the whole answer" in said
    assert f"{len(rows)} of {len(rows)} (100.0%) have a question" in said
    wide = answering.Answering(options(max_length=80), Letters(), ["answer"])
    for n in (answering.LONGEST, answering.LONGEST + 1):
        rows = wide.encode([Question("a" + "b" * n + "c", "what?", ("b" * n,), 1)])
        longer = f"of 1 questions the answer is longer than {answering.LONGEST} tokens"
        assert (longer in wide.left_out(rows)) == (n > answering.LONGEST)
    with pytest.raises(UserError, match="--max-length 7: to answer takes 8 tokens or more"):
        answering.Answering(options(max_length=7, task="answer"), Letters(), ["answer"])
    pairs = translating.Translating(options(), Letters(), [])
    assert "1 of 2 (50.0%) are longer than 4 tokens a side" in pairs.left_out(
        pairs.encode([translating.Pair("abcd", "ab"), translating.Pair("abcd", "abcde")])
    )


def test_bleu_and_chrf_are_those_worked_out_by_hand():
    pytest.importorskip("sacrebleu")
    task = translating.Translating(options(data="own"), Letters(), [])
    for found, right, name, by_hand in (  # n-grams of words that are right; of characters
        ("the cat sat on the mat", "the cat sat on a mat", "bleu", 5 / 6 * 3 / 5 * 2 / 4 * 1 / 3),
        ("The cat sat on a mat", "the cat sat on a mat", "bleu", 5 / 6 * 4 / 5 * 3 / 4 * 2 / 3),
        ("abc", "abd", "chrf", ((2 / 3 + 1 / 2 + 0) / 3) ** 4),  # there are none of four
    ):
        values = task.scores([found], [translating.Pair("", right)])
        assert values[name] == pytest.approx(100 * by_hand**0.25)


def test_few_texts_choose_no_step_and_a_batch_is_as_large_as_asked():
    texts = [Example(f"text {i}", "ab"[i % 2]) for i in range(300)]
    flags = dict(data="own", train=None, task="classify", epochs=10, seed=0, labels=None,
                 balanced=False)  # fmt: skip
    for n, asked, steps, every, patience in (
        (20, {}, 17, 170, None), (200, {}, 17, 17, 3),
        (20, dict(patience=5, batch_size=150), 2, 2, 5),
    ):  # fmt: skip
        given = dict(patience=None, batch_size=None) | asked
        task = Classify(options(**flags, **given), Letters(), ["a", "b"])
        task.load(dict(train=texts, valid=texts[:n]), ["a", "b"])
        planned = task.steps_per_epoch, task.evaluate_every, task.patience
        assert planned == (steps, every, patience)
        assert ("the last step is kept" in str(task)) == (patience is None)


def test_weights_of_others_learn_more_slowly_and_for_fewer_epochs():
    for task, rate in (("classify", 1e-3), ("tag", 3e-3)):
        asked = FinetuneConfig(task=task)
        rates = [asked.with_defaults(imported).learning_rate for imported in (False, True)]
        assert rates == [rate, 5e-4]
    assert FinetuneConfig(learning_rate=0.1).with_defaults(True).learning_rate == 0.1
    epochs = [tagging.Tagging(options(), Letters(), ["O"], imported=i).epochs for i in (0, 1)]
    assert epochs == [8, 4]


def rows_for(task, n=24):
    words = ["red", "blue", "cats", "dogs"]
    for i in range(n):
        a, b = words[i % 2], words[2 + i // 2 % 2]
        yield {
            "classify": dict(text=f"{i}: {a} {b}", label=a),
            "tag": dict(words=[a, b, str(i)], tags=["B-colour", "B-animal", "O"]),
            "answer": dict(context=f"{i}: {a} {b}.", question="What colour?", answer=a),
            "translate": dict(source=f"{a} {b}", target=f"{b} {a}"),
        }[task]


QUESTION = ["--question", "What colour?"]
WRITTEN = {  # the keys of what `predict` writes
    "classify": ["text", "label", "probability"],
    "tag": ["words", "tags"],
    "answer": ["context", "question", "answer", "answer_start", "probability"],
    "translate": ["source", "target"],
}


@pytest.mark.parametrize("task", WRITTEN)
def test_each_task_is_learnt_predicted_and_evaluated(task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pretrained(tmp_path / "first")
    write(tmp_path / "own.jsonl", list(rows_for(task)))
    files = dict(train="own.jsonl", valid="own.jsonl", test="own.jsonl")
    model = minilm.finetune(
        task=task, pretrained="first", run="run", device="cpu", dropout=0.0, learning_rate=0.02,
        epochs=30 if task == "translate" else 10, baselines="all", **files,
    )  # fmt: skip
    result = json.loads((tmp_path / "run/result.json").read_text())
    first, *others = result["rows"].values()
    key = {"classify": "accuracy", "translate": "exact"}.get(task, "f1")
    assert first[key] > 0.9 and len(others) >= 3
    text = "red dogs" if task == "translate" else "7: red dogs."
    [found] = model.predict([(text, "What colour?")] if task == "answer" else [text])
    if task == "tag":
        assert [word for word, _ in found] == ["7", ":", "red", "dogs", "."]
    else:
        right = {"classify": "red", "answer": ("red", 3), "translate": "dogs red"}[task]
        assert (found[:2] if task == "answer" else found) == right
    assert len(model.predict([])) == 0
    capsys.readouterr()
    asked = QUESTION if task == "answer" else []
    main(["predict", "run", text, *asked, "--device", "cpu"])
    assert "red" in capsys.readouterr().out
    ending = "source" if task == "translate" else "txt"  # what a file of one language may end in
    (tmp_path / f"texts.{ending}").write_text(f"{text}\n{text}\n")
    file = "own.jsonl" if task == "answer" else f"texts.{ending}"
    main(["predict", "run", "--file", file, "--device", "cpu"])
    lines = (tmp_path / f"{file}.predicted.jsonl").read_text().splitlines()
    assert len(lines) == (24 if task == "answer" else 2) and "red" in lines[0]
    assert list(json.loads(lines[0])) == WRITTEN[task]
    for data in (["--test", "own.jsonl"], []):
        main(["evaluate", "run", *data, "--device", "cpu"])
        assert f"{first[key]:.1%}" in capsys.readouterr().out
    main(["view", "run"])
    assert (tmp_path / "run/view.html").exists()
    refused = dict(export=["tag", "answer", "translate"], view=["tag", "answer"],
                   predict=["classify", "tag", "translate"])  # fmt: skip
    for name, *rest in (["export", "out"], ["view", "--text", text], ["predict", text, *QUESTION]):
        if task in refused[name]:
            with pytest.raises(SystemExit, match="2"):
                main([name, "run", *rest])
    if task == "translate":
        main(["predict", "run", "--file", "own.jsonl"])  # its column "source"
        main(["view", "run", "--text", text])
        assert '"name":"prefix"' in (tmp_path / "run/inside.html").read_text()
        assert "view run --live" in (tmp_path / "run/view.html").read_text()


def test_a_label_that_was_never_learnt_is_one_line():
    with pytest.raises(UserError, match="label 'c' was never learnt; this run knows a, b"):
        Classify(options(), Letters(), ["a", "b"]).encode([Example("text", "c")])
