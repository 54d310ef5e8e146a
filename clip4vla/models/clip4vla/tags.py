"""The check that a tag of open_clip fits a model."""

from clip4vla.common.errors import UserError
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.common.images import CLIP_STATISTICS
from clip4vla.models.common.published import check_preparation, config_of


def check_tag(where: str, tagged: str, model: Model) -> None:
    """Raise UserError for a tag (`ViT-B-32:laion2b_s34b_b79k`) that is unknown or does not fit.

    where: the config key to name.
    """
    name, _, _ = config_of(where, tagged)
    if resolve(name) != resolve(model.architecture):
        raise UserError(
            f"{where}: {tagged} is a {name}, but model.architecture is {model.architecture}. Fix: "
            "correct one of them"
        )
    check_preparation(where, tagged, CLIP_STATISTICS, model.activation)
