"""`clip4vla runs compare`: evaluations on the same clips, and those that cannot be compared."""

import json

import numpy as np
import pandas as pd
import pytest

from clip4vla.cli.main import main
from clip4vla.common.errors import EXIT_USER_ERROR, UserError
from clip4vla.common.files import sha256_of_ids, write_json, write_parquet
from clip4vla.metrics.captions import caption_scorer
from clip4vla.metrics.text_clip import rank_columns, report_retrieval
from clip4vla.runs.paired import compare_runs
from clip4vla.tracking import write_record

CLIPS, EACH = 60, 3


def write_metrics(folder, ids, *, protocol="1k-A", **given):
    """Write the metrics.json of an evaluation that scored these clips."""
    numbers = {"planned": CLIPS, "usable": CLIPS, "silent": 0, "scored": len(ids)}
    absent = ("selection", "tie_rule")
    named = ("run_key", "data_version", "manifest_sha256", "split", "missing_audio")
    gallery = {"protocol": protocol, "n_gallery": len(ids), "ids_sha256": sha256_of_ids(ids)}
    gallery |= {"n_queries": len(ids), "metrics": {}}
    found = dict.fromkeys(absent) | dict.fromkeys(named, "x") | {"dataset": "tiny"}
    found["run_key"] = folder.name
    found |= {"coverage": numbers | {"expected": None, "captions_per_clip": None}}
    found |= {"protocol": protocol, "interval_rule": "", "galleries": {given["gallery"]: gallery}}
    write_json(folder / "metrics.json", found | given)


def a_run(folder, strength, ids=None, task="retrieval", modalities=("vision", "audio"), shift=0):
    """Write an evaluation whose captions are more or less near their clips."""
    rng = np.random.default_rng(0)
    ids = ids or [f"c{i:02}" for i in range(CLIPS)]
    targets = np.repeat(np.arange(len(ids)), EACH)
    noise = rng.standard_normal((len(targets), len(ids)))
    similarity = noise + strength * (targets[:, None] == np.arange(len(ids)))
    heads = {"t_va": similarity, "t_v": similarity, "t_a": noise}
    found = report_retrieval(heads, targets, ids, modalities)
    write_metrics(folder, ids, task=task, modalities=modalities, gallery="all")
    columns = {
        "clip_id": np.array(ids)[targets],
        "caption": [f"caption {i + shift}" for i in range(len(targets))],
        **rank_columns(found, targets),
    }
    columns |= {"label": "dog", "predicted": np.where(columns["rank"] == 1, "dog", "cat")}
    write_parquet(folder / "predictions.parquet", pd.DataFrame(columns))
    return found.stated["metrics"]


def test_a_better_run_is_distinguished_from_a_lucky_one(tmp_path):
    metrics = a_run(tmp_path / "a", 1.5), a_run(tmp_path / "b", 2.0)
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    assert (found.n_queries, found.n_clips) == (CLIPS * EACH, CLIPS)
    for name, value in found.differences.items():
        assert (value.first, value.second) == pytest.approx([m[name] for m in metrics])
    better = found.differences["t2v_MeanR"]
    assert better.difference < 0 and better.interval[1] < 0 and better.p < 0.01
    back = compare_runs(tmp_path / "b", tmp_path / "a").differences["t2v_MeanR"]
    assert back.difference == pytest.approx(-better.difference)
    assert set(found.differences) == set(metrics[0])


def test_the_lines_say_which_metrics_are_better_when_lower(tmp_path, capsys):
    for folder in ("a", "b"):
        a_run(tmp_path / folder, 1.5)
    code, text, _ = compare(capsys, tmp_path / "a", tmp_path / "b")
    names = "t2v_MedR, t2v_MeanR, v2t_MedR, v2t_MeanR"
    assert code == 0 and f"\nLower is better: {names}.\n" in text


def test_accuracy_is_compared_too(tmp_path):
    for name, strength in (("a", 1.0), ("b", 3.0)):
        a_run(tmp_path / name, strength, task="classification")
    found = compare_runs(tmp_path / "a", tmp_path / "b").differences
    assert set(found) == {"accuracy"} and found["accuracy"].difference > 0
    for name, value in (("a", found["accuracy"].first), ("b", found["accuracy"].second)):
        rows = pd.read_parquet(tmp_path / name / "predictions.parquet")
        assert value == pytest.approx(100.0 * (rows.label == rows.predicted).mean())


def compare(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["runs", "compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return caught.value.code, out, err.strip().splitlines()[-1] if err.strip() else ""


def test_the_command_prints_a_table_or_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for key, strength in (("aaaaaaaaaaaa", 1.5), ("bbbbbbbbbbbb", 2.0)):
        a_run(tmp_path / "results" / "runs" / key, strength)
    code, out, _ = compare(capsys, "aaaaaaaaaaaa", "bbbbbbbbbbbb")
    assert code == 0 and "protocol 1k-A: 180 rows of 60 clips" in out and "v2t_R1" in out
    code, out, _ = compare(capsys, "aaaaaaaaaaaa", "bbbbbbbbbbbb", "--json")
    found = json.loads(out)
    assert found["n_clips"] == CLIPS and 0 < found["differences"]["t2v_R1"]["p"] <= 1


def test_runs_that_cannot_be_compared_are_reported_in_one_line(tmp_path, capsys):
    a_run(tmp_path / "a", 1.0)
    fewer = [f"c{i:02}" for i in range(CLIPS - 1)]
    a_run(tmp_path / "fewer", 1.0, fewer)
    a_run(tmp_path / "other", 1.0, shift=1)
    a_run(tmp_path / "task", 1.0, task="classification")
    a_run(tmp_path / "audio", 1.0, modalities=["audio"])
    for name, words in {
        "fewer": ["scored different clips", sha256_of_ids(fewer)[:12], "60 (all", "59 (all"],
        "other": ["different queries of the same clips"],
        "task": ["is of task retrieval", "of classification"],
        "audio": ["no metric in common: t2v_R1", "a2t_MeanR"],
        "nothing": ["not a finished evaluation. Fix: give a key of `clip4vla runs ls`"],
    }.items():
        code, _, error = compare(capsys, tmp_path / "a", tmp_path / name)
        assert code == EXIT_USER_ERROR and all(word in error for word in words), error
        assert name == "nothing" or str(tmp_path / "a") in error and str(tmp_path / name) in error


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metrics.json", '{"task": "retr', "not JSON"),
        ("metrics.json", "{}", "run_key: Field required"),
        ("predictions.parquet", "", "corrupt or truncated table"),
        ("predictions.parquet", "PAR1 and no more PAR1", "corrupt or truncated table"),
    ],
)
def test_a_damaged_file_is_reported_in_one_line(tmp_path, capsys, name, text, words):
    for folder in ("a", "b"):
        a_run(tmp_path / folder, 1.0)
    (tmp_path / "b" / name).write_text(text)
    code, _, error = compare(capsys, tmp_path / "a", tmp_path / "b")
    assert code == EXIT_USER_ERROR
    assert f"{tmp_path / 'b' / name}: " in error and words in error
    assert "Fix: delete it and run" in error


@pytest.mark.parametrize("name", ["metrics.json", "predictions.parquet"])
def test_a_file_that_its_record_does_not_name_is_refused(tmp_path, capsys, name):
    for folder, strength in (("a", 1.0), ("b", 1.0), ("other", 2.0)):
        a_run(tmp_path / folder, strength)
    files = [tmp_path / "b" / file for file in ("metrics.json", "predictions.parquet")]
    record = tmp_path / "b" / "record.json"
    write_record(record, kind="evaluate", key="b", name="b", artifacts=files)
    assert compare(capsys, tmp_path / "a", tmp_path / "b")[0] == 0
    path = tmp_path / "b" / name
    path.write_bytes((tmp_path / "other" / name).read_bytes() + b" ")
    if name == "metrics.json":
        write_metrics(path.parent, ["c00"], task="retrieval", gallery="all", modalities=["vision"])
    code, _, error = compare(capsys, tmp_path / "a", tmp_path / "b")
    assert code == EXIT_USER_ERROR
    assert f"{path}: its sha256 differs from the one in record.json" in error
    assert f"Fix: delete it and run `snakemake ... {path}`" in error


def a_captioning(folder, hypotheses, references, left_out=()):
    """Write an evaluation of captions, with CIDEr for clips of the main gallery."""
    ids = sorted(set(hypotheses) - set(left_out))
    given = {clip: references[clip] for clip in hypotheses}
    with caption_scorer(given, with_meteor=False) as score:  # the test of two runs starts it
        found = score(hypotheses, {"with_sound": ids})
    write_metrics(folder, ids, protocol="official", task="captioning", gallery="with_sound")
    columns = {
        "clip_id": list(hypotheses),
        "hypothesis": list(hypotheses.values()),
        "references": [references[clip] for clip in hypotheses],
        "CIDEr": [found.cider["with_sound"].get(clip) for clip in hypotheses],
    }
    write_parquet(folder / "predictions.parquet", pd.DataFrame(columns))
    return found.metrics["with_sound"]


def test_captions_are_compared_with_all_their_scores(kept_meteor, tmp_path):
    things = ["dog", "cat", "car", "guitar", "horse", "child", "boat", "drum"]
    references = {
        f"c{i}": [f"a {t} in the park", f"some {t} outside"] for i, t in enumerate(things)
    }
    good = {clip: many[0] for clip, many in references.items()}
    poor = {clip: f"there is {many[0].split()[1]}" for clip, many in references.items()}
    stated = [
        a_captioning(tmp_path / name, said, references, left_out=["c7"])
        for name, said in (("poor", poor), ("good", good))
    ]
    found = compare_runs(tmp_path / "poor", tmp_path / "good")
    assert (found.n_queries, found.n_clips) == (7, 7)
    names = {"BLEU1", "BLEU2", "BLEU3", "BLEU4", "METEOR", "ROUGE_L", "CIDEr"}
    assert set(found.differences) == names
    for name, value in found.differences.items():
        if name != "METEOR":
            assert (value.first, value.second) == pytest.approx([one[name] for one in stated])
        assert value.difference > 0 and value.p < 0.05, name
    other = {clip: [*many, "one more"] for clip, many in references.items()}
    a_captioning(tmp_path / "other", good, other, left_out=["c7"])
    with pytest.raises(UserError, match="different queries of the same clips"):
        compare_runs(tmp_path / "good", tmp_path / "other")
