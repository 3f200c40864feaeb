"""The documentation that came with the packages, a corpus that needs no download: docstrings and
other long strings of the standard library, NumPy, PyTorch (with SymPy and NetworkX, which it brings
along) and pytest, where these are installed. The source files are parsed with `ast` and never run.

The labelled task: which part of which library does the first sentence of a text document?
"""

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import json
import os
import platform
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from minilm.config import UserError
from minilm.corpora.files import Example, fraction, held_out, normalised
from minilm.corpora.tables import read_rows, text_of
from minilm.corpora.workers import parallel
from minilm.io.durable import writing

FOLDER = Path("data") / "python-docs"
PACKAGES = ("numpy", "torch", "sympy", "networkx", "_pytest")
# Folders of tests, of tables, of copies of other packages: much source, little prose.
SKIPPED = {"test", "tests", "idle_test", "_internal", "lib2to3", "encodings", "_vendor"}
SKIPPED |= {"site-packages", "dist-packages"}  # inside the standard library's folder
SHORTEST = 60  # characters
MIN_SHARE = 0.2  # of a file that lies between triple quotes: parsing the others takes too long
TRIPLE_QUOTED = re.compile(rb'"""(.*?)"""|' + rb"'''(.*?)'''", re.DOTALL)
SYMBOL = re.compile(r"[^\w\s]|[\d_]")
SIGNATURE = re.compile(r"[\w.]+ ?\(.*\)( ?->.*)?|[-=~*#]+|\W*")  # "add(a, b) -> Tensor", a rule
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`:*])")

PARTS = {  # label: where its files lie
    "email and web": "stdlib/email/ stdlib/http/ stdlib/urllib/ stdlib/xml",
    "tkinter and IDLE": "stdlib/tkinter/ stdlib/idlelib/ stdlib/turtle",
    "pytest": "_pytest/", "numpy.ma": "numpy/ma/", "numpy arrays": "numpy/_core/ numpy/lib/",
    "torch tensors": "torch/_torch_docs.py torch/_tensor_docs.py torch/functional.py",
    "torch.nn": "torch/nn/", "torch.distributed": "torch/distributed/", "torch.fx": "torch/fx/",
    "torch.compile": "torch/_inductor/ torch/_dynamo/", "torch.ao": "torch/ao/",
    "torch.utils": "torch/utils/", "torch.cuda": "torch/cuda/", "sympy.polys": "sympy/polys/",
    "sympy.combinatorics": "sympy/combinatorics/", "sympy.matrices": "sympy/matrices/",
    "sympy.physics": "sympy/physics/", "sympy.solvers": "sympy/solvers/", "networkx": "networkx/",
}  # fmt: skip
SHARES = {"train": 0.6, "valid": 0.1, "test": 0.3}  # of each label's texts, by whole files


def label_of(source: str) -> str | None:
    """The part of the library that a file belongs to, or None where the task has none."""
    return next((name for name, at in PARTS.items() if source.startswith(tuple(at.split()))), None)


def parts_of(rows: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The part, "train", "valid" or "test", of every file that has a label. The largest file of a
    label goes to the part that lacks most, then the next."""
    files = defaultdict(Counter)
    for source, _ in rows:
        files[label_of(source)][source] += 1
    files.pop(None, None)
    parts = {}
    for counts in files.values():
        missing = {part: share * counts.total() for part, share in SHARES.items()}
        for source, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            parts[source] = max(missing, key=missing.get)
            missing[parts[source]] -= n
    return parts


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line, without the signature above it."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    prose = next((p for p in paragraphs if not SIGNATURE.fullmatch(p)), "")
    return SENTENCE_END.split(prose, maxsplit=1)[0]


def documents() -> Iterator[tuple[str, str]]:
    """Yield (source, text) for every text but those of the files that the task validates or tests
    on. A text of a file to validate the language model on of which a whole line stands in a file to
    train on, as copied docstrings have it, is in neither."""
    rows = load()
    parts = parts_of(rows)
    rows = [row for row in rows if parts.get(row[0], "train") == "train"]
    lines = lambda text: {" ".join(line.split()) for line in text.splitlines() if len(line) >= 40}
    known = {line for source, text in rows if not held_out(source) for line in lines(text)}
    yield from (row for row in rows if not (held_out(row[0]) and known & lines(row[1])))


def labelled(whole: bool = False) -> dict[str, list[Example]]:
    """First sentences, or whole docstrings, each once, in an order that depends on the texts alone.
    What stands in two parts or under two labels, or begins a text without a label, is in none."""
    rows = load()
    part_of = parts_of(rows)
    if not whole:
        rows = [(source, first_sentence(text)) for source, text in rows]
        rows = [row for row in rows if row[1].count(" ") > 2]
    same = defaultdict(list)
    for source, text in rows:  # pretraining reads the files that have no label
        same[normalised(text)].append((part_of.get(source, "train"), label_of(source), text))
    parts: dict[str, list[Example]] = {part: [] for part in SHARES}
    for key in sorted(same, key=lambda key: fraction(key, "order")):
        part, label, text = same[key][0]
        if label and all(place[:2] == (part, label) for place in same[key]):
            parts[part].append(Example(text, label))
    return parts


def version() -> str:
    """A short name for what the corpus depends on: Python, the packages, the rules here."""
    rules = Path(__file__).read_text(encoding="utf-8")
    installed = [(name, metadata.version(name.strip("_"))) for name in PACKAGES if name in roots()]
    facts = json.dumps([platform.python_version(), installed, rules])
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def load() -> list[tuple[str, str]]:
    """All (source, text), which are extracted once and then kept."""
    return kept(FOLDER / f"{version()}.jsonl", ("source", "text"), lambda: extract(roots()))


def kept(path: Path, names: Sequence[str], make: Callable[[], Iterable]) -> list[tuple]:
    """Rows of texts from a .jsonl file; where it is not there, or damaged, `make` makes them."""
    with contextlib.suppress(UserError):
        rows = read_rows(path, {name: name for name in names}, "utf-8")
        return [tuple(text_of(row, name, place) for name in names) for place, row in rows]
    rows = [tuple(row) for row in make()]
    lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows]
    part = path.with_suffix(f".{os.getpid()}.part")
    with writing(path):  # beside, and renamed: an interrupted call leaves no half of it
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(lines), encoding="utf-8", newline="\n")
        os.replace(part, path)
    return rows


def roots() -> dict[str, Path]:
    """The folders of the standard library and of the packages that are installed."""
    specs = {name: importlib.util.find_spec(name) for name in PACKAGES}  # without running them
    folders = {n: Path(spec.submodule_search_locations[0]) for n, spec in specs.items() if spec}
    return {"stdlib": Path(sysconfig.get_path("stdlib")), **folders}


def extract(folders: dict[str, Path]) -> list[tuple[str, str]]:
    """(source, text) for the prose in the Python files below the folders, each text once. The order
    depends on the names of the folders and files alone."""
    files = {
        path: f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in folders.items()
        for path in sorted(folder.rglob("*.py"))
        if not SKIPPED.intersection(path.relative_to(folder).parts)
    }
    bar = tqdm(files.values(), "reading python-docs, this once", unit=" files", disable=None)
    rows: dict[str, tuple[str, str]] = {}
    for source, texts in zip(bar, parallel(strings_in, files), strict=True):
        for text in texts:
            rows.setdefault(normalised(text), (source, text))
    return list(rows.values())


def strings_in(path: Path) -> list[str]:
    """The docstrings and other long strings of a Python file, in order, without indents."""
    try:
        source = path.read_bytes()
        quoted = sum(match.end() - match.start() for match in TRIPLE_QUOTED.finditer(source))
        if quoted < MIN_SHARE * len(source) and path.parent.name != "pydoc_data":
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about "\d" and the like in other people's files
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []  # a template, or a file for another version of Python
    cleaned = (inspect.cleandoc(string) for string in _constants(tree) if len(string) >= SHORTEST)
    return [text for text in cleaned if is_prose(text)]


def _constants(tree: ast.AST) -> Iterator[str]:
    """Yield the strings in a syntax tree, in half the time of ast.walk, but not the fragments
    between an f-string's braces."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes.extend(reversed(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.AST) and not isinstance(node, ast.JoinedStr):
            nodes.extend(vars(node).values())


def is_prose(text: str) -> bool:
    """Whether a string is long enough, and neither a table of symbols nor a template of C code."""
    if len(text) < SHORTEST or re.search(r"[\ud800-\udfff]|{{|{%", text):  # no UTF-8, a template
        return False
    of_code = [line.endswith((";", "{", "}")) for line in text.splitlines()]
    return sum(of_code) <= 0.2 * len(of_code) and len(SYMBOL.findall(text)) <= 0.5 * len(text)
