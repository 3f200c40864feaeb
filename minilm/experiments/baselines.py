"""Baselines that might win: what a classifier must be compared with to be worth its minutes."""

import numpy as np

from minilm.corpora import Example
from minilm.metrics import accuracy, confusion_matrix, macro_f1


def majority(train: list[Example], test: list[Example], classes: list[str]) -> np.ndarray:
    """The confusion matrix (C, C) of always saying the label that train shows most."""
    return _confusion(say_majority(train, test, classes), test, classes)


def say_majority(train: list[Example], test: list[Example], classes: list[str]) -> list[str]:
    """For every test text the label that train shows most."""
    labels = [example.label for example in train]
    return [max(classes, key=labels.count)] * len(test)


def bag_of_words(
    train: list[Example], test: list[Example], classes: list[str]
) -> np.ndarray | None:
    """The confusion matrix (C, C) of `say_bag_of_words`. None where scikit-learn is missing."""
    predicted = say_bag_of_words(train, test, classes)
    return None if predicted is None else _confusion(predicted, test, classes)


def say_bag_of_words(
    train: list[Example], test: list[Example], classes: list[str]
) -> list[str] | None:
    """For every test text the label that logistic regression says, on TF-IDF weights of words and
    pairs of words, which knows nothing of order and is hard to beat. None where scikit-learn is
    missing."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    try:
        weights = vectorizer.fit_transform(example.text for example in train)
    except ValueError:  # no word occurs twice
        return say_majority(train, test, classes)
    model = LogisticRegression(C=10, max_iter=1000)
    model.fit(weights, [example.label for example in train])
    return list(model.predict(vectorizer.transform(example.text for example in test)))


def table(train: list[Example], test: list[Example], classes: list[str]) -> dict[str, dict]:
    """Accuracy and macro F1 of every baseline, by name."""
    found = {
        "majority class": majority(train, test, classes),
        "bag of words": bag_of_words(train, test, classes),
    }
    return {
        name: {"accuracy": accuracy(confusion), "macro_f1": macro_f1(confusion)}
        for name, confusion in found.items()
        if confusion is not None
    }


def _confusion(predicted: list[str], test: list[Example], classes: list[str]) -> np.ndarray:
    number = {name: i for i, name in enumerate(classes)}
    truth = np.array([number[example.label] for example in test])
    return confusion_matrix(truth, np.array([number[p] for p in predicted]), len(classes))
