"""How texts and cached clips become the tensors that a model reads."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor

from clip4vla.common.clip_tokenizer import clip_tokenizer
from clip4vla.loading.collate import collate
from clip4vla.loading.samples import Sample
from clip4vla.loading.tokenizer import tokenize
from clip4vla.loading.tokens import START


class Processor(ABC):
    """What families read in ways of their own. It holds no state: processes can share it."""

    @abstractmethod
    def tokenize(self, texts: list[str], max_words: int) -> Tensor:
        """Return token ids, int64 [N, max_words]."""

    @abstractmethod
    def words(self, ids: Iterable[int]) -> str:
        """Return the text of the token ids of a written caption."""

    @abstractmethod
    def collate(self, samples: list[Sample]) -> dict:
        """Return a batch: a mapping of tensors whose first axis is the sample, and of lists.

        It has `clip_id`, `caption`, `labels`, `tokens`, `has_audio` and `audio_mask` at least, and
        `mixtures` of `clip4vla.loading.collate`; frames of a sample that is `mixed` are mixed.
        UserError, naming the clip, for broken content.
        """


class ClipProcessor(Processor):
    """CLIP's tokens, frames as images, and sound as images of bands by steps."""

    def tokenize(self, texts: list[str], max_words: int) -> Tensor:
        """See `clip4vla.loading.tokenizer`."""
        return tokenize(texts, max_words)

    def words(self, ids: Iterable[int]) -> str:
        """Return the text without control tokens, its words separated by single spaces."""
        text = clip_tokenizer().decode([token for token in ids if token < START])
        return " ".join(text.split())

    def collate(self, samples: list[Sample]) -> dict:
        """See `clip4vla.loading.collate`."""
        return collate(samples, self.tokenize)
