"""A compact Transformer, written to be read: pretrained by next-token or masked-token
prediction, then fine-tuned with the same weights. Start with `model.py` and `objectives.py`.

Importing this package imports nothing else, so that `--help` answers at once.
"""

__version__ = "0.1.0"
