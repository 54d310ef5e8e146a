"""Random access to the clips of a frozen dataset version, by byte position in its tars."""

import io
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.lib.format import read_array_header_1_0, read_magic

from clip4vla.cache.frames import sample_positions
from clip4vla.cache.manifest import read_frozen, read_manifest
from clip4vla.cache.members import members_of, sha256_of_members, sound_members
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.common.parquet import read_columns
from clip4vla.config.data import Cache
from clip4vla.config.sections import FrameChoice

LARGEST_HEADER = 1024  # bytes of the .npy header of a clip's sound; ours have 128
OPEN_TARS = 128  # file descriptors kept; an order with windows of shards needs a handful
SAMPLED = 32  # training checks one of so many clips that it reads, which takes 1 % more time
LISTS = ["frame_offsets", "frame_sizes"]
ENDS = ("offset", "size")


@dataclass(frozen=True)
class RawClip:
    """One clip as the cache holds it."""

    clip_id: str
    frames: list[bytearray]  # JPEG, in order
    log_mel: torch.Tensor | None  # float16 [1 or 3, T, n_mels], dB or ln; None for a silent clip


class ClipCache:
    """The clips of a manifest. Reads are positional: safe between threads and after a fork.

    `clips` and `splits` are the frozen tables, `manifest` and `manifest_sha256` their identity,
    `folder` is their folder. Opening checks the manifest, the tables and the indexes against their
    hashes, and raises UserError if one differs. The content of tars is checked by `spot_check`: one
    call in `check_every` reads a whole clip and compares its sha256 (1: every call).
    """

    def __init__(self, manifest_path: str | Path, check_every: int = SAMPLED):
        self._path, self.check_every = Path(manifest_path), check_every
        self.manifest = read_manifest(self._path)
        self.manifest_sha256 = sha256_of_file(self._path)
        self.folder = folder = self._path.parent
        self.settings = Cache.model_validate(self.manifest["cache"])
        self.clips = read_frozen(self.manifest, folder / "clips.parquet")
        self.splits = read_frozen(self.manifest, folder / "splits.parquet")
        self.silent = frozenset(self.clips.clip_id[self.clips.silent])
        self._tars = [folder / shard["tar"] for shard in self.manifest["shards"]]
        self._open_tars: dict[int, _Tar] = {}
        self._load_indexes(folder)

    def __reduce__(self) -> tuple[type["ClipCache"], tuple[Path, int]]:
        """Open the files again in another process: descriptors cannot be pickled."""
        return ClipCache, (self._path, self.check_every)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._row_of

    def shard_of(self, clip_ids: list[str]) -> np.ndarray:
        """Return the shard of every clip, int64 [N], for `order.epoch_order`."""
        numbers = np.array([shard["shard"] for shard in self.manifest["shards"]], dtype=np.int64)
        return numbers[self._tar_of[[self._row(clip_id) for clip_id in clip_ids]]]

    def read(self, clip_id: str, max_frames: int | None = None) -> RawClip:
        """Read one clip, with at most `max_frames` frames, taken uniformly (all without a limit).

        Raises UserError for a clip that is not in this dataset version, or a truncated tar.
        """
        return RawClip(clip_id, self.read_frames(clip_id, max_frames), self.read_log_mel(clip_id))

    def read_frames(
        self, clip_id: str, max_frames: int | None = None, choice: FrameChoice = "spread"
    ) -> list[bytearray]:
        """Read only the frames, as JPEG: all, or at most `max_frames` (`sample_positions`)."""
        count = self.frame_count(clip_id)
        return self.read_frames_at(clip_id, sample_positions(count, max_frames or count, choice))

    def frame_count(self, clip_id: str) -> int:
        """Return the number of frames of a clip."""
        row = self._row(clip_id)
        return int(self._first_frame[row + 1] - self._first_frame[row])

    def read_frames_at(self, clip_id: str, positions: Sequence[int]) -> list[bytearray]:
        """Read the frames at these positions of a clip, as JPEG."""
        row = self._row(clip_id)
        picked = self._first_frame[row] + np.array(positions, dtype=np.int64)
        tar = int(self._tar_of[row])
        places = zip(self._frame_offsets[picked], self._frame_sizes[picked], strict=True)
        return [self._bytes(tar, offset, size) for offset, size in places]

    def read_log_mel(self, clip_id: str) -> torch.Tensor | None:
        """Read only the log-mel: float16 [1 or 3, T, n_mels], dB or ln; None for silence."""
        return self._array(self._row(clip_id), "log_mel", torch.float16)

    def read_waveform(self, clip_id: str) -> torch.Tensor | None:
        """Read only the waveform: int16 [1 or 2, n] at the rate of the log-mel; None for silence.

        Raises UserError for a cache without waveforms.
        """
        if not self.settings.waveform:
            raise UserError(
                f"{self._path}: this cache has no waveforms. Fix: set cache.waveform: true in the "
                "config, which makes another cache"
            )
        return self._array(self._row(clip_id), "waveform", torch.int16)

    def spot_check(self, clip_id: str) -> None:
        """Compare a clip's bytes with the sha256 of the index, in one call of `check_every`.

        The calls are drawn at random in every process, so that another epoch checks other clips.
        Raises UserError if the bytes have changed since the version was frozen.
        """
        if self.check_every > 1 and secrets.randbelow(self.check_every):
            return
        row = self._row(clip_id)
        frames = slice(self._first_frame[row], self._first_frame[row + 1])
        places = [*zip(self._frame_offsets[frames], self._frame_sizes[frames], strict=True)]
        index_row = {"clip_id": clip_id, "n_frames": len(places)}
        index_row |= dict(zip(("channels", "T"), map(int, self._shapes[row]), strict=True))
        if index_row["channels"]:
            places += [sounds[row] for sounds in self._sounds.values()]
        tar = int(self._tar_of[row])
        pieces = [self._bytes(tar, offset, size) for offset, size in places]
        digest = sha256_of_members(members_of(index_row, pieces, self.settings))
        if bytes.fromhex(digest) != self._hashes[row].tobytes():
            raise UserError(
                f"{self._tars[tar]}: clip {clip_id}: its bytes have changed since the version was "
                f"frozen. Fix: {self._fix}"
            )

    def _row(self, clip_id: str) -> int:
        row = self._row_of.get(clip_id)
        if row is None:
            raise UserError(
                f"{self._path}: no clip {clip_id} in this dataset version. Fix: use the ids of "
                "clips.parquet in its folder"
            )
        return row

    def _array(self, row: int, sound: str, dtype: torch.dtype) -> torch.Tensor | None:
        """Return an array of a clip's sound, one of `sound_members`; None for silence."""
        offset, size = self._sounds[sound][row]
        if offset < 0:
            return None
        tar = int(self._tar_of[row])
        data = np.empty(int(size), dtype=np.uint8)  # not zeroed first, as a bytearray would be
        self._fill(tar, offset, data.data)
        header = io.BytesIO(data.data[:LARGEST_HEADER])
        try:
            read_magic(header)
            shape, _, stored = read_array_header_1_0(header)
            values = torch.frombuffer(data, dtype=dtype, offset=header.tell())
            if stored.name == str(dtype).removeprefix("torch."):
                return values.view(shape)  # the bytes that were read: nothing is copied
        except (ValueError, RuntimeError):
            pass
        raise self._damaged(self._tars[tar])

    def _bytes(self, tar: int, offset: int, size: int) -> bytearray:
        data = bytearray(size)
        self._fill(tar, offset, memoryview(data))
        return data

    def _fill(self, tar: int, offset: int, data: memoryview) -> None:
        """Fill `data` with bytes of a tar. Raises UserError if the tar is too short."""
        handle = self._open_tars.get(tar)
        if handle is None:
            if len(self._open_tars) >= OPEN_TARS:
                # The oldest one closes when the last reader lets go of it (see _Tar).
                self._open_tars.pop(next(iter(list(self._open_tars))), None)
            handle = self._open_tars[tar] = _Tar(self._tars[tar])
        if os.preadv(handle.descriptor, [data], int(offset)) != len(data):
            raise self._damaged(self._tars[tar])

    def _damaged(self, path: Path) -> UserError:
        return UserError(
            f"{path}: missing, truncated or changed since the version was frozen. Fix: {self._fix}"
        )

    @property
    def _fix(self) -> str:
        return f"run `clip4vla data verify {self.manifest['dataset']} --repair`"

    def _load_indexes(self, folder: Path) -> None:
        """Check every shard against the manifest and read the positions of all clips."""
        tables, tar_of = [], []
        sounds = list(sound_members(self.settings))
        schema = _index_schema(sounds)
        for number, shard in enumerate(self.manifest["shards"]):
            tar, index = self._tars[number], folder / shard["index"]
            if not tar.is_file() or tar.stat().st_size != shard["tar_bytes"]:
                raise self._damaged(tar)
            if not index.is_file() or sha256_of_file(index) != shard["index_sha256"]:
                raise self._damaged(index)
            if shard["clips"] == 0:
                continue
            table = read_columns(index, self._fix, [*schema.names, "cache"])
            kept = table.filter(pc.equal(table["cache"], "ok")).select(schema.names)
            tables.append(kept.cast(schema))
            tar_of.append(np.full(len(tables[-1]), number))
        if not tables:
            raise UserError(
                f"{self._path}: this dataset version has no usable clip. Fix: see "
                f"`clip4vla data status {self.manifest['dataset']}` for the reasons"
            )
        table = pa.concat_tables(tables)
        ids = table["clip_id"].to_pylist()
        self._row_of = {clip_id: row for row, clip_id in enumerate(ids)}
        self._tar_of = np.concatenate(tar_of)
        offsets = table["frame_offsets"].combine_chunks()
        # Flat arrays instead of a list per clip: a million clips stay small.
        self._first_frame = np.concatenate([[0], np.cumsum(offsets.value_lengths().to_numpy())])
        self._frame_offsets = offsets.flatten().to_numpy()
        self._frame_sizes = table["frame_sizes"].combine_chunks().flatten().to_numpy()
        digests = "".join(table["sha256"].to_pylist())
        self._hashes = np.frombuffer(bytes.fromhex(digests), dtype=np.uint8).reshape(-1, 32)
        self._shapes = np.stack([table[name].to_numpy() for name in ("channels", "T")], axis=1)
        self._sounds = {
            name: np.stack([table[f"{name}_{end}"].to_numpy() for end in ENDS], axis=1)
            for name in sounds
        }


def _index_schema(sounds: list[str]) -> pa.Schema:
    """Return the columns of an index that readers need, with the positions of these arrays.

    A shard of sound files has no frames, so the types of its empty lists are unknown.
    """
    return pa.schema(
        [("clip_id", pa.string())]
        + [(name, pa.list_(pa.int64())) for name in LISTS]
        + [(f"{sound}_{end}", pa.int64()) for sound in sounds for end in ENDS]
        + [(name, pa.int64()) for name in ("channels", "T")]
        + [("sha256", pa.string())]
    )


class _Tar:
    """An open tar that closes with its last reference, so never while a thread reads it."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
