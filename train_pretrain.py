"""Pretrain a Transformer on raw text: next-token, masked-token, or both with the same weights."""

from minilm.cli.flags import entry_point, parse_flags
from minilm.cli.options import PretrainConfig


def pretrain(config: PretrainConfig, advance=None):
    """Pretrain a Transformer on raw text: what train_pretrain.py does, step by step. Returns the
    run. advance(the share done): instead of a bar."""
    # torch takes seconds to load: not before --help and mistyped flags have been answered.
    from minilm.cli import scripts
    from minilm.corpora.tokens import evenly, prepare
    from minilm.data import Windows, evaluation_windows
    from minilm.runs import loop
    from minilm.runs.pretraining import Pretraining
    from minilm.runs.run import make_model
    from minilm.view.pages import write_run_page

    # 1. The run: a new folder, or one that goes on; where to compute; whose weights come first.
    run, config, machine = scripts.open_run(config, "pretrain")
    with run:
        init, config = scripts.with_first_weights(config, machine)

        # 2. Text becomes tokens, and tokens become windows.
        text = machine.first(lambda: prepare(config, init and init.tokenizer))
        text = text._replace(train=evenly(text.train, config.max_tokens))
        tokenizer = text.tokenizer
        length = scripts.fitting_length(config.max_length, text)
        windows = Windows(text.train, length, config.seed)
        validation = evaluation_windows(text.valid, length)

        # 3. A model, its loss, and the rule that updates its weights.
        if init:
            model = init.transformer(max_length=length, dropout=config.dropout)
        else:
            shape = scripts.shape_of(config, tokenizer.vocab_size, length)
            model = make_model(shape, config.seed, config.family)
        training = Pretraining(model, config, windows, tokenizer, machine, validation)

        # 4. How long it takes, where minutes were given; then the run is written down.
        config = scripts.with_steps(config, training, len(text.train))
        facts = dict(kind="pretrain", family=config.family, train_tokens=len(text.train),
                     unigram_entropy=text.unigram_entropy)  # fmt: skip
        scripts.write_down(run, config, model.config, tokenizer, machine, text.train, **facts)
        scripts.introduce(run, config, training, text)

        # 5. Train; on the way, measure on validation text and show what the model has learnt.
        spent = loop.train(training, run, write_run_page, advance)

        # 6. What came out, measured on the checkpoint that is used from now on.
        if machine.rank == 0:
            scripts.conclude_pretraining(run, model, spent, text)
    return run


if __name__ == "__main__":
    entry_point(lambda: pretrain(parse_flags(PretrainConfig, __doc__)))
