"""The book as data: where each function's body stands, and what can be changed in it. Positions are
those that `ast` gives, so that whatever is not cut stays as it is."""

import ast
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

PAGES = ("objectives", "model", "heads", "training", "optim", "data", "tokenizer", "generate",
         "metrics", "config", "reference")  # fmt: skip


class Function(NamedTuple):
    """A function of a page; its body is lines first .. end, counted from 0."""

    page: str
    name: str  # of a method with its class: SelfAttention.forward
    first: int
    end: int
    signature: str
    docstring: str  # of a method that has none, its class's

    def body(self, source: str) -> str:
        """Its body, of the page's text."""
        return textwrap.dedent("".join(source.splitlines(keepends=True)[self.first : self.end]))

    def emptied(self, source: str) -> str:
        """The page without its body; what stands before and after it is untouched."""
        lines = source.splitlines(keepends=True)
        indent = lines[self.first][: -len(lines[self.first].lstrip())]
        lines[self.first : self.end] = [f"{indent}raise NotImplementedError\n"]
        return "".join(lines)


def functions(page: str, source: str) -> dict[str, Function]:
    """The functions and methods of a page, by page and name: model.SelfAttention.forward. Raises
    SyntaxError where it is no Python."""
    found = {}
    for node in ast.parse(source).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for f in (f for f in inside if isinstance(f, ast.FunctionDef)):
            name = f.name if f is node else f"{node.name}.{f.name}"
            own, body = ast.get_docstring(f), f.body
            first = body[0].end_lineno if own else body[0].lineno - 1
            about = own or (f is not node and ast.get_docstring(node)) or ""
            said = f"{name}({ast.unparse(f.args)})"
            found[f"{page}.{name}"] = Function(page, name, first, body[-1].end_lineno, said, about)
    return found


OPERATORS = {ast.Add: "+-", ast.Sub: "-+", ast.Mult: "*/", ast.Div: "/*", ast.BitAnd: "&|",
             ast.BitOr: "|&", ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="),
             ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "==")}  # fmt: skip
NAMES = dict(mean="sum", sum="mean", cos="sin", sin="cos", min="max", max="min")


def changes(page: str, source: str) -> Iterator[tuple[str, str]]:
    """Every change of one sign, operator, bound, constant or mean in the bodies of a page: the
    function that it is in, and the page's text with it."""
    text, starts = source.encode(), [0]  # ast counts bytes
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    place = lambda line, column: starts[line - 1] + column
    for title, f in functions(page, source).items():
        for node in _nodes(ast.parse(source)):
            if not f.first < getattr(node, "lineno", -1) <= f.end:
                continue
            start = place(node.lineno, node.col_offset)
            end = place(node.end_lineno, node.end_col_offset)
            match node:
                case ast.BinOp(left, op) | ast.Compare(left, [op]) if type(op) in OPERATORS:
                    old, new = OPERATORS[type(op)]
                    after = place(left.end_lineno, left.end_col_offset)
                    end = (start := text.index(old.encode(), after)) + len(old)
                case ast.UnaryOp(ast.USub() | ast.Invert()):
                    end, new = start + 1, ""
                case ast.Constant(bool(value)):
                    new = str(not value)
                case ast.Constant(int(value) | float(value)):
                    new = str(value + 1 if isinstance(value, int) else 2 * value or 1.0)
                case ast.Attribute(_, name) if name in NAMES:
                    start, new = end - len(name), NAMES[name]
                case _:
                    continue
            yield title, (text[:start] + new.encode() + text[end:]).decode()


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes but those of errors, of quoted texts and of annotations."""
    if not isinstance(node, ast.Raise | ast.JoinedStr | ast.arg):
        yield node
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and field not in ("annotation", "returns"):
                    yield from _nodes(child)
