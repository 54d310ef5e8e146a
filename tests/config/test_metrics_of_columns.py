"""A column shows a metric that its evaluation will have, or the plan is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from clip4vla.common.errors import UserError
from clip4vla.config.metrics import (
    CONFUSION,
    GAINS,
    METRICS,
    WHITESPACE,
    every_metric,
    label_of,
    main_metric,
    metric_names,
    metric_of,
    own_name,
)
from clip4vla.config.planner import make_plan
from clip4vla.metrics.gain import gain_metrics
from clip4vla.metrics.text_clip import report_retrieval, similarity_name
from clip4vla.models.clip4vla.settings import Model

DEMO = [Path(__file__).parents[2] / name for name in ("config.yaml", "demo/config.yaml")]


@pytest.mark.parametrize(
    ("modalities", "heads", "frames"),
    [
        (["vision", "audio"], ("t_va", "t_v", "t_a"), True),
        (["audio"], ("t_a",), True),
        (["vision"], ("t_v",), True),
        (["vision", "audio"], ("t_a",), False),  # a variant keeps the names
    ],
)
def test_retrieval_metrics_are_those_of_its_report(modalities, heads, frames):
    similarities = {name: np.eye(3, dtype=np.float32) for name in heads}
    scored = modalities if frames else ["audio"]
    found = report_retrieval(similarities, np.arange(3), ["a", "b", "c"], scored, modalities).stated
    names = list(found["metrics"])
    names += [f"{rule}/{name}" for rule, extra in found["extras"].items() for name in extra]
    assert metric_names("retrieval", modalities, True, frames, False) == names


@pytest.mark.parametrize(("query", "ways"), [("audio", "a2v v2a"), ("vision", "v2a a2v")])
def test_metrics_between_sounds_and_pictures_are_those_of_their_report(query, ways):
    both = ["vision", "audio"]
    name = similarity_name(both, query)
    scores = {name: np.eye(3, dtype=np.float32)}
    found = report_retrieval(scores, np.arange(3), ["a", "b", "c"], both, query=query).stated
    names = list(found["metrics"])
    names += [f"{rule}/{name}" for rule, extra in found["extras"].items() for name in extra]
    assert metric_names("retrieval", both, True, True, False, query) == names
    assert set(names) <= set(every_metric())
    assert list(dict.fromkeys(name[:3] for name in found["metrics"])) == ways.split()
    assert main_metric("retrieval", both, query) == f"{ways[:3]}_R1"


def test_a_joint_encoder_over_pairs_is_not_reranked():
    both = ["vision", "audio"]
    names = {
        f: metric_names("retrieval", both, Model(fusion=f).scores_each_modality, True, False)
        for f in ("tight", "query2sim")
    }
    assert not any("reranked" in name for name in names["tight"])
    assert any("reranked" in name for name in names["query2sim"])


def test_caption_metrics_and_gains_are_those_of_their_reports():
    names = ["BLEU1", "BLEU2", "BLEU3", "BLEU4", "METEOR", "ROUGE_L", "CIDEr"]
    assert metric_names("captioning", ["vision"], True, True, False) == [
        *names,
        *(f"{name}_{WHITESPACE}" for name in names),
    ]
    gains = gain_metrics(pd.Series([1.0]), "right")
    assert list(gains) == [f"right_{gain.name}" for gain in GAINS]


def test_every_full_name_is_a_row_of_the_table():
    rows = {metric for table in METRICS.values() for metric in table} | {*GAINS, CONFUSION}
    assert {metric_of(name) for name in every_metric()} == rows
    for name in ("t2v_R1", "a2t_R1", "dual_softmax/v2t_R1", "val/best_of_three_R1"):
        assert metric_of(name).label == "R@1" and metric_of(name).better(2.0, than=1.0)
    for name in ("MedR", "released/t2a_MedR", "t2v_rank_hurt", "v100_days_max"):
        assert metric_of(name).better(1.0, than=2.0) and not metric_of(name).better(2.0, than=2.0)
    assert metric_of("CIDEr_whitespace").high > 100 and metric_of("ROUGE_L_whitespace").high == 100
    with pytest.raises(ValueError, match="no metric 't2v_MdR'; did you mean MedR"):
        metric_of("t2v_MdR")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("t2a_R10", "R@10"),
        ("v2t_R10", "R@10 (v2t)"),
        ("a2v_R1", "R@1 (a2v)"),
        ("released/v2a_R1", "R@1 (released, v2a)"),
        ("dual_softmax/t2v_MedR", "MedR (dual_softmax)"),
        ("BLEU4_whitespace", "BLEU-4 (whitespace)"),
        ("t2v_rank_helped", "helped, %"),
    ],
)
def test_a_label_tells_what_a_name_is_counted_by(name, label):
    assert label_of(name) == label


def test_one_number_stands_for_an_evaluation():
    assert main_metric("retrieval", ["audio", "vision"]) == "t2v_R1"
    assert main_metric("retrieval", ["audio"]) == "t2a_R1"
    assert main_metric("captioning", ["audio"]) == "CIDEr"
    assert main_metric("classification", ["audio"]) == "accuracy"


def test_an_audio_only_row_has_its_own_metric_names():
    assert own_name("released/t2v_R1", ["audio"]) == "released/t2a_R1"
    assert own_name("v2t_MedR", ["audio"]) == "a2t_MedR"
    assert own_name("t2a_rank_gain", ["vision"]) == "t2v_rank_gain"
    assert own_name("CIDEr", ["audio"]) == "CIDEr"
    assert own_name("a2v_R1", ["vision", "audio"]) == "a2v_R1"


def plan_of(folder, metric, base=None, rows=None):
    columns = [{"dataset": "demo", "metric": name, "label": name} for name in ("t2v_R1", metric)]
    if base and "task" in base:
        columns = columns[1:]
    table = {"table": "t", "title": "T", "columns": columns, "base": base or {}}
    table["rows"] = rows or [{"row": "one", "label": "One"}]
    (folder / "t.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    return make_plan(DEMO, {"experiments": str(folder), "targets": ["t"]})


@pytest.mark.parametrize(
    ("metric", "base", "message"),
    [
        ("t2a_R3", None, "row one: task retrieval has no metric 't2v_R3' here; did you mean t2v_R"),
        ("CIDEr", None, "task retrieval has no metric 'CIDEr' here; known: t2v_R1, "),
        ("released/t2v_r1", None, "did you mean released/t2v_R1?"),
        ("t2v_rank_gain", None, "only tables in which a row has a `variant` have it"),
        ("reranked/t2v_R1", {"modalities": ["vision"]}, "no metric 'reranked/t2v_R1'"),
        ("cider", {"task": "captioning", "finetune": {}}, "task captioning has no metric 'cider'"),
        ("acuracy", {"task": "classification", "finetune": {}}, "did you mean accuracy?"),
    ],
)
def test_an_unknown_metric_is_refused_with_its_place(tmp_path, metric, base, message):
    with pytest.raises(UserError) as caught:
        plan_of(tmp_path, metric, base)
    line = (tmp_path / "t.yaml").read_text().splitlines().index(f"  metric: {metric}") + 1
    assert str(caught.value).startswith(f"{tmp_path / 't.yaml'}:{line}: table t, row one: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "base"),
    [
        ("reranked/t2v_R1", None),
        ("dual_softmax/v2t_MeanR", None),
        ("BLEU4_whitespace", {"task": "captioning", "finetune": {}}),
        ("accuracy", {"task": "classification", "finetune": {}}),
    ],
)
def test_every_metric_of_an_evaluation_can_be_a_column(tmp_path, metric, base):
    assert plan_of(tmp_path, metric, base).cells


def test_extra_metrics_of_an_audio_only_row_have_its_names(tmp_path):
    base = {"modalities": ["audio"], "missing_audio": "substitute"}
    (row,) = plan_of(tmp_path, "released/t2v_R1", base).sheet("t")["rows"]
    assert row["metrics"] == {"t2v_R1": "t2a_R1", "released/t2v_R1": "released/t2a_R1"}


def test_variants_have_gains(tmp_path):
    rows = [
        {"row": "own", "label": "own"},
        {"row": "silent", "label": "silent", "variant": {"audio": "silent"}},
    ]
    assert len(plan_of(tmp_path, "t2v_rank_helped", rows=rows).cells) == 2
