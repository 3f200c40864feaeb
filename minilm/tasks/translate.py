"""Translation: what `train_finetune.py --task translate` learns."""

import importlib.util
import re
from collections import defaultdict, namedtuple
from itertools import groupby

import numpy as np
import torch

from minilm.corpora import splits
from minilm.corpora.files import Pair, words
from minilm.corpora.tables import ending, read_lines
from minilm.data import in_chunks
from minilm.model import Transformer
from minilm.objectives import prefix, prefix_nll
from minilm.tasks.task import Task
from minilm.tokenizer import SpecialTokens

FORMULAS = "latex-sympy"  # a corpus, not of a language
SHOWN = 200  # validation pairs that are translated while training

Row = namedtuple("Row", "tokens source target cut")  # tokens: both, for their length


class Translating(Task):
    """A text in another language, written after its source by the pretrained weights alone."""

    epochs, shortest = 10, 8
    too_long = "are longer than {} tokens a side and were cut: a larger --max-length helps"

    @property
    def room(self) -> int:
        """Tokens of a side."""
        return self.config.max_length // 2 - 2

    @property
    def columns(self):
        """BLEU and chrF, but not of formulas or without sacrebleu; and what is exactly right."""
        exact = ("exact", "exact", "{:.1%}")
        if self.config.data == FORMULAS or not importlib.util.find_spec("sacrebleu"):
            return (exact,)
        return ("bleu", "BLEU", "{:.1f}"), ("chrf", "chrF", "{:.1f}"), exact

    def classes_of(self, pairs: list[Pair]) -> list[str]:
        return []

    def encode(self, pairs: list[Pair]) -> list[Row]:
        """Cut to the window: source and target to a half of it each."""
        rows = []
        for both in ([self.tokenizer.encode(text) for text in pair] for pair in pairs):
            kept = [tokens[: self.room] for tokens in both]
            rows.append(Row(np.concatenate(kept), *kept, max(map(len, both)) > self.room))
        return rows

    def collate(self, rows: list[Row]) -> tuple[np.ndarray, ...]:
        """inputs, targets (B, T), and how many positions of each are seen by all (B,)."""
        _, sources, targets, _ = zip(*rows, strict=True)
        return prefix(sources, targets, self.tokenizer.special, self.config.max_length)

    def loss(self, model, inputs, targets, seen):
        """- Σ_i log P(t_i | s, t_1 … t_{i-1}; θ)."""
        return prefix_nll(model, inputs, targets, seen)

    def solve(self, model, rows: list[Row], pairs, width: int | None = None) -> list[str]:
        """What a beam finds. Sources of one length are translated together, 32 at a time."""
        found, length_of = [""] * len(rows), lambda i: len(rows[i].source)
        how = self.tokenizer.special, width or self.config.beam
        for length, same in groupby(sorted(range(len(rows)), key=length_of), length_of):
            for which in in_chunks([list(same)], 32):
                sources = np.stack([rows[i].source for i in which])
                texts = beam_search(model, sources, *how, most=2 * length + 30)
                for i, text in zip(which, texts, strict=True):
                    found[i] = self.tokenizer.decode(text).strip()
        return found

    def scores(self, found: list[str], pairs: list[Pair]) -> dict[str, float]:
        """The share that is exactly right, as text; BLEU and chrF as sacrebleu has them
        by default: of upper and lower case (of Chinese its own tokens)."""
        right = [pair.target.strip() for pair in pairs]
        values = {"exact": float(np.mean([a == b for a, b in zip(found, right, strict=True)]))}
        if len(self.columns) > 1:
            import sacrebleu

            chinese = len(re.findall("[\u4e00-\u9fff]", "".join(right))) > len(right)
            how = dict(force=True, tokenize="zh" if chinese else "13a")
            values["bleu"] = sacrebleu.corpus_bleu(found, [right], **how).score
            values["chrf"] = sacrebleu.corpus_chrf(found, [right]).score
        return values

    def evaluate(self, model, part: str) -> tuple[float, dict]:
        """How far from perfect: by BLEU, of formulas by what is exactly right, or else the loss;
        and the scores of greedy translations of some pairs."""
        every = -(-len(self.data[part]) // SHOWN)
        pairs, rows = self.examples[part][::every], self.data[part][::every]
        scores = self.scores(self.solve(model, rows, pairs, width=1), pairs)
        values = {"loss": self.mean_loss(model, part), **scores}
        if self.config.data == FORMULAS:
            return 1 - values["exact"], values
        return 1 - values["bleu"] / 100 if "bleu" in values else values["loss"], values

    def report(self, row: dict) -> str:
        """Some translations."""
        pairs, lines = self.examples[self.part], [f"some translations, beam {self.config.beam}:"]
        for i in range(0, len(pairs), -(-len(pairs) // 3)):
            source, target = pairs[i]
            lines.append(f"  {source}\n    {row['found'][i]}\n    (right: {target})")
        if self.config.data != FORMULAS and "bleu" not in row:
            lines.append("for BLEU and chrF: pip install sacrebleu")
        return "\n".join(lines)

    def simpler(self) -> dict[str, list]:
        pairs = self.examples[self.part]
        found = word_by_word(self.examples["train"], pairs)
        return {"word by word (IBM model 1)": found, "the source": [s for s, _ in pairs]}

    def unlabelled(self, text: str) -> Pair:
        return Pair(text, "")

    def texts_in(self, path, column=None, encoding=None) -> list[str]:
        """The sources of a table; the lines of a .txt, or of a file named by language, test.en."""
        column = column or splits.columns_of(self.config)[0]
        if ending(path) == f".{column}".lower():
            return [*map(str.strip, read_lines(path, encoding or self.config.encoding))]
        return super().texts_in(path, column, encoding)

    def told(self, text: str, found: str) -> tuple[str, dict]:
        return found, dict(source=text, target=found)


def word_by_word(train: list[Pair], test: list[Pair], rounds: int = 5) -> list[str]:
    """IBM model 1 (Brown et al. 1993): every target word t is the translation of one word s of the
    source S, whichever, so P(t | S) = 1 / |S| · Σ_s P(t | s). Expectation: how often did s give t?

        c(t, s) = Σ_pairs P(t | s) / Σ_{s' ∈ S} P(t | s')

    Maximisation: P(t | s) = c(t, s) / Σ_t' c(t', s). Then each word's likeliest translation."""
    s_number: dict[str, int] = defaultdict(lambda: len(s_number))
    t_number: dict[str, int] = defaultdict(lambda: len(t_number))
    links, n = [], 0  # (s, t, which target word of all): each target word with its whole source
    for source, target in train:
        of_source = [s_number[word] for word in dict.fromkeys(words(source.lower()))]
        for word in words(target):
            links += [(s, t_number[word], n) for s in of_source]
            n += 1
    s, t, instance = np.array(links).T
    pair, which = np.unique(s * len(t_number) + t, return_inverse=True)
    s, t = np.divmod(pair, len(t_number))
    p = np.ones(len(pair))  # P(t | s) of each pair that occurs together, up to a factor
    for _ in range(rounds):
        share = p[which] / np.bincount(instance, p[which])[instance]
        count = np.bincount(which, share)  # c(t, s)
        p = count / np.bincount(s, count)[s]
    order, names = np.argsort(p, kind="stable"), list(t_number)  # the likeliest last: it stays
    best = {i: names[j] for i, j in zip(s[order].tolist(), t[order].tolist(), strict=True)}
    sources = [words(pair.source) for pair in test]
    return [" ".join(best.get(s_number.get(w.lower()), w) for w in source) for source in sources]


@torch.inference_mode()
def beam_search(
    model: Transformer, sources: np.ndarray, special: SpecialTokens, width: int = 4,
    penalty: float = 1.0, most: int | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Translate sources of one length (B, S) with a model that learnt `objectives.prefix`: of the
    `width` best beginnings all continuations are scored, and the `width` best of these go on. A
    translation t of n tokens, its <doc> among them, is ranked by (Wu et al. 2016, arXiv 1609.08144,
    eq. 14)

        Σ_i log P(t_i | s, t_1 … t_{i-1}; θ) / ((5 + n) / 6)^penalty

    Width 1 is greedy. The source is computed once, and kept in the cache. Returns the tokens of
    each translation, at most `most` and what the window holds."""
    model.eval()
    device, V, (B, S) = model.embedding.weight.device, model.config.vocab_size, sources.shape
    may_follow = torch.full((V,), -torch.inf, device=device)
    may_follow[special.ordinary] = may_follow[special.eos] = 0
    only_end = torch.full_like(may_follow, -torch.inf)
    only_end[special.eos] = 0  # a text that has ended stays what it is
    framed = np.pad(sources, ((0, 0), (1, 1)), constant_values=((0, 0), (special.bos, special.eos)))
    source = torch.from_numpy(framed.astype(np.int64)).to(device)  # (B, S + 2)
    cache = model.new_cache()
    hidden = model(source, causal=False, cache=cache)[:, -1]  # (B, D)
    n = nats = torch.zeros(B, 1, device=device)  # tokens and Σ log P of each beginning: first one
    ended = torch.zeros(B, 1, dtype=torch.bool, device=device)
    texts = torch.zeros(B, 1, 0, dtype=torch.int64, device=device)
    for _ in range(min(most or V, model.config.max_length - S - 2)):
        K = nats.shape[1]  # 1, then the width
        log_p = (model.logits(hidden).float() + may_follow).log_softmax(-1).view(B, K, V)
        log_p[ended] = only_end
        n = n + ~ended
        sums = nats[..., None] + log_p  # (B, K, V)
        ranked = sums / ((5 + n) / 6)[..., None] ** penalty
        best = ranked.flatten(1).topk(min(width, K * V)).indices  # (B, width)
        beam, token = best // V, best % V
        nats, n, ended = sums.flatten(1).gather(1, best), n.gather(1, beam), token == special.eos
        kept = texts.gather(1, beam[..., None].expand(-1, -1, texts.shape[2]))
        texts = torch.cat((kept, token[..., None]), 2)
        if ended[:, 0].all():  # the first is the best
            break
        rows = (beam + K * torch.arange(B, device=device)[:, None]).flatten()
        for layer in cache:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        hidden = model(token.view(-1, 1), causal=True, cache=cache)[:, -1]  # (B · width, D)
    return [text[text != special.eos].cpu().numpy() for text in texts[:, 0]]
