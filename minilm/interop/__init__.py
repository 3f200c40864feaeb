"""Hugging Face's folders: their weights in, our weights out."""

from minilm.interop.exporting import export_run
from minilm.interop.importing import find_folder, import_folder, pretrained_run, read_folder

__all__ = ["export_run", "find_folder", "import_folder", "pretrained_run", "read_folder"]
