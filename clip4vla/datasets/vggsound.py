"""VGGSound (Chen et al. 2020): 199,176 clips of 10 s, each with one of 309 sounds that is seen.

Files: vggsound.csv (YouTube id, start second, label, train or test), or train.csv and test.csv or
one of them (`<YouTube id>_<start, six digits>.mp4`, label); none has a header. Labels are those of
the official list, in `lists/vggsound_309.txt`, or CAV-MAE's spelling of them, with _ for commas.
Media are files `<YouTube id>_<start, six digits>.mp4`, one per clip.

vggsounder.csv (VGGSounder, Zverev et al. 2025), if it is there, has several labels for clips of the
test list, and for each whether it is heard (A), seen (V) or both (AV).

A clip's caption is its label. A video may have several clips; clip ids are `v_<file's name>`.
Splits: train, test, retrieval_1545 (the first five clips of each class in test.csv, as CAV-MAE
takes them for retrieval between sound and picture), vggsounder and, of its labels, those that are
heard (vggsounder_a) and those that are seen (vggsounder_v).
"""

import difflib
import functools
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from clip4vla.common.files import sha256_of_ids
from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Benchmark, Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.official import headerless_rows, official_file, rows, shipped_list

FILES_ARE_CLIPS = True
NAMES_ALL_SPLITS = True
PROTOCOLS = {
    "classification": Protocol("train", None, "test"),
    "retrieval": Protocol("train", None, "retrieval_1545"),
    "vggsounder": Protocol("train", None, "vggsounder"),
    "vggsounder_a": Protocol("train", None, "vggsounder_a"),
    "vggsounder_v": Protocol("train", None, "vggsounder_v"),
}
BENCHMARKS = {
    "test": Benchmark("official", clips=15446),
    "retrieval_1545": Benchmark("CAV-MAE", clips=1545),
}
CLIP_SECONDS = 10.0
CLASSES = "vggsound_309.txt"
OF_EACH_CLASS = 5  # clips of retrieval_1545
RETRIEVAL_SHA256 = "4d58dadf6ffe612bd0374b0d0d3a798c6bbc7f768245f7aefcc9bacddf5591df"  # of its ids
_FILE = re.compile(r"([A-Za-z0-9_-]{11})_([0-9]{6})\.mp4", re.ASCII)
_PARTS = {"A": "a", "V": "v", "AV": "av"}  # modality of VGGSounder -> splits that have its labels


class _Row(NamedTuple):
    where: Where
    split: str
    video: str
    start: int
    label: str

    @property
    def file(self) -> str:
        return f"{self.video}_{self.start:06d}"

    def item(self, split: str) -> SplitItem:
        """Return the clip with its label in a split."""
        return SplitItem(split, f"v_{self.file}", (self.label,), (self.label,))


def read(name: str, dataset: Dataset) -> Collector:
    """Read the lists that exist."""
    into = Collector(name, dataset.annotations)
    tested: dict[str, _Row] = {}  # by their files, in the order of the list
    for row in _rows(name, dataset, into):
        start, end = float(row.start), row.start + CLIP_SECONDS
        clip = Clip(f"v_{row.file}", row.video, f"{row.file}.mp4", start, end, "nonverbal")
        into.clip(clip, row.where)
        into.item(row.item(row.split), row.where)
        if row.split == "test":
            tested[row.file] = row
    if tested or (dataset.annotations / "test.csv").exists():
        _add_retrieval(name, dataset, into, tested)
    if (dataset.annotations / "vggsounder.csv").exists():
        _add_vggsounder(name, dataset, into, tested)
    return into


def _rows(name: str, dataset: Dataset, into: Collector) -> Iterator[_Row]:
    """Yield the rows of vggsound.csv; without it, those of train.csv and test.csv."""
    present = [s for s in ("train", "test") if (dataset.annotations / f"{s}.csv").exists()]
    if present and not (dataset.annotations / "vggsound.csv").exists():
        for split in present:
            yield from _rows_of(name, dataset, into, split)
        return
    content = "VGGSound's list of clips (or its train.csv and test.csv)"
    path = official_file(name, dataset, "vggsound.csv", content)
    for where, (cell, second, label, split) in headerless_rows(name, path, 4):
        video, start = youtube_id(into, where, cell), seconds(into, where, "start", second)
        if not start.is_integer() or not 0 <= start < 1e6:
            into.fail(where, f"invalid start {shown(second)}", "use whole seconds")
        if split.strip() not in ("train", "test"):
            into.fail(where, f"invalid split {shown(split)}", "use train or test")
        yield _Row(where, split.strip(), video, int(start), _class(into, where, label))


def _rows_of(name: str, dataset: Dataset, into: Collector, split: str) -> Iterator[_Row]:
    path = official_file(name, dataset, f"{split}.csv", f"VGGSound's {split} list")
    for where, (file, label) in headerless_rows(name, path, 2):
        parts = _FILE.fullmatch(file)
        if parts is None:
            into.fail(where, f"invalid file {shown(file)}: must be <YouTube id>_<6 digits>.mp4")
        yield _Row(where, split, parts[1], int(parts[2]), _class(into, where, label))


@functools.cache
def _spellings() -> dict[str, str]:
    """Return the official name of every class, by that name and by CAV-MAE's, with _ for commas."""
    names = shipped_list(CLASSES)
    return {name.replace(",", "_"): name for name in names} | {name: name for name in names}


def _class(into: Collector, where: Where, label: str) -> str:
    """Return the official name of a class."""
    label = label.strip()
    if label not in _spellings():
        near = difflib.get_close_matches(label[:100], _spellings(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        into.fail(where, f"{shown(label)} is not among the 309 classes{hint}")
    return _spellings()[label]


def _add_retrieval(name: str, dataset: Dataset, into: Collector, tested: dict[str, _Row]) -> None:
    """Add the first clips of each class, in the order of test.csv if it is there."""
    order, source = list(tested.values()), "vggsound.csv"
    if (dataset.annotations / "test.csv").exists():
        order, source = list(_rows_of(name, dataset, into, "test")), "test.csv"
    counts: Counter[str] = Counter()
    chosen = []
    for row in order:
        if row.file not in tested or tested[row.file].label != row.label:
            into.fail(row.where, f"clip {row.file} has another label or split in vggsound.csv")
        counts[row.label] += 1
        if counts[row.label] <= OF_EACH_CLASS:
            chosen.append(row.file)
            into.item(row.item("retrieval_1545"), row.where)
    if sha256_of_ids(chosen) != RETRIEVAL_SHA256:
        into.note(
            f"split retrieval_1545 has {len(chosen):,} clips that are not the published list, "
            "which the official test.csv gives in its order; these are the first of each class in "
            f"{dataset.annotations / source}"
        )


def _add_vggsounder(name: str, dataset: Dataset, into: Collector, tested: dict[str, _Row]) -> None:
    """Add the splits of VGGSounder, clips of the test list with the labels of each kind."""
    path = official_file(name, dataset, "vggsounder.csv", "VGGSounder's labels")
    flags = ("background_music", "static_image", "voice_over")
    labels: dict[tuple[str, str], list[str]] = {}  # (split, file) -> labels
    places: dict[str, Where] = {}
    unknown = set()
    for where, row in rows(name, path, ("video_id", "label", "modality"), flags):
        file, label = row["video_id"], _class(into, where, row["label"])
        if not _FILE.fullmatch(f"{file}.mp4"):
            into.fail(where, f"invalid video_id {shown(file)}: must be <YouTube id>_<6 digits>")
        if row["modality"] not in _PARTS:
            into.fail(where, f"invalid modality {shown(row['modality'])}", "use A, V or AV")
        if file not in tested:
            unknown.add(file)
            continue
        places.setdefault(file, where)
        for split in ("vggsounder", *(f"vggsounder_{part}" for part in _PARTS[row["modality"]])):
            labels.setdefault((split, file), []).append(label)
    for (split, file), found in labels.items():
        into.item(SplitItem(split, f"v_{file}", tuple(found), tuple(found)), places[file])
    if unknown:
        into.note(f"{path}: {len(unknown):,} of its clips are not in the test list, and left out")
