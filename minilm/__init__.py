"""A compact Transformer to read and to run: its own tokenizer, causal and masked pretraining,
fine-tuning with the same weights. Start with `objectives.py` and `model.py`.

    lm = minilm.load("runs/pretrain-1")      # what it can do: minilm/api.py
"""

__version__ = "0.1.0"
__all__ = ["Classifier", "LanguageModel", "finetune", "load", "pretrain"]


def __getattr__(name: str):
    """The interface of api.py, imported once it is asked for: torch takes seconds to load."""
    if name not in __all__:
        raise AttributeError(f"module 'minilm' has no attribute {name!r}")
    from minilm import api

    return getattr(api, name)


def __dir__():
    return [*globals(), *__all__]
