"""What processes that train together agree on."""

import pytest
import torch

from minilm.config import UserError
from minilm.device import Machine


def make_machine(monkeypatch, rank, failed):
    """One of two processes, which is told that so many have failed."""
    told = []
    monkeypatch.setattr(Machine, "total", lambda _, *values: told.append(values) or [failed])
    return Machine(torch.device("cpu"), False, "", rank, world=2), told


def fail():
    raise UserError("no such file")


def test_an_error_of_the_first_process_is_told_to_all_and_raised(monkeypatch):
    machine, told = make_machine(monkeypatch, rank=0, failed=1.0)
    with pytest.raises(UserError, match="no such file"):
        machine.first(fail)
    assert told == [(1.0,)]


def test_an_error_of_the_first_process_stops_the_others_without_a_word(monkeypatch, capsys):
    machine, told = make_machine(monkeypatch, rank=1, failed=1.0)
    with pytest.raises(SystemExit) as caught:
        machine.first(lambda: pytest.fail("the others wait for the first"))
    assert caught.value.code == UserError.status == 2
    assert told == [(0.0,)] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_prepares_once_the_others_after_the_first(monkeypatch, rank):
    machine, told = make_machine(monkeypatch, rank, failed=0.0)
    assert machine.first(lambda: len(told)) == rank and told == [(0.0,)]
