"""CLIP4VLA as a model family (`clip4vla.models.family`)."""

from pathlib import Path

from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.sections import Inputs, Modality, Model
from clip4vla.config.settings import Head
from clip4vla.models.clip4vla.build import build_model, empty_model
from clip4vla.models.clip4vla.half import halve
from clip4vla.models.clip4vla.model import CLIP4VLA, set_trainable
from clip4vla.models.clip4vla.scorer import scorer_of
from clip4vla.models.clip4vla.tasks import CaptionTask, PretrainTask, RetrievalTask
from clip4vla.models.clip4vla.weights import load_into
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.probe import ProbeTask
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.common.task import Task

HEADS = ("captioner", "fusion", "gate", "probe")  # parts that a task adds to the towers


class CLIP4VLAFamily:
    """Three towers in CLIP's space, and the heads of four tasks."""

    def build(
        self,
        config: Model,
        weights: dict[str, Path],
        head: Head = None,
        n_classes: int | None = None,
        seed: int = 0,
        inputs: Inputs | None = None,
    ) -> CLIP4VLA:
        """See `Family.build`."""
        return build_model(config, weights, head, n_classes, seed, inputs)

    def empty(self, config: Model, head: Head, n_classes: int | None, inputs: Inputs) -> CLIP4VLA:
        """See `Family.empty`."""
        return empty_model(config, head, n_classes, inputs)

    def load(self, model: ClipModel, path: Path, with_head: bool) -> None:
        """See `Family.load`."""
        assert isinstance(model, CLIP4VLA)
        kept = {head for head in HEADS if with_head and getattr(model, head) is not None}
        load_into(model, path, fresh=tuple(head for head in HEADS if head not in kept))

    def prepare(self, model: ClipModel, run: Pretrain | Finetune) -> None:
        """See `Family.prepare`. Towers of modalities that a run does not read stay frozen."""
        assert isinstance(model, CLIP4VLA)
        if isinstance(run, Pretrain):
            set_trainable(model, run.trainable, run.freeze, run.objective.temperature)
        elif run.task == "classification":
            set_trainable(model, "head")
        else:
            set_trainable(model, "all", run.freeze, run.objective.temperature)
            for name, tower in (("vision", model.vision), ("audio", model.audio)):
                if name not in run.modalities:
                    tower.requires_grad_(False)
        if run.optimiser.precision == "half_weights":
            halve(model)

    def scorer(self, model: ClipModel, config: Model, modalities: list[Modality]) -> Scorer:
        """See `Family.scorer`."""
        assert isinstance(model, CLIP4VLA)
        return scorer_of(model, config.fusion, modalities)

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
            case "classification":
                return ProbeTask(model)


FAMILY = CLIP4VLAFamily()
