"""Assumptions of the estimates: typical clips, one measured throughput, sizes of stored data.

None of them enters a result. The numbers of a frozen dataset replace them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Typical:
    """Typical clip of a dataset: its length, and its number of (clip, caption) samples.

    `clips`: distinct clips over all splits, where these overlap; None: they do not.
    `within`: splits whose clips are all in others.
    """

    seconds: float
    captions: float = 1.0
    clips: int | None = None
    within: tuple[str, ...] = ()


# By reader. Lengths are those that the datasets' papers give (AudioSet, AudioCaps, VATEX, VGGSound:
# cut to 10 s); a clip of HowTo100M is at least 10 s by construction (facts 6.1).
TYPICAL = {
    "msrvtt": Typical(15.0, 20.0, 10_000),
    "vatex": Typical(10.0, 10.0, 34_991),
    "audiocaps": Typical(10.0),
    "esc50": Typical(5.0, 1.0, 2_000),
    "ucf101": Typical(7.0, 1.0, 13_320),
    "howto100m": Typical(13.0),
    "audioset": Typical(10.0, within=("balanced", "retrieval_1725")),
    "vggsound": Typical(10.0, within=("retrieval_1545",)),
    "demo": Typical(6.0),
}
UNKNOWN = Typical(10.0)  # for any other reader

LOG_MEL_BYTES = 2  # float16
WAVEFORM_BYTES = 2  # int16
JPEG_BYTES = 15_000  # a frame of 224 pixels: measured on the demo's clips
MEDIA_BYTES_PER_SECOND = 100_000  # a download at 480p with sound, roughly

# The only long training of known duration: the authors' log of MSR-VTT (facts 7.7), 4 V100, every
# tower trained in half precision; 12 frames, 16 segments and 32 words encoded whatever a clip has.
LOG_STEP_SECONDS, LOG_BATCH, LOG_GPUS = 2.27, 128, 4
LOG_FRAMES, LOG_SEGMENTS, LOG_WORDS = 12, 16, 32
PAPER_DAYS = 48.0  # V100-days of the paper's pre-training (Table 6)
CAPTION_WORDS = 10  # of a caption, written or read
CLASSES = 100  # of a probe, which costs next to nothing


def typical(reader: str) -> Typical:
    """Return the typical clip of a reader's dataset."""
    return TYPICAL.get(reader, UNKNOWN)
