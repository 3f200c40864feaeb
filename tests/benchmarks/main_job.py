"""Run the jobs behind README's tables, one after the other, and note what came out.

    python -m tests.benchmarks.main_job                   # all jobs not yet in results.json
    python -m tests.benchmarks.main_job NAME ...          # these jobs, again
    python -m minilm.experiments.report                   # then write the tables into README

Each job is a command that anyone can type; results.json keeps it beside its figures. The
IMDB jobs need `python -m minilm fetch imdb` first.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from minilm.config import SIZES, PretrainConfig
from minilm.device import choose_machine
from minilm.durable import write_file
from minilm.experiments.estimate import estimate

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.json")

PRETRAIN, FINETUNE = "train_pretrain.py", "train_finetune.py"
JOBS = {
    **{f"pretrain hybrid {s}": f"{PRETRAIN} --seed {s}" for s in range(3)},
    **{f"pretrain {o} 0": f"{PRETRAIN} --objective {o}" for o in ("causal", "masked")},
    **{
        f"finetune {o} {s}": f"{FINETUNE} --pretrained runs/pretrain-{o}-{s} --seed {s}"
        for o, s in (("hybrid", 0), ("hybrid", 1), ("hybrid", 2), ("causal", 0), ("masked", 0))
    },
    **{
        f"finetune scratch {s}": f"{FINETUNE} --pretrained runs/pretrain-hybrid-{s} --from-scratch"
        f" --seed {s}"
        for s in range(3)
    },
    **{
        f"few {arm} {s}": f"{FINETUNE} --pretrained runs/pretrain-hybrid-{s} --labels 1000"
        f" --epochs 5 --seed {s}" + " --from-scratch" * (arm == "scratch")
        for arm in ("hybrid", "scratch")
        for s in range(3)
    },
    "pretrain imdb 0": f"{PRETRAIN} --data imdb",
    "finetune imdb 0": f"{FINETUNE} --data imdb --pretrained runs/pretrain-imdb-0 --epochs 1",
    "pretrain imdb-small 0": f"{PRETRAIN} --data imdb --size small --minutes 50",
    "finetune imdb-small 0": f"{FINETUNE} --data imdb --pretrained runs/pretrain-imdb-small-0"
    " --epochs 1",
    "finetune imdb-scratch 0": f"{FINETUNE} --data imdb --pretrained runs/pretrain-imdb-small-0"
    " --from-scratch --epochs 1",
    "finetune imdb-minilm 0": f"{FINETUNE} --data imdb --pretrained hf:all-MiniLM-L6-v2/ --epochs 1"
    " --max-length 256 --optimizer adamw --learning-rate 2e-4",
}
COMPARISONS = {
    "compare": "",
    "compare imdb": "--data imdb --size small --full --steps 240 --pretrainings 1"
    " --arms scratch causal masked hybrid --labels 100 1000 3000 --length 128 --epochs 1"
    " --test-rows 500 --final-rows 5000",
}


def measure_sizes() -> dict:
    """What `python -m minilm estimate --all` measures, as figures."""
    machine, measured = choose_machine(), {}
    for size in SIZES:
        config = PretrainConfig(size=size).with_defaults()
        found = estimate(config, machine, measure=20)
        measured[size] = {
            **dataclasses.asdict(config.model(config.vocab_size)),
            "parameters": found.parameters,
            "tokens_per_second": found.tokens / found.seconds,
            "memory": found.memory,
            "steps": found.steps,
            "seconds": found.seconds,
        }
    return measured


def run_job(name: str) -> dict:
    """Run a job's command in a run folder of its own. Returns what came out."""
    command, run = JOBS[name], Path("runs", name.replace(" ", "-"))
    shutil.rmtree(ROOT / run, ignore_errors=True)
    print(f"--- {name}: python {command} --run {run.as_posix()}", flush=True)
    start = time.perf_counter()
    arguments = [*command.split(), "--run", run.as_posix()]
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
    minutes = (time.perf_counter() - start) / 60
    result = json.loads((ROOT / run / "result.json").read_text(encoding="utf-8"))
    return {"command": f"python {command}", "minutes": minutes, **result}


def run_comparison(name: str) -> dict:
    """What `python -m minilm compare` finds, without the parts that hold a number a test row."""
    run = Path("runs", name.replace(" ", "-"))
    shutil.rmtree(ROOT / run, ignore_errors=True)
    arguments = ["-m", "minilm", "compare", *COMPARISONS[name].split(), "--run", run.as_posix()]
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
    return without_rows(json.loads((ROOT / run / "results.json").read_text(encoding="utf-8")))


def without_rows(found: dict) -> dict:
    """What README and its readers need of a comparison's results.json."""
    finals = {k: v for k, v in found["finals"].items() if k not in ("runs", "truth")}
    kept = ("card", "arms", "baselines", "lines", "label_curve", "verdicts", "answers")
    return {**{key: found[key] for key in kept}, "finals": finals}


def main(names: list[str]) -> None:
    """Run the jobs named, or else those that have no result yet."""
    for name in names or [n for n in (*JOBS, *COMPARISONS, "sizes") if n not in load()]:
        if name == "sizes":
            note(name, measure_sizes())
        else:
            note(name, (run_comparison if name in COMPARISONS else run_job)(name))


def load() -> dict:
    """What results.json holds."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def note(name: str, result) -> None:
    """Put one result into results.json."""
    text = json.dumps(load() | {name: result}, indent=2) + "\n"
    write_file(RESULTS, text.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
