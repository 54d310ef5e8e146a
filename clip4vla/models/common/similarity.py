"""Scaled similarities of texts with clips (facts 5.1, and feat_avg of 7.1)."""

from torch import Tensor

from clip4vla.common.device import full_precision


def similarities(
    text: Tensor,
    vision: Tensor | None,
    audio: Tensor | None,
    scale: float | Tensor,
    has_audio: Tensor | None = None,
) -> dict[str, Tensor]:
    """Similarity matrices of every text with every clip.

    text: [Q, D] from `normalise`; vision, audio: [N, D] from `pool`, None where the modality is not
    used. Gives float32 [Q, N] under t_v, t_a and, with both modalities, t_va. A t_va uses the plain
    mean of the two pooled vectors, not normalised again (global-to-global, feat_avg).

    has_audio: bool [N]. Where it is false the clip has no audio to speak of and t_va is t_v. Where
    it is true, or None is given, a fully masked audio (a zero vector) counts: t_a is 0 and t_va
    is t_v / 2, as in the released code (facts 1.6).
    """
    result = {}
    with full_precision(text):  # 16 bits would make ties at scale 100
        text = text.float()
        if vision is not None:
            result["t_v"] = scale * text @ vision.float().T
        if audio is not None:
            result["t_a"] = scale * text @ audio.float().T
        if vision is not None and audio is not None:
            both = (result["t_v"] + result["t_a"]) / 2
            result["t_va"] = both if has_audio is None else both.where(has_audio, result["t_v"])
    return result
