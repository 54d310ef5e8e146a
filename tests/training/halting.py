"""Processes that wait at a place of the training, to be killed there."""

import time

import torch

from clip4vla.training import loop

PLACES = {
    "update": (loop.Updates, "__call__"),
    "curve": (loop.Curve, "sync"),
    "save": (torch, "save"),  # written, not yet in place
    "selected": (loop.Checkpoints, "load_best"),  # trained and saved, outputs not yet written
}


def halt_at(place, count, marker):
    """Let the `count`-th call of a place wait, once done, for as long as the marker exists."""
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), []

    def halting(*given, **options):
        result = original(*given, **options)
        calls.append(1)
        if len(calls) == count:
            marker.touch()
            while marker.exists():
                time.sleep(0.01)
        return result

    setattr(owner, name, halting)
