"""Demo clips, a tiny model and the command that the tests of embedding share."""

from pathlib import Path

import pytest

from clip4vla.checkpoints.checkpoint import write_checkpoint
from clip4vla.cli.main import main
from clip4vla.config.sections import Inputs
from clip4vla.config.settings import Settings
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "clips"
SOUNDS = {
    "say_dog": "ok",
    "bbb_040": "ok",
    "bbb_030": "no_audio_stream",
    "bbb_120": "digital_silence",
}
PATHS = [DEMO / f"{name}.mp4" for name in SOUNDS]
INPUTS = Inputs(max_frames=3, max_segments=2, max_words=9)
CLOSE = {"rtol": 0.0, "atol": 1e-5}


def write_tiny(path, **others):
    settings = Settings(
        model=Model(architecture="tiny", weights=None, **others.pop("model", {})),
        inputs=INPUTS,
        **others,
    )
    model = build_model(
        settings.model, {}, settings.model.head(settings.task), None, 5, settings.inputs
    )
    write_checkpoint(path, model, settings, {})
    return path


def run(*arguments):
    """Run one `clip4vla embed` command; typer ends a good one with exit 0."""
    with pytest.raises(SystemExit) as ended:
        main(["embed", *map(str, arguments)])
    return ended.value.code
