"""Cut a clip out of a longer source with ffmpeg, without re-encoding, and check the cut."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from clip4vla.media.causes import ffmpeg_failure
from clip4vla.media.decode import DecodeError, open_media, packets_of
from clip4vla.media.isolated import run_bounded
from clip4vla.media.tools import ffmpeg

SLACK = 1.0  # seconds that a cut file may be longer than its clip
# A clip with 128 Mbit/s, which is more than a camera writes, and the pictures since a key frame.
MOST_BYTES_PER_SECOND, MOST_BYTES_BEFORE = 16_000_000, 64_000_000
MOST_LISTED = 16_000_000  # bytes of the list of packets
_MEANING = {  # of exit codes, which are 256 less ffmpeg's error number
    183: "invalid data",
    234: "a container that is not opened, or codecs that mp4 has no place for",
    244: "out of memory",
}


class CutFailed(Exception):
    """The file that ffmpeg cut is not the clip, or is empty.

    final: another attempt cannot succeed, because the source has nothing in the range.
    """

    def __init__(self, why: str, final: bool = False):
        super().__init__(f"cut failed: {why}")
        self.final = final


class FfmpegStopped(Exception):
    """ffmpeg ended with an error; `status.classify` reads its exit code."""

    def __init__(self, code: int):
        why = f": {_MEANING[code]}" if code in _MEANING else ""
        super().__init__(f"ffmpeg exited with code {code}{why}")
        self.code = code


def most_bytes(seconds: float) -> int:
    """Return the most bytes that a clip of this length can have."""
    return MOST_BYTES_BEFORE + round(MOST_BYTES_PER_SECOND * seconds)


def cut(
    source: Sequence[str],
    target: Path,
    length: float,
    *,
    patience: float,
    largest: int,
    output: Sequence[str] = (),
) -> None:
    """Cut `length` seconds into `target`, an mp4 file with the first picture and sound tracks.

    source: ffmpeg's options of the input, from the whitelists to `-ss` and `-i`; output: more of
    its options of the output; largest: bytes at which ffmpeg stops. Raises CutFailed where the
    source has nothing in the range, or pictures but none there (all sound in the range is copied:
    without any, the source is silent there); FfmpegStopped; Crashed after `patience` seconds;
    OSError for this machine's own disk.
    """
    packets = target.with_suffix(".packets")
    command = [ffmpeg(), "-nostdin", "-y", "-loglevel", "quiet", "-t", str(length), *source]
    command += ["-map", "0:v:0?", "-map", "0:a:0?", "-c", "copy", "-map_metadata", "-1"]
    command += ["-fflags", "+bitexact", *output, "-fs", str(largest), "-f", "mp4"]
    command += [f"file:{target}"]
    # A second output lists the packets: in mp4, a track without any leaves no trace, and one that
    # ends before the clip begins is shown at its beginning. Cover pictures (v, but not V) are no
    # track of their source.
    command += ["-map", "0:V:0?", "-map", "0:a:0?", "-c", "copy", "-fs", str(MOST_LISTED)]
    command += ["-f", "framecrc", f"file:{packets}"]
    code = run_bounded(command, patience)
    if code:
        raise ffmpeg_failure(code) or FfmpegStopped(code)
    with open(packets, encoding="ascii", errors="replace") as lines:
        listed = _listed(lines, length)
    packets.unlink()
    # First, as after the end of a track ffmpeg copies packets from before the clip.
    listed.check(listed.kinds & {"video"}, length)
    check_cut(target, length, largest)


def check_cut(path: Path, length: float, largest: int) -> None:
    """Raise CutFailed for a file that is longer than its clip: it does not begin where it should.

    It may be shorter: many sources end before their last clip does.
    """
    if os.stat(path).st_size >= largest:
        raise CutFailed(f"more than {largest:,} bytes for {length:.1f} s")
    try:
        with open_media(path) as container:
            whole = (container.duration or 0) / 1_000_000
    except DecodeError:
        raise CutFailed("no media file came out of it") from None
    if whole > length + SLACK:
        raise CutFailed(f"the file has {whole:.1f} s, the clip {length:.1f} s")


def check_tracks(path: Path, kinds: Iterable[str], length: float) -> None:
    """Raise CutFailed unless a file that was cut has a packet of every kind within its clip."""
    listed = Packets()
    with open_media(path) as container:
        for packet in packets_of(container, list(container.streams)):
            if packet.size and packet.pts is not None:
                begin = float(packet.pts * packet.time_base)
                seconds = float((packet.duration or 0) * packet.time_base)
                listed.add(packet.stream.type, begin, seconds, length)
    listed.check(set(kinds), length)


@dataclass
class Packets:
    """Kinds of track of a source, and those of them that have a packet within the clip."""

    kinds: set[str] = field(default_factory=set)
    within: set[str] = field(default_factory=set)

    def add(self, kind: str, begin: float, seconds: float, length: float) -> None:
        """Count a packet, in seconds since the beginning of the clip."""
        if begin < length and (begin >= 0 or begin + seconds > 0):
            self.within.add(kind)

    def check(self, needed: set[str], length: float) -> None:
        """Raise CutFailed if nothing lies within the clip, or nothing of a kind that is needed."""
        clip = f"the {length:.1f} s of the clip"
        if not self.within:
            raise CutFailed(f"the source has nothing in {clip}", final=True)
        if missing := needed - self.within:
            raise CutFailed(f"no {' and no '.join(sorted(missing))} in {clip}")


def _listed(lines: Iterable[str], length: float) -> Packets:
    """Parse a list of packets (ffmpeg's framecrc)."""
    listed = Packets()
    kind: dict[str, str] = {}
    base: dict[str, float] = {}
    for line in lines:
        words = line.replace(":", " ").split()
        if line.startswith("#media_type "):
            kind[words[1]] = words[2]
        elif line.startswith("#tb "):
            base[words[1]] = float(Fraction(words[2]))
        elif not line.startswith("#") and len(fields := line.split(",")) >= 5:
            track, _, at, lasts, size = (one.strip() for one in fields[:5])
            if at != "NOPTS" and int(size):
                listed.add(kind[track], int(at) * base[track], int(lasts) * base[track], length)
    listed.kinds = set(kind.values())
    return listed
