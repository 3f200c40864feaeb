"""From dataclasses to command lines: one flag a field, errors in one line."""

import argparse
import dataclasses
import difflib
import os
import signal
import sys
import typing

from minilm.config import UserError, flag_name


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
            near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
            raise UserError(f"unknown argument {unknown[0]}: {hint}")
        return parsed


def add_flags(parser: argparse.ArgumentParser, config_class) -> None:
    """Add one flag for every field of a dataclass made with `config.flag`. What the command line
    leaves out is absent from what is parsed: the dataclass has the defaults."""
    for f in dataclasses.fields(config_class):
        options = dict(f.metadata, default=argparse.SUPPRESS)
        if f.type is bool:
            options |= dict(action="store_true")
        else:
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            type_, *_ = typing.get_args(f.type) or (f.type,)  # int | None -> int, list[str] -> str
            if typing.get_origin(type_) is list:  # list[int] | None -> int
                type_, *_ = typing.get_args(type_)
            options |= dict(type=type_)
            if default is not None:
                shown = " ".join(default) if isinstance(default, list) else default
                options["help"] += f" (default: {shown})"
            if "choices" not in options:
                options.setdefault("metavar", f.name.split("_")[-1].upper())
        parser.add_argument(flag_name(f.name), **options)


def parse_flags(config_class, description: str, argv: list[str] | None = None):
    """Read the command line into a dataclass, which remembers what was `given`. Raises
    UserError."""
    parser = Parser(description=description)
    add_flags(parser, config_class)
    given = vars(parser.parse_args(argv))
    config = config_class(**given)
    config.given = frozenset(given)
    return config


def entry_point(main):
    """Call main; what a person can put right becomes one line and an exit status. SIGTERM cleans up
    on the way out, as Ctrl-C does; afterwards it means what it meant before."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if hasattr(sys.stdout, "reconfigure"):  # a character the terminal cannot show is no error
        sys.stdout.reconfigure(errors="replace")
    try:
        main()
    except UserError as error:
        line = " ".join(str(error).splitlines())  # a name that it quotes may hold a line's end
        print(f"error: {line}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a name too long, a disk that fails: the system says what and where
        print(f"error: the system refuses: {error}", file=sys.stderr)
        sys.exit(UserError.status)
    finally:
        signal.signal(signal.SIGTERM, before)
