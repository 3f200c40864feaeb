"""What processes that train together agree on, and how a precision is chosen."""

import pytest
import torch

from minilm import device
from minilm.config import UserError
from minilm.device import Machine, choose_precision, matrix_rate

CPU = torch.device("cpu")


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


def slow_at(monkeypatch, gflops):
    """Let a clock say that products run at so many GFLOP/s for each dtype; returns what was run."""
    done = []

    def seconds(a):
        done.append(2 * len(a) ** 3 / (1e9 * gflops[a.dtype]))
        return done[-1]

    monkeypatch.setattr(device, "_seconds", seconds)
    return done


@pytest.mark.parametrize("bfloat16, chosen", [(1, False), (110, False), (400, True)])
def test_bfloat16_is_chosen_where_it_is_faster_and_measured_briefly_where_it_is_not(
    monkeypatch, bfloat16, chosen
):
    # Many processors emulate bfloat16 a hundred times slower than they multiply float32.
    done = slow_at(monkeypatch, {torch.float32: 100, torch.bfloat16: bfloat16})
    assert choose_precision("auto", CPU)[0] == chosen
    assert sum(done) < 0.5


def test_the_matrix_rate_is_that_of_the_first_product_long_enough_to_be_timed(monkeypatch):
    done = slow_at(monkeypatch, {torch.float32: 50})
    assert matrix_rate(torch.float32, CPU) == pytest.approx(50e9)
    assert done[-1] > 0.01 > done[-4]


def test_precisions_are_compared_on_one_thread_and_all_are_given_back(monkeypatch):
    # Two threads on a busy machine wait for each other, which once made bfloat16 look faster.
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    monkeypatch.setattr(device, "matrix_rate", lambda *_: seen.append(torch.get_num_threads()) or 1)
    try:
        choose_precision("auto", CPU)
        assert seen == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
