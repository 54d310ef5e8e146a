"""Operations of a run's model by clip, by text and by training step, for any model family."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar, cast

import torch
from torch import nn

from clip4vla.common.files import canonical_json
from clip4vla.config.run import Evaluate, Finetune, Pretrain, Run, Substitute
from clip4vla.config.sections import LABEL_TASKS, Modality
from clip4vla.cost.assumptions import CAPTION_WORDS, CLASSES
from clip4vla.cost.batches import ClipSize, class_targets_of, probe_batch_of, tokens, vectors
from clip4vla.cost.counting import Counter
from clip4vla.loading.batches import chunked
from clip4vla.models.common.batch_features import Features, rows_of
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.encoded import Encoded
from clip4vla.models.common.parts import freezes_text_and_vision
from clip4vla.models.common.scorer import SecondScorer
from clip4vla.models.common.task import Batch
from clip4vla.models.family import family_of
from clip4vla.training.gradients import backward

SIDE = 4  # texts and clips of the smaller of two blocks of pairs that are counted
VISION: list[Modality] = ["vision"]
DATA = {  # fields of runs that do not change the operations of a clip
    *("code_version", "seed", "start", "substitution", "text_substitution", "held_out", "cache"),
    *("sources", "train", "val", "test", "queries", "donors", "selection", "variants", "scale"),
    *("missing_audio", "test_missing_audio", "masking", "mean", "optimiser", "sampling"),
    "test_frames",
}
Found = TypeVar("Found")


@dataclass(frozen=True)
class Scoring:
    """Operations of scoring a split: of encoding a clip and going on from it, of a text, a pair.

    again: of scoring a pair again, for `rescore` candidates of each text and of each clip. apart:
    whether variants share the features of clips, as they do those of texts.
    """

    clip: float
    encoded: float = 0.0
    text: float = 0.0
    pair: float = 0.0
    again: float = 0.0
    rescore: int = 0
    apart: bool = True

    def total(self, clips: float, texts: float, variants: int = 0) -> float:
        """Return the operations of a split with its variants."""
        each = clips * self.encoded + clips * texts * self.pair
        each += min((clips + texts) * self.rescore, clips * texts) * self.again
        encodings = 1 if self.apart else 1 + variants
        return encodings * clips * self.clip + texts * self.text + (1 + variants) * each


class Models:
    """Counts operations of the models of runs; equal questions are answered once."""

    def __init__(self) -> None:
        self.counter = Counter()
        self.known: dict[str, object] = {}
        self.built: dict[str, tuple[ClipModel, list[tuple[nn.Parameter, bool]]]] = {}
        self.blocks: dict[ClipModel, list[nn.Module]] = {}

    def step(self, run: Pretrain | Finetune, clip: ClipSize, size: int) -> float:
        """Return the operations of a training step of `size` samples, forward and backward."""

        def count() -> float:
            model = self._prepared(run)
            task = family_of(run.model.family).task(model.train(), run)
            chunks = chunked(range(size), run.optimiser.microbatch or size)
            batches = [_training_batch(run, model, clip, len(chunk)) for chunk in chunks]
            return self._count(
                model, lambda: backward(task, batches, torch.device("cpu"), lambda loss: loss)
            )

        return self._once(count, run, {"decoding"}, "step", clip, size, run.optimiser.microbatch)

    def frozen(self, run: Pretrain, clip: ClipSize) -> tuple[float, float]:
        """Return operations of frames and of a caption that are computed once; 0 if none are."""

        def count() -> tuple[float, float]:
            model = self._prepared(run)
            if not _has_vectors(model, run):
                return 0.0, 0.0
            return self._frames(model, run, clip), self._text(model, run)

        return self._once(count, run, set(), "frozen", clip)

    def donors(self, run: Substitute, clip: ClipSize) -> float:
        """Return the operations of a clip's vector, by which donors are found."""

        def count() -> float:
            model = self._model(run)
            by_text = run.neighbours == "text"
            return self._text(model, run) if by_text else self._frames(model, run, clip)

        return self._once(count, run, set(), "donors", clip)

    def scoring(self, run: Finetune | Evaluate, clip: ClipSize) -> Scoring:
        """Return the operations of scoring a split, the same in validation and evaluation."""
        asked = _as_evaluation(run)

        def count() -> Scoring:
            model, size = self._model(asked).eval(), 2 * SIDE
            encoded: Encoded = {}
            batch = clip.batch(model.processor, size, asked.inputs, asked.modalities)
            clips = self._count(
                model, lambda: encoded.update(model.encode_clips(batch, asked.modalities))
            )
            task = "retrieval" if asked.class_names else asked.task
            match task:
                case "classification" | "tagging":
                    joined = self._count(model, lambda: model.whole(encoded))
                    found = Scoring(clips / size, joined / size)
                case "captioning":
                    found = Scoring(clips / size, self._captions(model, asked, encoded) / size)
                case "retrieval":
                    found = self._retrieval(model, asked, clips / size, encoded)
            return replace(found, apart=model.apart)

        with torch.no_grad():
            return self._once(count, asked, set(), "scoring", clip)

    def _retrieval(self, model: ClipModel, run: Evaluate, clip: float, encoded: Encoded) -> Scoring:
        rescore, again = run.rescore or 0, 0.0
        scorer = family_of(run.model.family).scorer(
            model, run.model, run.modalities, rescores=rescore > 0
        )
        size = 2 * SIDE
        queries: Features = {}
        clips: Features = {}
        words = tokens(model.processor, size, run.inputs.max_words)
        if across := run.query != "text":
            asked, encoded = {"audio": encoded["audio"]}, {"vision": encoded["vision"]}
        of_clip = scorer.alone_features if across else scorer.clip_features
        of_clips = self._count(model, lambda: clips.update(of_clip(encoded)))
        of_queries = self._count(
            model,
            lambda: queries.update(of_clip(asked) if across else scorer.text_features(words)),
        )

        def pairs(side: int) -> float:
            return self._count(
                model,
                lambda: scorer.scores(
                    queries=rows_of(queries, slice(side)),
                    clips=rows_of(clips, slice(side)),
                    scale=1.0,
                ),
            )

        # A text or clip of a block may be prepared once for all of its pairs: a n + b n^2.
        pair = (pairs(size) - 2 * pairs(SIDE)) / (size**2 - 2 * SIDE**2)
        if rescore:
            assert isinstance(scorer, SecondScorer), "checked by the config"
            own = torch.arange(size)[:, None].expand(-1, 2)
            again = self._count(model, partial(scorer.rescored, queries, clips, own))
        return Scoring(
            clip=clip,
            encoded=of_clips / size,
            text=of_queries / size,
            pair=pair,
            again=again / size,
            rescore=rescore,
        )

    def _captions(self, model: ClipModel, run: Evaluate, clips: Encoded) -> float:
        """Return the operations of writing captions, by those of one, two and three words.

        Each word reads those before it, so that the n-th one costs a + b n.
        """
        one, two, three = (
            self._count(model, partial(model.write_captions, clips, run.decoding, words))
            for words in (1, 2, 3)
        )
        words = min(CAPTION_WORDS + 1, run.inputs.caption_steps)  # with the end
        second, growth = two - one, three - 2 * two + one
        return one + (words - 1) * second + (words - 1) * (words - 2) / 2 * growth

    @torch.no_grad()
    def _frames(self, model: ClipModel, run: Pretrain | Substitute, clip: ClipSize) -> float:
        batch = clip.batch(model.processor, 1, run.inputs, VISION)
        return self._count(model, lambda: model.whole(model.encode_clips(batch, VISION)))

    @torch.no_grad()
    def _text(self, model: ClipModel, run: Pretrain | Substitute) -> float:
        return self._count(
            model, lambda: model.encode_text(tokens(model.processor, 1, run.inputs.max_words))
        )

    def _model(self, run: Run) -> ClipModel:
        """Return the model of a run on the meta device, in which all learns that can."""
        task = run.task if isinstance(run, (Finetune, Evaluate)) else None
        if isinstance(run, Evaluate) and run.class_names:
            task = None
        inputs = run.inputs.without_draws()
        key = canonical_json([run.model.model_dump(), task, inputs.model_dump()])
        if key not in self.built:
            classes = CLASSES if task in LABEL_TASKS else None
            empty = family_of(run.model.family).empty(run.model, task, classes, inputs)
            model = empty.to("meta")
            self.built[key] = model, [(x, x.requires_grad) for x in model.parameters()]
            self.blocks[model] = model.blocks()
        model, parameters = self.built[key]
        for parameter, learns in parameters:
            parameter.requires_grad = learns
        return model

    def _prepared(self, run: Pretrain | Finetune) -> ClipModel:
        """Return the model with the parameters frozen that do not learn."""
        model = self._model(run)
        family_of(run.model.family).prepare(model, run)
        return model

    def _count(self, model: ClipModel, compute: Callable[[], object]) -> float:
        return self.counter(compute, self.blocks[model])

    def _once(
        self, count: Callable[[], Found], run: Run, unread: set[str], *about: object
    ) -> Found:
        """Return `count()`, once for equal runs but for the fields of `DATA` and `unread`."""
        key = canonical_json([run.model_dump(exclude=DATA | unread), *map(str, about)])
        if key not in self.known:
            self.known[key] = count()
        return cast(Found, self.known[key])


def _as_evaluation(run: Finetune | Evaluate) -> Evaluate:
    """Return an evaluation that scores clips as a run does."""
    inputs = run.inputs.without_draws()
    if isinstance(run, Evaluate):
        return run.model_copy(update={"inputs": inputs})
    return Evaluate(
        start=None,
        task=run.task,
        modalities=run.modalities,
        test=run.train,
        model=run.model,
        inputs=inputs,
        decoding=run.decoding,
    )


def _training_batch(run: Pretrain | Finetune, model: ClipModel, clip: ClipSize, size: int) -> Batch:
    if isinstance(run, Finetune):
        clips = (
            probe_batch_of(size, model.dim, run.modalities)
            if run.trains_probe_only
            else clip.batch(model.processor, size, run.inputs, run.modalities)
        )
        if run.task not in LABEL_TASKS:
            return clips
        return clips | {"target": class_targets_of(size, run.learns_shares)}
    objective = run.objective
    batch = clip.batch(
        model.processor, size, run.inputs, objective.modalities, masked=objective.masks_audio
    )
    return batch | (vectors(size, model.dim) if _has_vectors(model, run) else {})


def _has_vectors(model: ClipModel, run: Pretrain) -> bool:
    """Return whether vectors of frames and words are computed once, as training does."""
    frozen = freezes_text_and_vision(model, run.objective.modalities)
    return frozen and run.inputs.train_frames is None
