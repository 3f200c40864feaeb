"""Every function of the book is an exercise: a copy of the book in which one body is missing, to be
written anew until the book's own tests pass. Nothing here is written for a single exercise."""

import ast
import difflib
import importlib.util
import json
import random
import shutil
import sys
import textwrap
from pathlib import Path

from minilm.config import UserError
from minilm.io.durable import write_file
from minilm.learn.book import PAGES, changes, functions
from minilm.learn.runner import run

ROOT = Path(__file__).parents[2]
PATH = ("model.attention", "model.rotate", "model.visibility", "objectives.causal",
        "objectives.masked", "objectives.corrupt", "objectives.token_nll", "heads.pool",
        "optim.orthogonalise", "optim.schedule", "reference.softmax_backward",
        "reference.layer_norm_backward")  # fmt: skip
LEARN, SHOWN, MARKS = "python -m minilm learn", 8, {"solved": "✓", "given up": "·"}
THEN = f"then {LEARN} --check (--hint: a line of the book, --solution: all of it)"


def learn(
    exercise: str | None = None, *, check: bool = False, hint: bool = False, solution: bool = False,
    bug: str | None = None, page: str | None = None, again: bool = False,
) -> None:  # fmt: skip
    """Write a function of the book anew, and be told by the book's own tests: without a name, which
    there are. Works in the folder learn of a checkout. Raises UserError outside of one, for a name
    that there is not, and where more than one thing is asked for."""
    if sum(map(bool, (exercise, check, hint, solution, bug, page))) > 1:
        raise UserError("choose one: NAME, --check, --hint, --solution, --bug PAGE or --page PAGE")
    if (wrong := bug or page) and wrong not in PAGES:
        raise UserError(f"there is no page {wrong}: choose from {', '.join(PAGES)}")
    desk = Desk()
    if exercise:
        desk.begin_function(exercise, again)
    elif page:
        desk.begin_page(page, again)
    elif bug:
        desk.plant(bug)
    elif check:
        desk.check()
    elif hint or solution:
        desk.help(solution)
    else:
        desk.list()


class Desk:
    """The folder `learn`: a copy of the book, and what was done so far (state.json)."""

    def __init__(self):
        self.folder = ROOT / "learn"
        if not (ROOT / "tests" / "book").is_dir() or not importlib.util.find_spec("pytest"):
            raise UserError(f"{ROOT} has no tests/book, or pytest is missing: exercises need a "
                            f"checkout (git clone), and pip install pytest")  # fmt: skip
        self.book = {page: (ROOT / "minilm" / f"{page}.py").read_text("utf-8") for page in PAGES}
        self.exercises = {t: f for p in PAGES for t, f in functions(p, self.book[p]).items()}
        self.state = dict(now=None, done={}, hints={}, tests={}, seed=0, function=None)
        if (path := self.folder / "state.json").is_file():
            try:
                self.state |= json.loads(path.read_text("utf-8"))
            except ValueError:
                raise UserError(f"{path} is no JSON: delete it to begin anew") from None

    @property
    def now(self) -> str:
        """What is being done: an exercise, a page, or "bug " and a page."""
        if not self.state["now"]:
            raise UserError(f"no exercise was begun: {LEARN} {PATH[0]}")
        return self.state["now"]

    @property
    def page(self) -> str:
        """The page of it."""
        return self.now.split()[-1].split(".")[0]

    @property
    def file(self) -> Path:
        """Where to write, as a person here would type it."""
        path = self.folder / "minilm" / f"{self.page}.py"
        return path.relative_to(here) if path.is_relative_to(here := Path.cwd()) else path

    def save(self, **changed) -> None:
        """Remember what was done."""
        self.state |= changed
        write_file(self.folder / "state.json", json.dumps(self.state, indent=1).encode())

    def refresh(self, page: str) -> None:
        """Make the copy equal to the book, but for the page that is being written."""
        for name in ("minilm", "tests/book"):
            shutil.copytree(ROOT / name, self.folder / name, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
        for name in ("tests/__init__.py", "tests/conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder / name)
        self.file.write_text(page, "utf-8")

    def begin(self, now: str, source: str, again: bool, others: bool = True) -> list[dict]:
        """Put away what was being done, lay out the page `source`, and find which tests hold what
        is missing: the page's own, or, if none, those of all `others`. Then lay out what was
        written of it before, unless `again`."""
        (kept := self.folder / "kept").mkdir(parents=True, exist_ok=True)
        if self.state["now"] and self.file.is_file():
            shutil.copy(self.file, kept / f"{self.now}.py")
        self.state["now"] = now
        self.refresh(source)
        files = [f"tests/book/{path.name}" for path in sorted(ROOT.glob("tests/book/test_*.py"))]
        own = [file for file in files if f"/test_{self.page}" in file]
        failed = run(self.folder, self.page, own)
        if not failed and others:
            failed = run(self.folder, self.page, [file for file in files if file not in own])
        if (before := kept / f"{now}.py").is_file() and not again:
            shutil.copy(before, self.file)
        tests = dict.fromkeys(failure["test"] for failure in failed)
        whole = now not in self.exercises  # a page: then every test of its files
        tests = dict.fromkeys(test.split("::")[0] for test in tests) if whole else tests
        self.save(tests=self.state["tests"] | {now: list(tests)})
        return failed

    def begin_function(self, name: str, again: bool) -> None:
        """Cut one body out of the book; say what is to be written, where, and what holds it."""
        if not (f := self.exercises.get(name)):
            near = [title for title in self.exercises if title.endswith(f".{name}")]
            near = near or difflib.get_close_matches(name, self.exercises, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"{LEARN} lists them"
            raise UserError(f"there is no exercise {name}: {hint}")
        failed = self.begin(name, f.emptied(self.book[f.page]), again)
        print(f"{f.page}.{f.signature}\n\n{textwrap.indent(f.docstring, '    ')}\n")
        n = len(f.body(self.book[f.page]).splitlines())
        print(f"held by {sentences(failed)}\n\nwrite at {self.file}:{f.first + 1}; the book needs "
              f"{n} line{'s' * (n > 1)}\n{THEN}")  # fmt: skip

    def begin_page(self, page: str, again: bool) -> None:
        """Empty every body of a page."""
        source = self.book[page]
        for f in reversed(functions(page, source).values()):
            source = f.emptied(source)
        failed = self.begin(page, source, again)
        print(f"every body of {self.file} is empty; held by {sentences(failed)}\n{THEN}")

    def plant(self, page: str) -> None:
        """Change one sign, mask, shift or mean of a page, so that a test of it fails."""
        options, seed = list(changes(page, self.book[page])), self.state["seed"] + 1
        random.Random(f"{page} {seed}").shuffle(options)
        for title, source in options:
            if failed := self.begin(f"bug {page}", source, again=True, others=False):
                self.save(function=title, seed=seed)
                print(f"something in {self.file} was changed: {sentences(failed)}\n")
                print(f"{self.told(failed[0])}\n\n{THEN.replace('a line of the book', 'where')}")
                return
        raise UserError(f"no change of {page} is noticed: choose another page")

    def check(self) -> None:
        """Run the tests of what is being done: what fails first, or what comes after."""
        text = (self.folder / "minilm" / f"{self.page}.py").read_text("utf-8")
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise UserError(f"{self.file}:{error.lineno}: {error.msg}") from None
        self.refresh(text)
        if failed := run(self.folder, self.page, tests := self.state["tests"][self.now]):
            own = self.now.split(".")[-1]  # a sentence that names it says most
            first = min(failed, key=lambda failure: own not in failure["test"])
            print(f"not yet: {sentences(failed)}\n\n{self.told(first)}")
            sys.exit(1)
        self.state["done"].setdefault(self.now, "solved")
        self.save()
        print(f"solved: what failed ({len(tests)}) passes\n{self.difference()}")
        for title in [t for t in (*PATH, *self.exercises) if t not in self.state["done"]][:1]:
            print(f"next: {LEARN} {title}\n      {self.summary(title)}")

    def difference(self) -> str:
        """The page's difference to the book."""
        book, text = self.book[self.page], self.file.read_text("utf-8")
        if ast.dump(ast.parse(book)) == ast.dump(ast.parse(text)):
            return "it is the same as in the book"
        lines = [text.splitlines(), book.splitlines(), "yours", "the book"]
        return "\n".join(difflib.unified_diff(*lines, n=2, lineterm=""))

    def help(self, solution: bool) -> None:
        """The next line of the book's body, or all of it; of a planted change its function."""
        f, n = self.exercises.get(self.now), self.state["hints"].get(self.now, 0) + 1
        if not f and not solution and self.now == self.page:
            raise UserError(f"a page has no next line: take one function, {LEARN} {self.page}.NAME")
        if f:
            lines = f.body(self.book[f.page]).splitlines()
            print("\n".join(lines if solution else lines[:n]))
        else:
            print(self.difference() if solution else f"it is in {self.state['function']}")
        given_up = {self.now: "given up"} if solution else {}
        self.save(hints=self.state["hints"] | {self.now: n}, done=self.state["done"] | given_up)

    def list(self) -> None:
        """The path of twelve to begin with, and all exercises in reading order, done or not."""
        marks = {title: MARKS.get(self.state["done"].get(title), "") for title in self.exercises}
        print(f"to begin with ({LEARN} {PATH[0]}):")
        for title in PATH:
            print(f"  {marks[title]:1} {title:31} {self.summary(title)}")
        print("\nall, in reading order (✓ solved, · given up):")
        for page in PAGES:
            names = [f.name + marks[t] for t, f in self.exercises.items() if f.page == page]
            lines = textwrap.wrap("  ".join(names), 84, break_on_hyphens=False)
            print(f"  {page:13}" + f"\n{'':15}".join(lines))

    def summary(self, title: str) -> str:
        """What a function is, in one line."""
        about = self.exercises[title].docstring.split("\n\n")[0].rstrip(":")
        return textwrap.shorten(about, 66, placeholder=" …")

    def told(self, failure: dict) -> str:
        """A failure: the test, the formula of what is being written, the numbers that differ."""
        here = [int(line) for page, line in failure["where"] if page == self.page]
        f, text = self.exercises.get(self.now), self.file.read_text("utf-8")
        if self.now == self.page and here:
            inside = functions(self.page, text).values()
            f = next((f for f in inside if f.first < here[-1] <= f.end), None)
        at = [f"{self.file}:{here[-1]}"] if here else []
        formula = [textwrap.indent(f.docstring, "    ")] if f else []
        return "\n\n".join([failure["test"], *formula, "\n".join([*at, *failure["said"]])])


def sentences(failed: list[dict]) -> str:
    """The tests that fail, as sentences: their names are written as such."""
    names = dict.fromkeys(failure["test"].split("::")[-1].split("[")[0] for failure in failed)
    lines = [name.removeprefix("test_").replace("_", " ") for name in names]
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    head = f"{len(lines)} tests" if len(lines) > 1 else "one test"
    return "\n  - ".join([head, *lines[:SHOWN], *more])
