"""Features for a probe: masked means of frozen towers, kept on disk for all folds (facts 9).

The folds and seeds of a dataset have the same clips and the same towers: their vectors lie beside
the shards, in `frozen/`, which may be deleted at any time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from clip4vla.cache.vectors import Vectors
from clip4vla.common.device import half_type
from clip4vla.config.run import CODE_VERSION
from clip4vla.config.sections import Modality
from clip4vla.inference.features import ClipFeatures, embed_clips
from clip4vla.loading.samples import Clips, ClipSamples
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.pooling import masked_mean

NOT_OF_SOUND = ("max_frames", "frame_choice", "max_words")


def probe_features(
    model: ClipModel,
    samples: Clips,
    modalities: Iterable[Modality],
    device: torch.device,
    workers: int,
    keep: bool,
) -> ClipFeatures:
    """Return mean features of every sample, in order, un-normalised. The model is on `device`.

    keep: those of all clips of the dataset version are computed, once, and read from disk after
    that, if samples are as the cache holds them; up to the rounding of another composition of
    batches they are those computed here.
    """
    if not (keep and model.apart and isinstance(samples, ClipSamples)):
        return embed_clips(model, samples, modalities, device, workers, reduce=masked_mean)
    cache = samples.cache
    clips = sorted(set(cache.splits.clip_id))
    sounding = [clip for clip in clips if clip not in cache.silent]
    ids = [clip_id for clip_id, _, _ in samples.items]
    sounds = [clip if clip not in cache.silent else samples.donor_of.get(clip) for clip in ids]
    pictures = [clip if cache.frame_count(clip) else None for clip in ids]
    read: dict[Modality, tuple[list[str], list[str | None]]] = {
        "vision": (clips, pictures),
        "audio": (sounding, sounds),
    }
    found: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    nothing = torch.zeros(model.dim)
    for modality, (known, sources) in read.items():
        if modality in modalities:
            vectors = _vectors(model, samples, modality, known, device, workers)
            rows = [nothing if source is None else vectors[source] for source in sources]
            found[modality] = torch.stack(rows)
            present[modality] = torch.tensor([source is not None for source in sources])
    return ClipFeatures(clip_ids=ids, vectors=found, present=present)


def _vectors(
    model: ClipModel,
    samples: ClipSamples,
    modality: Modality,
    clip_ids: list[str],
    device: torch.device,
    workers: int,
) -> Vectors:
    """Return one modality's means of clips; those not on disk yet are computed."""
    cache, inputs, share = samples.cache, samples.inputs, samples.nonverbal_share
    of_sound = {k: v for k, v in inputs.scientific().items() if k not in NOT_OF_SOUND}
    meaning = {
        "what": f"masked mean of {modality}",
        "tower": model.part_hash(modality),
        "manifest": cache.manifest_sha256,
        "inputs": of_sound if modality == "audio" else inputs.of_frames,
        "nonverbal_share": share if modality == "audio" else None,
        "precision": str(half_type(device)),
        "code_version": CODE_VERSION,
    }

    def compute(names: list[str]) -> Tensor:
        clips = samples.of(names, modality)
        means = embed_clips(model, clips, (modality,), device, workers, reduce=masked_mean)
        return means.vectors[modality]

    vectors = Vectors(cache.folder / "frozen", clip_ids, meaning)
    vectors.build(compute)
    return vectors
