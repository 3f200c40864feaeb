"""A compact Transformer to read and to run: its own tokenizer, causal and masked pretraining,
fine-tuning with the same weights. Start with `objectives.py` and `model.py`.

The three functions are the Python interface; importing minilm imports nothing else yet, for torch
takes seconds to load. What the loaded models can do: `cli/api.py`.
"""

import os
import sys

# At the end of each product torch's threads wait for each other, and before they sleep they spin: a
# few microseconds are worth it; the milliseconds of the default are taken from themselves where
# another program wants the core, too, and make training forty times slower. Libraries of OpenMP
# read this when torch is loaded. GOMP_SPINCOUNT is GNU's, in rounds; KMP_BLOCKTIME Intel's and
# LLVM's, in milliseconds.
_POLITE = dict(GOMP_SPINCOUNT="3000", KMP_BLOCKTIME="1")
if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", *_POLITE} & os.environ.keys():
    os.environ |= _POLITE

__version__ = "0.1.0"
__all__ = ["finetune", "load", "pretrain"]


def load(run: str, device: str = "auto"):
    """Open a run folder, or "hf:FOLDER" with weights of Hugging Face's: a LanguageModel, or of a
    fine-tuning run a FineTuned, which is a Classifier where it labels texts. It uses the run's best
    checkpoint, in float32. Raises UserError where there is no such run, device or whole checkpoint.

    >>> load("runs/pretrain-1"), load("runs/finetune-1")
    (LanguageModel('runs/pretrain-1'), Classifier('runs/finetune-1'))
    """
    from minilm.cli.api import Classifier, FineTuned, LanguageModel
    from minilm.huggingface.folders import pretrained_run

    config = (opened := pretrained_run(run)).config
    if config["kind"] == "pretrain":
        return LanguageModel(str(opened.folder), device)
    labels = config["flags"].get("task", "classify") == "classify"
    return (Classifier if labels else FineTuned)(str(opened.folder), device)


def pretrain(**flags):
    """Train as `train_pretrain.py` does, its flags as keyword arguments (`--max-length 64` is
    `max_length=64`), and load what was learnt: `minilm.pretrain(data=["a.txt"], steps=100)`.
    Raises UserError for a flag that there is not, or a value that it does not take."""
    return _train("pretrain", flags)


def finetune(**flags):
    """Train as `train_finetune.py` does, likewise: `minilm.finetune(train="a.csv", epochs=5)`."""
    return _train("finetune", flags)


def _train(kind: str, flags: dict):
    import importlib

    from minilm.cli import options
    from minilm.config import UserError

    options = options.PretrainConfig if kind == "pretrain" else options.FinetuneConfig
    if unknown := flags.keys() - options.__dataclass_fields__.keys():
        raise UserError(f"{min(unknown)} is no flag of train_{kind}.py: see its --help")
    (config := options(**flags)).given = frozenset(flags)
    train = getattr(importlib.import_module(f"train_{kind}"), kind)
    return load(train(config).folder, config.device)
