"""Tiny trained-looking runs, made in a moment: random weights that are no zeros."""

import dataclasses

import torch

from minilm.cli.options import FinetuneConfig, PretrainConfig
from minilm.config import ModelConfig
from minilm.model import Transformer
from minilm.runs import checkpoint
from minilm.runs.run import Run
from minilm.tasks.task import with_head
from minilm.tokenizer import Tokenizer

TEXTS = ["Return the array of the elements.", "Raise an error for the index of an array."] * 4
SHAPE = dict(max_length=24, d_model=16, n_layers=2, n_heads=2, d_ff=32)


def stirred(model, seed: int = 1):
    """The model, no weight of which is zero any more, so that every part of it does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def pretrained(folder, objective: str = "hybrid", texts=TEXTS, metrics=()) -> Run:
    """A pretraining run in `folder`."""
    tokenizer = Tokenizer.train(texts, 280)
    shape = ModelConfig(tokenizer.vocab_size, **SHAPE)
    flags = dataclasses.asdict(PretrainConfig(objective=objective, run=str(folder)).with_defaults())
    facts = dict(kind="pretrain", family="ours", model=dataclasses.asdict(shape), flags=flags)
    return saved(Run(folder), facts, tokenizer, stirred(Transformer(shape)), metrics)


def finetuned(folder, classes=("docs", "mail", "news"), metrics=(), **flags) -> Run:
    """A fine-tuning run in `folder`."""
    tokenizer = Tokenizer.train(TEXTS, 280)
    shape = ModelConfig(tokenizer.vocab_size, **SHAPE)
    flags = dataclasses.asdict(FinetuneConfig(run=str(folder), max_length=24, **flags))
    facts = dict(kind="finetune", family="ours", model=dataclasses.asdict(shape), flags=flags,
                 classes=list(classes))  # fmt: skip
    model = stirred(with_head(Transformer(shape), flags, len(classes)))
    return saved(Run(folder), facts, tokenizer, model, metrics)


def saved(run: Run, facts: dict, tokenizer, model, metrics=()) -> Run:
    """The run, written down, with these weights."""
    run.folder.mkdir(parents=True)
    run.create(facts, tokenizer)
    for line in metrics:
        run.log(**line)
    facts = 3, dict(tokens=1, targets=1, seconds=1.0), [(3, 1.5)], dict(causal_loss=1.5)
    checkpoint.save(run.folder, *facts, model=model.state_dict())
    return run
