"""Pretrain a Transformer on raw text: next-token, masked-token, or both with the same weights."""

import dataclasses
import zlib

from minilm.config import PretrainConfig, UserError, resumed
from minilm.flags import entry_point, parse_flags


def main():
    """What happens, in the order in which it happens."""
    config = parse_flags(PretrainConfig, __doc__)

    # torch takes seconds to load: not before --help and mistyped flags have been answered.
    from minilm import checkpoint
    from minilm.data import Windows, evaluation_windows, prepare
    from minilm.device import choose_machine
    from minilm.evaluation import (
        bytes_per_token,
        evaluate_language_model,
        show_language_model,
    )
    from minilm.experiments.estimate import estimate
    from minilm.interop import pretrained_run
    from minilm.model import Transformer, training_flops
    from minilm.objectives import Objective, Task
    from minilm.runs import Run, new_folder, newest_run
    from minilm.training import language_model_trainer, train

    # 1. The run: a new folder, or one that goes on.
    resume = config.resume
    run = Run(config.run or (newest_run if resume else new_folder)("pretrain"))
    if resume:
        config = resumed(config, run.flags("pretrain"))
    machine = choose_machine(config.device, config.precision)
    say = print if machine.rank == 0 else lambda *_: None
    init = None
    if config.init and not resume:
        init = machine.first(lambda: pretrained_run(config.init))
        config = dataclasses.replace(config, init=str(init.folder))
    config = config.with_defaults(**(init.recipe() if init else {}))
    config.model(config.vocab_size)  # refuses a shape that cannot be, before the text is read

    # 2. Text becomes tokens, and tokens become windows. Another run's weights need its words.
    def read():
        """Claim the run, then open the text; only the first process does the former."""
        if machine.rank == 0:
            run.claim(resume)
        words = (run if resume else init).tokenizer if config.init else None
        source = (config.data, config.vocab_size, words, config.text_column, config.encoding)
        return prepare(*source)

    text = machine.first(read)
    checksum = zlib.crc32(text.train)
    vocab_size = text.tokenizer.vocab_size
    windows = Windows(text.train, config.max_length, config.seed)
    valid_windows = evaluation_windows(text.valid, config.max_length)
    special = text.tokenizer.special
    objective = Objective(config.objective, vocab_size, config.seed, special=special)
    if resume:
        shape = run.model_config()
    elif init:
        shape = init.model_config(max_length=config.max_length, dropout=config.dropout)
    else:
        shape = config.model(vocab_size)
    say(
        f"text: {len(text.train):,} tokens to train on, {len(text.valid):,} to validate; "
        f"{vocab_size:,} different ones"
        + (f" (too little text for {config.vocab_size:,})" * (vocab_size < config.vocab_size))
    )

    # 3. A model, and what it reads at each step.
    if config.init and not (resume and checkpoint.newest(run.folder)):
        model = Run(config.init).transformer(**dataclasses.asdict(shape))
    else:
        model = Transformer(shape, config.seed)
    model.to(machine.device)
    if config.minutes:  # as many steps as fit, from here on a fixed number
        planned = estimate(config, machine)
        say(f"{config.minutes:g} minutes are {planned.steps} steps, by the speed measured now")
        config = dataclasses.replace(config, steps=planned.steps, minutes=None)

    def task(step: int) -> Task:
        """What the model reads and must say at a step."""
        mask_rate = config.mask_rate * (1 - 0.5 * step / config.steps)  # falls to half of it
        return objective.task(windows.batch(step, config.batch_size), step, mask_rate)

    trainer = language_model_trainer(config, model, task, machine)

    if not resume:
        config.precision = "bfloat16" if machine.bfloat16 else "float32"
        flags = dataclasses.asdict(config) | dict(run=str(run.folder))
        if machine.rank == 0:
            model_config = dataclasses.asdict(shape)
            facts = dict(flags=flags, model=model_config, checksum=checksum)
            run.create(dict(kind="pretrain", **facts), text.tokenizer)
    elif (run.tokenizer.fingerprint, run.config.get("checksum")) != (
        text.tokenizer.fingerprint,
        checksum,
    ):
        raise UserError(
            f"{run.folder} was trained on other words than {' '.join(config.data)} gives now: "
            f"the text has changed, so start a new run"
        )
    parameters = sum(p.numel() for p in model.parameters())
    say(f"model: {parameters:,} parameters, {config.objective} objective, {machine.why}")
    size = f"{config.batch_size} x {config.max_length} tokens"
    say(f"run: {run.folder}, {config.steps} steps of {size}")

    # 4. Train; on the way, measure on validation text and show what the model has learnt.
    token_bytes = bytes_per_token(text.tokenizer)

    def evaluate() -> tuple[float, dict, str]:
        """The mean validation loss of all readings, what to log, what to show."""
        values = evaluate_language_model(model, objective, valid_windows, machine, token_bytes)
        losses = [value for name, value in values.items() if name.endswith("_loss")]
        line = "validation: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        sample = show_language_model(model, config.objective, text.tokenizer, valid_windows[0])
        return sum(losses) / len(losses), values, line + sample

    spent = train(trainer, run, evaluate)

    # 5. What came out, beside what counting words alone would have reached.
    if machine.rank == 0:
        flops = training_flops(shape, spent["tokens"], spent["targets"], config.max_length)
        result = dict(
            losses=run.metrics()[-1], unigram_entropy=text.unigram_entropy, parameters=parameters,
            steps=config.steps, tokens_per_second=spent["tokens"] / spent["seconds"],
            flops_per_second=flops / spent["seconds"], **spent,
        )  # fmt: skip
        run.finish(result)
        values = {**result, **result["losses"]}
        for name, label, form in (
            ("causal_loss", "next-token loss", "{:.3f} nats a token"),
            ("bits_per_byte", "bits per byte", "{:.3f}"),
            ("masked_loss", "masked-token loss", "{:.3f} nats a token"),
            ("masked_accuracy", "masked tokens right", "{:.1%}"),
            ("unigram_entropy", "unigram entropy", "{:.3f} nats a token: the line to beat"),
            ("tokens", "tokens seen", "{:,}"),
            ("seconds", "seconds of training", "{:.0f}"),
            ("tokens_per_second", "tokens per second", "{:,.0f}"),
            ("flops_per_second", "FLOP per second", "{:.2e}"),
        ):
            if name in values:
                print(f"  {label:20} {form.format(values[name])}")
        print(f"next: python train_finetune.py --pretrained {run.folder}")


if __name__ == "__main__":
    entry_point(main)
