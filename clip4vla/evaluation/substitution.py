"""Donors for silent clips: the nearest vision neighbour with sound in train (facts 10.2)."""

from pathlib import Path

import numpy as np
import pandas as pd

from clip4vla.config.keys import run_key
from clip4vla.config.run import Substitute
from clip4vla.errors import UserError
from clip4vla.evaluation.device import pick_device, set_threads
from clip4vla.evaluation.features import embed_clips
from clip4vla.evaluation.neighbours import nearest
from clip4vla.evaluation.reading import Caches, Manifests, clip_items, samples_of, split_rows
from clip4vla.evaluation.start import start_hash, starting_model
from clip4vla.features.seeds import generator
from clip4vla.files import sha256_of_ids, write_json, write_text

COLUMNS = ["clip_id", "donor", "cosine", "random_donor"]


def random_donor(clip_id: str, donors: list[str]) -> str:
    """A donor drawn for this clip: it depends on the clip and the list of donors alone."""
    return donors[generator("random donor", clip_id).integers(len(donors))]


def substitute(
    run: Substitute,
    manifests: Manifests,
    start: Path | None,
    weights: dict[str, Path],
    out: Path,
    workers: int = 1,
) -> None:
    """Write substitution.tsv (all silent clips of the queries' splits) and substitute.json.

    Features are pooled frames: the masked mean of normalised frame features (the released code's
    mean counts padding). Donors are clips of `run.donors` that have sound, in the order of their
    ids, of which the first wins a tie; a clip that is held out is none.

    UserError when no donor has sound, a held-out split of the queries shares clips with the donors'
    split, or the queries are of several datasets.
    """
    set_threads(workers)
    device, caches = pick_device(), Caches(manifests)
    donor_cache = caches[run.donors]
    rows = split_rows(donor_cache, run.donors)
    rows = rows[~rows.clip_id.isin(donor_cache.silent)].sort_values("clip_id")
    if rows.empty:
        raise UserError(
            f"{run.donors.dataset}: no clip of split {run.donors.split!r} has sound: nobody can be "
            "a donor"
        )
    for source in run.queries:
        _keep_apart(source, split_rows(caches[source], source), rows, run.donors)
    silent = {source.split: _silent_rows(caches[source], source) for source in run.queries}
    versions = {source.dataset for source in run.queries}
    if len(versions) > 1:
        raise UserError(f"substitute: queries of several datasets: {', '.join(sorted(versions))}")
    queries = pd.concat(silent.values()).drop_duplicates("clip_id").sort_values("clip_id")
    model = starting_model(run.model, run.inputs, start, weights).to(device)

    def embed(source, rows) -> np.ndarray:
        if rows.empty:
            return np.zeros((0, model.sizes.embed_dim), dtype=np.float32)
        given = clip_items(rows), source, run.inputs, ["vision"], "none"
        samples = samples_of(caches[source], *given)
        return embed_clips(model, samples, ["vision"], device, workers).vision.numpy()

    index, cosine = nearest(embed(run.queries[0], queries), embed(run.donors, rows))
    ids = rows.clip_id.tolist()
    lines = ["\t".join(COLUMNS)]
    for clip_id, i, value in zip(queries.clip_id, index, cosine, strict=True):
        lines.append(f"{clip_id}\t{ids[i]}\t{value:.6f}\t{random_donor(clip_id, ids)}")
    write_text(out / "substitution.tsv", "\n".join(lines) + "\n")
    summary = {
        "run_key": run_key(run),
        "queries": {split: len(found) for split, found in silent.items()},
        "silent": len(queries),
        "silent_ids_sha256": sha256_of_ids(queries.clip_id),
        "donors_dataset": run.donors.dataset,
        "donors_split": run.donors.split,
        "donors": len(ids),
        "donors_ids_sha256": sha256_of_ids(ids),
        "donors_used": len(set(index.tolist())),
        "mean_cosine": round(float(cosine.mean()), 6) if len(cosine) else None,
        "manifests": caches.hashes(),
        "checkpoint": {"run_key": run.start, "sha256": start_hash(start)},
    }
    write_json(out / "substitute.json", summary)


def _keep_apart(source, asked: pd.DataFrame, donors: pd.DataFrame, lent_by) -> None:
    """UserError when a clip of a held-out split could lend its sound: donors are of train alone.

    Splits of training are named so; one may hold another (train_9k and train_ours).
    """
    if source.split == lent_by.split or "train" in source.split:
        return
    shared = sorted(set(asked.clip_id) & set(donors.clip_id))
    if shared:
        raise UserError(
            f"{source.dataset}: {len(shared)} clips of split {source.split!r} are in "
            f"{lent_by.split!r} too, such as {shared[0]}: they would lend their sound; set "
            "donor_split to the split that is trained on"
        )


def _silent_rows(cache, source) -> pd.DataFrame:
    rows = split_rows(cache, source)
    return rows[rows.clip_id.isin(cache.silent)]
