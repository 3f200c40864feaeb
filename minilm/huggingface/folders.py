"""A Hugging Face folder as a run, which everything else then uses as if it had been trained here;
and a run as a folder that Hugging Face's transformers opens with no code of ours."""

import itertools
import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from minilm.config import UserError
from minilm.corpora.tokenizer_file import to_json
from minilm.huggingface import tokenizers
from minilm.huggingface import weights as hf
from minilm.io.durable import read_json, sha256_of, write_file, writing
from minilm.io.terminal import note
from minilm.runs import checkpoint
from minilm.runs.run import RUNS, Run
from minilm.tokenizer import SPECIAL_TOKENS

FILES, TOKENIZER = ("config.json", "model.safetensors", "pytorch_model.bin"), "*token*.json"
OPENS = """from transformers import {0}, AutoTokenizer
model = {0}.from_pretrained("{1}")
tokenizer = AutoTokenizer.from_pretrained("{1}")"""
CLASSIFIES = """
inputs = tokenizer(["A text."], return_tensors="pt", truncation=True, padding=True)
real = inputs.attention_mask.unsqueeze(-1)  # the mean is over these tokens, not over padding
logits = (model(**inputs).logits * real).sum(1) / real.sum(1)
logits.softmax(-1)  # in the order of model.config.id2label"""


def pretrained_run(name: str | Path) -> Run:
    """The run that `--init` or `--pretrained` names: a run folder; or `hf:` and a folder of Hugging
    Face's or a name on its hub, which is imported into runs/ unless it was before."""
    if not str(name).startswith("hf:"):
        return Run(name)
    name = str(name).removeprefix("hf:")
    folder = find_folder(name)
    source = content_of(folder)
    called = Path(name).resolve().name or "imported"
    for i in itertools.count(1):
        run = Run(RUNS / f"{called}{f'-{i}' * (i > 1)}")
        if not (run.folder / "config.json").exists():
            return import_folder(folder, run)
        if run.config.get("imported") == source and any(run.folder.glob("step-*")):
            return run


def find_folder(name: str) -> Path:
    """A folder that is there, or else the hub's files of that name. Raises UserError where it is
    neither, or `huggingface_hub`, which asks the hub, is not installed."""
    if Path(name).is_dir():
        return Path(name)
    if not find_spec("huggingface_hub"):
        raise UserError(f"{name}: no such folder; to ask the hub, pip install huggingface_hub")
    with tokenizers.damage(f"{name}: no such folder, and huggingface_hub finds none"):
        import huggingface_hub

        wanted = [*FILES, TOKENIZER]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))


def content_of(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a Hugging Face folder that an import reads."""
    paths = sorted({path for name in (*FILES, TOKENIZER) for path in folder.glob(name)})
    return {path.name: sha256 for path in paths if (sha256 := sha256_of(path))}


def import_folder(folder: Path, run: Run) -> Run:
    """Write the model and tokenizer of a Hugging Face folder as a run. Says which tensors it leaves
    out. Raises UserError where they cannot be ours, or where there is a run already."""
    try:
        config = read_json(folder / "config.json", {})
        shape, name = hf.read_shape(config), config["model_type"]
        shape, weights, left_out = hf.to_ours(name, hf.read_tensors(folder), shape)
        tokenizer = tokenizers.read_tokenizer(folder)
        if (n := tokenizer.vocab_size) > shape.vocab_size:
            raise UserError(f"the tokenizer has {n} tokens, the model {shape.vocab_size}")
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if left_out:
        note(f"{folder}: without its head ({', '.join(left_out)})")
    if not getattr(shape, "head", True):
        note(f"{folder}: fine-tune it; it has nothing that predicts tokens")
    decoder = "causal" in hf.TYPES[name]  # whose is_causal is only said where it is not
    causal = config.get("is_causal", True) if decoder else config.get("is_decoder")
    flags = dict(objective="causal" if causal else "masked", max_length=shape.max_length)
    facts = dict(kind="pretrain", family=hf.TYPES[name]["family"], model=asdict(shape), flags=flags)
    with run.claim(resume=False):
        run.create(facts | dict(imported=content_of(folder)), tokenizer)
        checkpoint.save(run.folder, 0, dict(tokens=0, targets=0, seconds=0.0), model=weights)
    return run


def export_run(run: Run, folder: Path) -> str:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json; the same run
    gives the same bytes. Returns the lines of Python that open them.

    A classifier that pools the mean becomes one that scores each token: W mean(h) + b is the mean
    of W h + b over the tokens. Raises UserError where no type of theirs computes what this run
    does, or the folder is in use."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name a new one")
    config, tokenizer, settings, head = run.config, run.tokenizer, {}, {}
    classes, flags, family = config.get("classes"), config["flags"], config["family"]
    if flags.get("task", "classify") != "classify":
        raise UserError(f"{run.folder} learnt to {flags['task']}: only classifiers and language "
                        f"models are exported")  # fmt: skip
    if classes:
        classifier = run.classifier()
        model, causal = classifier.transformer, flags.get("attention") == "causal"
        if family == "modernbert" or classifier.pooling != "mean":
            one = "with --pooling mean, from a run of the family ours, bert or gpt2"
            raise UserError(f"{run.folder} has no counterpart in transformers: fine-tune one {one}")
        task, place = "ForTokenClassification", "score" if family == "ours" else "classifier"
        head = {f"{place}.{key}": W for key, W in classifier.head.state_dict().items()}
        model.head = None  # BERT's, which predicts tokens
        settings["id2label"] = dict(enumerate(classes))
        settings["label2id"] = {label: i for i, label in enumerate(classes)}
    else:
        model, causal = run.transformer(), flags["objective"] != "masked"  # a hybrid continues
        task = "ForCausalLM" if causal or family in ("ours", "gpt2") else "ForMaskedLM"
        task = task if getattr(model.config, "head", True) else "Model"
    name = "persimmon" if family == "ours" else family
    name += "-decoder" * (family == "modernbert" and causal)
    kind, special = hf.TYPES[name], tokenizer.special
    ids = dict(pad=special.pad, bos=special.bos, eos=special.eos, cls=special.bos, sep=special.eos)
    settings |= {f"{role}_token_id": i for role, i in ids.items()}
    settings |= hf.write_shape(name, model.config) | dict(dtype="float32")
    settings["architectures"] = [kind["classes"] + kind.get(task, task)]
    if name == "bert":
        settings |= dict(type_vocab_size=1, is_decoder=causal)
    elif "causal" in kind and not causal:
        settings["is_causal"] = False  # transformers lets a decoder see in both directions, too
    tensors = hf.to_theirs(name, model.state_dict(), model.config) | head
    if classes:
        tensors.pop("lm_head.weight", None)  # which predicts tokens
    packed = tokenizers.import_library("safetensors.torch").save(tensors, {"format": "pt"})
    content, roles = tokenizer_files(tokenizer, model.config.max_length, causal and not classes)
    files = {"tokenizer.json": content, "tokenizer_config.json": roles, "config.json": settings}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "model.safetensors", packed)
    for file, said in files.items():
        write_file(folder / file, json.dumps(said, ensure_ascii=False, indent=1).encode())
    lines = OPENS + CLASSIFIES * bool(classes)
    return lines.format(f"AutoModel{task.removesuffix('Model')}", folder.as_posix())


def tokenizer_files(tokenizer, max_length: int, continues: bool) -> tuple[dict, dict]:
    """tokenizer.json and tokenizer_config.json. A text gets `frame`'s special tokens around it. One
    that is to be continued gets none after it (others' vocabularies stay as they came), and
    padding on its left, so that each text of a batch ends where its next token belongs."""
    if foreign := isinstance(tokenizer, tokenizers.ForeignTokenizer):
        content, roles, names = tokenizer.content, tokenizer.roles, tokenizer.names
    else:
        content, roles, names = json.loads(to_json(tokenizer)), tokenizers.OUR_ROLES, SPECIAL_TOKENS
    if not (foreign and continues):
        bos, eos = tokenizer.special.bos, tokenizer.special.eos
        begin, end = names[bos], names[eos]
        last = f" {end}" * (not continues)
        around = tokenizers.import_library("tokenizers").processors.TemplateProcessing(
            single=f"{begin} $A{last}", pair=f"{begin} $A {end} $B{last}",
            special_tokens=[(begin, bos), (end, eos)],
        )  # fmt: skip
        content = content | {"post_processor": json.loads(around.__getstate__())}
    return content, dict(
        tokenizer_class="PreTrainedTokenizerFast", model_max_length=max_length,
        clean_up_tokenization_spaces=False, padding_side="left" if continues else "right", **roles,
    )  # fmt: skip
