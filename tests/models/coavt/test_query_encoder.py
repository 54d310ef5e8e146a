"""Who reads whom in the query encoder (facts 2.1, 5), whatever the weights are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.models.coavt.query_encoder import QueryEncoder, causal_mask
from clip4vla.models.coavt.text_encoder import TextEncoder
from clip4vla.models.common.encoded import FeatureSequence

CLOSE = {"rtol": 0, "atol": 1e-10}


def same(x, y):
    return torch.allclose(x, y, **CLOSE)


def others(tokens):
    """Each token replaced by another one."""
    return tokens % 59 + 1


def test_the_truth_table_of_language():
    """Two queries, then three words."""
    expected = [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]
    assert causal_mask(2, 5).int().tolist() == expected


def test_a_caption_never_moves_queries_in_contrast_and_language(encoder, clip, texts):
    tokens, mask = texts
    alone = encoder.queries_alone(clip)
    for changed in (tokens, others(tokens)):
        assert same(encoder.together(changed, mask, clip, causal=True)[0], alone)


def test_a_caption_moves_queries_in_matching(encoder, clip, texts):
    tokens, mask = texts
    found = encoder.together(tokens, mask, clip, causal=False)[0]
    changed = encoder.together(others(tokens), mask, clip, causal=False)[0]
    assert (found - changed).abs().amax(dim=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("place", range(6))
def test_a_word_moves_no_word_before_it(encoder, clip, texts, place):
    tokens, mask = texts
    changed = tokens.clone()
    changed[:, place] = others(tokens[:, place])
    found = encoder.together(tokens, mask, clip, causal=True)[1]
    moved = encoder.together(changed, mask, clip, causal=True)[1]
    assert same(found[:, :place], moved[:, :place])
    assert not same(found[0, place:], moved[0, place:])


def test_the_causal_pass_is_the_first_rows_of_longer_ones(encoder, clip, texts):
    tokens, mask = texts[0], torch.ones_like(texts[1])
    found = encoder.together(tokens, mask, clip, causal=True)[1]
    for length in range(1, 6):
        shorter = encoder.together(tokens[:, :length], mask[:, :length], clip, causal=True)[1]
        assert same(shorter, found[:, :length])


def test_words_read_the_clip_through_queries_alone(encoder, clip, texts):
    tokens, mask = texts
    changed = FeatureSequence(-clip.features, clip.mask)
    for causal in (True, False):
        found = encoder.together(tokens, mask, clip, causal)
        moved = encoder.together(tokens, mask, changed, causal)
        assert not same(found[0], moved[0]) and not same(found[1], moved[1])
    crossing = [layer.cross is not None for layer in encoder.layers]
    assert crossing == [True, False, True]  # every other layer


@settings(max_examples=20, deadline=None)
@given(words=st.integers(0, 4), tokens=st.integers(0, 4), fill=st.integers(0, 59))
def test_padding_never_matters(encoder, clip, texts, words, tokens, fill):
    """Neither its length nor its content, of texts nor of clips."""
    ids, mask = texts
    longer = torch.cat([ids.where(mask, fill), ids.new_full((3, words), fill)], dim=1)
    longer_mask = torch.cat([mask, mask.new_zeros(3, words)], dim=1)
    features = clip.features.masked_fill(~clip.mask[..., None], fill)
    more = features.new_full((3, tokens, features.shape[-1]), 1e6)
    padded = FeatureSequence(
        torch.cat([features, more], dim=1),
        torch.cat([clip.mask, clip.mask.new_zeros(3, tokens)], dim=1),
    )
    assert same(encoder.queries_alone(padded), encoder.queries_alone(clip))
    alone = encoder.text_alone(ids, mask), encoder.text_alone(longer, longer_mask)
    assert same(alone[0][mask], alone[1][:, :6][mask])
    for causal in (True, False):
        found = encoder.together(ids, mask, clip, causal)
        again = encoder.together(longer, longer_mask, padded, causal)
        assert same(found[0], again[0])
        assert same(found[1][mask], again[1][:, :6][mask])


def test_the_feed_forward_leaves_padding_out(encoder, clip, texts):
    """Whatever the longest text of a batch has; what padding gets is zero."""
    tokens, mask = texts
    assert not mask.all()
    widths = []
    hooks = [
        layer.widen.register_forward_hook(lambda layer, given, out: widths.append(len(given[0])))
        for layer in encoder.layers
    ]
    alone = encoder.text_alone(tokens, mask)
    _, words = encoder.together(tokens, mask, clip, causal=False)
    for hook in hooks:
        hook.remove()
    assert widths == [int(mask.sum())] * 2 * len(encoder.layers)
    for states in (alone, words):
        assert not states[~mask].any() and states[mask].all(dim=1).all()


def test_pairs_do_not_depend_on_their_batch(encoder, clip, texts):
    tokens, mask = texts
    for causal in (True, False):
        whole = encoder.together(tokens, mask, clip, causal)
        for row in range(3):
            one = slice(row, row + 1)
            of_row = FeatureSequence(clip.features[one], clip.mask[one])
            found = encoder.together(tokens[one], mask[one], of_row, causal)
            assert all(same(x, y[one]) for x, y in zip(found, whole, strict=True))


@pytest.mark.parametrize("causal", [True, False])
def test_a_clip_serves_consecutive_texts(encoder, clip, texts, causal, monkeypatch):
    """As if it had been repeated; its keys and values are computed once."""
    tokens, mask = (x.repeat(2, 1) for x in texts)
    index = torch.arange(3).repeat_interleave(2)
    repeated = FeatureSequence(clip.features[index], clip.mask[index])
    expected = encoder.together(tokens, mask, repeated, causal)
    keys = encoder.keys_of(clip)
    for shared in (clip, keys, keys.rows(index)):
        found = encoder.together(tokens, mask, shared, causal)
        assert all(same(x, y) for x, y in zip(found, expected, strict=True))
    rows = []
    keyed = torch.nn.Linear.forward
    cross = encoder.layers[0].cross.key
    monkeypatch.setattr(cross, "forward", lambda x: rows.append(len(x)) or keyed(cross, x))
    encoder.together(tokens, mask, clip, causal)
    assert rows == [3]


def test_texts_that_no_clip_can_serve_are_refused(encoder, clip, texts):
    tokens, mask = texts
    with pytest.raises(ValueError, match="2 texts for 3 clips"):
        encoder.together(tokens[:2], mask[:2], clip, causal=True)


def test_more_words_than_positions_are_refused(encoder):
    tokens = torch.ones(1, 13, dtype=torch.long)
    with pytest.raises(ValueError, match="13 tokens, but 12 text positions"):
        encoder.text_alone(tokens, tokens.bool())


def test_rows_with_nothing_to_read_stay_finite(encoder, clip, texts):
    """A clip without tokens and a text without words."""
    empty = FeatureSequence(clip.features, torch.zeros_like(clip.mask))
    tokens, mask = texts[0], torch.zeros_like(texts[1])
    assert encoder.queries_alone(empty).isfinite().all()
    assert encoder.text_alone(tokens, mask).isfinite().all()
    for causal in (True, False):
        for x in encoder.together(tokens, mask, empty, causal):
            assert x.isfinite().all()


def test_no_mask_tensor_where_everything_is_valid(encoder, clip, texts, monkeypatch):
    masks = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, allowed=None, dropout_p=0.0):
        masks.append(allowed)
        return attend(query, key, value, allowed, dropout_p)

    monkeypatch.setattr("clip4vla.models.common.bert_block.scaled_dot_product_attention", spy)
    whole = FeatureSequence(clip.features, torch.ones_like(clip.mask))
    tokens, mask = texts[0], torch.ones_like(texts[1])
    encoder.queries_alone(whole)
    encoder.text_alone(tokens, mask)
    encoder.together(tokens, mask, whole, causal=False)
    assert masks == [None] * (3 + 2 + 3 + 3 + 2)  # two of three layers have cross-attention


def gradients(encoder, clip, texts, seed):
    encoder.zero_grad()
    torch.manual_seed(seed)
    loss = sum(x.square().mean() for x in encoder.together(*texts, clip, causal=False))
    (loss + encoder.text_alone(*texts).square().mean()).backward()
    return {name: p.grad for name, p in encoder.named_parameters()}


def test_checkpointing_changes_no_gradient(encoder, clip, texts):
    """Not even with dropout, which draws again what it drew; every weight learns."""
    encoder.train()
    try:
        plain = gradients(encoder, clip, texts, seed=3)
        encoder.grad_checkpointing = True
        again = gradients(encoder, clip, texts, seed=3)
        different = gradients(encoder, clip, texts, seed=4)
    finally:
        encoder.eval()
        encoder.grad_checkpointing = False
    assert all(grad is not None for grad in plain.values())
    assert all(same(grad, again[name]) for name, grad in plain.items())
    assert not same(plain["queries"], different["queries"])


def test_a_text_encoder_of_its_own_computes_the_same(encoder, sizes, texts):
    """With the same weights; it has no others than those of words."""
    apart = TextEncoder(sizes, dropout=0.1).double().eval()
    weights = encoder.state_dict()
    apart.load_state_dict({name: weights[name] for name in apart.state_dict()})
    assert same(apart.text_alone(*texts), encoder.text_alone(*texts))
    extra = {name.split(".")[2] for name in weights if name.startswith("layers.")} - {
        name.split(".")[2] for name in apart.state_dict() if name.startswith("layers.")
    }
    assert extra == {"cross", "query_feed"}


def test_weights_are_drawn_as_berts(sizes):
    torch.manual_seed(5)
    model = QueryEncoder(sizes, dropout=0.0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            assert 0.015 < parameter.std() < 0.025, name
        else:
            assert (parameter == float("norm.weight" in name)).all(), name


def test_it_runs_under_autocast(encoder, sizes, clip, texts):
    half = QueryEncoder(sizes, dropout=0.0)
    half.load_state_dict(encoder.state_dict())
    rough = FeatureSequence(clip.features.float(), clip.mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = half.together(*texts, rough, causal=False)[0]
    exact = encoder.together(*texts, clip, causal=False)[0]
    assert found.dtype == torch.float32
    assert (found - exact).abs().mean() < 0.05
