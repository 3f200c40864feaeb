"""Writes OBJECTIVES.md, what separates causal from masked language modelling, from what
`python -m minilm compare` has found; nothing in it is typed by hand.

    python -m minilm compare --factors --sweep --run runs/factors
    python -m minilm compare --grid --run runs/grid
    python -m tests.benchmarks.objectives runs/factors runs/grid   # keep them, and write the page
    python -m tests.benchmarks.objectives                          # write it from what is kept
"""

import json
import statistics
import sys
from pathlib import Path

RESULTS, PAGE = Path(__file__).with_name("results"), Path(__file__).with_name("OBJECTIVES.md")
OUTCOMES = {"swapped": "word order", "labels": "few labels"}


def table(*rows: list[str]) -> str:
    """A Markdown table, its first row the heading."""
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others])


def share(e: dict, points: bool = False) -> str:
    """A mean in per cent (a difference in points) and its interval."""
    unit = "" if points else " %"
    ends = e["interval"] and " to ".join(f"{100 * end:.1f}" for end in e["interval"])
    return f"{100 * e['mean']:{'+' if points else ''}.1f}{unit}" + (f" ({ends})" if ends else "")


def section(found: dict) -> str:
    """A comparison: what was asked, predicted and found, and what it cost."""
    options, plan, levels = found["options"], found["plan"], found["levels"]
    spent, rates = found["spent"], found["rates"]
    mean = lambda name, key: statistics.mean(one[key] for one in spent[name])
    seconds = {name: [one["seconds"] for one in ones] for name, ones in spent.items()}
    levels = table(
        ["arm", "flags", *OUTCOMES.values()],
        *([name, f"`{flags}`" if flags else "random weights",
           *(share(levels[o][name]) for o in OUTCOMES)] for name, flags in plan["arms"].items()),
        ["bag of tokens", "", *(share(levels[o]["bag of tokens"]) for o in OUTCOMES)],
    )  # fmt: skip
    verdicts = table(
        ["difference", "outcome", "points (95 %)", "verdict"],
        *([v["name"], OUTCOMES[v["outcome"]], share(v["estimate"], True), v["words"]]
          for v in found["verdicts"]),
    )  # fmt: skip
    predicted = table(
        ["predicted to be above 0", "outcome", "because", ""],
        *([p["name"], OUTCOMES[p["outcome"]], p["why"], p["came_true"]]
          for p in found["predictions"]),
    )  # fmt: skip
    cost = table(
        ["arm", "tokens", "passes", "targets", "FLOPs", "seconds", "learning rate", "tried: loss"],
        *([name, f"{mean(name, 'tokens'):,.0f}", f"{mean(name, 'passes'):.2f}",
           f"{mean(name, 'targets'):,.0f}", f"{mean(name, 'flops'):.2e}",
           f"{min(seconds[name]):.0f} to {max(seconds[name]):.0f}", f"{rate:g}",
           ", ".join(f"{one:g}: {loss:.3f}" for one, loss in tried)]
          for name, (rate, tried) in rates.items()),
    )  # fmt: skip
    tokens = max(one["tokens"] for ones in spent.values() for one in ones)
    real = sum(v["real"] or False for v in found["verdicts"])
    return f"""`python -m minilm {plan["command"]}`, {plan["machine"]}: {options["seeds"]} \
pretrainings an arm, {options["finetunings"]} draws of {options["labels"]} labels each, \
{plan["rows"]} test texts of {options["data"]}, size {options["size"]}, \
{tokens:,} tokens. Of {len(found["verdicts"])} declared differences {real} are \
real (Holm's correction over all of them).

{levels}

{verdicts}

{predicted}

{cost}
"""


def main(runs: list[str]) -> None:
    """Keep the findings of these comparisons, and write the page from all that are kept."""
    for run in map(Path, runs):
        text = (run / "findings.json").read_text(encoding="utf-8")
        (RESULTS / f"objectives-{run.name}.json").write_text(text, encoding="utf-8")
    parts = ["# What separates causal from masked language modelling?\n"]
    parts.append("Written by `python -m tests.benchmarks.objectives`. Word order: of two "
                 "neighbouring tokens, is the right order the likelier one? Few labels: accuracy "
                 "after fine-tuning. From each arm to the next one thing changes.\n")  # fmt: skip
    for path in sorted(RESULTS.glob("objectives-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"## {path.stem.removeprefix('objectives-')}\n\n{section(found)}")
    PAGE.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
