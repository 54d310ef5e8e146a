"""Make and renew the index of a folder: `clip4vla index`.

What is done is in the tables of the index, in whole commits: a run that was killed at any moment
leaves files that are not done, and the next run resumes behind their last window.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from clip4vla.common.device import take
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file, sole_owner
from clip4vla.common.log import log
from clip4vla.common.progress import track
from clip4vla.config.sections import Modality
from clip4vla.config.settings import Settings
from clip4vla.loading.segment_counts import kept_segments
from clip4vla.media.isolated import isolated_each, patience
from clip4vla.models.common.batch_features import Features, joined
from clip4vla.search.approximate import index_vectors
from clip4vla.search.changes import Changes, Known, Stamp, changes
from clip4vla.search.description import FILE, Description, versions
from clip4vla.search.embedder import Embedder
from clip4vla.search.encoder import Encoder, bytes_of
from clip4vla.search.files import check_utf8, indexable, name_some, stamp_of
from clip4vla.search.media import one_line
from clip4vla.search.opening import Opened, open_checkpoint
from clip4vla.search.options import IndexHardware, IndexOptions
from clip4vla.search.store import SECOND, Store, corruption_named, feature_table
from clip4vla.search.windows import Cut, Decoded, Finished, Piece, pieces_of

WINDOW = 10.0  # seconds, if nothing else is given
COMMIT_ROWS, COMMIT_SECONDS = 256, 10.0  # what a kill can lose
KEPT_BYTES = 1 << 16  # of a window for second looks; more are made again when they are needed


@dataclass(frozen=True)
class Report:
    """What a run has done."""

    index: Path
    windows: int  # in the index
    embedded: int  # of them, by this run
    done: int  # files
    broken: dict[str, str]  # path -> reason


def build(folder: Path, options: IndexOptions, hardware: IndexHardware) -> Report:
    """Make the index of a folder, or bring it up to date.

    Raises UserError for an index of another folder, checkpoint or window, for a corrupt one, for
    a folder whose files are all gone, for names that are not UTF-8, and where no file could be
    indexed.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Fix: name a folder of videos and sounds")
    folder = folder.resolve()
    if options.out is None and not folder.name:
        raise UserError(f"{folder}: has no place for an index beside it. Fix: give --out")
    out = (options.out or folder.with_name(f"{folder.name}.index")).absolute()
    if out == folder:
        raise UserError(f"--out {out}: is the folder of the clips. Fix: name another one")
    check_utf8(folder, out, options.checkpoint or "")
    known = _known(out)
    checkpoint = options.checkpoint or (known.checkpoint if known else None)
    if checkpoint is None:
        raise UserError(
            f"{folder}: not indexed yet, and --checkpoint is missing. Fix: give --checkpoint "
            "model.safetensors"
        )
    device, workers = take(hardware)
    opened = open_checkpoint(checkpoint, device, options.batch_size)
    with sole_owner(out), corruption_named(out):
        about = _description(folder, out, opened, options, _known(out))  # others may have made one
        about.write(out)
        return _Build(folder, out, about, opened.embedder, workers, options.retry).run()


def _known(out: Path) -> Description | None:
    """Return the description of an index that is there. UserError for any other content."""
    if (out / FILE).is_file():
        return Description.read(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file. Fix: name a new folder")
    if out.is_dir() and any(file.name[0] != "." for file in out.iterdir()):
        raise UserError(f"--out {out}: not empty, and not an index. Fix: name a new folder")
    return None


def _description(
    folder: Path, out: Path, opened: Opened, options: IndexOptions, known: Description | None
) -> Description:
    """Return the description of the index. UserError if the known one is another."""
    window, hop = options.window, options.hop
    if window is None:
        window = known.window if known else WINDOW
    if hop is None:
        hop = known.hop if known and window == known.window else window
    cut = Cut(window, hop)
    shares = shares_of(opened.embedder, options.both_tokens)
    if known and not options.both_tokens:
        shares = known.nonverbal_shares
    wanted = Description(
        folder=str(folder),
        checkpoint=opened.source,
        sha256=opened.sha256,
        window=cut.window,
        hop=cut.hop,
        nonverbal_shares=shares,
        settings=opened.embedder.settings.model_dump(mode="json"),
        versions=versions(),
    )
    if known is None:
        return wanted
    if known.folder != wanted.folder and Path(known.folder).is_dir():
        raise UserError(f"{out}: the index of {known.folder}. Fix: give another --out")
    for name, meaning in {
        "sha256": "checkpoint",
        "window": "--window",
        "hop": "--hop",
        "nonverbal_shares": "--both-tokens",
    }.items():
        before, now = getattr(known, name), getattr(wanted, name)
        if before != now:
            raise UserError(
                f"{out}: made with another {meaning} ({before}, not {now}). Fix: leave "
                f"{meaning} out, or give another --out"
            )
    return wanted


def shares_of(embedder: Embedder, both: bool) -> tuple[float, ...]:
    """Return the shares of [NB] for which sounds are embedded: the training's, or both ends."""
    mixes = embedder.settings.model.mixes_type_tokens and "audio" in embedder.settings.modalities
    if both and not mixes:
        raise UserError(
            "--both-tokens: this checkpoint has no type token that is mixed. Fix: leave it out"
        )
    if mixes and (both or embedder.settings.nonverbal_share is None):
        return (0.0, 1.0)
    return (embedder.share_of_nb(None),)


class _Build:
    """One run over a folder."""

    def __init__(
        self,
        folder: Path,
        out: Path,
        about: Description,
        embedder: Embedder,
        workers: int,
        retry: bool,
    ):
        self.folder, self.out, self.workers, self.retry = folder, out, workers, retry
        self.cut = Cut(about.window, about.hop)
        self.settings, self.batch_size = embedder.settings, embedder.batch_size
        self.encoder = Encoder(embedder, about.nonverbal_shares)
        self.store = Store(out, create=True)
        self.store.check()
        lost = self.store.windows is None  # no file is done without its windows
        self.known = {
            row["path"]: Known(
                stamp=Stamp(row["size"], row["mtime_ns"]),
                state="unfinished" if lost and row["state"] == "done" else row["state"],
                sha256=row["sha256"],
                problem=row["problem"],
            )
            for row in self.store.files.search().to_list()
        }
        self.begun = {path for path, file in self.known.items() if file.state != "done"}
        self.next_numbers: dict[str, int] = {}
        schema = None if self.store.windows is None else self.store.windows.schema
        self.keeps = None if schema is None else SECOND in schema.names  # for second looks
        self.embedded = 0
        self.group: list[tuple[str, Piece]] = []  # decoded, not embedded
        self.rows: list[dict] = []  # embedded, not committed
        self.parts: list[tuple[Features, list[bytes] | None]] = []
        self.finished: list[tuple[str, Known]] = []
        self.committed_at = time.monotonic()

    def run(self) -> Report:
        """Find out what has changed, and embed it."""
        found, skipped = indexable(self.folder, self.out, self.known)
        name_some({path: f"skipped: {why}" for path, why in skipped.items()})
        if self.known and not found:
            raise UserError(
                f"{self.folder}: no media files, and its index has {len(self.known)}. Fix: mount "
                f"or restore the folder, or delete {self.out}"
            )
        changed = changes(found, self.known, lambda path: sha256_of_file(self.folder / path))
        self._apply(changed, found)
        todo = [path for path in sorted(found) if self._is_open(path)]
        log.info(f"{self.folder}: {len(found)} media files, {len(todo)} to embed")
        self.next_numbers = self.store.next_numbers(self.begun & set(todo))
        progress = track(
            self._embed(todo),
            f"index {self.folder.name}",
            total=len(todo),
            status=lambda: f"{self.embedded} windows",
            counts=lambda ended: ended,
        )
        try:
            for _ in progress:
                pass
        except KeyboardInterrupt:
            log.info(f"{self.out}: interrupted; the same command resumes")
            raise
        if todo or changed.vanished or changed.moved:
            self.store.tidy()
        if self.store.windows is not None:
            index_vectors(self.store.windows)
        return self._report()

    def _apply(self, changed: Changes, found: dict[str, Stamp]) -> None:
        """Bring the tables up to what was found, but for the embedding.

        Windows go before their files: a run that is killed in between finds the same changes again.
        A moved file is unfinished under both names until its windows have the new one: wherever it
        is then, no windows are lost or left behind.
        """
        moved = {
            new: replace(self.known[old], stamp=found[new]) for old, new in changed.moved.items()
        }
        for old, new in changed.moved.items():
            self.known[old] = self.known[new] = Known(found[new], "unfinished")
        both = (*changed.moved, *changed.moved.values())
        self.store.write_files([self._file_row(path) for path in both])
        for old, new in changed.moved.items():
            self.store.rename_windows(old, new)
        self.known |= moved
        self.store.delete_windows([*changed.changed, *changed.vanished])
        for path in changed.touched:
            self.known[path] = replace(self.known[path], stamp=found[path])
        for path in (*changed.new, *changed.changed):
            self.known[path] = Known(found[path], "unfinished")
        renewed = (*changed.new, *changed.changed, *changed.touched, *changed.moved.values())
        self.store.write_files([self._file_row(path) for path in renewed])
        gone = [*changed.vanished, *changed.moved]
        self.store.delete_files(gone)
        for path in gone:
            del self.known[path]

    def _file_row(self, path: str) -> dict[str, Any]:
        known = self.known[path]
        return {
            "path": path,
            "size": known.stamp.size,
            "mtime_ns": known.stamp.mtime_ns,
            "state": known.state,
            "sha256": known.sha256,
            "problem": known.problem,
        }

    def _is_open(self, path: str) -> bool:
        state = self.known[path].state
        return state == "unfinished" or (self.retry and state == "broken")

    def _embed(self, todo: list[str]) -> Iterator[bool]:
        """Embed files; yield for each window False, and for each end of a file True."""
        if not todo:
            return
        decode = partial(
            _decode,
            folder=self.folder,
            settings=self.settings,
            cut=self.cut,
            modalities=self.settings.modalities,
        )
        tasks = [(path, self.next_numbers.get(path, 0)) for path in todo]
        results = isolated_each(
            decode,
            tasks,
            seconds=lambda task: patience(self.folder / task[0]),
            processes=min(self.workers, len(tasks)),
        )
        for index, item in results:
            path = todo[index]
            if isinstance(item, Piece):
                self.group.append((path, item))
                if sum(self._images(piece) for _, piece in self.group) >= self.batch_size:
                    self._encode()
            elif isinstance(item, Exception):
                self._finish(path, Finished("", one_line(item, self.folder / path)))
            elif item is not None:
                self._finish(path, item)
            yield item is None
            late = time.monotonic() - self.committed_at > COMMIT_SECONDS
            if late or len(self.rows) >= COMMIT_ROWS:
                self._commit()
        self._commit()

    def _images(self, piece: Piece) -> int:
        """Return the frames and segments of a window."""
        log_mel = piece.log_mel
        heard = 0 if log_mel is None else kept_segments(log_mel.shape[1], self.settings.inputs)
        return len(piece.jpegs) + heard

    def _encode(self) -> None:
        """Embed the decoded windows; those in which the model sees and hears nothing are left."""
        group = [(path, piece) for path, piece in self.group if self._images(piece)]
        self.group = []
        if not group:
            return
        pieces = [piece for _, piece in group]
        features, second = self.encoder.features(pieces, second=self.keeps is not False)
        kept = None
        if second is not None:
            kept = [bytes_of(second, row) for row in range(len(group))]
            if self.keeps is None:
                self.keeps = max(map(len, kept)) <= KEPT_BYTES
        self.parts.append((features, kept if self.keeps else None))
        self.rows += [
            {
                "path": path,
                "number": piece.number,
                "start": piece.start,
                "end": piece.end,
                "has_picture": bool(piece.jpegs),
                "has_sound": piece.log_mel is not None,
                "thumbnail": piece.thumbnail,
            }
            for path, piece in group
        ]
        for path, piece in group:
            self.next_numbers[path] = piece.number + 1
        self.embedded += len(group)

    def _finish(self, path: str, end: Finished) -> None:
        """Note the end of a file, to be written after its windows."""
        before = self.known[path].stamp
        if stamp_of(self.folder / path) != before:
            log.info(f"{path}: it changed while it was read; run the same command again")
            return
        self.finished.append((path, Known(before, "done", end.sha256, end.problem)))

    def _commit(self) -> None:
        """Write windows, then the files that ended with them."""
        self._encode()
        if self.rows:
            features, kept = zip(*self.parts, strict=True)
            second = [part for parts in kept for part in parts] if self.keeps else None
            self.store.add_windows(self.rows, feature_table(joined([*features]), second))
        for path, end in self.finished:
            whole = end.sha256 and path in self.next_numbers  # a decoder that died gives no hash
            broken = end.problem and not whole
            self.known[path] = replace(end, state="broken" if broken else "done")
        self.store.write_files([self._file_row(path) for path, _ in self.finished])
        self.rows, self.parts, self.finished = [], [], []
        self.committed_at = time.monotonic()

    def _report(self) -> Report:
        windows = 0 if self.store.windows is None else self.store.windows.count_rows()
        states = Counter(known.state for known in self.known.values())
        name_some({path: file.problem for path, file in self.known.items() if file.problem})
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        log.info(f"{self.out}: {windows} windows ({self.embedded} new) of {counts} files")
        if not windows:
            raise UserError(
                f"{self.folder}: no file could be indexed. Fix: give a folder of sounds or videos "
                "that play"
            )
        return Report(
            index=self.out,
            windows=windows,
            embedded=self.embedded,
            done=states["done"],
            broken={p: k.problem for p, k in self.known.items() if k.state == "broken"},
        )


def _decode(
    task: tuple[str, int], folder: Path, settings: Settings, cut: Cut, modalities: list[Modality]
) -> Iterator[Decoded]:
    path, first = task
    yield from pieces_of(folder / path, settings, cut, modalities, first)
