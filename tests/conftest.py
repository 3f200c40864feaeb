"""What tests share."""

import os

# For models this small, waking a second thread costs more than it does; torch reads it once.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from minilm.corpora.tables import note


@pytest.fixture(autouse=True)
def each_sentence_is_said_again():
    """Notes are said once a process: begin anew."""
    note.cache_clear()
