"""Examples of the four tasks from a person's own files. Whatever is wrong with a file raises
UserError: its path, the place in it, and what to do."""

import hashlib
import json
import re
import unicodedata
from collections import defaultdict, namedtuple
from collections.abc import Iterator
from pathlib import Path

from minilm.config import UserError
from minilm.corpora.tables import PREDICT, TABLES, ending, note, read_lines, read_rows, text_of
from minilm.corpora.texts import kind, read_text

VALID_SHARE = 0.05  # of the sources
TAG = re.compile(r"O|[BIESLUMW](-\S+)?")  # BIO, BIOES, BILOU, BMES; without a type: one type
COMMENT = re.compile(r"# *[^\s=]+ += ")  # "# sent_id = 7"
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


def held_out(source: str) -> bool:
    """Whether a language model is validated on the texts of a source (a file, or the beginning of a
    text that has none)."""
    return fraction(source, "valid") < VALID_SHARE


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
    """Read a .jsonl of {"words": [...], "tags": [...]}, or a CoNLL file: a word and its tag a line,
    as many columns everywhere, parted by tabs or else by spaces; a blank line ends a sentence;
    "# key = value" is a comment, and so is a # without a tag. The tag is the last column of nothing
    but tags, the word the first column, or the second where the first numbers the words."""
    if ending(path := Path(path)) in (".jsonl", ".ndjson"):
        rows = read_rows(path, {"words": "words", "tags": "tags"}, encoding)
        tagged = (_tagged(row["words"], row["tags"], place) for place, row in rows)
        return [sentence for sentence in tagged if sentence.words]
    if ending(path) == ".json":
        raise UserError(f"{path}: to tag, each line is a row of JSON: name such a file .jsonl")
    lines, sentence = [], 0
    for number, line in enumerate(read_lines(path, encoding), 1):
        line, whole = line.strip(" \t\n"), line
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentence += 1
        elif not COMMENT.match(line):
            cells = [cell.strip(" ") for cell in re.split("\t" if "\t" in line else " +", line)]
            lines.append((sentence, cells, f"{path}: line {number}: {line[:40]!r}"))
            if whole.endswith("\t\n"):
                note(f"{path}: its last column is empty: left out")
    plain = [line for line in lines if line[1][0][:1] != "#"] or lines
    width = len(plain[0][1])
    for _, cells, place in plain:
        if len(cells) != width or not all(cells):
            raise UserError(f"{place} has not {width} columns, as the lines before it: mend it")
    numbered = width > 2 and all(re.fullmatch(r"\d+([-.]\d+)?", cells[0]) for _, cells, _ in plain)
    if numbered:  # 2-3 is a word that the next lines take apart, 3.1 one that is not there
        plain = lines = [line for line in plain if line[1][0].isdigit()]
    no_tags = lambda c: [place for _, cells, place in plain if not TAG.fullmatch(cells[c])]
    columns = [c for c in range(1 + numbered, width) if not no_tags(c)]
    if not columns:
        place = [*no_tags(-1), plain[0][2]][0]
        raise UserError(f"{place} is no word and a tag (O, B-type, I-type) after it: mend it")
    if numbered and width == 4 and len(columns) == 2:  # GermEval 2014
        note(f"{path}: two columns of tags: the first one, of outer entities, is read")
        columns.pop()
    sentences = defaultdict(lambda: ([], []))
    for sentence, cells, _ in lines:
        if len(cells) == width and TAG.fullmatch(tag := cells[columns[-1]]):  # else a comment
            sentences[sentence][0].append(cells[numbered])
            sentences[sentence][1].append(tag)
    return [_tagged(*sentence, str(path)) for sentence in sentences.values()]


def _tagged(words: list, tags: list, place: str) -> Tagged:
    """A sentence, its tags as BIO: an I- that goes on with nothing becomes B-."""
    lists = isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags)
    if not lists or not all(isinstance(word, str) and word.strip(" \t\r\n") for word in words):
        raise UserError(f'{place}: "words" and "tags" must be lists of one length: mend the row')
    bio, before = [], ""
    for tag in map(str, tags):
        if not TAG.fullmatch(tag):
            raise UserError(f"{place}: the tag {tag!r} is not O, B-type or I-type: mend it")
        kind = "" if tag == "O" else tag[2:] or "entity"
        goes_on = tag[0] in "IELM" and kind == before
        bio.append(f"{'I' if goes_on else 'B'}-{kind}" if kind else "O")
        before = "" if tag[0] in "ELSUW" else kind
    return Tagged(tuple(words), tuple(bio))


def read_questions(path: Path | str, encoding="utf-8", answered: bool = True) -> list[Question]:
    """Read SQuAD's .json or a table of "context", "question" and what is right: "answer" and
    "answer_start", to which "answers" may add more; or "answers" as SQuAD or Hugging Face's
    `datasets` writes it. answer_start -1, or no answer in a list: the context holds none. answered:
    whether answers are read."""
    columns = {name: name for name in ("context", "question")}
    squad = ending(path := Path(path)) == ".json"
    rows = _squad_rows(path, encoding) if squad else read_rows(path, columns, encoding)
    return [_question(row, place, answered) for place, row in rows]


def _squad_rows(path: Path, encoding: str) -> Iterator[tuple[str, dict]]:
    try:
        articles = json.loads(read_text(path, encoding))["data"]
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            for i, qa in enumerate(paragraph["qas"], 1):
                row = {**qa, "context": paragraph["context"], "question": qa["question"]}
                yield f"{path}: question {qa.get('id', i)}", row
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not SQuAD's layout ({error!r}): mend it, or name it .jsonl where "
                        f"each line is a row") from None  # fmt: skip


def _question(row: dict, place: str, answered: bool) -> Question:
    """Check a row, and find its answer: where it says, or where else it is beyond doubt."""
    context, question = (text_of(row, name, place) for name in ("context", "question"))
    texts, start = _answers(row, place) if answered else ([], -1)
    blank = bool(texts) and start != -1 and not str(texts[0]).strip()
    if blank:
        note(f"{place.rpartition(': ')[0]}: a blank answer is read as none, as answer_start -1 is")
    if not texts or start == -1 or blank:
        return Question(context, question, ("",), -1)
    texts = [text_of({"answer": text}, "answer", place) for text in texts]
    start = start and start + len(texts[0]) - len(texts[0].lstrip())
    texts = list(dict.fromkeys(map(str.strip, texts)))
    found = [match.start() for match in re.finditer(f"(?={re.escape(texts[0])})", context)]
    if start not in found:
        likely = found
        if len(found) > 1 and start is not None:  # counted in bytes, or a little beside
            encoded = (("utf-8", start), ("utf-16-le", 2 * start))
            likely = {len(context.encode(e)[:n].decode(e, "ignore")) for e, n in encoded}
            likely = likely.intersection(found) or [n for n in found if abs(n - start) < 3]
        if len(likely) != 1:
            raise UserError(f"{place}: the answer {texts[0][:40]!r} is {len(found)} times in its "
                            f"context, answer_start {start} says not where: mend it")  # fmt: skip
        if start is not None:
            note(f"{place.rpartition(': ')[0]}: some answer_start point beside their answers, "
                 f"which were found all the same")  # fmt: skip
        (start,) = likely
    return Question(context, question, tuple(texts), start)


def _answers(row: dict, place: str) -> tuple[list, int | None]:
    """All that is right, and where the first of it begins (-1: nothing is; None: not said)."""
    listed = lambda value: value if isinstance(value, list) else [value]
    answers, others = row.get("answers"), []
    if isinstance(answers, str) and answers.strip()[:1] in ("[", "{"):  # a cell of a .csv
        try:
            answers = json.loads(answers)
        except ValueError:
            answers = [[]]  # which is refused below
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):  # SQuAD
        names = ("text", "answer_start")
        answers = {name: [answer.get(name) for answer in answers] for name in names}
    if "answer" in row:
        others = listed((answers["text"] if isinstance(answers, dict) else answers) or [])
        answers = {"text": row["answer"], "answer_start": row.get("answer_start")}
    elif isinstance(answers, list):
        answers = {"text": answers, "answer_start": row.get("answer_start", [None] * len(answers))}
    if not isinstance(answers, dict) or "text" not in answers:
        raise UserError(f"{place}: no 'answer', nor 'answers' of 'text' and 'answer_start': rename "
                        f"a column; {PREDICT}")  # fmt: skip
    texts, starts = listed(answers["text"]), listed(answers.get("answer_start"))
    if len(texts) != len(starts) or any(isinstance(text, list | dict) for text in texts + others):
        raise UserError(f"{place}: 'answers' is no list of texts with as many places: mend the row")
    if not texts or str(row.get("is_impossible")).lower() == "true":
        return [], -1
    start = starts[0]
    if start is None or str(start).strip().lower() in ("", "nan", "none", "null"):
        return [*texts, *others], None
    try:  # of 36 tables make 36.0 and "36"
        if isinstance(start, bool) or (number := float(start)) < -1 or not number.is_integer():
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(f"{place}: answer_start is {start!r:.40}, no place: mend it") from None
    return [*texts, *others], int(number)


def read_pairs(path: Path, source_column: str, target_column: str, encoding="utf-8") -> list[Pair]:
    """Read the two columns of a table, or the lines of two files, one a language, whose names
    differ in their ends only; pairs with a blank side are left out, and counted."""
    names = source_column, target_column
    if ending(path) in (f".{name}".lower() for name in names):
        sides = [[*map(str.strip, read_lines(_beside(path, name), encoding))] for name in names]
        shorter, longer = sorted(sides, key=len)
        if any(longer[len(shorter) :]):  # blank lines at the end do not count
            raise UserError(f"{path}: the two files have {len(sides[0])} and {len(sides[1])} "
                            f"lines, which must be as many: mend them")  # fmt: skip
        pairs = list(map(Pair, *sides))
    elif ending(path) not in TABLES:
        raise UserError(
            f"{path}: pairs stand in a table ({', '.join(TABLES)}), or in two files as "
            f"train.en and train.de are: --source-column en --target-column de"
        )
    else:
        rows = read_rows(path, {"--source-column": names[0], "--target-column": names[1]}, encoding)
        pairs = [Pair(*(text_of(row, name, place) for name in names)) for place, row in rows]
    good = [pair for pair in pairs if pair.source.strip() and pair.target.strip()]
    if len(good) < len(pairs):
        note(f"{path}: {len(pairs) - len(good)} pairs with a blank side left out")
    return good


def _beside(path: Path, language: str) -> Path:
    """The file of a language, whose name differs from this one's in its last part only."""
    if ending(path) == f".{language}".lower():
        return path
    stem = path.name[: path.name.lower().removesuffix(".gz").rindex(".") + 1]
    cases = (language, language.lower(), language.upper())
    paths = [path.with_name(stem + case + gz) for gz in ("", ".gz") for case in cases]
    return next((other for other in paths if other.exists()), paths[0])
