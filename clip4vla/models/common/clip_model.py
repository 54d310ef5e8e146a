"""The interface of the models of every family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from clip4vla.config.sections import Decoding, Modality
from clip4vla.loading.processor import ClipProcessor, Processor
from clip4vla.models.common.encoded import Encoded
from clip4vla.models.common.similarity import similarities
from clip4vla.models.common.task import Batch

Compare = Callable[..., dict[str, Tensor]]  # see `similarities`


class ClipModel(nn.Module, ABC):
    """A model of texts and clips.

    apart: each of its `whole` sequences depends on one modality alone, so that vectors of a frozen
    modality can be cached.
    """

    apart: bool = True

    @property
    def processor(self) -> Processor:
        """Return what builds the batches. It has no weights."""
        return ClipProcessor()

    @abstractmethod
    def encode_text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of every token [B, L, D] and of the whole text [B, D]."""

    @abstractmethod
    def encode_clips(self, batch: Batch, modalities: Iterable[Modality]) -> Encoded:
        """Return the features of a batch's clips, one sequence for each modality.

        Each depends on its modality alone: variants of an evaluation combine those of other clips.
        Features that the batch brings along are returned unchanged.
        """

    def whole(self, encoded: Encoded) -> Encoded:
        """Return the sequences that stand for whole clips, for probes, donors and vectors.

        encoded: from `encode_clips`. Of one modality there is one sequence, named by it.
        """
        return encoded

    @property
    @abstractmethod
    def dim(self) -> int:
        """Return D, the width of every feature."""

    @property
    def compare(self) -> Compare:
        """Return the map of pooled vectors to similarities by name; a module if it has weights."""
        return similarities

    def compared_on(self, device: torch.device) -> torch.device:
        """Return the device on which to `compare` when the model is on `device`.

        A comparison without weights uses the CPU, whose products have the same bits on every
        machine.
        """
        return device if isinstance(self.compare, nn.Module) else torch.device("cpu")

    @abstractmethod
    def write_captions(self, clips: Encoded, decoding: Decoding, max_words: int) -> list[list[int]]:
        """Return the token ids of a caption for every clip, without start and end.

        max_words: the maximum number of tokens, including the end.
        """

    @abstractmethod
    def part_hash(self, part: str) -> str:
        """Return a hash of everything that determines the output of a part."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Return the blocks that `torch.compile` may compile one by one."""

    @abstractmethod
    def checkpointed(self) -> list[nn.Module]:
        """Return the stacks of blocks whose `grad_checkpointing` saves memory."""
