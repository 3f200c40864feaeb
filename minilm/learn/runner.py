"""Runs tests of the book inside a copy of it, in a process of its own, and notes what fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from minilm.config import UserError

LINES, SECONDS = 12, 600  # of what a failure says; that tests may take


class Notes:
    """A plugin of pytest: of each test that fails its name, what it said, and where."""

    def __init__(self):
        self.failed = []

    def pytest_runtest_logreport(self, report):
        """A test has run, or could not be collected."""
        if report.failed:
            text, crash = str(report.longrepr), getattr(report.longrepr, "reprcrash", None)
            said = crash.message if crash else "\n".join(re.findall("^E +(.*)", text, re.M))
            lines = [line for line in said.splitlines() if line.strip() and "Use -v" not in line]
            where = re.findall(r"^minilm[\\/](\w+)\.py:(\d+)", text, re.M)
            self.failed.append(dict(test=report.nodeid, said=lines[:LINES], where=where))

    pytest_collectreport = pytest_runtest_logreport

    def pytest_collection_finish(self):
        """torch.testing.assert_close says where two tensors differ; here also how."""
        if "torch" not in sys.modules:
            return
        import torch

        def assert_close(found, right, check=torch.testing.assert_close, **how):
            try:
                check(found, right, **how)
            except AssertionError as error:
                if found.shape != right.shape:
                    raise
                at = (found - right).abs().argmax().item()
                one, other = (f"{x.flatten()[at].item():.6g}" for x in (found, right))
                raise AssertionError(f"{one} was found, {other} expected\n{error}") from None

        torch.testing.assert_close = assert_close


def run_here(page: str, tests: list[str], *how: str) -> list[dict]:
    """Run tests in the current folder. Returns the failures. Raises UserError where what was tested
    is not the page that lies here."""
    import pytest

    how = ["--tb=short", "--continue-on-collection-errors", "-pno:cacheprovider", *how]
    status = pytest.main([*how, *tests], plugins=[notes := Notes()])
    tested, here = sys.modules.get(f"minilm.{page}"), Path("minilm", f"{page}.py").absolute()
    if tested and not os.path.samefile(tested.__file__, here):
        raise UserError(f"the tests ran {tested.__file__} instead of {here}")
    if not notes.failed and status != 0:
        raise UserError(f"pytest ended with status {int(status)}: begin the exercise --again")
    return notes.failed


def run(folder: Path, page: str, tests: list[str]) -> list[dict]:
    """`run_here` in another folder and process; what has not ended after SECONDS failed."""
    result, own = folder / "result.json", dict(PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1",
                                               PYTEST_ADDOPTS="", OMP_NUM_THREADS="1")  # fmt: skip
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "minilm.learn.runner", page, *tests]
    try:
        done = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True,
                              text=True, timeout=SECONDS)  # fmt: skip
    except subprocess.TimeoutExpired:
        return [dict(test=tests[0], said=[f"it did not end within {SECONDS} seconds"], where=[])]
    if not result.is_file():
        raise UserError((done.stderr or done.stdout).strip().splitlines()[-1])
    return json.loads(result.read_text("utf-8"))


if __name__ == "__main__":
    found = run_here(sys.argv[1], sys.argv[2:])
    Path("result.json").write_text(json.dumps(found), encoding="utf-8")
