"""Which of open_clip's tags fit a model."""

from clip4vla.common.errors import UserError
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.towers import MEAN, STD
from clip4vla.models.common.published import config_of


def check_tag(where: str, tagged: str, model: Model) -> None:
    """Refuse a tag (`ViT-B-32:laion2b_s34b_b79k`) that does not exist or does not fit the model.

    where: the key of the config to name. No tensor tells how images were prepared or which
    activation was used, so both are checked against open_clip's table. UserError says what differs.
    """
    name, tag, config = config_of(where, tagged)
    if resolve(name) != resolve(model.architecture):
        raise UserError(
            f"{where}: {tagged} is a {name}, and model.architecture is {model.architecture}; "
            "correct one of them"
        )
    expected = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    for key, value in expected.items():
        if config[key] != value:
            raise UserError(
                f"{where}: {tagged} was trained on images prepared in another way ({key} "
                f"{config[key]}, not {value}), as frames and spectrograms here are not; choose "
                "another tag"
            )
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    if activation != model.activation:
        raise UserError(
            f"{where}: {tagged} was trained with {activation}, and model.activation is "
            f"{model.activation}: set model.activation: {activation}"
        )
