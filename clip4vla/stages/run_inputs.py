"""Files that a run reads, each checked before the run starts: manifests, weights, donors, leaks."""

from pathlib import Path
from typing import TYPE_CHECKING

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_files
from clip4vla.common.log import log
from clip4vla.config import layout
from clip4vla.config.plan import WEIGHTS, Plan
from clip4vla.config.run import Pretrain, Run, sources_of
from clip4vla.tracking.recorded import check_recorded, warn_unverified

if TYPE_CHECKING:
    from clip4vla.datasets.leaks import Leaks


def manifests_of(run: Run) -> dict[tuple[str, str], Path]:
    """Return the frozen manifests that a run reads, by dataset version and cache, after checks."""
    from clip4vla.cache.manifest import check_frozen

    pairs = {(source.dataset, source.cache_id) for source in sources_of(run)}
    manifests = {
        (version, cache_id): Path(layout.manifest(version, cache_id))
        for version, cache_id in sorted(pairs)
    }
    for (version, cache_id), path in manifests.items():
        if not path.is_file():
            command = layout.command_for("data")
            raise UserError(f"{path}: {version} is not frozen yet. Fix: run {command}")
        if not check_frozen(path) and not check_recorded(path, f"{version}/{cache_id}"):
            warn_unverified(path)
    return manifests


def weights_of(plan: Plan, run: Run) -> dict[str, Path]:
    """Return the named weights that a run reads, after checking their sha256 in the config."""
    from clip4vla.models.common.published import unverified_warning

    found = {}
    for name in plan.weights_of(run):
        path, expected = _weight_file(plan, name, run), plan.config.weights[name].sha256
        sha256 = sha256_of_files([path])
        if expected not in (None, sha256):
            raise UserError(
                f"{path}: sha256 is {sha256}, but weights.{name}.sha256 says {expected}. Fix: "
                "fetch the file again, or correct the config"
            )
        if warning := unverified_warning(path, sha256):
            log.warning(warning)
        found[name] = path
    return found


def _weight_file(plan: Plan, name: str, run: Run) -> Path:
    """Return the file of named weights; an open_clip tag is downloaded first if needed."""
    from clip4vla.models.common.published import tag_file

    item = plan.config.weights[name]
    if item.open_clip is not None:
        _check_tag(name, item.open_clip, run)
        return tag_file(f"weights.{name}.open_clip", item.open_clip)
    assert item.path is not None, "a config names a file or a tag"
    if not item.path.exists():
        raise UserError(f"{item.path}: weights {name} are missing. Fix: put the file there")
    return item.path


def unfit_tags(plan: Plan) -> list[str]:
    """Return a line for each open_clip tag that is unknown or does not fit a run's model."""
    problems = []
    for run in plan.runs.values():
        for name in plan.weights_of(run):
            if (tagged := plan.config.weights[name].open_clip) is None:
                continue
            try:
                _check_tag(name, tagged, run)
            except UserError as error:
                problems.append(str(error))
    return list(dict.fromkeys(problems))


def _check_tag(name: str, tagged: str, run: Run) -> None:
    from clip4vla.models.family import family_of

    where = f"weights.{name}.open_clip"
    if run.start is not None:
        raise UserError(
            f"{where}: {tagged} is CLIP alone, but `from` needs a whole model. Fix: name it in "
            "model.weights instead"
        )
    family_of(run.model.family).check_tag(where, tagged, run.model)


def start_of(plan: Plan, run: Run) -> Path | None:
    """Return the weights that a run is initialised from; None: CLIP itself."""
    if run.start is None:
        return None
    if run.start.startswith(WEIGHTS):
        return _weight_file(plan, run.start.removeprefix(WEIGHTS), run)
    path = Path(layout.result_dir(run.start), "model.safetensors")
    if not path.is_file():
        raise UserError(f"{path}: missing. Fix: run `clip4vla train {run.start}`")
    return _recorded(path, run.start)


def leaks_of(run: Pretrain) -> "Leaks | None":
    """Return the clips that pre-training leaves out; None without `held_out`."""
    from clip4vla.datasets.leaks import find_leaks

    if not run.held_out:
        return None
    versions = [source.dataset for source in run.sources]
    return find_leaks(run.held_out, versions, layout.data_dir)


def donors_of(key: str | None) -> Path | None:
    """Return the path of the donors of a substitution. key: of its run."""
    if key is None:
        return None
    path = Path(layout.result_dir(key), "substitution.tsv")
    if not path.is_file():
        raise UserError(f"{path}: missing. Fix: run `clip4vla substitute {key}`")
    return _recorded(path, key)


def _recorded(path: Path, key: str) -> Path:
    """Return an output of another run. UserError when it has changed since that run."""
    if not check_recorded(path, key):
        warn_unverified(path)
    return path
