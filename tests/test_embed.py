"""Embedding of texts, sounds and videos: `clip4vla.load` and `clip4vla embed`, on demo clips."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import clip4vla
from clip4vla.cli import main
from clip4vla.config.data import Cache
from clip4vla.config.sections import Inputs, Model
from clip4vla.config.settings import Settings
from clip4vla.embedding import reading
from clip4vla.embedding.reading import pictures, sounds
from clip4vla.embedding.table import read_description
from clip4vla.errors import UserError
from clip4vla.evaluation.features import embed_clips, embed_texts
from clip4vla.features.cache import ClipCache
from clip4vla.features.log_mel import LogMelFrontend
from clip4vla.features.manifest import freeze
from clip4vla.features.samples import ClipSamples
from clip4vla.features.shards import build_shard
from clip4vla.files import write_parquet
from clip4vla.media.decode import decode_audio
from clip4vla.models.build import build_model
from clip4vla.models.checkpoint import write_checkpoint
from clip4vla.stages import embed as stage

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo" / "clips"
SOUNDS = {
    "say_dog": "ok",
    "bbb_040": "ok",
    "bbb_030": "no_audio_stream",
    "bbb_120": "digital_silence",
}
PATHS = [DEMO / f"{name}.mp4" for name in SOUNDS]
INPUTS = Inputs(max_frames=3, max_segments=2, max_words=9)
CLOSE = {"rtol": 0.0, "atol": 1e-5}


def write_tiny(path, **others):
    settings = Settings(
        model=Model(architecture="tiny", weights=None, **others.pop("model", {})),
        inputs=INPUTS,
        **others,
    )
    model = build_model(settings.model, {}, settings.head, None, 5, settings.inputs)
    write_checkpoint(path, model, settings, {})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("weights") / "model.safetensors")


@pytest.fixture(scope="module")
def model(weights):
    return clip4vla.load(weights, device="cpu")


@pytest.fixture(scope="module")
def from_cache(model, tmp_path_factory):
    """Pooled vectors that the evaluation gives for the same four clips."""
    folder = tmp_path_factory.mktemp("cache")
    rows = [
        {"clip_id": path.stem, "sound": "unknown", "shard": 0, "path": str(path), "fetch": "ok",
         "video": "ok", "audio": audio, "duration": 10.0, "start": None, "end": None,
         "tool": "local", "decoder": "pyav"}
        for path, audio in zip(PATHS, SOUNDS.values(), strict=True)
    ]  # fmt: skip
    ledger, index = pd.DataFrame(rows), folder / "shards" / "0.parquet"
    write_parquet(index, build_shard(ledger, Cache(), index.with_suffix(".tar")))
    splits = [{"split": "test", "clip_id": name, "captions": ["x"], "label": ""} for name in SOUNDS]
    freeze(ledger, pd.DataFrame(splits), [index], "demo-v1-0a1b2c", Cache(), folder)
    items = [(name, "", "") for name in SOUNDS]
    samples = ClipSamples(ClipCache(folder / "manifest.json"), items, INPUTS, 0.5)
    given = model.model, samples, ["vision", "audio"], torch.device("cpu"), 1
    return embed_clips(*given)


def test_the_numbers_are_those_of_the_evaluation(model, from_cache):
    """Through the same JPEGs and the same float16 log-mels: equal to the rounding of float32."""
    video, audio = model.embed_video(PATHS), model.embed_audio(PATHS)
    assert video.dtype == audio.dtype == np.float32
    assert np.allclose(video, from_cache.vision.numpy(), **CLOSE)
    assert np.allclose(audio, from_cache.audio.numpy(), **CLOSE)
    texts = ["a dog barks", "A rabbit! " * 20]
    expected = embed_texts(model.model, texts, 9, torch.device("cpu"))
    assert np.array_equal(model.embed_text(texts), expected.numpy())


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(gpu, weights, model):
    there = clip4vla.load(weights)
    assert there.device.type == gpu.type
    for kind, given in (
        ("embed_text", ["a dog barks"]),
        ("embed_audio", PATHS),
        ("embed_video", PATHS),
    ):
        found, expected = (getattr(one, kind)(given) for one in (there, model))
        assert found.dtype == np.float32 and np.abs(found - expected).max() < 0.02


def test_vectors_have_length_one_or_zero(model):
    lengths = np.linalg.norm(model.embed_audio(PATHS), axis=1)
    assert np.allclose(lengths, [1, 1, 0, 0], atol=1e-6)
    assert np.allclose(np.linalg.norm(model.embed_video(PATHS), axis=1), 1)
    for nothing in (model.embed_text([]), model.embed_audio([]), model.embed_video([])):
        assert nothing.shape == (0, 64)


def test_company_order_and_batch_size_change_nothing(model, weights):
    small = clip4vla.load(weights, device="cpu", batch_size=1)
    for kind in ("embed_audio", "embed_video"):
        whole = getattr(model, kind)(PATHS)
        assert np.allclose(getattr(small, kind)(PATHS), whole, **CLOSE)
        assert np.allclose(getattr(model, kind)(PATHS[::-1])[::-1], whole, **CLOSE)
        alone = [getattr(model, kind)([path])[0] for path in PATHS]
        assert np.allclose(np.stack(alone), whole, **CLOSE)


def test_samples_are_as_good_as_a_file(model):
    waveform, rate = decode_audio(PATHS[1])
    from_file = model.embed_audio(PATHS[1:2])
    assert np.array_equal(model.embed_audio([(waveform, rate)]), from_file)
    integers = (waveform * 32767).round().astype(np.int16)
    assert np.allclose(model.embed_audio([(integers, rate)]), from_file, atol=0.02)
    mono = model.embed_audio([(waveform[0], rate), (waveform, rate), (0 * waveform, rate)])
    assert np.allclose(mono[1:2], from_file, **CLOSE) and not mono[2].any() and mono[0].any()


def test_the_type_token_is_heard(model, tmp_path):
    speech, sound = (model.embed_audio(PATHS[:1], nonverbal_share=w) for w in (0.0, 1.0))
    assert not np.allclose(speech, sound, **CLOSE)
    several = clip4vla.load(write_tiny(tmp_path / "m.safetensors", nonverbal_share=None), "cpu")
    with pytest.raises(UserError, match="several type tokens: give nonverbal_share"):
        several.embed_audio(PATHS[:1])
    with pytest.raises(UserError, match="nonverbal_share is 2"):
        several.embed_audio(PATHS[:1], nonverbal_share=2)


@pytest.mark.parametrize("token", ["both", "none", "background"])
def test_a_share_that_would_not_be_heard_is_refused(token, tmp_path):
    model = {"type_token": token}
    path = write_tiny(tmp_path / "m.safetensors", model=model, nonverbal_share=None)
    found = clip4vla.load(path, "cpu")
    assert found.embed_audio(PATHS[:1]).any(), "none is asked for"
    with pytest.raises(UserError, match=f"model.type_token: {token}, which reads none. Fix: leave"):
        found.embed_audio(PATHS[:1], nonverbal_share=1.0)


def test_similarity_is_the_evaluations(model):
    """Both modalities count half; a clip without sound counts by its pictures (missing: none)."""
    text, video, audio = (
        model.embed_text(["a", "b c"]),
        model.embed_video(PATHS),
        model.embed_audio(PATHS),
    )
    both = model.similarity(text, video, audio)
    assert both.dtype == np.float32 and both.shape == (2, 4)
    assert np.allclose(both[:, :2], text @ (video + audio)[:2].T / 2, **CLOSE)
    assert np.allclose(both[:, 2:], text @ video[2:].T, **CLOSE)
    assert np.allclose(model.similarity(text, audio=audio), text @ audio.T, **CLOSE)


def test_a_gate_weighs(tmp_path):
    path = write_tiny(tmp_path / "m.safetensors", model={"fusion": "query2sim"}, task="retrieval")
    gated = clip4vla.load(path, device="cpu")
    rng = np.random.default_rng(0)
    text, video, audio = (rng.standard_normal((3, 64)).astype(np.float32) for _ in range(3))
    rows = [torch.from_numpy(x) for x in (text, video, audio)]
    with torch.no_grad():
        expected = gated.model.gate(*rows, 1.0)["t_va"].numpy()
    assert np.allclose(gated.similarity(text, video, audio), expected, **CLOSE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_by_name(model, value):
    waveform = np.zeros((2, 16000), dtype=np.float32)
    waveform[1, 77] = value
    with pytest.raises(UserError, match="sound 1: it has samples that are NaN or infinite"):
        model.embed_audio([(np.ones(16000), 16000), (waveform, 16000)])
    vectors = np.ones((3, 64), dtype=np.float32)
    broken = vectors.copy()
    broken[2, 5] = value
    for name, given in {"text": [broken, vectors], "video": [vectors, broken],
                        "audio": [vectors, vectors, broken]}.items():  # fmt: skip
        with pytest.raises(UserError, match=f"row 2 of {name} is NaN or infinite"):
            model.similarity(*given)


def test_a_file_with_samples_that_are_no_numbers_is_refused_by_name(model, tmp_path):
    path = tmp_path / "broken.wav"
    write_float_wav(path, np.array([0.1, np.nan, 0.2] * 8000, dtype=np.float32))
    with pytest.raises(UserError, match=r"broken.wav: decode_error \(.*NaN, infinite"):
        model.embed_audio([path])


def write_float_wav(path, samples, rate=16000):
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_f32le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.rate = rate
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def test_mistakes_are_named(model, tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    for call, message in {
        lambda: model.embed_video([tmp_path / "notes.mp4"]): "notes.mp4: decode_error",
        lambda: model.embed_audio([tmp_path / "none.wav"]): "none.wav: decode_error .*No such file",
        lambda: model.embed_text(["a", float("nan")]): "text 1 is nan, not a text",
        lambda: model.embed_text("a"): "give a list of texts",
        lambda: model.embed_audio([(np.ones(9), 0)]): "sound 0: a rate of 0",
        lambda: model.embed_audio([(np.ones((2, 3, 4)), 16000)]): r"sound 0: samples of shape \[2, 3",
        lambda: model.embed_audio([(np.ones(9, bool), 16000)]): "sound 0: samples of type bool",
        lambda: model.similarity(np.ones((1, 64))): "give video, audio or both",
        lambda: model.similarity(np.ones((1, 63)), np.ones((1, 64))): r"text is \[1, 63\], give \[N, 64\]",
        lambda: model.similarity(*(np.ones((n, 64)) for n in (1, 2, 3))): "2 vectors of video and 3",
        lambda: clip4vla.load(ROOT / "README.md"): "README.md: cannot be read as weights",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message):
            call()


# The command line


@pytest.fixture
def folder(tmp_path):
    """Two clips, one of them in a subfolder, a cut-off video, a text file and a hidden file."""
    (tmp_path / "in" / "more").mkdir(parents=True)
    shutil.copy(PATHS[0], tmp_path / "in" / "b.mp4")
    shutil.copy(PATHS[2], tmp_path / "in" / "more" / "a.anything")
    (tmp_path / "in" / "c.mp4").write_bytes(PATHS[1].read_bytes()[:5000])
    (tmp_path / "in" / "notes.txt").write_text("not media")
    (tmp_path / "in" / ".hidden.mp4").write_bytes(b"")
    return tmp_path / "in"


def run(*arguments):
    """Run one `clip4vla embed` command; typer ends a good one with exit 0."""
    with pytest.raises(SystemExit) as ended:
        main(["embed", *map(str, arguments)])
    return ended.value.code


@pytest.mark.parametrize("threads", [1, 2])
def test_a_folder_becomes_a_table(weights, model, folder, tmp_path, capsys, threads):
    out = tmp_path / "audio.parquet"
    assert run("audio", weights, folder, "--out", out, "--threads", threads) == 0
    table = pd.read_parquet(out)
    assert table.columns.tolist() == ["input", "start", "end", "status", "detail", "vector"]
    assert table.input.tolist() == [str(folder / n) for n in ("b.mp4", "c.mp4", "more/a.anything")]
    assert table.status.tolist() == ["ok", "decode_error", "no_audio_stream"]
    assert np.allclose(np.stack(table.vector[[0, 2]]), model.embed_audio(PATHS[::2]), **CLOSE)
    assert table.vector[1] is None and table.detail[1]
    assert "3 rows of 3 inputs, 1 decode_error, 1 no_audio_stream" in capsys.readouterr().err
    about = read_description(out)
    assert about["checkpoint"]["file"] == "model.safetensors" and about["dim"] == 64
    assert about["settings"]["inputs"]["max_frames"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audio.parquet", "in"]


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_what_cannot_be_embedded_is_named_and_nothing_at_all_is_a_failure(
    weights, tmp_path, capsys, kind
):
    notes, out = tmp_path / "notes.txt", tmp_path / "out.npz"
    notes.write_text("not media")
    assert run(kind, weights, notes, PATHS[1], "--out", out) == 0
    assert capsys.readouterr().err.count(f"{notes}: ") == 1
    assert run(kind, weights, notes, "--out", out) == 78
    said = capsys.readouterr().err
    assert f"{notes}: " in said and f"clip4vla: {out}: no input could be embedded" in said
    assert np.load(out)["status"].tolist() == ["decode_error"]
    for number in range(stage.NAMED + 2):
        (tmp_path / f"{number}.txt").write_text("no")
    many = sorted(tmp_path.glob("*.txt"))
    assert run(kind, weights, *many, "--out", out) == 78
    assert "and 3 more: see `status` in " in capsys.readouterr().err
    silent = run(kind, weights, PATHS[2], "--out", out)
    assert silent == 0 and "could be embedded" not in capsys.readouterr().err


def test_texts_that_are_all_empty_are_a_failure(weights, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n \n")
    assert run("text", weights, tmp_path / "a.txt", "--out", tmp_path / "t.npz") == 78
    assert "Fix: name texts" in capsys.readouterr().err


def test_an_npz_needs_no_pickle(weights, model, folder, tmp_path):
    out = tmp_path / "video.npz"
    assert run("video", weights, folder, PATHS[1], "--out", out) == 0
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["status"].tolist() == ["ok", "decode_error", "ok", "ok"]
        assert arrays["vectors"].dtype == np.float32
        assert np.isnan(arrays["vectors"][1]).all()
        expected = model.embed_video([PATHS[i] for i in (0, 2, 1)])
        assert np.allclose(arrays["vectors"][[0, 2, 3]], expected, **CLOSE)
    assert read_description(out)["kind"] == "video"


def test_texts_come_from_lines_and_columns(weights, model, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a dog\n\nzwei Hündchen\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text('id,caption\n1,"a bull, or two"\n2,nan\n')
    out = tmp_path / "text.npz"
    assert run("text", weights, tmp_path / "a.txt", tmp_path / "b.csv", "--out", out) == 0
    with np.load(out) as arrays:
        sentences = arrays["input"].tolist()
        assert sentences == ["a dog", "", "zwei Hündchen", "a bull, or two", "nan"]
        assert arrays["status"].tolist() == ["ok", "empty", "ok", "ok", "ok"]
        expected = model.embed_text([s for s in sentences if s])
        assert np.allclose(arrays["vectors"][[0, 2, 3, 4]], expected, **CLOSE)
    assert run("text", weights, tmp_path / "b.csv", "--column", "words", "--out", out) == 78
    message = "b.csv: has no column words: name one with --column: id, caption"
    assert message in capsys.readouterr().err


def test_windows_and_segments_have_times(weights, tmp_path):
    """bbb_040 lasts 10 s; the tiny checkpoint hears 2 segments of 1.792 s and sees 3 frames."""
    tables = {}
    for kind in ("audio", "video"):
        for name, options in {"whole": [], "none": ["--pool", "none"], "every": ["--every", "4"],
                              "both": ["--every", "4", "--pool", "none"]}.items():  # fmt: skip
            out = tmp_path / f"{kind}-{name}.parquet"
            assert run(kind, weights, PATHS[1], "--out", out, *options) == 0
            tables[kind, name] = pd.read_parquet(out)[["start", "end"]].to_numpy()
    waveform, rate = decode_audio(PATHS[1])
    seconds = waveform.shape[1] / rate
    assert np.allclose(tables["audio", "whole"], [[0, seconds]])
    assert np.allclose(tables["audio", "every"], [[0, 4], [4, 8], [8, seconds]])
    segment = 1.792
    assert np.allclose(
        tables["audio", "none"], [[2 * segment, 3 * segment], [3 * segment, 4 * segment]]
    )
    assert np.allclose(
        tables["audio", "both"][:3], [[0, segment], [segment, 2 * segment], [4, 4 + segment]]
    )
    assert tables["audio", "both"][-1, 1] == pytest.approx(seconds)
    assert tables["video", "every"].tolist()[:2] == [[0, 4], [4, 8]]
    assert tables["video", "none"].tolist()[0] == [0, 1] and len(tables["video", "none"]) == 3
    assert tables["video", "both"].tolist()[3] == [4, 5]


def test_a_window_is_a_clip_of_its_own(model):
    """What a window holds does not depend on the rest of the file."""
    waveform, rate = decode_audio(PATHS[1])
    windows = list(sounds(PATHS[1], model.settings, 4.0))
    for index, clip in enumerate(windows):
        part = waveform[:, 4 * index * rate : 4 * (index + 1) * rate]
        found = next(model.encode("audio", [[clip]], 0.5))[1]
        alone = model.embed_audio([(part, rate)])
        mean = torch.nn.functional.normalize(found).mean(0)
        assert np.allclose(alone[0], mean / mean.norm(), **CLOSE)
    assert [len(clip.images) for clip in pictures(PATHS[1], model.settings, 4.0)] == [3, 3, 2]


@pytest.mark.parametrize("kind", ["audio", "video"])
@pytest.mark.parametrize("options", [[], ["--every", "4"]])
def test_a_file_that_kills_the_decoder_fails_alone(
    weights, tmp_path, capsys, monkeypatch, kind, options
):
    """It crashes at once or after some windows; what it gave before is kept."""
    real, bad = reading.READERS[kind], tmp_path / "bad.mp4"
    shutil.copy(PATHS[1], bad)

    def fragile(path, **given):
        for number, clip in enumerate(real(path, **given)):
            if path == bad and number == bool(options):
                os.abort()
            yield clip

    monkeypatch.setitem(reading.READERS, kind, fragile)
    out = tmp_path / "out.parquet"
    assert run(kind, weights, PATHS[0], bad, PATHS[1], "--out", out, *options) == 0
    assert f"{bad}: the process died" in capsys.readouterr().err
    table = pd.read_parquet(out)
    failed = table[table.input == str(bad)]
    assert failed.status.tolist() == ["ok"] * bool(options) + ["decode_error"]
    assert failed.start.tolist()[-1] == (4 if options else 0)
    others = table[table.input != str(bad)]
    assert set(others.input) == {str(PATHS[0]), str(PATHS[1])} and set(others.status) == {"ok"}
    assert run(kind, weights, bad, "--out", out) == (0 if options else 78)


def test_speed_changes_no_bit(weights, tmp_path, monkeypatch):
    """Vectors depend on their company in the last bits: it must not depend on the processes."""
    import time

    real = reading.READERS["video"]

    def slow(path, **given):
        for clip in real(path, **given):
            time.sleep(0.3 if path == PATHS[0] else 0)
            yield clip

    tables = []
    for options in ([], ["--every", "2"]):
        for reader, threads in ((real, 1), (real, 2), (slow, 2)):
            monkeypatch.setitem(reading.READERS, "video", reader)
            out = tmp_path / "out.parquet"
            assert run("video", weights, *PATHS, "--out", out, "--threads", threads, *options) == 0
            tables.append(out.read_bytes())
    assert tables[0] == tables[1] == tables[2] and tables[3] == tables[4] == tables[5]


def test_windows_that_come_in_blocks_have_the_numbers_of_the_whole(model, monkeypatch):
    """No block is kept for another one; a block that two windows share is cut."""
    real, sizes = reading.sound_blocks, []

    def blocks(path, longest):
        found, rate = real(path, longest)
        return (sizes.append(block.shape[1]) or block for block in found), rate

    monkeypatch.setattr(reading, "sound_blocks", blocks)
    waveform, rate = decode_audio(PATHS[1])
    for every in (None, 4.0, 7.3):
        sizes.clear()
        clips = list(sounds(PATHS[1], model.settings, every))
        assert len(sizes) > 100 and sum(sizes) == waveform.shape[1]
        size = round((every or 99) * rate)
        for number, clip in enumerate(clips):
            part = waveform[:, number * size : (number + 1) * size]
            front_end = LogMelFrontend(model.settings.cache.log_mel)
            alone = reading.sound(iter([part]), rate, model.settings, front_end)
            assert np.array_equal(clip.images, alone.images)
            assert clip.end - clip.start == pytest.approx(part.shape[1] / rate)


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_more_than_an_hour_is_no_clip_but_has_windows(weights, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(reading, "LONGEST_SECONDS", 5.0)
    out = tmp_path / "out.parquet"
    assert run(kind, weights, PATHS[1], "--out", out) == 78
    said = capsys.readouterr().err
    assert f"{PATHS[1]}: " in said and "of more than 5 s" in said and "--every" in said
    assert pd.read_parquet(out).status.tolist() == ["too_long"]
    assert run(kind, weights, PATHS[1], "--out", out, "--every", "4") == 0
    assert pd.read_parquet(out).status.tolist() == ["ok"] * 3


def test_what_of_a_folder_is_passed_over_is_named(folder, capsys, monkeypatch):
    """Looping and dead links, links to folders, closed folders, pipes, and files of others."""
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "dead.mp4").symlink_to("nowhere")
    (folder / "again").symlink_to(folder)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "closed").mkdir()
    (folder / "mine").write_bytes(PATHS[1].read_bytes())
    scandir, access = os.scandir, os.access

    def refuse(path):
        if str(path).endswith("closed"):  # root may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda p, how: "mine" not in str(p) and access(p, how))
    found = [path.name for path in stage.media_files([folder])]
    assert found == ["b.mp4", "c.mp4", "a.anything"]
    said = capsys.readouterr().err
    for name, why in {
        "loop.mp4": "Too many levels of symbolic links", "dead.mp4": "No such file or directory",
        "again": "a link to a folder", "pipe.mp4": "not a regular file",
        "closed": "Permission denied", "mine": "Permission denied",
    }.items():  # fmt: skip
        assert f"{folder / name}: passed over: {why}" in said
    assert "notes.txt" not in said and ".hidden" not in said


def test_a_file_of_a_folder_that_kills_its_opener_is_not_passed_over(folder, monkeypatch):
    real = stage.is_media
    monkeypatch.setattr(stage, "is_media", lambda p: os.abort() if "notes" in str(p) else real(p))
    assert folder / "notes.txt" in stage.media_files([folder])


def test_an_interrupted_run_goes_on(weights, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "FILES", 1)
    out, real, seen = tmp_path / "audio.npz", stage.read_groups, []

    def clips(kind, files, *given, **more):
        seen.append(files[0].name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(kind, files, *given, **more)

    monkeypatch.setattr(stage, "read_groups", clips)
    command = "audio", weights, folder, "--threads", 1, "--out", out
    assert run(*command) != 0
    assert not out.exists()
    assert run(*command) == 0
    assert seen == ["b.mp4", "c.mp4", "c.mp4", "a.anything"]
    once = out.read_bytes()
    assert run(*command) == 0
    assert (
        out.read_bytes() == once and len(seen) == 7
    )  # a finished run leaves nothing to go on from


def test_changed_options_start_anew(weights, folder, tmp_path, monkeypatch):
    out, seen = tmp_path / "audio.npz", []
    parts = tmp_path / "audio.npz.parts"
    monkeypatch.setattr(
        stage, "finish", lambda *given: seen.append(sorted(parts.glob("*.parquet")))
    )
    times = []
    for share in (0.1, 0.1, 0.9):
        run("audio", weights, folder, "--out", out, "--nonverbal-share", share)
        times.append(seen[-1][0].stat().st_mtime_ns)
    assert times[0] == times[1] != times[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audio", "{weights}", "{folder}", "--out", "x.csv"], "x.csv: name the output .npz or .parquet"),
        (["audio", "{weights}", "{folder}/none", "--out", "x.npz"], "none: no such file or folder"),
        (["audio", "{folder}/notes.txt", "{folder}", "--out", "x.npz"], "notes.txt: cannot be read as weights"),
        (["video", "{weights}", "{folder}", "--every", "0", "--out", "x.npz"], "give 1 or more"),
        (["audio", "{weights}", "{folder}", "--every", "nan", "--out", "x.npz"], "--every is nan seconds"),
        (["audio", "{weights}", "{folder}", "--every", "inf", "--out", "x.npz"], "--every is inf seconds"),
        (["audio", "{weights}", "{folder}", "--device", "meta", "--out", "x.npz"], "device meta: it holds no"),
        (["video", "{weights}", "{folder}", "--device", "abacus", "--out", "x.npz"], "device abacus"),
    ],
)  # fmt: skip
def test_mistakes_of_the_command_line_are_one_line(
    weights, folder, capsys, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert run(*(a.format(weights=weights, folder=folder) for a in arguments)) == 78
    error = [x for x in capsys.readouterr().err.splitlines() if x.startswith("clip4vla:")]
    assert len(error) == 1 and message in error[0]
    assert not list(tmp_path.glob("*.parts"))


def test_the_examples_of_the_docs_run(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(weights, "model.safetensors")
    Path("clips").symlink_to(DEMO)
    assert run("video", "model.safetensors", *PATHS[:3], "--out", "video.parquet") == 0
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embed.md").read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2
    assert names["best"] in {str(path) for path in PATHS[:3]}
    assert names["scores"].shape == (1, 3)
