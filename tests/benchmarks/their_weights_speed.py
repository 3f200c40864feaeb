"""The same weights, ours and `transformers`' code: reading texts, and a step of training.

    pip install transformers
    python -m tests.benchmarks.their_weights_speed                  # BERT and GPT-2, 6 x 384
    python -m tests.benchmarks.their_weights_speed --folder FOLDER  # weights of one of these types

float32 on both sides, the same tokens, no dropout, plain gradient descent without a clip, so that
what is compared is the net. Before anything is timed both must say the same.
"""

import argparse
import functools
import sys

import torch
import torch.nn.functional as F

from minilm.device import keep_freed_memory
from minilm.interop.kinds import KINDS
from minilm.interop.weights import to_ours
from minilm.model import Transformer
from minilm.shape import ModelConfig
from tests.benchmarks.alternate import alternate, medians, serve
from tests.benchmarks.main_job import load, note

BATCH, WINDOW = 8, 128
JOBS = ("reading", "training")


def their_model(kind: str, folder: str | None):
    """Their bare model (no head for words): of a folder, or random in MiniLM's shape, 6 x 384."""
    import transformers as t

    off = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if kind == "gpt2":
        off = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    if folder:
        return t.AutoModel.from_pretrained(folder, **off)
    torch.manual_seed(0)
    if kind == "gpt2":
        return t.GPT2Model(t.GPT2Config(n_embd=384, n_layer=6, n_head=12, **off))
    sizes = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12)
    return t.BertModel(t.BertConfig(**sizes, intermediate_size=1536, **off))


def our_model(theirs, kind: str) -> Transformer:
    """Our Transformer with the same weights."""
    weights = {name: tensor for name, tensor in theirs.state_dict().items() if "pooler" not in name}
    config = ModelConfig(**KINDS[kind].shape(theirs.config.to_dict()))
    config, weights = to_ours(KINDS[kind], weights, config)
    model = Transformer(config)
    model.load_state_dict(weights)
    return model


def work(name: str, job: str, kind: str, folder: str | None):
    """A function that does the job once. Raises SystemExit where the two do not say the same."""
    theirs = their_model(kind, folder)
    ours = our_model(theirs, kind)
    causal = KINDS[kind].causal
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(1000, 20_000, (BATCH, WINDOW), generator=generator)
    calls = {
        "ours": lambda: ours(words, causal=causal),
        "theirs": lambda: theirs(input_ids=words).last_hidden_state,
    }
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        apart = (calls["ours"]() - calls["theirs"]()).abs().max().item()
    if apart > 1e-4:
        sys.exit(f"the two differ by {apart}")
    call, model = calls[name], {"ours": ours, "theirs": theirs}[name]
    if job == "reading":
        return torch.no_grad()(call)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    wanted = torch.randn(BATCH, WINDOW, theirs.config.hidden_size, generator=generator)

    def step():
        F.mse_loss(call(), wanted).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def several(job, times: int):
    """The job, so often that a round is long enough to time."""
    for _ in range(times):
        job()


def main() -> None:
    """Measure each type and job, or serve as one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kind", choices=("bert", "gpt2"), help="default: both")
    parser.add_argument("--folder", help="weights of --kind, from Hugging Face")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        keep_freed_memory()  # for both
        job = work(args.serve, args.job, args.kind, args.folder)
        serve(functools.partial(several, job, 5 if args.job == "reading" else 2))
        return
    for kind in [args.kind] if args.kind else ["bert", "gpt2"]:
        for job in JOBS:
            common = ["-m", "tests.benchmarks.their_weights_speed", "--kind", kind, "--job", job]
            common += ["--folder", args.folder] if args.folder else []
            names = {name: [*common, "--serve", name] for name in ("ours", "theirs")}
            seconds = medians(alternate(names, args.rounds))
            times = 5 if job == "reading" else 2
            rates = {name: times * BATCH * WINDOW / s for name, s in seconds.items()}
            if not args.folder:
                known = load().get("speed at their weights", {})
                note("speed at their weights", known | {f"{kind}, {job}": rates})
            print(
                f"{kind}, {job}: ours {rates['ours']:,.0f} tokens/s, theirs "
                f"{rates['theirs']:,.0f}, ratio {rates['ours'] / rates['theirs']:.2f}"
            )


if __name__ == "__main__":
    main()
