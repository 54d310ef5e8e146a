"""Ids of the tokens that frame a text, by tokenizer (facts 1.4)."""

from typing import Literal, NamedTuple

from torch import Tensor

from clip4vla.loading.tokens import CLIP_VOCABULARY, END, START, ControlTokens

TokenizerName = Literal["clip", "bert"]
BERT_VOCABULARY = 30_522  # word pieces of bert-base-uncased, which [DEC] follows
PAD = 0


class TextIds(NamedTuple):
    """Ids of a vocabulary whose last token, [DEC], precedes the words of a prediction."""

    first: int  # [CLS], whose state stands for the text
    end: int  # [SEP]
    decode: int  # [DEC], in place of the first one

    @property
    def vocabulary(self) -> int:
        """Return the number of ids."""
        return self.decode + 1

    @property
    def control(self) -> ControlTokens:
        """Return the tokens around a written caption. Padding is never a target, nor written."""
        return ControlTokens(start=self.decode, end=self.end)

    def valid(self, tokens: Tensor) -> Tensor:
        """Return which tokens are no padding, bool [B, L]: all up to the first end.

        tokens: int64 [B, L]. The id of padding is also that of a word in CLIP's vocabulary.
        """
        ends = tokens == self.end
        return ends.cumsum(dim=1) == ends

    def trimmed(self, tokens: Tensor) -> Tensor:
        """Return tokens [B, L] without the last columns that are padding in each text."""
        return tokens[:, : int(self.valid(tokens).sum(dim=1).max())]


TEXT_IDS: dict[TokenizerName, TextIds] = {
    "clip": TextIds(first=START, end=END, decode=CLIP_VOCABULARY),
    "bert": TextIds(first=101, end=102, decode=BERT_VOCABULARY),
}
