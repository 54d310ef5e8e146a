"""CoAVT learns: a tiny model finds clips of the synthetic world by their captions, and its events.

Clips, captions and labels are those of `test_learning.py` and `test_events.py`: both modalities are
needed, and what either alone can reach is known.
"""

import pytest
from learning.frozen import freeze_world
from learning.world import ceilings, clips
from test_events import labels_of

from clip4vla.common.files import read_json
from clip4vla.config.data import Cache
from clip4vla.config.keys import cache_id
from clip4vla.config.run import Evaluate, Finetune, Source
from clip4vla.config.sections import Inputs, Optimiser
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.models.coavt.objective import Objective
from clip4vla.models.coavt.settings import Model
from clip4vla.training.train import train

LOG_MEL = {"kind": "fbank", "window": "hann", "n_mels": 128, "channels": "mean"}
CACHE = Cache(log_mel=LOG_MEL | {"sample_rate": 16000, "n_fft": 400, "hop": 160})
COMMON = {
    "model": Model(architecture="tiny", queries=8, dropout=0.0),
    "inputs": Inputs(
        max_frames=1, max_segments=1, segment_steps=192, max_words=16, standardisation="clip"
    ),
    "cache": CACHE,
}
CONTRAST = Objective(matching=0, language=0, audio_text=0, visual_text=0)
BOTH = ["vision", "audio"]


def source(split):
    return Source(dataset="events-v1-222222", cache_id=cache_id(CACHE), split=split)


def metrics_of(folder, task, tested, share=1.0, ways=(BOTH,), rates=(2e-3, 2e-3), **given):
    """Modalities -> metrics on the split `tested`, of one model that is trained on both."""
    version, cache = source("train").dataset, source("train").cache_id
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        manifest = freeze_world(version, cache, CACHE, share, labels_of).resolve()
    manifests = {(version, cache): manifest}
    epochs, seed = given.pop("epochs"), given.get("seed", 0)
    lr, head_lr = rates
    run = Finetune(
        **(COMMON | given),
        start=None,
        task=task,
        train=source("train"),
        val=None,
        selection="last",
        optimiser=Optimiser(
            lr=lr, head_lr=head_lr, epochs=epochs, batch_size=16, weight_decay=0.05
        ),
    )
    out = folder / str(seed)
    train(run, manifests, None, {}, None, out / "state", out)
    found = {}
    for modalities in ways:
        name = " ".join(modalities)
        scored = Evaluate(
            **COMMON,
            start="weights:trained",
            task=task,
            modalities=modalities,
            test=source(tested),
            missing_audio="filter",
        )
        evaluate(scored, manifests, out / "model.safetensors", {}, None, out / name, run_key="test")
        metrics = read_json(out / name / "metrics.json")["galleries"]["with_sound"]["metrics"]
        found[name] = metrics
        print("METRICS", task, seed, name, {k: round(v, 1) for k, v in metrics.items()})
    return found


def test_a_few_clips_are_known_by_heart(tmp_path):
    """48 clips, 48 steps of contrast: chance is R@5 10 and R@10 21."""
    given = {"epochs": 16, "objective": CONTRAST}
    found = metrics_of(tmp_path, "retrieval", "train", share=0.08, **given)["vision audio"]
    assert found["t2v_R5"] > 30 and found["t2v_R10"] > 55


TAGGING = {"trainable": "all", "label_smoothing": 0.1, "rates": (2e-3, 2e-2)}


def test_events_of_a_few_clips_are_known_by_heart(tmp_path):
    """48 clips, 60 steps: equal scores of all clips have mAP 25."""
    found = metrics_of(tmp_path, "tagging", "train", share=0.08, epochs=20, **TAGGING)
    assert found["vision audio"]["mAP"] > 45


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_events_of_held_out_clips_need_both_modalities(tmp_path, seed):
    ways = (["vision"], ["audio"], BOTH)
    found = metrics_of(tmp_path, "tagging", "test", epochs=10, ways=ways, seed=seed, **TAGGING)
    both, alone = found.pop("vision audio")["mAP"], [x["mAP"] for x in found.values()]
    assert both > 75 and both > max(alone) + 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_clips_are_found_far_above_chance(tmp_path, seed):
    test = [made for made in clips("events") if made.split == "test"]
    chance = 10 * ceilings(test, "test")["chance"]  # R@10 in percent
    given = {"epochs": 10, "objective": CONTRAST, "seed": seed}
    found = metrics_of(tmp_path, "retrieval", "test", **given)["vision audio"]
    assert found["t2v_R10"] >= 3 * chance and found["t2v_MedR"] < len(test) / 5
