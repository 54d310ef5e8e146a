"""Stage 1 with CLIP's vectors computed once: the same results, without reading a frame."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_world import INPUTS, MODEL, build_world, optimiser, pretrain

from clip4vla.cache import vectors
from clip4vla.cache.clips import ClipCache
from clip4vla.common.device import pick_device
from clip4vla.common.files import read_json
from clip4vla.common.hardware import ReadingHardware
from clip4vla.config.sections import Masking
from clip4vla.inference import frozen
from clip4vla.loading.loader import Caches
from clip4vla.loading.masking import masked
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.objective import Objective
from clip4vla.models.common.pooling import normalise, pool
from clip4vla.training.job import External
from clip4vla.training.setup import set_up
from clip4vla.training.switches import Switches
from clip4vla.training.train import train


@pytest.fixture
def manifests(tmp_path):
    return build_world(tmp_path / "world")


def job_of(manifests, run, frozen_cache=True, workers=0):
    around = External(Caches(manifests), None, {}, None, pick_device(), workers)
    around = replace(around, switches=Switches(frozen_cache=frozen_cache))
    return set_up(run, around)


def folders(manifests):
    (manifest,) = manifests.values()
    return sorted((manifest.parent / "frozen").glob("*"))


def forbid(monkeypatch, holder, name):
    def called(*_, **__):
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(holder, name, called)


def test_vectors_are_those_of_the_towers(manifests, monkeypatch):
    """Computed in other batches, so up to the last bits."""
    plain, cached = job_of(manifests, pretrain(), False), job_of(manifests, pretrain())
    assert len(folders(manifests)) == 4  # vision and text of two sources
    forbid(monkeypatch, ClipCache, "read_frames")
    batches = [batch for (batch,) in cached.batches(0, 0)]
    monkeypatch.undo()
    model = plain.task.model
    for (batch,), same in zip(plain.batches(0, 0), batches, strict=True):
        assert "frames" not in same
        assert same["clip_id"] == batch["clip_id"] and same["caption"] == batch["caption"]
        assert torch.equal(same["audio"], batch["audio"])
        assert torch.equal(masked(same), masked(batch))
        with torch.no_grad():
            frames = model.encode_vision(batch["frames"], batch["frame_mask"])
            seen = pool(frames, batch["frame_mask"])
            text = normalise(model.encode_text(batch["tokens"])[1])
        torch.testing.assert_close(same["vision"], seen, rtol=0, atol=2e-6)
        torch.testing.assert_close(same["text"], text, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("microbatch", "workers"), [(None, 0), (2, 2)])
def test_training_ends_with_the_same_weights(manifests, tmp_path, microbatch, workers):
    run = pretrain(optimiser=optimiser(microbatch=microbatch))
    for name, given in (("cached", True), ("plain", False)):
        out = tmp_path / name
        hardware = ReadingHardware(threads=workers + 1, readers=workers)
        given = {"hardware": hardware, "switches": Switches(frozen_cache=given)}
        train(run, manifests, None, {}, None, out / "s", out, **given)
    cached, plain = (tmp_path / name / "model.safetensors" for name in ("cached", "plain"))
    found, expected = load_file(cached), load_file(plain)
    start = job_of(manifests, run).task.model.state_dict()
    moved = max(float((expected[n] - start[n]).abs().max()) for n in expected if n in start)
    off = max(float((found[n] - expected[n]).abs().max()) for n in expected)
    assert moved > 1e-3 and off < 0.01 * moved
    facts = [read_json(path.parent / "train.json") for path in (cached, plain)]
    assert facts[0] == facts[1]


def test_another_run_on_the_same_data_computes_nothing(manifests, monkeypatch):
    job_of(manifests, pretrain())
    forbid(monkeypatch, frozen, "embed_clips")
    forbid(monkeypatch, frozen, "embed_texts")
    other = pretrain(masking=Masking(mode="paper"), optimiser=optimiser(lr=1e-4, epochs=1))
    job_of(manifests, other)
    assert len(folders(manifests)) == 4


def test_other_weights_or_inputs_get_vectors_of_their_own(manifests):
    job_of(manifests, pretrain())
    before = folders(manifests)
    inputs = pretrain().inputs
    job_of(manifests, pretrain(inputs=inputs.model_copy(update={"max_frames": 1})))
    assert len(folders(manifests)) == len(before) + 2  # vision alone
    job_of(manifests, pretrain(inputs=inputs.model_copy(update={"max_words": 6})))
    assert len(folders(manifests)) == len(before) + 4  # text alone
    job_of(manifests, pretrain(seed=1))  # random weights: another seed is another tower
    assert len(folders(manifests)) == len(before) + 8
    for folder in folders(manifests):
        assert {"tower", "precision", "names"} <= read_json(folder / "about.json").keys()


def test_another_manifest_gets_vision_of_its_own(manifests):
    job_of(manifests, pretrain())
    before = set(folders(manifests))
    (manifest,) = manifests.values()
    manifest.write_text(manifest.read_text() + "\n")
    job_of(manifests, pretrain())
    assert len(set(folders(manifests)) - before) == 2


@pytest.mark.parametrize(
    "given",
    [{"trainable": "all"}, {"objective": Objective(inter=False)}],
    ids=["CLIP learns", "audio alone"],
)
def test_where_nothing_is_frozen_or_nobody_looks_nothing_is_kept(manifests, monkeypatch, given):
    job = job_of(manifests, pretrain(**given))
    if "objective" in given:
        forbid(monkeypatch, ClipCache, "read_frames")
    (batch,) = next(iter(job.batches(0, 0)))
    assert folders(manifests) == [] and "vision" not in batch
    assert torch.isfinite(job.task.loss(batch)[0])


def test_a_stop_while_building_loses_only_the_block_at_hand(manifests, monkeypatch):
    monkeypatch.setattr(vectors.Vectors.__init__, "__defaults__", (2,))
    whole, calls = frozen.embed_clips, []

    def stops(model, samples, *given):
        calls.append([clip_id for clip_id, _, _ in samples.items])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(model, samples, *given)

    monkeypatch.setattr(frozen, "embed_clips", stops)
    with pytest.raises(KeyboardInterrupt):
        job_of(manifests, pretrain())
    done = [clip for call in calls[:2] for clip in call]
    calls.extend([[], []])
    job_of(manifests, pretrain())
    again = [clip for call in calls[5:] for clip in call]
    assert not set(done) & set(again) and len(done) + len(again) == 10


def test_vectors_are_those_of_the_settings_that_tensors_do_not_show():
    def hashes(**given):
        model = build_model(MODEL.model_copy(update=given), {}, inputs=INPUTS, seed=0)
        return [model.part_hash(part) for part in ("text", "vision", "audio")]

    plain = hashes()
    assert hashes() == plain
    gelu, both = hashes(activation="gelu"), hashes(type_token="both")
    assert all(one != other for one, other in zip(gelu, plain, strict=True))
    assert both[:2] == plain[:2] and both[2] != plain[2]
