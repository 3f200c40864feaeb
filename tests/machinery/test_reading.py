"""A person's own files: read the same in every dress, and what is wrong gets one line."""

import csv
import gzip
import json
import os
import random
from pathlib import Path

import pytest

from minilm.config import UserError
from minilm.corpora import Example, documents, fingerprint
from minilm.corpora.files import read_examples
from minilm.corpora.tables import write_rows
from minilm.corpora.texts import texts_in

CSV = "text,label\ngood film,pos\nbad film,neg\n"
JSONL = '{"text": "good film", "label": "pos"}\n{"text": "bad film", "label": "neg"}\n'
FILMS = [Example("good film", "pos"), Example("bad film", "neg")]


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def texts(*data, **options) -> list[str]:
    return [text for _, text in documents([str(item) for item in data], **options)]


def error_of(function, *arguments, **options) -> str:
    """The message of the UserError that a call raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


TABLES = {  # name: content, each the two films
    "a.csv": CSV,
    "a.CSV": CSV,
    "a.jsonl": JSONL,
    "a.ndjson": JSONL,
    "a.tsv": CSV.replace(",", "\t"),
    "semicolons.csv": CSV.replace(",", ";"),
    "bars.csv": CSV.replace(",", "|"),
    "tabs.csv": CSV.replace(",", "\t"),
    "commas.tsv": CSV,
    "bom.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "utf-16.csv": CSV.encode("utf-16"),
    "utf-16-be.csv": "\ufeff".encode("utf-16-be") + CSV.encode("utf-16-be"),
    "crlf.csv": CSV.replace("\n", "\r\n"),
    "cr.csv": CSV.replace("\n", "\r"),
    "cr.jsonl": JSONL.replace("\n", "\r"),
    "blank-lines.csv": "\n" + CSV.replace("\n", "\n\n"),
    "blank-lines.jsonl": JSONL.replace("\n", "\r\n\r\n"),
    "no-last-newline.csv": CSV.rstrip(),
    "blanks.csv": CSV.replace(",pos", ", pos "),
    "order.csv": "label,id,text\npos,1,good film\nneg,2,bad film\n",
    "nameless.csv": "text,label,,,\ngood film,pos,,,\nbad film,neg\n",
    "twins.csv": "x,x,text,label\n1,2,good film,pos\n1,2,bad film,neg\n",
    "twice.csv": CSV + "\ufeffTEXT,label\n",
    "spaced.csv": 'text, label\n"good film", "pos"\n"bad film", "neg"\n',
    "r.tsv": '"text"\t"label"\t"note"\n"good film"\t"pos"\tNA\n"bad film"\t"neg"\t"x"\n',
    "quoted.tsv": '"text"\t"label"\n"good film"\t"pos"\n"bad film"\t"neg"\n',
}


UNUSUAL = {"semicolons.csv", "bars.csv", "tabs.csv", "commas.tsv"}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_reads_the_same_in_every_dress(tmp_path, capsys, name):
    plain = write(tmp_path / name, TABLES[name])
    packed = write(tmp_path / f"{name}.gz", gzip.compress(plain.read_bytes()))
    assert read_examples(plain) == read_examples(packed) == FILMS
    assert texts(plain) == texts(packed) == texts_in(plain) == ["good film", "bad film"]
    said = f"its columns are separated by {name.partition('.')[0]}"
    errors = capsys.readouterr().err
    assert (said in errors) == (name in UNUSUAL)
    assert ("line 4: the header again, left out" in errors) == (name == "twice.csv")


def test_cells_of_any_length_and_with_any_sign_are_read_without_a_mark_on_the_process(tmp_path):
    csv.field_size_limit(before := 99_999)
    cells = ["a\rb", "x" * 200_000, "\u0085\u2028\x0b.", "text"]
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(f"{cell},a\n" for cell in cells))
    rows = documents([str(path)])
    assert next(rows)[1] == "a\rb" and csv.field_size_limit() == before
    assert [text for _, text in rows] == cells[1:] == texts_in(path)[
        1:
    ] and csv.field_size_limit() == before
    assert texts_in(write(tmp_path / "b.csv", "text\na\ntext\n")) == ["a", "text"]
    one = write(tmp_path / "c.csv", 'text\na\n""\n\nb\n')  # of one column "" is a row
    assert texts_in(one) == ["a", "", "b"]


@pytest.mark.parametrize("data, rows", [
    ('"the cat\t0\nand dog"\t1\n', ['"the cat', 'and dog"']),  # two rows, not one
    ('"the cat" runs\t0\nold dog\t1\n', ['"the cat" runs', "old dog"]),
    ('"the cat"\t0\nold dog\t1\n', ['"the cat"', "old dog"]),  # needed by nobody
    ('"say ""yes"""\t0\nold dog\t1\n', ['say "yes"', "old dog"]),
    ('"the cat\nruns"\t0\nold dog\t1\n', ["the cat\nruns", "old dog"]),
    ('"a\tcat\tor\ndog"\t0\nold dog\t1\n', "line 2: a cell in quotes goes over lines"),
    ('"the cat" runs\t0\nold dog\n', "line 3: 1 cells under a header of 2"),
])  # fmt: skip
def test_quotes_in_a_tsv_never_swallow_rows(tmp_path, data, rows):
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + data)
    if isinstance(rows, str):
        assert rows in error_of(read_examples, path)
    else:
        assert [example.text for example in read_examples(path)] == rows


PAGE = """<html><head><title>A page</title><style>p { x: "<p>" }</style></head><body>
<h1>Head</h1><p>One <b>bold</b>\nword &amp; more<br>second <a href="x" title="a > b">line</a></p>
<script>if (a < b) run("text");</script><!-- no --><pre>as\n  written</pre></body></html>"""


def test_what_is_on_the_disk_is_text(tmp_path):
    assert texts(write(tmp_path / "a.html", PAGE)) == [
        "A page\n\nHead\n\nOne bold word & more\nsecond line\n\nas\nwritten\n"
    ]
    for name in ("a.txt", "a.md", "a.rst", "a.py", "b.txt.gz"):
        for data, text in [(b"one\r\ntwo\r.\n", "one\ntwo\r.\n"), (b"one\rtwo\r", "one\ntwo\n")]:
            path = write(tmp_path / name, gzip.compress(data) if "gz" in name else data)
            assert texts(path) == [text]  # \r ends a line only where no \n does
    for data in (b"one\r\rtwo", b"one\n\n two\n", b"one\r\n\r\ntwo"):
        assert texts_in(write(tmp_path / "lines.txt", data)) == ["one", "", "two"]
    text = "one\u0085two\u2028three\x1cfour"  # none of these ends a line
    path = write(tmp_path / "u.jsonl", json.dumps({"text": text}, ensure_ascii=False))
    assert texts(path) == [text]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "cp1252", "utf-8-sig"])
def test_another_encoding_can_be_asked_for(tmp_path, encoding):
    path = write(tmp_path / "a.csv", "text,label\ncafé,é\n".encode(encoding))
    assert read_examples(path, encoding=encoding) == [Example("café", "é")]


@pytest.mark.parametrize("data, advice", [
    ("It\u2019s red".encode("cp1252"), "line 1, byte 2: 0x92 is not utf-8 (invalid start byte)"),
    ("It\u2019s red".encode("cp1252"), "try --encoding cp1252"),
    ("one\r\rtwo caf\xe9s".encode("latin-1"), "line 3, byte 12: 0xe9"),
    ("one caf\xe9s".encode("latin-1"), "try --encoding latin-1"),
    ("Всё хорошо".encode("cp1251"), "say which one it is"),
    ("na\xefve caf\xe9 \xe0 la carte".encode() + b"\xff", "the rest of the file is: mend"),
    ("a film".encode("utf-16-le"), "try --encoding utf-16-le"),
    ("a film".encode("utf-16-be"), "try --encoding utf-16-be"),
])  # fmt: skip
def test_the_advice_names_the_encoding_that_fits(tmp_path, data, advice):
    assert advice in error_of(texts, write(tmp_path / "a.txt", data))


BAD = {  # name: content, what the line says besides the path
    "empty.txt": ("", "empty"),
    "blank.txt.gz": (gzip.compress(b" \n"), "empty"),
    "tags.html": ("<p><br></p>", "no text between its tags"),
    "header.csv": ("text,label\n", "no rows"),
    "a.json": (JSONL, "unknown kind of file"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "this is no text file"),
    "packed.jsonl": (gzip.compress(JSONL.encode()), "should end in .gz"),
    "not-packed.csv.gz": (CSV, "Not a gzipped file"),
    "cut.jsonl.gz": (gzip.compress(JSONL.encode())[:-9], "end-of-stream"),
    "nul.txt": ("text\0text", "NUL"),
    "late-nul.txt": ("text\n" * 2000 + "\0", "line 2001 holds a NUL"),
    "columns.csv": ("review,stars\nfine,5\n", "among 'review', 'stars': choose by --text-column"),
    "no-header.csv": ("fine,pos\nbad,neg\n", "a table begins with a line of names"),
    "twice.csv": ("text,text,label\na,b,c\n", "two columns of one name"),
    "ragged.csv": (CSV + "\nfine,indeed,pos\n", "line 5: 3 cells under a header of 2"),
    "other-order.csv": (CSV + "label,text\npos,fine\n", "line 4: the header in another order"),
    "quote.csv": (CSV + '"never closed,pos\nmore,neg\n', "line 4 and on is broken"),
    "broken.jsonl": (JSONL + '{"text": ', "line 3: broken JSON"),
    "deep.jsonl": ("[" * 100_000, "line 1: broken JSON"),
    "array.jsonl": ('["good film", "pos"]\n', "line 1: broken JSON (no object like"),
    "null.jsonl": ('{"text": null, "label": "a"}', "'text' is no text but NoneType"),
    "half.jsonl": (r'{"text": "\ud800", "label": "a"}', "surrogate"),
}
BAD_LABELS = {
    "none.jsonl": (JSONL + '{"text": "a", "label": null}', "line 3: no label in 'label'"),
    "nan.jsonl": (JSONL + '{"text": "a", "label": NaN}', "line 3: no label"),
    "list.jsonl": ('{"text": "a", "label": ["b"]}', "'label' is no text but list"),
    "some.csv": (CSV + "fine,\n", "line 4: no label in 'label'"),
    "all.csv": ("text,label\nfine,\nbad, \n", "minilm predict RUN --file"),
    "unlabelled.csv": ("text\nfine\n", "minilm predict RUN --file"),
    "unlabelled.txt": ("fine\n", "minilm predict RUN --file"),
}


@pytest.mark.parametrize("name", [*BAD, *BAD_LABELS])
def test_a_bad_file_gets_one_line_that_names_the_place(tmp_path, name):
    data, words = {**BAD, **BAD_LABELS}[name]
    path = write(tmp_path / name, data)
    message = error_of(read_examples if name in BAD_LABELS else texts, path)
    assert message.startswith(str(path)) and words in message


def test_words_for_a_missing_label_are_labels_like_any_other(tmp_path):
    words = ["nan", "NaN", "NA", "None", "null"]
    table = write(tmp_path / "a.csv", "text,label\n" + "".join(f"x,{word}\n" for word in words))
    assert [label for _, label in read_examples(table)] == words


def test_damage_never_ends_in_anything_but_a_user_error(tmp_path):
    rng = random.Random(0)
    for i in range(150):
        name, data = [("a.csv", CSV), ("a.jsonl", JSONL), ("a.tsv", TABLES["quoted.tsv"])][i % 3]
        damaged = bytearray(data.encode())
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(damaged))
            damaged[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        try:
            read_examples(write(tmp_path / name, bytes(damaged)))
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes as Unix has them")
def test_a_folder_follows_links_and_says_what_it_leaves_out(tmp_path, capsys):
    folder = tmp_path / "notes"
    for name, text in [("b/2.md", "two"), ("b/x.png", ""), (".git/a.txt", "no"), ("c.txt", " ")]:
        write(folder / name, text)
    write(tmp_path / "elsewhere" / "1.txt", "one")
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    (folder / "b" / "loop").symlink_to(folder)
    (folder / "gone.txt").symlink_to("nothing")
    os.mkfifo(folder / "pipe.txt")
    assert texts(folder) == ["one", "two"]
    said = capsys.readouterr().err
    assert "3 files left out" in said  # a picture, a pipe, a link to nothing
    assert "1 empty file(s) left out" in said and "c.txt" in said
    assert "not a regular file" in error_of(texts, folder / "pipe.txt")
    assert "2 files, all empty" in error_of(texts, folder / "c.txt", folder / "c.txt")
    assert "none of its 1 files" in error_of(texts, write(tmp_path / "p/a.png", "").parent)


def test_documents_end_at_the_separator_and_the_usual_one_is_said(tmp_path, capsys):
    path = write(tmp_path / "a.txt", "one\n<|endoftext|>\ntwo\n\nthree<|endoftext|>")
    assert texts(path) == ["one", "two\n\nthree"]
    assert "a document ends at every <|endoftext|>" in capsys.readouterr().err
    assert texts(path, separator="") == [path.read_text()]
    assert texts(path, separator=r"\n\n") == ["one\n<|endoftext|>\ntwo", "three<|endoftext|>"]
    assert not capsys.readouterr().err
    assert texts(path, separator="###") == [path.read_text()]
    assert "'###' is not in it" in capsys.readouterr().err
    rows = write(tmp_path / "a.jsonl", json.dumps({"text": "one<|endoftext|>two"}))
    assert texts(rows) == ["one", "two"]


def test_what_is_written_is_read_again(tmp_path):
    def until_ctrl_c():
        yield {"text": "text"}
        raise KeyboardInterrupt

    rows = ["red cat\rold dog", 'say "yes", then\n', "a\r\nb", "", "ä\u2028", "x;y\tz"]
    path, other = tmp_path / "out.jsonl", tmp_path / "other.jsonl"
    write_rows(path, ({"text": text, "label": "a"} for text in rows))
    assert texts_in(path) == rows
    for name in ("out.jsonl", "a.csv", "no/folder.jsonl"):
        message = error_of(write_rows, tmp_path / name, until_ctrl_c())
        assert "exists, or its folder does not" in message
    with pytest.raises(KeyboardInterrupt):
        write_rows(other, until_ctrl_c())
    assert not other.exists()


def test_a_parquet_table_reads_like_any_other(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = pyarrow.table({"id": [1, 2], "text": [f.text for f in FILMS], "label": ["pos", "neg"]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    assert read_examples(tmp_path / "a.parquet") == FILMS
    assert "among 'id', 'text'" in error_of(texts, tmp_path / "a.parquet", text_column="x")
    assert "no parquet table" in error_of(texts, write(tmp_path / "b.parquet", b"PAR1"))


def test_what_is_missing_is_said(tmp_path):
    good = write(tmp_path / "good.txt", "text")
    for missing, words in [("no.txt", "no such file"), ("imbd", "nor a corpus (python")]:
        assert words in error_of(texts, good, missing)
    assert "no such encoding" in error_of(texts, good, encoding="hex")


def test_the_fingerprint_knows_the_content_whatever_the_time(tmp_path):
    prints = []
    for content in (b"one", b"two", b"one"):
        path = write(tmp_path / "a.txt", content)
        os.utime(path, (len(prints), 1))
        prints.append(fingerprint([str(path)]))
    assert prints[0] == prints[2] != prints[1]
