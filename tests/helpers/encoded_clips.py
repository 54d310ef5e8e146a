"""Encoded clips from features and masks, as `ClipModel.encode_clips` gives them."""

from clip4vla.models.common.encoded import FeatureSequence


def encoded_clips(vision, vision_mask, audio, audio_mask):
    """vision [B, F, D], audio [B, S, D], masks bool; None leaves a modality out."""
    clips = {}
    if vision is not None:
        clips["vision"] = FeatureSequence(vision, vision_mask)
    if audio is not None:
        clips["audio"] = FeatureSequence(audio, audio_mask)
    return clips
