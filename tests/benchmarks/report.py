"""Writes RESULTS.md, and the blocks of README that quote figures, from what was measured.

    python -m tests.benchmarks.report

A test holds both pages to the results.
"""

import json
import re
import statistics
from pathlib import Path

from minilm.tasks.translate import FORMULAS
from tests.benchmarks.jobs import FINETUNE, PRETRAIN, USES, WEIGHTS

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).with_name("RESULTS.md")
CURVE = ROOT / "minilm" / "view" / "default_run.json"  # drawn on the page of a run like it

# The book, in the order in which it is read: what each page is.
READING_ORDER = {
    "objectives": "what a position may see and must predict: causal, masked, hybrid, prefix",
    "model": "attention, rotary positions, the block, the Transformer, the key/value cache",
    "heads": "a label for a text, a label for each word, a span",
    "training": "one step and the loop",
    "optim": "AdamW's groups, Muon, the course of the learning rate",
    "data": "windows, padded batches, the random draws",
    "tokenizer": "byte-level BPE: text to tokens and back, and how a vocabulary is learnt",
    "generate": "sampling, filling masks",
    "metrics": "accuracy, F1, intervals, calibration, bits per byte",
    "config": "the shape of a model, the named sizes",
    "reference": "the same model in NumPy, every gradient derived by hand",
}
SECONDS_A_LINE = 3
BESIDE = "these weights", "the same network from random weights", "a bag of tokens"


def load() -> dict[str, dict]:
    """Every result by its name."""
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in RESULTS.glob("*.json")}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_and_sd(values: list[float]) -> str:
    """Per cent, with the standard deviation over seeds where there are several."""
    mean = f"{100 * statistics.mean(values):.1f} %"
    if len(values) < 2:
        return mean
    return f"{mean} (sd {100 * statistics.stdev(values):.1f}, {len(values)} seeds)"


def reading_order() -> str:
    """README's table of the book."""
    rows = []
    for i, (name, what) in enumerate(READING_ORDER.items(), 1):
        lines = len((ROOT / "minilm" / f"{name}.py").read_text(encoding="utf-8").splitlines())
        lines = 10 * round(lines / 10)  # a changed line is no new page
        minutes = max(2, round(lines * SECONDS_A_LINE / 60))
        rows.append([str(i), f"[{name}.py](minilm/{name}.py)", what, str(lines), str(minutes)])
    return table(["", "page", "what it is", "lines", "minutes"], rows)


def main_job(results: dict) -> str:
    """README's first block: what the two commands print at their end."""
    pretrain, finetune = results.get("pretrain-hybrid-0"), results.get("finetune-hybrid-0")
    if not pretrain or not finetune:
        return ""
    ends = [
        line
        for line in pretrain["output"][-14:]
        if re.match("  [a-z]", line) and not re.search("FLOP|seconds|tokens seen", line)
    ]
    output = finetune["output"]
    is_head = lambda line: line.split()[:3] == ["accuracy", "macro", "F1"]
    rows = output[next(i for i, line in enumerate(output) if is_head(line)) :]
    rows = [line for line in rows if not line.startswith(("next", "page"))]
    minutes = [f"{job['minutes']:.1f}" for job in (pretrain, finetune)]
    return (
        f"```\n{chr(10).join([*ends, '', *rows])}\n```\n\n"
        f"({minutes[0]} and {minutes[1]} minutes on two cores without bfloat16, where "
        f"{pretrain['steps']:,} steps fit into five minutes of training. Each row learns "
        f"from the same 300 labels, validation among them, and is tested on "
        f"{finetune['texts']:,} other sentences.)" + by_labels(results)
    )


def by_labels(results: dict) -> str:
    """What 3,000 steps of pretraining give, by the number of labels."""
    if not (long := results.get("pretrain-long")):
        return ""
    losses, columns = long["losses"], {}
    for n in (300, 1000, 3000):
        if runs := [run for name, run in results.items() if name.startswith(f"labels-{n}-")]:
            columns[f"{n:,} labels"] = runs
    rows = [[name, *(mean_and_sd([run["rows"][name]["accuracy"] for run in runs])
             for runs in columns.values())] for name in BESIDE]  # fmt: skip
    return (
        "\n\n`--steps 3000`, the default where the processor has bfloat16 "
        f"({long['tokens'] / 1e6:.1f} M tokens, {long['minutes']:.0f} minutes here), gives "
        f"{losses['causal_loss']:.3f}, {losses['bits_per_byte']:.3f} and "
        f"{losses['masked_loss']:.3f} in the first three lines. From there:\n\n"
        + table(["", *columns], rows)
    )


OTHERS = dict(random="from random weights", reviews="after `--data imdb --steps 3000`",
              minilm="all-MiniLM-L6-v2's weights")  # fmt: skip


def uses(results: dict) -> str:
    """README's table of what one pretraining is put to: of each use a data set or two."""
    shown = "sms-spam", "wnut17", "python-docs-tags", "qamr", "latex-sympy", "multi30k"
    rows = []
    for data in shown:
        run, before = results.get(f"use-{data}-ours"), ""
        if not run:
            run = results.get(f"use-{data}-both")
            before = " (before: `--data de.txt en.txt --steps 1000`)"
        if run:
            (_, ours), *beside = run["rows"].items()
            for weights, name in OTHERS.items():
                rows_of = results.get(f"use-{data}-{weights}", {}).get("rows", {})
                beside += [(name, row) for row in [*rows_of.values()][:1]]
            tell = telling(data, ours)
            said = ", ".join(f"{name} {tell(row)}" for name, row in beside)
            rows.append([data, f"`python {FINETUNE} {USES[data]}`{before}", tell(ours), said])
    return table(["data", f"command, after `python {PRETRAIN} --steps 3000`", "test", "beside"],
                 rows)  # fmt: skip


def ladder(results: dict) -> str:
    """README's answer to "is my run good?": the default pretraining at six points."""
    rows = results.get("ladder", {}).get("rows", ())
    if not rows:
        return ""
    cells = [[str(row["step"]), *(f"{row[name]:.2f}" for name in ("causal_loss", "bits_per_byte",
              "masked_loss")), f"{100 * row['accuracy']:.1f} %"] for row in rows]  # fmt: skip
    header = ["step", "next-token loss", "bits a byte", "masked-token loss", "from 300 labels"]
    said = [f"step {row['step']}\n  {row['continued']}\n  {row['filled in']}"
            for row in (rows[0], rows[len(rows) // 2], rows[-1])]  # fmt: skip
    lines = "\n".join(said).replace("`", "'")
    command = f"`python {results['ladder']['command']}`, at six points"
    return f"Is my run good? {command}:\n\n{table(header, cells)}\n\n```\n{lines}\n```"


# Of others on the same data, where it is known.
PUBLISHED = {
    "wnut17": "BERT-base 33 to 45, BERTweet 55",
    "stackoverflow-ner": "SoftNER 79.1 (Tabassum et al. 2020, arXiv 2005.01634)",
    "multi30k": "fairseq's transformer_tiny 41.0, students' projects 31 to 36",
    "imdb": "NB-SVM 91.2 %, an LSTM pretrained on its text 92.8 % (Dai and Le 2015), DistilBERT "
            "92.8 %, BERT-base 93.5 to 94.6 %",
}  # fmt: skip
MEASURES = {
    "accuracy": "accuracy {accuracy:.1%}, macro F1 {macro_f1:.1%}", "f1": "F1 {f1:.1%}",
    "bleu": "BLEU {bleu:.1f}", "exact": "exact {exact:.1%}",
}  # fmt: skip


def telling(data: str, row: dict):
    """A function that tells a row of a data set by the measure that counts there."""
    key = next(key for key in MEASURES if key in row and (key, data) != ("bleu", FORMULAS))
    return lambda row: MEASURES[key].format(**row)


def four_uses(results: dict) -> str:
    """Each data set, learnt from our weights, from random ones, from published ones."""
    rows = []
    for data, flags in USES.items():
        runs = {name: results.get(f"use-{data}-{name}") for name in WEIGHTS}
        if not any(runs.values()):
            continue
        measured = [run for run in runs.values() if run]
        tell = telling(data, next(iter(measured[0]["rows"].values())))
        cells = [f"{tell(next(iter(run['rows'].values())))}, {run['minutes']:.0f} min"
                 if run else "not run" for run in runs.values()]  # fmt: skip
        beside = [f"{name}: {tell(row)}" for name, row in measured[0]["rows"].items()]
        command = f"`python {FINETUNE} {flags}`"
        rows.append([data, *cells, "; ".join(beside[1:]), PUBLISHED.get(data, ""), command])
    header = ["data", "our weights", "the same of reviews", "of its own texts", "random weights",
              "all-MiniLM-L6-v2", "beside", "published", "command"]  # fmt: skip
    return table(header, rows) if rows else ""


def three_rows(results: dict) -> str:
    """The default labelled task: over draws of the labels, over seeds of all, with more labels."""
    draws = ["finetune-hybrid-0", *(f"draw-{seed}" for seed in range(1, 5))]
    rows = []
    for names, what in ((draws, "300, five draws, one pretraining"),
                        ([f"finetune-hybrid-{seed}" for seed in range(5)],
                         "300, each with a pretraining of its own")):  # fmt: skip
        runs = [results[name] for name in names if name in results]
        for row in runs[0]["rows"] if len(runs) > 1 else ():
            accuracy = mean_and_sd([run["rows"][row]["accuracy"] for run in runs])
            rows.append([row, what, accuracy])
    return table(["classifier", "labels", "test accuracy"], rows) if rows else ""


def pretraining(results: dict) -> str:
    """One run of each objective on the default text."""
    rows = []
    for objective in ("causal", "masked", "hybrid"):
        run, tuned = (results.get(f"{part}-{objective}-0") for part in ("pretrain", "finetune"))
        if run:
            values = run["losses"]
            shown = [values.get(name) for name in ("causal_loss", "bits_per_byte", "masked_loss")]
            cells = ["" if value is None else f"{value:.2f}" for value in shown]
            accuracy = tuned and next(iter(tuned["rows"].values()))["accuracy"]
            rows.append([objective, *cells, f"{run['unigram_entropy']:.2f}",
                         f"{accuracy:.1%}" if tuned else ""])  # fmt: skip
    header = ["objective", "next-token loss", "bits a byte", "masked-token loss",
              "unigram entropy", "accuracy from 300 labels"]  # fmt: skip
    return table(header, rows) if rows else ""


def on_a_card(results: dict) -> str:
    """What gpu.sh measured."""
    gpu = results.get("gpu")
    if not gpu:
        return ""
    parts = gpu["parts"]
    rows = []
    for name, value in parts.items():
        if isinstance(value, dict) and "tokens_per_second" in value:
            rate = value.get("flops_per_second")
            share = f"{rate / parts['matrix rate']:.0%}" if rate else ""
            rows.append([name, str(value["batch"]), f"{value['tokens_per_second']:,.0f}", share,
                         f"{value['first_step']:.0f} s"])  # fmt: skip
    header = ["training step", "windows", "tokens/s", "of the matrix rate", "first step"]
    return f"{gpu['device']}, torch {gpu['torch']}.\n\n" + table(header, rows)


def imdb_on_a_card(results: dict) -> str:
    """IMDB from IMDB's own text: what gpu.sh measured."""
    imdb = results.get("gpu", {}).get("parts", {}).get("imdb", {})
    if "chosen" not in imdb:
        return ""
    pretrain, tuned = imdb["pretrain"], imdb["finetune"]
    rows = [[rate, f"{imdb['validation error'][rate]:.2%}", mark, f"{first['accuracy']:.2%}"]
            for rate, mark, first in (
                (rate, "chosen" if rate == imdb["chosen"] else "",
                 next(iter(value["rows"].values()))) for rate, value in tuned.items())]  # fmt: skip
    chosen = tuned[imdb["chosen"]]
    bag = chosen["rows"]["a bag of tokens"]["accuracy"]
    minutes = (pretrain["wall"] + chosen["wall"]) / 60
    losses = ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in pretrain["losses"].items())
    return (
        f"`{pretrain['command']}`\n\n{pretrain['tokens']:,} tokens in {pretrain['wall']:.0f} s, "
        f"{pretrain['parameters']:,} parameters: {losses}.\n\n`{chosen['command']}`\n\n"
        + table(["learning rate", "validation error", "", "test accuracy"], rows)
        + f"\n\nA bag of tokens: {bag:.1%}. The tests are the 12,500 rows of a random half of the "
        f"official test set; one seed. {minutes:.1f} minutes of one card in all, where the three "
        f"fine-tunings ran at once."
    )


SECTIONS = {
    "The default task: what pretraining is worth": three_rows,
    "Objectives on the default text, one seed each": pretraining,
    "The four uses, on data that others know": four_uses,
    "On a card": on_a_card,
    "IMDB on a card": imdb_on_a_card,
}


def page(results: dict) -> str:
    """RESULTS.md."""
    text = ["# Measured", "Written by `python -m tests.benchmarks.report` from `results/`, which "
            "`python -m tests.benchmarks.jobs` and `tests/benchmarks/gpu.sh` fill."]  # fmt: skip
    notes = RESULTS / "notes.md"  # machines, and what no script measures again
    for title, section in SECTIONS.items():
        if body := section(results):
            text.append(f"## {title}\n\n{body}")
    if notes.exists():
        text.append(notes.read_text(encoding="utf-8").strip())
    return "\n\n".join(text) + "\n"


def fill_in(readme: str, results: dict) -> str:
    """README with its blocks made anew."""
    blocks = {"main job": main_job(results), "ladder": ladder(results), "uses": uses(results),
              "reading order": reading_order()}  # fmt: skip
    for name, body in blocks.items():
        block = f"<!-- block: {name} -->\n"
        readme = re.sub(
            f"{re.escape(block)}.*?<!-- end -->",
            lambda _, block=block, body=body: f"{block}{body}\n<!-- end -->",
            readme,
            flags=re.DOTALL,
        )
    return readme


BLOCK = re.compile(r"<!-- block: .*?<!-- end -->|^```.*?^```$", re.DOTALL | re.MULTILINE)


def with_blocks_of(readme: str, translated: str) -> str:
    """A translation of README, with README's commands and figures in their order."""
    blocks, places = BLOCK.findall(readme), BLOCK.findall(translated)
    first = [[block.splitlines()[0] for block in found] for found in (blocks, places)]
    if first[0] != first[1]:
        raise ValueError(f"README.zh.md needs a place for each of README's blocks, {first[0]}; it "
                         f"has {first[1]}")  # fmt: skip
    following = iter(blocks)
    return BLOCK.sub(lambda _: next(following), translated)


if __name__ == "__main__":
    found, path, translated = load(), ROOT / "README.md", ROOT / "README.zh.md"
    path.write_text(fill_in(path.read_text(encoding="utf-8"), found), encoding="utf-8")
    both = (each.read_text(encoding="utf-8") for each in (path, translated))
    translated.write_text(with_blocks_of(*both), encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
    CURVE.write_text(json.dumps(found["ladder"]["curve"]) + "\n", encoding="utf-8")
