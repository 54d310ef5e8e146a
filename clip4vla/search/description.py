"""What an index was made of and with: `index.json` in its folder."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, write_json

FILE = "index.json"
FORMAT = 1


class Description(BaseModel):
    """The folder of clips, the checkpoint and the options of an index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    folder: str  # absolute
    checkpoint: str  # as it is opened again
    sha256: str  # of its weights
    window: float = Field(gt=0)  # seconds
    hop: float = Field(gt=0)
    nonverbal_shares: tuple[float, ...]  # of the vectors of sounds
    settings: dict[str, Any]  # of the checkpoint
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the description of an index. UserError for a folder that is no index."""
        file = folder / FILE
        if not file.is_file():
            raise UserError(
                f"{folder}: not an index. Fix: make one with `clip4vla index CLIPS`, which names "
                "the folder of its index"
            )
        try:
            content = read_json(file)
            if isinstance(content, dict) and content.get("format") != FORMAT:
                raise UserError(
                    f"{folder}: an index of another version. Fix: make it again in another folder"
                )
            return cls.model_validate(content)
        except (ValueError, ValidationError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{file}: corrupt. Fix: make the index again in another folder"
            ) from None

    def write(self, folder: Path) -> None:
        """Write it into the folder of an index."""
        write_json(folder / FILE, self.model_dump(mode="json"))


def versions() -> dict[str, str]:
    """Return the versions of the packages that vectors depend on."""
    return {name: version(name) for name in ("clip4vla", "torch", "torchaudio", "av", "pillow")}
