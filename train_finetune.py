"""Fine-tune pretrained weights into a classifier: train, validate, adjust, repeat, then test."""

import dataclasses
import functools
import itertools
import zlib

from minilm.config import FinetuneConfig, UserError, resumed
from minilm.flags import entry_point, parse_flags

# What --search tries: each learning rate with each optimizer.
SEARCH = {"learning_rate": (1e-3, 3e-3, 1e-2), "optimizer": ("adamw", "muon")}


def main():
    """What happens, in the order in which it happens."""
    config = parse_flags(FinetuneConfig, __doc__)

    # torch takes seconds to load: not before --help and mistyped flags have been answered.
    import numpy as np

    from minilm import checkpoint, metrics
    from minilm.device import choose_machine
    from minilm.evaluation import evaluate_classifier, label_probabilities
    from minilm.experiments import baselines
    from minilm.heads import ClassificationLoss, Classifier
    from minilm.interop import pretrained_run
    from minilm.labelled import (
        batch_of,
        encode_examples,
        epoch_batches,
        nested_sample,
        read_splits,
    )
    from minilm.model import Transformer
    from minilm.optim import make_optimizers
    from minilm.runs import Run, new_folder, newest_run
    from minilm.training import Plan, StepBatch, Stopped, Trainer, share_out, train

    # 1. Load the pretrained weights (or, as a control, the same net with random ones).
    resume = config.resume
    run = Run(config.run or (newest_run if resume else new_folder)("finetune"))
    if resume:
        config = resumed(config, run.flags("finetune"))
    machine = choose_machine(config.device, config.precision)
    if machine.world > 1:
        raise UserError("train_finetune.py runs in one process: start it without torchrun")
    pretrained = pretrained_run(config.pretrained or newest_run("pretrain"))
    if resume:  # the run has words, shape and (once it was saved) weights of its own
        shape, tokenizer = run.model_config("finetune"), run.tokenizer
    else:
        config.max_length = config.max_length or pretrained.model_config().max_length
        shape = pretrained.model_config(max_length=config.max_length, dropout=config.dropout)
        tokenizer = pretrained.tokenizer
        if not config.from_scratch:
            checkpoint.best(pretrained.folder)  # says so at once where there is none
    causal = config.attention == "causal"
    run.claim(resume)

    splits, classes = read_splits(config)
    checksum = zlib.crc32(repr(sorted(splits.items())).encode("utf-8", "surrogatepass"))
    if config.labels:
        splits["train"] = nested_sample(splits["train"], config.labels, config.seed)
    data = {
        part: encode_examples(tokenizer, examples, classes, config.max_length)
        for part, examples in splits.items()
    }
    if not resume:
        config.run, config.pretrained = str(run.folder), str(pretrained.folder)
        config.precision = "bfloat16" if machine.bfloat16 else "float32"
        flags, model = dataclasses.asdict(config), dataclasses.asdict(shape)
        facts = dict(flags=flags, model=model, classes=classes, checksum=checksum)
        run.create(dict(kind="finetune", **facts), tokenizer)
    elif run.config.get("checksum") != checksum:
        raise UserError(f"{run.folder} was started with other texts or labels: start a new run")

    def make_classifier(run: Run) -> Classifier:
        """The net with its first weights, and a head that knows nothing yet."""
        if config.from_scratch or checkpoint.newest(run.folder):  # which will replace all weights
            transformer = Transformer(shape, config.seed)
        else:
            transformer = pretrained.transformer(**dataclasses.asdict(shape))
        transformer.requires_grad_(not config.freeze)
        if config.compile:
            for block in transformer.blocks:
                block.compile()
        return Classifier(transformer, len(classes), config.pooling).to(machine.device)

    print(
        f"{config.train or config.data}: {len(classes)} labels, "
        + ", ".join(f"{len(texts.tokens):,} texts to {part}" for part, texts in data.items())
        + f"; {data['train'].share_cut:.1%} are longer than {config.max_length} tokens and were cut"
    )
    weights = "random weights" if config.from_scratch else f"weights of {pretrained.folder}"
    print(f"run: {run.folder}, {weights}, {machine.why}")

    # 2. Train on labelled data, in batches of texts of like length.
    def train_and_validate(config: FinetuneConfig, run: Run) -> None:
        """Train as `config` says, and validate after every epoch."""
        steps_per_epoch = -(-len(data["train"].tokens) // config.batch_size)

        @functools.lru_cache(maxsize=1)
        def batches_of(epoch: int) -> list[np.ndarray]:
            """The indices of each batch of an epoch."""
            return epoch_batches(data["train"], config.batch_size, config.seed, epoch)

        def batch(step: int) -> StepBatch:
            """The texts of a step."""
            epoch, i = divmod(step, steps_per_epoch)
            texts = batch_of(data["train"], batches_of(epoch)[i])
            rows = share_out(texts, machine, config.accumulate)
            return StepBatch(rows, len(texts.labels), int(texts.is_real.sum()))

        classifier = make_classifier(run)
        decay = config.weight_decay, config.layer_decay
        optimizers = make_optimizers(classifier, config.optimizer, config.learning_rate, *decay)
        steps = config.epochs * steps_per_epoch
        plan = Plan(
            steps, warmup=0.1, cooldown=0.9, evaluate_every=steps_per_epoch, seed=config.seed
        )
        loss = ClassificationLoss(classifier, causal)
        trainer = Trainer(classifier, loss, optimizers, batch, plan, machine)

        # 3. Evaluate on validation after every epoch; keep the best, stop when it gets no better.
        def evaluate() -> tuple[float, dict, str]:
            """The share of validation texts that is wrong, what to log, what to show."""
            values = evaluate_classifier(classifier, data["valid"], causal, machine)
            text = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
            return 1 - values["accuracy"], values, f"validation: {text}"

        train(trainer, run, evaluate, patience=2)

    # 4. Adjust: try other learning rates and optimizers, and keep what validation prefers.
    trained = [run]
    if config.search:
        decided, found = checkpoint.newest(run.folder), []
        for rate, optimizer in itertools.product(SEARCH["learning_rate"], SEARCH["optimizer"]):
            tried = dataclasses.replace(config, learning_rate=rate, optimizer=optimizer)
            trial = Run(run.folder / "search" / f"{optimizer}-{rate:g}")
            trial.folder.mkdir(parents=True, exist_ok=True)
            if not decided:
                print(f"trying learning rate {rate:g} with {optimizer}")
                try:
                    train_and_validate(tried, trial)
                except Stopped as stopped:  # what goes on is the search, not the trial
                    raise Stopped(stopped.number, stopped.step, run.folder) from None
            errors = [line["score"] for line in trial.metrics() if "score" in line]
            found.append((1 - min(errors), tried, trial))
        found.sort(key=lambda row: row[0], reverse=True)
        print("  validation accuracy  learning rate  optimizer")
        for accuracy, tried, _ in found:
            print(f"  {accuracy:19.1%}  {tried.learning_rate:13g}  {tried.optimizer}")
        _, config, winner = found[0]
        trained = [trial for *_, trial in found]
        if not decided:
            checkpoint.move(checkpoint.best(winner.folder), run.folder)
        for trial in trained:  # the weights of the others have done their work; their metrics stay
            checkpoint.delete_all(trial.folder)
    else:
        train_and_validate(config, run)

    # 5. The test set, once.
    classifier, _ = run.classifier()
    classifier.to(machine.device)
    part = "test" if "test" in splits else "valid"
    probabilities = label_probabilities(classifier, data[part], causal, machine)
    confusion = metrics.confusion_matrix(data[part].labels, probabilities.argmax(1), len(classes))
    print(f"{part} set:")
    print(metrics.report(confusion, classes))
    others = baselines.table(splits["train"], splits[part], classes)
    for name, values in others.items():
        print(f"{name}: accuracy {values['accuracy']:.1%}, macro F1 {values['macro_f1']:.1%}")
    if "bag of words" not in others:
        print("bag of words: to compare with it, pip install scikit-learn")
    result = dict(
        part=part, accuracy=metrics.accuracy(confusion), macro_f1=metrics.macro_f1(confusion),
        texts=int(confusion.sum()), baselines=others, learning_rate=config.learning_rate,
        optimizer=config.optimizer,
    )  # fmt: skip
    for key in ("tokens", "targets", "seconds"):  # of all trials
        result[key] = sum(r.metrics()[-1][key] for r in trained)
    run.finish(result)
    print(f'next: python -m minilm predict {run.folder} "a text of yours"')


if __name__ == "__main__":
    entry_point(main)
