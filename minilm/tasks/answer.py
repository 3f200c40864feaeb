"""Answers that stand in a context: what `train_finetune.py --task answer` learns."""

import re
import string
import unicodedata
from collections import Counter, namedtuple
from typing import NamedTuple

import numpy as np
import torch

from minilm.config import UserError
from minilm.corpora.files import Question, read_questions
from minilm.heads import answer_nll
from minilm.model import FAR
from minilm.objectives import IGNORE
from minilm.tasks.task import Task, bootstrap

LONGEST = 30  # tokens of an answer
NO_ANSWER = "no answer"


# A question with a context or a window of it: tokens (T,), <doc> question <doc> context <doc>;
# where the context begins; span, the first and last token of the answer, (0, 0): it is not here, or
# IGNORE twice: a part of it is; offsets (n, 2), the characters of each token of the context; which
# question; and whether that was cut
Row = namedtuple("Row", "tokens start span offsets question cut")


class Answer(NamedTuple):
    """An answer, where it begins in its context (-1: it has none), and how probable it is."""

    text: str
    start: int = -1
    probability: float = 1.0


def normalised(text: str) -> list[str]:
    """The words that SQuAD compares (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1): lower
    case, without punctuation and the articles a, an, the."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return [word for word in text.split() if word not in ("a", "an", "the")]


def exact_and_f1(predicted: str, answers) -> tuple[float, float]:
    """Exact match, and F1 of the words, each with the answer that fits best; where one of the two
    has no words, F1 is 1 if the other has none, else 0."""
    best, p = (0.0, 0.0), normalised(predicted)
    for a in map(normalised, answers):
        shared = (Counter(p) & Counter(a)).total()
        f1 = 2 * shared / (len(p) + len(a)) if p and a else float(p == a)
        best = max(best[0], float(p == a)), max(best[1], f1)
    return best


class Answering(Task):
    """Where in a context the answer to a question stands."""

    epochs, shortest = 4, 8
    columns = ("f1", "F1 of words", "{:.1%}"), ("exact", "exact match", "{:.1%}")
    example = '"a context" --question "What ...?"'
    hidden = False  # whether the questions are
    too_long = "have a question of more than half a window, and it was cut"

    def controls(self):
        others = super().controls()
        if others:
            blind = Answering(self.config, self.tokenizer, self.classes)
            blind.hidden = True
            blind.load(self.examples, self.classes)
            others.append(("these weights, questions hidden", "questions-hidden", False, blind))
        return others

    def classes_of(self, questions: list[Question]) -> list[str]:
        """Whether an answer may be missing."""
        return ["answer", *[NO_ANSWER] * any(question.start < 0 for question in questions)]

    def encode(self, questions: list[Question]) -> list[Row]:
        """Each question in as many rows as its context needs windows, which overlap by half."""
        special, most, rows = self.tokenizer.special, self.config.max_length, []
        for i, (context, question, answers, start) in enumerate(questions):
            ids, offsets = self.tokenizer.encode_with_offsets(context)
            asked = self.tokenizer.encode("" if self.hidden else question)
            cut = len(asked) > (longest := max(0, most // 2 - 2))
            head = np.concatenate([[special.bos], asked[:longest], [special.eos]])
            room = max(1, most - len(head) - 1)
            first = np.searchsorted(offsets[:, 1], start, "right")
            last = np.searchsorted(offsets[:, 0], start + len(answers[0]), "left") - 1
            for begin in range(0, max(1, len(ids) - room // 2), max(1, room // 2)):
                end, shift, span = begin + room, len(head) - begin, (0, 0)
                if start >= 0 and first < end and last >= begin:
                    whole = begin <= first and last < end
                    span = (int(first + shift), int(last + shift)) if whole else (IGNORE, IGNORE)
                tokens = np.concatenate([head, ids[begin:end], [special.eos]])
                rows.append(Row(tokens, len(head), span, offsets[begin:end], i, cut))
        return rows

    def left_out(self, rows: list[Row]) -> str:
        whole = {row.question: row.span for row in rows if row.span[0] > 0}
        n = len({row.question for row in rows if row.span != (0, 0)} - whole.keys())
        long = sum(last - first >= LONGEST for first, last in whole.values())
        said = [f"of {n:,} questions no window of {self.room} tokens holds the whole answer, which "
                "is not learnt: a larger --max-length helps"] * (n > 0)  # fmt: skip
        said += [f"of {long:,} questions the answer is longer than {LONGEST} tokens, which is more "
                 "than is ever found"] * (long > 0)  # fmt: skip
        return "; ".join(filter(None, (*said, super().left_out(rows))))

    def collate(self, rows: list[Row]) -> tuple[np.ndarray, ...]:
        """tokens, is_real, allowed (B, T), spans (B, 2)."""
        tokens, is_real = self.padded(rows)
        start, t = np.array([[row.start] for row in rows]), np.arange(tokens.shape[1])
        end = is_real.sum(1, keepdims=True) - 1  # of the context
        allowed = (t == 0) | ((start <= t) & (t < end))
        return tokens, is_real, allowed, np.array([row.span for row in rows])

    def loss(self, model, tokens, is_real, allowed, spans):
        """- log P(start) - log P(end)."""
        return answer_nll(model(tokens, is_real, allowed), spans)

    @torch.inference_mode()
    def solve(self, model, rows: list[Row], questions: list[Question]) -> list[Answer]:
        """The best span of each question over all windows of its context; none where the first
        <doc> is likelier in each, and train had questions without an answer."""
        best: list = [(-np.inf, Answer(""))] * len(questions)
        for which, (*batch, _) in self.in_batches(model.eval(), rows):
            for i, log_p in zip(which, model(*batch).float().log_softmax(1).cpu(), strict=True):
                row, (first, last, score) = rows[i], best_span(log_p, LONGEST)
                better = score - float(log_p[0].sum())
                if len(row.offsets) and better > best[row.question][0]:
                    context = questions[row.question].context
                    span = row.offsets[[first - row.start, last - row.start], [0, 1]]
                    left, right = whole_words(context, *span)
                    text = context[left:right]
                    left += len(text) - len(text.lstrip())
                    answer = Answer(text.strip(), int(left), float(np.exp(score)))
                    best[row.question] = better, answer
        none = NO_ANSWER in self.classes
        return [
            Answer("", -1, 1 - a.probability) if none and better < 0 else a for better, a in best
        ]

    def scores(self, found: list[Answer], questions: list[Question]) -> dict:
        pairs = zip(found, questions, strict=True)
        each = np.array([exact_and_f1(answer.text, question.answers) for answer, question in pairs])
        return dict(f1=float(each[:, 1].mean()), exact=float(each[:, 0].mean()), each=each)

    def report(self, row: dict) -> str:
        """F1 with its interval, and some answers."""
        questions, n = self.examples[self.part], len(self.examples[self.part])
        interval = bootstrap(row["each"], lambda sums: sums[..., 1] / n)
        lines = [f"F1 of words {row['f1']:.1%} ({interval}, {n:,} questions)"]
        for i in range(0, n, -(-n // 4)):
            text, right = row["found"][i].text or NO_ANSWER, questions[i].answers[0] or NO_ANSWER
            lines.append(f"  {questions[i].question[:60]} {text[:50]!r} (right: {right[:50]!r})")
        return "\n".join(lines)

    def simpler(self) -> dict[str, list]:
        found = [Answer(best_sentence(q.context, q.question)) for q in self.examples[self.part]]
        return {"the sentence with most words of it": found}

    def unlabelled(self, text: tuple[str, str]) -> Question:
        """text: a context, and a question."""
        if text[1] is None:
            raise UserError('this run answers questions: give a context and --question "..."')
        return Question(*text, ("",), -1)

    def texts_in(self, path, column=None, encoding=None) -> list[tuple[str, str]]:
        found = read_questions(path, encoding or self.config.encoding, answered=False)
        return [(q.context, q.question) for q in found]

    def told(self, text: tuple[str, str], found: Answer) -> tuple[str, dict]:
        p, row = found.probability, dict(context=text[0], question=text[1], answer=found.text)
        row |= dict(answer_start=found.start, probability=round(p, 6))
        return f"{p:6.1%}  {found.text or NO_ANSWER}  (character {found.start})", row


def best_sentence(context: str, question: str) -> str:
    """The sentence (or line) of a context that shares most words with a question."""
    asked = set(normalised(question))
    return max(re.split(r"(?<=[.!?])\s+|\n+", context), key=lambda s: len(asked & {*normalised(s)}))


def whole_words(text: str, left: int, right: int) -> tuple[int, int]:
    """A span of a text, widened where it begins or ends inside of a number or of a word: of letters
    that have a case, for scripts without may have no blanks between words.

    >>> whole_words("Ada Lovelace, 1843", 5, 9)
    (4, 12)
    """
    joined = lambda c: c.isdigit() or c.lower() != c.upper() or unicodedata.combining(c)
    inside = lambda i: all(map(joined, text[i - 1 : i + 1]))
    while 0 < left < len(text) and inside(left):
        left -= 1
    while 0 < right < len(text) and inside(right):
        right += 1
    return left, right


def best_span(scores: torch.Tensor, longest: int) -> tuple[int, int, float]:
    """The first and last token of the best span of at most `longest` tokens, the first <doc> left
    out, and the sum of its two scores (Devlin et al. 2019, arXiv 1810.04805, section 4.2). scores
    (T, 2)."""
    pairs = scores[:, :1] + scores[:, 1]  # (T, T), [start, end]
    possible = torch.ones_like(pairs, dtype=torch.bool).triu().tril(longest - 1)
    possible[0] = False
    best = pairs.masked_fill(~possible, 2 * FAR).argmax()
    return *divmod(int(best), len(scores)), float(pairs.flatten()[best])
