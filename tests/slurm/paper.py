"""The whole paper in miniature: the repository as a user has it, on a few clips of every dataset."""

import re
import shutil
import sys
from pathlib import Path

from small import REPO, Small

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))

import miniatures

from clip4vla.config.data import Dataset
from clip4vla.datasets.plan import plan as plan_clips

# Sounds are shuffled and swapped among test clips, one of which is silent: so there are four.
MORE = {"msrvtt": {"tested": 4}, "vatex": {"tested": 4}}
SILENT = {"video13.mp4", "b-_00000005"}  # starts of media files
SMALLER = (  # what a user edits in tables and config for a run of minutes: one seed, one epoch, 4 clips
    (r"seeds: \[0, 1, 2\]", "seeds: [0]"),
    (r"epochs: \d+", "epochs: 1"),
    (r"average_epochs: \[\d+, \d+\]", "average_epochs: [1, 1]"),
    (r"batch_size: \d+", "batch_size: 4"),
)
MINE = """
recipe:
  model: {architecture: tiny, weights: null, joint_layers: 1}
  inputs: {max_frames: 2}
  pretrain.inputs.max_frames: 2
bases.coavt:
  model: {architecture: tiny, weights: null, text_weights: null, tokenizer: clip, queries: 4}
  inputs: {max_frames: 1, segment_steps: 64}
  pretrain.inputs: {max_frames: 1, segment_steps: 64}
datasets:
"""


class Paper(Small):
    """A clone of the repository, its tables made smaller, and `mine.yaml`, which names the data."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("workflow", "rules", "envs", "profiles", "experiments"):
            shutil.copytree(REPO / name, folder / name)
        shutil.copy(REPO / "config.yaml", folder)
        for path in (*(folder / "experiments").glob("*.yaml"), folder / "config.yaml"):
            text = path.read_text()
            for pattern, smaller in SMALLER:
                text = re.sub(pattern, smaller, text)
            path.write_text(text)
        lines = [MINE]
        readers = {name: name for name in miniatures.WRITE if name != "demo"}
        for name, reader in (readers | {"audioset_20k": "audioset"}).items():
            notes, media = folder / "data" / "annotations" / name, folder / "data" / "media" / name
            notes.mkdir(parents=True)
            miniatures.WRITE[reader](notes, **MORE.get(name, {}))
            clips, _ = plan_clips(name, Dataset(reader=reader, annotations=notes, media=media))
            seconds = 26.0 if name == "howto100m" else 2.0  # its clips are cut from whole videos
            miniatures.write_media(media, clips.file, seconds, silent=SILENT)
            places = f"annotations: {notes.relative_to(folder)}, media: {media.relative_to(folder)}"
            lines.append(f"  {name}: {{{places}, shards: 1, min_coverage: 0.9}}\n")
        (folder / "mine.yaml").write_text("".join(lines))
