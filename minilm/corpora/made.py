"""Three tasks made by rule, without a download: what is right is read off the markup of the
documentation that python-docs reads, or off an expression that SymPy prints in two ways.

- python-docs-tags: functions, classes, modules, parameters and exceptions in sentences. Sphinx's
  roles and a docstring's list of its parameters give the tags; all markup is then taken away.
- python-docs-answers: the type or the default of a parameter. The answer is a part of the list of
  parameters, in which at least one other answer of the kind stands. The packages and the wordings
  of the questions differ between the parts. Some parameters have no default: no answer.
- latex-sympy: random expressions as LaTeX, and the same as SymPy writes them.
"""

import json
import os
import random
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator

from minilm.corpora import python_docs
from minilm.corpora.named import DATA
from minilm.corpora.splitting import fraction
from minilm.corpora.tasks import Pair, Question, Tagged, read_pairs

ROLES = {
    "func": "function", "meth": "function", "class": "class", "mod": "module", "exc": "exception",
    "attr": "parameter",
}  # fmt: skip
MARKED = re.compile(  # :role:`~name`, `name` or ``name``, with or without brackets
    r"(?::(?:py:)?(\w+):)?(`{1,2})[~!.]*([^`\n]+?)(?:\(\))?\2"
)
NAME = re.compile(r"[A-Za-z_][\w.]*")
CALLED = re.compile(r"(?:^>>>.*?|^)\b([A-Za-z_]\w{2,})\(", re.M)  # in an example or a signature
ERROR = re.compile(r"(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Warning)")
WORD = re.compile(r"\w+(?:\.\w+)*|[^\w\s]")
# "axis : int, optional" with its text indented below, or "    axis (int, optional): its text".
PARAMETER = re.compile(r"^(?: *)(\w+)(?: ?: ([^\s].*)| \(((?:[^()\n]|\([^()]*\))+)\): .*)$", re.M)
SECTION = re.compile(
    r"^(?:((?:Other )?(?:Parameters|Attributes)\n[-=]{4,}\n)|(?:Keyword )?(?:Args|Arguments):\n)"
    r"(.*?)(?=\n\n?\S[^\n]*\n[-=]{4,}|\n\n?[A-Z][\w ]*:+\n|\Z)",
    re.M | re.S,
)
LITERAL = r"None|True|False|-?\d+(?:\.\d+)?(?:e-?\d+)?|\"[^\"\n]*\"|'[^'\n]*'"
SAID = r"[Dd]efaults?(?: value)?(?: ?[:=] ?| is | to | )`{0,2}"
DEFAULT = re.compile(rf"{SAID}({LITERAL})(?![\w(])")
WORDINGS = {
    "train": {
        "type": ("What is the type of {}?", "Which type does {} have?", "{} is of what type?"),
        "default": ("What is the default of {}?", "What does {} default to?", "By default {} is?"),
    },
    "valid": {"type": ("Of what type is {}?",), "default": ("Which default does {} have?",)},
    "test": {"type": ("What type must {} be?",), "default": ("Without {}, what is its default?",)},
}
PART_OF_PACKAGE = {"sympy": "valid", "networkx": "test"}  # train: all others
PAIRS = 20_000
LONGEST = 1500  # characters of a list of parameters


def part_of(key: str) -> str:
    """Return "train" (80 %), "valid" or "test" (10 % each), by a hash of the key."""
    where = fraction(key, "part of a made task")
    return "train" if where < 0.8 else "valid" if where < 0.9 else "test"


def tags(rows: list[tuple[str, str]]) -> dict[str, list[Tagged]]:
    """Sentences with tagged names from texts (source, text). A file is in one part only."""
    counts: dict[tuple[str, str], Counter] = defaultdict(Counter)  # (package, name): its roles
    for source, text in rows:
        for role, _, name in MARKED.findall(text):
            if role in ROLES and role != "attr":
                counts[source.split("/")[0], name.split(".")[-1]][ROLES[role]] += 1
        for name in CALLED.findall(text):
            counts[source.split("/")[0], name]["class" if name[0].isupper() else "function"] += 1
    parts: dict[str, dict] = {"train": {}, "valid": {}, "test": {}}
    for source, text in rows:
        own = {match[1]: "parameter" for match in PARAMETER.finditer(text)}
        for sentence in sentences(text):
            tagged = _tagged(sentence, own, source.split("/")[0], counts)
            if tagged:
                parts[part_of(source)].setdefault(tagged.words, tagged)
    seen = parts["train"].keys()
    return {
        part: [t for words, t in rows.items() if part == "train" or words not in seen]
        for part, rows in parts.items()
    }


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a docstring's paragraphs; code, headings and lists are left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        if not re.search(r">>>|::|^\s*[-=|+~^]{3,}|^\s*\.\. |\\", paragraph, re.M):
            flat = " ".join(paragraph.split())
            yield from re.split(r"(?<=[.!?]) (?=[A-Z])", flat)


def _tagged(sentence: str, own: dict, package: str, counts: dict) -> Tagged | None:
    """The words and tags of a sentence, or None where it has no name, or one that is unknown."""
    words: list[str] = []
    tags: list[str] = []
    end = 0
    for match in [*MARKED.finditer(sentence), None]:
        for word in WORD.findall(sentence[end : match.start() if match else len(sentence)]):
            words.append(word)
            tags.append("B-exception" if ERROR.fullmatch(word) else "O")
        if match:
            role, _, name = match.groups()
            kind = own.get(name) if role in (None, "attr") else ROLES.get(role)
            known = counts.get((package, name.split(".")[-1]))
            if ERROR.fullmatch(name):
                kind = "exception"
            elif kind is None and role is None and known:
                kind = known.most_common(1)[0][0]
            is_name = NAME.fullmatch(name) and name not in ("None", "True", "False")
            if (role or is_name) and not (kind and is_name):
                return None
            inside = WORD.findall(name)
            words += inside
            tags += [f"{'I' if i else 'B'}-{kind}" if is_name else "O" for i in range(len(inside))]
            end = match.end()
    good = any(tag != "O" for tag in tags) and 4 <= len(words) <= 60 and "`" not in words
    return Tagged(tuple(words), tuple(tags)) if good else None


def answers(rows: list[tuple[str, str]]) -> dict[str, list[Question]]:
    """Questions about the parameters in the lists of texts (source, text)."""
    parts: dict[str, list] = {"train": [], "valid": [], "test": []}
    seen = set()
    for source, text in rows:
        part = PART_OF_PACKAGE.get(source.split("/")[0], "train")
        for match in SECTION.finditer(text):
            context, form = textwrap.dedent(match[2]).strip(), 2 if match[1] else 3
            if len(context) <= LONGEST and context not in seen:
                seen.add(context)
                parts[part] += _questions(context, form, WORDINGS[part])
    return parts


def _questions(context: str, form: int, wordings: dict) -> Iterator[Question]:
    """The questions about one list, whose types are group `form` of PARAMETER."""
    items = [match for match in PARAMETER.finditer(context) if match[form]]
    ends = [match.start() for match in items[1:]] + [len(context)]
    types, defaults = {}, {}
    for item, end in zip(items, ends, strict=False):  # no item, and yet an end
        kind = re.split(r"[\[(,]* ?(?:optional|default|keyword.only)", item[form])[0]
        if 0 < len(kind := kind.rstrip(" ,;.")) <= 40:
            types[item[1]] = (item.start(form), kind)
        if literal := DEFAULT.search(context, item.start(), end):
            defaults[item[1]] = (literal.start(1), literal[1])
    for kind, found in (("type", types), ("default", defaults)):
        if len({answer for _, answer in found.values()}) > 1:
            for name, (start, answer) in found.items():
                wording = _choice(wordings[kind], context + name)
                yield Question(context, wording.format(name), (answer,), start)
    without = [name for name in types if name not in defaults]
    if len(defaults) > 1 and without:
        name = _choice(without, context)
        wording = _choice(wordings["default"], context + name)
        yield Question(context, wording.format(name), ("",), -1)


def _choice(options, key: str):
    return options[int(fraction(key, "choice") * len(options))]


def latex_pairs(n: int = PAIRS, seed: int = 0) -> dict[str, list[Pair]]:
    """n random expressions, each as LaTeX and as SymPy's text; both are SymPy's own printing."""
    import sympy  # here, because it takes a second; torch brings it along

    rng, symbols = random.Random(seed), sympy.symbols("x y z t a b n theta alpha lambda omega")
    functions = sympy.sin, sympy.cos, sympy.tan, sympy.log, sympy.exp, sympy.sqrt
    functions += sympy.atan, sympy.sinh, sympy.cosh

    def expression(depth: int):
        """An expression of at most so many nested operations."""
        kind = rng.random()
        if depth == 0 or kind < 0.1:
            whole = sympy.Integer(rng.randint(-9, 99))
            return rng.choice([*rng.choices(symbols, k=3), whole, whole / rng.randint(2, 99)])
        if kind < 0.35:
            return expression(depth - 1) + expression(depth - 1)
        if kind < 0.6:
            return expression(depth - 1) * expression(depth - 1)
        if kind < 0.72:
            return expression(depth - 1) ** rng.choice((2, 3, -1, -2, rng.choice(symbols)))
        if kind < 0.92:
            return rng.choice(functions)(expression(depth - 1))
        x = rng.choice(symbols)
        operator = rng.choice((sympy.Derivative, sympy.Integral))
        return operator(expression(depth - 1), x)

    found: dict[str, str] = {}
    while len(found) < n:
        made = expression(rng.choice((1, 2, 2, 3)))
        if not made.has(sympy.zoo, sympy.nan, sympy.oo) and len(text := str(made)) <= 80:
            found.setdefault(sympy.latex(made), text)
    parts: dict[str, list[Pair]] = {"train": [], "valid": [], "test": []}
    for latex, text in found.items():
        parts[part_of(latex)].append(Pair(latex, text))
    return parts


def load(name: str) -> dict[str, list]:
    """The "train", "valid" and "test" part of a made task, by its name. The formulas, which take a
    minute, are kept in data/latex-sympy/."""
    if name != "latex-sympy":
        return {"python-docs-tags": tags, "python-docs-answers": answers}[name](python_docs.load())
    import sympy

    folder = DATA / name / f"{sympy.__version__}-{PAIRS}"
    if not folder.exists():
        print(f"{name}: making {PAIRS:,} pairs, this once", flush=True)
        parts, beside = latex_pairs(), folder.with_suffix(f".{os.getpid()}.part")
        beside.mkdir(parents=True)
        for part, pairs in parts.items():
            lines = "".join(json.dumps(pair._asdict()) + "\n" for pair in pairs)
            (beside / f"{part}.jsonl").write_text(lines, encoding="utf-8")
        os.replace(beside, folder)
    parts = ("train", "valid", "test")
    return {part: read_pairs(folder / f"{part}.jsonl", "source", "target") for part in parts}
