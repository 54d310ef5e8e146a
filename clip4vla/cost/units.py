"""What operations are counted of: a clip of some size, and the parts of scoring a split."""

from dataclasses import dataclass

from clip4vla.config.data import IMAGE_SIZE


@dataclass(frozen=True)
class ClipSize:
    """Numbers of frames and segments of a clip, and of bands and channels of its log-mel."""

    frames: int
    segments: int
    bands: int = IMAGE_SIZE
    channels: int = 3  # of stereo sound


@dataclass(frozen=True)
class Scoring:
    """Operations of scoring a split: of encoding a clip and going on from it, of a text, a pair.

    again: of scoring a pair again, for `rescore` candidates of each text and of each clip. apart:
    whether variants share the features of clips, as they do those of texts.
    """

    clip: float
    encoded: float = 0.0
    text: float = 0.0
    pair: float = 0.0
    again: float = 0.0
    rescore: int = 0
    apart: bool = True

    def total(self, clips: float, texts: float, variants: int = 0) -> float:
        """Return the operations of a split with its variants."""
        each = clips * self.encoded + clips * texts * self.pair
        each += min((clips + texts) * self.rescore, clips * texts) * self.again
        encodings = 1 if self.apart else 1 + variants
        return encodings * clips * self.clip + texts * self.text + (1 + variants) * each
