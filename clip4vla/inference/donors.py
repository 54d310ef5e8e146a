"""Donors for silent clips: the nearest neighbour with sound in train (facts 10.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clip4vla.cache.clips import ClipCache
from clip4vla.checkpoints.initial_weights import initial_model, initial_weights_hash
from clip4vla.common.device import autocast, take
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_ids, write_json, write_text
from clip4vla.common.hardware import INLINE, ReadingHardware
from clip4vla.common.seeds import generator
from clip4vla.config.data import IMAGE_SIZE
from clip4vla.config.keys import run_key
from clip4vla.config.run import Source, Substitute
from clip4vla.inference.features import embed_clips, embed_texts
from clip4vla.inference.neighbours import nearest
from clip4vla.loading.loader import (
    DONOR_COLUMNS,
    Caches,
    Manifests,
    clip_items,
    pair_items,
    samples_of,
    split_rows,
)
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.pooling import pool, pool_plainly


def random_donor(clip_id: str, donors: list[str]) -> str:
    """Draw a donor for this clip; it depends on the clip and the list of donors alone."""
    return donors[generator("random donor", clip_id).integers(len(donors))]


def substitute(
    run: Substitute,
    manifests: Manifests,
    start: Path | None,
    weights: dict[str, Path],
    out: Path,
    hardware: ReadingHardware = INLINE,
) -> None:
    """Write substitution.tsv (all silent clips of the queries' splits) and substitute.json.

    Clips are compared by their frames: the mean of normalised frame features, masked or, as
    released, with padding counted in. Under `neighbours: text` they are compared by their longest
    captions, those of silent test clips too. Donors are clips of `run.donors` that have sound, in
    the order of their ids, of which the first wins a tie; held-out clips are never donors.

    UserError when no donor has sound, a held-out split of the queries shares clips with the donors'
    split, the queries are of several datasets, or a clip that is compared by captions has none.
    """
    (device, workers), caches = take(hardware), Caches(manifests)
    donor_cache = caches[run.donors]
    rows = split_rows(donor_cache, run.donors)
    rows = rows[~rows.clip_id.isin(donor_cache.silent)].sort_values("clip_id")
    if rows.empty:
        raise UserError(
            f"{run.donors.dataset}: no clip of split {run.donors.split!r} has sound, so that "
            "none can be a donor. Fix: choose another donor_split"
        )
    for source in run.queries:
        _keep_apart(source, split_rows(caches[source], source), rows, run.donors)
    silent = {source.split: _silent_rows(caches[source], source) for source in run.queries}
    versions = {source.dataset for source in run.queries}
    if len(versions) > 1:
        raise UserError(
            f"substitute: queries of several datasets: {', '.join(sorted(versions))}. Fix: run "
            "it for each of them"
        )
    queries = pd.concat(silent.values()).drop_duplicates("clip_id").sort_values("clip_id")
    model = initial_model(run.model, run.inputs, start, weights).to(device)
    vectors = _Vectors(run=run, model=model, caches=caches, device=device, workers=workers)
    lent = vectors.of(run.donors, rows)
    asked = vectors.of(run.queries[0], queries) if len(queries) else lent[:0]
    index, cosine = nearest(asked, lent)
    ids = rows.clip_id.tolist()
    lines = ["\t".join(DONOR_COLUMNS)]
    for clip_id, i, value in zip(queries.clip_id, index, cosine, strict=True):
        lines.append(f"{clip_id}\t{ids[i]}\t{value:.6f}\t{random_donor(clip_id, ids)}")
    write_text(out / "substitution.tsv", "\n".join(lines) + "\n")
    summary = {
        "run_key": run_key(run),
        "neighbours": run.neighbours,
        "reads_test_captions": run.neighbours == "text",
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
        "checkpoint": {"run_key": run.start, "sha256": initial_weights_hash(start)},
    }
    write_json(out / "substitute.json", summary)


@dataclass(frozen=True)
class _Vectors:
    """Unit vectors of clips, in the space in which neighbours are looked for."""

    run: Substitute
    model: ClipModel
    caches: Caches
    device: torch.device
    workers: int

    def of(self, source: Source, rows: pd.DataFrame) -> np.ndarray:
        """Return float32 [N, D], one vector for each of the rows."""
        by = self._by_captions if self.run.neighbours == "text" else self._by_frames
        return by(source, rows).numpy()

    def _by_captions(self, source: Source, rows: pd.DataFrame) -> Tensor:
        """Embed each clip's longest caption; of equally long ones the first."""
        pair_items(rows, source.dataset)  # each clip has a caption
        longest = [max(captions, key=len) for captions in rows.captions]
        return embed_texts(self.model, longest, self.run.inputs.max_words, self.device)

    def _by_frames(self, source: Source, rows: pd.DataFrame) -> Tensor:
        samples = samples_of(
            self.caches[source],
            clip_items(rows),
            source,
            self.run.inputs,
            modalities=["vision"],
            policy="none",
        )
        found = embed_clips(
            self.model, samples, ["vision"], self.device, self.workers, reduce=self._mean()
        )
        return found.vectors["vision"]

    def _mean(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the function from frame features [B, F, D] and their mask to one vector a clip."""
        if self.run.mean == "masked":
            return pool
        size = 1, 1, 3, IMAGE_SIZE, IMAGE_SIZE
        frames = torch.zeros(size, device=self.device)  # empty, as padding is
        filled = frames.new_ones(1, 1).bool()
        batch = {"frames": frames, "frame_mask": filled, "audio_mask": ~filled}
        with torch.no_grad(), autocast(self.device, self.model.eval()):
            encoded = self.model.whole(self.model.encode_clips(batch, ["vision"]))
        blank = encoded["vision"].features[0, 0]
        return partial(pool_plainly, blank=blank, slots=self.run.inputs.max_frames)


def _keep_apart(source: Source, asked: pd.DataFrame, donors: pd.DataFrame, lent_by: Source) -> None:
    """Raise UserError if a held-out clip could lend its sound: donors are of train alone.

    Splits of training are named so; one may hold another (train_9k and train_ours).
    """
    if source.split == lent_by.split or "train" in source.split:
        return
    shared = sorted(set(asked.clip_id) & set(donors.clip_id))
    if shared:
        raise UserError(
            f"{source.dataset}: {len(shared)} clips of split {source.split!r} are in "
            f"{lent_by.split!r} too, such as {shared[0]}: they would lend their sound. Fix: "
            "set donor_split to the split that is trained on"
        )


def _silent_rows(cache: ClipCache, source: Source) -> pd.DataFrame:
    rows = split_rows(cache, source)
    return rows[rows.clip_id.isin(cache.silent)]
