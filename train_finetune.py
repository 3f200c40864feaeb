"""Fine-tune pretrained weights to label texts or words, to answer, to translate: train, validate,
adjust, repeat, then test."""

from minilm.cli.flags import entry_point, parse_flags
from minilm.cli.options import FinetuneConfig

# What --search tries.
SEARCH = [(rate, optimizer) for rate in (1e-3, 3e-3, 1e-2) for optimizer in ("adamw", "muon")]


def finetune(config: FinetuneConfig, advance=None):
    """Fine-tune pretrained weights: what train_finetune.py does, step by step. Returns the run.
    advance(the share of a training that is done): instead of a bar."""
    # torch takes seconds to load: not before --help and mistyped flags have been answered.
    import dataclasses

    from minilm.cli import scripts
    from minilm.huggingface.folders import pretrained_run
    from minilm.runs import checkpoint, loop
    from minilm.runs.finetuning import Finetuning
    from minilm.runs.run import Run, make_model, newest_run
    from minilm.tasks import TASKS
    from minilm.view.pages import write_run_page

    # 1. Load: the pretrained run, the labelled data, and the run that learns from both.
    run, config, machine = scripts.open_run(config, "finetune")
    with run:
        pretrained = pretrained_run(config.pretrained or newest_run("pretrain"))
        if not config.from_scratch:
            checkpoint.best(pretrained.folder)  # says so at once where there is none
        length = config.max_length or pretrained.model_config().max_length
        config = dataclasses.replace(config, max_length=length, pretrained=str(pretrained.folder))
        imported = "imported" in pretrained.config
        config = config.with_defaults(imported)
        shape = pretrained.model_config(max_length=length, dropout=config.dropout)
        family, tokenizer = pretrained.config["family"], pretrained.tokenizer
        task = TASKS[config.task](config, tokenizer, imported=imported)
        facts = dict(kind="finetune", family=family, classes=task.classes)
        scripts.write_down(run, config, shape, tokenizer, machine, task.examples, **facts)
        print(
            f"{task}\nrun: {run.folder}, weights of {pretrained.folder}, learning rate "
            f"{config.learning_rate:g}, epochs {task.epochs}, {machine.why}",
            flush=True,
        )

        # 2. and 3. Train on labelled data; evaluate on validation; keep the best.
        def train_and_validate(config: FinetuneConfig, into: Run, task=task) -> dict:
            """Train as `config` says, in the run or a part of it. Returns what it spent."""
            if config.from_scratch:
                transformer = make_model(shape, config.seed, family)
            else:
                transformer = pretrained.transformer(max_length=length, dropout=config.dropout)
            training = Finetuning(transformer, config, task, machine)
            return loop.train(training, into, write_run_page, advance)

        # 4. Adjust: try other learning rates and optimizers, and keep what validation prefers.
        if config.search:
            config, spent = scripts.search(config, SEARCH, run, train_and_validate)
        else:
            spent = train_and_validate(config, run)

        # 5. Test once, beside networks that lack something, and simpler means.
        rows = {"these weights": task.test(run.classifier().to(machine.device))}
        for name, folder, from_scratch, other in task.controls():
            control = run.part(folder)
            how = dataclasses.replace(config, from_scratch=from_scratch)
            train_and_validate(how, control, other)
            model = other.model(make_model(shape, 0, family)).to(machine.device)
            model.load_state_dict(checkpoint.best(control.folder).read("model"))
            rows[name] = other.test(model)
            checkpoint.delete_after(control.folder, -1)
        if config.baselines != "none":
            rows |= task.baselines()
        scripts.conclude_finetuning(run, config, spent, task, rows)
    return run


if __name__ == "__main__":
    entry_point(lambda: finetune(parse_flags(FinetuneConfig, __doc__)))
