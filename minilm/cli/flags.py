"""From dataclasses to command lines: one flag a field, errors in one line.

No torch is imported here, so that `--help` answers before it is loaded.
"""

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import os
import signal
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from minilm.config import UserError
from minilm.io.terminal import Escaping, printable

NEEDED = ("numpy", "torch", "tqdm")


def flag(default, help, low: float = 0, high: float = 2**40, group=None, kw_only=True, **options):
    """A dataclass field that is also a flag, or (not kw_only) told by its place; a number lies from
    low to high. `options` are argparse's (choices, metavar)."""
    metadata = dict(help=help, low=low, high=high, group=group, options=options)
    if isinstance(default, list):
        return field(default_factory=default.copy, kw_only=kw_only, metadata=metadata)
    return field(default=default, kw_only=kw_only, metadata=metadata)


def flag_name(name: str) -> str:
    """learning_rate -> --learning-rate"""
    return "--" + name.replace("_", "-")


def fitting(value, kind):
    """The value as a field of this kind holds it: NumPy's numbers as Python's, a path as text or a
    text as a path, one text as a list of one. Raises TypeError where it does not fit."""
    if getattr(value, "shape", None) == ():  # NumPy's
        value = value.item()
    if kind == list[str]:
        several = isinstance(value, list | tuple)
        return [fitting(item, str) for item in (value if several else [value])]
    kinds = typing.get_args(kind) or (kind,)  # int | None -> int, None
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if Path not in kinds and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, (*kinds, int) if float in kinds else kinds) or (
        isinstance(value, bool) and bool not in kinds
    ):
        raise TypeError
    return value


@dataclass
class Flags:
    """What a command takes. Raises UserError for a value that a flag does not take."""

    given: ClassVar = frozenset()  # the names of the fields that were on the command line

    def __post_init__(self):
        for f in dataclasses.fields(self):
            value, name = getattr(self, f.name), flag_name(f.name)
            try:
                setattr(self, f.name, value := fitting(value, f.type))
            except TypeError:
                raise UserError(f"{name} cannot be {value!r:.50}") from None
            choices = f.metadata["options"].get("choices", [value])
            if value is not None and value not in choices:
                raise UserError(f"{name} {value}: choose from {', '.join(choices)}")
            if isinstance(value, int | float):
                low, high = f.metadata["low"], f.metadata["high"]
                if not low <= value <= high:
                    raise UserError(f"{name} is {value}: give {low:g} to {high:g}")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors, and name the nearest flag that exists."""

    def error(self, message: str):
        """Raise what argparse would have printed."""
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args=None, namespace=None):
        """As argparse's. Raises UserError for what it does not know: --lr are the first letters of
        --learning-rate; else it names the flag that is spelt most alike."""
        parsed, unknown = self.parse_known_intermixed_args(args, namespace)
        if not unknown:
            return parsed
        word = unknown[0].split("=")[0]
        names = [name for name in self._option_string_actions if name.startswith("--")]
        letters = {"--" + "".join(part[0] for part in n[2:].split("-")): n for n in names}
        near = [letters[word]] if word in letters else difflib.get_close_matches(word, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
        raise UserError(f"unknown argument {unknown[0]}: {hint}")


def parse_flags(options_class, description: str, argv=None, prog: str | None = None):
    """Read the command line (argv, or the process's own) into a dataclass, which has a flag for
    each field, the defaults, and remembers what was `given`. Raises UserError."""
    parser = Parser(prog=prog, description=description, allow_abbrev=False)
    groups = {None: parser}
    for f in dataclasses.fields(options_class):
        how = dict(default=argparse.SUPPRESS, help=f.metadata["help"], **f.metadata["options"])
        kind, *_ = typing.get_args(f.type) or (f.type,)  # int | None -> int, list[str] -> str
        default, name = f.default, flag_name(f.name)
        if f.default_factory is not dataclasses.MISSING:
            default, how["nargs"] = " ".join(f.default_factory()), "+"
        if not f.kw_only:
            name, how["metavar"], how["type"] = f.name, f.name.upper(), kind
            how["nargs"] = None if default is dataclasses.MISSING else "?"
        elif kind is bool:
            how["action"] = "store_true" if f.type is bool else argparse.BooleanOptionalAction
        else:
            how["type"] = kind
            how["help"] += f" (default: {default})" if default is not None else ""
            if "choices" not in how:
                how.setdefault("metavar", f.name.split("_")[-1].upper())
        how["help"] = how["help"].replace("%", "%%")
        if (group := f.metadata["group"]) not in groups:
            groups[group] = parser.add_argument_group(group)
        groups[group].add_argument(name, **how)
    given = vars(parser.parse_args(argv))
    options = options_class(**given)
    options.given = frozenset(given)
    return options


def flags_of(function: Callable, about: dict[str, dict]) -> type[Flags]:
    """What a function takes: its one parameter's dataclass, or one made of its parameters, of which
    those after the * are flags, those before it are told by their place. about: of each its help,
    range and choices."""
    fields = []
    for p in inspect.signature(function).parameters.values():
        if isinstance(p.annotation, type) and issubclass(p.annotation, Flags):
            return p.annotation
        default = dataclasses.MISSING if p.default is p.empty else p.default
        how = dict(kw_only=p.kind is p.KEYWORD_ONLY, **about[p.name])
        fields.append((p.name, p.annotation, flag(default, **how)))
    return dataclasses.make_dataclass(function.__name__, fields, bases=(Flags,))


def entry_point(main: Callable[[], None]) -> None:
    """Call main; what a person can put right becomes one line and an exit status. SIGTERM cleans up
    on the way out, as Ctrl-C does; afterwards it means what it meant before."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    usual = signal.getsignal(signal.SIGINT)

    def interrupted(*_) -> None:
        """Ctrl-C, which a second one must not break into: the process is about to end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    closed = open(os.devnull, "w")  # noqa: SIM115
    sys.stdout, sys.stderr = sys.stdout or closed, sys.stderr or closed
    if hasattr(out := sys.stdout, "reconfigure"):  # a character it cannot show is no error
        out.reconfigure(errors="replace")
    if out.isatty():  # what models and files contribute cannot command a terminal
        sys.stdout = Escaping(out)
    said, status = "", 0
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        said, status = str(error), error.status
    except KeyboardInterrupt:
        said, status = "stopped by Ctrl-C", 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        said, status = f"{error.name} is missing: pip install {' '.join(NEEDED)}", UserError.status
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a name too long, a disk that fails: the system says what and where
        said, status = f"the system refuses: {error}", UserError.status
    except (MemoryError, RuntimeError) as error:
        if "memory" not in f"{error!r}".lower():
            raise
        said = "out of memory: give a smaller --batch-size or --size, or a larger --accumulate"
        status = UserError.status
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.stdout = out
        if signal.getsignal(signal.SIGINT) is interrupted:
            signal.signal(signal.SIGINT, usual)
    if status:
        line = " ".join(said.splitlines())  # a name that it quotes may hold a line's end
        with contextlib.suppress(OSError):  # nobody listens
            print(f"error: {printable(line, sys.stderr)}", file=sys.stderr)
        sys.exit(status)
