"""Pictures as a viewer sees them: timed, deinterlaced, with square pixels and upright.

As in libav's own player, frames that are marked as interlaced are deinterlaced (yadif), pixels that
are not square are stretched to the display aspect, the display matrix of phones is applied, and
colours follow the file's own matrix and range.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.stream import VideoStream

MOST_PIXELS = 1 << 26  # 8192 x 8192; a header with more is rejected
LONGEST_SHOWN = 600.0  # seconds; a time stamp that jumps further is corrupt, as is one that
FURTHEST_BACK = 0.5  # goes back by more than this: careless encoders write smaller disorder
FRAME_RATES = (0.1, 1000.0)  # plausible pictures a second in a header
HEADER_TIMED = ("avi", "h264", "hevc", "m4v", "mpegvideo")  # packets have no stamps
USUAL_SECONDS = 0.04  # of a picture without a known duration
UNSPECIFIED = 2  # libav's number for colours that a file does not specify
_TURNS = {  # degrees, as libav counts them: see `_orientation`
    -90: (True, True, False),
    90: (True, False, True),
    180: (False, True, True),
    -180: (False, True, True),
}
MOST_STRETCH = 4.0  # of a pixel, width : height or the inverse; more is implausible


def credible_rate(stream: VideoStream) -> bool:
    """Return whether the header's frame rate is plausible, if only it determines the times."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate or stream.container.format.name not in HEADER_TIMED:
        return True
    return FRAME_RATES[0] <= rate <= FRAME_RATES[1]


def timed(
    frames: Iterable[av.VideoFrame], stream: VideoStream
) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """Yield (begin, length, frame) of pictures, in seconds from the first.

    Where time stamps jump, begin late or follow from an implausible rate, the next picture follows
    the last one at once.
    """
    credible = credible_rate(stream)
    rate = stream.average_rate or stream.guessed_rate
    usual = 1.0 / float(rate) if rate and credible else USUAL_SECONDS
    origin: float | None = None
    before, until = 0.0, 0.0  # before: when the last picture began
    for frame in frames:
        time: float | None = frame.time if credible else None
        at = until
        if time is not None:
            if origin is None:
                origin = time - until
            at = time - origin
            if not before - FURTHEST_BACK <= at <= until + LONGEST_SHOWN:
                origin, at = time - until, until
        at = max(at, 0.0)
        length = usual
        if frame.duration and frame.time_base and credible:
            length = float(frame.duration * frame.time_base)
        length = min(max(length, 0.0), LONGEST_SHOWN)
        yield at, length, frame
        before, until = at, at + length


def progressive(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Yield the frames deinterlaced: lines of the second field are interpolated.

    Frames before the first interlaced one are not changed, and so are all of a progressive file.
    """
    graph, form = None, None
    for frame in frames:
        new = (frame.width, frame.height, frame.format.name)
        if new != form:
            yield from _rest(graph)
            graph, form = None, new
        if graph is None and frame.interlaced_frame and min(frame.width, frame.height) > 2:
            graph = _deinterlacer(frame)
        if graph is None:
            yield frame
        else:
            graph.push(frame)
            yield from _pulled(graph)
    yield from _rest(graph)


def _deinterlacer(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    yadif = graph.add("yadif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, yadif, graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return


def _rest(graph: Graph | None) -> Iterator[av.VideoFrame]:
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def pixel_stretch(stream: VideoStream) -> float:
    """Return the width of a pixel over its height; 1 where the file has no plausible value."""
    aspect = stream.sample_aspect_ratio
    stretch = float(aspect) if aspect else 1.0
    return stretch if 1 / MOST_STRETCH <= stretch <= MOST_STRETCH else 1.0


def shown_size(frame: av.VideoFrame, stretch: float) -> tuple[int, int]:
    """Return (width, height) in pixels of a frame after `as_shown`."""
    width = max(1, round(frame.width * stretch))
    swapped, _, _ = _orientation(frame)
    return (frame.height, width) if swapped else (width, frame.height)


def as_shown(frame: av.VideoFrame, stretch: float = 1.0, scale: float = 1.0) -> np.ndarray:
    """Return RGB pixels uint8 [H, W, 3]: `stretch` times as wide, then turned by display matrix.

    scale: of both sides, applied before the colours are converted, which saves most of the time.
    Raises libav's FFmpegError for pixels that it cannot convert.
    """
    size: dict[str, Any] = {"threads": 1}  # a thread that cannot start is an error of libav's
    if stretch != 1.0 or scale != 1.0:
        size |= {"width": max(1, round(frame.width * stretch * scale)), "interpolation": "BICUBIC"}
    if scale != 1.0:
        size["height"] = max(1, round(frame.height * scale))
    try:
        pixels = frame.to_ndarray(format="rgb24", **size)
    except (av.error.BlockingIOError, av.error.MemoryError):  # not of this picture
        raise
    except av.FFmpegError:  # an unknown colour standard: convert as if none were specified
        frame.colorspace = frame.color_primaries = frame.color_trc = UNSPECIFIED
        pixels = frame.to_ndarray(format="rgb24", **size)
    swapped, leftwards, upwards = _orientation(frame)
    if swapped:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: -1 if upwards else 1, :: -1 if leftwards else 1])


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return (axes swapped, then x runs leftwards, then y runs upwards) by the display matrix.

    The matrix [[a, b], [c, d]] maps stored (x, y) to (a x + c y, b x + d y). Other angles are
    rounded to the nearest quarter turn, so that nothing is cropped.
    """
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")  # PyAV's types know one kind only
    except ValueError:  # the frame carries data of a kind that PyAV has no name for
        return _TURNS.get(frame.rotation, (False, False, False))
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = (int(number) for number in np.frombuffer(bytes(data), np.int32)[:9])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0
