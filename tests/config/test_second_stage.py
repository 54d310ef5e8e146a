"""The second stage of pre-training: a run of its own that starts from the first."""

from pathlib import Path

import pytest

from clip4vla.common.errors import UserError
from clip4vla.config.planner import make_plan

REPO = Path(__file__).parents[2]
DEMO = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]


def plan(**pretrain):
    preset = pretrain.pop("preset", "ours")
    values = {"targets": ["demo_audio"], "recipe": {"pretrain": pretrain}, "preset": preset}
    return make_plan(DEMO, values)


def chain(found):
    """The pre-training runs behind the row that has them, last one first."""
    key = next(cell.run_key for cell in found.cells if cell.row == "type_token")
    runs = []
    while key is not None and not key.startswith("weights:"):
        run = found.runs[key]
        if run.stage == "pretrain":
            runs.append(run)
        key = run.start
    return runs


def test_it_continues_the_first_stage_with_all_towers():
    second, first = chain(plan(second_stage={"optimiser": {"epochs": 3}}))
    assert (first.trainable, first.start) == ("audio", None)
    assert (second.trainable, second.optimiser.epochs, second.optimiser.lr) == ("all", 3, 1e-6)
    assert second.optimiser.batch_size == 256  # its own default, not that of every optimiser
    assert (second.sources, second.inputs, second.seed) == (first.sources, first.inputs, first.seed)


def test_the_first_stage_is_the_one_of_rows_without_a_second():
    with_second, without = plan(second_stage={}), plan()
    assert set(without.stage("pretrain")) < set(with_second.stage("pretrain"))


def test_weights_can_replace_the_first_stage():
    values = {"from": "openai", "second_stage": {}}
    (second,) = chain(plan(**values))
    assert second.start == "weights:openai"


def test_data_of_a_replaced_stage_are_not_planned():
    table = {"targets": ["table5"], "recipe": {}}
    needed = make_plan([REPO / "config.yaml"], table)
    assert {"howto100m", "audioset"} <= set(needed.versions.values())
    stood_in = make_plan(
        [REPO / "config.yaml"], table | {"recipe": {"pretrain": {"from": "openai"}}}
    )
    assert set(stood_in.versions.values()) == {"msrvtt", "vatex"}


def test_the_released_sum_is_of_the_second_stage():
    second, first = chain(plan(preset="released", second_stage={}))
    assert first.objective.second_stage == "repaired"
    assert second.objective.second_stage == "released"
    found = second.optimiser
    assert (found.lr, found.epochs, found.batch_size) == (1e-7, 10, 256)  # facts 6.3


def test_a_microbatch_makes_no_new_run():
    whole = plan(second_stage={}).stage("pretrain")
    assert plan(second_stage={"optimiser": {"microbatch": 8}}).stage("pretrain") == whole


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"second_stage": {"objective": {"inter": False, "intra": False}}}, "second_stage.objective"),
        ({"second_stage": {"trainable": "audio"}}, "second_stage.trainable: unknown key"),
        ({"second_stage": {"optimiser": {"epochs": 0}}}, "epochs"),
    ],
)  # fmt: skip
def test_an_error_in_it_is_one_line(options, expected):
    with pytest.raises(UserError, match=expected):
        plan(**options)


def test_under_paper_the_second_stage_has_the_values_of_ours_and_a_token_for_each_source():
    """docs/deviations.md: the text describes none, so the rows that have one keep ours."""
    second, first = chain(plan(preset="paper", second_stage={}))
    assert (second.optimiser, second.objective) == (
        chain(plan(second_stage={}))[0].optimiser,
        chain(plan(second_stage={}))[0].objective,
    )
    assert {second.model.type_token, first.model.type_token} == {"single"}
    assert [source.nonverbal_share for source in second.sources] == [0.0, 1.0]
    assert len(chain(plan(preset="paper", second_stage=None))) == 1
