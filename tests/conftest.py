"""What tests share."""

import pytest
import torch

from minilm.corpora.tables import note

torch.set_num_threads(1)  # for models this small, waking a second thread costs more than it does


@pytest.fixture(autouse=True)
def each_sentence_is_said_again():
    """Notes are said once a process: begin anew."""
    note.cache_clear()
