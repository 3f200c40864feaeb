"""Is my run good? The default pretraining at six points: its loss, what it writes at that loss, and
what its weights are worth with 300 labels.

    python -m tests.benchmarks.ladder [--steps N]    # goes on where it was stopped
    python -m tests.benchmarks.report                # then writes README's block

The run lies in runs/ladder, its weights at each point in runs/ladder-STEP.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from minilm.cli.flags import entry_point, parse_flags
from minilm.cli.options import PretrainConfig
from minilm.runs import checkpoint
from train_pretrain import pretrain

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).with_name("results") / "ladder.json"
EVALUATIONS = 20  # of which these are the points
POINTS = (1, 2, 4, 8, 14, 20)


def keep(run: Path, step: int) -> None:
    """Copy a run with its newest checkpoint, that of this step."""
    folder = run.with_name(f"{run.name}-{step}")
    folder.mkdir(exist_ok=True)
    for path in (run / "config.json", run / "tokenizer.json", checkpoint.newest(run).file):
        shutil.copy(path, folder)


def train(run: Path, steps: int, more: list[str]) -> None:
    """Pretrain, or go on, and keep the weights of every point once they are evaluated."""
    every, save = -(-steps // EVALUATIONS), checkpoint.save
    points = {min(steps, n * every) for n in POINTS}

    def save_and_keep(folder: Path, step: int, spent: dict, scores=(), values=None, **states):
        save(folder, step, spent, scores, values, **states)
        if step in points and values:
            keep(folder, step)

    flags = ["--run", str(run), "--steps", str(steps), "--evaluations", str(EVALUATIONS), *more]
    if (run / "config.json").exists():
        flags = ["--run", str(run), "--resume"]
    checkpoint.save = save_and_keep
    pretrain(parse_flags(PretrainConfig, "", flags))
    checkpoint.save = save


def accuracy(folder: Path) -> float:
    """Of the default labelled task, from 300 labels, with these weights."""
    run = folder.with_name(f"{folder.name}-labels")
    if not (run / "result.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        command = [sys.executable, "train_finetune.py", "--baselines", "none", "--run", str(run)]
        subprocess.run([*command, "--pretrained", str(folder)], cwd=ROOT, check=True)
    rows = json.loads((run / "result.json").read_text("utf-8"))["rows"]
    return rows["these weights"]["accuracy"]


def main() -> None:
    """Train, then measure each point; what is there already is not made again."""
    parser = argparse.ArgumentParser(description="Is my run good?")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "ladder")
    parser.add_argument("--result", type=Path, default=RESULT)
    options, more = parser.parse_known_args()  # more: flags of train_pretrain.py
    if not (options.run / "result.json").exists():
        train(options.run, options.steps, more)
    lines = (options.run / "metrics.jsonl").read_text("utf-8").splitlines()
    evaluated = {line["step"]: line for line in map(json.loads, lines) if "score" in line}
    rows, names = [], ("causal_loss", "bits_per_byte", "masked_loss", "masked_accuracy")
    for step, line in evaluated.items():
        if (folder := options.run.with_name(f"{options.run.name}-{step}")).exists():
            said = dict(part.strip().split(": ", 1) for part in line["sample"].strip().split("\n"))
            row = dict(step=step, accuracy=accuracy(folder), **said)
            rows.append(row | {name: line[name] for name in names})
    curve = [[step, line["causal_loss"], line["masked_loss"]] for step, line in evaluated.items()]
    result = dict(command=f"train_pretrain.py --steps {options.steps}", rows=rows, curve=curve)
    options.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    entry_point(main)
