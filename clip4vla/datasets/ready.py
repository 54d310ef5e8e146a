"""Find missing annotations, media and weights before the first job starts."""

from pathlib import Path

from clip4vla.common.packaged import see
from clip4vla.config import layout
from clip4vla.config.plan import Plan

NOT_HELD_OUT = " (pre-training then sees its `held_out` and is another run)"


def unfrozen(plan: Plan) -> dict[str, str]:
    """Return the dataset versions of a plan that lack a manifest, with the names of datasets."""
    lacking = {
        version
        for version, cache_id in plan.caches
        if not Path(layout.manifest(version, cache_id)).is_file()
    }
    return {version: plan.versions[version] for version in sorted(lacking & plan.versions.keys())}


def missing_files(plan: Plan) -> list[str]:
    """Return one line per dataset without annotations or media, and per missing file of weights.

    Datasets that are already frozen need neither. Only the existence of files is checked here;
    their contents are checked by the first rule of a dataset, `plan_dataset`.
    """
    problems = []
    for version, name in unfrozen(plan).items():
        dataset = plan.config.datasets[name]
        lacking = []
        if not dataset.annotations.exists():
            lacking.append(f"its annotations in {dataset.annotations}")
        if dataset.source == "local" and (dataset.media is None or not dataset.media.is_dir()):
            lacking.append(f"its media in {dataset.media or f'datasets.{name}.media (not set)'}")
        if lacking:
            problems.append(
                f"{name}: {' and '.join(lacking)} missing. Fix: put them there{see('data.md')}, "
                f"or set datasets.{name}.enabled: false"
                + (NOT_HELD_OUT if version in plan.listed else "")
            )
    for version, name in sorted(plan.listed.items()):
        folder = plan.config.datasets[name].annotations
        planned = all(Path(layout.data_dir(version), table).is_file() for table in layout.LISTS)
        if version not in plan.versions and not planned and not folder.exists():
            problems.append(
                f"{name}: its annotations in {folder} missing, which name the videos that "
                f"pre-training must not see. Fix: put them there{see('data.md')}, set "
                f"datasets.{name}.enabled: false"
                f"{NOT_HELD_OUT}, or recipe.pretrain.leaks: keep"
            )
    for name in sorted({name for run in plan.runs.values() for name in plan.weights_of(run)}):
        path = plan.config.weights[name].path  # None: open_clip fetches it on first use
        if path is not None and not path.exists():
            problems.append(f"weights {name}: {path}: missing. Fix: put it there{see('data.md')}")
    return problems
