"""Texts, and examples of the four tasks, from a person's own files and folders. Whatever is wrong
with a file raises UserError: its path, the place in it, and what to do."""

import hashlib
import html
import json
import os
import re
import unicodedata
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

from minilm.config import UserError
from minilm.corpora.tables import PREDICT, TABLES, EmptyFile, ending, note, read_lines, read_rows

HTML = (".html", ".htm", ".xhtml")
PLAIN = ".txt .text .md .markdown .rst .adoc .org .tex .log .srt .py .pyi .c .h .cc .cpp .hpp .cs"
PLAIN += " .java .js .ts .go .rs .rb .php .pl .r .jl .lua .kt .swift .scala .sh .sql"
KNOWN = (*PLAIN.split(), *HTML, *TABLES)
ENDINGS = f"in .txt, .md, .html, .py or the like, in {', '.join(TABLES)}, or in one of them and .gz"
TAG = re.compile(r"O|[BI]-\S+")
END_OF_TEXT = "<|endoftext|>"  # what many collections of texts have between two of them
UNSEEN = re.compile(r"(?is)<!--.*?(?:-->|\Z)|<(script|style|template|noscript)\b.*?(?:</\1\s*>|\Z)")
REST = r"""(?:=\s*(?:"[^"]*"|'[^']*')|[^>])*+>"""  # of a tag; a quoted > does not end it
INLINE = re.compile(  # tags that end no line; most do
    r"(?i)</?(?:a|abbr|b|cite|code|del|em|font|i|img|ins|kbd|label|mark|q|s|samp|small|span|strong"
    r"|sub|sup|time|tt|u|var|wbr)\b" + REST
)
# A text and its label; a sentence and a tag for each word (O, or B- or I- and a type); a question
# about a context, where answers[0] begins at `start` (-1: there is no answer); two languages.
Example = namedtuple("Example", "text label")
Tagged = namedtuple("Tagged", "words tags")  # both are tuples
Question = namedtuple("Question", "context question answers start")  # answers: a tuple
Pair = namedtuple("Pair", "source target")


def normalised(text: str) -> str:
    """The text in lower case with single blanks: texts that are equal in this are one text."""
    return " ".join(text.lower().split())


def words(text: str, within: str = "") -> list[str]:
    """The words and other signs of a text; `within` a word these characters may stand, too. Marks
    that combine (Mn, Mc) and joiners belong to what they stand on, and \\w knows none of them."""
    shadow = text
    if not text.isascii():
        joins = lambda c: unicodedata.category(c)[0] == "M" or c in "\u200c\u200d"
        shadow = "".join("\u0301" if joins(c) else c for c in text)
    inner = f"(?:[{re.escape(within)}](?:\\w\u0301*)+)*" if within else ""
    found = re.finditer(f"(?:\\w\u0301*)+{inner}|[^\\w\\s]\u0301*", shadow)
    return [text[slice(*match.span())] for match in found]


def fraction(text: str, purpose: str) -> float:
    """A number in [0, 1), uniform over (normalised) texts, and independent for each purpose: what
    decides by the text alone in which part of a data set it is, so that it never moves."""
    digest = hashlib.sha256(f"{purpose}\0{normalised(text)}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def read_text(path: Path, encoding: str = "utf-8") -> str:
    r"""The text of a file, or of its .gz: no byte order mark, and every line ends in \n."""
    return "".join(read_lines(path, encoding))


def text_of(row: dict, column: str, place: str) -> str:
    """The text of a row. Raises UserError where it is no text that could be printed or saved."""
    value, what = row[column], type(row[column]).__name__
    if what == "str" and re.search("[\ud800-\udfff]", value):  # which JSON's escapes can write
        what = "half of a surrogate pair"
    if what != "str":
        raise UserError(f"{place}: {column!r} is no text but {what}: mend the row")
    return value


def read_documents(
    path: Path, text_column: str, encoding: str, separator: str | None = None
) -> Iterator[str]:
    r"""Yield the documents of a file: a table's rows, or all of any other text, cut at `separator`
    (None: at <|endoftext|>, which is said; "": nowhere; \n and \t are a line end and a tab)."""
    end = END_OF_TEXT if separator is None else separator.replace("\\n", "\n").replace("\\t", "\t")
    for text in _texts(path, text_column, encoding):
        parts = text.split(end) if end else [text]
        if len(parts) > 1 and separator is None:
            note(f"{path}: a document ends at every {end} (--document-separator: another, '' none)")
        elif len(parts) == 1 and separator and ending(path) not in TABLES:
            note(f"{path}: --document-separator {separator!r} is not in it: one document")
        yield from (p.strip("\n") if len(parts) > 1 else p for p in parts if p.strip())


def _texts(path: Path, text_column: str, encoding: str) -> Iterator[str]:
    """Yield the text of each row of a table; all of any other file, without the tags of HTML."""
    if kind(path) in TABLES:
        for place, row in read_rows(path, {"--text-column": text_column}, encoding):
            yield text_of(row, text_column, place)
    elif ending(path) not in HTML:
        yield read_text(path, encoding)
    elif text := without_tags(read_text(path, encoding)):
        yield text + "\n"
    else:
        raise EmptyFile(f"{path}: no text between its tags: leave it out")


def without_tags(page: str) -> str:
    """The text of a page. Line ends mean nothing in HTML but in <pre>; most tags end a line."""
    page = UNSEEN.sub("", page)
    page = re.sub(r"(?is)(<pre\b.*?(?:</pre|\Z))|\s+", lambda match: match[1] or " ", page)
    page = re.sub(r"<[a-zA-Z/!?]" + REST, "\n", INLINE.sub("", page))
    lines = (" ".join(line.split()) for line in html.unescape(page).split("\n"))
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip()


def texts_in(path: Path, text_column: str = "text", encoding: str = "utf-8") -> list[str]:
    """The texts to label in a file: a table's rows, the lines of a .txt, or all of any other."""
    if ending(path) == ".txt":
        return [line.strip() for line in read_lines(path, encoding) if line.strip()]
    return list(_texts(path, text_column, encoding))


def read_examples(
    path: Path | str, text_column="text", label_column="label", encoding="utf-8"
) -> list[Example]:
    """Read the examples of a table. No label may be empty; "nan" and "None" are like any other."""
    if kind(path := Path(path)) not in TABLES:
        raise UserError(f"{path}: labels stand in a table ({', '.join(TABLES)}); {PREDICT}")
    columns, examples = {"--text-column": text_column, "--label-column": label_column}, []
    for place, row in read_rows(path, columns, encoding):
        label = row[label_column]
        if label is None or isinstance(label, int | float):  # JSON's null and NaN are no labels
            row[label_column] = "" if label is None or label != label else str(label)
        label = text_of(row, label_column, place).strip()
        if not label:
            raise UserError(f"{place}: no label in {label_column!r}: give one, drop the row, name "
                            f"another --label-column; {PREDICT}")  # fmt: skip
        examples.append(Example(text_of(row, text_column, place), label))
    return examples


def read_tagged(path: Path | str, encoding: str = "utf-8") -> list[Tagged]:
    """Read a CoNLL column file (the word first, the tag last; tabs or blanks between; a blank line
    ends a sentence; # begins a comment), or a .jsonl of {"words": [...], "tags": [...]}. An I- tag
    that goes on with nothing is read as B-."""
    if ending(path := Path(path)) in (".jsonl", ".ndjson"):
        rows = read_rows(path, {"words": "words", "tags": "tags"}, encoding)
        tagged = (_tagged(row["words"], row["tags"], place) for place, row in rows)
        return [sentence for sentence in tagged if sentence.words]
    sentences = [([], [])]
    for number, line in enumerate(read_lines(path, encoding), 1):
        cells = [cell.strip() for cell in line.split("\t" if "\t" in line.strip() else None)]
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append(([], []))
        elif len(cells) > 1 and cells[0] and TAG.fullmatch(cells[-1]):
            sentences[-1][0].append(cells[0])
            sentences[-1][1].append(cells[-1])
        elif not line.startswith("#"):  # a comment, unless it is "#word O"
            raise UserError(f"{path}: line {number}: {line.strip()[:40]!r} is no word and "
                            f"then, after a blank, a tag (O, B-type, I-type): mend it")  # fmt: skip
    return [_tagged(*sentence, str(path)) for sentence in sentences if sentence[0]]


def _tagged(words: list, tags: list, place: str) -> Tagged:
    lists = isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags)
    if not lists or not all(isinstance(word, str) and word.strip() for word in words):
        raise UserError(f'{place}: "words" and "tags" must be lists of one length: mend the row')
    if wrong := [tag for tag in tags if not TAG.fullmatch(str(tag))]:
        raise UserError(f"{place}: the tag {wrong[0]!r} is not O, B-type or I-type: mend it")
    bio = [f"B{tag[1:]}" if tag[0] == "I" and tag[2:] != before[2:] else tag
           for before, tag in zip(["O", *tags], tags, strict=False)]  # fmt: skip
    return Tagged(tuple(words), tuple(bio))


def read_questions(path: Path | str, encoding: str = "utf-8") -> list[Question]:
    """Read SQuAD's .json, or a .jsonl of {"context", "question", "answer", "answer_start"}, to
    which "answers" may add what else is right. answer_start -1: the context holds no answer."""
    columns = {name: name for name in ("context", "question", "answer")}
    squad = ending(path := Path(path)) == ".json"
    rows = _squad_rows(path, encoding) if squad else read_rows(path, columns, encoding)
    return [_question(row, place) for place, row in rows]


def _squad_rows(path: Path, encoding: str) -> Iterator[tuple[str, dict]]:
    try:
        articles = json.loads(read_text(path, encoding))["data"]
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            for i, qa in enumerate(paragraph["qas"], 1):
                answers = qa["answers"] or [{"text": "", "answer_start": -1}]
                row = dict(context=paragraph["context"], question=qa["question"], **answers[0])
                row |= dict(answer=row["text"], answers=[answer["text"] for answer in answers])
                yield f"{path}: question {qa.get('id', i)}", row
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not SQuAD's layout ({error!r}): mend it") from None


def _question(row: dict, place: str) -> Question:
    """Check a row, and find its answer: where it says, or else at the nearest other place."""
    context, question, answer = (text_of(row, n, place) for n in ("context", "question", "answer"))
    start, others = row.get("answer_start", 0), row.get("answers") or []
    if not isinstance(others, list) or not all(isinstance(text, str) for text in others):
        raise UserError(f"{place}: 'answers' is no list of texts: mend the row")
    start = int(start) if re.fullmatch(r"-?\d+", str(start)) else 0
    if start < 0 or not answer.strip():
        return Question(context, question, ("",), -1)
    places = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", context)]
    if not places:
        raise UserError(f"{place}: the answer {answer[:40]!r} is not in its context: mend it")
    start = min(places, key=lambda there: abs(there - start))
    return Question(context, question, tuple(dict.fromkeys([answer, *others])), start)


def read_pairs(path: Path, source_column: str, target_column: str, encoding="utf-8") -> list[Pair]:
    """Read the two columns of a table, or the lines of two files, one a language, that end in
    their names; pairs with a blank side are left out."""
    columns = {"--source-column": source_column, "--target-column": target_column}
    if ending(path) in (f".{column}" for column in columns.values()):
        files = (path.with_name(path.name.replace(ending(path), f".{c}")) for c in columns.values())
        source, target = (read_text(file, encoding).rstrip().split("\n") for file in files)
        if len(source) != len(target):
            raise UserError(f"{path}: the two files have {len(source)} and {len(target)} lines, "
                            f"which must be as many: mend them")  # fmt: skip
        pairs = map(Pair, map(str.strip, source), map(str.strip, target))
    else:
        rows = read_rows(path, columns, encoding)
        pairs = (Pair(*(text_of(row, c, place) for c in columns.values())) for place, row in rows)
    return [pair for pair in pairs if pair.source.strip() and pair.target.strip()]


def kind(path: Path) -> str:
    """The ending of a text's or table's name, as in KNOWN. Raises UserError for others."""
    if ending(path) not in KNOWN:
        raise UserError(f"{path}: unknown kind of file: the name must end {ENDINGS}")
    return ending(path)


def files_in(folder: Path) -> list[Path]:
    """The files below a folder whose endings are known, sorted. Links are followed, but no folder
    is read twice; what is left out is counted. Raises UserError where there is none."""

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    found, left_out, seen = [], 0, set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        if (there := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(there)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(here, name) for name in names if not name.startswith(".")]
        good = [path for path in paths if path.is_file() and ending(path) in KNOWN]
        found += good
        left_out += len(names) - len(good)
    if not found:
        raise UserError(f"{folder}: none of its {left_out} files has a name that ends {ENDINGS}")
    if left_out:
        note(f"{folder}: {left_out} files left out: hidden, or of an unknown kind")
    return sorted(found)
