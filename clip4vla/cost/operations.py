"""Operations of a run's model by clip, by text and by training step, for any model family."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from clip4vla.common.files import canonical_json
from clip4vla.config.run import Evaluate, Finetune, Pretrain, Run, Substitute
from clip4vla.config.sections import LABEL_TASKS, Modality
from clip4vla.cost.assumptions import CAPTION_WORDS, CLASSES
from clip4vla.cost.batches import class_targets_of, clip_batch, probe_batch_of, tokens, vectors
from clip4vla.cost.counting import Counter
from clip4vla.cost.units import ClipSize, Scoring
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


class Operations:
    """Counts operations of the models of runs."""

    def __init__(self) -> None:
        self.counter = Counter()
        self.built: dict[str, tuple[ClipModel, list[tuple[nn.Parameter, bool]]]] = {}
        self.blocks: dict[ClipModel, list[nn.Module]] = {}

    def step(self, run: Pretrain | Finetune, clip: ClipSize, size: int) -> float:
        """See `Models.step`."""
        model = self._prepared(run)
        task = family_of(run.model.family).task(model.train(), run)
        chunks = chunked(range(size), run.optimiser.microbatch or size)
        batches = [_training_batch(run, model, clip, len(chunk)) for chunk in chunks]
        return self._count(
            model, lambda: backward(task, batches, torch.device("cpu"), lambda loss: loss)
        )

    def frozen(self, run: Pretrain, clip: ClipSize) -> tuple[float, float]:
        """See `Models.frozen`."""
        model = self._prepared(run)
        if not _has_vectors(model, run):
            return 0.0, 0.0
        return self._frames(model, run, clip), self._text(model, run)

    def donors(self, run: Substitute, clip: ClipSize) -> float:
        """See `Models.donors`."""
        model = self._model(run)
        by_text = run.neighbours == "text"
        return self._text(model, run) if by_text else self._frames(model, run, clip)

    @torch.no_grad()
    def scoring(self, run: Evaluate, clip: ClipSize) -> Scoring:
        """See `Models.scoring`."""
        model, size = self._model(run).eval(), 2 * SIDE
        encoded: Encoded = {}
        batch = clip_batch(clip, model.processor, size, run.inputs, run.modalities)
        clips = self._count(
            model, lambda: encoded.update(model.encode_clips(batch, run.modalities))
        )
        task = "retrieval" if run.class_names else run.task
        match task:
            case "classification" | "tagging":
                joined = self._count(model, lambda: model.whole(encoded))
                found = Scoring(clips / size, joined / size)
            case "captioning":
                found = Scoring(clips / size, self._captions(model, run, encoded) / size)
            case "retrieval":
                found = self._retrieval(model, run, clips / size, encoded)
        return replace(found, apart=model.apart)

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
        batch = clip_batch(clip, model.processor, 1, run.inputs, VISION)
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


def _training_batch(run: Pretrain | Finetune, model: ClipModel, clip: ClipSize, size: int) -> Batch:
    if isinstance(run, Finetune):
        clips = (
            probe_batch_of(size, model.dim, run.modalities)
            if run.trains_probe_only
            else clip_batch(clip, model.processor, size, run.inputs, run.modalities)
        )
        if run.task not in LABEL_TASKS:
            return clips
        return clips | {"target": class_targets_of(size, run.learns_shares)}
    objective = run.objective
    batch = clip_batch(
        clip, model.processor, size, run.inputs, objective.modalities, masked=objective.masks_audio
    )
    return batch | (vectors(size, model.dim) if _has_vectors(model, run) else {})


def _has_vectors(model: ClipModel, run: Pretrain) -> bool:
    """Return whether vectors of frames and words are computed once, as training does."""
    frozen = freezes_text_and_vision(model, run.objective.modalities)
    return frozen and run.inputs.train_frames is None
