"""Files of CAV-MAE, pre-trained or fine-tuned (facts 8.1)."""

import re

from clip4vla.datasets.official import shipped_list
from clip4vla.models.coavt.translation import Translation
from clip4vla.models.common.tensor_files import Tensors

NAMES = {  # CAV-MAE -> ours, by prefix
    "patch_embed_a.proj.": "audio.patches.",
    "patch_embed_v.proj.": "vision.patches.",
    "pos_embed_a": "audio.positions",
    "pos_embed_v": "vision.positions",
    "modality_a": "audio.modality",
    "modality_v": "vision.modality",
    "blocks_a.": "audio.blocks.",
    "blocks_v.": "vision.blocks.",
    "blocks_u.": "shared.blocks.",
    "norm_a.": "shared.norm.audio.",
    "norm_v.": "shared.norm.vision.",
    "norm.": "shared.norm.av.",
    "mlp_head.0.": "probe.norm.",
    "mlp_head.1.": "probe.linear.",
}
SHARED_NORM = re.compile(r"(shared\.blocks\.\d+\.norm[12])(_[av])?\.")
STREAM = {None: "av", "_a": "audio", "_v": "vision"}
UNUSED = re.compile(  # the decoder, class tokens, and norms of own blocks that no stream reads
    r"decoder_|mask_token$|cls_token|blocks_[av]\.\d+\.norm[12]_[av]\."
)


def is_cav_mae(state: Tensors) -> bool:
    """Return whether tensors have the names of CAV-MAE."""
    return {"patch_embed_a.proj.weight", "patch_embed_v.proj.weight"} <= state.keys()


def translate(state: Tensors) -> Translation:
    """Return tensors under our names; the classifier of a fine-tuned file is `probe`."""
    tensors, unused = {}, []
    for name, value in state.items():
        if UNUSED.match(name):
            unused.append(name)
            continue
        ours = _ours(name)
        if ours.endswith(".positions"):
            value = value.flatten(0, -2)  # [1, n, W]
        tensors[ours] = value.flatten() if ours.endswith(".modality") else value
    return Translation(tensors, tuple(unused))


def known_classes(n_classes: int) -> tuple[str, ...] | None:
    """Return the names of the rows of a released classifier, if this package ships them.

    VGGSound's 309 are in the order of its stat.csv, not the alphabet's (facts 8.4). AudioSet's 527
    are in the order of class_labels_indices.csv, which users bring.
    """
    classes = shipped_list("vggsound_309.txt")
    return classes if n_classes == len(classes) else None


def _ours(name: str) -> str:
    for theirs, ours in NAMES.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            return SHARED_NORM.sub(lambda found: f"{found[1]}.{STREAM[found[2]]}.", name)
    return name
