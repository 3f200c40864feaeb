"""From dataclasses to command lines: one flag a field, errors in one line."""

import argparse
import contextlib
import dataclasses
import difflib
import os
import signal
import sys
import typing
from collections.abc import Callable

from minilm.cli.options import flag_name
from minilm.cli.terminal import printable
from minilm.config import UserError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors, and name the nearest flag that exists."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str):
        """Raise what argparse would have printed."""
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args=None, namespace=None):
        """As argparse's. Raises UserError for what it does not know."""
        parsed, unknown = self.parse_known_intermixed_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            raise UserError(f"unknown argument {unknown[0]}: {self._hint(unknown[0], known)}")
        return parsed

    def _hint(self, unknown: str, known: list[str]) -> str:
        """--lr are the first letters of --learning-rate; else the name spelt most alike."""
        unknown = unknown.split("=")[0]
        known = [name for name in known if name.startswith("--")]
        initials = {"--" + "".join(p[0] for p in name[2:].split("-")): name for name in known}
        near = difflib.get_close_matches(unknown, known, n=1)
        near = [initials[unknown]] if unknown in initials else near
        return f"did you mean {near[0]}?" if near else f"see {self.prog} --help"


def add_flags(parser: argparse.ArgumentParser, options_class) -> None:
    """Add one flag for every field of a dataclass made with `options.flag`. What the command line
    leaves out is absent from what is parsed: the dataclass has the defaults."""
    groups = {None: parser}
    for f in dataclasses.fields(options_class):
        kwargs = {k: v for k, v in f.metadata.items() if k not in ("low", "high", "group")}
        kwargs["default"] = argparse.SUPPRESS
        if f.type is bool:
            kwargs |= dict(action="store_true")
        elif f.type == bool | None:
            kwargs |= dict(action=argparse.BooleanOptionalAction)
        else:
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            type_, *_ = typing.get_args(f.type) or (f.type,)  # int | None -> int, list[str] -> str
            if typing.get_origin(type_) is list:  # list[int] | None -> int
                type_, *_ = typing.get_args(type_)
            kwargs |= dict(type=type_)
            if default is not None:
                shown = " ".join(map(str, default)) if isinstance(default, list) else default
                kwargs["help"] += f" (default: {shown})"
            if "choices" not in kwargs:
                kwargs.setdefault("metavar", f.name.split("_")[-1].upper())
        kwargs["help"] = kwargs["help"].replace("%", "%%")
        if (group := f.metadata.get("group")) not in groups:
            groups[group] = parser.add_argument_group(group)
        groups[group].add_argument(flag_name(f.name), **kwargs)


def parse_flags(options_class, description: str, argv=None, prog: str | None = None):
    """Read the command line (argv, or the process's own) into a dataclass, which remembers what was
    `given`. Raises UserError."""
    parser = Parser(prog=prog, description=description)
    add_flags(parser, options_class)
    given = vars(parser.parse_args(argv))
    options = options_class(**given)
    options.given = frozenset(given)
    return options


def entry_point(main: Callable[[], None]) -> None:
    """Call main; what a person can put right becomes one line and an exit status. SIGTERM cleans up
    on the way out, as Ctrl-C does; afterwards it means what it meant before."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if hasattr(sys.stdout, "reconfigure"):  # a character the terminal cannot show is no error
        sys.stdout.reconfigure(errors="replace")
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _complain(str(error))
        sys.exit(error.status)
    except KeyboardInterrupt:
        _complain("stopped by Ctrl-C")
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a name too long, a disk that fails: the system says what and where
        _complain(f"the system refuses: {error}")
        sys.exit(UserError.status)
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(text: str) -> None:
    line = " ".join(text.splitlines())  # a name that it quotes may hold a line's end
    with contextlib.suppress(OSError, ValueError):  # closed
        print(f"error: {printable(line, sys.stderr)}", file=sys.stderr)
