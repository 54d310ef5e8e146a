"""Texts of CoAVT: CLIP's tokens, and BERT's word pieces of cleaned captions."""

import pickle

import pytest
import torch
from bert_folder import FIRST_WORD, WORDS, pieces
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.common.clip_tokenizer import clip_tokenizer
from clip4vla.common.errors import UserError
from clip4vla.loading.tokens import END, START
from clip4vla.models.coavt.processor import BertTexts, ClipTexts, clean
from clip4vla.models.coavt.text_ids import TEXT_IDS
from clip4vla.models.coavt.word_pieces import (
    empty_table,
    pieces_of,
    read_pieces,
    table_of,
)

CLIP, BERT = TEXT_IDS["clip"], TEXT_IDS["bert"]


@pytest.fixture(scope="module")
def bert():
    return BertTexts(pieces())


def ids_of(*words):
    return [FIRST_WORD + WORDS.index(word) for word in words]


def test_vocabularies_have_one_more_token():
    assert (CLIP.vocabulary, BERT.vocabulary) == (49_409, 30_523)
    assert CLIP.control == (49_408, END, None)
    assert BERT.control == (30_522, 102, None)


def test_clip_tokens_are_framed_and_padded_with_zeros():
    dog = clip_tokenizer().encode("a dog")
    found = ClipTexts().tokenize(["a dog", "a dog " * 9, ""], 6)
    assert found.dtype == torch.int64
    assert found.tolist() == [
        [START, *dog, END, 0, 0],
        [START, *dog, *dog, END],
        [START, END, 0, 0, 0, 0],
    ]
    assert CLIP.valid(found).sum(dim=1).tolist() == [4, 6, 2]


def test_a_word_with_the_id_of_padding_is_valid():
    """CLIP's id 0 is an exclamation mark before another mark."""
    found = ClipTexts().tokenize(["no!$"], 8)
    assert found[0, :4].tolist()[2] == 0 and found[0, 4] == END
    assert CLIP.valid(found).int().tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=40), length=st.integers(3, 20))
def test_every_text_has_one_end_and_padding_behind_it(text, length, bert):
    for texts, ids in ((ClipTexts(), CLIP), (bert, BERT)):
        (row,) = texts.tokenize([text], length)
        valid = ids.valid(row[None])[0]
        assert row[0] == ids.first and row[valid][-1] == ids.end
        assert (row == ids.end).sum() == 1 and (row == ids.first).sum() == 1
        assert not row[~valid].any() and row.max() < ids.decode


def test_no_text_can_write_a_control_token(bert):
    found = bert.tokenize(["[CLS] a [SEP] [PAD] dog [DEC]"], 30)[0]
    assert (found == BERT.end).sum() == 1 and (found == BERT.first).sum() == 1
    assert BERT.valid(found[None]).sum() > 10


def test_word_pieces(bert):
    found = bert.tokenize(["A Café dog BARKS, and barking!", "zebra"], 12)
    words = ids_of("a", "cafe", "dog", "bark", "##s", ",", "and", "bark", "##ing")
    assert found.tolist() == [[101, *words, 102, 0], [101, 100, 102, *[0] * 9]]
    assert BERT.valid(found).sum(dim=1).tolist() == [11, 3]


def test_captions_are_cleaned_as_lavis_does():
    marks = 'It\'s (a) "dog"! #1* ~x: y; z. Done, no?'
    assert clean(marks) == "it's a dog 1 x y z done, no?"
    assert clean("a  b\n c\n") == "a b c"
    assert clean("word " * 60) == " ".join(["word"] * 50)


def test_words_give_the_text_back(bert):
    ids = [BERT.first, *ids_of("a", "dog", "'", "s", "bark", "##ing", "and", "rain"), BERT.end, 0]
    assert bert.words([*ids, BERT.decode]) == "a dog's barking and rain"
    found = ClipTexts().tokenize(["a dog barks"], 8)[0].tolist()
    assert ClipTexts().words([CLIP.decode, *found[1:5]]) == "a dog barks"


def test_processes_share_a_processor(bert):
    """Before and after its first text."""
    again = pickle.loads(pickle.dumps(BertTexts(pieces())))
    assert torch.equal(again.tokenize(["a dog"], 5), bert.tokenize(["a dog"], 5))
    assert len(pickle.dumps(bert)) == len(pickle.dumps(BertTexts(pieces())))


def test_a_table_has_the_pieces():
    found = pieces()
    found[2000], found[2001] = "é", "x" * 64
    table = table_of(found)
    assert (table.dtype, list(table.shape)) == (torch.uint8, [30_522, 64])
    assert pieces_of(table) == found
    assert empty_table().shape == table.shape


def test_a_table_without_values_has_words_that_are_unknown():
    texts = BertTexts(pieces_of(empty_table().to("meta")))
    assert texts.tokenize(["dog " * 3], 6).tolist() == [[101, 100, 100, 100, 102, 0]]


def changed(index, piece):
    found = pieces()
    found[index] = piece
    return "\n".join(found)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a\nb", "has 2 different word pieces in 2 lines, not 30,522"),
        (changed(5000, "dog"), "has 30,521 different word pieces in 30,522 lines"),
        (changed(101, "cls"), "vocab.txt:102: is 'cls', not [CLS]"),
        (changed(3000, "x" * 65), "vocab.txt:3001: a word piece of 65 bytes, not 1 to 64"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_another_vocabulary_is_refused(tmp_path, content, problem):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_pieces(path)
    assert problem in str(error.value)
    assert str(error.value).endswith("Fix: give the vocab.txt of bert-base-uncased")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_vocabulary_is_read(tmp_path, end):
    path = tmp_path / "vocab.txt"
    path.write_bytes((end.join(pieces()) + end).encode())
    assert read_pieces(path) == pieces()
