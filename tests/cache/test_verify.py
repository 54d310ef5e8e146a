"""Damage of every kind is found, named, and repaired to the frozen bytes or left unchanged."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from features_fakes import CLIPS, fake_audio, fake_frames

from clip4vla.cache.manifest import freeze, read_manifest
from clip4vla.cache.repair import repair
from clip4vla.cache.verify import Damage, verify
from clip4vla.cli import main as cli
from clip4vla.common.files import sha256_of_file, write_parquet
from clip4vla.config import layout
from clip4vla.config.data import Cache
from clip4vla.config.planner import make_plan
from clip4vla.media import decode

REPO = Path(__file__).parents[2]


@pytest.fixture
def version(manifest_path, ledger, monkeypatch):
    """A frozen version of which media can be decoded again, by the fakes that it was made with."""
    monkeypatch.setattr(decode, "sound_blocks", fake_audio)
    monkeypatch.setattr(decode, "decode_frames", fake_frames)
    return manifest_path


@pytest.fixture
def splits():
    return pd.DataFrame(
        [
            {"split": split, "clip_id": clip_id, "captions": [f"about {clip_id}"], "labels": []}
            for split, ids in {"train": [*CLIPS, "gone"], "test": ["charlie", "delta"]}.items()
            for clip_id in ids
        ]
    )


def files_of(manifest_path):
    """Every file of the version but locks, with its bytes."""
    paths = (path for path in manifest_path.parent.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in paths if path.name != ".lock"}


def index_of(manifest_path, clip_id):
    for path in sorted(manifest_path.parent.glob("shards/*.parquet")):
        table = pd.read_parquet(path).set_index("clip_id")
        if clip_id in table.index:
            return path, table.loc[clip_id]
    raise LookupError(clip_id)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


def flip_in_frame(manifest_path):
    index, row = index_of(manifest_path, "bravo")
    flip(index.with_suffix(".tar"), row.frame_offsets[1] + row.frame_sizes[1] // 2)


def flip_log_mel(manifest_path):
    index, row = index_of(manifest_path, "bravo")
    flip(index.with_suffix(".tar"), row.log_mel_offset + 5000)


def flip_tar_header(manifest_path):
    flip(manifest_path.parent / "shards" / "0.tar", 10)


def cut_tar(manifest_path):
    tar = manifest_path.parent / "shards" / "0.tar"
    tar.write_bytes(tar.read_bytes()[: index_of(manifest_path, "charlie")[1].frame_offsets[0]])


def grow_tar(manifest_path):
    with open(manifest_path.parent / "shards" / "0.tar", "ab") as stream:
        stream.write(b"more")


def change_index(manifest_path):
    index = manifest_path.parent / "shards" / "0.parquet"
    write_parquet(index, pd.read_parquet(index).assign(detail="other"))


def remove(name):
    return lambda manifest_path: (manifest_path.parent / name).unlink()


def both(*damages):
    return lambda manifest_path: [damage(manifest_path) for damage in damages]


CHANGED = "has changed since the version was frozen"
FIRST = {"alpha", "bravo", "charlie"}  # of shard 0

# what happens: the lines that verify gives, and the clips whose media a repair needs
DAMAGES = {
    "frame": (flip_in_frame, [rf"0\.tar: {CHANGED}, in clips bravo$"], FIRST),
    "log-mel": (flip_log_mel, [rf"0\.tar: {CHANGED}, in clips bravo$"], FIRST),
    "tar header": (flip_tar_header, [rf"0\.tar: {CHANGED}, in none of its clips$"], FIRST),
    "cut": (cut_tar, [rf"0\.tar: {CHANGED}, in clips charlie$"], FIRST),
    "longer": (grow_tar, [rf"0\.tar: {CHANGED}, in none of its clips$"], FIRST),
    "no tar": (remove("shards/0.tar"), [r"0\.tar: is missing$"], FIRST),
    "index": (change_index, [rf"0\.parquet: {CHANGED}$"], FIRST),
    "no index": (remove("shards/0.parquet"), [r"0\.parquet: is missing$"], FIRST),
    "index and tar": (
        both(change_index, flip_log_mel),
        [rf"0\.parquet: {CHANGED}$", rf"0\.tar: {CHANGED}$"],
        FIRST,
    ),
    "clips": (remove("clips.parquet"), [r"clips\.parquet: is missing$"], set()),
    "splits": (
        lambda manifest_path: (manifest_path.parent / "splits.parquet").write_bytes(b"x"),
        [rf"splits\.parquet: {CHANGED}$"],
        set(),
    ),
    "two shards": (
        both(flip_log_mel, remove("shards/1.tar")),
        [r"0\.tar: .* in clips bravo$", r"1\.tar: is missing$"],
        set(CLIPS),
    ),
}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_version_has_no_damage(manifest_path, workers):
    before = files_of(manifest_path)
    assert verify(manifest_path, workers) == []
    assert files_of(manifest_path) == before


def test_there_are_no_more_processes_than_shards(manifest_path, monkeypatch):
    asked = []

    def pool(workers):
        asked.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr("clip4vla.cache.verify.ProcessPoolExecutor", pool)
    assert verify(manifest_path, 100_000) == []
    assert asked == [len(read_manifest(manifest_path)["shards"])]


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_repaired(version, ledger, splits, kind):
    """Only the damaged shards need the media of their clips."""
    damage, lines, needed = DAMAGES[kind]
    frozen = files_of(version)
    damage(version)
    found = verify(version)
    assert len(found) == len(lines)
    for one, line in zip(found, lines, strict=True):
        assert "\n" not in str(one)
        assert re.search(line, str(one))
    for clip in ledger.itertuples():
        if clip.fetch == "ok" and clip.clip_id not in needed:
            Path(clip.path).unlink()
    assert repair(version, found, ledger, splits) == []
    assert files_of(version) == frozen
    assert verify(version) == []


@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if DAMAGES[kind][2]])
def test_lost_media_are_named_and_nothing_is_touched(version, ledger, splits, kind):
    damage, _, needed = DAMAGES[kind]
    damage(version)
    shutil.rmtree(Path(ledger.path[0]).parent)
    before, found = files_of(version), verify(version)
    problems = repair(version, found, ledger, splits)
    assert all(
        "\n" not in line and "clip4vla data fetch demo-v1-0a1b2c" in line for line in problems
    )
    for clip_id in needed:
        assert any(clip_id in line for line in problems)
    assert files_of(version) == before


def test_other_bytes_are_refused(version, ledger, splits, monkeypatch):
    """The media changed, or the decoder did: the version keeps its name, so it is left alone."""
    flip_log_mel(version)
    monkeypatch.setattr(decode, "sound_blocks", lambda path: (fake_audio(path)[0] * 0.5, 16000))
    before = files_of(version)
    (problem,) = repair(version, verify(version), ledger, splits)
    assert "0.tar: media or tools give other bytes" in problem and "pillow" in problem
    assert files_of(version) == before


def test_tables_from_another_ledger_are_refused(version, ledger, splits):
    remove("clips.parquet")(version)
    before = files_of(version)
    other = ledger.assign(duration=ledger.duration + 1)
    (problem,) = repair(version, verify(version), other, splits)
    assert "clips.parquet: the ledger" in problem
    assert files_of(version) == before


def test_an_index_of_older_tools_is_repaired(version, ledger, splits):
    """The index names the versions of its day; those of today do not enter a repaired one."""
    frozen = version.read_text().replace("pillow", "pillow-of-old")
    index = version.parent / "shards" / "0.parquet"
    table = pd.read_parquet(index)
    write_parquet(index, table.assign(tools=table.tools.str.replace("pillow", "pillow-of-old")))
    manifest = read_manifest(version)
    version.write_text(frozen.replace(manifest["shards"][0]["index_sha256"], sha256_of_file(index)))
    before = files_of(version)
    index.unlink()
    assert repair(version, verify(version), ledger, splits) == []
    assert files_of(version) == before


def test_clips_that_never_decoded_stay_out(version, ledger, splits, build, monkeypatch):
    """A clip that is in the index as decode_error fails again."""

    def frames(path, fps, seconds):
        if "bravo" in path:
            raise ValueError("no key frame")
        return fake_frames(path, fps, seconds)

    folder = version.parent
    write_parquet(folder / "shards/0.parquet", build(folder / "shards/0.tar", frames=frames))
    indexes = [folder / "shards" / f"{shard}.parquet" for shard in (0, 1)]
    freeze(ledger, splits, indexes, "demo-v1-0a1b2c", Cache(), folder)
    before = files_of(version)
    monkeypatch.setattr(decode, "decode_frames", frames)
    remove("shards/0.tar")(version)
    assert repair(version, verify(version), ledger, splits) == []
    assert files_of(version) == before


@pytest.fixture
def refreeze(version, splits, build):
    """Freezes the same clips again, with what another ledger says of them; gives their files."""

    def refreeze(ledger):
        folder = version.parent
        for shard in (0, 1):
            tar = folder / "shards" / f"{shard}.tar"
            write_parquet(tar.with_suffix(".parquet"), build(tar, shard, ledger))
        indexes = [folder / "shards" / f"{shard}.parquet" for shard in (0, 1)]
        freeze(ledger, splits, indexes, "demo-v1-0a1b2c", Cache(), folder)
        return files_of(version)

    return refreeze


@pytest.fixture
def sounds(ledger):
    """The same clips as sound files, as in ESC-50; charlie is digital silence."""
    audio = ledger.audio.replace("no_audio_stream", "digital_silence")
    return ledger.assign(file=ledger.clip_id + ".wav", video="no_video_stream", audio=audio)


@pytest.mark.parametrize("kind", ["log-mel", "tar header", "longer", "no tar", "no index"])
def test_versions_of_sound_files(version, sounds, splits, refreeze, kind):
    """No clip has frames, and a silent one has no place in the index at all."""
    frozen = refreeze(sounds)
    assert index_of(version, "charlie")[1].cache == "ok"
    assert verify(version) == []
    damage, (line,), needed = DAMAGES[kind]
    damage(version)
    (found,) = verify(version)
    assert re.search(line, str(found))
    for clip in sounds.itertuples():
        if clip.fetch == "ok" and clip.clip_id not in needed:
            Path(clip.path).unlink()
    assert repair(version, [found], sounds, splits) == []
    assert files_of(version) == frozen


def test_lost_sound_files_are_named(version, sounds, splits, refreeze):
    refreeze(sounds)
    flip_log_mel(version)
    shutil.rmtree(Path(sounds.path[0]).parent)
    before = files_of(version)
    (problem,) = repair(version, verify(version), sounds, splits)
    assert "the media of 3 clips are gone: alpha, bravo, charlie" in problem
    assert files_of(version) == before


def test_a_video_without_pictures_stays_out(version, ledger, splits, refreeze):
    """It is not usable, so neither the builder nor a repair takes it in."""
    deaf = ledger.assign(video=ledger.video.where(ledger.clip_id != "alpha", "no_video_stream"))
    frozen = refreeze(deaf)
    Path(ledger.path[0]).unlink()
    flip_log_mel(version)
    assert repair(version, verify(version), deaf, splits) == []
    assert files_of(version) == frozen


def test_the_command_prints_damage_and_exits_with_a_code(
    version, ledger, splits, tmp_path, monkeypatch, capsys
):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    files = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
    values = '{"targets": ["demo_classification"]}'
    (at,) = [key for key in make_plan(files, {"targets": ["demo_classification"]}).caches][:1]
    folder = Path(layout.cache_dir(*at))
    shutil.copytree(version.parent, folder)
    write_parquet(folder.parent / "ledger.parquet", ledger)
    write_parquet(folder.parent / "splits.parquet", splits)
    frozen = files_of(folder / "manifest.json")

    def run(*arguments):
        configs = [part for path in files for part in ("--config", str(path))]
        with pytest.raises(SystemExit) as left:
            cli.main(["data", "verify", *arguments, *configs, "--set", values, "--threads", "1"])
        out = capsys.readouterr()
        return left.value.code, out.out + out.err

    assert run(at[0])[0] == 0
    flip_log_mel(folder / "manifest.json")
    code, said = run(at[0])
    assert code == 1 and "0.tar: has changed" in said and "bravo" in said and "--repair" in said
    code, said = run("--repair", "demo")
    assert code == 0 and "repaired, the same bytes as frozen" in said
    assert files_of(folder / "manifest.json") == frozen
    flip_log_mel(folder / "manifest.json")
    shutil.rmtree(Path(ledger.path[0]).parent)
    code, said = run("--repair")
    assert code == 1 and "the media of 3 clips are gone: alpha, bravo" in said
    code, said = run("nobody")
    assert code == 78 and "no dataset 'nobody'" in said and "demo" in said
    (folder / "manifest.json").unlink()
    assert run(at[0])[0] == 78
    code, said = run()
    assert code == 0 and "not frozen yet" in said


def test_damage_is_one_line():
    assert str(Damage(Path("a/0.tar"), "is missing", 0)) == "a/0.tar: is missing"
