"""Answers that stand in a context: what `train_finetune.py --task answer` learns."""

import re
import string
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch

from minilm.corpora.tasks import Question, task_examples
from minilm.data import pad
from minilm.heads import answer_nll
from minilm.model import FAR
from minilm.runs.task import Task, bootstrap

LONGEST = 30  # tokens of an answer
NO_ANSWER = "no answer"


class Row(NamedTuple):
    """A question with a context, or with a window of it."""

    tokens: np.ndarray  # (T,): <doc> question <doc> context <doc>
    start: int  # where the context begins
    span: tuple[int, int]  # the first and last token of the answer; (0, 0): it is not here
    offsets: np.ndarray  # (n, 2): the characters of each token of the context
    question: int


class Answer(NamedTuple):
    """An answer, where it begins in its context (-1: it has none), and how probable it is."""

    text: str
    start: int
    probability: float


def normalised(text: str) -> list[str]:
    """The words that SQuAD compares (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1): lower
    case, without punctuation and the articles a, an, the.

    >>> normalised("The  Norman's conquest")
    ['normans', 'conquest']
    """
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return [word for word in text.split() if word not in ("a", "an", "the")]


def exact_and_f1(predicted: str, answers) -> tuple[float, float]:
    """Exact match, and F1 of the words, each with the answer that fits best; where one of the two
    has no words, F1 is 1 if the other has none, else 0.

    >>> exact_and_f1("in the year 1066", ["1066"])
    (0.0, 0.5)
    """
    best, p = (0.0, 0.0), normalised(predicted)
    for a in map(normalised, answers):
        shared = (Counter(p) & Counter(a)).total()
        f1 = 2 * shared / (len(p) + len(a)) if p and a else float(p == a)
        best = max(best[0], float(p == a)), max(best[1], f1)
    return best


class Answering(Task):
    """Where in a context the answer to a question stands. `blind` hides the questions."""

    epochs = 4
    columns = ("f1", "F1 of words", "{:.1%}"), ("exact", "exact match", "{:.1%}")
    example = '"a context" --question "What ...?"'

    def __init__(self, config, tokenizer, classes=None, blind: bool = False):
        self.blind = blind
        super().__init__(config, tokenizer, classes)

    def controls(self):
        """Beside the usual one, a network that does not see the questions."""
        usual = super().controls()
        if usual:
            blind = Answering(self.config, self.tokenizer, blind=True)
            usual.append(("these weights, questions hidden", "questions-hidden", False, blind))
        return usual

    def read(self):
        """The parts; and whether an answer may be missing."""
        parts = task_examples(self.config)
        missing = any(question.start < 0 for question in parts["train"])
        return parts, ["answer", *[NO_ANSWER] * missing]

    def encode(self, questions: list[Question]) -> list[Row]:
        """Each question in as many rows as its context needs windows, which overlap by half."""
        special, most, rows = self.tokenizer.special, self.config.max_length, []
        for i, (context, question, answers, start) in enumerate(questions):
            ids, offsets = self.tokenizer.encode_with_offsets(context)
            asked = self.tokenizer.encode("" if self.blind else question)[: most // 2]
            head = np.concatenate([[special.bos], asked, [special.eos]])
            room = max(1, most - len(head) - 1)
            first = np.searchsorted(offsets[:, 1], start, "right")
            last = np.searchsorted(offsets[:, 0], start + len(answers[0]), "left") - 1
            for begin in range(0, max(1, len(ids) - room // 2), max(1, room // 2)):
                inside = start >= 0 and begin <= first <= last < begin + room
                to_row = len(head) - begin
                span = (int(first + to_row), int(last + to_row)) if inside else (0, 0)
                tokens = np.concatenate([head, ids[begin : begin + room], [special.eos]])
                rows.append(Row(tokens, len(head), span, offsets[begin : begin + room], i))
        return rows

    def collate(self, rows: list[Row]) -> tuple[np.ndarray, ...]:
        """tokens, is_real, allowed (B, T), spans (B, 2)."""
        texts, most = [row.tokens for row in rows], self.config.max_length
        tokens, is_real = pad(texts, self.tokenizer.special.pad, most=most)
        start, end = (np.array(x)[:, None] for x in ([r.start for r in rows], [*map(len, texts)]))
        t = np.arange(tokens.shape[1])
        allowed = (t == 0) | ((start <= t) & (t < end - 1))
        return tokens, is_real, allowed, np.array([row.span for row in rows])

    def loss(self, model, tokens, is_real, allowed, spans):
        """- log P(start) - log P(end)."""
        return answer_nll(model(tokens, is_real, allowed), spans)

    @torch.inference_mode()
    def answers(self, model, rows: list[Row], questions: list[Question]) -> list[Answer]:
        """The best span of each question over all windows of its context; none where the first
        <doc> is likelier in each, and train had questions without an answer."""
        found: list = [(-np.inf, Answer("", -1, 1.0))] * len(questions)
        for which, (*batch, _) in self.in_batches(model.eval(), rows):
            for i, log_p in zip(which, model(*batch).float().log_softmax(1).cpu(), strict=True):
                row, (start, end, score) = rows[i], best_span(log_p, LONGEST)
                better = score - float(log_p[0].sum())
                if len(row.offsets) and better > found[row.question][0]:
                    left, right = row.offsets[start - row.start][0], row.offsets[end - row.start][1]
                    text = questions[row.question].context[left:right]
                    left += len(text) - len(text.lstrip())
                    answer = Answer(text.strip(), int(left), float(np.exp(score)))
                    found[row.question] = better, answer
        missing = NO_ANSWER in self.classes
        return [Answer("", -1, 1 - a.probability) if missing and b < 0 else a for b, a in found]

    def predictions(self, model, part: str) -> list[str]:
        """The answers of a part."""
        return [a.text for a in self.answers(model, self.data[part], self.examples[part])]

    def scores(self, predicted: list[str], part: str) -> dict:
        """Exact match and F1: the means over all questions, and of each (N, 2)."""
        pairs = zip(predicted, self.examples[part], strict=True)
        each = np.array([exact_and_f1(text, question.answers) for text, question in pairs])
        return dict(f1=float(each[:, 1].mean()), exact=float(each[:, 0].mean()), each=each)

    def report(self, row: dict) -> str:
        """F1 with its interval, and some answers."""
        questions, texts = self.examples[self.part], row["predicted"]
        pairs = np.column_stack([row["each"][:, 1], np.ones(len(texts))])
        interval = bootstrap(pairs, lambda sums: sums[..., 0] / sums[..., 1])
        lines = [f"F1 of words {row['f1']:.1%} ({interval}, {len(questions):,} questions)"]
        for i in range(0, len(questions), -(-len(questions) // 4)):
            right, found = questions[i].answers[0] or NO_ANSWER, texts[i] or NO_ANSWER
            lines.append(f"  {questions[i].question[:60]} {found[:50]!r} (right: {right[:50]!r})")
        return "\n".join(lines)

    def simpler(self) -> dict[str, list]:
        """The sentence of the context that shares most words with the question."""
        texts = [best_sentence(q.context, q.question) for q in self.examples[self.part]]
        return {"the sentence with most words of it": texts}

    def predict(self, model, texts: list[tuple[str, str]]) -> list[Answer]:
        """The answers to pairs (context, question)."""
        questions = [Question(context, question, ("",), -1) for context, question in texts]
        return self.answers(model, self.encode(questions), questions)


def best_sentence(context: str, question: str) -> str:
    """The sentence (or line) of a context that shares most words with a question."""
    asked = set(normalised(question))
    return max(re.split(r"(?<=[.!?])\s+|\n+", context), key=lambda s: len(asked & {*normalised(s)}))


def best_span(scores: torch.Tensor, longest: int) -> tuple[int, int, float]:
    """The first and last token of the best span of at most `longest` tokens, the first <doc> left
    out, and the sum of its two scores (Devlin et al. 2019, arXiv 1810.04805, section 4.2). scores
    (T, 2)."""
    pairs = scores[:, :1] + scores[:, 1]  # (T, T), [start, end]
    possible = torch.ones_like(pairs, dtype=torch.bool).triu().tril(longest - 1)
    possible[0] = False
    best = pairs.masked_fill(~possible, 2 * FAR).argmax()
    return *divmod(int(best), len(scores)), float(pairs.flatten()[best])
