"""Beam search for the words of captions; greedy is a beam of one.

It advances all clips of a batch together and drops a clip once its caption is written. It knows
nothing of the model but `Steps`.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from clip4vla.config.sections import Stopping
from clip4vla.loading.tokens import END, PAD, START


class Caption(NamedTuple):
    """One clip's caption."""

    ids: list[int]  # between the start token and the first end token or pad
    score: float  # sum of log-probabilities, of the end too, under the length penalty


class Steps(Protocol):
    """Gives the logits of the next token; B clips with k hypotheses each, one at the first step."""

    def logits(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Logits [B, k, V] after the start token and the words so far, tokens int64 [B, k, t].

        parents: int64 [B, k], the hypothesis of the step before that each one continues.
        """

    def keep(self, clips: Tensor) -> None:
        """Go on with these clips alone: int64 indices into the present ones."""


def beam_search(
    steps: Steps,
    clips: int,
    beams: int,
    max_words: int,
    device: torch.device,
    length_penalty: float = 0.0,
    stopping: Stopping = "frozen",
) -> list[Caption]:
    """Return the best hypothesis of each clip.

    A hypothesis' score is its sum of log-probabilities, its end included, divided by its length
    to the power of `length_penalty`. The `beams` best are kept at every step.

    stopping: frozen: a hypothesis that has ended (by the end token, or the pad that a model trained
    with `pad_loss` may give instead) keeps its place and score, and a clip is done when no other
    can overtake its best one. released (facts 8.3): hypotheses go on past their end, words and
    score alike, and a clip is done when the newest token of its best one is the end token.
    """
    # Hypotheses [B, k]: one at first, the start token, then `beams` of them.
    tokens = torch.full((clips, 1, 1), START, device=device)  # [B, k, 1 + words so far]
    parents = torch.zeros_like(tokens[..., 0])
    sums = torch.zeros_like(parents, dtype=torch.float32)
    lengths = torch.zeros_like(sums)
    ended = torch.zeros_like(parents, dtype=torch.bool)
    collect = _Collector(clips, device)
    for _ in range(max_words):
        values, words = _best_continuations(steps.logits(tokens, parents), beams)  # [B, k, beams]
        if stopping == "frozen":
            values, words = _freeze(values, words, ended)
            lengths = lengths + ~ended
        else:
            lengths = lengths + 1
        sums = sums[..., None] + values
        scores = (sums / lengths[..., None] ** length_penalty).flatten(1)  # [B, k * beams]
        scores, chosen = scores.topk(beams)  # [B, k]
        parents = chosen // beams
        newest = words.flatten(1).gather(1, chosen)
        sums = sums.flatten(1).gather(1, chosen)
        lengths, ended = lengths.gather(1, parents), ended.gather(1, parents) | _is_end(newest)
        rows = parents[..., None].expand(-1, -1, tokens.shape[-1])
        tokens = torch.cat([tokens.gather(1, rows), newest[..., None]], dim=-1)
        if stopping == "frozen":
            hopes = sums.masked_fill(ended, float("-inf")) / max_words**length_penalty
            done = ended[:, 0] & (hopes.amax(dim=1) <= scores[:, 0])
        else:
            done = newest[:, 0] == END
        kept = collect(done, tokens[:, 0], scores[:, 0])
        if kept is not None:
            if not len(kept):
                return collect.found
            steps.keep(kept)
            tokens, parents, sums = tokens[kept], parents[kept], sums[kept]
            lengths, ended, scores = lengths[kept], ended[kept], scores[kept]
    collect(torch.ones_like(ended[:, 0]), tokens[:, 0], scores[:, 0])
    return collect.found


class _Collector:
    """Takes finished captions out of the batch; `found` has them in the order of the clips."""

    def __init__(self, clips: int, device: torch.device):
        self.found = [Caption(ids=[], score=0.0)] * clips  # until their captions are finished
        self.clips = torch.arange(clips, device=device)  # those still in the batch

    def __call__(self, done: Tensor, tokens: Tensor, scores: Tensor) -> Tensor | None:
        """Indices of the clips that go on; None for all of them.

        done: bool [B]; tokens [B, 1 + words] and scores [B] of the best hypotheses.
        """
        if not done.any():
            return None
        rows = tokens[done, 1:].tolist(), scores[done].tolist()
        for clip, ids, score in zip(self.clips[done].tolist(), *rows, strict=True):
            ends = [index for index, token in enumerate(ids) if token in (END, PAD)]
            self.found[clip] = Caption(ids[: ends[0]] if ends else ids, score)
        self.clips = self.clips[~done]
        return (~done).nonzero().squeeze(1)


def _best_continuations(logits: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and ids of the likeliest next tokens: [B, k, V] to [B, k, number] each.

    The `number` best continuations of a clip are among the `number` best of each hypothesis.
    """
    logits = logits.float()
    words = logits.topk(number, dim=-1).indices
    return logits.log_softmax(dim=-1).gather(-1, words), words


def _freeze(values: Tensor, words: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """Let an ended hypothesis go on in one way: the end token again, at no cost."""
    alone = torch.full_like(values, float("-inf"))
    alone[..., 0] = 0.0
    ended = ended[..., None]  # [B, k, 1]
    return alone.where(ended, values), words.masked_fill(ended, END)


def _is_end(tokens: Tensor) -> Tensor:
    return (tokens == END) | (tokens == PAD)
