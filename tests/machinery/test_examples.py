"""Words with tags, questions, pairs: what the author of a file meant, or one line; never something
else in silence."""

import json
import re

import pytest

from minilm.config import UserError
from minilm.corpora.files import read_pairs, read_questions, read_tagged

TAGGED = {  # name: content, word/tag of each sentence
    "plain.conll": ("# a comment\nIn\tO\nNew\tB-loc\nYork\tI-loc\n#fun\tO\n\nHi O\n\n\n-DOCSTART- O"
                    "\n\nRome I-loc", "In/O New/B-loc York/I-loc #fun/O|Hi/O|Rome/B-loc"),
    "blanks.conll": ("7\u00a0300 B-n\na\u3000b\u2009c O\nd\u0085\u2028\x0b\x0ce O\n",
                     "7\u00a0300/B-n a\u3000b\u2009c/O d\u0085\u2028\x0b\x0ce/O"),
    "2003.txt": ("-DOCSTART- -X- -X- O\n\n# id = O\nOslo NNP B-NP I-loc\n# NN I-NP O\n",
                 "Oslo/B-loc #/O"),
    "germeval.tsv": ("#\thttp://x.example [1 O]\n1\tDer\tO\tO\n2\tSC\tB-org\tO\n3\tJena\tI-org\t"
                     "B-loc\n\n1\tJa\tO\tO\n", "Der/O SC/B-org Jena/I-org|Ja/O"),
    "u.conllu": ("# sent_id = 1 O\n# newpar\n1-2\tam\t_\t_\n1\tan\tADP\tO\n2\tdem\tDET\tO\n2.1\t"
                 "_\t_\tO\n3\tRhein\tN\tB-loc\n", "an/O dem/O Rhein/B-loc"),
    "comments.conll": ("# text = It is vitamin B-6\nIt O\n# id = B-6\n# so it is O\nB-6 I-x\n",
                       "It/O B-6/B-x"),
    "first.conll": ("# a B-x\nAda\tB-per\tNNP\n#nlp\tB-x\tNN\n# of\tIN\tNN\n#\tO\tCD\n",
                    "Ada/B-per #nlp/B-x #/O"),
    "bare.tsv": ("a\tI\nb\tI\nc\tB\n", "a/B-entity b/I-entity c/B-entity"),
    "bioes.tsv": ("a\tB-x\nb\tI-x\nc\tE-x\nd\tS-x\ne\tS-x\nf\tO\n",
                  "a/B-x b/I-x c/I-x d/B-x e/B-x f/O"),
    "bilou.tsv": ("a\tU-x\nb\tB-x\nc\tL-x\nd\tI-x\n", "a/B-x b/B-x c/I-x d/B-x"),
    "tail.tsv": ("Ann\tB-per\t\nis\tO\t\n", "Ann/B-per is/O"),
    "cr.conll": ("a O\rb B-x\r\rc O\r", "a/O b/B-x|c/O"),
    "twice.conll": ("a O\n\n\ufeffb O\n", "a/O|b/O"),
    "a.jsonl": ('{"words": ["a\u00a0b", "c"], "tags": ["I-x", "O"]}', "a\u00a0b/B-x c/O"),
    "more.conll": ("a O\n10 000 B-x\n", "line 2.*has not 2 columns"),
    "fewer.conll": ("In O\nNew\n", "line 2"),
    "none.conll": ("a b\nc O\n", "line 1: 'a b' is no word"),
    "one.conll": ("O\nO\n", "line 1"),
    "lengths.jsonl": ('{"words": ["a"], "tags": []}', "line 1: .*lists of one length"),
    "rows.json": ('{"words": ["a"], "tags": ["O"]}', "name such a file .jsonl"),
    "kind.jsonl": ('{"words": ["a"], "tags": ["person"]}', "'person' is not O"),
}  # fmt: skip
BIRDS = "É: the red hen saw the red cat 🐈🐈🐈🐈 by a red owl."  # "red" at 7, 23 and 41
AT, ROW = 41, {"context": BIRDS, "question": "What has the owl?"}
SAID = {"answer": "red", "answer_start": AT}
BOTH = {"text": ["red", "red owl"], "answer_start": [AT, 41]}
RIGHT = [  # what a row says, its answers and where the first is
    *((SAID | {"answer_start": n}, ["red"], AT) for n in (AT, 41.0, "41", " 41.0 ", [41])),
    (SAID | {"answer_start": len(BIRDS[:AT].encode())}, ["red"], AT),
    (SAID | {"answer_start": len(BIRDS[:AT].encode("utf-16-le")) // 2}, ["red"], AT),
    (SAID | {"answer_start": 39}, ["red"], AT),  # an editor counted otherwise
    (SAID | {"answers": ["red", "red owl"]}, ["red", "red owl"], AT),
    (SAID | {"answers": '["red", "red owl"]'}, ["red", "red owl"], AT),  # in a .csv
    ({"answer": "owl"}, ["owl"], 45),
    (SAID | {"answer": " red owl ", "answer_start": AT - 1}, ["red owl"], AT),
    ({"answer": "owl", "answer_start": 999}, ["owl"], 45),
    ({"answer": "owl", "answer_start": None}, ["owl"], 45),
    ({"answers": BOTH}, ["red", "red owl"], AT),
    ({"answers": ["red"], "answer_start": [41]}, ["red"], AT),
    ({"answers": [{"text": "red", "answer_start": 41.0}, {"text": "owl"}]}, ["red", "owl"], AT),
    ({"answers": {"text": [], "answer_start": []}}, [""], -1),
    ({"answers": []}, [""], -1),
    ({"answer": "", "answer_start": None}, [""], -1),
    ({"answer": "red", "answer_start": -1}, [""], -1),
    (SAID | {"is_impossible": True}, [""], -1),
]
WRONG = [
    ({"answer": "red"}, "3 times"), ({"answer": "red", "answer_start": float("nan")}, "3 times"),
    (SAID | {"answer_start": 999}, "says not where"), ({"answer": "fox"}, "'fox' is 0 times"),
    (SAID | {"answer_start": 41.5}, "41.5, no place"), (SAID | {"answer_start": -7}, "no place"),
    (SAID | {"answer_start": True}, "no place"), (SAID | {"answer_start": "there"}, "no place"),
    (SAID | {"answer_start": [1, 41]}, "as many places"), (SAID | {"answers": 5}, "but int"),
    ({"answers": BOTH | {"text": ["red"]}}, "as many places"),
    ({"answers": {"text": [["red"]], "answer_start": [41]}}, "no list"),
    (SAID | {"answers": "{'text': array(['red'])}"}, "no list"), ({}, "rename a column"),
    ({"answer": None}, "no text but NoneType"), (SAID | {"question": 1}, "no text but int"),
]  # fmt: skip
PAIRED = [  # files, their pairs, how many with a blank side are said
    ({"a.de": "eins \nzwei\n\n drei\n\n", "a.en": "one\n\n2\nthree\n"}, "eins/one drei/three", "2"),
    ({"de.en-de.de": "eins", "de.en-de.en": "one"}, "eins/one", ""),
    ({"A.DE": "eins", "A.EN": "one"}, "eins/one", ""),
    ({"a.de": "ei\rns\nzw\u2028ei\n", "a.en": "one\r\ntw\u0085o\x0b.\r\n"},
     "ei\rns/one zw\u2028ei/tw\u0085o\x0b.", ""),
    ({"a.tsv": "en\tde\none\teins\n\tzwei\n"}, "eins/one", "1"),
    ({"a.de": "eins\nzwei", "a.en": "one"}, "2 and 1 lines", ""),
    ({"a.de": "eins"}, "a.en: no such file", ""),
    ({"a.tsv": "en\tfr\none\tun\n"}, "choose by --source-column", ""),
]  # fmt: skip


def write(path, content):
    path.write_bytes(content.encode())
    return path


def read_or_fail(reader, path, expected, shown):
    """What is read is as expected; or the one line that it gets begins with its path."""
    try:
        assert shown(reader(path)) == expected
    except UserError as error:
        assert str(error).startswith(str(path.parent)) and "\n" not in str(error)
        with pytest.raises(UserError, match=expected):
            raise


@pytest.mark.parametrize("name", TAGGED)
def test_a_word_and_its_tag_are_what_the_author_meant(tmp_path, name):
    content, expected = TAGGED[name]
    shown = lambda found: "|".join(" ".join(map("/".join, zip(*s, strict=True))) for s in found)
    read_or_fail(read_tagged, write(tmp_path / name, content), expected, shown)


@pytest.mark.parametrize("said, answers, start", RIGHT)
def test_an_answer_stands_where_its_row_says_in_every_layout(tmp_path, said, answers, start):
    [found] = read_questions(write(tmp_path / "a.jsonl", json.dumps(ROW | said)))
    assert (found.context, list(found.answers), found.start) == (BIRDS, answers, start)
    if isinstance(said.get("answers"), list) and not {"answer", "answer_start"} & {*said}:
        squad = {"data": [{"paragraphs": [{"context": BIRDS, "qas": [ROW | said]}]}]}
        assert read_questions(write(tmp_path / "a.json", json.dumps(squad))) == [found]
    [asked] = read_questions(write(tmp_path / "b.jsonl", json.dumps(ROW)), answered=False)
    assert asked == (BIRDS, found.question, ("",), -1)


@pytest.mark.parametrize("said, words", WRONG)
def test_an_answer_whose_place_is_not_known_is_refused(tmp_path, said, words):
    path = write(tmp_path / "a.jsonl", json.dumps(ROW | SAID) + "\n" + json.dumps(ROW | said))
    read_or_fail(read_questions, path, "line 2: .*" + words, len)
    with pytest.raises(UserError, match="not SQuAD's layout"):
        read_questions(write(tmp_path / "a.json", '{"data": [{}]}'))


@pytest.mark.parametrize("files, expected, blank", PAIRED)
def test_pairs_stay_pairs(tmp_path, capsys, files, expected, blank):
    *_, path = [write(tmp_path / name, content) for name, content in files.items()]
    shown = lambda pairs: " ".join(map("/".join, pairs))
    read_or_fail(lambda path: read_pairs(path, "de", "en"), path, expected, shown)
    assert "".join(re.findall("[0-9](?= pairs with a blank)", capsys.readouterr().err)) == blank
