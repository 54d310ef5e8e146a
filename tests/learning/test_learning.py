"""Learning, not only running: a tiny model finds clips by their captions.

One model is trained on sound and picture of the synthetic world, from nothing: in seconds it knows
a few clips by heart, in a minute it finds clips that it has not seen. The gallery's captions need
both modalities; what either alone can reach is known. The study with seeds and spread is
benchmarks/learning.
"""

import pytest
from learning.frozen import freeze_world
from learning.world import ceilings, clips

from clip4vla.common.files import read_json
from clip4vla.config.data import Cache
from clip4vla.config.keys import cache_id
from clip4vla.config.run import Evaluate, Finetune, Pretrain, Source
from clip4vla.config.sections import Inputs, Optimiser
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.models.clip4vla.objective import Objective
from clip4vla.models.clip4vla.settings import Model
from clip4vla.training.train import train

VERSION = "events-v1-000000"
CACHE_ID = cache_id(Cache())
INPUTS = Inputs(max_frames=1, max_segments=1, max_words=16)
MODEL = Model(architecture="tiny", weights=None)


def source(split):
    return Source(dataset=VERSION, cache_id=CACHE_ID, split=split)


def world(folder, share):
    """Return the manifests of a share of the world's clips, frozen in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        manifest = freeze_world(VERSION, CACHE_ID, Cache(), share).resolve()
    return {(VERSION, CACHE_ID): manifest}


def recalls_of(folder, epochs, batch_size, tested, share=1.0, ways=(["vision", "audio"],)):
    """Modalities -> R@1 and R@10 on the split `tested`, of one model trained on both."""
    manifests = world(folder, share)
    run = Finetune(
        start=None,
        task="retrieval",
        train=source("train"),
        val=source("val"),
        model=MODEL,
        inputs=INPUTS,
        objective=Objective(scale=25),
        optimiser=Optimiser(lr=3e-3, epochs=epochs, batch_size=batch_size, weight_decay=0.05),
    )
    train(run, manifests, None, {}, None, folder / "state", folder / "out")
    found = {}
    for modalities in ways:
        scored = Evaluate(
            start="weights:trained",
            task="retrieval",
            modalities=modalities,
            test=source(tested),
            missing_audio="filter",
            model=MODEL,
            inputs=INPUTS,
        )
        weights, out = folder / "out" / "model.safetensors", folder / "_".join(modalities)
        evaluate(scored, manifests, weights, {}, None, out, run_key="test")
        metrics = read_json(out / "metrics.json")["galleries"]["with_sound"]["metrics"]
        name = "t2a" if modalities == ["audio"] else "t2v"
        found[" ".join(modalities)] = metrics[f"{name}_R1"], metrics[f"{name}_R10"]
    print("RECALLS", found)
    return found


def test_a_few_clips_are_known_by_heart(tmp_path):
    """48 clips, 60 steps: chance is R@1 2 and R@10 21."""
    found = recalls_of(tmp_path, epochs=20, batch_size=16, tested="train", share=0.08)
    r1, r10 = found["vision audio"]
    assert r1 > 20 and r10 > 60


def test_sounds_and_pictures_that_were_contrasted_find_one_another(tmp_path):
    """48 clips, 60 steps of inter-modal contrast: chance is R@5 10 and R@10 21, both ways."""
    manifests = world(tmp_path, share=0.08)
    contrast = Pretrain(
        sources=[source("train")],
        model=MODEL,
        inputs=INPUTS,
        objective=Objective(scale=25, intra=False),
        optimiser=Optimiser(lr=3e-3, epochs=20, batch_size=16, weight_decay=0.05),
        trainable="all",
    )
    train(contrast, manifests, None, {}, None, tmp_path / "state", tmp_path / "out")
    run = Evaluate(
        start="weights:trained",
        task="retrieval",
        query="audio",
        test=source("train"),
        missing_audio="filter",
        model=MODEL,
        inputs=INPUTS,
    )
    weights, out = tmp_path / "out" / "model.safetensors", tmp_path / "scored"
    evaluate(run, manifests, weights, {}, None, out, run_key="test")
    metrics = read_json(out / "metrics.json")["galleries"]["with_sound"]["metrics"]
    print("RECALLS", metrics)
    for way in ("a2v", "v2a"):
        assert metrics[f"{way}_R5"] > 30 and metrics[f"{way}_R10"] > 50


@pytest.fixture(scope="module")
def recalls(tmp_path_factory):
    """R@1 and R@10 of the test clips by vision, by audio and by both: 25 to 60 s of CPU."""
    ways = (["vision"], ["audio"], ["vision", "audio"])
    return recalls_of(tmp_path_factory.mktemp("learning"), 6, 32, "test", ways=ways)


@pytest.mark.slow
def test_held_out_clips_are_found_far_above_chance(recalls):
    test = [made for made in clips("events") if made.split == "test"]
    r1, r10 = recalls["vision audio"]
    assert r1 >= 5 * ceilings(test, "test")["chance"]
    assert r10 >= 5 * 10 * ceilings(test, "test")["chance"]


@pytest.mark.slow
def test_sound_and_picture_together_find_more_than_either(recalls):
    both = recalls["vision audio"]
    for alone in ("vision", "audio"):
        assert both[0] > recalls[alone][0] and both[1] > recalls[alone][1] + 10
