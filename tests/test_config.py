"""Flags are made from dataclasses, and whatever is wrong with one is said in one line."""

import contextlib
import dataclasses
import signal
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from minilm.config import (
    SIZES,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    UserError,
    flag_name,
    resumed,
)
from minilm.flags import entry_point, parse_flags

SHAPE = dict(vocab_size=300, max_length=16, d_model=12, n_layers=3, n_heads=2, d_ff=20)
every_config = pytest.mark.parametrize("config_class", [PretrainConfig, FinetuneConfig])


def parse(config_class, *argv):
    return parse_flags(config_class, "", list(argv))


@every_config
def test_every_field_is_a_flag_that_sets_it_and_nothing_else(config_class):
    for f in dataclasses.fields(config_class):
        kind = (typing.get_args(f.type) or (f.type,))[0]  # int | None -> int, list[str] -> str
        value = f.metadata.get("choices", [{int: 5, float: 0.5, str: "x", bool: True}[kind]])[-1]
        given = [] if kind is bool else [str(value)]
        value = [value] if f.type == list[str] else value
        before = ["--train", "x"] if f.name in ("valid", "test") else []
        plain = dataclasses.asdict(parse(config_class, *before))
        no_corpus = config_class is FinetuneConfig and f.name in ("train", "resume")
        changed = plain | {f.name: value} | ({"data": None} if no_corpus else {})
        parsed = parse(config_class, *before, flag_name(f.name), *given)
        assert dataclasses.asdict(parsed) == changed and f.name in parsed.given


@pytest.mark.parametrize(
    "config_class, flags, says",
    [
        (PretrainConfig, "--learning-rat 1", "--learning-rat: did you mean --learning-rate?"),
        (PretrainConfig, "--batchsize=4", "--batchsize=4: did you mean --batch-size?"),
        (FinetuneConfig, "--label 100", "--label: did you mean --labels?"),
        (PretrainConfig, "--zzz", "--zzz: see"),
        (PretrainConfig, "words.txt", "unknown argument words.txt"),
        (PretrainConfig, "--objective both", "--objective: invalid choice: 'both'"),
        (PretrainConfig, "--size huge", "--size: invalid choice: 'huge'"),
        (FinetuneConfig, "--pooling max", "--pooling: invalid choice: 'max'"),
        (PretrainConfig, "--steps many", "--steps: invalid int value: 'many'"),
        (PretrainConfig, "--steps 1.5", "--steps: invalid int value: '1.5'"),
        (PretrainConfig, "--dropout a", "--dropout: invalid float value: 'a'"),
        (PretrainConfig, "--steps", "--steps: expected one argument"),
        (PretrainConfig, "--data", "--data: expected at least one argument"),
        (PretrainConfig, "--steps 5 --minutes 1", "--steps and --minutes"),
        (PretrainConfig, "--steps 0", "--steps is 0: give a number above 0"),
        (PretrainConfig, "--minutes -1", "--minutes is -1.0"),
        (PretrainConfig, "--minutes inf", "--minutes is inf"),
        (PretrainConfig, "--learning-rate nan", "--learning-rate is nan"),
        (PretrainConfig, "--d-ff 0", "--d-ff is 0"),
        (PretrainConfig, "--vocab-size -1", "--vocab-size is -1"),
        (PretrainConfig, "--accumulate 0", "--accumulate is 0"),
        (PretrainConfig, "--evaluations 0", "--evaluations is 0"),
        (PretrainConfig, "--mask-rate 1", "--mask-rate is 1.0"),
        (PretrainConfig, "--mask-rate nan", "--mask-rate is nan"),
        (PretrainConfig, "--weight-decay -1", "--weight-decay is -1.0"),
        (FinetuneConfig, "--weight-decay nan", "--weight-decay is nan"),
        (PretrainConfig, "--seed -1", "--seed is -1"),
        (FinetuneConfig, "--epochs 0", "--epochs is 0"),
        (FinetuneConfig, "--labels 0", "--labels is 0"),
        (FinetuneConfig, "--layer-decay 0", "--layer-decay is 0.0"),
        (FinetuneConfig, "--max-length 2", "--max-length is 2"),
        (FinetuneConfig, "--data imdb --train a.csv", "--data and --train"),
        (FinetuneConfig, "--test a.csv", "--train FILE, which is missing"),
    ],
)
def test_a_wrong_flag_is_named(config_class, flags, says):
    with pytest.raises(UserError) as caught:
        parse(config_class, *flags.split())
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name, config_class", [("pretrain", PretrainConfig),
                                                ("finetune", FinetuneConfig)])  # fmt: skip
def test_help_names_every_flag_before_torch_is_loaded(name, config_class, tmp_path):
    script = Path(__file__).parents[1] / f"train_{name}.py"
    command = [sys.executable, "-X", "importtime", str(script), "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 0 and not list(tmp_path.iterdir())
    assert all(flag_name(f.name) in answer.stdout for f in dataclasses.fields(config_class))
    loaded = {line.split("|")[-1].strip() for line in answer.stderr.splitlines()}
    assert "argparse" in loaded and not loaded & {"torch", "numpy", "tqdm"}


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(n_heads=5), "--d-model 12 cannot be shared out among --n-heads 5"),
        (dict(n_heads=4), "--d-model 12 / --n-heads 4 = 3 a head"),
        (dict(d_model=0), "--d-model is 0"),
        (dict(n_layers=-1), "--n-layers is -1"),
        (dict(dropout=1.0), "--dropout is 1.0"),
        (dict(positions="alibi"), "positions is 'alibi'"),
    ],
)
def test_a_shape_that_does_not_fit_together_is_refused(changes, says):
    with pytest.raises(UserError, match=says):
        ModelConfig(**SHAPE | changes)


@pytest.mark.parametrize("size", SIZES)
def test_what_no_flag_says_is_filled_from_the_row_of_the_size(size):
    config = PretrainConfig(size=size, n_layers=3, d_ff=None).with_defaults()
    assert vars(config).items() >= (SIZES[size] | dict(n_layers=3)).items()
    assert config.d_ff == 4 * config.d_model
    shape = config.model(vocab_size=77)
    assert (shape.vocab_size, shape.n_layers, shape.d_model) == (77, 3, config.d_model)


def test_minutes_leave_the_steps_open():
    assert PretrainConfig(minutes=1.0).with_defaults().steps is None


def test_the_shape_of_the_first_weights_goes_before_the_size():
    config = PretrainConfig(max_length=8, dropout=0.1, d_model=12).with_defaults(**SHAPE)
    assert dataclasses.asdict(config.model(300)).items() >= (SHAPE | dict(max_length=8)).items()
    assert config.dropout == 0.1 and config.steps == SIZES["tiny"]["steps"]


def test_the_size_of_the_run_that_gives_the_first_weights_goes_before_tiny_and_after_the_flag():
    assert PretrainConfig().with_defaults().size == "tiny"
    inherited = PretrainConfig().with_defaults("base", **SHAPE)
    asked = PretrainConfig(size="small").with_defaults("base", **SHAPE)
    for config, size in ((inherited, "base"), (asked, "small")):
        recipe = (config.size, config.steps, config.batch_size, config.learning_rate)
        row = SIZES[size]
        assert recipe == (size, row["steps"], row["batch_size"], row["learning_rate"])
        assert config.d_model == SHAPE["d_model"]


@pytest.mark.parametrize("name", ["vocab_size", "d_model", "n_layers", "n_heads", "d_ff"])
def test_a_shape_that_the_first_weights_do_not_have_is_refused(name):
    with pytest.raises(UserError, match=f"{flag_name(name)} 60: the weights of --init have"):
        PretrainConfig(**{name: 60}).with_defaults(**SHAPE)


def test_a_run_goes_on_with_the_flags_it_was_started_with():
    saved = PretrainConfig(data=["own.txt"], steps=9, seed=3, run="here").with_defaults()
    again = resumed(parse(PretrainConfig, "--resume", "--run", "x"), dataclasses.asdict(saved))
    assert again == saved
    same = parse(PretrainConfig, "--resume", "--data", "own.txt", "--steps", "9")
    assert resumed(same, dataclasses.asdict(saved)) == saved


def test_flags_of_another_version_are_said():
    with pytest.raises(UserError, match="flags of another version"):
        resumed(PretrainConfig(), {"depth": 3})


@pytest.mark.parametrize(
    "flags",
    [
        *("--steps 10", "--seed 4", "--data a.txt", "--compile", "--objective causal"),
        *("--objective hybrid", "--dropout 0"),  # what they would have been by themselves
    ],
)
def test_a_flag_cannot_be_changed_on_the_way(flags):
    saved = PretrainConfig(steps=9, seed=3, objective="masked", dropout=0.1).with_defaults()
    saved = dataclasses.asdict(saved)
    with pytest.raises(UserError, match=f"{flags.split()[0]} .* cannot be changed on resume"):
        resumed(parse(PretrainConfig, "--resume", *flags.split()), saved)


@pytest.mark.parametrize("ends", [None, UserError("wrong"), KeyboardInterrupt(), OSError("full")])
def test_after_an_entry_point_sigterm_means_what_it_meant_before(ends, capsys):
    def main():
        assert signal.getsignal(signal.SIGTERM) != before
        if ends:
            raise ends

    before = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(SystemExit):
        entry_point(main)
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_is_one_line_even_where_it_quotes_a_name_of_two(capsys):
    def main():
        raise UserError("no column 'a\nb'")

    with pytest.raises(SystemExit):
        entry_point(main)
    assert capsys.readouterr().err == "error: no column 'a b'\n"
