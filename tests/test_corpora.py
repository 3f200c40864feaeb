"""A person's own files: read the same in every dress, and every bad one gets one line."""

import gzip
import json
import random
from pathlib import Path

import pytest

from minilm.config import UserError
from minilm.corpora import (
    Example,
    decoding,
    documents,
    fingerprint,
    read_examples,
)

CSV = b"text,label\ngood film,pos\nbad film,neg\n"
JSONL = b'{"text": "good film", "label": "pos"}\n{"text": "bad film", "label": "neg"}\n'
FILMS = [Example("good film", "pos"), Example("bad film", "neg")]


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def texts(*data, **options) -> list[str]:
    return ["".join(document) for document in documents([str(item) for item in data], **options)]


def error_of(function, *arguments, **options) -> str:
    """The message of the UserError that a call raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# Files


@pytest.mark.parametrize(
    "name, data",
    [
        ("a.csv", CSV),
        ("a.jsonl", JSONL),
        ("a.tsv", CSV.replace(b",", b"\t")),
        ("a.CSV", CSV),
        ("bom.csv", b"\xef\xbb\xbf" + CSV),
        ("bom.jsonl", b"\xef\xbb\xbf" + JSONL),
        ("crlf.csv", CSV.replace(b"\n", b"\r\n")),
        ("crlf.jsonl", JSONL.replace(b"\n", b"\r\n")),
        ("blank-lines.csv", CSV.replace(b"\n", b"\n\n")),
        ("blank-lines.jsonl", JSONL.replace(b"\n", b"\n\n")),
        ("no-last-newline.csv", CSV.rstrip()),
        ("no-last-newline.jsonl", JSONL.rstrip()),
        ("blanks.csv", CSV.replace(b",pos", b", pos ")),
        ("order.csv", b"label,id,text\npos,1,good film\nneg,2,bad film\n"),
    ],
)
def test_a_table_reads_the_same_in_every_dress(tmp_path, name, data):
    plain = write(tmp_path / name, data)
    packed = write(tmp_path / f"{name}.gz", gzip.compress(data))
    assert read_examples(plain) == read_examples(packed) == FILMS
    assert texts(plain) == texts(packed) == ["good film", "bad film"]


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("empty.txt", b"", "empty"),
        ("blank.txt", b" \n \n", "empty"),
        ("empty.csv", b"", "empty"),
        ("empty.jsonl.gz", gzip.compress(b""), "empty"),
        ("header.csv", b"text,label\n", "no rows"),
        ("a.png", b"\x89PNG\r\n\x1a\n", ".jsonl"),
        ("a.json", JSONL, "unknown kind of file"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n", "PNG"),
        ("photo.csv", b"\xff\xd8\xff\xe0", "JPEG"),
        ("weights.txt", b"PK\x03\x04\0\0", "zip archive (.zip, .pt"),
        ("table.csv", b"PAR1\x15\x04", "parquet"),
        ("paper.txt", b"%PDF-1.7 text", "PDF"),
        ("array.csv", b"\x93NUMPY\x01\x00v\x00", "NumPy"),
        ("words.txt", b"SQLite format 3\x00", "a database"),
        ("packed.jsonl", gzip.compress(JSONL), "should end in .gz"),
        ("not-packed.csv.gz", CSV, "no gzip file"),
        ("cut.jsonl.gz", gzip.compress(JSONL)[:-9], "damaged"),
        ("flipped.txt.gz", gzip.compress(b"x" * 99)[:-8] + b"\0" * 8, "damaged"),
        ("nul.txt", b"text\0text", "NUL"),
        ("late-nul.txt", b"text\n" * 2000 + b"\0", "line 2001 holds a NUL"),
        ("utf-16.txt", "a film".encode("utf-16"), "--encoding utf-16"),
        ("utf-16-no-bom.csv", CSV.decode().encode("utf-16-le"), "--encoding utf-16"),
        ("latin.txt", "one\ntwo caf\xe9s".encode("latin-1"), "line 2, byte 11: 0xe9"),
        ("latin.csv", CSV + "caf\xe9,pos".encode("latin-1"), "--encoding latin-1"),
        ("cut.txt", "caf\xe9".encode()[:-1], "byte 3"),
        ("columns.csv", b"review,stars\nfine,5\n", "--text-column; found: 'review', 'stars'"),
        ("label.jsonl", b'{"text": "a", "stars": 5}', "--label-column; found: 'text', 'stars'"),
        ("no-header.csv", b"fine,pos\nbad,neg\n", "line 2: no column 'text'"),
        ("twice.csv", b"text,text,label\na,b,c\n", "two columns of one name"),
        ("ragged.csv", CSV + b"\nfine,indeed,pos\n", "line 5: 3 cells under a header of 2"),
        ("quote.csv", CSV + b'"never closed,pos\nmore,neg\n', "begins in line 4 is broken"),
        ("broken.jsonl", JSONL + b'{"text": ', "line 3: broken JSON"),
        ("deep.jsonl", b"[" * 100_000, "line 1: broken JSON"),
        ("digits.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1: broken JSON"),
        ("array.jsonl", b'["good film", "pos"]\n', "line 1: a JSON list"),
        ("number.jsonl", b'{"text": 7, "label": "a"}', "'text' is no text but int"),
        ("null.jsonl", b'{"text": null, "label": "a"}', "'text' is no text but NoneType"),
        ("half.jsonl", rb'{"text": "\ud800", "label": "a"}', "surrogate"),
        ("half-label.jsonl", rb'{"text": "a", "label": "\udfff"}', "surrogate"),
        ("no-label.csv", CSV + b"fine,\n", "line 4: no label"),
        ("nan.csv", CSV + b"fine,NaN\n", "line 4: no label"),
        ("nan.jsonl", JSONL + b'{"text": "a", "label": NaN}', "line 3: no label"),
        ("none.jsonl", b'{"text": "a", "label": null}', "line 1: no label"),
        ("list.jsonl", b'{"text": "a", "label": ["b"]}', "'label' is a list"),
        ("plain.txt", b"some text", "a .txt holds no labels"),
    ],
)
def test_a_bad_file_gets_one_line_that_names_the_place(tmp_path, name, data, words):
    path = write(tmp_path / name, data)
    about_labels = any(word in words for word in ("label", "'text', 'stars'"))
    read = read_examples if about_labels or "half-label" in name else texts
    message = error_of(read, path)
    assert message.startswith(str(path)) and words in message


def test_what_is_missing_is_said_before_anything_is_read(tmp_path):
    good = write(tmp_path / "good.txt", "text")
    (tmp_path / "empty").mkdir()
    for missing, words in [
        (tmp_path / "no.txt", "no such file"),
        ("imbd", "the corpora are python-docs, imdb"),
        (tmp_path / "empty", "no file in it ends in .txt"),
    ]:
        assert words in error_of(documents, [str(good), str(missing)])
        assert words in error_of(fingerprint, [str(good), str(missing)])
    assert "no such file" in error_of(read_examples, tmp_path / "no.csv")


@pytest.mark.parametrize("encoding", ["latin1000", "hex", "rot13", "undefined", "nul\0"])
def test_an_unknown_encoding_is_named(tmp_path, encoding):
    path = write(tmp_path / "a.txt", "text")
    assert "no such encoding" in error_of(texts, path, encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "cp1252", "utf-8-sig"])
def test_another_encoding_can_be_asked_for(tmp_path, encoding):
    path = write(tmp_path / "a.csv", "text,label\ncafé,é\n".encode(encoding))
    assert read_examples(path, encoding=encoding) == [Example("café", "é")]


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path):
    text = "one\u0085two\u2028three\x1cfour"
    jsonl = write(tmp_path / "a.jsonl", json.dumps({"text": text}, ensure_ascii=False))
    table = write(tmp_path / "a.csv", f'text\n"{text}\nfive"\n')
    assert texts(jsonl) == [text]
    assert texts(table) == [text + "\nfive"]


def test_a_cell_may_be_longer_than_csv_itself_allows(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + "word " * 100_000 + ",pos\n")
    assert len(read_examples(path)[0].text) == 500_000


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_chunks_cut_anywhere_equal_the_whole(tmp_path, monkeypatch, size):
    text = "\ufeffäöü €\r\n𝄞\n\nlast\r\n"
    plain = write(tmp_path / "a.txt", text)
    packed = write(tmp_path / "b.txt.gz", gzip.compress(text.encode()))
    monkeypatch.setattr(decoding, "CHUNK", size)
    wanted = "äöü €\n𝄞\n\nlast\n"
    assert texts(plain, packed) == [wanted, wanted]
    table = write(tmp_path / "a.csv", CSV)
    assert read_examples(table) == FILMS
    (document,) = documents([str(plain)])
    assert max(len(chunk) for chunk in document) <= size + 1


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_place_of_a_bad_byte_does_not_depend_on_the_chunks(tmp_path, monkeypatch, size):
    path = write(tmp_path / "a.txt", "ä\nö\nü".encode() + b"\xc3\xff")
    monkeypatch.setattr(decoding, "CHUNK", size)
    assert "line 3, byte 8: 0xc3" in error_of(texts, path)


def test_a_folder_is_read_in_order_and_its_sub_folders_are_labels(tmp_path):
    write(tmp_path / "pos" / "2.txt", "good")
    write(tmp_path / "pos" / "10.txt", "great")
    write(tmp_path / "neg" / "1.txt.gz", gzip.compress(b"bad"))
    write(tmp_path / "neg" / "notes.md", "not read")
    write(tmp_path / ".hidden" / "1.txt", "not read")
    assert texts(tmp_path) == ["bad", "great", "good"]
    assert read_examples(tmp_path) == [("bad", "neg"), ("great", "pos"), ("good", "pos")]
    assert "no sub-folders" in error_of(read_examples, tmp_path / "pos")
    write(tmp_path / "neg" / "all.csv", CSV)
    assert "all.csv: a table among" in error_of(read_examples, tmp_path)


@pytest.mark.parametrize("name, data", [("a.csv", CSV), ("a.jsonl", JSONL)])
@pytest.mark.parametrize("n", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_damage_never_ends_in_anything_but_a_user_error(tmp_path, name, data, n):
    rng = random.Random(n)
    for _ in range(n):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(damaged))
            damaged[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        path = write(tmp_path / name, bytes(damaged))
        try:
            read_examples(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_the_fingerprint_changes_with_what_would_be_read(tmp_path):
    path = write(tmp_path / "a.csv", CSV)
    first = fingerprint([str(path)])
    assert fingerprint([str(path)]) == fingerprint([str(tmp_path / "a.csv")]) == first
    prints = {
        first,
        fingerprint([str(path)], "review"),
        fingerprint([str(path)], "text", "latin-1"),
    }
    write(path, CSV + CSV)
    prints.add(fingerprint([str(path)]))
    prints.add(fingerprint([str(tmp_path)]))
    assert len(prints) == 5
