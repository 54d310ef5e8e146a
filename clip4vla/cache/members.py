"""The members of a clip in the tar of its shard: frames, json and, with sound, its arrays."""

import hashlib
from collections.abc import Sequence
from typing import Any

from clip4vla.common.files import canonical_json
from clip4vla.config.data import Cache

LOG_MEL, WAVEFORM = "logmel.npy", "waveform.npy"
IndexRow = dict[str, Any]  # of an index, or of CLIP_COLUMNS
Content = bytes | bytearray
Members = dict[str, Content]  # of one clip in the order of the tar: frames, json, sound


def frame_name(position: int) -> str:
    """Return the name of a frame in the tar, without the clip's id."""
    return f"{position:06d}.jpg"


def sound_members(cache: Cache) -> dict[str, str]:
    """Return the columns of the index, without _offset and _size, and names of a clip's sound."""
    return {"log_mel": LOG_MEL} | ({"waveform": WAVEFORM} if cache.waveform else {})


def json_of(row: IndexRow, cache: Cache) -> bytes:
    """Return the json member of a clip with this index row."""
    named = {key: row[key] for key in ("clip_id", "channels", "T", "n_frames")}
    return canonical_json(named | {"fps": cache.frames.fps}).encode()


def sha256_of_members(members: Members) -> str:
    """Return the `sha256` of the index: of all members in the order of the tar."""
    digest = hashlib.sha256()
    for content in members.values():
        digest.update(content)
    return digest.hexdigest()


def members_of(row: IndexRow, pieces: Sequence[Content], cache: Cache) -> Members:
    """Return the members in the order of the tar, from the bytes of frames and sound.

    The index has no position for the json, which is built again from the index row.
    """
    frames = pieces[: row["n_frames"]]
    members = {frame_name(position): frame for position, frame in enumerate(frames)}
    members["json"] = json_of(row, cache)
    if row["channels"]:
        names = sound_members(cache).values()
        members |= zip(names, pieces[row["n_frames"] :], strict=True)
    return members
