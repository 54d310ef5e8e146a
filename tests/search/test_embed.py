"""Embedding of texts, sounds and videos by `clip4vla.load`, on demo clips."""

import numpy as np
import pandas as pd
import pytest
import torch
from embed_files import CLOSE, INPUTS, PATHS, ROOT, SOUNDS, write_tiny

import clip4vla
from clip4vla.cache.clips import ClipCache
from clip4vla.cache.manifest import freeze
from clip4vla.cache.shards import build_shard
from clip4vla.common.errors import UserError
from clip4vla.common.files import write_parquet
from clip4vla.config.data import Cache
from clip4vla.inference.features import embed_clips, embed_texts
from clip4vla.loading.samples import ClipSamples
from clip4vla.media.decode import decode_audio
from clip4vla.search.media import audio_clips, video_clips


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
    splits = [
        {"split": "test", "clip_id": name, "captions": ["x"], "labels": []} for name in SOUNDS
    ]
    freeze(ledger, pd.DataFrame(splits), [index], "demo-v1-0a1b2c", Cache(), folder)
    items = [(name, "", ()) for name in SOUNDS]
    samples = ClipSamples(ClipCache(folder / "manifest.json"), items, INPUTS, 0.5)
    given = model.model, samples, ["vision", "audio"], torch.device("cpu"), 1
    return embed_clips(*given)


def test_the_numbers_are_those_of_the_evaluation(model, from_cache):
    """Through the same JPEGs and the same float16 log-mels: equal to the rounding of float32."""
    video, audio = model.embed_video(PATHS), model.embed_audio(PATHS)
    assert video.dtype == audio.dtype == np.float32
    assert np.allclose(video, from_cache.vectors["vision"].numpy(), **CLOSE)
    assert np.allclose(audio, from_cache.vectors["audio"].numpy(), **CLOSE)
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


def test_the_type_token_has_an_effect(model, tmp_path):
    speech, sound = (model.embed_audio(PATHS[:1], nonverbal_share=w) for w in (0.0, 1.0))
    assert not np.allclose(speech, sound, **CLOSE)
    several = clip4vla.load(write_tiny(tmp_path / "m.safetensors", nonverbal_share=None), "cpu")
    with pytest.raises(UserError, match="several type tokens. Fix: give nonverbal_share"):
        several.embed_audio(PATHS[:1])
    with pytest.raises(UserError, match="nonverbal_share: 2 is not valid"):
        several.embed_audio(PATHS[:1], nonverbal_share=2)


@pytest.mark.parametrize("token", ["both", "none", "background"])
def test_a_share_without_effect_is_refused(token, tmp_path):
    model = {"type_token": token}
    path = write_tiny(tmp_path / "m.safetensors", model=model, nonverbal_share=None)
    found = clip4vla.load(path, "cpu")
    assert found.embed_audio(PATHS[:1]).any(), "none is asked for"
    with pytest.raises(UserError, match="no type token that is mixed. Fix: leave"):
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
def test_nan_and_infinity_are_refused_by_name(model, value):
    waveform = np.zeros((2, 16000), dtype=np.float32)
    waveform[1, 77] = value
    with pytest.raises(UserError, match="sound 1: samples are NaN or infinite"):
        model.embed_audio([(np.ones(16000), 16000), (waveform, 16000)])
    vectors = np.ones((3, 64), dtype=np.float32)
    broken = vectors.copy()
    broken[2, 5] = value
    for name, given in {"text": [broken, vectors], "video": [vectors, broken],
                        "audio": [vectors, vectors, broken]}.items():  # fmt: skip
        with pytest.raises(UserError, match=f"row 2 of {name} is NaN or infinite"):
            model.similarity(*given)


def test_a_file_with_nan_samples_is_refused_by_name(model, tmp_path):
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
        lambda: model.embed_text(["a", float("nan")]): "text 1: nan is not a text",
        lambda: model.embed_text("a"): "give a list of texts",
        lambda: model.embed_audio([(np.ones(9), 0)]): "sound 0: a rate of 0",
        lambda: model.embed_audio([(np.ones((2, 3, 4)), 16000)]): r"sound 0: samples of shape \[2, 3",
        lambda: model.embed_audio([(np.ones(9, bool), 16000)]): "sound 0: samples of type bool",
        lambda: model.similarity(np.ones((1, 64))): "give video, audio or both",
        lambda: model.similarity(np.ones((1, 63)), np.ones((1, 64))): r"text is \[1, 63\]. Fix: give \[N, 64\]",
        lambda: model.similarity(*(np.ones((n, 64)) for n in (1, 2, 3))): "2 vectors of video and 3",
        lambda: clip4vla.load(ROOT / "README.md"): "README.md: cannot be read as weights",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message):
            call()


def test_a_window_is_a_clip_of_its_own(model):
    """What a window holds does not depend on the rest of the file."""
    waveform, rate = decode_audio(PATHS[1])
    windows = list(audio_clips(PATHS[1], model.settings, 4.0))
    for index, clip in enumerate(windows):
        part = waveform[:, 4 * index * rate : 4 * (index + 1) * rate]
        found = next(model.encode("audio", [[clip]], 0.5))[1]
        alone = model.embed_audio([(part, rate)])
        mean = torch.nn.functional.normalize(found).mean(0)
        assert np.allclose(alone[0], mean / mean.norm(), **CLOSE)
    assert [len(clip.images) for clip in video_clips(PATHS[1], model.settings, 4.0)] == [3, 3, 2]
