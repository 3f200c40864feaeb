"""Three tasks made by rule, without a download.

- python-docs-tags: functions, classes, modules, parameters and exceptions in sentences, as Sphinx's
  roles and the lists of parameters say; then all markup is taken away. A name in backquotes without
  a role is what the package's own texts say, or else the sentence is left out.
- python-docs-answers: the type or the default of a parameter (some have none) in a list that holds
  two different answers of the kind at least. Packages and wordings differ between the parts.
- latex-sympy: random expressions as LaTeX, and as SymPy writes them.
"""

import random
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator

from minilm.corpora import DATA, python_docs
from minilm.corpora.files import Pair, Question, Tagged, fraction

ROLES = dict(func="function", meth="function", mod="module", exc="exception")
ROLES["class"] = "class"  # and "attr" may be a parameter
MARKED = re.compile(r"(?::(?:py:)?(\w+):)?`{1,2}[~!.]*([^`\n]+?)(?:\(\))?`{1,2}")  # :role:`~name`
NAME = re.compile(r"(?!(?:None|True|False)$)[A-Za-z_][\w.]*")
CALLED = re.compile(r"(?:^>>>.*?|^)\b([A-Za-z_]\w{2,})\(", re.M)  # in an example or a signature
ERROR = re.compile(r"(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Warning)")
WORD = re.compile(r"\w+(?:\.\w+)*|[^\w\s]")
NO_PROSE = re.compile(r">>>|::|^\s*[-=|+~^]{3,}|^\s*\.\. |\\", re.M)
# "axis : int, optional" with its text indented below, or "    axis (int, optional): its text".
PARAMETER = re.compile(r"^ *(\w+)(?: ?: ([^\s].*)| \(((?:[^()\n]|\([^()]*\))+)\): .*)$", re.M)
SECTION = re.compile(
    r"^(?:((?:Other )?(?:Parameters|Attributes)\n[-=]{4,}\n)|(?:Keyword )?(?:Args|Arguments):\n)"
    r"(.*?)(?=\n\n?\S[^\n]*\n[-=]{4,}|\n\n?[A-Z][\w ]*:+\n|\Z)",
    re.M | re.S,
)
SAID = r"[Dd]efaults?(?: value)?(?: ?[:=] ?| is | to | )`{0,2}"
LITERAL = r"None|True|False|-?\d+(?:\.\d+)?(?:e-?\d+)?|\"[^\"\n]*\"|'[^'\n]*'"
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
LONGEST = 1500  # characters of a list of parameters
PAIRS = 20_000


def tags(rows: list[tuple[str, str]]) -> dict[str, list[Tagged]]:
    """Sentences with tagged names from texts (source, text). A file is in one part only, and a
    sentence, too; pretraining reads none of the files to validate or test on."""
    kinds: dict[tuple[str, str], Counter] = defaultdict(Counter)  # of (package, name)
    for source, text in rows:
        package = source.split("/")[0]
        for role, name in MARKED.findall(text):
            if role in ROLES:
                kinds[package, name.split(".")[-1]][ROLES[role]] += 1
        for name in CALLED.findall(text):
            kinds[package, name]["class" if name[0].isupper() else "function"] += 1
    part_of = python_docs.parts_of(rows)
    parts: dict[str, dict] = {"train": {}, "valid": {}, "test": {}}
    for source, text in rows:
        own = {match[1] for match in PARAMETER.finditer(text)}
        for paragraph in re.split(r"\n\s*\n", text):
            if NO_PROSE.search(paragraph):
                continue
            for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(paragraph.split())):
                if tagged := _tagged(sentence, own, source.split("/")[0], kinds):
                    parts[part_of.get(source, "train")].setdefault(tagged.words, tagged)
    for part in ("valid", "test"):
        for words in parts["train"].keys() & parts[part].keys():
            del parts[part][words]
    return {part: list(rows.values()) for part, rows in parts.items()}


def _tagged(sentence: str, own: set, package: str, kinds: dict) -> Tagged | None:
    """The words and tags of a sentence, or None where it has no name, or one that is unknown."""
    pieces, words, tags = iter(MARKED.split(sentence)), [], []
    for plain in pieces:  # then a role and a name, but for the last one
        found = WORD.findall(plain)
        words += found
        tags += ["B-exception" if ERROR.fullmatch(word) else "O" for word in found]
        role, name = next(pieces, None), next(pieces, None)
        if name:
            known = kinds.get((package, name.split(".")[-1]))
            kind = ROLES.get(role)
            if ERROR.fullmatch(name):
                kind = "exception"
            elif role in (None, "attr") and name in own:
                kind = "parameter"
            elif role is None and known:
                kind = known.most_common(1)[0][0]
            is_name = NAME.fullmatch(name)
            if (role or is_name) and not (kind and is_name):
                return None
            inside = WORD.findall(name)
            words += inside
            tags += [f"{'I' if i else 'B'}-{kind}" if is_name else "O" for i in range(len(inside))]
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
    found: dict[str, dict] = {"type": {}, "default": {}}
    for item, end in zip(items, ends, strict=False):  # no item, and yet an end
        kind = re.split(r"[\[(,]* ?(?:optional|default|keyword.only)", item[form])[0]
        if 0 < len(kind := kind.rstrip(" ,;.")) <= 40:
            found["type"][item[1]] = (item.start(form), kind)
        if literal := DEFAULT.search(context, item.start(), end):
            found["default"][item[1]] = (literal.start(1), literal[1])
    for kind, answers in found.items():
        if len({answer for _, answer in answers.values()}) > 1:
            without = [name for name in found["type"] if name not in answers][:1]
            for name in [*answers, *without]:
                start, answer = answers.get(name, (-1, ""))
                which = int(fraction(context + name, "wording") * len(wordings[kind]))
                yield Question(context, wordings[kind][which].format(name), (answer,), start)


def latex_pairs(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """n random expressions, each as LaTeX and as SymPy's text; both are SymPy's own printing."""
    import sympy  # here, because it takes a second; torch brings it along

    print(f"latex-sympy: making {n:,} pairs, this once", flush=True)
    rng, symbols = random.Random(seed), sympy.symbols("x y z t a b n theta alpha lambda omega")
    functions = sympy.sin, sympy.cos, sympy.tan, sympy.log, sympy.exp, sympy.sqrt, sympy.atan
    operators = sympy.Derivative, sympy.Integral

    def expression(depth: int):
        """An expression of at most so many nested operations."""
        kind = rng.random() if depth else 0.0
        if kind < 0.1:
            number = sympy.Integer(rng.randint(-9, 99)) / rng.choice((1, rng.randint(2, 99)))
            return rng.choice((*symbols, *[number] * len(symbols)))
        first = expression(depth - 1)
        if kind < 0.35:
            return first + expression(depth - 1)
        if kind < 0.6:
            return first * expression(depth - 1)
        if kind < 0.72:
            return first ** rng.choice((2, 3, -1, -2, rng.choice(symbols)))
        if kind < 0.92:
            return rng.choice(functions)(first)
        return rng.choice(operators)(first, rng.choice(symbols))

    found: dict[str, str] = {}
    while len(found) < n:
        made = expression(rng.choice((1, 2, 2, 3)))
        if not made.has(sympy.zoo, sympy.nan, sympy.oo) and len(text := str(made)) <= 80:
            found.setdefault(sympy.latex(made), text)
    return list(found.items())


def formulas() -> dict[str, list[Pair]]:
    """The formulas, a part for each by its text. They take a minute, and are kept."""
    import sympy

    file = DATA / "latex-sympy" / f"{sympy.__version__}-{PAIRS}.jsonl"
    parts: dict[str, list[Pair]] = {"train": [], "valid": [], "test": []}
    for pair in python_docs.kept(file, Pair._fields, lambda: latex_pairs(PAIRS)):
        where = fraction(pair[0], "part")
        parts["train" if where < 0.8 else "valid" if where < 0.9 else "test"].append(Pair(*pair))
    return parts
