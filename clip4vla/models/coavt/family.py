"""CoAVT as a model family (`clip4vla.models.family`)."""

from pathlib import Path

from clip4vla.config.families import FamilyModel
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.sections import LABEL_TASKS, Inputs, Modality, TaskName
from clip4vla.models.coavt.build import build_model, empty_model
from clip4vla.models.coavt.convert import architecture_of, convert
from clip4vla.models.coavt.model import CoAVT, set_trainable
from clip4vla.models.coavt.scorer import QueryScorer
from clip4vla.models.coavt.settings import VERBAL, Model
from clip4vla.models.coavt.tags import check_tag
from clip4vla.models.coavt.tasks import AlignmentTask, CaptionTask
from clip4vla.models.coavt.weights import (
    SOURCES,
    kind_of,
    load_into,
    to_our_names,
    to_released_names,
)
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.parts import freeze_prefixes
from clip4vla.models.common.probe import ProbeTask
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.common.task import Task

UNREAD: dict[TaskName, tuple[str, ...]] = {  # parts that a task does not train
    "retrieval": (),
    "captioning": ("text", "query_proj", "text_proj", "matching", "temperature"),
    "classification": VERBAL,
    "tagging": VERBAL,
}


class CoAVTFamily:
    """Streams of sound and pictures, queries that read them, and texts."""

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
    ) -> CoAVT:
        """See `Family.build`."""
        assert isinstance(config, Model)
        classes = n_classes if task in LABEL_TASKS else None
        return build_model(config, weights, classes, seed, inputs or Inputs())

    def empty(
        self, config: FamilyModel, task: TaskName | None, n_classes: int | None, inputs: Inputs
    ) -> CoAVT:
        """See `Family.empty`."""
        assert isinstance(config, Model)
        return empty_model(config, n_classes if task in LABEL_TASKS else None, inputs)

    def load(self, model: ClipModel, path: Path, with_head: bool) -> None:
        """See `Family.load`. The only head is the probe; all else is CoAVT itself."""
        assert isinstance(model, CoAVT)
        load_into(model, path, fresh=() if with_head and model.probe else ("probe",))

    def check_tag(self, where: str, tagged: str, config: FamilyModel) -> None:
        """See `Family.check_tag`."""
        assert isinstance(config, Model)
        check_tag(where, tagged, config.sizes(vocabulary=1, inputs=Inputs()), config)

    def prepare(self, model: ClipModel, run: Pretrain | Finetune) -> None:
        """See `Family.prepare`. Parts that a run does not read stay frozen."""
        assert isinstance(model, CoAVT)
        if isinstance(run, Pretrain):
            set_trainable(model, "all", run.objective.modalities)
        elif run.trains_probe_only:
            set_trainable(model, "probe", run.modalities)
        else:
            set_trainable(model, "all", run.modalities, UNREAD[run.task])
        freeze_prefixes(model, run.freeze.prefixes)

    def scorer(
        self,
        model: ClipModel,
        config: FamilyModel,
        modalities: list[Modality],
        rescores: bool = False,
    ) -> Scorer:
        """See `Family.scorer`."""
        assert isinstance(model, CoAVT)
        return QueryScorer(model, modalities, rescores)

    def ranker(self, model: ClipModel, config: FamilyModel, modalities: list[Modality]) -> Scorer:
        """See `Family.ranker`."""
        return self.scorer(model, config, modalities)

    def task(self, model: ClipModel, run: Pretrain | Finetune) -> Task:
        """See `Family.task`."""
        assert isinstance(model, CoAVT)
        if isinstance(run, Pretrain):
            return AlignmentTask(model, run)
        match run.task:
            case "retrieval":
                return AlignmentTask(model, run)
            case "captioning":
                return CaptionTask(model, run)
            case "classification" | "tagging":
                return ProbeTask(model, run)


FAMILY = CoAVTFamily()
