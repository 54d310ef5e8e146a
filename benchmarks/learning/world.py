"""The synthetic world: number of a clip -> its picture, sound and captions, a pure function.

Eight things can be seen (a glyph), heard (an event) and named (a word of a spoken tongue). A clip
shows one thing, and other things sound or are spoken of; what captions say depends on the dataset:

pictures  one or two things in colours on grounds, silent: what CLIP is trained on
album     as many pictures and as many patterns (patterns.py): for a CLIP that has seen more
speech    two words over an event that nobody mentions: HowTo100M's part, type token [VB]
sounds    two events under babble that nobody mentions: AudioSet's part, type token [NB]
events    as sounds, with captions of picture and events: AudioCaps' part
scenes    more of the same kind: what CoAVT is pre-trained on
mixed     a word and an event, both in the caption; some clips are silent: MSR-VTT's part
balanced  as mixed, put so that the world's CLIP reads the event as well as the word (captions.py)

In `events`, `scenes` and `mixed` picture and sound are drawn independently, so a caption tells a
clip among others only with both, and what one modality can reach at most is known (`ceilings`).
"""

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

from learning import pictures, sounds
from learning.patterns import Pattern, draw_pattern, some_pattern
from learning.pictures import COLOURS, PLACES, THINGS

SEEN_TOO = 0.7  # of pre-training clips: the thing that is seen is one of those that are heard
SILENT = 0.06  # of clips of `mixed`
SIZES = {  # dataset -> split -> clips
    "pictures": {"train": 3000, "val": 100},
    "album": {"train": 6000, "val": 100},
    "speech": {"train": 800, "test": 250},
    "sounds": {"train": 800},
    "events": {"train": 600, "val": 100, "test": 250},
    "scenes": {"train": 2400, "val": 100, "test": 250},
    "mixed": {"train": 600, "val": 100, "test": 250},
    "balanced": {"test": 250},
}
VERBS = {  # what a thing that sounds is doing; a word names the thing itself
    "bell": "ringing",
    "drum": "beating",
    "bird": "singing",
    "kettle": "boiling",
    "horn": "honking",
    "whistle": "whistling",
    "siren": "wailing",
    "door": "knocking",
}
SOUND_ONLY = "_sound"  # ending of a split of the same clips whose captions leave the picture out


@dataclass(frozen=True)
class Clip:
    """What is in one clip. seen: (thing, colour) pairs; heard: words and events, in order."""

    dataset: str
    split: str
    number: int
    seen: tuple[tuple[str, str], ...]
    place: str
    words: tuple[str, ...]
    events: tuple[str, ...]
    captions: dict[str, str]  # by split: its own, and for some the one with SOUND_ONLY
    pattern: Pattern | None = None  # shown instead of what is seen

    @property
    def clip_id(self) -> str:
        """Its name, such as events_test_00012."""
        return f"{self.dataset}_{self.split}_{self.number:05d}"

    @property
    def silent(self) -> bool:
        """Whether it has no sound at all."""
        return not (self.words or self.events)

    def picture(self) -> np.ndarray:
        """uint8 RGB [224, 224, 3]."""
        rng = _generator(self.clip_id, "picture")
        if self.pattern:
            return draw_pattern(self.pattern, rng)
        return pictures.draw(list(self.seen), self.place, rng)

    def sound(self) -> np.ndarray:
        """float32 [n] at sounds.RATE. ValueError for a silent clip."""
        if self.silent:
            raise ValueError(f"{self.clip_id} is silent")
        louder = {"speech": "words", "mixed": None, "balanced": None}.get(self.dataset, "events")
        given = list(self.words), list(self.events), louder
        return sounds.mix(*given, _generator(self.clip_id, "sound"))


def clip(dataset: str, split: str, number: int) -> Clip:
    """Clip `number` of a split; no other clip enters."""
    rng = _generator(f"{dataset}_{split}_{number:05d}", "content")
    seen, place = [_seen(rng)], str(rng.choice(list(PLACES)))
    words, events, pattern = _two(rng), _two(rng), None
    match dataset:
        case "album" if number % 2:
            words = events = ()
            pattern = some_pattern(rng)
            captions = {split: pattern.caption}
        case "pictures" | "album":
            words = events = ()
            if rng.random() < 0.7:
                seen = list(zip(_two(rng), (seen[0][1], _seen(rng)[1]), strict=True))
            caption = _of_picture(seen, place, rng)
            captions = {split: caption}
        case "speech":
            events = events[:1]
            seen = [_mostly(words, seen[0], rng)]
            captions = {split: " ".join(words)}
        case "sounds":
            seen = [_mostly(events, seen[0], rng)]
            captions = {split: f"The sound of {','.join(_verbs(events))}"}
        case "events" | "scenes":
            what = " and ".join(_verbs(events))
            captions = {split: f"{_a(seen[0])}, {what}", split + SOUND_ONLY: what}
        case "mixed":
            words, events = words[:1], events[:1]
            what = mixed_caption(words[0], events[0])
            captions = {split: f"{_a(seen[0])}, {what}", split + SOUND_ONLY: what}
            if rng.random() < SILENT:
                words, events, captions = (), (), {split: _a(seen[0])}
        case "balanced":
            words, events = words[:1], events[:1]
            captions = {split + SOUND_ONLY: balanced_caption(words[0], events[0])}
    return Clip(dataset, split, number, tuple(seen), place, words, events, captions, pattern)


def mixed_caption(word: str, event: str) -> str:
    """What a caption of `mixed` says of the sound."""
    return f"say {word}, {VERBS[event]}"


def balanced_caption(word: str, event: str) -> str:
    """What a caption of `balanced` says of the sound."""
    return f"{VERBS[event]} and {word}"


def clips(dataset: str, share: float = 1.0) -> list[Clip]:
    """All clips of a dataset, or the first `share` of each of its splits."""
    sizes = SIZES[dataset]
    return [clip(dataset, split, i) for split, n in sizes.items() for i in range(int(n * share))]


def ceilings(test: list[Clip], split: str) -> dict[str, float]:
    """R@1 in percent of whoever reads captions and one modality, or both, without a mistake.

    test: the clips that are ranked; split: whose captions are the queries. Clips that look (or
    sound, or both) alike as far as captions tell are one as good as another.
    """

    def look(c: Clip):
        return None if split.endswith(SOUND_ONLY) else c.seen

    def sound(c: Clip):
        told = {"speech": c.words, "sounds": c.events, "events": c.events, "scenes": c.events}
        return told.get(c.dataset, c.words + c.events)

    def reached(*senses) -> float:
        kinds = [tuple(sense(c) for sense in senses) for c in test]
        alike = Counter(kinds)
        return 100 * float(np.mean([1 / alike[kind] for kind in kinds]))

    return {
        "chance": reached(),
        "vision": reached(look),
        "audio": reached(sound),
        "audio+vision": reached(look, sound),
    }


def _generator(*names: str) -> np.random.Generator:
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _seen(rng: np.random.Generator) -> tuple[str, str]:
    return str(rng.choice(THINGS)), str(rng.choice(list(COLOURS)))


def _two(rng: np.random.Generator) -> tuple[str, ...]:
    """Two different things, in the order of THINGS: no caption tells which came first."""
    return tuple(THINGS[i] for i in sorted(rng.choice(len(THINGS), 2, replace=False)))


def _mostly(heard: tuple[str, ...], other: tuple[str, str], rng: np.random.Generator):
    """One of the things that are heard, mostly; in the other's colour."""
    thing = str(rng.choice(heard)) if rng.random() < SEEN_TOO else other[0]
    return thing, other[1]


def _verbs(events: tuple[str, ...]) -> list[str]:
    return [VERBS[thing] for thing in events]


def _a(seen: tuple[str, str]) -> str:
    thing, colour = seen
    return f"a {colour} {thing}"


def _of_picture(seen: list[tuple[str, str]], place: str, rng: np.random.Generator) -> str:
    """One of several ways to put it, so that the text tower learns words and not a sentence."""
    if len(seen) == 2:
        (one, _), (other, _) = seen
        # Without colours, which would tell pictures apart before things are known.
        forms = [f"{one} {other}", f"a photo of {VERBS[one]},{VERBS[other]}"]
    else:
        thing = seen[0][0]
        forms = [
            f"{_a(seen[0])} on {place}",
            f"{_a(seen[0])} {VERBS[thing]}",
            f"a photo of a {thing}",
        ]
    return str(rng.choice(forms))
