"""What several rooms share."""

import pytest
import small
import torch

from minilm.config import ModelConfig
from minilm.model import Transformer

torch.set_num_threads(1)  # for models this small, waking a second thread costs more than it does

SHAPE = dict(vocab_size=40, max_length=16, d_model=16, n_layers=2, n_heads=2, d_ff=24)


@pytest.fixture
def make_model():
    """make_model(d_model=8, ...): a small Transformer in float64 whose weights are all random.

    A new model's sub-layers give zero, and behind a zero most errors cannot be seen."""

    def make(**changes) -> Transformer:
        model = Transformer(ModelConfig(**SHAPE | changes)).double()
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.5, generator=generator)
        return model

    return make


@pytest.fixture(scope="session")
def small_home(tmp_path_factory):
    """Where `small_world` lies; tests share it, so each writes to a run of its own."""
    home = tmp_path_factory.mktemp("small")
    (home / "own.txt").write_text(small.some_text(4000, 1), encoding="utf-8")
    small.write_table(home / "own.csv", small.some_rows(80, 2))
    small.write_table(home / "more.csv", small.some_rows(40, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        pretrain = f"{small.PRETRAIN} --run first --steps 10 --evaluations 1"
        assert small.script("pretrain", pretrain) == 0
        assert small.script("finetune", f"{small.FINETUNE} --run labels --epochs 1") == 0
    return home


@pytest.fixture
def small_world(small_home, monkeypatch):
    """A working folder with a text, labelled texts, and two runs: first, and fine-tuned labels."""
    monkeypatch.chdir(small_home)
    return small_home
