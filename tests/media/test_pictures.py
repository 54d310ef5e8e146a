"""Pictures as a viewer sees them, compared with the project's ffmpeg binary."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from odd_media import ffmpeg, interlaced, record

from clip4vla.media.decode import decode_frames, open_media, picture_stream
from clip4vla.media.pictures import _orientation, as_shown, pixel_stretch, timed

UNIT = 1 << 16


def painted(path, **how):
    """A picture whose four corners differ, so that no turn or mirror leaves it as it was."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        if "matrix" in how:
            stream.set_display_matrix(how["matrix"])
        if "aspect" in how:
            stream.codec_context.sample_aspect_ratio = how["aspect"]
        if "space" in how:
            stream.codec_context.colorspace, stream.codec_context.color_range = how["space"]
        planes = np.full((3, 48, 64), 128, np.uint8)
        planes[0, :24, :32], planes[0, 24:, 32:], planes[0, 24:, :32] = 40, 120, 230
        planes[1, :24, 32:], planes[2, :, :20] = 200, 90
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
            if "space" in how:
                frame.colorspace, frame.color_range = how["space"]
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def theirs(path, height, width, *filters):
    raw = ffmpeg("-i", path, *filters, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize(
    "matrix",
    [
        [a * UNIT, b * UNIT, 0, c * UNIT, d * UNIT, 0, 0, 0, 1 << 30]
        for a, b, c, d in [
            *((a, 0, 0, d) for a, d in itertools.product((1, -1), (1, -1))),
            *((0, b, c, 0) for b, c in itertools.product((1, -1), (1, -1))),
        ]
    ],
    ids=str,
)
def test_all_eight_orientations(tmp_path, matrix):
    path = painted(tmp_path / "x.mp4", matrix=matrix)
    ours = next(decode_frames(path, 1))
    other = theirs(path, *ours.shape[:2])
    assert np.abs(ours.astype(int) - other).max() <= 2
    plain = next(decode_frames(painted(tmp_path / "plain.mp4"), 1))
    same = ours.shape == plain.shape and np.abs(ours.astype(int) - plain).max() < 10
    assert same == (matrix[0] == matrix[4] == UNIT)


@pytest.mark.parametrize("turn", [90, -90, 180, 0])
def test_a_turn_beside_data_of_an_unknown_kind(tmp_path, turn):
    """PyAV raises then for all data of a frame; the turn is there all the same."""
    with open_media(record(tmp_path / "x.mp4", turn=turn, sound=None)) as container:
        frame = next(container.decode(video=0))

    class Unnamed:
        rotation = frame.rotation

        @property
        def side_data(self):
            raise ValueError("30 is not a valid Type")

    assert _orientation(Unnamed()) == _orientation(frame)


@pytest.mark.parametrize("space", [(1, 1), (5, 1), (6, 2), (1, 2), (9, 1)], ids=str)
def test_colours_follow_the_matrix_and_range_of_the_file(tmp_path, space):
    path = painted(tmp_path / "x.mp4", space=space)
    ours = next(decode_frames(path, 1))
    assert np.abs(ours.astype(int) - theirs(path, 48, 64)).max() <= 2


def test_colours_by_an_unknown_standard_are_as_if_none_were_named(tmp_path):
    with open_media(painted(tmp_path / "x.mp4")) as container:
        frame = next(container.decode(video=0))
    plain = as_shown(frame)
    frame.colorspace = frame.color_trc = 110
    assert np.array_equal(as_shown(frame), plain)


def test_matrices_differ(tmp_path):
    one, two = (
        next(decode_frames(painted(tmp_path / f"{space}.mp4", space=(space, 1)), 1))
        for space in (1, 5)
    )
    assert np.abs(one.astype(int) - two).max() > 10


def test_pixels_that_are_not_square(tmp_path):
    path = painted(tmp_path / "x.mp4", aspect=Fraction(3, 2))
    ours = next(decode_frames(path, 1))
    assert ours.shape == (48, 96, 3)
    other = theirs(path, 48, 96, "-vf", "scale=iw*sar:ih:flags=bicubic")
    assert np.abs(ours.astype(int) - other).mean() < 2


def combs(picture):
    """How much neighbouring lines differ more than lines two apart do."""
    lines = picture[..., 0].astype(float)
    return np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean()


def test_interlaced_frames_are_deinterlaced(tmp_path):
    path = tmp_path / "x.mpg"
    interlaced(path)
    with open_media(path) as container:
        woven = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    ours = list(decode_frames(path, 25))
    assert len(ours) == len(woven) == 25
    assert np.mean([combs(picture) for picture in woven]) > 10
    assert max(combs(picture) for picture in ours[1:]) < 4
    bar = ours[5][..., 0].mean(axis=0)
    assert np.flatnonzero(bar > 128).mean() == 8 + 4 * 5 + 8 + 7.5  # the lower field is the first


def test_a_change_of_size_amid_interlaced_frames(tmp_path):
    parts = []
    for number, size in enumerate([(64, 48), (96, 64)]):
        path = tmp_path / f"{number}.m2v"
        record(path, container="mpeg2video", codec="mpeg2video", fps=25, size=size, sound=None,
               options={"flags": "+ildct+ilme"})  # fmt: skip
        parts.append(path.read_bytes())
    (tmp_path / "both.mpg").write_bytes(b"".join(parts))
    shapes = [picture.shape[:2] for picture in decode_frames(tmp_path / "both.mpg", 25)]
    assert set(shapes) == {(48, 64), (64, 96)} and len(shapes) >= 40


def test_time_never_runs_back_nor_far_ahead(tmp_path):
    path = record(tmp_path / "x.mkv", times=[0, 100, 200], sound=None)

    class Frame:
        def __init__(self, seconds):
            self.time, self.duration, self.time_base = seconds, 1, Fraction(1, 10)

    def begins(*stamps):
        with open_media(path) as container:
            stream = picture_stream(container)
            return [round(at, 3) for at, _, _ in timed(map(Frame, stamps), stream)]

    assert begins(5, 5.1, 5.2) == [0, 0.1, 0.2]
    assert begins(0, None, None) == [0, 0.1, 0.2]
    assert begins(0, 0.1, 9e9, 9e9 + 0.1) == [0, 0.1, 0.2, 0.3]
    assert begins(90, 90.1, 0, 0.1) == [0, 0.1, 0.2, 0.3]
    assert begins(0, 500, 500.1) == [0, 500, 500.1]
    assert begins(None, None, 3, 3.1) == [0, 0.1, 0.2, 0.3]
    assert begins(5, 5.9, 5, 5.1) == [0, 0.9, 1.0, 1.1]  # a second recording of less than a second
    assert begins(0, 0.2, 0.1, 0.3) == [0, 0.2, 0.1, 0.3]  # disorder is no new start


def test_an_implausible_pixel_aspect_is_ignored():
    class Stream:
        sample_aspect_ratio = None

    for aspect, taken in [(None, 1), (Fraction(0), 1), (Fraction(4, 3), 4 / 3), (Fraction(9), 1)]:
        Stream.sample_aspect_ratio = aspect
        assert pixel_stretch(Stream) == taken
