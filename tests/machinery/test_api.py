"""minilm.load: what it returns is what the book computes."""

import copy
import doctest
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import minilm
from minilm.cli import api
from minilm.config import UserError
from minilm.data import frame
from minilm.heads import pool
from tests.machinery.small import SHAPE, finetuned, pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with runs/pretrain-1 (hybrid), -2 (causal), -3 (masked) and runs/finetune-1."""
    folder = tmp_path_factory.mktemp("api")
    for i, objective in enumerate(("hybrid", "causal", "masked"), 1):
        pretrained(folder / f"runs/pretrain-{i}", objective)
    finetuned(
        folder / "runs/finetune-1",
        pretrained=str(folder / "runs/pretrain-1"),
        epochs=10,
        learning_rate=1e-2,
        precision="float32",
    )
    return folder


@pytest.fixture(scope="module")
def lm(folder):
    return minilm.load(folder / "runs/pretrain-1", device="cpu")


@pytest.fixture(scope="module")
def clf(folder):
    return minilm.load(folder / "runs/finetune-1", device="cpu")


def framed(lm, text):
    """The tokens of a text as the model gets them, (1, T)."""
    ids = frame(lm.tokenizer.encode(text), SHAPE["max_length"], lm.tokenizer.special)
    return torch.from_numpy(ids.astype(np.int64))[None]


def test_the_examples_in_the_docstrings_are_true(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = dict(
        vars(api),
        load=minilm.load,
        lm=minilm.load("runs/pretrain-1"),
        clf=minilm.load("runs/finetune-1"),
    )
    results = [doctest.testmod(module, globs=names) for module in (minilm, api)]
    assert all(tried and not failed for failed, tried in results)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("layer", [0, 1, -1])
@torch.inference_mode()
def test_hidden_states_are_those_of_the_forward_pass(lm, causal, layer):
    texts = ["Return the array.", "An error, an index of an error", ""]
    found = lm.encode(texts, layer=layer, pooling=None, causal=causal)
    for text, states in zip(texts, found, strict=True):
        tokens = framed(lm, text)
        mask = lm.model.visibility(tokens.shape[1], 0, causal)
        rotation = lm.model.cos[: tokens.shape[1]], lm.model.sin[: tokens.shape[1]]
        x = lm.model.embed(tokens, 0)
        for block in lm.model.blocks[: layer if layer >= 0 else None]:
            x = block(x, mask, rotation, lm.model.attend, None)
        x = lm.model.norm(x) if layer == -1 else x
        np.testing.assert_allclose(states, x[0].numpy(), atol=1e-5)
        for pooling in ("mean", "last", "first"):
            [pooled] = lm.encode([text], layer=layer, pooling=pooling, causal=causal)
            expected = pool(x, torch.ones(tokens.shape, dtype=torch.bool), pooling)[0]
            np.testing.assert_allclose(pooled, expected.numpy(), atol=1e-5)


def test_many_texts_are_encoded_as_each_alone_is(lm):
    texts = ["the array " * i for i in range(70)]
    alone = np.concatenate([lm.encode([text]) for text in texts])
    np.testing.assert_allclose(lm.encode(texts), alone, atol=1e-5)
    assert lm.encode([]).shape == (0, 16) and lm.encode([], pooling=None) == []


@torch.inference_mode()
def test_a_score_is_the_mean_surprisal_of_each_token_given_what_its_position_sees(lm):
    tokens = framed(lm, "Return the array.")
    log_p = lm.model.logits(lm.model(tokens, causal=True)[0]).log_softmax(-1)
    T = tokens.shape[1]
    nats = [-log_p[t - 1, tokens[0, t]].item() for t in range(1, T - 1)]
    assert lm.score("Return the array.").nats == pytest.approx(np.mean(nats), abs=1e-5)
    masked = []
    for t in range(1, T - 1):
        hidden = tokens.clone()
        hidden[0, t] = lm.tokenizer.special.mask
        p = lm.model.logits(lm.model(hidden, causal=False)[0]).log_softmax(-1)
        masked.append(-p[t - lm.shift, tokens[0, t]].item())
    score = lm.score("Return the array.", causal=False)
    assert score.nats == pytest.approx(np.mean(masked), abs=1e-5)
    assert score.tokens == len(masked)


@pytest.mark.parametrize("causal", [True, False])
def test_of_a_text_longer_than_the_window_every_token_is_scored(lm, causal):
    text = "Return the array of the elements. " * 9
    assert lm.score(text, causal).tokens == len(lm.tokenizer.encode(text)) > 3 * lm.max_length


@torch.inference_mode()
@pytest.mark.parametrize("causal", [True, False])
def test_attention_weights_are_the_softmax_of_the_scores(lm, causal):
    weights, names = lm.attention("Return the array.", causal=causal)
    tokens = framed(lm, "Return the array.")
    block, T = lm.model.blocks[0], tokens.shape[1]
    rotation = lm.model.cos[:T], lm.model.sin[:T]
    q, k, _ = block.attention.project(block.norm_1(lm.model.embed(tokens, 0)), rotation)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    if causal:
        scores += torch.full((T, T), -torch.inf).triu(1)
    np.testing.assert_allclose(weights[0], scores.softmax(-1)[0].numpy(), atol=1e-5)
    assert weights.shape == (2, 2, T, T) and len(names) == T and names[0] == "<doc>"


def test_threads_that_look_inside_at_once_do_not_see_each_other(lm):
    """What recorded was hung into the model for a moment, where another thread's pass went by."""
    asked = [["Return the array."], ["an error", "the"], ["index of"], ["Raise"]]
    before = lm.model.attend, lm.model.visibility
    expected = [lm.encode(texts, layer=0) for texts in asked]

    def ask(texts):
        return [(lm.encode(texts, layer=0), lm.attention(texts[0])[0].shape[-1]) for _ in range(30)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(ask, asked))
    finally:
        sys.setswitchinterval(interval)
    for texts, right, answers in zip(asked, expected, found, strict=True):
        assert all(np.array_equal(states, right) for states, _ in answers)
        assert {n for _, n in answers} == {len(lm.tokens(texts[0]))}
    assert (lm.model.attend, lm.model.visibility) == before


def test_probabilities_are_the_classifiers_and_the_label_the_likeliest(clf):
    texts = ["Return the array.", "an error", "", "the index " * 50]
    p = clf.predict_proba(texts)
    for text, row in zip(texts, p, strict=True):
        tokens = framed(clf, text)
        with torch.inference_mode():
            logits = clf.model(tokens, torch.ones(tokens.shape, dtype=torch.bool), False)[0]
        np.testing.assert_allclose(row, logits.softmax(-1).numpy(), atol=1e-5)
    assert clf.predict(texts).tolist() == [clf.classes_[i] for i in p.argmax(1)]
    assert clf.predict([]).shape == (0,)


# Of scikit-learn's own checks. The others hand over numbers in two dimensions, where texts are
# taken; or want a constructor that only keeps its arguments, and takes any (ours opens the run, so
# that a wrong one is told at once), or has defaults for all (a run has none).
APPLY = ("check_estimator_cloneable", "check_estimator_repr", "check_estimator_tags_renamed",
         "check_valid_tag_types", "check_mixin_order", "check_get_params_invariance")  # fmt: skip


@pytest.mark.slow
def test_both_kinds_are_estimators_of_scikit_learn(folder, lm, clf, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("minilm.tasks.task.LEAST_STEPS", 20)
    from sklearn.base import clone, is_classifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import get_scorer
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.utils import estimator_checks as checks
    from sklearn.utils import get_tags

    for model in (lm, clf):
        for check in APPLY:
            getattr(checks, check)(type(model).__name__, model)
        assert clone(model).get_params() == model.get_params() == model.set_params().get_params()
        with pytest.raises(TypeError):
            model.set_params(epochs=3)
    assert is_classifier(clf) and not is_classifier(lm) and get_tags(clf).target_tags.required
    monkeypatch.chdir(folder)
    texts = [f"{end} of the array {i}" for i in range(12) for end in ("Return", "Raise")]
    labels = [7, 10] * 12
    probe = make_pipeline(clone(lm), LogisticRegression(C=100))
    asked = {"languagemodel__run": ["runs/pretrain-1", "runs/pretrain-2"]}
    assert GridSearchCV(probe, asked, cv=2).fit(texts, labels).best_score_ > 0.9
    # A fold's classifier has learnt from the other folds, and only from them.
    own = clone(clf)
    assert cross_val_score(own, texts, labels, cv=2, scoring="roc_auc").min() > 0.9
    assert own.predict(texts[:1])[0] in clf.classes_  # the one that was cloned is as it was
    assert own.fit(texts, labels) is own and own.classes_.tolist() == [7, 10]
    assert own.score(texts, labels) == get_scorer("accuracy")(own, texts, labels) > 0.9
    assert own.score(texts, labels, sample_weight=[1, 0] * 12) == 1.0
    with pytest.raises(UserError, match="24 texts and 23 labels"):
        own.fit(texts, labels[1:])


def test_a_pickled_model_takes_its_weights_along(lm, clf, tmp_path, monkeypatch):
    pickled = pickle.dumps([lm, clf])
    monkeypatch.chdir(tmp_path)
    again, classifier = pickle.loads(pickled)
    assert np.array_equal(again.encode(["an array"]), lm.encode(["an array"]))
    assert again.generate("the", tokens=5) == lm.generate("the", tokens=5)
    assert np.array_equal(classifier.predict_proba(["a"]), clf.predict_proba(["a"]))


def test_a_model_trains_outside_of_the_main_thread(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Path("own.txt").write_text("the array of the index\n" * 60)
    how = dict(data=Path("own.txt"), steps=np.int64(2), learning_rate=np.float32(1e-3), d_model=16,
               n_layers=1, n_heads=2, vocab_size=262, max_length=8, batch_size=2, evaluations=1,
               device="cpu", precision="float32", run=Path("threaded"))  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        lm = pool.submit(minilm.pretrain, **how).result()
    assert lm.config["flags"]["data"] == ["own.txt"] and lm.config["flags"]["steps"] == 2


def test_evaluating_changes_no_model_and_takes_files(folder, lm, clf, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Return the array of the elements.\n" * 90)
    lm.evaluate(tmp_path / "a.txt")
    assert "a.txt, losses in nats" in capsys.readouterr().out
    (tmp_path / "a.csv").write_text("said,kind\nan array,docs\na mail,mail\n")
    clf.evaluate(test=str(tmp_path / "a.csv"), text_column="said", label_column="kind")
    assert "2 texts" in capsys.readouterr().out and clf.task.config.text_column == "text"


def test_weights_without_a_head_for_tokens_predict_none(folder):
    bare = minilm.load(folder / "runs/pretrain-3", device="cpu")
    bare.model.config = SimpleNamespace(**vars(bare.model.config), head=False)
    for ask in (bare.fill, bare.score, bare.evaluate):
        with pytest.raises(UserError, match="without what predicts tokens"):
            ask(*["the <mask>"] * (ask != bare.evaluate))
    assert bare.encode(["the"]).shape == (1, 16)


TABLE = type("DataFrame", (dict,), dict(columns=["text"]))


def test_labels_that_pandas_has_made_floats_are_whole_numbers(clf):
    numbers = copy.copy(clf)
    numbers.classes_ = np.arange(len(clf.classes_)).astype(str)
    texts = ["the array", "a list"]
    right = numbers.predict(texts).astype(float)
    assert numbers.score(texts, right) == numbers.score(texts, right.astype(int)) == 1.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda lm, clf: minilm.load("nowhere"), "nowhere is not a run"),
        (lambda lm, clf: lm.fill("no mask"), "there is no <mask> in the text"),
        (lambda lm, clf: lm.fill("the <mask> " * 40), "shorten it"),
        (lambda lm, clf: lm.score(""), "no token to predict"),
        (lambda lm, clf: lm.encode("one text"), "give a list of texts"),
        (lambda lm, clf: lm.encode(["a"], pooling="max"), "pooling 'max': choose"),
        (lambda lm, clf: lm.encode(["a"], layer=9), "a layer from 0 to 2 or -1"),
        (lambda lm, clf: clf.predict("one text"), "give a list of texts"),
        (lambda lm, clf: minilm.pretrain(stepz=3), "stepz is no flag of train_pretrain.py"),
        (lambda lm, clf: minilm.finetune(epochs="3"), "--epochs cannot be '3'"),
        (lambda lm, clf: minilm.finetune(epochs=True), "--epochs cannot be True"),
        (lambda lm, clf: lm.encode(TABLE(text=[1])), "not a DataFrame: [text], or of a table one"),
        (lambda lm, clf: clf.predict(np.array([["a"], ["b"]])), 'column, df["text"]'),
        (lambda lm, clf: clf.predict(["a", None]), "item 1 is None, no text"),
        (lambda lm, clf: lm.encode(["a", float("nan")]), "item 1 is nan, no text"),
        (lambda lm, clf: lm.fill(7), "give a text, not 7"),
        (lambda lm, clf: lm.fill("<mask>", top=-1), "top is -1: give a whole number from 1"),
        (lambda lm, clf: lm.generate("a", seed=-1), "seed is -1: give a whole number from 0"),
        (lambda lm, clf: lm.evaluate(test="a.csv"), "learnt no labels"),
        (lambda lm, clf: clf.score(["a", "b"], ["x", "y"]), "none of these labels was learnt"),
        (lambda lm, clf: clf.score(["a", "b"], ["x"]), "2 texts and 1 labels"),
        (lambda lm, clf: clf.fit(["a", "b"], ["x", float("nan")]), "item 1 has no label"),
    ],
)
def test_what_cannot_be_is_one_line(lm, clf, call, message):
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        call(lm, clf)
    assert message in str(error.value)


def test_a_run_that_learnt_masks_only_fills_them_but_continues_no_text(folder):
    masked = minilm.load(folder / "runs/pretrain-3", device="cpu")
    with pytest.raises(UserError, match="use fill"):
        masked.generate("the")
    assert len(masked.fill("the <mask> and <mask>")) == 2
    assert masked.score("the array") == masked.score("the array", causal=False)
