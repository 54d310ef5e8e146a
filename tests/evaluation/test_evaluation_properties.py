"""What evaluation and training owe every clip: its own result, and its name when it is broken."""

import numpy as np
import pytest
import torch
from encoded_clips import encoded_clips
from tiny_world import INPUTS, MODEL, finetune, pretrain, source

from clip4vla.cache.clips import ClipCache
from clip4vla.common.errors import UserError
from clip4vla.config.run import Evaluate, Substitute
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.inference import captioning, features
from clip4vla.inference.captioning import generate
from clip4vla.inference.donors import substitute
from clip4vla.inference.features import check_finite, embed_clips
from clip4vla.inference.gallery import Gallery
from clip4vla.loading.loader import clip_items, samples_of, split_rows
from clip4vla.models.clip4vla.build import build_model
from clip4vla.training.switches import Switches
from clip4vla.training.train import train

CPU = torch.device("cpu")
CAPTIONS = ["a red thing", "the sound of green", "blue"]
FUSIONS = [
    "global_to_global",
    "global_to_local",
    "tight",
    "local_to_local",
    "feat2sim",
    "query2sim",
]


@pytest.fixture(scope="module")
def cache(manifests):
    return ClipCache(next(iter(manifests.values())))


def built(fusion="global_to_global", task="retrieval", classes=None):
    config = MODEL.model_copy(update={"fusion": fusion})
    head = config.head(task)
    return config, build_model(config, {}, head, classes, 1, INPUTS).eval()


def samples(cache, order=None):
    items = clip_items(split_rows(cache, source("test")))
    items = items if order is None else [items[i] for i in order]
    return samples_of(cache, items, source("test"), INPUTS, ["vision", "audio"], "none")


def scores(cache, fusion, order=None):
    config, model = built(fusion)
    run = Evaluate(start=None, task="retrieval", test=source("test"), model=config, inputs=INPUTS)
    gallery = Gallery(model, samples(cache, order), run, 1.0, CPU, 1)
    return gallery.similarities(CAPTIONS)["t_va"]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_gallery_knows_no_order_and_no_batches(cache, fusion, monkeypatch):
    """Columns follow the clips, and one clip at a time gives what all at once give."""
    whole, order = scores(cache, fusion), [3, 1, 4, 0, 2]
    assert np.allclose(scores(cache, fusion, order), whole[:, order], rtol=0, atol=1e-5)
    monkeypatch.setattr(features, "CLIPS", 1)
    monkeypatch.setattr(features, "TEXTS", 1)
    assert np.allclose(scores(cache, fusion), whole, rtol=0, atol=1e-5)


def test_captions_know_no_order_and_no_batches(cache, monkeypatch):
    _, model = built(task="captioning")
    given = ["vision", "audio"], CPU, 1
    whole = generate(model, samples(cache), *given)
    assert generate(model, samples(cache, [3, 1, 4, 0, 2]), *given) == whole
    monkeypatch.setattr(captioning, "CLIPS", 1)
    assert generate(model, samples(cache), *given) == whole


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_no_numbers_are_refused_by_name(value):
    good, bad = torch.zeros(3, 2, 4), torch.zeros(3, 2, 4)
    bad[1, 1, 2] = value
    mask = torch.ones(3, 2, dtype=torch.bool)
    check_finite(["a", "b", "c"], encoded_clips(good, mask, None, None))
    for vision, audio in ((bad, None), (good, bad)):
        with pytest.raises(UserError, match="clip b: its features are not finite"):
            check_finite(["a", "b", "c"], encoded_clips(vision, mask, audio, mask))


def test_broken_weights_are_refused_wherever_features_are_made(cache):
    """Instead of ranks, captions and donors of nothing: argmax of NaN is an answer."""
    _, model = built(task="captioning")
    model.audio.proj.data[3] = float("nan")
    given = ["vision", "audio"], CPU, 1
    for make in (embed_clips, generate):
        with pytest.raises(UserError, match="clip e0: its features are not finite"):
            make(model, samples(cache), *given)


@pytest.fixture
def broken(monkeypatch):
    """`broken(clip)` makes the cached log-mel of one clip hold an infinity."""
    real = ClipCache.read_log_mel

    def break_it(clip_id):
        def read(cache, wanted):
            log_mel = real(cache, wanted)
            return log_mel.clone().index_fill_(1, torch.tensor([7]), float("inf")) if (
                log_mel is not None and wanted == clip_id
            ) else log_mel  # fmt: skip

        monkeypatch.setattr(ClipCache, "read_log_mel", read)

    return break_it


def test_a_broken_clip_is_named_in_training(manifests, broken, tmp_path):
    broken("t3")
    for number, run in enumerate((pretrain(), finetune(), finetune("classification"))):
        folder = tmp_path / str(number)
        given = folder / "state", folder / "out"
        # Another test may have left the features of all clips on disk.
        with pytest.raises(UserError, match="clip t3: its log-mel holds NaN or infinity"):
            train(run, manifests, None, {}, None, *given, switches=Switches(False))


def test_a_broken_clip_is_named_in_evaluation(manifests, trained, broken, tmp_path):
    start = trained("retrieval")
    broken("e2")
    run = Evaluate(
        start="0" * 12, task="retrieval", test=source("test"), model=MODEL, inputs=INPUTS,
        missing_audio="none",
    )  # fmt: skip
    with pytest.raises(UserError, match="clip e2: its log-mel holds NaN or infinity"):
        evaluate(run, manifests, start, {}, None, tmp_path, "0" * 12)


def test_a_neighbour_of_nothing_is_refused(manifests, tmp_path, monkeypatch):
    """Substitution reads frames alone, which are bytes: only the weights can break it."""
    from clip4vla.inference import donors as substitution

    _, model = built()
    model.vision.proj.data[0] = float("inf")
    monkeypatch.setattr(substitution, "initial_model", lambda *given: model)
    run = Substitute(
        start=None, queries=[source("test")], donors=source("train"), model=MODEL, inputs=INPUTS
    )
    with pytest.raises(UserError, match=r"clip \w+: its features are not finite"):
        substitute(run, manifests, None, {}, tmp_path)
