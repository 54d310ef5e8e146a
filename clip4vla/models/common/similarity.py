"""Scaled similarities of texts with clips (facts 5.1; feat_avg in facts 7.1), and of clips.

Products are `linear`, which `in_float32` speeds up on a CPU.
"""

from torch import Tensor
from torch.nn.functional import linear

from clip4vla.common.device import full_precision
from clip4vla.models.common.batch_features import Features


def similarities(
    text: Tensor,
    vision: Tensor | None,
    audio: Tensor | None,
    scale: float | Tensor,
    has_audio: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the similarity matrices of every text with every clip.

    text: [Q, D] from `normalise`; vision, audio: [N, D] from `pool`, None where the modality is not
    used. The result has float32 [Q, N] under t_v, t_a and, with both modalities, t_va, which uses
    the mean of the two pooled vectors without normalising it (global-to-global, feat_avg).

    has_audio: bool [N]. Where it is false, t_va is t_v. Where it is true, or without `has_audio`, a
    fully masked audio (a zero vector) counts: t_a is 0 and t_va is t_v / 2, as in the released code
    (facts 1.6).
    """
    result = {}
    with full_precision(text):  # 16 bits would cause ties at scale 100
        text = text.float()
        if vision is not None:
            result["t_v"] = linear(scale * text, vision.float())
        if audio is not None:
            result["t_a"] = linear(scale * text, audio.float())
        if vision is not None and audio is not None:
            both = (result["t_v"] + result["t_a"]) / 2
            result["t_va"] = both if has_audio is None else both.where(has_audio, result["t_v"])
    return result


def across(queries: Features, clips: Features, scale: float) -> dict[str, Tensor]:
    """Return the similarities of clips by one modality with clips by the other: `a_v` or `v_a`.

    queries [Q, D], clips [N, D]: the pooled vectors of one modality each, "audio" or "vision".
    """
    (asked, query), (found, answer) = (*queries.items(), *clips.items())
    with full_precision(query):
        return {f"{asked[0]}_{found[0]}": linear(scale * query.float(), answer.float())}
