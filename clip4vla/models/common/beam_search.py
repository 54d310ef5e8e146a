"""Beam search for captions; greedy search is a beam of one.

All clips of a batch advance together, and a clip leaves the batch once its caption is finished. The
model is known only through `DecoderSteps`.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from clip4vla.config.sections import Stopping
from clip4vla.loading.tokens import ControlTokens


class Caption(NamedTuple):
    """The caption of one clip."""

    ids: list[int]  # between the start token and the first end token or pad
    score: float  # sum of log-probabilities, including the end, with the length penalty


class DecoderSteps(Protocol):
    """A model of the next token for B clips with k hypotheses each (one at the first step)."""

    def logits(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Return logits [B, k, V] after the start token and the words so far, int64 [B, k, t].

        parents: int64 [B, k], the hypothesis of the previous step that each one continues.
        """

    def select(self, clips: Tensor) -> None:
        """Continue with these clips only: int64 indices into the present ones."""


def beam_search(
    steps: DecoderSteps,
    clips: int,
    beams: int,
    max_words: int,
    device: torch.device,
    control: ControlTokens,
    length_penalty: float = 0.0,
    stopping: Stopping = "frozen",
) -> list[Caption]:
    """Return the best hypothesis of each clip.

    The score of a hypothesis is its sum of log-probabilities, including its end, divided by its
    length to the power of `length_penalty`. The `beams` best are kept at every step.

    stopping: frozen: a hypothesis that has ended (by the end token, or by the pad that a model
    trained with `pad_loss` may predict instead) keeps its place and score, and a clip is done when
    no other hypothesis can overtake its best one. released (facts 8.3): words and scores of
    hypotheses grow past their end, and a clip is done when the newest token of its best one is the
    end token.
    """
    # Hypotheses [B, k]: one at first, the start token, then `beams` of them.
    tokens = torch.full((clips, 1, 1), control.start, device=device)  # [B, k, 1 + words so far]
    parents = torch.zeros_like(tokens[..., 0])
    sums = torch.zeros_like(parents, dtype=torch.float32)
    lengths = torch.zeros_like(sums)
    ended = torch.zeros_like(parents, dtype=torch.bool)
    collect = _Collector(clips, device, control)
    for _ in range(max_words):
        values, words = _best_continuations(steps.logits(tokens, parents), beams)  # [B, k, beams]
        if stopping == "frozen":
            values, words = _freeze(values, words, ended, control.end)
            lengths = lengths + ~ended
        else:
            lengths = lengths + 1
        sums = sums[..., None] + values
        scores = (sums / lengths[..., None] ** length_penalty).flatten(1)  # [B, k * beams]
        scores, chosen = scores.topk(beams)  # [B, k]
        parents = chosen // beams
        newest = words.flatten(1).gather(1, chosen)
        sums = sums.flatten(1).gather(1, chosen)
        lengths, ended = lengths.gather(1, parents), ended.gather(1, parents)
        ended = ended | _is_end(newest, control)
        rows = parents[..., None].expand(-1, -1, tokens.shape[-1])
        tokens = torch.cat([tokens.gather(1, rows), newest[..., None]], dim=-1)
        if stopping == "frozen":
            bounds = sums.masked_fill(ended, float("-inf")) / max_words**length_penalty
            done = ended[:, 0] & (bounds.amax(dim=1) <= scores[:, 0])
        else:
            done = newest[:, 0] == control.end
        unfinished = collect(done, tokens[:, 0], scores[:, 0])
        if unfinished is not None:
            if not len(unfinished):
                return collect.captions
            steps.select(unfinished)
            tokens, parents, sums = tokens[unfinished], parents[unfinished], sums[unfinished]
            lengths, ended, scores = lengths[unfinished], ended[unfinished], scores[unfinished]
    collect(torch.ones_like(ended[:, 0]), tokens[:, 0], scores[:, 0])
    return collect.captions


class _Collector:
    """Removes finished captions from the batch; `captions` has them in the order of the clips."""

    def __init__(self, clips: int, device: torch.device, control: ControlTokens):
        self.control = control
        self.captions = [Caption(ids=[], score=0.0)] * clips  # placeholders until finished
        self.clips = torch.arange(clips, device=device)  # those still in the batch

    def __call__(self, done: Tensor, tokens: Tensor, scores: Tensor) -> Tensor | None:
        """Collect finished captions; return the indices of unfinished clips, None if all are.

        done: bool [B]; tokens [B, 1 + words] and scores [B] of the best hypotheses.
        """
        if not done.any():
            return None
        rows = tokens[done, 1:].tolist(), scores[done].tolist()
        for clip, ids, score in zip(self.clips[done].tolist(), *rows, strict=True):
            control = (self.control.end, self.control.pad)
            ends = [index for index, token in enumerate(ids) if token in control]
            self.captions[clip] = Caption(ids[: ends[0]] if ends else ids, score)
        self.clips = self.clips[~done]
        return (~done).nonzero().squeeze(1)


def _best_continuations(logits: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and ids of the likeliest next tokens, [B, k, number] of [B, k, V].

    The `number` best continuations of a clip are among the `number` best of each hypothesis.
    """
    logits = logits.float()
    words = logits.topk(number, dim=-1).indices
    return logits.log_softmax(dim=-1).gather(-1, words), words


def _freeze(values: Tensor, words: Tensor, ended: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Continue an ended hypothesis in one way only: by another end token, at no cost."""
    frozen = torch.full_like(values, float("-inf"))
    frozen[..., 0] = 0.0
    ended = ended[..., None]  # [B, k, 1]
    return frozen.where(ended, values), words.masked_fill(ended, end)


def _is_end(tokens: Tensor, control: ControlTokens) -> Tensor:
    ended = tokens == control.end
    return ended if control.pad is None else ended | (tokens == control.pad)
