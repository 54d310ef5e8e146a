"""Files of CoAVT: imported from CAV-MAE, exported, described, and what they refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from coavt_cases import INPUTS, model_section
from foreign_weights import cav_mae_state
from safetensors.torch import load_file

import clip4vla
from clip4vla.checkpoints.checkpoint import read_checkpoint
from clip4vla.checkpoints.convert import convert
from clip4vla.cli.main import main
from clip4vla.common.errors import UserError
from clip4vla.models.coavt.cav_mae import translate
from clip4vla.models.coavt.settings import VERBAL
from clip4vla.stages.checkpoints import inspect, show

DEMO = Path(__file__).parents[3] / "demo" / "clips"
FRESH = tuple(part for part in VERBAL if part != "text")
SIZES = model_section().sizes(vocabulary=1, inputs=INPUTS)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    path = tmp_path_factory.mktemp("cav_mae") / "audio_model.pth"
    torch.save(cav_mae_state(SIZES), path)
    return path


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return ended.value.code


def test_a_file_of_cav_mae_is_described(theirs):
    report = inspect(theirs)
    assert (report["kind"], report["architecture"]) == ("cav_mae", "tiny")
    assert {"audio", "vision", "shared"} <= set(report["parts"]) and "cav_mae" in show(report)


def test_a_file_of_cav_mae_becomes_ours_and_is_exported(theirs, tmp_path, capsys):
    out = tmp_path / "ours.safetensors"
    fresh = [word for part in FRESH for word in ("--fresh", part)]
    assert run("checkpoint", "import", theirs, out, *fresh) == 0
    assert "initialised: query" in capsys.readouterr().out
    found = read_checkpoint(out)
    assert found.settings.model.family == "coavt" and found.settings.inputs.segment_steps == 64
    expected = translate(torch.load(theirs)).tensors
    held = dict(found.model.named_parameters())
    assert len(expected) > 40 and all(held[name].equal(x) for name, x in expected.items())
    assert run("checkpoint", "export", out, tmp_path / "out") == 0
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == held.keys()
    assert "CoAVT" in (tmp_path / "out" / "README.md").read_text()
    again = convert(out, overrides={"model": {"missing": "stream"}})
    again.fill_model()
    assert again.model.shared.missing == "stream"
    assert run("checkpoint", "export", out, tmp_path / "no", "--names", "released") == 78
    embedder = clip4vla.load(out, "cpu")
    clips = [DEMO / "say_dog.mp4", DEMO / "bbb_120.mp4"]  # the second one is silent
    sounds, pictures = embedder.embed_audio(clips), embedder.embed_video(clips)
    assert sounds.shape == pictures.shape == (2, 64) and not sounds[1].any()
    assert np.linalg.norm([sounds[0], *pictures], axis=1) == pytest.approx(1, abs=1e-5)
    texts = embedder.embed_text(["a dog", "a rabbit"])
    assert embedder.rank(texts, embedder.embed_clips(clips)).shape == (2, 2)
    with pytest.raises(UserError, match="no vectors of texts that can be compared"):
        embedder.similarity(texts, pictures)


def test_parts_that_a_file_lacks_have_to_be_named(theirs):
    with pytest.raises(UserError, match="missing. Fix: name parts to initialise with --fresh"):
        convert(theirs).fill_model()
    with pytest.raises(UserError, match="--fresh fusion: unknown part"):
        convert(theirs, fresh=("fusion",))
    with pytest.raises(UserError, match="no part of CoAVT is loaded from it here"):
        convert(theirs, clip=theirs)


def test_the_classes_of_a_fine_tuned_file_are_assumed_or_named(tmp_path):
    path = tmp_path / "fine_tuned.pth"
    torch.save(cav_mae_state(SIZES, n_classes=3), path)
    found = convert(path, fresh=FRESH)
    found.fill_model()
    assert found.settings.task == "tagging" and found.settings.classes == ["0", "1", "2"]
    assert len(found.assumed) == 2 and len(found.left_out) == 1
    named = convert(path, fresh=FRESH, overrides={"classes": ["a", "b", "c"]})
    assert named.settings.classes == ["a", "b", "c"]
    headless = convert(path, fresh=FRESH, drop=("probe",))
    assert headless.settings.task is None and headless.coverage.complete


def test_other_sizes_are_refused(tmp_path):
    path = tmp_path / "odd.pth"
    state = cav_mae_state(model_section(shared_layers=2).sizes(vocabulary=1, inputs=INPUTS))
    state = {name: x for name, x in state.items() if not name.startswith("blocks_u.1.")}
    torch.save(state, path)
    with pytest.raises(UserError, match="no architecture has these sizes: width 64, patch 32, dep"):
        convert(path, fresh=FRESH)
