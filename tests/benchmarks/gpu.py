"""What gpu.sh runs: correctness, speed, IMDB. Every part is noted as soon as it is there, so that a
call that is cut short leaves what it has."""

import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from minilm.cli.options import PretrainConfig
from minilm.config import SIZES, ModelConfig
from minilm.data import Windows
from minilm.runs import checkpoint
from minilm.runs.device import choose_machine, matrix_rate
from minilm.runs.loop import prefetched
from minilm.runs.pretraining import Pretraining, training_flops
from minilm.runs.run import Run, make_model
from minilm.tokenizer import Tokenizer
from minilm.training import train

TOY = "TOY" in os.environ
RUNS = Path("runs", "gpu")
DRAWS = 2 if TOY else 10
IMDB = dict(
    pretrain="--data imdb --size base --objective hybrid --max-length 512 --batch-size 128 "
    "--steps 3800 --dropout 0.1 --learning-rate 4e-3 --evaluations 4",
    finetune="--data imdb --epochs 3 --max-length 512 --baselines bag",
    few="--data imdb --labels 100 --max-length 512 --learning-rate 1e-3 --baselines bag",
)
if TOY:
    small = "--max-length 64 --vocab-size 400"
    IMDB = dict(
        pretrain=f"--data imdb --d-model 32 --n-layers 1 --n-heads 2 {small} --steps 4",
        finetune="--data imdb --labels 60 --max-length 64 --epochs 1 --baselines bag",
        few="--data imdb --labels 40 --max-length 64 --epochs 1 --baselines bag",
    )


def correctness() -> dict:
    """The default tests, on the device that `auto` picks."""
    workers = ["-n", "12"] if _has("xdist") and not TOY else []
    what = ["tests/book/test_model.py"] if TOY else ["tests"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, *what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return dict(last=done.stdout.strip().splitlines()[-1:], failed=lines[:30])


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def our_step(size: str, optimizer: str, objective: str = "causal", batch: int | None = None):
    """A function that does one more training step as train_pretrain.py does by default; and what is
    trained."""
    machine, size = choose_machine(), "tiny" if TOY else size
    shape = SHAPES[size]
    how = dict(optimizer=optimizer, objective=objective, batch_size=2 if TOY else batch)
    config = PretrainConfig(**shape, **how).with_defaults(machine.device.type)
    torch.compiler.reset()
    tokenizer = Tokenizer([])
    ordinary = np.arange(3, config.vocab_size)
    tokenizer.special = tokenizer.special._replace(ordinary=ordinary)
    text = np.random.default_rng(0).integers(3, config.vocab_size, 2**22).astype(np.uint16)
    model = make_model(ModelConfig(**_shape(size)))
    training = Pretraining(model, config, Windows(text, config.max_length, 0), tokenizer, machine)
    on_device = lambda step: [machine.tensors(arrays) for arrays in training.batch(step)]
    if machine.device.type == "cuda":
        on_device = prefetched(on_device)
    rule = training.loss, on_device, training.optimizers, training.plan
    loop = train(model, *rule, check=machine.device.type == "cpu")
    return lambda: next(loop), training


def step_speed(*which) -> dict:
    """Tokens/s of `our_step`, and the seconds until the first was done."""
    step, training = our_step(*which)
    first, seconds = timed(step, training.machine.device)
    config = training.config
    tokens = config.batch_size * config.max_length
    targets = tokens if config.objective == "causal" else tokens * 0.22
    flops = training_flops(training.model.config, tokens, targets, config.max_length)
    return dict(batch=config.batch_size, length=config.max_length, first_step=first,
                tokens_per_second=tokens / seconds, flops_per_second=flops / seconds)  # fmt: skip


def peer_step(size: str, batch: int, compiled: bool = False, is_masked: bool = False):
    """A function that does one step more of the same shape as Hugging Face has it: GPT-2, or BERT
    that must predict one token in seven; autocast where bfloat16 pays, and fused AdamW."""
    import transformers

    machine, shape = choose_machine(), ModelConfig(**_shape("tiny" if TOY else size))
    length, V, width = shape.max_length, shape.vocab_size, shape.d_model
    if is_masked:
        model = transformers.BertForMaskedLM(transformers.BertConfig(
            vocab_size=V, max_position_embeddings=length, hidden_size=width,
            num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
            intermediate_size=shape.d_ff, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        ))  # fmt: skip
    else:
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=V, n_positions=length, n_embd=width, n_layer=shape.n_layers,
            n_head=shape.n_heads, n_inner=shape.d_ff, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            bos_token_id=0, eos_token_id=0,
        ))  # fmt: skip
    model.to(machine.device)
    torch.compiler.reset()
    called = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(0, V, (batch, length), device=machine.device)
    hidden = torch.rand(batch, length, device=machine.device) < 0.85
    labels = tokens.masked_fill(hidden, -100) if is_masked else tokens

    def step():
        half = machine.dtype == torch.bfloat16
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=half):
            loss = called(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, tokens.numel()


def peer_speed(*which) -> dict:
    """Tokens/s of `peer_step`, and the seconds until the first was done."""
    step, tokens = peer_step(*which)
    first, seconds = timed(step, choose_machine().device)
    return dict(batch=which[1], first_step=first, tokens_per_second=tokens / seconds)


SHAPES = {size: dict(size=size) for size in SIZES} | {"medium": dict(size="small", n_layers=4)}


def _shape(size: str) -> dict:
    shape = SIZES[SHAPES[size]["size"]] | SHAPES[size]
    return {k: v for k, v in shape.items() if k in ModelConfig.__dataclass_fields__}


def timed(step, device, n: int = 15) -> tuple[float, float]:
    """Seconds of the first call, and of one call later: the median of five rounds."""
    if TOY:
        n = 1
    began = time.perf_counter()
    step()
    torch.get_device_module(device).synchronize()
    first, rounds = time.perf_counter() - began, []
    for _ in range(3):
        step()
    for _ in range(5):
        torch.get_device_module(device).synchronize()
        began = time.perf_counter()
        for _ in range(n):
            step()
        torch.get_device_module(device).synchronize()
        rounds.append((time.perf_counter() - began) / n)
    return first, statistics.median(rounds)


def script(name: str, arguments: str, run: Path) -> dict:
    """Run a script of ours; its result.json, and the seconds that it took."""
    shutil.rmtree(run, ignore_errors=True)
    began = time.perf_counter()
    command = [sys.executable, f"train_{name}.py", *arguments.split(), "--run", str(run)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return dict(error=(done.stderr or done.stdout)[-2000:])
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    seconds = time.perf_counter() - began
    command = f"python train_{name}.py {arguments}"
    return dict(command=command, wall=seconds, output=done.stdout.splitlines()[-30:], **result)


def imdb() -> dict:
    """Pretraining on IMDB's text, fine-tuning at three learning rates, of which validation chooses
    one, and learning from 100 labels."""
    found = {"pretrain": script("pretrain", IMDB["pretrain"], RUNS / "pretrain")}
    note("imdb", found)
    rates = (5e-4, 1e-3, 2e-3)
    each = [f"{IMDB['finetune']} --learning-rate {rate} --pretrained {RUNS / 'pretrain'}"
            for rate in rates]  # fmt: skip
    runs = [RUNS / f"finetune-{rate}" for rate in rates]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(script, ["finetune"] * len(rates), each, runs))
    found["finetune"] = dict(zip(map(str, rates), results, strict=True))
    scores = {
        str(rate): checkpoint.best(run.folder).score
        for rate, run in zip(rates, map(Run, runs), strict=True)
    }
    found["validation error"], found["chosen"] = scores, min(scores, key=scores.get)
    note("imdb", found)
    return found | {"100 labels": few_labels()}


def few_labels() -> dict:
    """Accuracy from 100 labels, validation among them, and of a bag of tokens, by draw."""
    found, waiting = {}, list(range(DRAWS))
    while waiting:
        some, waiting = waiting[:5], waiting[5:]
        started = {}
        for seed in some:
            run = RUNS / f"few-{seed}"
            shutil.rmtree(run, ignore_errors=True)
            arguments = f"{IMDB['few']} --seed {seed} --pretrained {RUNS / 'pretrain'} --run {run}"
            command = [sys.executable, "train_finetune.py", *arguments.split()]
            environment = os.environ | dict(OMP_NUM_THREADS="3")
            started[run] = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
            )
        for run, process in started.items():
            error = process.communicate()[1].decode()[-500:]
            path = run / "result.json"
            found[run.name] = json.loads(path.read_text())["rows"] if path.exists() else error
    return found


def main(out: Path) -> None:
    """Run all parts, noting each."""
    machine = choose_machine()
    on_card = machine.device.type == "cuda"
    name = torch.cuda.get_device_name() if on_card else "CPU"
    batch, pieces = 2 if TOY else 256, functools.partial
    parts = {
        "matrix rate": lambda: matrix_rate(torch.bfloat16 if on_card else torch.float32,
                                           machine.device),
        "base, AdamW": pieces(step_speed, "base", "adamw"),
        "base, Muon": pieces(step_speed, "base", "muon"),
        "base, hybrid, Muon": pieces(step_speed, "base", "muon", "hybrid"),
        "small, Muon": pieces(step_speed, "small", "muon"),
        "base, AdamW, batch 64": pieces(step_speed, "base", "adamw", "causal", 64),
        "base, Hugging Face GPT-2, compiled": pieces(peer_speed, "base", batch, not TOY),
        "base, Hugging Face GPT-2": pieces(peer_speed, "base", batch, False),
    }  # fmt: skip
    FOUND.update(device=name, torch=torch.__version__, parts={}, seconds={}, out=str(out))
    for part, measure in parts.items():
        run_part(part, measure)
    with ThreadPoolExecutor() as pool:  # the tests are at work on the processor mostly
        list(pool.map(run_part, ("correctness", "imdb"), (correctness, imdb)))


FOUND: dict = {}


def run_part(part: str, measure) -> None:
    """Measure one part and note it; the parts that follow are worth having if it fails."""
    began = time.perf_counter()
    try:
        value = measure()
    except Exception as error:
        value = FOUND["parts"].get(part, {}) | dict(error=f"{type(error).__name__}: {error}"[:2000])
    FOUND["seconds"][part] = round(time.perf_counter() - began, 1)
    note(part, value)
    print(part, FOUND["seconds"][part], str(value)[:300], flush=True)


def note(part: str, value) -> None:
    """Write down what there is so far."""
    FOUND["parts"][part] = value
    text = json.dumps({k: v for k, v in FOUND.items() if k != "out"}, indent=1) + "\n"
    Path(FOUND["out"]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
