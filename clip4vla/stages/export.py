"""`clip4vla checkpoint export`: a folder with weights, config and card, as the Hub expects it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip4vla.checkpoints.hub import CARD, CONFIG, WEIGHTS, source_of
from clip4vla.checkpoints.upload import RUN
from clip4vla.common.errors import UserError
from clip4vla.common.files import json_text, read_json, sha256_of_file, whole_files
from clip4vla.config import layout
from clip4vla.config.plan import TRAINED, Plan
from clip4vla.tracking.recorded import check_recorded

if TYPE_CHECKING:
    from clip4vla.results.metrics_file import Metrics

Tell = Callable[[str], None]  # called with each line of the report
NAMES = {"ours": WEIGHTS, "released": "pytorch_model.bin"}  # file of weights by names of tensors


def export(
    source: str,
    out: Path,
    names: str,
    metrics: list[Path],
    licence: str | None,
    tell: Tell,
    known: Callable[[], Plan],
) -> None:
    """Write the weights, config.json and a model card of a run (by its key) or of a file of ours.

    names: `ours`, a safetensors file; `released`, a state dict that the released code loads.
    known: makes the plan, called only when a run has no weights, to say why.

    All inputs are read and the card is made before anything is written, and an error leaves the
    folder as it was. Raises UserError for an input that cannot be read, for tensors without
    released names, and for a folder with other files that is not an earlier export.
    """
    from clip4vla.checkpoints.checkpoint import read_checkpoint, write_checkpoint
    from clip4vla.models.common.tensor_files import save_torch, tensors_of
    from clip4vla.models.family import family_of
    from clip4vla.results.metrics_file import read_metrics
    from clip4vla.stages.model_card import SHA256, model_card

    path = _file_of(source, known)
    sha256 = sha256_of_file(path)
    checkpoint = read_checkpoint(path)
    scores = [read_metrics(file) for file in metrics] or _scores(sha256, tell)
    in_place = path.parent.resolve() == out.resolve()
    run = None if in_place else _run_config(path, tell)
    _check_free(out, path)
    weights = out / NAMES[names]
    files = [out / CONFIG, weights, *([out / RUN] if run is not None else []), out / CARD]
    tensors = tensors_of(checkpoint.model)
    if names == "released":
        tensors = family_of(checkpoint.settings.model.family).released_names(tensors)
    text = model_card(
        checkpoint.metadata,
        names=names,
        file=weights.name,
        parameters=sum(p.numel() for p in checkpoint.model.parameters()),
        scores=scores,
        licence=licence,
        run=run,
    )
    with whole_files(files) as (new_config, new_weights, *new_run, new_card):
        new_config.write_text(json_text(checkpoint.metadata), encoding="utf-8")
        if names == "released":
            save_torch(new_weights, tensors)
        else:
            written = set(type(checkpoint.settings).model_fields) | {"format"}
            origin = {k: v for k, v in checkpoint.metadata.items() if k not in written}
            write_checkpoint(new_weights, checkpoint.model, checkpoint.settings, origin)
        for file in new_run:
            file.write_text(json_text(run), encoding="utf-8")
        text = text.replace(SHA256, sha256_of_file(new_weights), 1)
        new_card.write_text(text, encoding="utf-8")
    for stale in () if in_place else {*NAMES.values(), RUN} - {file.name for file in files}:
        (out / stale).unlink(missing_ok=True)  # of an earlier export
    for file in files:
        tell(f"written: {file}")
    if licence is None:
        tell("the card states no licence, which `push --public` needs: pass --license")


def _check_free(out: Path, source: Path) -> None:
    """Raise UserError for a folder with other files than the source, unless it is an export."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: a file. Fix: name a new folder")
    visible = sorted(file for file in out.glob("*") if file.name[0] != ".")
    others = [file for file in visible if not (file.exists() and file.samefile(source))]
    if others and not _is_export(out):
        raise UserError(
            f"{others[0]}: exists, and is not from an earlier export. Fix: give a new folder, or "
            "move it away"
        )


def _is_export(folder: Path) -> bool:
    from clip4vla.models.common.metadata import read_settings

    config, card = folder / CONFIG, folder / CARD
    try:
        read_settings(config, dict(read_json(config)))
        return not card.exists() or "library_name: clip4vla" in card.read_text(encoding="utf-8")
    except (FileNotFoundError, ValueError, TypeError):  # missing, not JSON or not ours
        return False


def _run_config(path: Path, tell: Tell) -> Any:
    """Read the run's config beside its weights, or in an export; None if the file is missing."""
    config = path.parent / (RUN if _is_export(path.parent) else CONFIG)
    try:
        return read_json(config) if config.is_file() else None
    except ValueError as error:
        tell(f"warning: {config}: not JSON ({error}): left out")
        return None


def _file_of(source: str, known: Callable[[], Plan]) -> Path:
    """Return the weights of a run by its key, the file of that name, or that of an address."""
    if layout.RUN_KEY.fullmatch(source):
        path = Path(layout.result_dir(source), WEIGHTS)
        if not path.is_file():
            run = known().run(source)  # an unknown key is refused
            if run.stage not in TRAINED:
                raise UserError(
                    f"run {source}: its stage is {run.stage}, which makes no weights. Fix: choose "
                    "a training (`clip4vla runs ls` names them)"
                )
            raise UserError(f"{path}: missing. Fix: run `clip4vla train {source}`")
        check_recorded(path, source)
        return path
    return source_of(source).path


def _scores(sha256: str, tell: Tell) -> list["Metrics"]:
    """Return the metrics of every finished evaluation of a file of weights, sorted by run key.

    A metrics file that cannot be read is left out with a warning.
    """
    from clip4vla.results.metrics_file import read_run_metrics

    scores = []
    for file in sorted(Path(layout.result_dir("x")).parent.glob("*/metrics.json")):
        try:
            metrics, _ = read_run_metrics(file.parent, file.parent.name)
        except UserError as error:
            tell(f"warning: {error}: left out")
            continue
        scored = (metrics.model_extra or {}).get("checkpoint") or {}
        if scored.get("sha256") == sha256:
            scores.append(metrics)
    return scores
