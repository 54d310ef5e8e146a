"""Beam search over a written table of probabilities, without a model."""

import itertools
import zlib

import pytest
import torch

from clip4vla.loading.tokens import CAPTION, END, PAD, VOCABULARY, ControlTokens
from clip4vla.models.common.beam_search import beam_search

WORDS = [5, 6, 7, END]
CPU = torch.device("cpu")


class Table:
    """The next token depends on the clip and on the words so far, by a seeded draw."""

    def __init__(self, clips, spread=1.0, words=WORDS):
        self.clips, self.spread, self.words, self.calls = clips, spread, words, 0

    def row(self, clip, history):
        seed = zlib.crc32(repr((clip, history)).encode())
        generator = torch.Generator().manual_seed(seed)
        return self.spread * torch.randn(len(self.words), generator=generator)

    def logits(self, tokens, parents):
        self.calls += 1
        out = torch.full((*tokens.shape[:2], VOCABULARY), -1e4)
        for b, k in itertools.product(*map(range, tokens.shape[:2])):
            history = tokens[b, k, 1:].tolist()
            out[b, k, self.words] = self.row(self.clips[b], history)
        return out

    def select(self, clips):
        self.clips = [self.clips[i] for i in clips.tolist()]


def every_caption(table, clip, max_words, length_penalty):
    """Score and ids of every caption, by enumeration."""
    found = []

    def go_on(history, total):
        for word, logp in zip(
            WORDS, table.row(clip, history).log_softmax(-1).tolist(), strict=True
        ):
            ids, score = [*history, word], total + logp
            if word == END or len(ids) == max_words:
                kept = ids[:-1] if word == END else ids
                found.append((score / len(ids) ** length_penalty, kept))
            else:
                go_on(ids, score)

    go_on([], 0.0)
    return sorted(found, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_wide_enough_finds_the_best_of_all_captions(length_penalty):
    """Frozen ends: with room for all 27 + 13 hypotheses of 3 words nothing is lost, for each clip alike."""
    table = Table([11, 12, 13])
    found = beam_search(table, 3, 40, 4, CPU, CAPTION, length_penalty)
    for clip, (ids, score) in zip([11, 12, 13], found, strict=True):
        best = every_caption(table, clip, 4, length_penalty)[0]
        assert ids == best[1]
        assert score == pytest.approx(best[0], abs=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("stopping", ["frozen", "released"])
def test_a_clip_does_not_depend_on_its_batch(beams, stopping):
    clips = list(range(6))
    together = beam_search(Table(clips), 6, beams, 6, CPU, CAPTION, stopping=stopping)
    alone = [
        beam_search(Table([c]), 1, beams, 6, CPU, CAPTION, stopping=stopping)[0] for c in clips
    ]
    backwards = beam_search(Table(clips[::-1]), 6, beams, 6, CPU, CAPTION, stopping=stopping)
    for others in (alone, backwards[::-1]):
        assert [ids for ids, _ in others] == [ids for ids, _ in together]
        # A matrix product may round otherwise for another number of rows.
        scores = [score for _, score in together]
        assert [score for _, score in others] == pytest.approx(scores, abs=1e-5)


def test_a_wider_beam_is_no_worse():
    """Not so for every table: a narrow beam can be lucky. For these clips it is not."""
    clips = list(range(8))
    narrow, wide = (beam_search(Table(clips), 8, k, 5, CPU, CAPTION) for k in (1, 8))
    assert all(w[1] >= n[1] for n, w in zip(narrow, wide, strict=True))
    assert any(w[1] > n[1] for n, w in zip(narrow, wide, strict=True))


def test_the_length_penalty_favours_long_captions():
    clips = list(range(6))
    lengths = []
    for penalty in (0.0, 2.0):
        found = beam_search(Table(clips), 6, 8, 5, CPU, CAPTION, penalty)
        lengths.append(sum(len(ids) for ids, _ in found))
    assert lengths[1] > lengths[0]


class Script:
    """Probabilities by the words so far, written out; anything else goes on with the word 9."""

    def __init__(self, **probabilities):
        self.table = {tuple(k): v for k, v in probabilities.pop("table").items()}

    def logits(self, tokens, parents):
        out = torch.full((*tokens.shape[:2], VOCABULARY), float("-inf"))
        for k in range(tokens.shape[1]):
            chances = self.table.get(tuple(tokens[0, k, 1:].tolist()), {9: 1.0})
            for word, chance in chances.items():
                out[0, k, word] = torch.tensor(chance).log()
        return out

    def select(self, clips):
        assert not len(clips)


ENDED_SECOND = {
    (): {5: 0.6, END: 0.4},  # an empty caption, 0.4, is second
    (5,): {6: 0.5, 7: 0.5},  # all others fall below it
    (END,): {8: 1.0},  # where the released search goes on
    (END, 8): {8: 1.0},
    (END, 8, 8): {END: 1.0},
}


def test_a_frozen_end_keeps_its_place():
    ids, score = beam_search(Script(table=ENDED_SECOND), 1, 2, 5, CPU, CAPTION)[0]
    assert ids == []
    assert score == pytest.approx(torch.tensor(0.4).log().item())


def test_the_released_search_goes_on_after_an_end():
    """It stops when the top hypothesis' newest token is the end; that one may have ended before.

    Had the end not been followed by certain words, it would have lost its place.
    """
    ids, score = beam_search(
        Script(table=ENDED_SECOND), 1, 2, 5, CPU, CAPTION, stopping="released"
    )[0]
    assert (ids, score) == ([], pytest.approx(torch.tensor(0.4).log().item()))
    weak = ENDED_SECOND | {(END,): {8: 0.1, 9: 0.1}}
    found = {s: beam_search(Script(table=weak), 1, 2, 5, CPU, CAPTION, stopping=s)[0][0]
             for s in ("frozen", "released")}  # fmt: skip
    assert found["frozen"] == []
    assert found["released"][0] == 5


def test_an_end_waits_for_those_that_can_still_overtake_it():
    """Divided by its length, a likely long caption beats the likelier empty one: -0.92 / 3."""
    table = {(): {END: 0.5, 5: 0.4, 6: 0.1}, (5,): {7: 1.0}, (5, 7): {END: 1.0}}
    ids, score = beam_search(Script(table=table), 1, 2, 5, CPU, CAPTION, length_penalty=1.0)[0]
    assert ids == [5, 7]
    assert score == pytest.approx(torch.tensor(0.4).log().item() / 3)
    assert beam_search(Script(table=table), 1, 2, 5, CPU, CAPTION)[0][0] == []


class Words:
    """Writes a fixed caption for each clip and counts how often it is asked."""

    def __init__(self, captions):
        self.captions, self.step = captions, 0

    def logits(self, tokens, parents):
        out = torch.zeros(*tokens.shape[:2], VOCABULARY)
        for row, ids in enumerate(self.captions):
            out[row, :, ids[min(self.step, len(ids) - 1)]] = 50.0
        self.step += 1
        return out

    def select(self, clips):
        self.captions = [self.captions[i] for i in clips.tolist()]


@pytest.mark.parametrize("stop", [END, PAD])
@pytest.mark.parametrize("beams", [1, 2])
def test_each_caption_stops_at_its_end(stop, beams):
    script = Words([[5, stop, 9], [6, 7, stop], [stop, 8, 8], [5, 5, stop]])
    found = beam_search(script, 4, beams, 8, CPU, CAPTION)
    assert [ids for ids, _ in found] == [[5], [6, 7], [], [5, 5]]
    assert script.step == 3  # it does not go on when all have ended


def test_control_tokens_are_the_callers():
    """Another end; a pad that is a word like others."""
    script = Words([[5, PAD, 2], [END, 2, 9]])
    found = beam_search(script, 2, 2, 8, CPU, ControlTokens(start=1, end=2))
    assert [ids for ids, _ in found] == [[5, PAD], [END]]
