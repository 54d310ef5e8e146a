"""Check of the user's files and open_clip tags before the first job starts."""

from clip4vla.config.plan import Plan
from clip4vla.datasets.ready import missing_files
from clip4vla.models.common.forms import unfit_weights
from clip4vla.stages.own_clips import own_problems
from clip4vla.stages.run_inputs import unfit_tags


def input_problems(plan: Plan) -> list[str]:
    """Return one line for each missing or unusable file of annotations, media and weights."""
    return [*missing_files(plan), *own_problems(plan), *unfit_weights(plan), *unfit_tags(plan)]
