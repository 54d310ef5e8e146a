"""Format of metrics.json, the file that every evaluation writes about its numbers."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.config.layout import remake
from clip4vla.config.sections import Query, TaskName
from clip4vla.tracking.recorded import check_recorded

Interval = tuple[float, float]


class Stated(BaseModel):
    """A part of the file. Every field is required; a task may add more."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class CoverageCounts(Stated):
    """Clips of the split: declared in the config, planned, usable, silent, scored."""

    expected: int | None = Field(description="clips of the official list; null: none declared")
    planned: int
    usable: int
    silent: int
    scored: int = Field(description="in the gallery that predictions.parquet is of")
    captions_per_clip: int | None = Field(description="of the protocol; null: none or any number")


class GalleryScores(Stated):
    """One set of clips and the numbers on it."""

    protocol: str = Field(description="such as 1k-A, and 1k-A-sound for its clips with sound")
    n_queries: int
    n_gallery: int
    ids_sha256: str = Field(description="sha256 of the sorted clip ids, one per line")
    same_video: int | None = Field(
        None, description="clips cut from the same video as another one of them; null: not counted"
    )
    metrics: dict[str, float] = Field(description="percent; ranks in clips or captions")
    intervals: dict[str, Interval] = Field({}, description="[low, high] of metrics")
    bounds: dict[str, Interval] = Field(
        {}, description="[all ties lost, all ties won] of metrics in which these differ"
    )
    extras: dict[str, dict[str, float]] = Field(
        {}, description="other rules on the same similarities; never compared with the paper"
    )


class Varied(Stated):
    """Scores of the same checkpoint and clips with other audio."""

    missing_audio: str = Field(description="policy for silent clips")
    protocol: str = Field(description="of the main gallery")
    scored: int = Field(description="clips in the main gallery")
    galleries: dict[str, GalleryScores]


class TrainedOn(Stated):
    """A split that a model was trained on."""

    dataset: str = Field(description="dataset version")
    reader: str
    split: str
    usable: int = Field(description="clips that could be decoded")
    clips: int = Field(description="clips in batches: without silent and held-out ones")
    expected: int | None = Field(description="clips that the config declares; null: none declared")
    tolerance: float | None = Field(description="share of them that may be missing")


class Training(Stated):
    """A run that trained the model."""

    stage: Literal["pretrain", "finetune"]
    run_key: str
    clips: list[TrainedOn]


class MadeWith(Stated):
    """The model behind the numbers: its towers, initial weights and trainings."""

    reader: str = Field(description="of the dataset that was scored")
    architecture: str
    activation: str | None
    weights: str | None = Field(description="name of the initial ones in the config; null: random")
    weights_sha256: str | None
    published: str | None = Field(description="publisher of the file, by its sha256; null: unknown")
    imported: bool = Field(description="initialised from a CLIP4VLA, not from CLIP alone")
    trainings: list[Training] = Field(description="oldest first")


class Metrics(Stated):
    """Contents of metrics.json."""

    run_key: str
    task: TaskName
    query: Query | None = Field("text", description="of retrieval; null: of another task")
    dataset: str
    data_version: str
    manifest_sha256: str
    split: str
    protocol: str = Field(description="of the main gallery")
    gallery: str = Field(description="the main gallery, of which predictions.parquet is")
    missing_audio: str = Field(description="policy for silent clips")
    selection: str | None = Field(description="which checkpoint; null: nothing was trained")
    rescored: int | None = Field(
        None, description="of retrieval: candidates that pairs scored again; null: none"
    )
    tie_rule: str | None = Field(description="rank of equals; null: nothing is ranked")
    interval_rule: str
    coverage: CoverageCounts
    galleries: dict[str, GalleryScores]
    variants: dict[str, Varied] = Field({}, description="by name, where the run has some")
    made_with: MadeWith | None = Field(None, description="null: by a version that recorded none")


def read_run_metrics(folder: Path, key: str | None) -> tuple[Metrics, bool]:
    """Read the metrics.json of a run, and return whether record.json confirms its sha256.

    key: of the run, None: any. Raises UserError where it is another run's or its sha256 differs.
    """
    path = folder / "metrics.json"
    metrics = read_metrics(path)
    if key is not None:
        check_key(path, metrics, key)
    return metrics, check_recorded(path, key)


def check_key(path: Path, metrics: Metrics, key: str) -> None:
    """Raise UserError where the metrics.json in the folder of a run is another run's."""
    if metrics.run_key != key:
        raise UserError(f"{path}: is of run {metrics.run_key}, not of {key}. Fix: {remake(path)}")


def read_metrics(path: str | Path) -> Metrics:
    """Read and check a metrics.json. Raises UserError with file, field and remedy."""
    path = Path(path)
    try:
        return Metrics.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"{path}: not the metrics of an evaluation of this version ({problem}). Fix: "
            f"{remake(path)}"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). Fix: {remake(path)}") from None
