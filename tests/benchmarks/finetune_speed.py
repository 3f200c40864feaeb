"""Four steps of fine-tuning on texts as long as IMDB's reviews, ours beside Hugging Face's.

    pip install transformers
    python -m tests.benchmarks.finetune_speed

The peer is the loop that most tutorials show: BERT for sequence classification, every text padded
to the window, float32. A second peer pads only to the longest text of its random batch; both run
under bfloat16 autocast, too, where this processor multiplies that faster.
"""

import argparse

import numpy as np
import torch

from minilm.config import ModelConfig
from minilm.device import choose_machine
from minilm.heads import ClassificationLoss, Classifier
from minilm.labelled import LabelledTexts, batch_of, epoch_batches, pad
from minilm.model import Transformer
from minilm.optim import make_optimizers
from tests.benchmarks.alternate import alternate, medians, serve
from tests.benchmarks.main_job import note

WORDS, WINDOW, WIDTH, LAYERS, HEADS, BATCH, TEXTS = 8192, 512, 128, 4, 4, 32, 128
CONTENDERS = ("ours", "BERT, padded to the window", "BERT, padded to the batch")
AUTOCAST = tuple(f"{name}, autocast" for name in CONTENDERS[1:])


def texts() -> LabelledTexts:
    """Random words in lengths like those of IMDB's reviews in 8,192 words: a median of 200 tokens,
    a mean of 270, a tenth above 500, which the window cuts."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(205), 0.72, TEXTS)).clip(12, WINDOW).astype(int)
    tokens = [rng.integers(3, WORDS, n).astype(np.uint16) for n in lengths]
    return LabelledTexts(tokens, rng.integers(0, 2, TEXTS), 0.0)


def work(name: str):
    """A function that trains once on all texts as this contender does."""
    data, machine = texts(), choose_machine("cpu")
    if name == "ours":
        shape = ModelConfig(WORDS, WINDOW, WIDTH, LAYERS, HEADS, 4 * WIDTH)
        model = Classifier(Transformer(shape), 2)
        loss = ClassificationLoss(model, causal=False)
        batches = epoch_batches(data, BATCH, seed=0, epoch=0)

        def mean_loss(indices):
            with machine.autocast():
                loss_sum, count = loss(*machine.tensors(batch_of(data, indices)))
            return loss_sum / count
    else:
        from transformers import BertConfig, BertForSequenceClassification

        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=WORDS, max_position_embeddings=WINDOW, hidden_size=WIDTH,
                num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
            )
        )  # fmt: skip
        batches = np.split(np.random.default_rng(0).permutation(TEXTS), TEXTS // BATCH)

        def mean_loss(indices):
            tokens, is_real = pad([data.tokens[i] for i in indices])
            if "window" in name:
                room = ((0, 0), (0, WINDOW - tokens.shape[1]))
                tokens, is_real = np.pad(tokens, room), np.pad(is_real, room)
            with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in name):
                return model(
                    input_ids=torch.from_numpy(tokens),
                    attention_mask=torch.from_numpy(is_real.astype(np.int64)),
                    labels=torch.from_numpy(data.labels[indices]),
                ).loss

    (optimizer,) = make_optimizers(model, "adamw", 1e-4, 0.01)
    model.train()

    def epoch():
        for indices in batches:
            mean_loss(indices).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return epoch


def main() -> None:
    """Measure, or serve as one contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(work(args.serve))
        return
    module = ["-m", "tests.benchmarks.finetune_speed", "--serve"]
    names = CONTENDERS + AUTOCAST * choose_machine("cpu").bfloat16
    found = medians(alternate({name: [*module, name] for name in names}, args.rounds))
    rates = {name: TEXTS / seconds for name, seconds in found.items()}
    note("fine-tuning speed", rates)
    for name, rate in rates.items():
        print(f"  {name:38}{rate:8.1f} texts/s")


if __name__ == "__main__":
    main()
