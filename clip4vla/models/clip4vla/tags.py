"""The check that a tag of open_clip fits a model."""

from clip4vla.common.errors import UserError
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.common.images import CLIP_STATISTICS
from clip4vla.models.common.published import config_of


def check_tag(where: str, tagged: str, model: Model) -> None:
    """Raise UserError for a tag (`ViT-B-32:laion2b_s34b_b79k`) that is unknown or does not fit.

    where: the config key to name. No tensor shows how images were prepared or which activation was
    used, so both are checked against open_clip's table.
    """
    name, tag, config = config_of(where, tagged)
    if resolve(name) != resolve(model.architecture):
        raise UserError(
            f"{where}: {tagged} is a {name}, but model.architecture is {model.architecture}. Fix: "
            "correct one of them"
        )
    images = {"interpolation": "bicubic", "resize_mode": "shortest"}
    expected = CLIP_STATISTICS._asdict() | images
    for key, value in expected.items():
        if config[key] != value:
            raise UserError(
                f"{where}: {tagged} was trained on images prepared differently from frames and "
                f"spectrograms here ({key} {config[key]}, not {value}). Fix: choose another tag"
            )
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    if activation != model.activation:
        raise UserError(
            f"{where}: {tagged} was trained with {activation}, but model.activation is "
            f"{model.activation}. Fix: set model.activation: {activation}"
        )
