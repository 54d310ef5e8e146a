"""The synthetic world: pure, balanced, and with ceilings that follow from its captions."""

import numpy as np
import pytest
from learning import sounds
from learning.patterns import BANDS, KINDS, PERIODS, Pattern, draw_pattern
from learning.pictures import COLOURS, PLACES, THINGS, draw
from learning.world import SIZES, SOUND_ONLY, VERBS, ceilings, clip, clips


def test_a_clip_is_a_function_of_its_number():
    one, again = clip("events", "test", 7), clip("events", "test", 7)
    assert one == again
    assert (one.picture() == again.picture()).all() and (one.sound() == again.sound()).all()
    other = clip("events", "test", 8)
    assert (one.picture() != other.picture()).any() and (one.sound() != other.sound()).any()


def test_fewer_clips_are_the_first_of_them():
    some = {made.clip_id for made in clips("events", 0.1)}
    assert some < {made.clip_id for made in clips("events")}
    assert len(some) == sum(int(n * 0.1) for n in SIZES["events"].values())


def test_pictures_and_sounds_have_the_shape_that_the_cache_takes():
    made = clip("mixed", "train", 0)
    picture, sound = made.picture(), made.sound()
    assert picture.shape == (224, 224, 3) and picture.dtype == np.uint8
    assert sound.shape == (sounds.SAMPLES,) and sound.dtype == np.float32
    assert 0.01 < np.abs(sound).max() < 10


@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_can_be_seen_heard_and_named(thing):
    rng = np.random.default_rng(0)
    picture = draw([(thing, "red")], "grass", rng).astype(int)
    red = (picture[..., 0] > picture[..., 1] + 60).mean()
    assert 0.01 < red < 0.5
    for sound in (sounds.event(thing, 0.5, rng), sounds.word(thing, 150, 1.0, rng)):
        assert np.isfinite(sound).all() and np.sqrt(np.mean(sound**2)) > 0.3
    assert len(set(sounds.WORDS.values())) == len(THINGS)


def test_captions_name_what_their_dataset_says():
    made = clip("sounds", "train", 3)
    assert made.captions == {"train": "The sound of " + ",".join(VERBS[e] for e in made.events)}
    made = clip("speech", "train", 3)
    assert made.captions == {"train": " ".join(made.words)}
    made = clip("events", "val", 3)
    (thing, colour), both = made.seen[0], made.captions["val"]
    assert both == f"a {colour} {thing}, {made.captions['val' + SOUND_ONLY]}"
    assert all(VERBS[heard] in both for heard in made.events)
    made = clip("balanced", "test", 3)
    (word,), (event,) = made.words, made.events
    assert made.captions == {"test" + SOUND_ONLY: f"{VERBS[event]} and {word}"}
    made = clip("pictures", "train", 3)
    assert made.silent and made.place in PLACES and {c for _, c in made.seen} <= set(COLOURS)


def test_an_album_has_as_many_patterns_as_pictures():
    shown = [clip("album", "train", i) for i in range(2000)]
    patterns = [made.pattern for made in shown if made.pattern]
    assert len(patterns) == 1000 and len(set(patterns)) == len(KINDS) * len(PERIODS) * len(BANDS)
    assert all(made.silent for made in shown)
    assert shown[1].captions == {"train": patterns[0].caption}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pattern_lies_in_its_band(kind):
    for band, middle in BANDS.items():
        picture = draw_pattern(Pattern(kind, "narrow", band), np.random.default_rng(0))
        assert picture.shape == (224, 224, 3) and picture.dtype == np.uint8
        rows = picture.astype(float).mean(2).reshape(28, 8, 28, 8)
        spread = rows.std((1, 3)).mean(1)  # [28] within blocks of 8 x 8 pixels
        assert abs(spread.argmax() / 28 - middle) < 0.25


def test_some_mixed_clips_are_silent_and_their_captions_name_no_sound():
    silent = [made for made in clips("mixed") if made.silent]
    assert 0.02 < len(silent) / len(clips("mixed")) < 0.12
    assert all(list(made.captions) == [made.split] for made in silent)
    with pytest.raises(ValueError, match="is silent"):
        silent[0].sound()


def test_one_modality_is_bounded_and_both_are_not():
    test = [made for made in clips("events") if made.split == "test"]
    top = ceilings(test, "test")
    assert top["chance"] == pytest.approx(100 / len(test))
    assert top["vision"] < 20 and top["audio"] < 20 and top["audio+vision"] > 80
    heard = ceilings(test, "test" + SOUND_ONLY)
    assert heard["vision"] == pytest.approx(top["chance"])
    assert heard["audio+vision"] == heard["audio"] == top["audio"]


def test_a_ceiling_is_what_a_perfect_reader_of_one_modality_reaches():
    """By brute force: mean over queries of 1 / (clips that look like the right one)."""
    test = [made for made in clips("events") if made.split == "test"][:40]
    reached = [1 / sum(other.seen == made.seen for other in test) for made in test]
    assert ceilings(test, "test")["vision"] == pytest.approx(100 * np.mean(reached))
