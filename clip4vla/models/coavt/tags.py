"""The check that a tag of open_clip fits the joint audio-visual encoder."""

from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.models.coavt.importers import check_trained_with
from clip4vla.models.coavt.settings import Model
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.common.images import CLIP_STATISTICS
from clip4vla.models.common.published import check_preparation, config_of

PLAIN = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}


def check_tag(where: str, tagged: str, sizes: Sizes, settings: Model) -> None:
    """Raise UserError for a tag (`ViT-B-16:laion2b_s34b_b88k`) that is unknown or does not fit.

    where: the config key to name. No tensor shows how images were prepared or which activation was
    used, so both are checked against open_clip's table.
    """
    import open_clip

    name, _, _ = config_of(where, tagged)
    vision: dict[str, Any] = (open_clip.get_model_config(name) or {}).get("vision_cfg", {})
    if not isinstance(vision.get("layers"), int) or set(vision) - PLAIN:
        raise UserError(
            f"{where}: the visual tower of {tagged} is not a plain ViT. Fix: choose one like "
            "ViT-B-16 or ViT-B-32"
        )
    theirs = {"head_width": 64, "mlp_ratio": 4} | vision
    ours = {
        "image_size": sizes.image,
        "layers": sizes.own_layers + sizes.shared_layers,
        "width": sizes.width,
        "head_width": sizes.width // sizes.heads,
        "patch_size": sizes.patch,
        "mlp_ratio": sizes.mlp_ratio,
    }
    for key, value in ours.items():
        if theirs[key] != value:
            raise UserError(
                f"{where}: {tagged} has {key} {theirs[key]}, but model.architecture has {value}. "
                "Fix: correct one of them"
            )
    check_trained_with(f"{where}: {tagged}", "clip", settings)
    check_preparation(where, tagged, CLIP_STATISTICS, settings.activation)
