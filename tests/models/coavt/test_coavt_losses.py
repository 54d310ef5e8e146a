"""The losses of CoAVT beyond the vectors of LAVIS (tests/parity/coavt)."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from clip4vla.models.coavt import similarity
from clip4vla.models.coavt.heads import LanguageHead, MatchingHead
from clip4vla.models.coavt.losses import (
    contrast_logits,
    contrast_loss,
    language_loss,
    matching_loss,
)
from clip4vla.models.coavt.similarity import best_cosines
from clip4vla.models.common.pooling import normalise

EYE = torch.eye(4, dtype=torch.bool)
CLIPS = torch.tensor([7, 7, 8, 9])


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    queries = normalise(torch.randn(4, 3, 8, generator=generator)).requires_grad_()
    texts = normalise(torch.randn(4, 8, generator=generator)).requires_grad_()
    return queries, texts


def test_a_similarity_is_that_of_the_best_query(vectors, monkeypatch):
    queries, texts = vectors
    expected = [[max((q @ t).item() for q in clip) for t in texts] for clip in queries]
    assert torch.allclose(best_cosines(queries, texts), torch.tensor(expected), atol=1e-6)


def test_blocks_of_texts_keep_no_cosine_of_every_query(vectors, monkeypatch):
    """For the backward pass: they are computed again there."""
    found, kept = [], []
    for texts in (4, 3):
        monkeypatch.setattr(similarity, "TEXTS", texts)
        shapes = []
        hold = lambda x, shapes=shapes: shapes.append(tuple(x.shape)) or x  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda x: x):
            best = best_cosines(*vectors)
        found.append([best.detach(), *torch.autograd.grad(best.square().sum(), vectors)])
        kept.append({(4, 3, 4), (4, 3, 3), (4, 3, 1)} & set(shapes))
    for whole, blocks in zip(*found, strict=True):
        torch.testing.assert_close(blocks, whole)
    assert kept == [{(4, 3, 4)}, set()]


def test_similarities_are_exact_under_autocast(vectors):
    queries, texts = vectors
    expected = best_cosines(queries, texts)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(best_cosines(queries, texts), expected)


@pytest.mark.parametrize("gathered_gradient", [True, False])
def test_as_released_a_direction_moves_one_side(vectors, gathered_gradient):
    queries, texts = vectors
    by_clip, by_text = contrast_logits(*vectors, torch.tensor(0.07), gathered_gradient)
    assert torch.equal(by_clip, by_text.T)
    for logits, moved, fixed in ((by_clip, queries, texts), (by_text, texts, queries)):
        logits = logits.square().sum()
        found = torch.autograd.grad(logits, [moved, fixed], retain_graph=True, allow_unused=True)
        assert found[0].abs().max() > 0
        assert (found[1] is None) == (not gathered_gradient)


def test_groups_share_the_target(vectors):
    """0.9, evenly over the texts of the clip, and 0.1 over all."""
    logits = contrast_logits(*vectors, torch.tensor(0.07), gathered_gradient=True)
    target = torch.full((4, 4), 0.1 / 4) + 0.9 * EYE
    target[0, :2] = target[1, :2] = 0.1 / 4 + 0.45
    by_hand = [-(target * x.log_softmax(1)).sum(1).mean() for x in logits]
    found = contrast_loss(logits, CLIPS[:, None] == CLIPS, smoothing=0.1)
    assert found.item() == pytest.approx((sum(by_hand) / 2).item(), rel=1e-5)
    assert contrast_loss(logits, EYE, 0.1).item() != pytest.approx(found.item(), rel=1e-3)


def test_at_first_the_losses_are_those_of_guessing():
    """ln(N), ln 2 and ln V (facts 5)."""
    alike = normalise(torch.ones(4, 3, 8)), normalise(torch.ones(4, 8))
    logits = contrast_logits(*alike, torch.tensor(0.07), gathered_gradient=True)
    assert contrast_loss(logits, EYE, 0.0).item() == pytest.approx(math.log(4), rel=1e-5)
    torch.manual_seed(0)
    states = torch.randn(3, 5, 16)
    found = MatchingHead(16)(states)
    assert matching_loss(found[:1], found[1:]).item() == pytest.approx(math.log(2), rel=0.1)
    words, tokens = 0.02 * torch.randn(100, 16), torch.arange(15).view(3, 5)
    mask = torch.ones(3, 5, dtype=torch.bool)
    loss = language_loss(LanguageHead(16, 100), words, states, tokens, mask, smoothing=0.0)
    assert loss.mean().item() == pytest.approx(math.log(100), rel=0.02)


def test_matching_is_a_mean_over_the_whole_stack():
    """One true pair and two others: 1:2 labels."""
    positive, negative = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    by_hand = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1)), math.log(1 + math.exp(-3))]
    assert matching_loss(positive, negative).item() == pytest.approx(sum(by_hand) / 3)


@pytest.fixture
def language():
    torch.manual_seed(1)
    head, words = LanguageHead(16, 30), torch.randn(30, 16)
    torch.nn.init.normal_(head.bias)
    states, tokens = torch.randn(4, 6, 16), torch.randint(1, 30, (4, 6))
    mask = torch.arange(6) < torch.tensor([6, 2, 4, 1])[:, None]

    def loss(rows=slice(None), smoothing=0.1, **changed):
        given = {"states": states, "tokens": tokens, "mask": mask} | changed
        given = {name: x[rows] for name, x in given.items()}
        return language_loss(head, words, smoothing=smoothing, **given)

    return loss, head(states, words), tokens, mask


def test_language_sums_add_up(language):
    """Over microbatches to the mean of the whole, and text by text to a loop's."""
    loss, logits, tokens, mask = language
    whole = loss()
    assert whole.counts.tolist() == [5, 1, 3, 0]
    parts = [loss(slice(i, i + 1)) for i in range(4)]
    assert torch.allclose(torch.cat([part.sums for part in parts]), whole.sums, atol=1e-5)
    for row, sums in enumerate(whole.sums.tolist()):
        predicted = mask[row, 1:].nonzero().squeeze(1)
        by_hand = sum(
            cross_entropy(logits[row, i], tokens[row, i + 1], label_smoothing=0.1)
            for i in predicted
        )
        assert sums == pytest.approx(torch.as_tensor(by_hand).item(), abs=1e-4)
    assert whole.mean().item() == pytest.approx(whole.sums.sum().item() / 9)


def test_padding_is_no_target(language):
    loss, _, tokens, mask = language
    assert torch.equal(loss(tokens=tokens.where(mask, 3)).sums, loss().sums)


def test_losses_are_float32_under_autocast(language, vectors):
    loss, *_ = language
    exact = loss().sums
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss().sums
        logits = contrast_logits(*vectors, torch.tensor(0.07), gathered_gradient=False)
        contrast = contrast_loss(logits, EYE, 0.1)
        matching = matching_loss(torch.zeros(1, 2).bfloat16(), torch.zeros(2, 2).bfloat16())
    assert rough.dtype == contrast.dtype == matching.dtype == torch.float32
    assert torch.allclose(rough, exact, rtol=0.05)
