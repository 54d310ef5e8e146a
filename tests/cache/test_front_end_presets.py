"""The front-end of every preset: its switches, as a plan resolves them, and its numbers."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from features_fakes import CLIPS, fake_audio, fake_frames

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.cache.shards import build_shard
from clip4vla.common.errors import UserError
from clip4vla.common.seeds import generator
from clip4vla.config.data import Cache, LogMel
from clip4vla.config.planner import make_plan
from clip4vla.loading.masking import draw_masks
from clip4vla.loading.segments import split

DEMO = [Path(__file__).parents[2] / name for name in ("config.yaml", "demo/config.yaml")]
OURS = {
    "kind": "mel",
    "window": "hann",
    "channels": "left_mean_right",
    "top_db": 80.0,
    "standardisation": "segment",
    "extra_segment": False,
    "pad_value": "zero",
    "masks": "released",
}
SWITCHES = {
    "ours": OURS,
    "released": OURS | {"extra_segment": True},
    "paper": OURS | {"kind": "fbank", "window": "hamming", "masks": "paper"},
}
# Of the chirp of facts 1.2: T; values at CELLS; mean, deviation, largest, least.
CELLS = ((0, 10), (100, 20), (200, 50), (300, 150))
LIBROSA = (376, [6.3365, -59.5558, -59.7025, -59.7025], [-54.3271, 15.0434, 20.2975, -59.7025])
# torchaudio's kaldi.fbank called directly: 32 ms Hamming, 8 ms, 224 bands, 0 to 8000 Hz, no dither
KALDI = (372, [-8.5774, -14.7103, -7.7252, -7.7180], [-8.9079, 3.7563, 6.6296, -15.9424])
GOLDEN = {"ours": LIBROSA, "released": LIBROSA, "paper": KALDI}
SHARES = {"ours": 0.59, "released": 0.59, "paper": 0.88}  # of cells under masks, 10 s (facts 2)
# Samples: 10, 20 and 30 s, 1.784 s and 1.792 s (facts 1.4); with kind fbank T is 4 less.
LENGTHS = (160000, 320000, 480000, 28544, 28672)
COUNTS = {"ours": [6, 12, 17, 1, 2], "released": [6, 12, 17, 2, 2], "paper": [6, 12, 17, 1, 1]}


@pytest.fixture(scope="module", params=SWITCHES)
def preset(request):
    return request.param


@pytest.fixture(scope="module")
def run(preset):
    """The pre-training run that the demo's rows start from, under this preset."""
    plan = make_plan(DEMO, {"preset": preset, "targets": ["demo_retrieval"]})
    return plan.run(plan.stage("pretrain")[0])


def chirp():
    t = np.arange(48000) / 16000
    return 0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.05 * np.sin(2 * np.pi * 3000 * t)


def test_switches(preset, run):
    mel, inputs = run.cache.log_mel, run.inputs
    assert (mel.sample_rate, mel.n_fft, mel.hop, mel.n_mels) == (16000, 512, 128, 224)
    assert (mel.f_min, mel.f_max) == (0.0, 8000.0)
    assert (run.masking.frequency, run.masking.time, run.masking.width) == (0.05, 0.15, 10)
    found = {key: getattr(mel, key) for key in ("kind", "window", "channels", "top_db")}
    found |= {k: getattr(inputs, k) for k in ("standardisation", "extra_segment", "pad_value")}
    assert found | {"masks": run.masking.mode} == SWITCHES[preset]


def test_every_run_of_a_preset_has_the_same_front_end(preset, run):
    plan = make_plan(DEMO, {"preset": preset})
    runs = [other for other in plan.runs.values() if other.model.family == run.model.family]
    assert {other.cache for other in runs} == {run.cache}
    assert {other.inputs.extra_segment for other in runs} == {run.inputs.extra_segment}


def test_golden_numbers(preset, run):
    steps, cells, statistics = GOLDEN[preset]
    out = LogMelFrontend(run.cache.log_mel).compute(chirp(), 16000)
    assert out.shape == (1, steps, 224)
    assert [float(out[0, step, band]) for step, band in CELLS] == pytest.approx(cells, abs=0.002)
    found = [float(x) for x in (out.mean(), out.std(correction=0), out.max(), out.min())]
    assert found == pytest.approx(statistics, abs=0.002)


def test_segments(preset, run):
    front_end = LogMelFrontend(run.cache.log_mel)
    inputs = run.inputs.model_copy(update={"max_segments": 20})
    counts = [len(split(front_end(np.zeros(length), 16000), inputs)) for length in LENGTHS]
    assert counts == COUNTS[preset]
    images = split(front_end(chirp(), 16000), inputs)
    mean, deviation = images.mean((2, 3)), images.std((2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=1e-4)


def test_masks(preset, run):
    shares = []
    for seed in range(50):
        masks = draw_masks(1251, 224, run.masking, generator("test", seed))
        shares.append(1 - (~masks.steps).mean() * (~masks.bands).mean())
    assert np.mean(shares) == pytest.approx(SHARES[preset], abs=0.02)


@pytest.mark.parametrize(
    ("preset", "recipe", "message"),
    [
        (
            "paper",
            {"cache.log_mel.top_db": 60},
            "cache.log_mel: top_db only has an effect with kind: mel",
        ),
        (
            "ours",
            {"cache.log_mel.remove_dc": False},
            "remove_dc only has an effect with kind: fbank",
        ),
        (
            "ours",
            {"inputs.log_mel_std": 4.5},
            "log_mel_std only has an effect with standardisation: fixed",
        ),
        ("ours", {"inputs.standardisation": "fixed"}, "needs log_mel_mean and log_mel_std"),
    ],
)
def test_switches_that_do_not_fit_are_refused_in_one_line(preset, recipe, message):
    with pytest.raises(UserError, match=message):
        make_plan(DEMO, {"preset": preset, "recipe": recipe})


def test_shards_hold_what_the_switches_say(tmp_path, ledger):
    """Mean channel alone and filter banks: one channel a clip, and kaldi's number of frames."""
    cache = Cache(log_mel=LogMel(kind="fbank", channels="mean"))
    index = build_shard(
        ledger[ledger.fetch == "ok"], cache, tmp_path / "0.tar", fake_audio, fake_frames
    )
    usable = index[index.log_mel_offset >= 0]
    assert len(usable) == sum(channels > 0 for _, channels, _ in CLIPS.values())
    assert set(usable.channels) == {1}
    for row in usable.itertuples():
        samples, rate = fake_audio(row.clip_id)
        expected = LogMelFrontend(cache.log_mel)(samples, rate)
        assert expected.shape[1] == row.T
        content = (tmp_path / "0.tar").read_bytes()[row.log_mel_offset :][: row.log_mel_size]
        stored = np.load(io.BytesIO(content), allow_pickle=False)
        np.testing.assert_array_equal(stored, expected.numpy())
