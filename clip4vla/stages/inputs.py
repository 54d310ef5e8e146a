"""Check of the user's files, open_clip tags and extras before the first job starts."""

from clip4vla.common.extras import absent, install
from clip4vla.config.plan import Plan
from clip4vla.config.run import Evaluate, Finetune
from clip4vla.datasets.ready import missing_files, unfrozen
from clip4vla.models.common.forms import unfit_weights
from clip4vla.stages.own_clips import own_problems
from clip4vla.stages.run_inputs import unfit_tags


def input_problems(plan: Plan) -> list[str]:
    """Return one line for each missing or unusable file of annotations, media and weights.

    Also for each unfit tag, and for each extra that is not installed.
    """
    files = [*missing_files(plan), *own_problems(plan), *unfit_weights(plan)]
    return [*files, *unfit_tags(plan), *missing_extras(plan)]


def missing_extras(plan: Plan) -> list[str]:
    """Return one line for each extra that the plan needs beside `workflow` and that is missing."""
    new = [plan.config.datasets[name] for name in unfrozen(plan).values()]
    tuned = [run for run in plan.runs.values() if isinstance(run, Finetune | Evaluate)]
    needed = {
        "fetch": any(dataset.source != "local" for dataset in new),
        "captions": any(run.task == "captioning" for run in tuned),
        "tracking": bool(plan.runs) and plan.config.tracking.sink == "live",
    }
    return [
        f"extra {extra}: {', '.join(modules)} not installed. Fix: {install(extra)}"
        for extra in needed
        if needed[extra] and (modules := absent(extra))
    ]
