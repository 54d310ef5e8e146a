"""`clip4vla checkpoint inspect | import | export`, from the command line down."""

import json
import resource
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from clip4vla.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from clip4vla.cli.main import main
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.planner import make_plan
from clip4vla.config.recorded import record_config
from clip4vla.config.settings import Settings
from clip4vla.config.yaml import merge, undotted
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.importers import to_released_names
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.common import published
from clip4vla.models.common.tensor_files import save_model
from clip4vla.stages.checkpoints import inspect
from clip4vla.stages.run_inputs import unfit_tags, weights_of

REPO = Path(__file__).parents[2]
KEY = "0123456789ab"


def model(head=None, n_classes=None, **config):
    config = Model(**{"architecture": "tiny", "weights": None} | config)
    return build_model(config, {}, head, n_classes, seed=2), config


def released(path, head, n_classes=None, **config):
    """Write a file of the released code, and return its tensors."""
    tensors = {k: v.detach() for k, v in model(head, n_classes, **config)[0].named_parameters()}
    theirs = to_released_names(tensors)
    torch.save(theirs, path)
    return theirs


def clip_alone(path):
    built, _ = model()
    state = {f"visual.{k}": v.half() for k, v in built.vision.state_dict().items()}
    state |= {k: v for k, v in built.text.state_dict().items()}
    state["token_embedding.weight"] = state["token_embedding.weight"][:49408].clone()
    save_file(state | {"logit_scale": torch.tensor(4.0)}, path)


@pytest.fixture
def clip4vla(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["checkpoint", *map(str, arguments)])
        return (stop.value.code or 0, *capsys.readouterr())

    return run


def test_inspect_describes_a_file(clip4vla, tmp_path):
    clip_alone(tmp_path / "ViT-B-32.pt")
    code, text, _ = clip4vla("inspect", "ViT-B-32.pt")
    assert code == 0
    for words in ("openai", "safetensors", "tiny", "float16, float32", "vision", "none of OpenAI"):
        assert words in text, words
    code, text, _ = clip4vla("inspect", "ViT-B-32.pt", "--json")
    report = json.loads(text)
    assert report["sha256"] == sha256_of_file(tmp_path / "ViT-B-32.pt")
    assert report["parts"]["vision"] == {
        "tensors": 32,
        "parameters": sum(p.numel() for p in model()[0].vision.parameters()),
        "dtypes": ["float16"],
    }
    assert report["known_as"] is None and report["kind"] == "openai"


def test_inspect_knows_openais_files_and_looks_into_strange_ones(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    clip_alone(path)
    known = {sha256_of_file(path): ("tiny", "ViT-B-32.pt")}
    monkeypatch.setattr(published, "known_openai", lambda: known)
    assert inspect(path)["known_as"] == "OpenAI's ViT-B-32.pt"
    torch.save({"encoder.weight": torch.ones(2, 3), "epoch": 4}, path)
    report = inspect(path)
    assert report["parts"]["encoder"]["parameters"] == 6 and report["left_out"] == ["epoch"]
    assert "encoder.weight" in report["notes"][0] and "kind" not in report


def test_import_prints_the_coverage_and_writes_a_file_that_loads(clip4vla, tmp_path):
    released(tmp_path / "pytorch_model.bin.4", "fusion", joint_layers=2)
    arguments = "import", "pytorch_model.bin.4", "out.safetensors"
    settings = {"model.fusion": "tight", "inputs.max_words": 20}
    code, text, _ = clip4vla(*arguments, "--set", json.dumps(settings))
    assert code == 0
    lines = text.splitlines()
    assert "expected: 123 tensors; found: 123" in lines
    assert [line for line in lines if line in ("missing: 0", "left over: 0", "misshapen: 0")] == [
        "missing: 0",
        "left over: 0",
        "misshapen: 0",
    ]
    assert any(line.startswith("assumed: model.type_token: single") for line in lines)
    assert not any("max_words" in line for line in lines)
    found = read_checkpoint(tmp_path / "out.safetensors")
    assert found.settings.model.fusion == "tight" and found.model.fusion.max_words == 20
    imported = found.metadata["imported"]
    assert imported["file"] == "pytorch_model.bin.4" and imported["kind"] == "released"
    assert imported["sha256"] == sha256_of_file(tmp_path / "pytorch_model.bin.4")


def test_an_incomplete_file_writes_nothing(clip4vla, tmp_path):
    clip_alone(tmp_path / "clip.safetensors")
    code, text, error = clip4vla("import", "clip.safetensors", "out.safetensors")
    assert code == 78 and not (tmp_path / "out.safetensors").exists()
    assert "  audio.conv1.weight" in text and "--fresh" in error
    assert error.splitlines()[-1].startswith("clip4vla: clip.safetensors: 95 tensors expected")
    code, text, _ = clip4vla("import", "clip.safetensors", "out.safetensors", "--fresh", "audio")
    assert code == 0 and "initialised: audio" in text
    assert "assumed: model.activation: quick_gelu" in text
    code, _, error = clip4vla("import", "clip.safetensors", "out.safetensors", "--set", "{")
    assert code == 78 and "--set: not JSON" in error


def test_classes_are_read_from_a_file(clip4vla, tmp_path):
    released(tmp_path / "x.bin", "classification", n_classes=3)
    (tmp_path / "names.txt").write_text("dog\nrain\ncrying baby\n\n")
    code, _, _ = clip4vla("import", "x.bin", "out.safetensors", "--classes", "names.txt")
    assert code == 0
    found = read_checkpoint(tmp_path / "out.safetensors")
    assert found.settings.classes == ["dog", "rain", "crying baby"]
    (tmp_path / "names.txt").write_text("dog\n")
    code, _, error = clip4vla("import", "x.bin", "out.safetensors", "--classes", "names.txt")
    assert code == 78 and "probe.linear.weight [3, 64] for [1, 64]" in error
    for content, words in ((b"\xff\xfe", "not UTF-8"), (b" \n\n", "no classes in it")):
        (tmp_path / "names.txt").write_bytes(content)
        code, _, error = clip4vla("import", "x.bin", "out.safetensors", "--classes", "names.txt")
        assert code == 78 and f"--classes names.txt: {words}" in error


@pytest.fixture
def run_files(tmp_path):
    """Make results/ with one finished run and one evaluation of it."""
    folder = tmp_path / "results" / "runs" / KEY
    built, config = model("classification", n_classes=2)
    settings = Settings(model=config, task="classification", classes=["dog", "rain"])
    origin = {
        "run_key": KEY,
        "stage": "finetune",
        "selection": "best_val",
        "selected_epoch": 3,
        "manifests": {"demo-v1-0a1b2c/cache-cafe0001": "f" * 64},
        "val_metric": "val/accuracy",
        "val_value": 61.25,
    }
    write_checkpoint(folder / "model.safetensors", built, settings, origin)
    (folder / "config.json").write_text('{"stage": "finetune"}')
    gallery = {"protocol": "folds", "n_queries": 7, "n_gallery": 7, "ids_sha256": "a" * 64}
    stated = dict.fromkeys(("run_key", "dataset", "manifest_sha256", "protocol"), "x")
    stated["task"] = "classification"
    counts = dict.fromkeys(("expected", "planned", "usable", "silent", "scored"), 7)
    score = stated | {
        "data_version": "demo-v1-0a1b2c",
        "split": "test",
        "gallery": "all",
        "missing_audio": "none",
        "selection": "best_val",
        "tie_rule": None,
        "interval_rule": "x",
        "coverage": counts | {"captions_per_clip": None},
        "galleries": {"all": gallery | {"metrics": {"accuracy": 57.14}}},
        "checkpoint": {"run_key": KEY, "sha256": sha256_of_file(folder / "model.safetensors")},
    }
    for name, sha256 in (("a" * 12, None), ("b" * 12, "0" * 64)):
        other = folder.parent / name
        other.mkdir()
        changed = score["checkpoint"] | ({"sha256": sha256} if sha256 else {})
        metrics = score | {"checkpoint": changed, "split": "test" if sha256 is None else "other"}
        (other / "metrics.json").write_text(json.dumps(metrics | {"run_key": name}))
    return folder


def test_export_writes_a_card_of_all_known_facts(clip4vla, tmp_path, run_files):
    code, text, _ = clip4vla("export", KEY, "out", "--license", "cc-by-4.0")
    assert code == 0
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "run.json"]
    assert all(f"out/{name}" in text for name in names)
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "cc-by-4.0" and front["library_name"] == "clip4vla"
    assert front["datasets"] == ["demo"] and front["pipeline_tag"] == "video-classification"
    (results,) = front["model-index"][0]["results"]
    assert results["dataset"]["args"] == {
        "queries": 7,
        "clips": 7,
        "ids_sha256": "a" * 64,
        "missing_audio": "none",
    }
    assert results["dataset"]["split"] == "test" and results["dataset"]["config"] == "folds (all)"
    assert results["metrics"] == [{"type": "accuracy", "value": 57.14, "name": "accuracy"}]
    for words in (
        f"`{KEY}` (finetune), epoch 3 by best_val (val/accuracy 61.25)",
        "| demo-v1-0a1b2c/cache-cafe0001 | `ffff",
        "| demo-v1-0a1b2c | test | folds | all | none | 7 | 7 | `aaaaaaaaaaaa` | accuracy 57.14 |",
        "classes: dog; rain",
        "hann window of 512 samples every 128",
        sha256_of_file(tmp_path / "out" / "model.safetensors"),
    ):
        assert words in card, words
    assert "other" not in card.split("## Metrics")[1].split("##")[0]  # of other weights
    original = read_checkpoint(run_files / "model.safetensors")
    exported = read_checkpoint(tmp_path / "out" / "model.safetensors")
    assert exported.settings == original.settings and exported.metadata == original.metadata
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == original.metadata
    same = (run_files / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == same


def test_a_card_states_missing_licence_and_metrics(clip4vla, tmp_path):
    released(tmp_path / "x.bin", "gate", fusion="query2sim")
    clip4vla("import", "x.bin", "ours.safetensors")
    code, _, _ = clip4vla("export", "ours.safetensors", "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert code == 0 and "license" not in yaml.safe_load(card.split("---")[1])
    for words in ("Not stated.", "None were measured", "Unknown: the file", "`x.bin` (released"):
        assert words in card, words


@pytest.mark.parametrize(
    ("head", "config"),
    [
        (None, {"type_token": "background"}),
        ("fusion", {"joint": "bert"}),
        ("captioning", {}),
        ("gate", {"fusion": "query2sim"}),
    ],
)
def test_released_to_ours_to_released(clip4vla, tmp_path, head, config):
    theirs = released(tmp_path / "x.bin", head, **config)
    assert clip4vla("import", "x.bin", "ours.safetensors")[0] == 0
    assert clip4vla("export", "ours.safetensors", "out", "--names", "released")[0] == 0
    back = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in back.items())
    assert "pytorch_model.bin" in (tmp_path / "out" / "README.md").read_text()


def test_export_finds_runs_from_inside_their_output_folder(
    clip4vla, tmp_path, run_files, monkeypatch
):
    record_config([REPO / "config.yaml"], {}, tmp_path)
    monkeypatch.chdir(run_files)
    assert clip4vla("export", KEY, "../out")[0] == 0
    assert "accuracy" in (run_files.parent / "out" / "README.md").read_text()
    assert clip4vla("export", "model.safetensors", "out")[0] == 0
    assert (run_files / "out" / "model.safetensors").is_file()


def test_invalid_exports_are_refused(clip4vla, tmp_path):
    code, _, error = clip4vla("export", KEY, "out")
    assert code == 78 and f"no run '{KEY}' in this config. Fix: choose one of" in error
    row = "table5/scratch/msrvtt/s0"
    plan = make_plan([REPO / "config.yaml"])
    training, scored = (plan.key_of(f"{stage}:{row}") for stage in ("finetune", "evaluate"))
    code, _, error = clip4vla("export", f"finetune:{row}", "out")
    assert code == 78 and f"missing. Fix: run `clip4vla train {training}`" in error
    code, _, error = clip4vla("export", scored, "out")
    assert code == 78 and "its stage is evaluate, which makes no weights. Fix: choose" in error
    released(tmp_path / "x.bin", None)
    code, _, error = clip4vla("export", "x.bin", "out")
    assert code == 78 and "clip4vla checkpoint import x.bin" in error
    code, _, error = clip4vla("export", "none.safetensors", "out")
    assert code == 78 and "none.safetensors: no such file. Fix: name a model.safetensors" in error
    assert not (tmp_path / "out").exists()


LAION = "ViT-B-32:laion2b_s34b_b79k"


def plan_with(recipe=None, **weights):
    values = {
        "targets": ["demo_classification"],
        "weights": {"laion": weights},
        "recipe": {"model": {"weights": "laion", "architecture": "ViT-B-32"}, "pretrain": None}
        | (recipe or {}),
    }
    return make_plan([REPO / "config.yaml", REPO / "demo" / "config.yaml"], values)


def test_a_run_takes_its_clip_from_an_open_clip_tag(tmp_path, monkeypatch, capsys):
    plan = plan_with(open_clip=LAION)
    assert unfit_tags(plan) == [
        f"weights.laion.open_clip: {LAION} was trained with gelu, but model.activation is "
        "quick_gelu. Fix: set model.activation: gelu"
    ]
    key = plan.stage("finetune")[0]
    run = plan.runs[key].model_copy(
        update={"model": plan.runs[key].model.model_copy(update={"activation": "gelu"})}
    )
    file = tmp_path / "open_clip_model.safetensors"
    file.write_bytes(b"x")
    asked = []
    monkeypatch.setattr(published, "tag_file", lambda where, tag: asked.append(tag) or file)
    assert weights_of(plan, run) == {"laion": file}
    assert asked == [LAION]
    from_it = {"pretrain": {"from": "laion"}, "model": {"activation": "gelu"}}
    assert "`from` needs a whole model" in unfit_tags(plan_with(from_it, open_clip=LAION))[0]
    hashed = plan_with(open_clip=LAION, sha256="0" * 64)
    with pytest.raises(UserError, match="but weights.laion.sha256 says 000"):
        weights_of(hashed, run)
    named = tmp_path / "ViT-B-32.pt"
    named.write_bytes(b"x")
    assert weights_of(plan_with(path=str(named)), run) == {"laion": named}
    assert "looks like OpenAI's file" in capsys.readouterr().err


def test_weights_are_a_file_or_a_tag():
    for given in ({}, {"path": "x.pt", "open_clip": LAION}):
        with pytest.raises(UserError, match="needs either `path` or `open_clip`"):
            plan_with(**given)
    values = {"targets": ["demo_classification"], "weights.openai.open_clip": "ViT-B-32:openai"}
    files = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
    with pytest.raises(UserError, match="null for the other"):
        make_plan(files, values)
    plan = make_plan(files, values | {"weights.openai.path": None})
    assert plan.config.weights["openai"].path is None
    with pytest.raises(UserError, match=r"weights\.laion\.open_clip"):
        plan_with(open_clip="laion2b_s34b_b79k")
    assert unfit_tags(plan_with(path="x.pt")) == []


def test_inputs_are_not_overwritten(tmp_path, clip4vla):
    released(tmp_path / "x.bin", None)
    clip_alone(tmp_path / "clip.safetensors")
    (tmp_path / "link.safetensors").symlink_to("x.bin")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    fresh = ("--fresh", "text", "--fresh", "logit_scale", "--clip", "clip.safetensors")
    for out, more, words in (
        ("x.bin", (), "x.bin: not a .safetensors file"),
        ("none", (), "none: not a .safetensors file"),
        ("link.safetensors", (), "link.safetensors: is an input"),
        ("clip.safetensors", fresh, "clip.safetensors: is an input"),
    ):
        code, text, error = clip4vla("import", "x.bin", out, *more)
        assert code == 78 and words in error and not text
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "model.safetensors", "run.json", "holiday.jpg"]
)
def test_export_keeps_files_that_are_not_its_own(clip4vla, tmp_path, run_files, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"model_type": "clip"}')
    code, text, error = clip4vla("export", KEY, "out")
    assert code == 78 and f"out/{name}: exists, and is not from an earlier export" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert not text
    (tmp_path / "file").touch()
    code, _, error = clip4vla("export", KEY, "file")
    assert code == 78 and "file: a file. Fix: name a new folder" in error


def test_a_file_of_ours_is_exported_where_it_lies_alone(clip4vla, tmp_path, run_files):
    for name in ("one/model.safetensors", "two/model.safetensors", "two/more.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((run_files / "model.safetensors").read_bytes())
    assert clip4vla("export", "one/model.safetensors", "one")[0] == 0
    assert clip4vla("export", "two/model.safetensors", "two")[0] == 78


def test_an_export_may_be_repeated_and_lists_its_files(clip4vla, tmp_path, run_files):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".hidden").write_text("no content")
    names = ["config.json", "model.safetensors", "run.json", "README.md"]
    for _ in range(2):
        code, text, _ = clip4vla("export", KEY, "out", "--license", "mit")
        assert code == 0
        assert text.splitlines() == [f"written: out/{name}" for name in names]
        (tmp_path / "out" / "other.txt").write_text("mine")
    (tmp_path / "out" / "README.md").unlink()  # as an export that was killed leaves its folder
    assert clip4vla("export", KEY, "out")[0] == 0
    (tmp_path / "out" / "README.md").write_text("# My model")
    assert clip4vla("export", KEY, "out")[0] == 78
    assert clip4vla("export", KEY, f"results/runs/{KEY}")[0] == 78  # that is the run's own config
    assert (run_files / "config.json").read_text() == '{"stage": "finetune"}'


@pytest.mark.parametrize("content", ["{", "[1]", "{}", "\0"])
def test_all_inputs_are_read_before_anything_is_written(clip4vla, tmp_path, run_files, content):
    (tmp_path / "bad.json").write_text(content)
    code, _, error = clip4vla("export", KEY, "out", "--metrics", "bad.json")
    (line,) = [line for line in error.splitlines() if line.startswith("clip4vla: ")]
    assert code == 78 and "bad.json: not " in line
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_another_run_is_left_out_with_a_warning(clip4vla, tmp_path, run_files):
    damaged = run_files.parent / ("c" * 12) / "metrics.json"
    damaged.parent.mkdir()
    damaged.write_text('{"galleries": ')
    code, text, _ = clip4vla("export", KEY, "out")
    assert code == 0 and f"warning: {damaged.relative_to(tmp_path)}: not JSON" in text
    assert "accuracy 57.14" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("licence", ["cc by: [x", "---", "a: b # c", "null"])
def test_any_licence_can_stand_in_the_card(clip4vla, tmp_path, run_files, licence):
    assert clip4vla("export", KEY, "out", "--license", licence)[0] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("\n---\n")[0])
    assert front["license"] == licence and front["library_name"] == "clip4vla"


@pytest.mark.parametrize("licence", ["<b>\n\n# x", "\x1b[31mred"])
def test_a_licence_is_one_line_of_text(clip4vla, tmp_path, run_files, licence):
    code, _, text = clip4vla("export", KEY, "out", "--license", licence)
    assert code == 78 and "--license: not one line of text. Fix: give" in text
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(clip4vla, tmp_path, run_files):
    """A limit to the size of files fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for names, file in (("ours", "model.safetensors"), ("released", "pytorch_model.bin")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            code, _, error = clip4vla("export", KEY, names, "--names", names)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert code == 78 and f"clip4vla: {names}/{file}: the file would be too large" in error
        assert [*(tmp_path / names).iterdir()] == []


def test_control_characters_of_tensor_names_are_escaped(clip4vla, tmp_path):
    save_file({"text.\x1b[31mred": torch.zeros(2), "a\x1b[2Jb.c": torch.zeros(2)}, "x.safetensors")
    code, text, _ = clip4vla("inspect", "x.safetensors")
    assert code == 0 and "\x1b" not in text and "a\\x1b[2Jb" in text
    code, text, error = clip4vla("import", "x.safetensors", "y.safetensors")
    assert code == 78 and "\x1b" not in text + error and "text.\\x1b[31mred" in error


def last_line(error):
    """Return the message, which has exactly one fix."""
    line = error.splitlines()[-1]
    assert line.startswith("clip4vla: ") and line.count("Fix: ") == 1
    return line


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("tiny", "invalid model"),
        (3, "invalid model"),
        ([1], "invalid model"),
        ({"family": ["x"]}, "invalid model.family"),
        ({"family": {"a": 1}}, "invalid model.family"),
        ({"family": "toi"}, "invalid model.family"),
    ],
)
def test_an_invalid_model_in_the_metadata_is_one_line(clip4vla, tmp_path, section, words):
    save_model("x.safetensors", model()[0], {"format": 1, "model": section})
    code, text, _ = clip4vla("inspect", "x.safetensors")
    assert code == 0 and "kind          ours" in text
    for command in (
        ("import", "x.safetensors", "out.safetensors"),
        ("export", "x.safetensors", "d"),
    ):
        code, _, error = clip4vla(*command)
        assert code == 78 and f"x.safetensors: {words} in its metadata (" in last_line(error)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cache.log_mel.n_mels": 80}, "cache.log_mel.n_mels must be 224"),
        ({"cache.log_mel.f_max": 9000}, "cache.log_mel: f_max is above half the sample rate"),
        ({"modalities": ["audio", "audio"]}, "modalities: duplicate audio"),
        ({"task": "classification"}, "needs classes. Fix: name them with --classes"),
        ({"classes": ["a"]}, "classes are for task: classification and tagging, not retrieval"),
        ({"task": "classification", "classes": ["a", "a"]}, "classes: duplicate a"),
        (
            {"model": {"type_token": "none"}, "model.type_token": "single"},
            "model.type_token: duplicate key",
        ),
    ],
)
def test_settings_that_no_command_can_use_are_refused(clip4vla, tmp_path, values, words):
    """By an import, and in the metadata of a file."""
    built, config = model()
    valid = Settings(model=config, task="retrieval")
    write_checkpoint("x.safetensors", built, valid, {})
    code, _, error = clip4vla(
        "import", "x.safetensors", "y.safetensors", "--set", json.dumps(values)
    )
    assert code == 78 and words in last_line(error)
    assert not (tmp_path / "y.safetensors").exists()
    if "duplicate key" not in words:  # JSON is not dotted there
        stated = merge(valid.model_dump(mode="json"), undotted(values))
        save_model("x.safetensors", built, stated | {"format": 1})
        code, _, error = clip4vla("export", "x.safetensors", "out")
        assert code == 78 and words.partition(". Fix")[0].split(": ")[-1] in last_line(error)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"imported": "x"}, "invalid imported in its metadata (Input should be a valid"),
        ({"imported": {"file": "x.pt", "kind": "openai"}}, "invalid imported.sha256"),
        ({"run_key": "0" * 12, "val_metric": "t2v_R1", "val_value": "high"}, "invalid val_value"),
        ({"run_key": "0" * 12, "average_epochs": [2]}, "invalid average_epochs"),
        ({"run_key": "0" * 12, "small_batches": {"finetune": 3}}, "invalid small_batches.finetune"),
        ({"run_key": "0" * 12, "ema": [0.9]}, "invalid ema in its metadata"),
        ({"half_weights": "finetune"}, "invalid half_weights in its metadata"),
        ({"manifests": ["d"]}, "invalid manifests in its metadata"),
    ],
)
def test_an_origin_of_the_wrong_form_is_refused(clip4vla, tmp_path, stated, words):
    built, config = model()
    write_checkpoint("x.safetensors", built, Settings(model=config, task="retrieval"), stated)
    for command in ("export", "import"):
        code, _, error = clip4vla(command, "x.safetensors", "out.safetensors")
        assert code == 78 and words in last_line(error)
        assert not (tmp_path / "out.safetensors").exists()
    assert clip4vla("inspect", "x.safetensors")[0] == 0


def test_a_validation_without_a_number_leaves_it_out_of_the_card(clip4vla, tmp_path):
    built, config = model()
    stated = {"run_key": "0" * 12, "stage": "finetune", "val_metric": "t2v_R1", "val_value": None}
    write_checkpoint("x.safetensors", built, Settings(model=config, task="retrieval"), stated)
    assert clip4vla("export", "x.safetensors", "out")[0] == 0
    assert "t2v_R1" not in (tmp_path / "out" / "README.md").read_text()


def test_classes_of_a_file_that_has_no_probe_are_refused(clip4vla, tmp_path):
    released(tmp_path / "x.bin", "fusion")
    (tmp_path / "cl.txt").write_text("dog\ncat\n")
    arguments = ("import", "x.bin", "out.safetensors", "--classes", "cl.txt")
    code, _, error = clip4vla(*arguments)
    assert (
        code == 78
        and "classes are for task: classification and tagging, not retrieval" in last_line(error)
    )
    code, _, error = clip4vla(*arguments, "--set", '{"classes": ["a"]}')
    assert code == 78 and "--set has classes, too" in last_line(error)
    assert not (tmp_path / "out.safetensors").exists()


def test_an_export_completes_partial_settings(clip4vla, tmp_path):
    built, config = model()
    partial = {"model": config.model_dump(mode="json"), "cache": {"log_mel": {"window": "hamming"}}}
    save_model("x.safetensors", built, partial | {"format": 1})
    assert clip4vla("export", "x.safetensors", "out")[0] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "hamming window of 512 samples" in card and "Frames: 1 a second" in card
    exported = read_checkpoint("out/model.safetensors")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == exported.metadata
