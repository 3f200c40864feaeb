"""A long list of jobs under one bar: done once, and how long the rest will take."""

import pytest

from minilm.config import UserError
from minilm.experiments import work as module
from minilm.experiments.work import Work, shown


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to go on."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "PATIENCE", 0)
    return now


def steps(clock, seconds, *flops):
    """A job that counts its work so, each piece in so many seconds."""

    def do(advance):
        for amount in flops:
            clock[0] += seconds
            advance(amount)
        return {"found": len(flops)}

    return do


def test_the_time_left_is_what_is_left_at_the_speed_so_far(tmp_path, clock, capsys):
    work = Work(tmp_path)
    with shown(work, 400.0):
        work.job("first", 200.0, steps(clock, 60, 100.0, 100.0))
    assert capsys.readouterr().out.splitlines() == [
        "25%, 3.0 min left: first",
        "50%, 2.0 min left: first",
    ]


def test_work_that_is_not_counted_does_not_make_the_rest_look_longer(tmp_path, clock, capsys):
    def count_words(advance):
        clock[0] += 10_000
        return {}

    work = Work(tmp_path)
    with shown(work, 200.0):
        work.job("words", 0.0, count_words)
        work.job("first", 100.0, steps(clock, 60, 100.0))
    assert capsys.readouterr().out == "50%, 1.0 min left: first\n"


def test_a_job_that_was_done_before_is_read_and_taken_off_the_plan(tmp_path, clock, capsys):
    work = Work(tmp_path)
    with shown(work, 100.0):
        work.job("first", 100.0, steps(clock, 60, 100.0))
    again = Work(tmp_path)
    with shown(again, 300.0):
        found = again.job("first", 100.0, lambda advance: pytest.fail("done twice"))
        again.job("second", 200.0, steps(clock, 60, 100.0))
    assert found == {"seconds": 60.0, "found": 1}
    assert capsys.readouterr().out.splitlines()[-1] == "50%, 1.0 min left: second"
    assert again.seconds() == 120.0


def test_a_job_cheaper_than_planned_takes_the_rest_off_the_plan(tmp_path, clock, capsys):
    work = Work(tmp_path)
    with shown(work, 300.0):
        work.job("first", 200.0, steps(clock, 60, 100.0))
        work.job("second", 100.0, steps(clock, 60, 50.0))
    assert capsys.readouterr().out.splitlines()[-1] == "75%, 0.7 min left: second"


def test_a_damaged_job_is_one_line(tmp_path):
    (tmp_path / "first.json").write_text('{"sec')
    work = Work(tmp_path)
    with shown(work, 1.0), pytest.raises(UserError, match=r"first\.json is damaged: delete it"):
        work.job("first", 1.0, lambda advance: {})
