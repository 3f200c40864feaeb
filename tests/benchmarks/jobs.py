"""Run the jobs behind README's figures and RESULTS.md, one after the other, and note what came out.

    python -m tests.benchmarks.jobs                # all jobs that have no result yet
    python -m tests.benchmarks.jobs NAME ...       # these jobs, again
    python -m tests.benchmarks.jobs use            # what the four uses lack, the cheapest first
    python -m tests.benchmarks.report              # then write RESULTS.md and README's figures

Each job is a command that anyone can type; results/NAME.json keeps it beside its figures and its
last lines of output. The IMDB jobs need `python -m minilm fetch imdb` first; the uses what
data/README.md says, and sentence-transformers/all-MiniLM-L6-v2 as data/all-MiniLM-L6-v2.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results")

PRETRAIN, FINETUNE = "train_pretrain.py", "train_finetune.py"
JOBS = {
    **{f"pretrain-{o}-{s}": f"{PRETRAIN} --objective {o} --seed {s}"
       for o, seeds in (("hybrid", 5), ("causal", 1), ("masked", 1)) for s in range(seeds)},
    **{f"finetune-{o}-{s}": f"{FINETUNE} --pretrained runs/pretrain-{o}-{s} --seed {s}"
       for o, seeds in (("hybrid", 5), ("causal", 1), ("masked", 1)) for s in range(seeds)},
    **{f"draw-{s}": f"{FINETUNE} --pretrained runs/pretrain-hybrid-0 --seed {s}"
       for s in range(1, 5)},
    "pretrain-long": f"{PRETRAIN} --steps 3000",  # the default where there is bfloat16
    **{f"labels-{n}-{s}": f"{FINETUNE} --pretrained runs/pretrain-long --labels {n} --seed {s} "
       "--baselines all" for n, seeds in ((300, 3), (1000, 3), (3000, 1)) for s in range(seeds)},
    "pretrain-reviews": f"{PRETRAIN} --data imdb --steps 3000",
    "pretrain-both": f"{PRETRAIN} --data de.txt en.txt --steps 1000",  # Multi30k's, of train
    "pretrain-imdb": f"{PRETRAIN} --data imdb --size small --minutes 40",
    "finetune-imdb": f"{FINETUNE} --data imdb --pretrained runs/pretrain-imdb --epochs 2",
}  # fmt: skip

# A data set, and how it is learnt; from each of these weights. Of WNUT-17 a tenth of train chooses
# and dev is the test.
USES = {
    "sms-spam": "--train data/sms-spam/train.jsonl --test data/sms-spam/test.jsonl",
    "wnut17": "--task tag --train data/wnut17/train.conll --test data/wnut17/dev.conll",
    "qamr": "--task answer --data qamr --epochs 3",
    "python-docs-tags": "--task tag",
    "latex-sympy": "--task translate --epochs 4",
    "python-docs-answers": "--task answer",
    "stackoverflow-ner": "--task tag --data stackoverflow-ner --epochs 4",
    "multi30k": "--task translate --data multi30k --epochs 6",
    "python-docs-zh": "--task translate --data python-docs-zh --epochs 4",
    "imdb": "--data imdb --epochs 2 --max-length 512",
}
WEIGHTS = {
    "ours": "--pretrained runs/pretrain-long",
    "reviews": "--pretrained runs/pretrain-reviews",
    "both": "--pretrained runs/pretrain-both",
    "random": "--from-scratch --pretrained runs/pretrain-long",
    "minilm": "--pretrained hf:data/all-MiniLM-L6-v2",
}
JOBS |= {
    f"use-{data}-{weights}": f"{FINETUNE} {flags} {start} --baselines bag"
    for weights, start in WEIGHTS.items() for data, flags in USES.items()
    if (weights != "minilm" or "translate" not in flags)
    and (weights != "both" or data == "multi30k")
}  # fmt: skip


def run_job(name: str) -> dict:
    """Run a job's command in a run folder of its own. Returns what came out."""
    command, run = JOBS[name], Path("runs", name)
    shutil.rmtree(ROOT / run, ignore_errors=True)
    print(f"--- {name}: python {command} --run {run.as_posix()}", flush=True)
    start = time.perf_counter()
    arguments = [sys.executable, *command.split(), "--run", run.as_posix()]
    done = subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True)
    minutes = (time.perf_counter() - start) / 60
    result = json.loads((ROOT / run / "result.json").read_text(encoding="utf-8"))
    result.pop("right", None)  # of every text, which is long
    output = done.stdout.splitlines()
    return {"command": f"python {command}", "minutes": minutes, "output": output[-60:], **result}


def main(names: list[str]) -> None:
    """Run the jobs named, or else those that have no result yet: of the uses, or of all others."""
    RESULTS.mkdir(exist_ok=True)
    if names in ([], ["use"]):
        names = [name for name in JOBS if name.startswith("use-") == bool(names)
                 and not (RESULTS / f"{name}.json").exists()]  # fmt: skip
    for name in names:
        text = json.dumps(run_job(name), indent=1) + "\n"
        (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
