"""Captions from the caption generator: options, and the one call that writes them (facts 8.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch

from clip4vla.common.errors import UserError
from clip4vla.models.clip4vla.search import Steps, Stopping, beam_search, sample
from clip4vla.models.clip4vla.steps import CachedSteps, CaptionModel, EncodedSteps, Positions
from clip4vla.models.common.encoded import Encoded

Method = Literal["greedy", "beam", "sampling"]


@dataclass(frozen=True)
class Decoding:
    """How captions are chosen. Raises UserError for values that make no sense together.

    `Decoding()` is ours; `RELEASED` is the released decoder; `GREEDY` takes the likeliest word.
    """

    method: Method = "beam"
    beams: int = 5  # hypotheses kept per clip; beam only
    length_penalty: float = 0.0  # score = sum of log-probabilities / length ** this; 0: the sum
    no_repeat_ngram: int = 0  # no run of this many tokens twice in a caption; 0: no limit
    stopping: Stopping = "frozen"  # see `search.beam_search`; beam only
    positions: Positions = "fixed"  # see `steps`; sliding: released
    cache: bool = True  # keep keys and values of earlier words: the same captions, sooner
    temperature: float = 1.0  # logits are divided by it; sampling only
    top_p: float = 1.0  # draw from the likeliest words of this joint probability; sampling only

    def __post_init__(self) -> None:
        for name, kind in (("method", Method), ("stopping", Stopping), ("positions", Positions)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise UserError(f"decoding: {name} is {value!r}, give one of {', '.join(known)}")
        problems = {
            f"beams is {self.beams}, give 1 or more": self.beams < 1,
            f"length_penalty is {self.length_penalty}, give 0 or more": self.length_penalty < 0,
            f"no_repeat_ngram is {self.no_repeat_ngram}, give 0 or more": self.no_repeat_ngram < 0,
            f"temperature is {self.temperature}, give more than 0": self.temperature <= 0,
            f"top_p is {self.top_p}, give more than 0 and at most 1": not 0 < self.top_p <= 1,
            "positions 'sliding' move with every word, so no key can be kept: set cache to false":
            self.positions == "sliding" and self.cache,
        }  # fmt: skip
        for problem, occurs in problems.items():
            if occurs:
                raise UserError(f"decoding: {problem}")


GREEDY = Decoding(method="greedy")
RELEASED = Decoding(stopping="released", positions="sliding", cache=False)


class Caption(NamedTuple):
    """One clip's caption."""

    ids: list[int]  # between the start token and the first end token or pad
    score: float  # sum of log-probabilities, of the end too, under the length penalty


@torch.no_grad()
def decode(
    model: CaptionModel,
    clip: Encoded,
    decoding: Decoding,
    max_words: int,
    generators: Sequence[torch.Generator] | None = None,
) -> list[Caption]:
    """Write a caption for every clip of a batch; each as if the clip were alone.

    model: a CLIP4VLA with a captioner, in evaluation mode. clip: vision [B, F, D], audio [B, S, D],
    or one of them.
    max_words: most tokens of a caption, its end included if it has one; at most the captioner's
    `max_words`, because the start token takes a position and the last token takes none.
    generators: one CPU generator per clip, for sampling: a draw then depends on its clip alone.

    ValueError when the model is in training mode, `clip` is empty, `max_words` is
    outside what the captioner has, or sampling lacks generators.
    """
    captioner = model.captioner
    assert captioner is not None
    if model.training or captioner.training:
        raise ValueError("decoding needs model.eval(): dropout would change the words")
    if not clip:
        raise ValueError("decoding needs vision, audio or both")
    if not 1 <= max_words <= captioner.max_words:
        raise ValueError(f"max_words is {max_words}; the captioner has 1 to {captioner.max_words}")
    first = next(iter(clip.values())).features
    beams = decoding.beams if decoding.method == "beam" else 1
    steps: Steps
    if decoding.cache:
        steps = CachedSteps(model, clip, room=beams * max_words)
    else:
        steps = EncodedSteps(model, clip, decoding.positions)
    if decoding.method == "sampling":
        if generators is None or len(generators) != len(first):
            raise ValueError("sampling needs one generator per clip")
        draws = [torch.rand(max_words, generator=g, dtype=torch.float64) for g in generators]
        found = sample(
            steps,
            torch.stack(draws).to(first.device),
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            length_penalty=decoding.length_penalty,
            no_repeat_ngram=decoding.no_repeat_ngram,
        )
    else:
        found = beam_search(
            steps,
            clips=len(first),
            beams=beams,
            max_words=max_words,
            device=first.device,
            length_penalty=decoding.length_penalty,
            no_repeat_ngram=decoding.no_repeat_ngram,
            stopping=decoding.stopping,
        )
    return [Caption(ids, score) for ids, score in found]
