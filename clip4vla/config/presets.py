"""Names of presets: the paper, its released code, and our defaults.

Each family gives their values (`clip4vla.config.families`); docs/deviations.md explains the
switches.
"""

from typing import Literal

Preset = Literal["ours", "paper", "released", "released_half"]
EXTENDS: dict[Preset, Preset] = {"released_half": "released"}


def chain(preset: Preset) -> list[Preset]:
    """Return the presets that a preset consists of, lowest first."""
    return [*(chain(EXTENDS[preset]) if preset in EXTENDS else []), preset]
