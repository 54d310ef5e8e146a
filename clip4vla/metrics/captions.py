"""BLEU, METEOR, ROUGE-L and CIDEr of captions, as pycocoevalcap computes them (facts 8.4).

METEOR is a Java program that comes with pycocoevalcap. It is not run through pycocoevalcap's
wrapper, which needs a system Java and leaves it running after an error.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from clip4vla.common.errors import UserError
from clip4vla.config.metrics import WHITESPACE
from clip4vla.metrics.caption_intervals import caption_statistics
from clip4vla.metrics.caption_tokens import PACKAGE, Captions, ptb, retokenised, words
from clip4vla.metrics.intervals import Totals, intervals
from clip4vla.metrics.java import java
from clip4vla.metrics.ngrams import NgramCounts, NgramScores

METEOR = PACKAGE / "meteor" / "meteor-1.5.jar"
HEAP = "-Xmx1500m"
Groups = dict[str, list[str]]  # name of the group -> its clips
Meteor = Callable[[Captions, Captions], tuple[float, np.ndarray]]  # see `meteor`


@dataclass(frozen=True)
class CaptionScores:
    """Scores of groups of clips: metrics x 100, their intervals, and CIDEr x 100 of each clip."""

    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, list[float]]]
    cider: dict[str, dict[str, float]]

    def stated(self) -> dict[str, dict[str, dict]]:
        """Return the part of metrics.json for each group."""
        groups: dict[str, dict[str, dict]] = {
            name: {"metrics": metrics} for name, metrics in self.metrics.items()
        }
        for name, ends in self.intervals.items():
            groups[name]["intervals"] = ends
        return groups


def score_captions(
    hypotheses: dict[str, str], references: Captions, groups: Groups, with_meteor: bool = True
) -> dict[str, dict[str, float]]:
    """Return corpus scores x 100 of each group of clips: BLEU1..BLEU4, METEOR, ROUGE_L, CIDEr.

    hypotheses: one caption per clip; references: at least one for each of the same clips; an empty
    group has no scores. METEOR takes ten seconds and 1.5 GB to start, so training selects without
    it. Raises UserError for a clip that only one of them has, since N would be wrong.
    """
    _check_same(references, hypotheses, "a reference but no hypothesis")
    with caption_scorer(references, with_meteor, report=False) as score:
        return score(hypotheses, groups).metrics


@contextlib.contextmanager
def caption_scorer(
    references: Captions, with_meteor: bool = True, report: bool = True
) -> Iterator[Callable[[dict[str, str], Groups], CaptionScores]]:
    """Yield a function that scores (hypotheses, groups); METEOR keeps running between its calls.

    References are tokenised and counted once. Raises UserError for a clip of a group without a
    hypothesis, and for a hypothesis without a reference. `report`: adds intervals, and metrics in
    the released code's tokenisation, named such as `BLEU4_whitespace`.
    """
    if bare := [clip for clip, many in references.items() if not many]:
        raise UserError(f"clip {bare[0]}: no reference caption. Fix: correct its annotation")
    tokenised = ptb(references)
    released = retokenised(references) if report else {}
    counts, released_counts = NgramCounts(tokenised), NgramCounts(released)
    with meteor() if with_meteor else contextlib.nullcontext() as meteor_score:

        def score(hypotheses: dict[str, str], groups: Groups) -> CaptionScores:
            _check_same(hypotheses, references, "a hypothesis but no reference")
            for clips in groups.values():
                _check_same(clips, hypotheses, "to be scored, but without a hypothesis")
            spoken = ptb({clip: [caption] for clip, caption in hypotheses.items()})
            plain = {clip: [words(caption)] for clip, caption in hypotheses.items()}
            metrics: dict[str, dict[str, float]] = {}
            ends: dict[str, dict[str, list[float]]] = {}
            cider: dict[str, dict[str, float]] = {}
            for name, clips in groups.items():
                metrics[name], cider[name] = {}, {}
                if not clips:
                    continue
                gts, res = _of(tokenised, clips), _of(spoken, clips)
                metrics[name], found, sums = _scores(counts, gts, res, meteor_score)
                cider[name] = dict(zip(res, (100.0 * found.each_cider).tolist(), strict=True))
                if report:
                    ends[name] = intervals(caption_statistics(found, sums), len(res))
                    gts, res = _equally_many(_of(released, clips)), _of(plain, clips)
                    values, _, _ = _scores(released_counts, gts, res, meteor_score)
                    metrics[name] |= {f"{key}_{WHITESPACE}": value for key, value in values.items()}
            return CaptionScores(metrics, ends, cider)

        yield score


def statistics_of(references: Captions, *runs: dict[str, str]) -> list[dict[str, Totals]]:
    """Return the `caption_statistics` of each run's hypotheses, with clips sorted by id."""
    tokenised = ptb(references)
    counts = NgramCounts(tokenised)
    statistics = []
    with meteor() as meteor_score:
        for hypotheses in runs:
            spoken = ptb({clip: [caption] for clip, caption in hypotheses.items()})
            gts, res = _of(tokenised, list(hypotheses)), _of(spoken, list(hypotheses))
            sums = meteor_score(gts, res)[1]
            statistics.append(caption_statistics(counts.score(res), sums))
    return statistics


def _check_same(clips: Collection[str], others: Collection[str], problem: str) -> None:
    """Raise UserError with the problem of the clips that the others lack."""
    if missing := set(clips) - set(others):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"captions: clip {min(missing)}{more}: {problem}. Fix: score the same clips"
        )


def _of(captions: Captions, clips: list[str]) -> Captions:
    return {clip: captions[clip] for clip in sorted(clips)}


def _equally_many(references: Captions) -> Captions:
    """Cut every clip to the number of references of the clip with the fewest, as released."""
    least = min(map(len, references.values()))
    return {clip: many[:least] for clip, many in references.items()}


def _scores(
    counts: NgramCounts, gts: Captions, res: Captions, meteor_score: Meteor | None
) -> tuple[dict[str, float], NgramScores, np.ndarray | None]:
    """Return corpus scores x 100, those of n-grams in full, and METEOR's statistics of every clip.

    gts: the first references that are counted, of each clip equally many or all.
    """
    most = max(map(len, gts.values()))
    with ThreadPoolExecutor(1) as pool:  # METEOR has a process of its own
        pending = pool.submit(meteor_score, gts, res) if meteor_score else None
        found = counts.score(res, most)
        scores = {f"BLEU{n}": value for n, value in enumerate(found.bleu, start=1)}
        sums = None
        if pending:
            scores["METEOR"], sums = pending.result()
    scores |= {"ROUGE_L": found.rouge, "CIDEr": found.cider}
    return {name: 100.0 * float(value) for name, value in scores.items()}, found, sums


@contextlib.contextmanager
def meteor() -> Iterator[Meteor]:
    """Run METEOR, and yield a function of (references, hypotheses).

    It returns the corpus score in 0..1, and the statistics [C, 23] of each clip (`meteor_of`).
    """
    options = ["-", "-", "-stdio", "-l", "en", "-norm"]
    with java([HEAP, "-jar", str(METEOR), *options]) as running:

        def ask(line: str, about: str) -> str:
            try:
                running.stdin.write(line + "\n")
                running.stdin.flush()
            except BrokenPipeError:
                pass  # the answer below is empty, which raises
            answer = running.stdout.readline().strip()
            if not answer[:1].isdigit():
                raise running.failure("METEOR", f"without an answer {about}", answer)
            return answer

        def score(gts: Captions, res: Captions) -> tuple[float, np.ndarray]:
            # One line of statistics per clip; the score of their sum is the last line of EVAL.
            statistics = []
            for clip, (hypothesis,) in res.items():
                texts = [words(text.replace("|||", "")) for text in (*gts[clip], hypothesis)]
                statistics.append(ask(" ||| ".join(["SCORE", *texts]), f"on clip {clip}"))
            answer = ask(" ||| ".join(["EVAL", *statistics]), "on all clips together")
            for _ in statistics:
                answer = running.stdout.readline()
            return float(answer), np.array([line.split() for line in statistics], float)

        yield score
