"""A folder of Hugging Face's through the commands and both scripts, and a run of ours out again.

The folders are written here: nobody's library and no network is needed."""

import json

import pytest
from small import WORDS, everything, script

from minilm.__main__ import main
from minilm.interop.files import safetensors
from minilm.interop.kinds import KINDS
from minilm.interop.weights import to_theirs
from minilm.model import Transformer
from minilm.runs import Run
from minilm.shape import FAMILY, ModelConfig
from minilm.tokenizer import STAND_IN

pytestmark = pytest.mark.usefixtures("small_world")
MACHINE = "--device cpu --precision float32 --batch-size 8"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "xx", "zz", "."]


def write_folder(folder, kind, config, vocab_size):
    """A model of this type with random weights, as Hugging Face saves it."""
    shape = ModelConfig(vocab_size, 32, 16, 2, 2, 32, **FAMILY[kind])
    weights = Transformer(shape, seed=5).state_dict()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(model_type=kind, **config)))
    tensors = to_theirs(KINDS[kind], weights, shape)
    (folder / "model.safetensors").write_bytes(safetensors(tensors))


@pytest.fixture
def bert(tmp_path):
    """A BERT whose words are those of the small world."""
    config = dict(
        vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    write_folder(tmp_path / "bert", "bert", config, len(PIECES))
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return tmp_path / "bert"


@pytest.fixture
def gpt2(tmp_path):
    """A GPT-2 that reads bytes."""
    vocab = {name: i for i, name in enumerate([*STAND_IN.values(), "<|endoftext|>"])}
    config = dict(
        vocab_size=257, n_embd=16, n_layer=2, n_head=2, n_inner=32, n_positions=32,
        activation_function="gelu_new",
    )  # fmt: skip
    write_folder(tmp_path / "gpt2", "gpt2", config, 257)
    (tmp_path / "gpt2" / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "gpt2" / "merges.txt").write_text("#version: 0.2\n")
    return tmp_path / "gpt2"


def test_an_imported_bert_fills_in_and_one_that_is_fine_tuned_predicts(bert, tmp_path, capsys):
    run = tmp_path / "run"
    main(["import", str(bert), str(run)])
    assert "2 x 16" in capsys.readouterr().out
    main(["fill", str(run), f"{WORDS[0]} <mask> .", "--top", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and not any("[" in line for line in lines)
    tuned = f"--train own.csv --epochs 1 --run {tmp_path}/tuned {MACHINE}"
    assert script("finetune", f"--pretrained {run} {tuned}") == 0
    main(["predict", f"{tmp_path}/tuned", "xx"])
    assert "yes" in capsys.readouterr().out


def test_an_imported_gpt2_goes_on_writing(gpt2, tmp_path, capsys):
    main(["import", str(gpt2), str(tmp_path / "run")])
    capsys.readouterr()
    main(["generate", str(tmp_path / "run"), "ka", "--tokens", "12"])
    assert capsys.readouterr().out.startswith("ka")
    with pytest.raises(SystemExit) as ended:
        main(["fill", str(tmp_path / "run"), "a <mask>"])
    assert ended.value.code == 2 and "no word for a <mask>" in capsys.readouterr().err


def test_both_scripts_begin_with_a_folder_of_hugging_faces(bert, gpt2, tmp_path, monkeypatch):
    before = everything(tmp_path)
    goes_on = f"--data own.txt --steps 2 --evaluations 1 --run {tmp_path}/on {MACHINE}"
    assert script("pretrain", f"--init hf:{gpt2} --objective causal {goes_on}") == 0
    assert Run(tmp_path / "on").model_config() == Run("runs/gpt2").model_config()
    tuned = f"--train own.csv --epochs 1 --run {tmp_path}/tuned {MACHINE}"
    for _ in range(2):  # the second time it is there already
        assert script("finetune", f"--pretrained hf:{bert} {tuned}") == 0
        tuned = tuned.replace("/tuned", "/again")
    assert not (Run("runs/bert").folder.parent / "bert-2").exists()
    assert {path: before[path] for path in before} == {p: everything(tmp_path)[p] for p in before}


def test_a_run_goes_out_and_comes_back(tmp_path, capsys):
    main(["export", "first", str(tmp_path / "out")])
    assert "from_pretrained" in capsys.readouterr().out
    main(["import", str(tmp_path / "out"), str(tmp_path / "back")])
    there, back = Run("first").transformer(), Run(tmp_path / "back").transformer()
    for name, W in there.state_dict().items():
        assert W.equal(back.state_dict()[name]), name


def test_what_cannot_be_imported_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(SystemExit) as ended:
        main(["import", str(tmp_path), str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "llama" in said
    assert not (tmp_path / "run").exists()
