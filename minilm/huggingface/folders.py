"""A Hugging Face folder as a run, which everything else then uses as if it had been trained here;
and a run as a folder that Hugging Face's transformers opens with no code of ours."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from minilm.config import UserError
from minilm.huggingface.tokenizers import (
    ForeignTokenizer,
    import_library,
    read_json,
    read_tokenizer,
)
from minilm.huggingface.weights import (
    TYPES,
    read_shape,
    read_tensors,
    to_ours,
    to_theirs,
    write_shape,
)
from minilm.runs import checkpoint
from minilm.runs.durable import write_file, writing
from minilm.runs.run import RUNS, Run
from minilm.tokenizer import SPECIAL_TOKENS

FILES = ("config.json", "model.safetensors", "pytorch_model.bin")
LANGUAGE_MODELS = {  # their classes, where the attention is bidirectional, and where it is causal
    "bert": ("BertForMaskedLM", "BertLMHeadModel"),
    "gpt2": ("GPT2LMHeadModel", "GPT2LMHeadModel"),
    "modernbert": ("ModernBertForMaskedLM", ""),
    "modernbert-decoder": ("", "ModernBertDecoderForCausalLM"),
    "persimmon": ("PersimmonForCausalLM", "PersimmonForCausalLM"),
}
TOKEN_CLASSIFIERS = {  # their class for labels, and the name of its last layer
    "bert": ("BertForTokenClassification", "classifier"),
    "gpt2": ("GPT2ForTokenClassification", "classifier"),
    "persimmon": ("PersimmonForTokenClassification", "score"),
}


def pretrained_run(name: str | Path) -> Run:
    """The run that `--init` or `--pretrained` names: a run folder; or `hf:` and a folder of Hugging
    Face's or a name on its hub, which is imported into runs/ unless it was before."""
    if not str(name).startswith("hf:"):
        return Run(name)
    name = str(name).removeprefix("hf:")
    folder = find_folder(name)
    source = [str(folder.resolve())]  # and sizes and times, to see whether it has changed
    for path in (folder / file for file in FILES if (folder / file).exists()):
        source += [path.stat().st_size, path.stat().st_mtime_ns]
    called = (folder if Path(name).is_dir() else Path(name)).resolve().name or "imported"
    i = 1
    while True:
        run = Run(RUNS / f"{called}{f'-{i}' * (i > 1)}")
        if not (run.folder / "config.json").exists():
            return import_folder(folder, run, source)
        if run.config.get("imported") == source and any(run.folder.glob("step-*")):
            return run
        i += 1


def find_folder(name: str) -> Path:
    """A folder that is there, or else the hub's files of that name. Raises UserError where it is
    neither, or `huggingface_hub`, which asks the hub, is not installed."""
    if Path(name).is_dir():
        return Path(name)
    try:
        hub = import_library("huggingface_hub")
        wanted = [*FILES, "*token*.json", "vocab.*", "merges.txt"]
        return Path(hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # of many kinds: no such name, no network, no right to read it
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{name}: no such folder, and the hub gives none ({reason})") from None


def import_folder(folder: Path, run: Run, source: list | None = None) -> Run:
    """Write the model and tokenizer of a Hugging Face folder as a run. Says which tensors it leaves
    out. Raises UserError where they cannot be ours, or where there is a run already."""
    try:
        config = read_json(folder / "config.json")
        shape, kind = read_shape(config), TYPES[config["model_type"]]
        shape, weights, left_out = to_ours(kind, read_tensors(folder), shape)
        tokenizer = read_tokenizer(folder)
        if tokenizer.vocab_size > shape.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {shape.vocab_size}"
            )
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if left_out:
        print(f"{folder}: without its head ({', '.join(left_out)})", file=sys.stderr)
    if not getattr(shape, "head", True):
        print(f"{folder}: fine-tune it; it has nothing that predicts tokens", file=sys.stderr)
    causal = kind.causal or bool(config.get("is_decoder"))
    flags = dict(objective="causal" if causal else "masked", max_length=shape.max_length)
    facts = dict(kind="pretrain", family=kind.family, model=asdict(shape), flags=flags)
    run.claim(resume=False)
    run.create({**facts, "imported": source or [str(folder.resolve())]}, tokenizer)
    checkpoint.save(run.folder, 0, dict(tokens=0, targets=0, seconds=0.0), model=weights)
    run.release()
    return run


def export_run(run: Run, folder: Path) -> str:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json; the same run
    gives the same bytes. Returns the lines of Python that open them.

    A classifier that pools the mean becomes one that scores each token, for W mean(h) + b is the
    mean of W h + b over the tokens.

    Raises UserError where no type of theirs computes what this run does, or the folder is in use.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name a new one")
    config, tokenizer = run.config, run.tokenizer
    classes, flags = config.get("classes"), config["flags"]
    if classes:
        classifier, _ = run.classifier()
        model, causal = classifier.transformer, flags.get("attention") == "causal"
    else:
        model, causal = run.transformer(), flags["objective"] != "masked"  # a hybrid continues
    modern = "modernbert-decoder" if causal else "modernbert"
    name = {"ours": "persimmon", "modernbert": modern}.get(config["family"], config["family"])
    kind, weights = TYPES[name], model.state_dict()
    settings = write_shape(name, model.config)
    if name == "bert":
        settings |= dict(type_vocab_size=1, is_decoder=causal)
    elif kind.causal and not causal:
        settings["is_causal"] = False  # transformers lets a decoder see in both directions, too
    if classes:
        if name not in TOKEN_CLASSIFIERS or classifier.pooling != "mean":
            raise UserError(
                f"{run.folder}: of classifiers only those of the family ours, bert or gpt2 with "
                f"--pooling mean have a counterpart in transformers: fine-tune one to export"
            )
        theirs, head = TOKEN_CLASSIFIERS[name]
        weights = {n: w for n, w in weights.items() if not n.startswith("head.")}
        settings |= dict(id2label={str(i): label for i, label in enumerate(classes)})
        settings |= dict(label2id={label: i for i, label in enumerate(classes)})
    else:
        theirs = LANGUAGE_MODELS[name][causal]
    if not (classes or getattr(model.config, "head", True)):
        theirs = {"bert": "BertModel"}.get(name, theirs.partition("For")[0] + "Model")
    tensors = to_theirs(kind, weights, model.config)
    if classes:
        tensors |= {f"{head}.{n}": w for n, w in classifier.head.state_dict().items()}
    special = tokenizer.special
    settings |= dict(
        architectures=[theirs], dtype="float32", pad_token_id=special.pad, sep_token_id=special.eos,
        bos_token_id=special.bos, eos_token_id=special.eos, cls_token_id=special.bos,
    )  # fmt: skip
    continues = causal and not classes
    files = {
        "tokenizer.json": tokenizer_json(tokenizer, continues),
        "tokenizer_config.json": tokenizer_config(tokenizer, model.config.max_length, continues),
        "config.json": settings,  # last: now it is a model
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save = import_library("safetensors.torch").save
    write_file(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    for file, content in files.items():
        write_file(folder / file, json.dumps(content, ensure_ascii=False, indent=1).encode())
    opens = "AutoModel" + theirs.partition("For")[1] + theirs.partition("For")[2]
    opens = "AutoModelForCausalLM" if theirs.endswith("LMHeadModel") else opens
    lines = [
        f"from transformers import {opens}, AutoTokenizer",
        f'model = {opens}.from_pretrained("{folder.as_posix()}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder.as_posix()}")',
    ]
    if classes:
        lines += [
            'inputs = tokenizer("A text.", return_tensors="pt", truncation=True)',
            "model(**inputs).logits.mean(1).softmax(-1)  # in the order of model.config.id2label",
        ]
    return "\n".join(lines)


def tokenizer_json(tokenizer, continues: bool) -> dict:
    """Their tokenizer. A text gets the special tokens of `frame` around it; one that is to be
    continued gets none after it, and others' vocabularies are continued as they came."""
    from minilm.runs.tokenizer_file import to_json

    foreign = isinstance(tokenizer, ForeignTokenizer)
    content = tokenizer.content if foreign else json.loads(to_json(tokenizer))
    if foreign and continues:
        return content
    names = tokenizer.names if foreign else SPECIAL_TOKENS
    marks = tokenizer.special.bos, tokenizer.special.eos
    begin, end = ({"SpecialToken": {"id": names[i], "type_id": 0}} for i in marks)
    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    after = [] if continues else [end]
    around = {
        "type": "TemplateProcessing",
        "single": [begin, first, *after],
        "pair": [begin, first, end, second, *after],
        "special_tokens": {names[i]: dict(id=names[i], ids=[i], tokens=[names[i]]) for i in marks},
    }
    return content | {"post_processor": around}


def tokenizer_config(tokenizer, max_length: int, continues: bool) -> dict:
    """What the special tokens are for, and on which side padding goes: on the left of texts that
    are to be continued, so that each ends where its next token belongs."""
    pad, mask, doc = SPECIAL_TOKENS
    roles = dict.fromkeys(("bos_token", "eos_token", "cls_token", "sep_token", "unk_token"), doc)
    return dict(
        tokenizer_class="PreTrainedTokenizerFast", model_max_length=max_length,
        clean_up_tokenization_spaces=False, padding_side="left" if continues else "right",
        **getattr(tokenizer, "roles", roles | dict(pad_token=pad, mask_token=mask)),
    )  # fmt: skip
