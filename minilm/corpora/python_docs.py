"""The documentation that came with the packages: a corpus that needs no download.

Docstrings and other long strings of the standard library, NumPy, PyTorch (with SymPy and NetworkX,
which it brings along) and pytest, where these are installed. The source files are parsed with `ast`
and never run. The first call takes some seconds; it leaves its result in data/python-docs/.

The labelled task: which part of which library does a text document?
"""

import ast
import gc
import hashlib
import importlib.util
import inspect
import json
import multiprocessing
import os
import platform
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from minilm.config import UserError
from minilm.corpora.files import Example, read_rows
from minilm.corpora.splitting import fraction, normalised

FOLDER = Path("data") / "python-docs"
PACKAGES = {  # package to import: distribution that pip knows
    "numpy": "numpy",
    "torch": "torch",
    "sympy": "sympy",
    "networkx": "networkx",
    "_pytest": "pytest",
}
# Folders of tests, of tables, of copies of other packages: much source, little prose.
SKIPPED = {"test", "tests", "idle_test", "_internal", "lib2to3", "encodings", "_vendor"}
SKIPPED |= {"site-packages", "dist-packages"}  # inside the standard library's folder
SHORTEST = 60  # characters
MIN_SHARE = 0.2  # of a file that lies between triple quotes: parsing the others takes too long
TRIPLE_QUOTED = re.compile(rb'"""(.*?)"""|' + rb"'''(.*?)'''", re.DOTALL)
SURROGATE = re.compile("[\ud800-\udfff]")  # a string literal may hold what UTF-8 cannot write
SYMBOL = re.compile(r"[^\w\s]|[\d_]")

PARTS = {  # where a text was found: its label. The first prefix that fits counts.
    "stdlib/email/": "email and web",
    "stdlib/http/": "email and web",
    "stdlib/urllib/": "email and web",
    "stdlib/xml": "email and web",
    "stdlib/tkinter/": "tkinter and IDLE",
    "stdlib/idlelib/": "tkinter and IDLE",
    "stdlib/turtle": "tkinter and IDLE",
    "_pytest/": "pytest",
    "numpy/ma/": "numpy.ma",
    "numpy/_core/": "numpy arrays",
    "numpy/lib/": "numpy arrays",
    "torch/_torch_docs.py": "torch tensors",
    "torch/_tensor_docs.py": "torch tensors",
    "torch/functional.py": "torch tensors",
    "torch/nn/": "torch.nn",
    "torch/distributed/": "torch.distributed",
    "torch/fx/": "torch.fx",
    "torch/_inductor/": "torch.compile",
    "torch/_dynamo/": "torch.compile",
    "torch/ao/": "torch.ao",
    "torch/utils/": "torch.utils",
    "torch/cuda/": "torch.cuda",
    "sympy/polys/": "sympy.polys",
    "sympy/combinatorics/": "sympy.combinatorics",
    "sympy/matrices/": "sympy.matrices",
    "sympy/physics/": "sympy.physics",
    "sympy/solvers/": "sympy.solvers",
    "networkx/": "networkx",
}
LARGEST_CLASS = 300  # texts: with so few labels it matters what pretraining has learnt
TRAIN, VALID = 0.60, 0.15  # shares of the labelled texts; the rest is to test on


def label_of(source: str) -> str | None:
    """Return the part of the library that a file belongs to, or None where the task has none.

    >>> label_of("torch/nn/modules/linear.py")
    'torch.nn'
    """
    return next((label for prefix, label in PARTS.items() if source.startswith(prefix)), None)


def documents() -> Iterator[list[str]]:
    """Yield every text but the validation and test texts of the labelled task, as [text]."""
    rows = load()
    task = task_of(rows)
    held_out = {example.text for part in ("valid", "test") for example in task[part]}
    for _, text in rows:
        if text not in held_out:
            yield [text]


def labelled() -> dict[str, list[Example]]:
    """Return the examples of the task, 60 % "train", 15 % "valid", 25 % "test"."""
    return task_of(load())


def task_of(rows: Iterable[tuple[str, str]]) -> dict[str, list[Example]]:
    """Turn rows (source, text) into the three parts; part and choice depend on the text alone."""
    classes = defaultdict(list)
    for source, text in rows:
        if label := label_of(source):
            classes[label].append(Example(text, label))
    parts: dict[str, list[Example]] = {"train": [], "valid": [], "test": []}
    chosen = [
        example
        for examples in classes.values()
        for example in sorted(examples, key=lambda e: fraction(e.text, "choice"))[:LARGEST_CLASS]
    ]
    # Sorted by a hash, so that the classes are mixed.
    for example in sorted(chosen, key=lambda e: fraction(e.text, "order")):
        where = fraction(example.text, "part")
        part = "train" if where < TRAIN else "valid" if where < TRAIN + VALID else "test"
        parts[part].append(example)
    return parts


def version() -> str:
    """Return a short name for what the corpus depends on: Python, the packages, the rules here."""
    rules = Path(__file__).read_text(encoding="utf-8")
    installed = {name: metadata.version(pip) for name, pip in PACKAGES.items() if _folder(name)}
    facts = json.dumps([platform.python_version(), installed, rules])
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def load() -> list[tuple[str, str]]:
    """Return all (source, text), from the cache if it is there; else extract and cache them."""
    cache = FOLDER / f"{version()}.jsonl"
    if not cache.exists():
        _write(cache, extract(roots()))
    columns = {"source": "source", "text": "text"}
    return [(row["source"], row["text"]) for _, row in read_rows(cache, columns, "utf-8")]


def _write(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write beside and rename, so that an interrupted first call leaves no half of a corpus."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for source, text in rows:
                file.write(json.dumps({"source": source, "text": text}) + "\n")
        os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}): run where a folder data/ may be made"
        ) from None


def roots() -> dict[str, Path]:
    """Return the folders of the standard library and of the packages that are installed."""
    found = {"stdlib": Path(sysconfig.get_path("stdlib"))}
    return found | {name: folder for name in PACKAGES if (folder := _folder(name))}


def _folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)  # finds it without running it
    return Path(spec.submodule_search_locations[0]) if spec else None


def extract(folders: dict[str, Path]) -> list[tuple[str, str]]:
    """Return (source, text) for the prose in the Python files below the folders, each text once.

    Two processes share the work. The order depends on the names of the folders and files alone.
    """
    files = [
        (path, f"{name}/{path.relative_to(folder).as_posix()}")
        for name, folder in folders.items()
        for path in sorted(folder.rglob("*.py"))
        if not SKIPPED.intersection(path.relative_to(folder).parts)
    ]
    paths = [path for path, _ in files]
    if len(files) < 100:  # not worth a process
        found = [strings_in(path) for path in paths]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=spawn, initializer=gc.disable) as pool:
            results = pool.map(strings_in, paths, chunksize=20)
            label = "python-docs: reading, this once"
            found = list(tqdm(results, label, len(paths), unit=" files", disable=None))
    rows, seen = [], set()
    for (_, source), texts in zip(files, found, strict=True):
        for text in texts:
            if (key := normalised(text)) not in seen:
                seen.add(key)
                rows.append((source, text))
    return rows


def strings_in(path: Path) -> list[str]:
    """Return the docstrings and other long strings of a Python file, in order, without indents."""
    source = path.read_bytes()
    quoted = sum(match.end() - match.start() for match in TRIPLE_QUOTED.finditer(source))
    if quoted < MIN_SHARE * len(source) and path.parent.name != "pydoc_data":
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about "\d" and the like in other people's files
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []  # a template, or a file for another version of Python
    cleaned = (inspect.cleandoc(string) for string in _constants(tree) if len(string) >= SHORTEST)
    return [text for text in cleaned if is_prose(text)]


def _constants(tree: ast.AST) -> Iterator[str]:
    """Yield the strings in a syntax tree, but not the fragments between an f-string's braces.

    ast.walk would visit the same nodes in twice the time.
    """
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes.extend(reversed(node))
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                yield node.value
        elif isinstance(node, ast.AST) and not isinstance(node, ast.JoinedStr):
            nodes.extend(vars(node).values())


def is_prose(text: str) -> bool:
    """Whether a string is long enough, and neither a table of symbols nor a template of C code."""
    if len(text) < SHORTEST or SURROGATE.search(text) or "{{" in text or "{%" in text:
        return False
    lines = text.splitlines()
    of_code = sum(line.endswith((";", "{", "}")) for line in lines)
    return of_code <= 0.2 * len(lines) and len(SYMBOL.findall(text)) <= 0.5 * len(text)
