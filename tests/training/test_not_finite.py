"""What is left to look at when a loss or a gradient is not finite."""

import json

import pytest
import torch
from gradient_cases import CPU, chunks_of, make_batch, make_task

from clip4vla.cli import main as cli
from clip4vla.training.not_finite import dump
from clip4vla.training.ranks import Ranks

SINGLE = torch.float32


def broken_batch():
    """Eight clips, of which the sound of clip number 3 has one NaN."""
    batch = {k: x.clone() if torch.is_tensor(x) else x for k, x in make_batch(8, SINGLE).items()}
    batch["audio"][3, 1, 0, 5, 7] = float("nan")
    return batch | {"caption": ["a caption"] * 8}


@pytest.mark.parametrize("chunk", [8, 3])
def test_a_broken_clip_is_named(tmp_path, chunk):
    task, batch = make_task("stage 2, every term", dtype=SINGLE), broken_batch()
    chunks = chunks_of(batch, chunk)
    found = dump(tmp_path, task, chunks, CPU, 5, Ranks())
    assert found == "clips with inputs or features that are not finite: x"
    report = json.loads((tmp_path / "report.json").read_text())
    (rank,) = report["ranks"]
    assert (report["step"], report["loss"]) == (5, "nan")
    assert rank["not_finite_clips"] == ["x"] and len(rank["clip_ids"]) == 8
    assert rank["first_not_finite_module"] == "audio.conv1"
    assert "audio.conv1.weight" in rank["not_finite_gradients"]
    assert rank["not_finite_weights"] == []
    assert "encode" not in vars(task)  # nobody watches any more


def test_a_clip_of_which_only_the_features_are_broken_is_named(tmp_path, monkeypatch):
    task, batch = make_task("stage 1", dtype=SINGLE), make_batch(8, SINGLE)
    encode = type(task).encode

    def overflowing(task, batch, again=False):
        features = encode(task, batch, again)
        rows = torch.arange(len(features["audio"]))[:, None]
        return features | {"audio": features["audio"] * torch.where(rows == 3, torch.inf, 1.0)}

    monkeypatch.setattr(type(task), "encode", overflowing)
    assert dump(tmp_path, task, [batch], CPU, 0, Ranks()).endswith(f": {batch['clip_id'][3]}")


def test_a_broken_weight_and_a_broken_block_are_told_apart(tmp_path):
    task, batch = make_task("captions", dtype=SINGLE), make_batch(2, SINGLE)
    task.model.captioner.joint.type_embedding.weight.data[1] = float("inf")
    found = dump(tmp_path, task, [batch], CPU, 0, Ranks())
    assert found == "weights that are not finite: captioner.joint.type_embedding.weight"
    task = make_task("captions", dtype=SINGLE)
    block = task.model.vision.transformer.resblocks[0].mlp
    block.c_fc.register_forward_hook(lambda module, given, x: x * float("inf"))
    found = dump(tmp_path, task, [batch], CPU, 0, Ranks())
    assert found.startswith("first in the output of vision.transformer.resblocks.0.mlp.c_fc")


def test_the_command_shows_a_dump(tmp_path, capsys):
    dump(tmp_path, make_task("stage 1", dtype=SINGLE), [broken_batch()], CPU, 5, Ranks())
    with pytest.raises(SystemExit) as end:
        cli.main(["not-finite", str(tmp_path)])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "step 5, float32: loss nan" in said
    assert "first module whose output is not finite: audio.conv1" in said
    assert "clips with inputs or features that are not finite: x" in said
    with pytest.raises(SystemExit):
        cli.main(["not-finite", str(tmp_path / "none")])
    assert "no report.json in it" in capsys.readouterr().err


SOUND = {
    "step": 5,
    "loss": "nan",
    "terms": {"a": "1.0"},
    "precision": "float32",
    "ranks": [
        {
            "rank": 0,
            "clip_ids": ["x"],
            "not_finite_weights": [],
            "not_finite_clips": [],
            "first_not_finite_module": None,
            "not_finite_gradients": [],
            "largest_gradients": [["weight", 0.5]],
        }
    ],
}


def shown(folder):
    with pytest.raises(SystemExit) as end:
        cli.main(["not-finite", str(folder)])
    return end.value.code


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b'{"step": "\xff"}',
        b"[" * 100_000,
        b"[]",
        b'{"step": 5}',
        json.dumps(SOUND | {"terms": [1]}).encode(),
        json.dumps(SOUND | {"terms": {"a\nb": []}}).encode(),
        json.dumps(SOUND | {"ranks": 5}).encode(),
        json.dumps(
            SOUND | {"ranks": [SOUND["ranks"][0] | {"largest_gradients": [["weight", "x"]]}]}
        ).encode(),
    ],
)
def test_a_damaged_report_is_one_line(tmp_path, capsys, content):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    assert shown(tmp_path) == 78
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(f"clip4vla: {path}: damaged (") and ". Fix: restore a copy" in line


def test_a_report_moves_no_cursor(tmp_path, capsys):
    (tmp_path / "report.json").write_text(json.dumps(SOUND | {"loss": "\x1b[31mred"}))
    assert shown(tmp_path) == 0
    text = capsys.readouterr().out
    assert r"loss \x1b[31mred" in text and "largest finite gradients: weight 0.5" in text
