"""Learning to tag: clips of the synthetic world by the colour that is seen and the events heard.

Half of the labels can only be seen and half only be heard, and both are drawn independently: one
modality alone stays near chance in the other's half.
"""

from statistics import mean

import pytest
from learning.frozen import freeze_world
from learning.world import clips

from clip4vla.common.files import read_json
from clip4vla.config.data import Cache
from clip4vla.config.keys import cache_id
from clip4vla.config.run import Evaluate, Finetune, Source
from clip4vla.config.sections import Inputs, Optimiser
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.models.clip4vla.settings import Model
from clip4vla.training.train import train

VERSION = "events-v1-111111"
CACHE_ID = cache_id(Cache())
INPUTS = Inputs(max_frames=1, max_segments=1, max_words=16)
MODEL = Model(architecture="tiny", weights=None)
WAYS = (["vision"], ["audio"], ["vision", "audio"])


def labels_of(clip):
    return [f"{clip.seen[0][1]} thing", *(f"{event} heard" for event in clip.events)]


def source(split):
    return Source(dataset=VERSION, cache_id=CACHE_ID, split=split)


def precisions_of(folder, seed, tested, epochs, share=1.0, ways=WAYS):
    """Modalities -> mAP on the split `tested`, of one model that is trained on both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        manifest = freeze_world(VERSION, CACHE_ID, Cache(), share, labels_of).resolve()
    manifests = {(VERSION, CACHE_ID): manifest}
    run = Finetune(
        start=None,
        seed=seed,
        task="tagging",
        train=source("train"),
        val=None,
        selection="last",
        trainable="all",
        sampling="balanced",
        label_smoothing=0.1,
        model=MODEL,
        inputs=INPUTS,
        optimiser=Optimiser(
            lr=3e-3,
            head_lr=3e-2,
            epochs=epochs,
            batch_size=16,
            weight_decay=0.05,
            schedule="step",
            step_from=epochs - 2,
            average_epochs=(epochs - 1, epochs),
        ),
    )
    out = folder / str(seed)
    train(run, manifests, None, {}, None, out / "state", out)
    found = {}
    for modalities in ways:
        scored = Evaluate(
            start="weights:trained",
            task="tagging",
            modalities=modalities,
            test=source(tested),
            missing_audio="filter",
            model=MODEL,
            inputs=INPUTS,
        )
        name = " ".join(modalities)
        evaluate(scored, manifests, out / "model.safetensors", {}, None, out / name, run_key="test")
        metrics = read_json(out / name / "metrics.json")
        found[name] = metrics["galleries"]["with_sound"]["metrics"]["mAP"]
    print("mAP", seed, found)
    return found


def chance(split, share=1.0):
    """The mean share of clips of a label, in percent: mAP of equal scores."""
    of_split = [labels_of(clip) for clip in clips("events", share) if clip.split == split]
    labels = {label for clip in of_split for label in clip}
    return 100 * mean(sum(label in clip for clip in of_split) / len(of_split) for label in labels)


def test_the_events_of_a_few_clips_are_known_by_heart(tmp_path):
    found = precisions_of(tmp_path, 0, "train", epochs=16, share=0.08, ways=WAYS[2:])
    assert found["vision audio"] > 1.5 * chance("train", 0.08)


@pytest.mark.slow
def test_events_of_held_out_clips_are_tagged_above_chance_with_every_seed(tmp_path):
    """And better with both modalities than with one."""
    for seed in range(3):
        found = precisions_of(tmp_path, seed, "test", epochs=10)
        assert found["vision audio"] > 1.5 * chance("test")
        assert found["vision audio"] > max(found["vision"], found["audio"]) + 3
