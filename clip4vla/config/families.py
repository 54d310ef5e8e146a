"""The model families, and the light half of the seam: what the config reads of a family.

A family is a package with two modules: `settings`, which defines `SETTINGS` and loads no torch, and
`family`, which defines `FAMILY` (`clip4vla.models.family`).
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, SerializeAsAny
from pydantic_core import PydanticCustomError

from clip4vla.common.errors import did_you_mean
from clip4vla.config.base import AT_KEY, Section, added
from clip4vla.config.data import Cache
from clip4vla.config.family_names import DEFAULT, FAMILIES
from clip4vla.config.presets import Preset
from clip4vla.config.sections import Inputs, Modality, TaskName

if TYPE_CHECKING:
    from clip4vla.config.recipe import PretrainRecipe, Recipe
    from clip4vla.config.variant import Variant

TrainedStage = Literal["pretrain", "finetune"]


class FamilyModel(Section):
    """Base of every family's `model` section: what the rest of the project asks of it."""

    family: str = added(DEFAULT, "the model family: a folder under clip4vla/models/")
    architecture: str
    weights: str | None

    PARTS: ClassVar[tuple[str, ...]]  # first levels of the names of its parameters
    TASKS: ClassVar[tuple[str, ...]]  # what it can be trained for: `pretrain`, names of tasks
    TITLE: ClassVar[str]  # heading of its model cards
    ABOUT: ClassVar[str]  # what the weights are, below the heading
    TAGS: ClassVar[tuple[str, ...]] = ()  # of its model cards

    def parts(self, task: TaskName | None) -> tuple[str, ...]:
        """Return those of `PARTS` that this model may have in a task; None: in pre-training."""
        return self.PARTS

    def towers(self) -> "FamilyModel":
        """Return the section of earlier stages, without keys that only the own task reads."""
        return self

    @property
    def first_weights(self) -> list[str]:
        """Return the names in the config's `weights` of what a model is built from."""
        return [] if self.weights is None else [self.weights]

    def without_first_weights(self) -> "FamilyModel":
        """Return the section of a model that a file of ours fills."""
        return self.model_copy(update={"weights": None})

    def in_pretraining(self, pretrain: "PretrainRecipe") -> "FamilyModel":
        """Return the model that pre-training trains."""
        return self.towers()

    @property
    def scores_each_modality(self) -> bool:
        """Whether texts are compared with sounds and pictures alone, too, beside both."""
        return True

    @property
    def compares_modalities(self) -> bool:
        """Whether sounds and pictures can be compared, each encoded without the other."""
        return True

    @property
    def names_classes(self) -> bool:
        """Whether clips can be compared with names of classes without a fine-tuning."""
        return True

    @property
    def embeds_texts(self) -> bool:
        """Whether a text is compared with one vector of a sound or of pictures."""
        return True

    @property
    def rescores(self) -> bool:
        """Whether a pair of a text and a clip has a second score, for the first candidates."""
        return False

    @property
    def is_demo(self) -> bool:
        """Whether the towers are too small to understand words: those of tests and the demo."""
        return self.architecture == "tiny"

    def not_in_vectors(self, task: TaskName | None) -> str | None:
        """Return the part of a trained model that `clip4vla embed` leaves out, or None."""
        return None

    @property
    def mixes_type_tokens(self) -> bool:
        """Whether `nonverbal_share` has an effect."""
        return False

    def check(self, recipe: "Recipe") -> None:
        """Raise ValueError for a recipe that this model cannot follow."""
        self.check_query(recipe)
        trained = {"pretrain": bool(recipe.pretrain and recipe.pretrain.read_sources)}
        trained[recipe.task] = True
        for task, wanted in trained.items():
            if wanted and task not in self.TASKS:
                raise ValueError(
                    f"{'pretrain' if task == 'pretrain' else f'task: {task}'}: a model of family "
                    f"{self.family} is not trained for it. Fix: choose from {', '.join(self.TASKS)}"
                )
        if recipe.pretrain is not None:
            shares = {source.nonverbal_share for source in recipe.pretrain.sources}
            given = {"type_token": recipe.pretrain.type_token is not None}
            given["sources: nonverbal_share"] = not shares <= {None}
            for key, is_set in given.items():
                if is_set:
                    raise ValueError(
                        f"pretrain.{key}: a model of family {self.family} has no type token. Fix: "
                        "remove it"
                    )

    def check_query(self, recipe: "Recipe") -> None:
        """Raise ValueError for a comparison of sounds and pictures without a vector of each."""
        if recipe.query != "text" and not self.compares_modalities:
            raise ValueError(
                f"query: {recipe.query} compares vectors of sounds and of pictures, which this "
                "model does not have. Fix: set query: text, or change the model"
            )

    def check_inputs(self, inputs: Inputs, cache: Cache) -> None:
        """Raise ValueError for inputs that this model cannot read."""

    def check_variant(self, variant: "Variant") -> None:
        """Raise ValueError for a variant of an evaluation that this model cannot be scored in."""
        if variant.nonverbal_share is not None and not self.mixes_type_tokens:
            raise ValueError(
                f"variant {variant.name}: nonverbal_share has no effect on a model of family "
                f"{self.family}. Fix: remove it"
            )

    def check_architecture(self) -> None:
        """Raise UserError for an architecture that does not exist."""

    def described(self) -> dict[str, str | None]:
        """Return the properties of the model that accompany its numbers (docs/formats.md)."""
        return {"architecture": self.architecture, "activation": None}

    def card(self, metadata: dict[str, Any]) -> dict[str, str | None]:
        """Return lines of a model card, by name. metadata: of the weights."""
        return {"task": metadata["task"] or "none: towers alone"}

    def preprocessing(self) -> dict[str, str]:
        """Return the statistics of pixels and the tokens of texts, for model cards."""
        return {"pixels": "CLIP's mean and standard deviation", "tokens": "CLIP's tokens"}

    def labels(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return labels for a model whose initial weights had other settings.

        before: metadata of these weights.
        """
        return {}


class FamilyObjective(Section):
    """Base of every family's `objective` section: what the rest of the project asks of it."""

    @property
    def validation_scale(self) -> float:
        """Return 1 / temperature of similarities in validation; it changes no rank."""
        return 1.0

    @property
    def modalities(self) -> list[Modality]:
        """Return the modalities that pre-training reads."""
        return ["vision", "audio"]

    @property
    def masks_audio(self) -> bool:
        """Whether pre-training reads a masked copy of the audio, too."""
        return False

    def check_pretraining(self, trainable: Literal["audio", "all"], key: str) -> None:
        """Raise ValueError unless a stage of pre-training can follow it. key: of the objective."""

    def check_finetuning(self) -> None:
        """Raise ValueError for an option that only pre-training reads."""

    def check_task(self, task: TaskName) -> None:
        """Raise ValueError for an option that has no effect in fine-tuning for the task."""


@dataclass(frozen=True)
class FamilySettings:
    """The light half of a family: what its module `settings` defines as `SETTINGS`.

    objectives: the defaults of recipes by stage, of one class, `objective`. preset_values: from a
    preset, a row's recipe and the reader of its dataset to the nested values of the preset for this
    row, a layer below the recipe. For docs/config.md only: presets, the values of each preset by
    dotted key; scripts, by title, what `released` sets beyond these, as values or as a sentence.
    """

    model: type[FamilyModel]
    objectives: Mapping[TrainedStage, FamilyObjective]
    presets: dict[Preset, dict[str, Any]]
    scripts: dict[str, dict[str, Any] | str]
    preset_values: Callable[[Preset, dict[str, Any], str | None], dict[str, Any]]

    @property
    def objective(self) -> type[FamilyObjective]:
        """Return the class of the family's objectives."""
        return type(self.objectives["pretrain"])


@cache
def family_settings(family: str) -> FamilySettings:
    """Return the light half of a family, by its name in `FAMILIES`."""
    settings: FamilySettings = importlib.import_module(f"{FAMILIES[family]}.settings").SETTINGS
    return settings


def family_in(model: Any) -> str:
    """Return the family that a `model` section names, validated or not.

    ValueError for a family that does not exist.
    """
    family = model.get("family", DEFAULT) if isinstance(model, dict) else DEFAULT
    if not isinstance(family, str) or family not in FAMILIES:
        problem = f"{family!r} is no model family{did_you_mean(str(family), FAMILIES)}"
        raise PydanticCustomError(AT_KEY, "{problem}", {"key": "family", "problem": problem})
    return family


def _of_its_family(value: Any) -> Any:
    """Validate a `model` section with the class of the family that it names."""
    if not isinstance(value, dict):
        return value  # an instance already, or a mistake that pydantic reports
    return family_settings(family_in(value)).model.model_validate(value)


def model_in(metadata: dict[str, Any]) -> FamilyModel:
    """Return the `model` section in a file's metadata."""
    model: FamilyModel = _of_its_family(metadata["model"])
    return model


AnyModel = Annotated[SerializeAsAny[FamilyModel], BeforeValidator(_of_its_family)]


def default_model() -> FamilyModel:
    """Return the `model` section of a row that sets none."""
    return family_settings(DEFAULT).model()  # type: ignore[call-arg]  # all keys have defaults
