"""Waveforms beside log-mels: what log-mels come from, and no trace of them where they are off."""

import numpy as np
import pandas as pd
import pytest
import torch
from features_fakes import CLIPS, fake_audio

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.cache.shards import INDEX_COLUMNS
from clip4vla.cache.verify import verify
from clip4vla.common.errors import UserError
from clip4vla.config.data import Cache, LogMel
from clip4vla.config.keys import cache_id
from clip4vla.cost.estimate import cached_bytes_per_second

FRONT_ENDS = {
    "mel": LogMel(),
    "fbank": LogMel(kind="fbank", channels="mean", n_fft=400, hop=160, n_mels=128, f_min=20.0),
}


def at_44100(path):
    """Sound of another rate, in blocks, as decoders give it."""
    samples, _ = fake_audio(path)
    return iter(np.array_split(samples, 7, axis=1)), 44100


@pytest.mark.parametrize("audio", [fake_audio, at_44100])
@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_the_log_mel_of_the_kept_waveform_is_the_kept_log_mel(frozen, kind, audio):
    cache = ClipCache(frozen(Cache(log_mel=FRONT_ENDS[kind], waveform=True), audio))
    front_end = LogMelFrontend(FRONT_ENDS[kind])
    for clip_id, (_, channels, _) in CLIPS.items():
        cache.spot_check(clip_id)
        waveform, log_mel = cache.read_waveform(clip_id), cache.read_log_mel(clip_id)
        if channels == 0:
            assert waveform is None and log_mel is None
            continue
        assert waveform.dtype == torch.int16
        assert len(waveform) == (1 if kind == "fbank" else channels)
        assert torch.equal(front_end(waveform, 16000), log_mel)
        float_log_mel = front_end(*audio(clip_id)).float()
        loud = float_log_mel > float_log_mel.amax() - (40 if kind == "mel" else 9)
        assert (log_mel.float() - float_log_mel)[loud].abs().max() < 0.1


def test_a_waveform_is_rounded_and_clipped_at_full_scale():
    samples = np.array([[0.5, -1.0, 1.0, 3.0, -3.0, 0.6 / 2**15]], dtype=np.float32)
    found = LogMelFrontend(LogMel()).waveform(samples, 16000)
    assert found.tolist() == [[2**14, -(2**15), 2**15 - 1, 2**15 - 1, -(2**15), 1]]


def test_damaged_waveforms_are_found(frozen):
    manifest = frozen(Cache(waveform=True))
    assert verify(manifest) == []
    index = pd.read_parquet(manifest.parent / "shards" / "0.parquet").set_index("clip_id")
    with open(manifest.parent / "shards" / "0.tar", "r+b") as tar:
        tar.seek(int(index.waveform_offset["bravo"]) + 5000)
        tar.write(b"\xff\x00\xff")
    damages = verify(manifest)
    assert len(damages) == 1 and "in clips bravo" in damages[0].problem
    with pytest.raises(UserError, match="clip bravo: its bytes have changed"):
        ClipCache(manifest, check_every=1).spot_check("bravo")


def test_without_the_switch_nothing_changes(frozen, tmp_path, ledger):
    """Ids, indexes and manifests of caches that were there before."""
    assert Cache().scientific() == Cache(waveform=False).scientific()
    assert "waveform" not in Cache().scientific()
    assert cache_id(Cache()) != cache_id(Cache(waveform=True))
    manifest = frozen(Cache())
    index = pd.read_parquet(manifest.parent / "shards" / "0.parquet")
    assert index.columns.tolist() == INDEX_COLUMNS
    with pytest.raises(UserError, match="no waveforms. Fix: set cache.waveform: true"):
        ClipCache(manifest).read_waveform("alpha")


def test_plan_counts_the_bytes():
    more = cached_bytes_per_second(Cache(waveform=True)) - cached_bytes_per_second(Cache())
    assert more == 2 * 2 * 16000
