"""Floating-point operations of one run."""

from dataclasses import dataclass

from clip4vla.config.plan import Plan
from clip4vla.config.run import Evaluate, Finetune, Pretrain, Run, Source, Substitute
from clip4vla.config.sections import GATES, MIXING_FUSIONS
from clip4vla.cost.assumptions import (
    CAPTION_WORDS,
    LOG_BATCH,
    LOG_FRAMES,
    LOG_GPUS,
    LOG_SEGMENTS,
    LOG_STEP_SECONDS,
    LOG_WORDS,
    STEPS_PER_SECOND,
    Typical,
    typical,
)
from clip4vla.cost.work import Work, work_of

SEGMENT_STEPS = 224
POOLED = ("global_to_global", *GATES)
Counts = dict[tuple[str, str], tuple[int, int]]  # (version, split) -> clips, those with sound


@dataclass(frozen=True)
class Clips:
    """Clips of a split: their number, those with sound, and the average inputs of a clip."""

    count: int
    sounding: int
    frames: int
    segments: int
    captions: float


def v100_flops() -> float:
    """Return operations per second of one V100 in the authors' log of MSR-VTT: about 1e13."""
    work = work_of("ViT-B-32")
    sample = (LOG_FRAMES + LOG_SEGMENTS) * work.image + work.text(LOG_WORDS)
    return 3.0 * sample * LOG_BATCH / LOG_STEP_SECONDS / LOG_GPUS


def flops(plan: Plan, run: Run, counts: Counts) -> float:
    """Return the operations of a run."""
    work = work_of(run.model.architecture)
    match run:
        case Pretrain():
            return _pretrain(plan, run, counts, work)
        case Substitute():
            return _substitute(plan, run, counts, work)
        case Finetune():
            return _finetune(plan, run, counts, work)
        case Evaluate():
            return _evaluate(plan, run, counts, work)


def clips_of(plan: Plan, run: Run, source: Source, counts: Counts) -> Clips:
    """Return the clips of a split as a run reads them."""
    _, dataset = plan.dataset_of(source.dataset)
    usual: Typical = typical(dataset.reader)
    count, sounding = counts.get((source.dataset, source.split), (0, 0))
    steps = usual.seconds * STEPS_PER_SECOND
    frames = min(run.inputs.max_frames, max(1, round(usual.seconds * run.cache.frames.fps)))
    segments = min(run.inputs.max_segments, -(-int(steps) // SEGMENT_STEPS))
    return Clips(count, sounding, frames, segments, usual.captions)


def _pretrain(plan: Plan, run: Pretrain, counts: Counts, work: Work) -> float:
    """Count equal parts of all sources: an epoch has as many clips of each as the smallest one."""
    sources = [clips_of(plan, run, source, counts) for source in run.sources]
    least = min(clips.sounding for clips in sources)
    learns = run.trainable == "all"
    views = 2 if run.objective.intra else 1
    total = 0.0
    for clips in sources:
        audio = 3.0 * views * clips.segments * work.image
        clip = clips.frames * work.image + work.text(run.inputs.max_words)
        if not run.objective.inter:
            clip = 0.0
        total += least * run.optimiser.epochs * (audio + (3.0 * clip if learns else 0.0))
        total += 0.0 if learns else clips.sounding * clip  # frozen: computed once
    return total


def _finetune(plan: Plan, run: Finetune, counts: Counts, work: Work) -> float:
    clips = clips_of(plan, run, run.train, counts)
    count = clips.sounding if run.missing_audio == "filter" else clips.count
    seen = _encoded(run, clips, work)
    if run.task == "classification":
        return count * seen  # the towers are frozen: their features are computed once
    text = work.text(_words(run))
    others = min(run.optimiser.batch_size, count * clips.captions)
    sample = 3.0 * (seen + text + _head(run, clips, work, others))
    return count * clips.captions * run.optimiser.epochs * sample


def _head(run: Finetune | Evaluate, clips: Clips, work: Work, others: float) -> float:
    """Return the operations above the towers, for one text and its clip among `others` clips."""
    seen = clips.frames * ("vision" in run.modalities) + clips.segments * (
        "audio" in run.modalities
    )
    words, layers = _words(run), run.model.joint_layers
    if run.task == "captioning":
        return work.joint(words + seen, layers) + CAPTION_WORDS * work.word
    if run.model.fusion in POOLED:
        return 0.0
    if run.model.fusion in MIXING_FUSIONS:
        return work.joint(seen, layers)
    text = 1 if run.model.fusion == "tight" else words
    return others * work.joint(text + seen, layers)


def _words(run: Finetune | Evaluate) -> int:
    """Return the number of tokens of a text that the towers read."""
    return run.inputs.caption_steps if run.task == "captioning" else run.inputs.max_words


def _encoded(run: Finetune | Evaluate, clips: Clips, work: Work) -> float:
    """Return the operations of one clip in the towers of the run's modalities."""
    frames = clips.frames if "vision" in run.modalities else 0
    segments = clips.segments if "audio" in run.modalities else 0
    return (frames + segments) * work.image


def _substitute(plan: Plan, run: Substitute, counts: Counts, work: Work) -> float:
    """Return the cost of encoding the frames, or one caption, of donors and silent clips."""
    donors = clips_of(plan, run, run.donors, counts)
    queries = [clips_of(plan, run, source, counts) for source in run.queries]
    silent = sum(clips.count - clips.sounding for clips in queries)
    text = run.neighbours == "text"
    each = work.text(run.inputs.max_words) if text else donors.frames * work.image
    return (donors.sounding + silent) * each


def _evaluate(plan: Plan, run: Evaluate, counts: Counts, work: Work) -> float:
    clips = clips_of(plan, run, run.test, counts)
    count = clips.sounding if run.missing_audio == "filter" else clips.count
    total = count * _encoded(run, clips, work)
    if run.task == "captioning":
        beams = run.decoding.beams if run.decoding.method == "beam" else 1
        written = _head(run, clips, work, 1) + CAPTION_WORDS * work.word
        return total + count * beams * written
    if run.task == "retrieval":
        total += count * (work.text(run.inputs.max_words) + _head(run, clips, work, count))
    return total
