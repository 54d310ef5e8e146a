import copy

import pytest
import torch
from encoded_clips import encoded_clips

from clip4vla.config.sections import Decoding
from clip4vla.loading.tokens import PAD, START
from clip4vla.models.clip4vla.caption import seq2seq_mask
from clip4vla.models.clip4vla.decoding import decode

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_the_truth_table_of_who_reads_whom():
    """Facts 8.1: two words, two of what is seen and heard."""
    expected = [[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert seq2seq_mask(2, 4).int().tolist() == expected


@pytest.fixture(scope="module")
def encoded(tiny, clips):
    with torch.inference_mode():
        return {
            "text": tiny.encode_text(clips["tokens"])[0],
            "vision": tiny.encode_vision(clips["frames"], clips["frame_mask"]),
            "audio": tiny.encode_audio(clips["audio"], clips["audio_mask"], clips["share"]),
            "token_mask": clips["tokens"] != PAD,
            "frame_mask": clips["frame_mask"],
            "audio_mask": clips["audio_mask"],
        }


def given(encoded, rows=slice(None), words=None, frames=None, segments=None):
    """Arguments of the caption generator, cut to some rows and lengths."""
    return (
        encoded["text"][rows, :words],
        encoded["token_mask"][rows, :words],
        encoded_clips(
            encoded["vision"][rows, :frames],
            encoded["frame_mask"][rows, :frames],
            encoded["audio"][rows, :segments],
            encoded["audio_mask"][rows, :segments],
        ),
    )


def test_a_word_does_not_see_the_words_after_it(tiny, encoded):
    with torch.inference_mode():
        whole = tiny.captioner(*given(encoded))
        for words in (1, 3):
            assert torch.allclose(
                tiny.captioner(*given(encoded, words=words)), whole[:, :words], **CLOSE
            )


def test_logits_do_not_depend_on_batch_and_padding(tiny, encoded):
    """Row 3 has 3 frames and 1 segment; row 1 has 1 frame and 3 segments."""
    with torch.inference_mode():
        whole = tiny.captioner(*given(encoded))
        alone = tiny.captioner(*given(encoded, rows=[3], segments=1))
        assert torch.allclose(alone, whole[[3]], **CLOSE)
        alone = tiny.captioner(*given(encoded, rows=[1], frames=1))
        assert torch.allclose(alone, whole[[1]], **CLOSE)


def test_every_modality_is_read(tiny, encoded):
    *text, clips = given(encoded)
    with torch.inference_mode():
        whole = tiny.captioner(*text, clips)
        no_sound = tiny.captioner(*text, {"vision": clips["vision"]})
        no_sight = tiny.captioner(*text, {"audio": clips["audio"]})
    silent = ~encoded["audio_mask"].any(dim=1)
    assert torch.allclose(no_sound[silent], whole[silent], **CLOSE)
    assert not torch.allclose(no_sound[~silent], whole[~silent], **CLOSE)
    assert not torch.allclose(no_sight, whole, **CLOSE)
    assert no_sight.isfinite().all()


def test_more_than_it_has_positions_for_is_refused(tiny, encoded):
    text, token_mask, clips = given(encoded)
    vision, frame_mask = clips["vision"]
    long = torch.cat([vision, vision], dim=1), torch.cat([frame_mask, frame_mask], dim=1)
    with pytest.raises(
        ValueError, match="vision: 6 positions after 8 do not fit: it has room for 3"
    ):
        tiny.captioner(text, token_mask, encoded_clips(*long, None, None))


def test_captioning_runs_under_autocast(tiny, encoded):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert tiny.captioner(*given(encoded)).isfinite().all()


def test_words_are_chosen_by_logits_in_float32(tiny):
    """bfloat16 would make likely words tie, as it does in training."""
    head = copy.deepcopy(tiny.captioner.head)
    torch.nn.init.normal_(head.bias)
    x = torch.randn(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        rough, found = head.train()(x), head.eval()(x)
    assert (found.dtype, rough.dtype) == (torch.float32, torch.bfloat16)
    assert max(len(row.unique()) for row in rough) < 0.2 * min(len(row.unique()) for row in found)
    with torch.no_grad():
        assert (found - head(x)).abs().max() < 0.1


def greedy(model, clips, max_words):
    captions = decode(model, clips, Decoding(), max_words)
    return [caption.ids for caption in captions]


def test_greedy_words_are_the_likeliest_ones(tiny, encoded):
    """Each word is the argmax of teacher forcing on the words before it; twice the same."""
    clips = given(encoded)[2]
    captions = greedy(tiny, clips, max_words=4)
    assert captions == greedy(tiny, clips, max_words=4)
    assert [len(caption) for caption in captions] == [4] * 4  # a random model rarely ends
    tokens = torch.tensor([[START, *caption] for caption in captions])
    with torch.inference_mode():
        words = tiny.encode_text(tokens)[0], torch.ones_like(tokens, dtype=torch.bool)
        likeliest = tiny.captioner(*words, clips).argmax(dim=-1)
    assert likeliest[:, :-1].tolist() == captions


def test_greedy_does_not_depend_on_the_batch(tiny, encoded):
    together = greedy(tiny, given(encoded)[2], max_words=4)
    alone = [greedy(tiny, given(encoded, rows=[i])[2], max_words=4)[0] for i in range(4)]
    assert alone == together


def test_greedy_refuses_a_model_that_is_training(tiny, encoded):
    tiny.train()
    try:
        with pytest.raises(ValueError, match="model.eval"):
            greedy(tiny, given(encoded)[2], max_words=2)
    finally:
        tiny.eval()
