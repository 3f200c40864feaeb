"""Answers that stand in a context, as `train_finetune.py --task answer` needs them."""

import re
import string
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch

from minilm.corpora.tasks import Question, task_examples
from minilm.data import pad
from minilm.heads import answer_nll, best_span
from minilm.runs.task import Control, Task, bootstrap

LONGEST = 30  # tokens of an answer
NOBODY_KNOWS = "no answer"


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
    best = (0.0, 0.0)
    p = normalised(predicted)
    for a in map(normalised, answers):
        shared = (Counter(p) & Counter(a)).total()
        f1 = 2 * shared / (len(p) + len(a)) if p and a else float(p == a)
        best = max(best[0], float(p == a)), max(best[1], f1)
    return best


class AnswerTask(Task):
    """Where in a context the answer to a question stands. `blind` hides the questions."""

    epochs = 4
    columns = (("exact", "exact match", "{:.1%}"), ("f1", "F1 of words", "{:.1%}"))
    example = '"a context" --question "What ...?"'

    def __init__(self, config, tokenizer, classes=None, blind: bool = False):
        self.blind = blind
        super().__init__(config, tokenizer, classes)

    def controls(self) -> list[Control]:
        """Beside the usual one, a network that does not see the questions."""
        if not self.wants_scratch or self.blind:
            return []
        blind = AnswerTask(self.config, self.tokenizer, blind=True)
        name = "these weights, the question hidden"
        return [*super().controls(), Control(name, "question-hidden", False, blind)]

    def read(self):
        """The parts; and that an answer may be missing, if it is in train."""
        parts = task_examples(self.config)
        unknown = any(question.start < 0 for question in parts["train"])
        return parts, ["answer", *[NOBODY_KNOWS] * unknown]

    def encode(self, questions: list[Question]) -> list[Row]:
        """Each question in as many rows as its context needs windows, which overlap by half."""
        special, encode = self.tokenizer.special, self.tokenizer.encode_with_offsets
        rows, known = [], {}
        for i, (context, question, answers, start) in enumerate(questions):
            if context not in known:
                known = {context: encode(context)}
            ids, offsets = known[context]
            asked = np.array([], dtype=np.int64) if self.blind else self.tokenizer.encode(question)
            asked = asked[: self.config.max_length // 2]
            head = np.concatenate([[special.bos], asked, [special.eos]])
            room = self.config.max_length - len(head) - 1
            first = last = -1
            if start >= 0 and len(ids):
                end = start + len(answers[0])
                first = int(np.searchsorted(offsets[:, 1], start, "right"))
                last = max(first, int(np.searchsorted(offsets[:, 0], end, "left")) - 1)
            for begin in range(0, max(1, len(ids) - room // 2), max(1, room // 2)):
                window = slice(begin, begin + room)
                inside = begin <= first and last < min(begin + room, len(ids))
                shift = len(head) - begin
                span = (first + shift, last + shift) if inside else (0, 0)
                tokens = np.concatenate([head, ids[window], [special.eos]])
                rows.append(Row(tokens, len(head), span, offsets[window], i))
        return rows

    def collate(self, rows: list[Row]) -> tuple[np.ndarray, ...]:
        """tokens, is_real, allowed (B, T), spans (B, 2)."""
        most = self.config.max_length
        tokens, is_real = pad([r.tokens for r in rows], self.tokenizer.special.pad, most=most)
        allowed = np.zeros_like(is_real)
        allowed[:, 0] = True
        for i, row in enumerate(rows):
            allowed[i, row.start : len(row.tokens) - 1] = True
        return tokens, is_real, allowed, np.array([row.span for row in rows])

    def loss(self, model, tokens, is_real, allowed, spans):
        """- log P(start) - log P(end)."""
        return answer_nll(model(tokens, is_real, allowed), spans)

    @torch.inference_mode()
    def answers(self, model, rows: list[Row], questions: list[Question]) -> list[Answer]:
        """The best span of each question over all windows of its context; none where the score at
        <doc> is better in each, and train had questions without an answer."""
        model.eval()
        found: list = [(-np.inf, Answer("", -1, 1.0))] * len(questions)
        for which, (*batch, _) in self.in_batches(model, rows):
            for i, log_p in zip(which, model(*batch).float().log_softmax(1).cpu(), strict=True):
                row = rows[i]
                if not len(row.offsets):
                    continue
                start, end, score = best_span(log_p, LONGEST)
                better = score - float(log_p[0].sum())
                if better > found[row.question][0]:
                    left = int(row.offsets[start - row.start][0])
                    right = int(row.offsets[end - row.start][1])
                    text = questions[row.question].context[left:right]
                    left += len(text) - len(text.lstrip())
                    answer = Answer(text.strip(), left, float(np.exp(score)))
                    found[row.question] = better, answer
        missing = NOBODY_KNOWS in self.classes
        return [Answer("", -1, 1 - a.probability) if missing and b < 0 else a for b, a in found]

    def evaluate(self, model, part: str) -> tuple[float, dict]:
        """1 - F1, and the loss, exact match and F1."""
        answers = self.answers(model, self.data[part], self.examples[part])
        values = self.scores([answer.text for answer in answers], part)
        return 1 - values["f1"], {"loss": self.mean_loss(model, self.data[part]), **values}

    def pairs(self, texts: list[str], part: str) -> np.ndarray:
        """Exact match and F1 of each question, (N, 2)."""
        questions = self.examples[part]
        return np.array([exact_and_f1(t, q.answers) for t, q in zip(texts, questions, strict=True)])

    def scores(self, texts: list[str], part: str) -> dict:
        """The means over all questions."""
        exact, f1 = self.pairs(texts, part).mean(0)
        return {"exact": float(exact), "f1": float(f1)}

    def test(self, model) -> dict:
        """The scores on the test part, and the answers."""
        answers = self.answers(model, self.data[self.part], self.examples[self.part])
        texts = [answer.text for answer in answers]
        return self.scores(texts, self.part) | {"predicted": texts}

    def report(self, row: dict) -> str:
        """F1 with its interval, and some answers."""
        questions, texts = self.examples[self.part], row["predicted"]
        pairs = np.column_stack([self.pairs(texts, self.part)[:, 1], np.ones(len(texts))])
        low, high = bootstrap(pairs, lambda sums: sums[..., 0] / sums[..., 1])
        lines = [f"F1 of words {row['f1']:.1%} (95 % interval {low:.1%} to {high:.1%}, "
                 f"{len(questions):,} questions)"]  # fmt: skip
        for i in range(0, len(questions), -(-len(questions) // 4)):
            question, right = questions[i].question, questions[i].answers[0] or NOBODY_KNOWS
            found = texts[i] or NOBODY_KNOWS
            lines.append(f"  {question[:60]} {found[:50]!r} (right: {right[:50]!r})")
        return "\n".join(lines)

    def baselines(self) -> dict[str, dict]:
        """The sentence of the context that shares most words with the question."""
        texts = [best_sentence(q.context, q.question) for q in self.examples[self.part]]
        return {"the sentence with most words of the question": self.scores(texts, self.part)}

    def predict(self, model, texts: list[tuple[str, str]]) -> list[Answer]:
        """The answers to pairs (context, question)."""
        questions = [Question(context, question, ("",), -1) for context, question in texts]
        return self.answers(model, self.encode(questions), questions)


def best_sentence(context: str, question: str) -> str:
    """The sentence (or line) of a context that shares most words with a question."""
    asked = set(normalised(question))
    return max(re.split(r"(?<=[.!?])\s+|\n+", context), key=lambda s: len(asked & {*normalised(s)}))
