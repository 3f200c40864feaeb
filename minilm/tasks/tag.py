"""Tags for words: what `train_finetune.py --task tag` learns."""

from collections import Counter, defaultdict, namedtuple

import numpy as np
import torch
from torch import nn

from minilm.corpora.files import Tagged, words
from minilm.heads import tagging_nll
from minilm.objectives import IGNORE
from minilm.tasks.task import Task, bootstrap

# A sentence or a window of it: tokens (T,); words (W, 2), of each that is tagged here the first
# token and the one after its last; tags (W,); which sentence; whether a word of it was cut
Row = namedtuple("Row", "tokens words tags sentence cut")


def spans(tags) -> set[tuple[int, int, str]]:
    """(first word, word after the last, type) of each entity, by the strict rule: B- begins, I- of
    the same type goes on, and an I- with nothing before it is no entity."""
    found = set()
    for start, tag in enumerate(tags):
        if tag.startswith("B-"):
            end = start + 1
            while end < len(tags) and tags[end] == "I" + tag[1:]:
                end += 1
            found.add((start, end, tag[2:]))
    return found


def span_counts(true: list, predicted: list, kind: str | None = None) -> np.ndarray:
    """For each sentence how many entities (of a kind) were right, predicted, and there: (N, 3)."""
    counts = []
    for pair in zip(true, predicted, strict=True):
        t, p = ({s for s in spans(tags) if kind in (None, s[2])} for tags in pair)
        counts.append((len(t & p), len(p), len(t)))
    return np.array(counts)


def f1(sums: np.ndarray) -> np.ndarray:
    """2 right / (predicted + there), micro: over all entities. sums (..., 3)."""
    return 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)


def best_tags(log_p: np.ndarray, classes: list[str]) -> list[str]:
    """The likeliest tags in which every I- goes on with a B- or I- of its type (Viterbi 1967).
    log_p (W, C)."""
    possible = [[b[0] != "I" or a[1:] == b[1:] for b in classes] for a in classes]
    step = np.where(possible, 0.0, -np.inf)  # (C, C), [tag, next tag]
    score, back = log_p[0] + step[classes.index("O")], []
    for row in log_p[1:]:
        ways = score[:, None] + step
        back.append(ways.argmax(0))
        score = ways.max(0) + row
    tags = [int(score.argmax())]
    for pointers in reversed(back):
        tags.append(int(pointers[tags[-1]]))
    return [classes[i] for i in reversed(tags)]


class Tagging(Task):
    """A tag for each word: `classes` are O and the other tags. `solve` finds the tags of each
    sentence, `predict` (word, tag) pairs."""

    epochs = 8
    too_long = "hold a word longer than {} tokens, of which only the first are seen"
    columns = (("f1", "F1 of entities", "{:.1%}"), ("precision", "precision", "{:.1%}"),
               ("recall", "recall", "{:.1%}"))  # fmt: skip

    def classes_of(self, examples: list[Tagged]) -> list[str]:
        return ["O", *sorted({tag for sentence in examples for tag in sentence.tags} - {"O"})]

    def encode(self, sentences: list[Tagged]) -> list[Row]:
        """Each sentence in as many windows as it needs. They overlap: every word is tagged in one,
        where a quarter of the window or all of the sentence stands on either side. Tags that train
        lacks are not learnt."""
        number = {tag: i for i, tag in enumerate(self.classes)}
        special, room, rows = self.tokenizer.special, self.config.max_length - 2, []
        for i, tagged in enumerate(sentences):
            ids, offsets = self.tokenizer.encode_with_offsets(" ".join(tagged.words))
            lengths = np.array([len(word) for word in tagged.words])
            ends = np.cumsum(lengths + 1) - 1  # of each word, in characters
            starts = ends - lengths
            first = np.searchsorted(offsets[:, 1], starts, "right")  # of each word, in tokens
            after = np.maximum(np.searchsorted(offsets[:, 0], ends, "left"), first + 1)
            labels = np.array([number.get(tag, IGNORE) for tag in tagged.tags])
            begin = 0
            while begin < len(labels):
                left = max(0, min(first[begin] - room // 4, len(ids) - room), after[begin] - room)
                left = min(left, first[begin])
                until = left + room - (room // 4 if left + room < len(ids) else 0)
                end = max(begin + 1, np.searchsorted(after, until, "right"))
                seen, here = ids[left : left + room], slice(begin, end)
                places = np.stack([first[here], after[here]], 1) - left + 1
                tokens = np.concatenate([[special.bos], seen, [special.eos]])
                cut = bool((after[here] - first[here]).max() > room)
                rows.append(Row(tokens, places.clip(max=len(seen) + 1), labels[here], i, cut))
                begin = end
        return rows

    def collate(self, rows: list[Row]) -> tuple[np.ndarray, ...]:
        """tokens, is_real (B, T), words (B, W, 2), tags (B, W)."""
        words = np.zeros((len(rows), max(len(row.words) for row in rows), 2), dtype=np.int64)
        tags = np.full(words.shape[:2], IGNORE)
        for i, row in enumerate(rows):
            words[i, : len(row.words)], tags[i, : len(row.tags)] = row.words, row.tags
        return *self.padded(rows), words, tags

    def loss(self, model, tokens, is_real, words, tags):
        """- Σ_i log P(y_i | w_1 … w_n; θ)."""
        return tagging_nll(model(tokens, is_real, words), tags)

    @torch.inference_mode()
    def solve(self, model, rows: list[Row], sentences: list[Tagged]) -> list[list[str]]:
        log_p: list = [None] * len(rows)
        for which, (*batch, _) in self.in_batches(model.eval(), rows):
            for i, row in zip(which, model(*batch).float().log_softmax(-1).cpu(), strict=True):
                log_p[i] = row[: len(rows[i].tags)].numpy()
        parts: list[list] = [[] for _ in sentences]
        for row, of_words in zip(rows, log_p, strict=True):
            parts[row.sentence].append(of_words)
        return [best_tags(np.concatenate(part), self.classes) if part else [] for part in parts]

    def scores(self, found: list, sentences: list[Tagged]) -> dict[str, float]:
        counts = span_counts([sentence.tags for sentence in sentences], found).sum(0)
        right, predicted, there = np.maximum(counts, (0, 1, 1))
        values = dict(f1=f1(counts), precision=right / predicted, recall=right / there)
        return {name: float(value) for name, value in values.items()}

    def report(self, row: dict) -> str:
        """F1 with its interval, and of each type."""
        true = [sentence.tags for sentence in self.examples[self.part]]
        kinds = sorted({tag[2:] for tags in true for tag in tags if tag != "O"})
        interval = bootstrap(span_counts(true, row["found"]), f1)
        lines = [f"F1 of entities {row['f1']:.1%} ({interval}, {len(true):,} sentences)"]
        for kind in kinds:
            sums = span_counts(true, row["found"], kind).sum(0)
            lines.append(f"  {kind:{max(map(len, kinds))}}  {f1(sums):6.1%}  of {sums[2]:,}")
        return "\n".join(lines)

    def simpler(self) -> dict[str, list]:
        both = self.examples["train"], self.examples[self.part]
        return {"linear in a word and its neighbours": linear_tags(*both, self.classes),
                "a word's usual tag": frequent_tags(*both)}  # fmt: skip

    def unlabelled(self, text: str) -> Tagged:
        found = tuple(words(text, ".'-")) or ("",)
        return Tagged(found, ("O",) * len(found))

    def predict(self, model, texts: list[str]) -> list[list[tuple[str, str]]]:
        found = zip(map(self.unlabelled, texts), super().predict(model, texts), strict=True)
        return [list(zip(tagged.words, tags, strict=True)) for tagged, tags in found]

    def told(self, text: str, found: list[tuple[str, str]]) -> tuple[str, dict]:
        words, tags = zip(*found, strict=True)
        shown = " ".join(word if tag == "O" else f"[{word} {tag}]" for word, tag in found)
        return shown, dict(words=words, tags=tags)


def frequent_tags(train: list[Tagged], test: list[Tagged]) -> list[list[str]]:
    """The tag that each word has most often in train; O for a word that is new."""
    counts = Counter(pair for sentence in train for pair in zip(*sentence, strict=True))
    best = dict(sorted(counts, key=lambda pair: (counts[pair], pair[1])))  # a word's last one stays
    return [[best.get(word, "O") for word in words] for words, _ in test]


def linear_tags(train: list[Tagged], test: list[Tagged], classes: list[str]) -> list[list[str]]:
    """Logistic regression on a word, its last three letters, its first one's case, and the words
    before and after: log P(tag) = Σ_features W[feature, tag] + c, trained with the same loss."""

    def features(words) -> list[tuple]:
        around = zip(["", *words], words, [*words[1:], ""], strict=False)
        return [((0, w), (1, w[-3:]), (2, w[:1].isupper()), (3, a), (4, b)) for a, w, b in around]

    number = defaultdict(lambda: len(number) + 1)  # 0: a feature that train lacks
    x = torch.tensor([[number[f] for f in fs] for s in train for fs in features(s.words)])
    y = torch.tensor([classes.index(tag) for s in train for tag in s.tags])
    W = nn.EmbeddingBag(len(number) + 1, len(classes), mode="sum", padding_idx=0)
    nn.init.zeros_(W.weight)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(W.parameters(), 0.03)
    for _ in range(5):
        for rows in torch.randperm(len(x), generator=generator).split(512):
            optimizer.zero_grad()
            nn.functional.cross_entropy(W(x[rows]), y[rows]).backward()
            optimizer.step()
    known = ([[number.get(f, 0) for f in fs] for fs in features(words)] for words, _ in test)
    log_p = (W(torch.tensor(rows)).log_softmax(-1).detach().numpy() for rows in known)
    return [best_tags(of_sentence, classes) for of_sentence in log_p]
