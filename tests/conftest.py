"""What tests share."""

import os

import pytest
import torch

from minilm.corpora.tables import note

# For models this small, waking a second thread costs more than it does: here, and in what is begun.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def each_sentence_is_said_again():
    """Notes are said once a process: begin anew."""
    note.cache_clear()
