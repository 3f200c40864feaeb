"""What processes that train together agree on, and how a precision is chosen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minilm.config import UserError
from minilm.runs import device
from minilm.runs.device import Machine, choose_machine, choose_precision, matrix_rate

ROOT = Path(device.__file__).parents[2]
CPU = torch.device("cpu")
float32, bfloat16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_prepare_after_the_first_or_stop_with_it_without_a_word(
    monkeypatch, capsys, rank, failed
):
    told = []
    monkeypatch.setattr(Machine, "total", lambda _, *values: told.append(values) or [float(failed)])

    def prepare():
        if failed and rank == 0:
            raise UserError("no such file")
        return len(told)

    machine = Machine(CPU, rank=rank, world=2)
    if failed:
        with pytest.raises((UserError, SystemExit)) as caught:
            machine.first(prepare)
        assert caught.type == (SystemExit if rank else UserError)
    else:
        assert machine.first(prepare) == rank
    assert told == [(float(failed and rank == 0),)] and capsys.readouterr() == ("", "")


def test_a_device_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--device cuda: torch finds none here, only cpu"):
        choose_machine("cuda")


@pytest.mark.parametrize("rank, world", [("1", None), ("1", "1"), ("0", "x"), ("-1", "2")])
def test_a_place_among_processes_that_cannot_be_is_said(monkeypatch, rank, world):
    assert choose_machine("cpu", "float32").world == 1
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=f"RANK is {rank} of WORLD_SIZE {world or 1}"):
        choose_machine("cpu", "float32")


@pytest.mark.parametrize("ratio, chosen", [(0.01, float32), (1.1, float32), (4.0, bfloat16)])
def test_bfloat16_is_chosen_where_it_is_faster_as_measured_on_one_thread(
    monkeypatch, ratio, chosen
):
    # Many processors emulate bfloat16 a hundred times slower than they multiply float32; and two
    # threads on a busy machine wait for each other, which once made bfloat16 look faster.
    seen, threads = [], torch.get_num_threads()
    rate = lambda dtype, _: seen.append(torch.get_num_threads()) or {bfloat16: ratio}.get(dtype, 1)
    monkeypatch.setattr(device, "matrix_rate", rate)
    torch.set_num_threads(2)
    try:
        assert choose_machine("cpu").dtype == choose_precision("auto", CPU)[0] == chosen
        assert torch.get_num_threads() == 2 and {*seen} == {1}
    finally:
        torch.set_num_threads(threads)
    assert choose_precision("bfloat16", CPU) == (bfloat16, "bfloat16, as asked,")


@pytest.mark.parametrize("code, own, spin, block", [
    ("import minilm", {}, "3000", "1"),
    ("import minilm", dict(GOMP_SPINCOUNT="7"), "7", "None"),
    ("import minilm", dict(OMP_WAIT_POLICY="active"), "None", "None"),
    ("sys.modules['torch'] = 1; import minilm", {}, "None", "None"),
])  # fmt: skip
def test_threads_wait_politely_unless_torch_is_loaded_or_the_user_has_said_how(
    code, own, spin, block
):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    say = f"print(*map(os.environ.get, {names[1:]}), 'torch.nn' in sys.modules)"
    command = [sys.executable, "-c", f"import os, sys; {code}; {say}"]
    how = dict(env=plain | own, cwd=ROOT, text=True, check=True, capture_output=True)
    told = subprocess.run(command, **how)
    assert told.stdout.split() == [spin, block, "False"]


def test_the_matrix_rate_is_one_that_a_processor_can_have():
    assert 1e8 < matrix_rate(torch.float32, CPU) < 1e15
