"""Sides of benchmarks do equal work: what they check of each other fails where they differ."""

import io
import tarfile
from types import SimpleNamespace

import bench
import frontend
import numpy as np
import pytest
import read_checks
import reader
import shard_build
import suite
import torch

from clip4vla.config.sections import Masking
from clip4vla.loading.masking import draw_masks
from clip4vla.media.decode import decode_audio


def result(value):
    """A round that only has a result."""
    return SimpleNamespace(result=value)


def batch(seed):
    """A batch of two clips with three frames each."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (2, 3, 3, 8, 8), generator=generator, dtype=torch.uint8)
    audio = torch.randn(2, 1, 3, 8, 8, generator=generator)
    return {"frames": frames, "audio": audio, "tokens": torch.ones(2, 4)}


def test_all_clips_of_the_readers_are_compared():
    ours, usual = batch(0), batch(0)
    assert reader.differences(ours, usual) == [0, 0, 0]
    usual["audio"][1, 0, 2, 7, 7] += 0.5
    usual["frames"][1] = 255 - usual["frames"][1]
    sound, frames, pixel = reader.differences(ours, usual)
    assert sound == pytest.approx(0.5)
    assert frames > 100 and pixel > 200


def test_one_channel_of_sound_stands_for_three():
    ours, usual = batch(0), batch(0)
    ours["audio"] = ours["audio"][:, :, :1]
    usual["audio"] = ours["audio"].expand(-1, -1, 3, -1, -1).contiguous()
    assert reader.differences(ours, usual)[0] == 0


def test_readers_must_give_frames_of_the_same_kind():
    ours, usual = batch(0), batch(0)
    usual["frames"] = usual["frames"].float()
    with pytest.raises(SystemExit, match="kinds of numbers that differ: 1"):
        reader.differences(ours, usual)


def test_stereo_samples_have_two_different_channels():
    _, frames, sound = next(iter(reader.material(2)))
    assert sound.shape == (2, reader.SECONDS * reader.RATE)
    assert len(frames) == reader.FRAMES
    assert np.abs(sound[0] - sound[1]).max() > 0.01


def test_masks_that_are_drawn_one_by_one_are_those_of_the_package():
    seeds = range(20)
    rngs = lambda: map(np.random.default_rng, seeds)  # noqa: E731
    ours = [draw_masks(frontend.STEPS, frontend.BANDS, Masking(), rng) for rng in rngs()]
    theirs = [frontend.masks_one_by_one(rng) for rng in rngs()]
    assert "differ: 0 " in frontend.masks_that_differ(result(ours), result(theirs))
    theirs[3][0][7] ^= True
    with pytest.raises(SystemExit, match="whose masks differ: 1, allowed 0"):
        frontend.masks_that_differ(result(ours), result(theirs))


def test_spectrograms_may_differ_by_half_precision_alone():
    exact = [np.linspace(-100, 20, 1000, dtype=np.float32)]
    half = [torch.from_numpy(exact[0]).half()]
    note = frontend.difference(unit=10 / np.log(10))
    assert note(result(half), result(exact)).startswith("greatest difference 0.03")
    with pytest.raises(SystemExit, match="greatest difference"):
        note(result(half), result([exact[0] + 0.05]))


def test_every_read_or_none_is_checked(tmp_path):
    """The benchmark itself fails if a side checks other reads than it says."""
    line = "read_checks.py --clips 2 --reads 4 --rounds 1"
    record = suite.run_one("read_checks", line, tmp_path, 300)
    few, every = record["rows"]
    assert few["note"].endswith("a round; tensors that differ: 0 (allowed 0)"), record
    assert " of 4 reads checked" in few["note"]
    assert every["note"].startswith("2 of 2 reads checked, 2 to 2 a round")


def test_checks_beyond_their_share_end_the_benchmark():
    side = lambda checked: SimpleNamespace(checked=checked, times=1, samples=range(1000))  # noqa: E731
    same = result({"audio": torch.zeros(1)})
    note = lambda ours, plain: read_checks.checks_of(side(ours), side(plain), 32)(same, same)  # noqa: E731
    assert note([0, 31], [0, 0]).startswith("31 of 1000 reads checked, 31 to 31 a round")
    with pytest.raises(SystemExit, match="checked reads beyond their share"):
        note([31, 0, 0], [0, 0, 0])
    with pytest.raises(SystemExit, match="of the unchecked side 1"):
        note([0, 31], [0, 1])


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    """A clip with stereo sound, and its shard."""
    home = tmp_path_factory.mktemp("stereo")
    clips = shard_build.encoded(shard_build.ledger_of(bench.DEMO, 1), 2, home)
    shard_build.shard(clips, home / "shard")
    return clips, home / "shard"


def test_stereo_clips_are_made_of_mono_ones(stereo):
    (clip,) = stereo[0].itertuples()
    left, right = decode_audio(clip.path)[0]
    delay = 20 * clip.sample_rate // 1000
    assert np.corrcoef(left[:-delay], right[delay:])[0, 1] > 0.95
    assert np.std(right) == pytest.approx(0.7 * np.std(left), rel=0.1)


@pytest.mark.parametrize("louder, brighter", [(0, 0), (1, 0), (0, 20)])
def test_shards_are_compared_with_files(stereo, tmp_path, louder, brighter):
    clips, out = stereo
    name = clips.clip_id.iloc[0]
    (tmp_path / name).mkdir()
    with tarfile.open(out / "0.tar") as tar:
        for member in tar.getnames():
            content = tar.extractfile(member).read()
            if member.endswith(".jpg"):
                (tmp_path / name / member.removeprefix(f"{name}.")).write_bytes(content)
            elif member.endswith(".logmel.npy"):
                log_mel = np.load(io.BytesIO(content)).astype(np.float32) + louder
                np.save(tmp_path / name / "log_mel.npy", log_mel)
    if brighter:
        first = tmp_path / name / "000000.jpg"
        pixels = np.clip(shard_build.picture(first) + brighter, 0, 255).astype(np.uint8)
        shard_build.Image.fromarray(pixels).save(first, quality=95)
    sound, frames = shard_build.differences(name, out, tmp_path)
    assert sound == pytest.approx(louder)
    assert frames == pytest.approx(brighter, rel=0.2)


def test_shards_and_files_have_the_same_frames(stereo, tmp_path):
    clips, out = stereo
    with pytest.raises(SystemExit, match="frames that one side lacks: 10, allowed 0"):
        shard_build.differences(clips.clip_id.iloc[0], out, tmp_path)
