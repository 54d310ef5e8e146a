"""The model behind an evaluation: its towers, their initial weights, all training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.common.log import log
from clip4vla.config import layout
from clip4vla.config.plan import WEIGHTS, Plan
from clip4vla.config.run import Evaluate, Pretrain, Run
from clip4vla.tracking.recorded import check_recorded


def made_with(plan: Plan, run: Evaluate, first_weights: str | None) -> dict[str, Any]:
    """Return the description of the scored model for metrics.json (docs/formats.md).

    first_weights: sha256 of the file that the evaluation itself reads under a name of the config's
    `weights`, if any. For a trained model, the train.json of its first training has it. Raises
    UserError when the train.json of a training is missing, damaged, changed or another run's.
    """
    from clip4vla.models.common.published import published_as

    keys = _trainings(plan, run)
    trainings = {key: _training(plan, key) for key in keys}
    first = plan.runs[keys[0]] if keys else run
    names = plan.weights_of(first)
    sha256 = trainings[keys[0]].first_weights if keys else first_weights
    published = None
    if sha256 and len(names) == 1:
        published = published_as(sha256, plan.config.weights[names[0]])
    return {
        "reader": plan.dataset_of(run.test.dataset)[1].reader,
        **run.model.described(),
        "weights": ", ".join(names) or None,
        "weights_sha256": sha256 if names else None,
        "published": published,
        "imported": bool(names and first.start),
        "trainings": [
            {
                "stage": plan.runs[key].stage,
                "run_key": key,
                "clips": training.clips,
            }
            for key, training in trainings.items()
        ],
    }


def seen_in_pretraining(plan: Plan, run: Evaluate) -> frozenset[str] | None:
    """Return the clips of the scored split whose videos the model's pre-training has read.

    None: it was not pre-trained here, or a list is missing or damaged. In the workflow the lists
    are no inputs of an evaluation, so that a finished one stays up to date.
    """
    from clip4vla.datasets.leaks import clips_seen

    trainings = [plan.runs[key] for key in _trainings(plan, run)]
    runs = [training for training in trainings if isinstance(training, Pretrain)]
    if not runs:
        return None
    try:
        return clips_seen(runs, run.test, layout.data_dir)
    except UserError as error:
        log.warning(f"it is unknown which scored clips pre-training has seen: {error}")
        return None


def _trainings(plan: Plan, run: Evaluate) -> list[str]:
    """Return the run keys of the trainings behind an evaluation, oldest first."""
    keys: list[str] = []
    link: Run = run
    while link.start is not None and not link.start.startswith(WEIGHTS):
        keys.append(link.start)
        link = plan.runs[link.start]
    return keys[::-1]


@dataclass(frozen=True)
class _Training:
    first_weights: str | None  # sha256 of the file that it started from
    clips: list[dict[str, Any]]


def _training(plan: Plan, key: str) -> _Training:
    path = Path(layout.result_dir(key), "train.json")
    if not path.is_file():
        raise UserError(f"{path}: missing. Fix: {layout.remake(path)}")
    check_recorded(path, key)
    try:
        summary = read_json(path)
        return _Training(
            first_weights=summary["parent"]["sha256"],
            clips=[_clips(plan, facts) for facts in summary["data"]["train"]],
        )
    except (ValueError, KeyError, TypeError):
        fix = layout.remake(path)
        raise UserError(f"{path}: damaged, or of an older version. Fix: {fix}") from None


def _clips(plan: Plan, facts: dict[str, Any]) -> dict[str, Any]:
    """Return how many clips of a split were trained on, and how many the config declares."""
    _, dataset = plan.dataset_of(facts["dataset"])
    declared = dataset.expected.get(facts["split"])
    return {
        **{name: facts[name] for name in ("dataset", "split", "usable", "clips")},
        "reader": dataset.reader,
        "expected": declared and declared.clips,
        "tolerance": declared and declared.tolerance,
    }
