"""`python -m minilm view`: write a page, say where it is."""

import webbrowser
from pathlib import Path

import numpy as np

from minilm.cli.options import FinetuneConfig, saved_options
from minilm.cli.terminal import printable
from minilm.config import UserError
from minilm.runs.durable import write_file
from minilm.view import run_page
from minilm.view.pages import inside_page


def view(run: str, text: str | None = None, open: bool = False, device: str = "auto") -> Path:
    """Write view.html into the run's folder; or, of a pretraining run and a text, inside.html.
    Returns its path. Raises UserError where the run or its data cannot be used."""
    import minilm

    model = minilm.load(run, device=device)
    folder = model.run_folder
    if not hasattr(model, "generate"):
        more = run_page.text_section(model, text) if text is not None else _tested(model)
        path = run_page.write_run_page(folder, more)
    elif text is None:
        path = run_page.write_run_page(folder)
    ...
