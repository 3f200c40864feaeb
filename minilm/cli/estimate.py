"""`python -m minilm estimate`: what a training will take, measured on this machine."""

import numpy as np

from minilm.cli import scripts
from minilm.data import Windows
from minilm.huggingface.folders import pretrained_run
from minilm.runs import estimate as measure
from minilm.runs.device import choose_machine
from minilm.runs.pretraining import Pretraining
from minilm.runs.run import make_model
from minilm.tokenizer import Tokenizer


def estimate(config) -> None:
    """Train on random tokens for a few seconds, and print what `config` would take. Raises
    UserError where it needs more memory than there is."""
    machine = choose_machine(config.device, config.precision)
    init = pretrained_run(config.init) if config.init else None
    inherited = scripts.recipe(init, config) if init else {}
    config = config.with_defaults(machine.device.type, **inherited)
    shape = scripts.shape_of(config, config.vocab_size, config.max_length)
    measure.require_memory(shape, machine)
    tokenizer = Tokenizer([])
    ordinary = range(tokenizer.special.ordinary.start, config.vocab_size)
    tokenizer.special = tokenizer.special._replace(ordinary=ordinary)
    tokens = np.random.default_rng(0).integers(ordinary.start, ordinary.stop, 2**20)
    windows = Windows(tokens.astype(np.uint16), config.max_length, 0)
    model = make_model(shape, config.seed, config.family).to(machine.device)
    training = Pretraining(model, config, windows, tokenizer, machine)
    rule = training.loss, training.batch, training.optimizers, training.plan
    _, planned = measure.estimate(model, *rule, machine, shape, config.minutes)
    print(f"{config.size}, {config.objective}, {machine.why}\n{planned}", flush=True)
