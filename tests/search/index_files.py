"""Small indexes of demo clips that the tests of searching share."""

import shutil

from embed_files import DEMO

from clip4vla.checkpoints.checkpoint import write_checkpoint
from clip4vla.config.settings import Settings
from clip4vla.models.family import family_of
from clip4vla.search.build import build
from clip4vla.search.index import Index
from clip4vla.search.options import IndexHardware, IndexOptions

HARDWARE = IndexHardware(device="cpu")
CLIPS = {  # path in the folder -> demo clip; ten seconds each
    "dog.mp4": "say_dog",
    'more/it\'s [a] "ünï"\n%20.mp4': "bbb_040",
    "-no sound.mp4": "bbb_030",
}


def write_coavt(path):
    settings = Settings(
        model={"family": "coavt", "architecture": "tiny"},
        inputs={"max_frames": 2, "max_segments": 1, "segment_steps": 64, "max_words": 8},
        cache={"log_mel": {"n_mels": 128, "channels": "mean"}},
        task="retrieval",
    )
    family = family_of("coavt")
    model = family.build(settings.model, {}, settings.task, None, 1, settings.inputs)
    write_checkpoint(path, model, settings, {})
    return path


def fill(folder, clips=CLIPS):
    """Copy demo clips into a folder."""
    for name, clip in clips.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / f"{clip}.mp4", folder / name)
    return folder


def indexed(folder, checkpoint=None, **options):
    """Index a folder in windows of four seconds; return the report."""
    options = {"window": 4.0, "hop": 2.0} | options
    given = None if checkpoint is None else str(checkpoint)
    return build(folder, IndexOptions(checkpoint=given, **options), HARDWARE)


def opened(report):
    return Index(report.index, device="cpu")


def content(index):
    """All windows of an index: (path, number) -> row of the table."""
    rows = index.table.search().limit(len(index)).to_list()
    found = {(row["path"], row["number"]): row for row in rows}
    assert len(found) == len(rows), "no window is there twice"
    return found
