"""Shards under kill -9 and on full disks, on any frame rate, with the same bytes everywhere."""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import shard_jobs
from features_fakes import CLIPS
from shard_jobs import SHARDS, files, put_ledger

from clip4vla.cache.manifest import freeze
from clip4vla.cache.shards import build_shard
from clip4vla.cli import main as cli
from clip4vla.common.files import sha256_of_file, write_parquet
from clip4vla.config.data import Cache, Frames

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(ledger, tmp_path, kills):
    ledger.to_parquet(tmp_path / "ledger.parquet")
    command = [sys.executable, HELPERS / "shard_jobs.py", tmp_path, str(kills), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 0, "no kill came in time: the test shows nothing"


def undisturbed(tmp_path, ledger, monkeypatch):
    """Hashes of shard 0, and the sizes of its files."""
    home = tmp_path / "undisturbed"
    put_ledger(home, ledger)
    with monkeypatch.context() as patch:
        patch.chdir(home)
        shard_jobs.build(0)
    sizes = {path.name: path.stat().st_size for path in (home / SHARDS).glob("0.*")}
    return files(home), sizes


def build_or_say(capsys):
    """Exit code and messages of the job, as the command line gives them."""
    try:
        with cli.one_line_errors():
            shard_jobs.build(0)
    except SystemExit as left:
        return left.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(mount, capture_output=True).returncode == 0:
            yield disk
            os.chdir("/")
            subprocess.run(["umount", str(disk)], check=True)
            return
    pytest.skip("only root can mount a small disk here")


@pytest.mark.parametrize("full_at", ["tar", "index"])
def test_a_full_disk(ledger, tmp_path, monkeypatch, capsys, small_disk, full_at):
    """One line, no half file; after space is freed the same command ends with the same bytes."""
    expected, sizes = undisturbed(tmp_path, ledger, monkeypatch)
    put_ledger(small_disk, ledger)
    monkeypatch.chdir(small_disk)
    lock = 4096  # a page for what stands in it
    beside_the_tar = lock + sizes["0.parquet"] // 2
    free = sizes["0.tar"] // 2 if full_at == "tar" else sizes["0.tar"] + beside_the_tar
    filler = small_disk / "filler"
    space = os.statvfs(small_disk)
    filler.write_bytes(bytes(space.f_bavail * space.f_bsize - free))
    code, said = build_or_say(capsys)
    assert code == 78 and said.count("\n") == 1 and "the disk is full. Fix: free some space" in said
    assert set(files(small_disk)) <= {"0.tar"}
    assert files(small_disk).items() <= expected.items()
    assert ("0.tar" in files(small_disk)) == (full_at == "index")
    filler.unlink()
    assert build_or_say(capsys) == (0, "")
    assert files(small_disk) == expected


def test_a_limit_on_file_sizes(ledger, tmp_path, monkeypatch, capsys):
    """As a full disk, for those who may not mount one."""
    expected, sizes = undisturbed(tmp_path, ledger, monkeypatch)
    home = tmp_path / "home"
    put_ledger(home, ledger)
    monkeypatch.chdir(home)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes["0.tar"] // 2, before[1]))
    try:
        code, said = build_or_say(capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 78 and said.count("\n") == 1 and "the file would be too large" in said
    assert files(home) == {}
    assert build_or_say(capsys) == (0, "")
    assert files(home) == expected


def test_equal_bytes_in_any_environment(ledger, tmp_path, monkeypatch):
    """Another user's mask, zone, hash seed and number of threads."""
    expected, _ = undisturbed(tmp_path, ledger, monkeypatch)
    home = tmp_path / "home"
    put_ledger(home, ledger)
    code = "import os, torch; os.umask(0o077); torch.set_num_threads(2)\n"
    code += "import shard_jobs; shard_jobs.build(0)"
    around = {
        "TZ": "Asia/Tokyo",
        "PYTHONHASHSEED": "7",
        "LC_ALL": "C",
        "PYTHONPATH": ":".join(sys.path),
    }
    subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=os.environ | around, check=True, timeout=120
    )
    assert files(home) == expected


def make_video(path, seconds, channels):
    """A real file: 10 pictures a second, each of another brightness, and noise."""
    rng = np.random.default_rng(channels)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        layout = "mono" if channels == 1 else "stereo"
        audio = container.add_stream("pcm_s16le", rate=16000, layout=layout)
        for number in range(int(seconds * 10)):
            picture = np.full((48, 64, 3), 20 + 10 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        noise = rng.integers(-3000, 3000, (1, int(seconds * 16000) * channels), np.int16)
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout=layout)
        frame.sample_rate = 16000
        container.mux(audio.encode(frame))
        for stream in (video, audio):
            container.mux(stream.encode(None))


@pytest.mark.parametrize(("fps", "count"), [(0.5, 1), (1.0, 2), (3.0, 6), (25.0, 50)])
def test_frames_on_any_grid(ledger, tmp_path, fps, count):
    """2 s of real video: picture i of the cache is the one shown at i / fps seconds."""
    path = tmp_path / "real.mkv"
    make_video(path, 2.0, 1)
    rows = ledger.iloc[:1].assign(path=str(path))
    index = build_shard(rows, Cache(frames=Frames(fps=fps)), tmp_path / "0.tar").iloc[0]
    assert index.cache == "ok" and index.n_frames == count
    with tarfile.open(tmp_path / "0.tar") as tar:
        about = json.load(tar.extractfile("alpha.json"))
        frames = [tar.extractfile(f"alpha.{i:06d}.jpg").read() for i in range(count)]
    assert about["fps"] == fps and about["n_frames"] == count
    from PIL import Image

    for number, jpeg in enumerate(frames):
        brightness = np.asarray(Image.open(io.BytesIO(jpeg))).mean()
        assert abs(brightness - (20 + 10 * int(number / fps * 10 + 1e-6))) < 6


@pytest.mark.parametrize(("channels", "stored"), [(1, 1), (2, 3)])
def test_mono_is_stored_once(ledger, tmp_path, channels, stored):
    path = tmp_path / "real.mkv"
    make_video(path, 1.0, channels)
    rows = ledger.iloc[:1].assign(path=str(path))
    index = build_shard(rows, Cache(), tmp_path / "0.tar").iloc[0]
    assert index.channels == stored and index["T"] == 126
    with tarfile.open(tmp_path / "0.tar") as tar:
        array = np.load(io.BytesIO(tar.extractfile("alpha.logmel.npy").read()), allow_pickle=False)
    assert array.dtype == np.float16 and array.shape == (stored, 126, 224)
    if stored == 3:
        assert (array[0] != array[2]).any() and (array[0] != array[1]).any()


def test_tools_name_the_libraries_that_decide_the_bytes(build, tmp_path):
    (tools,) = set(build(tmp_path / "0.tar").tools)
    for name in ("pyav ", "libavcodec ", "pillow ", "libjpeg ", "torch ", "torchaudio "):
        assert name in tools


def variants(ledger, splits):
    """(name, arguments of freeze) of versions that each differ in one thing."""
    shared = {"ledger": ledger, "splits": splits, "dataset": "demo-v1-0a1b2c", "cache": Cache()}
    renamed = ledger.assign(tool=ledger.tool.replace("local", "yt-dlp 9"))
    return {
        "same": shared,
        "name": shared | {"dataset": "demo-v2-0a1b2c"},
        "settings": shared | {"cache": Cache(frames=Frames(fps=2.0))},
        "silence": shared | {"ledger": ledger.assign(audio="no_audio_stream")},
        "duration": shared | {"ledger": ledger.assign(duration=ledger.duration + 0.1)},
        "fetcher": shared | {"ledger": renamed},
        "decoder": shared | {"ledger": ledger.assign(decoder="fake 2")},
        "caption": shared | {"splits": splits.assign(captions=[["other"]] * len(splits))},
        "label": shared | {"splits": splits.assign(labels=[["other"]] * len(splits))},
        "planned": shared | {"splits": splits.iloc[:-1]},
    }


def test_whatever_changes_a_version_changes_its_identity(manifest_path, ledger, cache, build):
    folder, seen = manifest_path.parent, {}

    def identity(shards=(0, 1), **changes):
        indexes = [folder / "shards" / f"{shard}.parquet" for shard in shards]
        freeze(indexes=indexes, out_dir=folder, **changes)
        return sha256_of_file(manifest_path)

    every = variants(ledger, cache.splits)
    for name, changes in every.items():
        seen[name] = identity(**changes)
    seen["a shard more"] = None
    write_parquet(folder / "shards/2.parquet", build(folder / "shards/2.tar", 2))
    seen["a shard more"] = identity((0, 1, 2), **every["same"])
    seen["a shard less"] = identity((0,), **every["same"])
    index = folder / "shards/0.parquet"
    table = pd.read_parquet(index)
    write_parquet(index, table.assign(tools=table.tools + ", libx 2"))
    seen["tools"] = identity(**every["same"])
    write_parquet(index, build(folder / "shards/0.tar", rows=ledger[ledger.clip_id != "bravo"]))
    seen["a clip less"] = identity(**every["same"])
    write_parquet(index, build(folder / "shards/0.tar"))
    assert identity(**every["same"]) == seen["same"]
    assert len(set(seen.values())) == len(seen), seen
    assert set(CLIPS) == set(cache.clips.clip_id)
