"""README's tables, made from measured results and from the source itself, never typed by hand.

    python -m minilm.experiments.report      # writes them into README.md, between their markers

A test holds README to what this makes of tests/benchmarks/results.json.
"""

import dataclasses
import functools
import json
import re
import statistics
from pathlib import Path

from minilm.experiments.tables import markdown
from minilm.metrics import wilson_interval
from minilm.shape import FAMILY, ModelConfig

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results.json"

# The reading order, and what each file is about.
READING_ORDER = {
    "minilm/objectives.py": "what a position may see and must say: causal, masked, hybrid",
    "minilm/model.py": "the Transformer",
    "minilm/shape.py": "what makes it GPT-2, BERT or ModernBERT",
    "minilm/choices.py": "norms, activations and the layer before the vocabulary matrix",
    "minilm/heads.py": "a label for a whole text",
    "train_pretrain.py": "pretraining, from the flags to the last line it prints",
    "train_finetune.py": "fine-tuning: load, train, validate, adjust, test",
    "minilm/training.py": "the one loop under both",
    "minilm/optim.py": "how weights change: AdamW, Muon, the learning rate's course",
    "minilm/tokenizer.py": "byte-level BPE: how text becomes numbers and back",
    "minilm/data.py": "token files and windows of them",
    "minilm/labelled.py": "labelled texts, batched by length",
    "minilm/reference.py": "the same model in NumPy, every gradient derived by hand",
    "minilm/generate.py": "continuing a text, filling in hidden words",
    "minilm/evaluation.py": "what a model is worth on new text",
    "minilm/checkpoint.py": "how a checkpoint survives a crash",
}


def reading_order(results: dict) -> str:
    """File, lines to the nearest ten, minutes at twenty lines a minute."""
    rows = [["", "file", "what it is", "lines", "minutes"]]
    for i, (path, about) in enumerate(READING_ORDER.items(), 1):
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        minutes = max(1, round(lines / 20))
        rows.append([str(i), f"[{path}]({path})", about, str(round(lines, -1)), str(minutes)])
    return markdown(rows)


def main_job(results: dict) -> str:
    """What a newcomer's first two commands take, and what they should see."""
    before, after = results["pretrain hybrid 0"], results["finetune hybrid 0"]
    losses, majority = before["losses"], after["baselines"]["majority class"]
    seen = (
        f"next-token loss {losses['causal_loss']:.2f} and masked-token loss "
        f"{losses['masked_loss']:.2f} nats, where word frequencies alone reach "
        f"{before['unigram_entropy']:.2f}; {losses['masked_accuracy']:.0%} of hidden words right"
    )
    learnt = (
        f"test accuracy {after['accuracy']:.1%}; always the largest class: "
        f"{majority['accuracy']:.1%}"
    )
    return markdown(
        [
            ["command", "minutes", "what comes out"],
            ["`train_pretrain.py`", f"{before['minutes']:.1f}", seen],
            ["`train_finetune.py`", f"{after['minutes']:.1f}", learnt],
        ]
    )


def pretraining(results: dict) -> str:
    """One row an objective: what the default run reaches, seed 0."""
    rows = [["objective", "next-token loss", "bits a byte", "masked-token loss",
             "masked tokens right", "unigram entropy", "tokens/s", "minutes"]]  # fmt: skip
    for objective in ("causal", "masked", "hybrid"):
        r = results[f"pretrain {objective} 0"]
        losses = r["losses"]
        cells = [
            objective,
            _number(losses.get("causal_loss"), "{:.2f}"),
            _number(losses.get("bits_per_byte"), "{:.2f}"),
            _number(losses.get("masked_loss"), "{:.2f}"),
            _number(losses.get("masked_accuracy"), "{:.1%}"),
            f"{r['unigram_entropy']:.2f}",
            f"{r['tokens_per_second']:,.0f}",
            f"{r['minutes']:.1f}",
        ]
        rows.append(cells)
    return markdown(rows)


def finetuning(results: dict) -> str:
    """Pretrained against scratch against the baselines, on the default task."""
    rows = [["classifier", "test accuracy", "macro F1"]]
    for label, name in (
        ("pretrained (hybrid), fine-tuned", "finetune hybrid"),
        ("pretrained (causal), fine-tuned", "finetune causal"),
        ("pretrained (masked), fine-tuned", "finetune masked"),
        ("the same net from scratch", "finetune scratch"),
        ("pretrained (hybrid), fine-tuned on 1,000 labels", "few hybrid"),
        ("the same net from scratch on 1,000 labels", "few scratch"),
    ):
        runs = [r for key, r in results.items() if key.rsplit(" ", 1)[0] == name]
        accuracy, f1 = (_spread([r[key] for r in runs]) for key in ("accuracy", "macro_f1"))
        rows.append([label, accuracy, f1])
    others = _baselines(results["finetune hybrid 1"], "accuracy", "macro_f1")
    return markdown([*rows, *others])


def imdb(results: dict) -> str:
    """Movie reviews: from IMDB's own text alone, and what others' weights bring along."""
    rows = [["classifier", "test accuracy", "95 % interval"]]
    before = {run: results[f"pretrain {run} 0"] for run in ("imdb", "imdb-small")}
    size = {run: f"{b['parameters'] / 1e6:.1f} M parameters" for run, b in before.items()}
    read = {run: f"pretrained on {b['tokens'] / 1e6:.1f} M tokens" for run, b in before.items()}
    of_run = {
        "imdb": f"{size['imdb']}, {read['imdb']}, fine-tuned",
        "imdb-small": f"{size['imdb-small']}, {read['imdb-small']}, fine-tuned",
        "imdb-scratch": f"{size['imdb-small']}, from random weights",
        "imdb-minilm": "22.6 M parameters, MiniLM's weights (BERT's family), fine-tuned",
    }
    for run, what in of_run.items():
        after = results[f"finetune {run} 0"]
        rows.append(
            [what, f"{after['accuracy']:.1%}", _interval(after["accuracy"], after["texts"])]
        )
    baselines = _baselines(after, "accuracy")
    return markdown([*rows, *([*row, ""] for row in baselines)])


def shakespeare(results: dict) -> str:
    """Each choice left out once: what a fixed time buys."""
    rows = [["", "seconds a step", "steps", "nats a character", "seeds"]]
    for row, r in results["shakespeare"].items():
        loss = f"{statistics.mean(r['reported']):.3f} (sd {statistics.stdev(r['reported']):.3f})"
        rows.append([row, f"{r['seconds']:.3f}", f"{r['steps']:,}", loss, str(len(r["reported"]))])
    return markdown(rows)


def sizes(results: dict) -> str:
    """The table of sizes with what they cost."""
    rows = [["size", "shape", "parameters", "window", "tokens/s (hybrid)", "memory",
             "default run"]]  # fmt: skip
    for size, r in results["sizes"].items():
        shape = f"{r['n_layers']} x {r['d_model']}, {r['vocab_size']:,} words"
        rows.append([size, shape, f"{r['parameters'] / 1e6:.1f} M", str(r["max_length"]),
                     f"{r['tokens_per_second']:,.0f}", f"{r['memory'] / 1e9:.1f} GB",
                     f"{r['steps']:,} steps, {_duration(r['seconds'])}"])  # fmt: skip
    return markdown(rows)


def speed(results: dict) -> str:
    """Ours beside Hugging Face's, each pair measured by turns in one run."""
    rows = [["what", "ours", "theirs", "ratio"]]

    def add(what: str, ours: float, theirs: float, unit: str, form: str = "{:,.0f}") -> None:
        """Append a row."""
        cells = (f"{form.format(value)} {unit}" for value in (ours, theirs))
        rows.append([what, *cells, f"{ours / theirs:.1f}"])

    for shape, found in results["step speed"].items():
        rates, share = found["tokens_per_second"], found["share"]
        for kind, reading in (("GPT-2", "causal"), ("BERT", "masked")):
            mine = f"ours {reading}"
            for precision in ("float32", "autocast"):
                if peer := rates.get(f"{kind} {precision}"):
                    reached = f"{share[mine]:.0%} of the matrix rate"
                    what = f"training step, {shape}, {reading} ({reached}), {kind} {precision}"
                    add(what, rates[mine], peer, "tokens/s")
    rates = results.get("fine-tuning speed", {})
    for peer in list(rates)[1:]:
        what = f"fine-tuning, 4 x 128, lengths as IMDB's, {peer}"
        add(what, rates["ours"], rates[peer], "texts/s", "{:.1f}")
    for batch, rates in results["generate speed"].items():
        for kind in ("", " bfloat16"):
            if peer := rates.get(f"GPT-2{kind}"):
                what = f"sampling, 6 x 384, batch {batch}, GPT-2{kind or ' float32'}"
                add(what, rates[f"ours{kind}"], peer, "tokens/s")
    for job, rates in results.get("speed at their weights", {}).items():
        what = f"the same weights, 6 x 384, 8 x 128 tokens, float32, {job}"
        add(what, rates["ours"], rates["theirs"], "tokens/s")
    ours, theirs = (results["tokenizer speed"][name] for name in ("ours", "theirs"))
    corpus = f"{ours['megabytes']:.0f} MB, 8,192 words, one thread"
    key = "encode_megabytes_per_second"
    add(f"encoding, {corpus}", ours[key], theirs[key], "MB/s", "{:.1f}")
    pace = [t["megabytes"] / t["train_seconds"] for t in (ours, theirs)]
    add(f"learning a vocabulary, {corpus}", *pace, "MB/s", "{:.1f}")
    return markdown(rows)


def comparison(results: dict, name: str = "compare") -> str:
    """What `python -m minilm compare` found: the mean over draws by number of labels, the last one
    on the whole test set, there with intervals."""
    found = results[name]
    curve, sizes = found["label_curve"], found["label_curve"]["sizes"]
    heads = [f"{n:,} labels" for n in sizes]
    rows = [["arm", *heads, "interval from test rows", "from seeds"]]
    for name in [*found["arms"], *found["baselines"]]:
        final = [found["finals"][key][name] for key in ("row_interval", "seed_interval")]
        bounds = ["" if pair is None else f"{pair[0]:.1%} to {pair[1]:.1%}" for pair in final]
        rows.append([name, *(f"{mean:.1%}" for mean in curve["mean"][name]), *bounds])
    return markdown(rows)


def family(results: dict) -> str:
    """The choices in which well-known Transformers differ, from `shape.py`; ours first."""
    sizes = dict(vocab_size=8, max_length=8, d_model=8, n_layers=1, n_heads=1, d_ff=8)
    rows = {name: ModelConfig(**sizes, **choices) for name, choices in FAMILY.items()}
    names = ["ours", "GPT-2", "BERT", "ModernBERT"]
    table = [["choice", *names]]
    for field in dataclasses.fields(ModelConfig)[7:]:
        cells = [_choice(getattr(shape, field.name)) for shape in rows.values()]
        if len(set(cells)) > 1:
            table.append([f"`{field.name}`", *cells])
    return markdown(table)


def _choice(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


TABLES = {
    "comparison": comparison,
    "comparison imdb": functools.partial(comparison, name="compare imdb"),
    "family": family,
    "speed": speed,
    "main job": main_job,
    "reading order": reading_order,
    "pretraining": pretraining,
    "fine-tuning": finetuning,
    "imdb": imdb,
    "shakespeare": shakespeare,
    "sizes": sizes,
}


def fill_in(page: str, results: dict) -> str:
    """The page with every table between `<!-- table: NAME -->` and `<!-- end -->` made anew."""

    def table(match: re.Match) -> str:
        """The table that a marker names."""
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]](results)}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w -]+?) -->.*?<!-- end -->", table, page, flags=re.DOTALL)


def _baselines(result: dict, *keys: str) -> list[list[str]]:
    """Cells: what each baseline is, then its values under these keys."""
    labels = {
        "majority class": "always the largest class",
        "bag of words": "TF-IDF, logistic regression",
    }
    return [
        [labels[name], *(f"{values[key]:.1%}" for key in keys)]
        for name, values in result["baselines"].items()
    ]


def _interval(share: float, n: int) -> str:
    low, high = wilson_interval(round(share * n), n)
    return f"{low:.1%} to {high:.1%}"


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1%}"
    if len(values) < 2:
        return mean
    return f"{mean} (sd {100 * statistics.stdev(values):.1f}, {len(values)} seeds)"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main() -> None:
    """Write the tables into README.md."""
    readme = ROOT / "README.md"
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    readme.write_text(
        fill_in(readme.read_text(encoding="utf-8"), results), encoding="utf-8", newline="\n"
    )


if __name__ == "__main__":
    main()
