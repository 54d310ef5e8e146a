"""Floating-point operations of one run: how many clips it reads, times what its model computes."""

from dataclasses import dataclass, replace

from clip4vla.config.families import default_model
from clip4vla.config.plan import Plan
from clip4vla.config.run import Evaluate, Finetune, Pretrain, Run, Source, Substitute
from clip4vla.config.sections import Inputs
from clip4vla.cost.assumptions import (
    CLASSES,
    LOG_BATCH,
    LOG_FRAMES,
    LOG_GPUS,
    LOG_SEGMENTS,
    LOG_STEP_SECONDS,
    LOG_WORDS,
    typical,
)
from clip4vla.cost.models import Models
from clip4vla.cost.units import ClipSize
from clip4vla.datasets import benchmark_of
from clip4vla.loading.segment_counts import kept_segments

Counts = dict[tuple[str, str], tuple[int, int]]  # (version, split) -> clips, those with sound


@dataclass(frozen=True)
class Clips:
    """Clips of a split: their number, those with sound, captions of one, and its size."""

    count: int
    sounding: int
    captions: float
    size: ClipSize

    def used(self, policy: str) -> int:
        """Return the number of clips under a policy for silent ones."""
        return self.sounding if policy == "filter" else self.count


def v100_flops(models: Models) -> float:
    """Return operations per second of one V100 in the authors' log of MSR-VTT: about 1e13."""
    logged = Source(dataset="msrvtt", cache_id="", split="")
    run = Finetune(
        start=None,
        task="retrieval",
        train=logged,
        val=None,
        selection="last",
        model=default_model(),
        inputs=Inputs(max_words=LOG_WORDS),
    )
    step = models.step(run, ClipSize(LOG_FRAMES, LOG_SEGMENTS), LOG_BATCH)
    return step / LOG_STEP_SECONDS / LOG_GPUS


def flops(plan: Plan, run: Run, counts: Counts, models: Models) -> float:
    """Return the operations of a run."""
    match run:
        case Pretrain():
            return _pretrain(plan, run, counts, models)
        case Substitute():
            return _substitute(plan, run, counts, models)
        case Finetune():
            return _finetune(plan, run, counts, models)
        case Evaluate():
            clips = clips_of(plan, run, run.test, counts)
            return _scoring(run, clips, run.missing_audio, models, len(run.variants))


def clips_of(plan: Plan, run: Run, source: Source, counts: Counts, training: bool = False) -> Clips:
    """Return the clips of a split as a run reads them. training: as it trains on them."""
    _, dataset = plan.dataset_of(source.dataset)
    usual = typical(dataset.reader)
    count, sounding = counts.get((source.dataset, source.split), (0, 0))
    log_mel, wanted = run.cache.log_mel, run.inputs.max_frames
    if training and run.inputs.train_frames is not None:
        wanted = run.inputs.train_frames
    size = ClipSize(
        frames=min(wanted, max(1, round(usual.seconds * run.cache.frames.fps))),
        segments=kept_segments(int(usual.seconds * log_mel.steps_per_second), run.inputs),
        bands=log_mel.n_mels,
        channels=1 if log_mel.channels == "mean" else 3,
    )
    captions = benchmark_of(dataset, source.split).captions or usual.captions
    return Clips(count, sounding, captions, size)


def _pretrain(plan: Plan, run: Pretrain, counts: Counts, models: Models) -> float:
    """Count equal parts of all sources: an epoch has as many samples of each as the smallest."""
    sources = [clips_of(plan, run, source, counts, training=True) for source in run.sources]
    least = min(clips.sounding * clips.captions for clips in sources)
    total = 0.0
    for clips in sources:
        total += _steps(run, clips.size, least, least * len(sources), models)
        frames, caption = models.frozen(run, clips.size)
        total += clips.sounding * (frames + clips.captions * caption)
    return total


def _finetune(plan: Plan, run: Finetune, counts: Counts, models: Models) -> float:
    """Count the steps, and the scoring of the clips on which an epoch is selected."""
    clips = clips_of(plan, run, run.train, counts, training=not run.trains_probe_only)
    used = clips.used(run.missing_audio)
    probe = run.trains_probe_only  # on features that are computed once
    total = 0.0
    if probe:
        scoring = models.scoring(run, clips.size)
        total = used * (scoring.clip + scoring.encoded)
    samples = used * (1.0 if probe else clips.captions)
    total += _steps(run, clips.size, samples, samples, models)
    if run.selected_on is not None:
        source, policy = run.selected_on
        scored = _scoring(run, clips_of(plan, run, source, counts), policy, models)
        total += scored * (1 if probe else run.optimiser.epochs)
    return total


def _steps(
    run: Pretrain | Finetune, clip: ClipSize, samples: float, epoch: float, models: Models
) -> float:
    """Return the operations of training on `samples` of the `epoch` samples of every epoch."""
    size = min(run.optimiser.batch_size, int(epoch))
    if size < 1:
        return 0.0
    return run.optimiser.epochs * samples / size * models.step(run, clip, size)


def _substitute(plan: Plan, run: Substitute, counts: Counts, models: Models) -> float:
    """Return the cost of the vectors of donors and silent clips."""
    donors = clips_of(plan, run, run.donors, counts)
    queries = [clips_of(plan, run, source, counts) for source in run.queries]
    silent = sum(clips.count - clips.sounding for clips in queries)
    return (donors.sounding + silent) * models.donors(run, donors.size)


def _scoring(
    run: Finetune | Evaluate, clips: Clips, policy: str, models: Models, variants: int = 0
) -> float:
    """Return the cost of scoring a split."""
    used = clips.used(policy)
    texts = used * clips.captions
    if isinstance(run, Evaluate) and (run.class_names or run.query != "text"):
        texts = CLASSES if run.class_names else used
    times = (isinstance(run, Evaluate) and run.test_frames) or 1  # each with one frame
    size = clips.size if times == 1 else replace(clips.size, frames=1)
    return times * models.scoring(run, size).total(used, texts, variants)
