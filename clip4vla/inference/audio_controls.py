"""Whose sound every clip has: its own, a donor's, another clip's for a control, or none."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from clip4vla.common.errors import UserError
from clip4vla.common.seeds import generator
from clip4vla.config.variant import AudioControl

if TYPE_CHECKING:
    import pandas as pd

Sounds = dict[str, str | None]  # clip -> the clip whose sound it has
COMMON = 0.1  # a word in the captions of more clips than this share says nothing of one
LEAST_TRIED = 200  # clips looked at for one without a common word, before the best is taken


def given_sounds(clip_ids: Iterable[str], silent: Iterable[str], donors: dict[str, str]) -> Sounds:
    """Return own sounds, and those of donors for silent clips that have one."""
    silent = set(silent)
    return {clip: donors.get(clip) if clip in silent else clip for clip in clip_ids}


def controlled(
    sounds: Sounds, control: AudioControl, rows: "pd.DataFrame", clips: "pd.DataFrame"
) -> Sounds:
    """Return the sounds under a control; those of silent clips follow the policy and stay.

    * `silent`: no clip has any sound, own or lent.
    * `shuffled`: clips with a sound of their own hand it on in one ring, drawn once: each has that
      of another clip of the gallery.
    * `swapped`: each has the sound of a clip of another kind (`Kinds`), drawn for it.

    rows: clip_id, captions, labels of the split; clips: clip_id, sound of the dataset version.
    A pure function of the clips, whatever their order. UserError where nothing can be exchanged.
    """
    if control == "own":
        return sounds
    if control == "silent":
        return dict.fromkeys(sounds)
    own = sorted(clip for clip, sound in sounds.items() if sound == clip)
    if len(own) < 2:
        raise UserError(
            f"audio: {control} needs two clips with sound; the split has {len(own)}. Fix: remove it"
        )
    if control == "shuffled":
        ring = generator("shuffled sound").permutation(own).tolist()
        return sounds | dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    kinds = Kinds(own, rows, clips)
    return sounds | {clip: kinds.other(clip) for clip in own}


class Kinds:
    """What tells clips of another kind, by the first of these that the split has.

    Labels (every clip has some, and not all the same): a clip that shares the fewest, usually none;
    sounds that are verbal and such that are not; else captions: a clip that shares no word of its
    captions, words of more than a tenth of the clips apart, or of 200 drawn ones the clip that
    shares the fewest.
    """

    def __init__(self, own: list[str], rows: "pd.DataFrame", clips: "pd.DataFrame"):
        self.own = own
        labels = dict(zip(rows.clip_id, rows["labels"], strict=True))
        heard = zip(clips.clip_id, clips.sound, strict=True)
        sounds = {clip: (sound,) for clip, sound in heard if sound != "unknown"}
        self.kinds: list[tuple[str, ...]] | None = None
        for found in (labels, sounds):
            known = [found.get(clip, ()) for clip in own]
            if len(set(known)) > 1 and all(known):
                self.kinds = known
                self.having: dict[str, list[int]] = {}  # label -> places of its clips in `own`
                for place, names in enumerate(known):
                    for name in names:
                        self.having.setdefault(name, []).append(place)
                return
        words = {
            clip: {word for caption in captions for word in caption.lower().split()}
            for clip, captions in zip(rows.clip_id, rows.captions, strict=True)
        }
        counts = Counter(word for clip in own for word in words[clip])
        often = max(1, COMMON * len(own))
        common = {word for word, count in counts.items() if count > often}
        self.words = {clip: words[clip] - common for clip in own}

    def other(self, clip: str) -> str:
        """Draw a clip of another kind for this one."""
        draws = generator("swapped sound", clip)
        if self.kinds is not None:
            place = bisect_left(self.own, clip)
            shared = np.zeros(len(self.own), dtype=np.int64)
            for name in self.kinds[place]:
                shared[self.having[name]] += 1
            shared[place] = len(self.own)  # never itself
            others = np.flatnonzero(shared == shared.min())
            return self.own[others[draws.integers(len(others))]]
        best, fewest = "", np.inf
        for index in draws.permutation(len(self.own))[:LEAST_TRIED]:
            one = self.own[index]
            found = len(self.words[one] & self.words[clip])
            if one != clip and found < fewest:
                best, fewest = one, found
            if fewest == 0:
                break
        return best
