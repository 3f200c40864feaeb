"""What models and files contribute cannot command a terminal; tokenize says what is so; what
a terminal does ends in one line."""

import io
import os
import signal
import sys

import pytest
import torch

from minilm.cli import commands
from minilm.cli.flags import entry_point
from minilm.config import UserError
from minilm.io import terminal
from tests.machinery.small import pretrained

ATTACKS = ["\x1b[2J", "\x1b]0;t\x07", "\x9b31m", "a\rb", "\x7f", "\u202egnp.exe", "\ud800", "\0"]


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return str(pretrained(tmp_path_factory.mktemp("terminal") / "run").folder)


@pytest.mark.parametrize("attack", ATTACKS)
def test_control_sequences_are_written_out_on_a_terminal_and_untouched_in_files(attack):
    shown = terminal.printable(f"x{attack}y", Terminal())
    assert shown.isprintable() and shown.isascii() and "\\" in shown
    assert terminal.printable(f"x{attack}y", io.StringIO()) == f"x{attack}y"


@pytest.mark.parametrize("text", ["é ü 漢字 🙂\n\tok", "ab\\x1b", ""])
def test_ordinary_text_is_printed_as_it_is(text):
    assert terminal.printable(text, Terminal()) == text


def test_tokenize_shows_each_token_with_its_id_and_bytes(run, capsys):
    commands.tokenize(run, "the é")
    first, count, *rows = capsys.readouterr().out.splitlines()
    assert first.replace("][", "") in ("[the é]", "[the \\xc3\\xa9]")
    assert count == f"{len(rows)} tokens, 6 bytes"
    assert bytes.fromhex("".join(row[9:33] for row in rows)).decode() == "the é"


@pytest.mark.parametrize("no_color", [True, False])
def test_tokens_have_colours_on_a_terminal_and_cannot_bring_their_own(run, monkeypatch, no_color):
    monkeypatch.setattr("sys.stdout", out := Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    if not no_color:
        monkeypatch.delenv("NO_COLOR")
    commands.main(["tokenize", run, "the \x1b[2J array"])
    assert ("\x1b[30;4" in out.getvalue()) != no_color and "\x1b[2J" not in out.getvalue()


def test_whatever_is_printed_is_escaped_at_the_edge_once(monkeypatch):
    """Names of tensors, labels, files: no message has to think of it."""
    monkeypatch.setattr("sys.stdout", out := Terminal())
    monkeypatch.setattr("sys.stderr", err := Terminal())

    def command():
        print("a label:", ATTACKS[0], "é\n")
        terminal.note(f"a tensor: {ATTACKS[1]}")
        raise UserError(f"a file: {ATTACKS[2]}")

    with pytest.raises(SystemExit) as ended:
        entry_point(command)
    assert out.getvalue() == "a label: \\x1b[2J é\n\n"
    assert sys.stdout is out and ended.value.code == 2
    assert err.getvalue() == "a tensor: \\x1b]0;t\\x07\nerror: a file: \\x9b31m\n"
    monkeypatch.setattr("sys.stdout", out := io.StringIO())
    entry_point(lambda: print(ATTACKS[0]))
    assert out.getvalue() == ATTACKS[0] + "\n"


def test_output_that_nobody_reads_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # closed by whoever started us
    entry_point(lambda: print("x"))
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does
    with open(writing, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        entry_point(lambda: print("x"))


def test_two_ctrl_c_are_answered_once_and_too_little_memory_is_said(capsys):
    def start():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)

    def fill():
        raise MemoryError

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for main, status, said in ((start, 130, "stopped by Ctrl-C"), (fill, 2, "out of memory")):
            with pytest.raises(SystemExit) as ended:
                entry_point(main)
            assert ended.value.code == status and said in capsys.readouterr().err
        with pytest.raises(RuntimeError):  # a fault of ours is not hidden
            entry_point(lambda: torch.ones(2) @ torch.ones(3))
    finally:
        signal.signal(signal.SIGINT, usual)
