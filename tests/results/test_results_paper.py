from collections import Counter

import pytest
from results_tree import PAPER

from clip4vla.common.errors import UserError
from clip4vla.results.paper import COLUMNS, read_paper


@pytest.fixture(scope="module")
def numbers():
    return {(n.table, n.row, n.dataset, n.metric): n for n in read_paper(PAPER)}


def test_every_printed_number_is_there(numbers):
    per_table = Counter(key[0] for key in numbers)
    assert per_table == {
        "table1": 78,
        "table2": 20,
        "table3": 28,
        "table4": 20,
        "table5": 40,
        "table6": 11,
        "events": 7,
        "audio_visual": 76,
        "coavt": 27,
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("table1", "clip4vla", "msrvtt", "t2v_R1"), 46.2),
        (("table1", "clip4vla", "vatex", "t2v_R10"), 95.9),
        (("table1", "vlm", "msrvtt", "t2v_R10"), 57.4),
        (("table1", "hgr", "vatex", "t2v_MedR"), 2.0),
        (("table2", "ce_a", "audiocaps", "t2a_MedR"), 4.0),
        (("table2", "clip4vla_av", "audiocaps", "t2v_R5"), 68.1),
        (("table3", "clip4vla", "msrvtt", "ROUGE_L"), 64.4),
        (("table4", "scst_c_b_f", "vatex", "CIDEr"), 54.6),
        (("table5", "initial", "msrvtt", "t2a_MedR"), 136.5),
        (("table5", "type_token", "vatex", "t2a_R10"), 34.3),
        (("table6", "vatt_medium", "pretraining", "tpu_days_max"), 768),
        (("table6", "clip4vla", "ucf101", "accuracy"), 91.9),
        (("events", "cav_mae_av", "audioset_20k", "mAP"), 42.0),
        (("audio_visual", "cav_mae", "vggsound", "a2v_R1"), 8.3),
        (("audio_visual", "avsiam", "audioset_20k", "v2a_R1"), 19.7),
    ],
)
def test_spot_values(numbers, key, value):
    assert numbers[key].value == value


def test_column_sums_catch_a_wrong_digit(numbers):
    sums = Counter()
    for (table, _, dataset, metric), number in numbers.items():
        sums[table, dataset, metric] += number.value or 0.0
    expected = {
        ("table1", "msrvtt", "t2v_R1"): 372.9,
        ("table1", "vatex", "t2v_R1"): 426.7,
        ("table2", "audiocaps", "t2a_R10"): 347.6,
        ("table3", "msrvtt", "CIDEr"): 372.3,
        ("table4", "vatex", "BLEU4"): 158.1,
        ("table5", "msrvtt", "t2a_R5"): 86.7,
        ("table5", "vatex", "t2a_MedR"): 323.0,
        ("audio_visual", "audioset_20k", "v2a_R10"): 322.5,
        ("audio_visual", "vggsound", "a2v_R1"): 126.8,
    }
    assert {key: round(sums[key], 1) for key in expected} == expected


def test_no_number_of_coavt_is_available(numbers):
    values = {number.value for (table, *_), number in numbers.items() if table == "coavt"}
    assert values == {None}
    assert all(number.value is not None for key, number in numbers.items() if key[0] != "coavt")


def test_oddities_are_notes(numbers):
    assert "digit slip" in numbers["table1", "vlm", "msrvtt", "t2v_R10"].note
    assert "worse" in numbers["table5", "initial", "msrvtt", "t2a_MedR"].note
    assert "5686" in numbers["table3", "clip4vla", "msrvtt", "BLEU4"].note


def line(**changes):
    fields = dict(
        zip(COLUMNS, ["t", "r", "Label", "d", "p", "t2v_R1", "1.5", "source", ""], strict=True)
    )
    return "\t".join({**fields, **changes}.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("table\trow\n", ":1: wrong header. Fix: write table row"),
        ("\t".join(COLUMNS) + "\nt\tr\tl\n", ":2: 3 fields"),
        ("\t".join(COLUMNS) + "\n" + line(value="n/a"), ":2: value 'n/a' is not a number"),
        (
            "\t".join(COLUMNS) + "\n" + line(value="unknown"),
            ":2: value 'unknown' is not a number. Fix: write 46.2, or 'not available to us'",
        ),
        ("\t".join(COLUMNS) + "\n" + line(value="nan"), ":2: value 'nan' is not a number"),
        ("\t".join(COLUMNS) + "\n" + line(value="46,2"), ":2: value '46,2' is not a number. Fix"),
        (
            "\t".join(COLUMNS) + "\n" + line(value="462"),
            ":2: t2v_R1 is 462. Fix: write a percentage from 0 to",
        ),
        (
            "\t".join(COLUMNS) + "\n" + line(value="-1"),
            ":2: t2v_R1 is -1. Fix: write a percentage from 0",
        ),
        (
            "\t".join(COLUMNS) + "\n" + line(metric="t2v_MedR", value="0"),
            ":2: t2v_MedR is 0. Fix: write a number from 1 to inf",
        ),
        (
            "\t".join(COLUMNS) + "\n" + line(metric="t2v_r1"),
            "no metric 't2v_r1'; did you mean t2v_R1",
        ),
        ("\t".join(COLUMNS) + "\n" + line(source=""), ":2: source is empty"),
        ("\t".join(COLUMNS) + "\n" + line() + "\n" + line(), ":3: t r d t2v_R1 is in line 2"),
        (
            "\t".join(COLUMNS) + "\n" + line() + "\n" + line(metric="t2v_R5", label="Other"),
            ":3: row r is labelled 'Label'",
        ),
    ],
)
def test_mistakes_are_reported_with_file_and_line(tmp_path, text, message):
    path = tmp_path / "paper.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match="paper.tsv") as caught:
        read_paper(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_additions_of_editors_are_accepted(tmp_path):
    """A byte order mark, Windows line ends, empty lines at the end."""
    path = tmp_path / "paper.tsv"
    text = "\r\n".join(
        ["\t".join(COLUMNS), line(), line(metric="CIDEr", value="120"), "", "  ", ""]
    )
    path.write_bytes(text.encode("utf-8-sig"))
    assert [(number.line, number.value) for number in read_paper(path)] == [(2, 1.5), (3, 120.0)]


def test_another_encoding_is_reported_in_one_line(tmp_path):
    path = tmp_path / "paper.tsv"
    path.write_bytes(("\t".join(COLUMNS) + "\n" + line(label="Müller")).encode("latin-1"))
    with pytest.raises(UserError, match="paper.tsv: not UTF-8. Fix: save it as UTF-8"):
        read_paper(path)
