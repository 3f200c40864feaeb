"""Fine-tune pretrained weights to label texts or words, to answer, to translate: train, validate,
adjust, repeat, then test."""

from minilm.cli.flags import entry_point, parse_flags
from minilm.cli.options import FinetuneConfig

# What --search tries.
SEARCH = [(rate, optimizer) for rate in (1e-3, 3e-3, 1e-2) for optimizer in ("adamw", "muon")]


def finetune(config: FinetuneConfig):
    """Fine-tune pretrained weights: what train_finetune.py does, step by step."""
    # torch takes seconds to load: not before --help and mistyped flags have been answered.
    import dataclasses

    from minilm.cli import scripts
    from minilm.fast import compute
    from minilm.huggingface.folders import pretrained_run
    from minilm.optim import make_optimizers
    from minilm.runs import checkpoint, loop
    from minilm.runs.run import Run, make_model, newest_run
    from minilm.tasks.task import task_class
    from minilm.training import Plan

    # 1. Load: the pretrained run, the labelled data, and the run that learns from both.
    run, config, machine = scripts.open_run(config, "finetune")
    pretrained = pretrained_run(config.pretrained or newest_run("pretrain"))
    if not config.from_scratch:
        checkpoint.best(pretrained.folder)  # says so at once where there is none
    length = config.max_length or pretrained.model_config().max_length
    config = dataclasses.replace(config, max_length=length, pretrained=str(pretrained.folder))
    shape = pretrained.model_config(max_length=length, dropout=config.dropout)
    family, tokenizer = pretrained.config["family"], pretrained.tokenizer
    task = task_class(config.task)(config, tokenizer)
    facts = dict(kind="finetune", family=family, classes=task.classes)
    scripts.write_down(run, config, shape, tokenizer, machine, task.examples, **facts)
    print(f"{task}\nrun: {run.folder}, weights of {pretrained.folder}, {machine.why}", flush=True)

    # 2. and 3. Train on labelled data; evaluate on validation after every epoch; keep the best.
    def train_and_validate(config: FinetuneConfig, into: Run, task=task) -> dict:
        """Train as `config` says, into the run or a folder in it. Returns what it spent."""
        into.folder.mkdir(parents=True, exist_ok=True)
        if config.from_scratch:
            transformer = make_model(shape, config.seed, family)
        else:
            transformer = pretrained.transformer(max_length=length, dropout=config.dropout)
        transformer.requires_grad_(not config.freeze)
        model = task.model(transformer).to(machine.device)
        loss = compute.MixedPrecision(model, task.loss, machine.dtype)
        # Texts have all lengths: their blocks are not compiled by default.
        if config.compile and compute.compiles(True, machine.device):
            compute.compile_blocks(loss.copy)
        layer_decay = 1.0 if config.from_scratch else config.layer_decay
        optimizers = make_optimizers(
            model, config.optimizer, config.learning_rate, config.weight_decay, layer_decay,
            orthogonalise=compute.fast_orthogonalise,
        )  # fmt: skip
        plan = Plan(task.epochs * task.steps_per_epoch, warmup=0.1, cooldown=0.9, seed=config.seed)

        def batch(step: int) -> list[tuple]:
            """This process's micro-batches of a step."""
            return machine.share_out(task.batch(step), config.accumulate)

        def evaluate() -> tuple[float, dict]:
            """How far validation is from perfect, and all that was measured."""
            with compute.eager():
                return task.evaluate(loss.refresh(), "valid")

        rule = model, loss, batch, optimizers, plan
        how = dict(evaluate_every=task.evaluate_every, patience=task.patience)
        try:
            return loop.train(*rule, into, machine, evaluate, **how)
        except loop.Stopped as stopped:  # what goes on is the run, not a trial or a control in it
            raise loop.Stopped(stopped.number, stopped.step, run.folder) from None

    # 4. Adjust: try other learning rates and optimizers, and keep what validation prefers.
    if config.search:
        config, spent = scripts.search(config, SEARCH, run, train_and_validate)
    else:
        spent = train_and_validate(config, run)

    # 5. Test once, beside networks that lack something, and simpler means.
    rows = {"these weights": task.test(run.classifier().to(machine.device))}
    for name, folder, from_scratch, other in task.controls():
        control = Run(run.folder / folder)
        train_and_validate(dataclasses.replace(config, from_scratch=from_scratch), control, other)
        model = other.model(make_model(shape, 0, family)).to(machine.device)
        model.load_state_dict(checkpoint.best(control.folder).read("model"))
        rows[name] = other.test(model)
        checkpoint.delete_after(control.folder, -1)
    if config.baselines != "none":
        rows |= task.baselines()
    scripts.conclude_finetuning(run, config, spent, task, rows)
    run.release()
    return run


if __name__ == "__main__":
    entry_point(lambda: finetune(parse_flags(FinetuneConfig, __doc__)))
