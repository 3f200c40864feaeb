"""What the nets of a comparison are measured by: counted words, and classifiers without a net."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from minilm.experiments import baselines, minimal_pairs, ngrams
from minilm.experiments.experiment import COUNTED, Experiment
from minilm.experiments.finetuning import scores

BASELINES = {
    "majority class": "always the label that train shows most",
    "bag of words": "TF-IDF of words and pairs in the whole texts, logistic regression",
}


def lines(experiment: Experiment) -> dict:
    """What counting words reaches on validation text: the "lines" of results.json."""
    text = experiment.bench.text

    def do(advance: Callable[[float], None]) -> dict:
        """Count."""
        trigram = ngrams.trigram_entropy(text.train, text.valid, text.tokenizer.vocab_size)
        return {"lines": {"unigram": text.unigram_entropy, "trigram": trigram}}

    return experiment.work.job("lines", 0, do)["lines"]


def counted_pairs(experiment: Experiment) -> dict:
    """What counting words makes of the minimal pairs: the "pairs" of results.json."""
    text, pairs = experiment.bench.text, experiment.pairs

    def do(advance: Callable[[float], None]) -> dict:
        """Count, and score."""
        sentences = [text.tokenizer.encode(s) for pair in pairs for s in pair[1:]]
        scored = ngrams.log_likelihoods(text.train[:COUNTED], sentences, text.tokenizer.vocab_size)
        found = {
            "counts": Counter(pair.phenomenon for pair in pairs),
            "examples": {p.phenomenon: [p.good, p.bad] for p in reversed(pairs)},
            "rows": {
                name: minimal_pairs.shares_right(pairs, score[::2], score[1::2])
                for name, score in scored.items()
            },
        }
        return {"found": found}

    return experiment.work.job("pairs", 0, do)["found"] if pairs else {}


def baseline(experiment: Experiment, name: str) -> list[list[dict]] | None:
    """A baseline's tests, as `Experiment.curve`; None where it needs what is not installed."""
    say = {"majority class": baselines.say_majority, "bag of words": baselines.say_bag_of_words}
    task = experiment.task
    number = {c: i for i, c in enumerate(task.classes)}

    def test(labels: int, draw: int) -> dict:
        """One draw."""

        def do(advance: Callable[[float], None]) -> dict:
            """Fit and predict."""
            train = [task.examples["train"][i] for i in task.sample(labels, draw)]
            rows = experiment.test_rows(labels)
            predicted = say[name](train, task.examples["test"][:rows], task.classes)
            if predicted is None:
                return {"missing": True}
            chosen = np.array([number[label] for label in predicted])
            truth = task.encoded["test"].labels[:rows]
            return {"seed": draw, **scores(truth, chosen, len(task.classes))}

        job = f"baselines/{name.replace(' ', '-')}-{labels}-{draw}"
        return experiment.work.job(job, 0, do)

    found = [[test(n, draw) for draw in experiment.draws(n)] for n in experiment.sizes]
    return None if "missing" in found[0][0] else found
