"""Shards of the cache: every usable clip decoded once into JPEG frames and a log-mel, in one tar.

A clip is one WebDataset sample: `<clip_id>.000000.jpg` ..., `<clip_id>.json` and, with sound,
`<clip_id>.logmel.npy` (float16 [C, T, n_mels], dB); with `cache.waveform` also
`<clip_id>.waveform.npy` (int16 [1 or 2, n]). Equal content gives equal bytes. The index has
the position of every member, so that readers seek and never scan.
"""

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from av.error import FFmpegError
from PIL import features as image_libraries
from webdataset import TarWriter

from clip4vla.cache.frames import encode
from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.cache.members import (
    LOG_MEL,
    WAVEFORM,
    Content,
    IndexRow,
    Members,
    frame_name,
    json_of,
    sha256_of_members,
    sound_members,
)
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file, sole_owner, whole_file
from clip4vla.common.progress import track
from clip4vla.config.data import Cache
from clip4vla.datasets.collect import check_names
from clip4vla.media.isolated import Crashed, Isolated, patience

OWNER = "clip4vla"  # of the members; a fixed one, so that bytes do not depend on who builds
INDEX_COLUMNS = [
    "clip_id",
    "cache",  # ok | decode_error (the clip is not in the tar)
    "detail",  # the error
    "frame_offsets",  # list: byte position in the tar of every frame's JPEG
    "frame_sizes",  # list: bytes of every frame
    "log_mel_offset",  # -1 for a silent clip
    "log_mel_size",  # and, with a waveform, waveform_offset and waveform_size at the end
    "channels",  # of the log-mel: 0 (silent), 1 or 3
    "T",  # frames of the log-mel
    "n_frames",  # of the video
    "sha256",  # of the clip's members: frames in order, json, log-mel, waveform
    "tar_bytes",
    "tar_sha256",
    "tools",  # versions of the libraries that decide the bytes
]

TOOLS = ("pillow", "torch", "torchaudio")  # their versions can change bytes, as the decoder's can
SOUND_ONLY = "no_video_stream"  # the status of a sound file, whose clip has no frames

CLIP_COLUMNS = ["clip_id", "cache", "detail", "sha256", "channels", "T", "n_frames"]

DecodeAudio = Callable[[str], tuple[np.ndarray | Iterator[np.ndarray], int]]
DecodeFrames = Callable[[str, float, float | None], Iterator[np.ndarray]]


@dataclass(frozen=True)
class _Source:
    """A clip's media file and the streams to decode; `seconds`: the length of a cut clip."""

    clip_id: str
    path: str
    has_pictures: bool
    has_sound: bool
    seconds: float | None


def rows_of(ledger: pd.DataFrame, shard: int) -> pd.DataFrame:
    """Return the ledger rows of a shard's clips: usable, with pictures or sound only."""
    from clip4vla.media.ledger import usable

    kept = usable(ledger) & ledger.video.isin(["ok", SOUND_ONLY])
    return ledger[kept & (ledger.shard == shard)]


def build_shard(
    ledger_rows: pd.DataFrame,
    cache: Cache,
    tar_path: str | Path,
    decode_audio: DecodeAudio | None = None,
    decode_frames: DecodeFrames | None = None,
) -> pd.DataFrame:
    """Write the tar of one shard from its ledger rows (`rows_of`); return the index.

    The index has a row per clip. Clips are decoded in a separate process. One that fails, crashes
    the process or exceeds its time is left out of the tar and has `cache` = decode_error in the
    index. Raises UserError when a media file of the ledger is missing. The tar is written
    atomically, with the same bytes for the same media. The default decoders are those of
    `clip4vla.media.decode`.
    """
    from clip4vla.media import decode

    decode_audio = decode_audio or decode.sound_blocks
    decode_frames = decode_frames or decode.decode_frames
    check_names(ledger_rows.clip_id, (), ())
    tar_path = Path(tar_path)
    decode_clip = partial(
        _decode,
        cache=cache,
        front_end=LogMelFrontend(cache.log_mel),
        decode_audio=decode_audio,
        decode_frames=decode_frames,
    )
    rows = []
    with (
        Isolated(decode_clip) as decoder,
        sole_owner(tar_path.with_name(f".{tar_path.stem}.lock")),
        _one_tar(tar_path) as temporary,
    ):
        with open(temporary, "wb") as stream, _writer(stream) as writer:
            clips = ledger_rows.sort_values("clip_id").itertuples()
            for clip in track(clips, f"cache {tar_path.stem}", total=len(ledger_rows)):
                row, members = _decoded(_source_of(clip), clip.shard, decoder)
                rows.append(row)
                if members:
                    writer.write({"__key__": clip.clip_id, **members})
        places = _places_in(temporary)
        whole = {"tar_bytes": temporary.stat().st_size, "tar_sha256": sha256_of_file(temporary)}
    versions = [f"{name} {version(name)}" for name in TOOLS]
    jpeg = image_libraries.version("libjpeg_turbo") or image_libraries.version("jpg")
    tools = ", ".join([decode.DECODER, *versions, f"libjpeg {jpeg}"])
    sounds = sound_members(cache)
    ends = [f"{name}_{end}" for name in sounds for end in ("offset", "size")]
    return pd.DataFrame(
        [{**row, **_positions_of(row, places, sounds), **whole, "tools": tools} for row in rows],
        columns=list(dict.fromkeys(INDEX_COLUMNS + ends)),
    )


def _one_tar(tar_path: Path) -> AbstractContextManager[Path]:
    """Return the temporary path of `whole_file`, after removing those of killed builders.

    A kill may also leave a partial index, which is written beside the tar after it.
    """
    for stale in tar_path.parent.glob(f".{tar_path.stem}.*.tmp"):
        stale.unlink()
    return whole_file(tar_path)


def _writer(stream: BinaryIO) -> TarWriter:
    # PAX: a clip id may have 100 characters, more than plain tar headers hold with an extension.
    return TarWriter(stream, encoder=False, mtime=0, user=OWNER, group=OWNER, format="PAX_FORMAT")


def _source_of(row: Any) -> _Source:
    """Return the source of a ledger row, a named tuple of pandas."""
    return _Source(
        clip_id=row.clip_id,
        path=str(row.path),
        has_pictures=row.video != SOUND_ONLY,
        has_sound=row.audio == "ok",
        # A clip cut without re-encoding keeps some pictures beyond its end.
        seconds=row.end - row.start if pd.notna(row.end) else None,
    )


def _decoded(clip: _Source, shard: int, decoder: Isolated) -> tuple[IndexRow, Members]:
    """Return a clip's index row without its position, and its tar members ({} on an error)."""
    if not os.path.isfile(clip.path):
        raise UserError(
            f"{clip.path}: the media file of clip {clip.clip_id} is missing. Fix: delete "
            f"fetch.parquet of shard {shard} and run the same command again"
        )
    members: Members = {}
    decoder.ask(clip, patience(clip.path))
    try:
        while True:
            _, item = decoder.answer()
            if isinstance(item, dict):
                row = item
                break
            members |= dict([item])
        decoder.answer()  # the end of the items
    except Crashed as crash:
        return _failed(clip, str(crash)), {}
    return row, members


def _failed(clip: _Source, reason: str) -> IndexRow:
    text = " ".join(reason.split()).replace(clip.path, Path(clip.path).name)
    return _row(clip) | {"cache": "decode_error", "detail": text}


def _row(clip: _Source) -> IndexRow:
    row: IndexRow = dict.fromkeys(CLIP_COLUMNS, "")
    row |= {"clip_id": clip.clip_id, "cache": "ok", "channels": 0, "T": 0, "n_frames": 0}
    return row


def _decode(
    clip: _Source,
    *,
    cache: Cache,
    front_end: LogMelFrontend,
    decode_audio: DecodeAudio,
    decode_frames: DecodeFrames,
) -> Iterator[tuple[str, Content] | IndexRow]:
    """Yield a clip's tar members, one at a time as they may be large, then its index row."""
    row = _row(clip)
    sounds: dict[str, np.ndarray] = {}
    try:
        images = []
        if clip.has_pictures:
            frames = decode_frames(clip.path, cache.frames.fps, clip.seconds)
            images = [encode(frame, cache.frames) for frame in frames]
            if not images:
                raise ValueError("the video has no frame")
        if clip.has_sound:
            samples, rate = decode_audio(clip.path)
            sounds = _sounds(samples, rate, cache, front_end)
    except Exception as error:  # any error concerns this clip only
        if isinstance(error, OSError) and not isinstance(error, FFmpegError):
            raise  # a failing disk ends the job
        yield _failed(clip, f"{type(error).__name__}: {error}")
        return
    row["n_frames"] = len(images)
    members: Members = {frame_name(i): image for i, image in enumerate(images)}
    if sounds:
        row["channels"], row["T"] = sounds[LOG_MEL].shape[:2]
    members["json"] = json_of(row, cache)
    for name, array in sounds.items():
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        members[name] = stream.getvalue()
    row["sha256"] = sha256_of_members(members)
    yield from members.items()
    yield row


def _sounds(
    samples: np.ndarray | Iterator[np.ndarray], rate: int, cache: Cache, front_end: LogMelFrontend
) -> dict[str, np.ndarray]:
    """Return the arrays of a clip's sound, by the names of their members."""
    if not cache.waveform:
        return {LOG_MEL: front_end(samples, rate).numpy()}
    waveform = front_end.waveform(samples, rate)
    log_mel = front_end(waveform, cache.log_mel.sample_rate)
    return {LOG_MEL: log_mel.numpy(), WAVEFORM: waveform.numpy()}


def _places_in(tar_path: Path) -> dict[str, tuple[int, int]]:
    """Return (byte position of the content, size) of every member, by name."""
    with tarfile.open(tar_path) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}


def _positions_of(
    row: IndexRow, places: dict[str, tuple[int, int]], sounds: dict[str, str]
) -> IndexRow:
    """Return the index columns with the positions of a clip's members. sounds: `sound_members`."""
    names = [f"{row['clip_id']}.{frame_name(position)}" for position in range(row["n_frames"])]
    positions: IndexRow = {
        "frame_offsets": [places[name][0] for name in names],
        "frame_sizes": [places[name][1] for name in names],
    }
    for column, member in sounds.items():
        offset, size = places.get(f"{row['clip_id']}.{member}", (-1, 0))
        positions |= {f"{column}_offset": offset, f"{column}_size": size}
    return positions
