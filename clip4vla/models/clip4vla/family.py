"""CLIP4VLA as a model family (`clip4vla.models.family`)."""

from pathlib import Path

from clip4vla.config.families import FamilyModel
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.sections import LABEL_TASKS, Inputs, Modality, TaskName
from clip4vla.models.clip4vla.build import build_model, empty_model
from clip4vla.models.clip4vla.convert import convert
from clip4vla.models.clip4vla.fp16_weights import use_fp16_weights
from clip4vla.models.clip4vla.importers import SOURCES, kind_of, to_our_names, to_released_names
from clip4vla.models.clip4vla.infer_settings import architecture_of
from clip4vla.models.clip4vla.model import CLIP4VLA, set_trainable
from clip4vla.models.clip4vla.objective import Objective
from clip4vla.models.clip4vla.scorer import scorer_of
from clip4vla.models.clip4vla.settings import HEAD_PARTS, Model
from clip4vla.models.clip4vla.tags import check_tag
from clip4vla.models.clip4vla.tasks import CaptionTask, PretrainTask, RetrievalTask
from clip4vla.models.clip4vla.weights import load_into
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.probe import ProbeTask
from clip4vla.models.common.scorer import PooledScorer, Scorer
from clip4vla.models.common.task import Task

HEADS = tuple(HEAD_PARTS.values())  # parts that a task adds to the towers


class CLIP4VLAFamily:
    """Three towers in CLIP's space, and the heads of five tasks."""

    SOURCES = SOURCES
    kind_of = staticmethod(kind_of)
    renamed = staticmethod(to_our_names)
    architecture_of = staticmethod(architecture_of)
    convert = staticmethod(convert)
    released_names = staticmethod(to_released_names)

    def build(
        self,
        config: FamilyModel,
        weights: dict[str, Path],
        task: TaskName | None = None,
        n_classes: int | None = None,
        seed: int = 0,
        inputs: Inputs | None = None,
    ) -> CLIP4VLA:
        """See `Family.build`."""
        assert isinstance(config, Model)
        return build_model(config, weights, config.head(task), n_classes, seed, inputs)

    def empty(
        self, config: FamilyModel, task: TaskName | None, n_classes: int | None, inputs: Inputs
    ) -> CLIP4VLA:
        """See `Family.empty`."""
        assert isinstance(config, Model)
        return empty_model(config, config.head(task), n_classes, inputs)

    def load(self, model: ClipModel, path: Path, with_head: bool) -> None:
        """See `Family.load`."""
        assert isinstance(model, CLIP4VLA)
        loaded = {head for head in HEADS if with_head and getattr(model, head) is not None}
        load_into(model, path, fresh=tuple(head for head in HEADS if head not in loaded))

    def check_tag(self, where: str, tagged: str, config: FamilyModel) -> None:
        """See `Family.check_tag`."""
        assert isinstance(config, Model)
        check_tag(where, tagged, config)

    def prepare(self, model: ClipModel, run: Pretrain | Finetune) -> None:
        """See `Family.prepare`. Towers that a run does not read stay frozen."""
        assert isinstance(model, CLIP4VLA) and isinstance(run.objective, Objective)
        temperature = run.objective.temperature
        if isinstance(run, Pretrain):
            set_trainable(model, run.trainable, run.freeze, temperature)
        elif run.trains_probe_only:
            set_trainable(model, "head")
        else:
            set_trainable(model, "all", run.freeze, temperature)
            for name, tower in (("vision", model.vision), ("audio", model.audio)):
                if name not in run.modalities:
                    tower.requires_grad_(False)
            if run.task in LABEL_TASKS:
                model.text.requires_grad_(False)
        if run.optimiser.precision == "half_weights":
            use_fp16_weights(model)

    def scorer(
        self,
        model: ClipModel,
        config: FamilyModel,
        modalities: list[Modality],
        rescores: bool = False,
    ) -> Scorer:
        """See `Family.scorer`."""
        assert isinstance(model, CLIP4VLA) and isinstance(config, Model)
        return scorer_of(model, config.fusion, modalities)

    def ranker(self, model: ClipModel, config: FamilyModel, modalities: list[Modality]) -> Scorer:
        """See `Family.ranker`: the towers' pooled vectors, where pairs are scored jointly."""
        scorer = self.scorer(model, config, modalities)
        return PooledScorer(model) if scorer.joint else scorer

    def task(self, model: ClipModel, run: Pretrain | Finetune) -> Task:
        """See `Family.task`."""
        assert isinstance(model, CLIP4VLA)
        if isinstance(run, Pretrain):
            return PretrainTask(model, run)
        match run.task:
            case "retrieval":
                return RetrievalTask(model, run)
            case "captioning":
                return CaptionTask(model, run)
            case "classification" | "tagging":
                return ProbeTask(model, run)


FAMILY = CLIP4VLAFamily()
