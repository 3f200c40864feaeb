"""Translation, as `train_finetune.py --task translate` needs it."""

import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from minilm.corpora.tasks import Pair, task_examples
from minilm.generate import beam_search
from minilm.objectives import prefix, prefix_nll
from minilm.runs.task import Task

SHOWN = 200  # validation pairs that are translated while training
WORD = re.compile(r"\w+|[^\w\s]")


class Row(NamedTuple):
    """A pair."""

    source: np.ndarray
    target: np.ndarray

    @property
    def tokens(self) -> np.ndarray:
        """Both, for their length."""
        return np.concatenate([self.source, self.target])


class Translate(Task):
    """A text in another language, written after the source by the pretrained weights alone."""

    epochs = 10

    @property
    def columns(self):
        """BLEU where sacrebleu is installed and the target is no formula."""
        exact = ("exact", "exact", "{:.1%}")
        bleu = ("bleu", "BLEU", "{:.1f}"), ("chrf", "chrF", "{:.1f}")
        return (*bleu, exact) if self.judge == "bleu" else (exact,)

    @property
    def judge(self) -> str:
        """What chooses the checkpoint: "exact" for formulas, "bleu", or the "loss" without it."""
        if self.config.data == "latex-sympy":
            return "exact"
        try:
            import sacrebleu  # noqa: F401
        except ImportError:
            return "loss"
        return "bleu"

    def read(self):
        """The parts; there is nothing to tell apart."""
        return task_examples(self.config), []

    def encode(self, pairs: list[Pair]) -> list[Row]:
        """Cut to the window: a source to half of it at most."""
        room, rows = self.config.max_length - 3, []
        for pair in pairs:
            source, target = map(self.tokenizer.encode, pair)
            rows.append(Row(source[: room // 2], target[: room - room // 2]))
        return rows

    def collate(self, rows: list[Row]) -> tuple[np.ndarray, ...]:
        """inputs, targets (B, T), and how many positions of each are seen by all (B,)."""
        pairs = [row.source for row in rows], [row.target for row in rows]
        return prefix(*pairs, self.tokenizer.special, most=self.config.max_length)

    def loss(self, model, inputs, targets, seen):
        """- Σ_i log P(t_i | s, t_1 … t_{i-1}; θ)."""
        return prefix_nll(model, inputs, targets, seen)

    def translate(self, model, rows: list[Row], width: int) -> list[str]:
        """The best translation that a beam of this width finds; sources of one length together."""
        by_length, found = defaultdict(list), [""] * len(rows)
        for i, row in enumerate(rows):
            by_length[len(row.source)].append(i)
        for length, which in sorted(by_length.items()):
            for some in (which[i : i + 32] for i in range(0, len(which), 32)):
                sources = np.stack([rows[i].source for i in some])
                special, most = self.tokenizer.special, 2 * length + 30
                for i, text in zip(
                    some, beam_search(model, sources, special, width, most=most), strict=True
                ):
                    found[i] = self.tokenizer.decode(text).strip()
        return found

    def evaluate(self, model, part: str) -> tuple[float, dict]:
        """The loss on all pairs, and greedy translations of some."""
        rows, pairs = self.data[part], self.examples[part]
        every = -(-len(rows) // SHOWN)
        texts = self.translate(model, rows[::every], 1)
        values = {"loss": self.mean_loss(model, rows), **self.scores(texts, pairs[::every])}
        score = {"exact": 1 - values["exact"], "bleu": 1 - values.get("bleu", 0) / 100}
        return score.get(self.judge, values["loss"]), values

    def scores(self, texts: list[str], pairs: list[Pair]) -> dict:
        """The share that is exactly right, as text; BLEU (lower case) and chrF by sacrebleu."""
        right = [pair.target.strip() for pair in pairs]
        values = {"exact": float(np.mean([a == b for a, b in zip(texts, right, strict=True)]))}
        if self.judge == "bleu":
            import sacrebleu

            chinese = sum("\u4e00" <= c <= "\u9fff" for c in "".join(right[:100])) > 100
            tokenize = "zh" if chinese else "13a"
            bleu = sacrebleu.corpus_bleu(texts, [right], lowercase=True, tokenize=tokenize)
            values |= {"bleu": bleu.score, "chrf": sacrebleu.corpus_chrf(texts, [right]).score}
        return values

    def test(self, model) -> dict:
        """The scores on the test part, and the translations."""
        texts = self.translate(model, self.data[self.part], self.config.beam)
        return self.scores(texts, self.examples[self.part]) | {"predicted": texts}

    def report(self, row: dict) -> str:
        """Some translations."""
        pairs, lines = self.examples[self.part], [f"beam of {self.config.beam}; some translations:"]
        for i in range(0, len(pairs), -(-len(pairs) // 3)):
            source, target = pairs[i]
            lines.append(f"  {source}\n    {row['predicted'][i]}\n    (right: {target})")
        if self.judge == "loss":
            lines.append("for BLEU and chrF: pip install sacrebleu")
        return "\n".join(lines)

    def baselines(self) -> dict[str, dict]:
        """To copy the source; to translate word by word."""
        pairs = self.examples[self.part]
        rows = {
            "word by word (IBM model 1)": word_by_word(self.examples["train"], pairs),
            "the source, copied": [pair.source for pair in pairs],
        }
        return {name: self.scores(texts, pairs) for name, texts in rows.items()}

    def predict(self, model, texts: list[str]) -> list[str]:
        """The translations."""
        rows = self.encode([Pair(text, "") for text in texts])
        return self.translate(model, rows, self.config.beam)


def word_by_word(train: list[Pair], test: list[Pair], rounds: int = 5) -> list[str]:
    """IBM model 1 (Brown et al. 1993): every target word t is the translation of one word s of the
    source S, whichever, so P(t | S) = 1 / |S| · Σ_s P(t | s). Expectation: how often did s give t?

        c(t, s) = Σ_pairs P(t | s) / Σ_{s' ∈ S} P(t | s')

    Maximisation: P(t | s) = c(t, s) / Σ_t' c(t', s). Then each word's likeliest translation."""
    s_number = defaultdict(lambda: len(s_number))
    t_number = defaultdict(lambda: len(t_number))
    links = []  # (s, t, which occurrence of t): every word of a source with every one of its target
    occurrence = 0
    for source, target in train:
        s = [s_number[word] for word in dict.fromkeys(WORD.findall(source.lower()))]
        for word in WORD.findall(target):
            links += [(i, t_number[word], occurrence) for i in s]
            occurrence += 1
    s, t, occurrences = np.array(links).T
    pair, which = np.unique(s * len(t_number) + t, return_inverse=True)
    s_of_pair, t_of_pair = np.divmod(pair, len(t_number))
    p = np.ones(len(pair))  # P(t | s) of each pair that occurs together, up to a factor
    for _ in range(rounds):
        ways = p[which]
        share = ways / np.bincount(occurrences, ways)[occurrences]
        count = np.bincount(which, share)
        p = count / np.bincount(s_of_pair, count)[s_of_pair]
    order = np.argsort(p, kind="stable")  # the likeliest last, which stays
    words = list(t_number)
    best = dict(zip(s_of_pair[order].tolist(), t_of_pair[order].tolist(), strict=True))
    return [
        " ".join(
            words[best[s_number[w.lower()]]] if w.lower() in s_number else w
            for w in WORD.findall(pair.source)
        )
        for pair in test
    ]
