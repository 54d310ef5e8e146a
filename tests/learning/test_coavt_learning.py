"""CoAVT learns: a tiny model finds clips of the synthetic world by their captions.

Clips and captions are those of `test_learning.py`: a caption needs both modalities, and what either
alone can reach is known.
"""

import pytest
from learning.frozen import freeze_world

from clip4vla.common.files import read_json
from clip4vla.config.data import Cache
from clip4vla.config.keys import cache_id
from clip4vla.config.run import Evaluate, Finetune, Source
from clip4vla.config.sections import Inputs, Optimiser
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.models.coavt.objective import Objective
from clip4vla.models.coavt.settings import Model
from clip4vla.training.train import train

CACHE = Cache(
    log_mel={"kind": "fbank", "window": "hann", "n_mels": 128, "sample_rate": 16000, "n_fft": 400}
    | {"hop": 160, "channels": "mean"}
)
INPUTS = Inputs(
    max_frames=1, max_segments=1, segment_steps=192, max_words=16, standardisation="clip"
)
COMMON = {
    "model": Model(architecture="tiny", weights=None, queries=8, dropout=0.0),
    "inputs": INPUTS,
    "cache": CACHE,
}
BOTH = ["vision", "audio"]


def source(split):
    return Source(dataset="events-v1-222222", cache_id=cache_id(CACHE), split=split)


def trained(folder, share=1.0, task="retrieval", labels=None, **given):
    """Return manifests and weights of a training on a share of the world's clips."""
    version, cache = source("train").dataset, source("train").cache_id
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = (version, cache, CACHE, share, *([labels] if labels else []))
        manifest = freeze_world(*arguments).resolve()
    manifests = {(version, cache): manifest}
    values = {"start": None, "task": task, "train": source("train"), "val": None}
    run = Finetune(**(COMMON | values | {"selection": "last"} | given))
    out = folder / str(run.seed)
    train(run, manifests, None, {}, None, out / "state", out)
    return manifests, out / "model.safetensors"


def scored(manifests, weights, tested, task="retrieval", **given):
    """Return the metrics of weights on the split `tested`."""
    values = {"start": "weights:trained", "task": task, "test": source(tested)}
    run = Evaluate(**(COMMON | values | {"missing_audio": "filter"} | given))
    out = weights.parent / f"scored{len(list(weights.parent.iterdir()))}"
    evaluate(run, manifests, weights, {}, None, out, run_key="test")
    metrics = read_json(out / "metrics.json")["galleries"]["with_sound"]["metrics"]
    print("METRICS", given, {name: round(value, 1) for name, value in metrics.items()})
    return metrics


def test_a_few_clips_are_known_by_heart(tmp_path):
    """48 clips, 48 steps of contrast: chance is R@5 10 and R@10 21."""
    weights = trained(
        tmp_path,
        share=0.08,
        objective=Objective(matching=0, language=0, audio_text=0, visual_text=0),
        optimiser=Optimiser(lr=2e-3, head_lr=2e-3, epochs=16, batch_size=16, weight_decay=0.05),
    )
    found = scored(*weights, "train")
    assert found["t2v_R5"] > 30 and found["t2v_R10"] > 55
