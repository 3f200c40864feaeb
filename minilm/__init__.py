"""A compact Transformer to read and to run: its own tokenizer, causal and masked pretraining,
fine-tuning with the same weights. Start with `objectives.py` and `model.py`."""

__version__ = "0.1.0"
