"""Pretrain a Transformer on raw text: next-token, masked-token, or both with the same weights."""

from minilm.cli.flags import entry_point, parse_flags
from minilm.cli.options import PretrainConfig


def pretrain(config: PretrainConfig):
    """What happens, in the order in which it happens. Returns the Run."""
    # torch takes seconds to load: not before --help and mistyped flags have been answered.
    import dataclasses
    import functools

    from minilm.corpora.tokens import prepare
    from minilm.huggingface.folders import pretrained_run
    from minilm.runs.device import choose_machine
    from minilm.runs.estimate import estimate
    from minilm.runs.run import make_model

    from minilm.cli import scripts
    from minilm.data import Windows, draws, evaluation_windows
    from minilm.fast.compilation import compile_blocks, eager
    from minilm.fast.loss import fast_nll, gather_targets
    from minilm.fast.muon import fast_orthogonalise
    from minilm.fast.precision import MixedPrecision
    from minilm.metrics import evaluate_language_model
    from minilm.model import training_flops
    from minilm.objectives import OBJECTIVES, Batch, evaluation_batches, masked
    from minilm.optim import make_optimizers
    from minilm.runs import loop
    from minilm.runs.samples import show_language_model
    from minilm.training import Plan

    # 1. Where to compute; the run: a new folder, or one that goes on; whose weights come first.
    machine = choose_machine(config.device, config.precision)
    run, config = scripts.open_run(config, "pretrain", machine)
    init = machine.first(lambda: pretrained_run(config.init)) if config.init else None
    config = config.with_defaults(**(scripts.recipe(init, config) if init else {}))

    # 2. Text becomes tokens, and tokens become windows.
    source = (config.data, config.vocab_size, init and init.tokenizer)
    columns = (config.text_column, config.encoding, config.document_separator)
    text = machine.first(lambda: prepare(*source, *columns))
    tokenizer, special = text.tokenizer, text.tokenizer.special
    length = scripts.fitting_length(config.max_length, text)
    windows = Windows(text.train, length, config.seed)
    validation = evaluation_windows(text.valid, length)

    # 3. A model, its loss, and the rule that updates its weights.
    if init:
        shape = init.model_config(max_length=length, dropout=config.dropout)
        model = init.transformer(max_length=length, dropout=config.dropout)
    else:
        shape = scripts.shape_of(config, tokenizer.vocab_size, length)
        model = make_model(shape, config.seed, config.family)
    model.to(machine.device)
    loss = MixedPrecision(model, fast_nll, machine.dtype)
    compiled = compile_blocks(loss.copy, machine.device, config.compile)
    optimizers = make_optimizers(
        model, config.optimizer, config.learning_rate, config.weight_decay,
        orthogonalise=fast_orthogonalise,
    )  # fmt: skip
    objective = OBJECTIVES[config.objective]
    if config.objective == "masked":
        objective = functools.partial(masked, shift=config.shift)
    plan = Plan(config.steps or 1000, warmup=0.03, cooldown=0.4, seed=config.seed)

    def batch(step: int) -> list[tuple]:
        """This process's micro-batches of a step."""
        rate = config.mask_rate * (1 - 0.5 * step / plan.steps)  # falls to half of it
        rng = draws(config.seed, step, "masks")
        whole = objective(windows.batch(step, config.batch_size), rate, rng, special)
        parts = loop.share_out(whole, machine, config.accumulate)
        return [gather_targets(Batch(*part), machine.device) for part in parts]

    # 4. How long it takes; then the run is written down.
    if config.minutes and not config.resume:  # as many steps as fit: from here on a fixed number
        arguments = (model, loss, batch, optimizers, plan, machine, shape, config.minutes)
        plan = dataclasses.replace(plan, steps=estimate(*arguments).steps)
        config = dataclasses.replace(config, steps=plan.steps, minutes=None)
    scripts.write_down(run, config, "pretrain", shape, tokenizer, machine, text=text)
    scripts.introduce(run, config, model, machine, text=text, compiled=compiled)

    # 5. Train; on the way, measure on validation text and show what the model has learnt.
    def evaluate() -> tuple[float, dict]:
        """The mean validation loss of what the objective trains, and all that was measured."""
        batches = (
            evaluation_batches(config.objective, rows, i, special, config.shift)
            for i, rows in enumerate(scripts.in_chunks(validation, 32))
        )
        with eager():
            values = evaluate_language_model(loss.refresh(), batches, tokenizer.token_bytes)
        losses = [value for name, value in values.items() if name.endswith("_loss")]
        return sum(losses) / len(losses), values

    def show() -> str:
        """A validation text continued, and its masks filled in."""
        with eager():
            start = validation[0][0]
            return show_language_model(loss.refresh(), tokenizer, start, config)

    every = -(-plan.steps // config.evaluations)
    spent = loop.train(
        model, loss, batch, optimizers, plan, run, machine, evaluate, every, show=show
    )

    # 6. What came out, measured on the checkpoint that is used from now on.
    if machine.rank == 0:
        flops = training_flops(shape, spent["tokens"], spent["targets"], length)
        scripts.conclude_pretraining(run, model, spent, flops, text)
    run.release()
    return run


if __name__ == "__main__":
    entry_point(lambda: pretrain(parse_flags(PretrainConfig, __doc__)))
