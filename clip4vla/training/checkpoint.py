"""Checkpoints of a training run: written atomically, two are kept, the newest readable one wins.

`<run>/state/step-000500.pt` holds tensors and plain values only, so that it loads with
`weights_only=True`. Frozen parameters are left out: they come from the initial weights, whose
hash is part of the run's identity.
"""

import errno
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from clip4vla.common.errors import UserError
from clip4vla.common.log import log
from clip4vla.models.common.tensor_files import save_torch

KEEP = 2


class Stateful(Protocol):
    """An object whose state a checkpoint holds beside the model, such as the optimiser."""

    def state_dict(self) -> dict:
        """Return tensors and plain values."""

    def load_state_dict(self, state: dict) -> None:
        """Restore the values of `state_dict`."""


@dataclass
class TrainState:
    """Progress of a run.

    epoch: finished epochs. consumed: samples of the current epoch trained on; samples: of all
    epochs. best_epoch: counted from 1; best_value, last_value: its and the last epoch's validation
    metric. curve_bytes: length of metrics.jsonl at this step.
    """

    step: int = 0
    epoch: int = 0
    consumed: int = 0
    samples: int = 0
    best_epoch: int | None = None
    best_value: float | None = None
    last_value: float | None = None
    curve_bytes: int = 0


@dataclass
class Checkpoints:
    """The checkpoints of one run. identity: hashes of config, data and initial weights."""

    folder: Path
    identity: dict[str, str | None]
    named: list[int | None] = field(default_factory=list)  # best epochs of the kept checkpoints

    def save(self, state: TrainState, model: nn.Module, optimiser: Stateful) -> None:
        """Write the checkpoint of `state.step`; remove those older than the last two."""
        content = {
            "identity": self.identity,
            "state": asdict(state),
            "model": trained_tensors(model),
            "optimiser": optimiser.state_dict(),
        }
        save_torch(self._step(state.step), content)
        self.named = [*self.named, state.best_epoch][-KEEP:]
        self._remove(self._steps()[:-KEEP])
        kept = [self._best(epoch) for epoch in self.named if epoch is not None]
        self._remove(path for path in self.folder.glob("best-*.pt") if path not in kept)

    def load(
        self, model: nn.Module, optimiser: Stateful, step: int | None = None
    ) -> TrainState | None:
        """Restore the newest checkpoint that can be read, or that of `step`; None for none.

        Raises UserError when it belongs to another config, other data or other initial weights, and
        when there are checkpoints and none of them can be read: days of work may be saved from a
        backup, and training from the start would write over them.
        """
        unreadable = []
        steps = self._steps() if step is None else [self._step(step)]
        for path in reversed(steps):
            content = self._read(path)
            best: int | None = None if content is None else content["state"]["best_epoch"]
            if content is None or (best is not None and self._read(self._best(best)) is None):
                unreadable.append(path)
                continue
            self.check(content["identity"], path)
            _check_name(path, content["state"]["step"], self._step(content["state"]["step"]))
            load_trained(model, content["model"])
            optimiser.load_state_dict(content["optimiser"])
            self.named = [best]
            if unreadable:
                log.info(f"{path}: resuming from this checkpoint")
            self._remove(unreadable)  # else they would count among the two that are kept
            return TrainState(**content["state"])
        if unreadable:
            raise UserError(
                f"{unreadable[0]}: damaged, as is every other checkpoint of this run (reasons: see "
                f"above). Fix: restore a copy, or remove {self.folder.parent} to train anew"
            )
        return None

    def check(self, identity: dict[str, str | None], path: Path) -> None:
        """Raise UserError for state of a run with another identity."""
        differing = [key for key in self.identity if identity.get(key) != self.identity[key]]
        if differing or identity.keys() != self.identity.keys():
            inputs = ", ".join(differing) or "inputs"
            raise UserError(
                f"{path}: made with another {inputs}. Fix: restore the former one, or remove "
                f"{self.folder.parent} to train anew"
            )

    def save_best(self, epoch: int, model: nn.Module) -> None:
        """Keep the weights of the best epoch so far, beside the checkpoints."""
        content = {"identity": self.identity, "epoch": epoch, "model": trained_tensors(model)}
        save_torch(self._best(epoch), content)

    def load_best(self, epoch: int, model: nn.Module) -> None:
        """Load the weights of the best epoch into the model. UserError for a damaged file."""
        content = self._read(self._best(epoch))
        if content is None:
            raise UserError(
                f"{self._best(epoch)}: the weights of the selected epoch are missing or damaged. "
                f"Fix: restore a copy, or remove {self.folder.parent} to train anew"
            )
        self.check(content["identity"], self._best(epoch))
        saved_epoch = content.get("epoch", epoch)  # not in the files of older versions
        _check_name(self._best(epoch), saved_epoch, self._best(saved_epoch))
        load_trained(model, content["model"])

    def clear(self) -> None:
        """Remove all checkpoints: the run is finished and its outputs are kept elsewhere."""
        self._remove([*self._steps(), *self.folder.glob("best-*.pt")])

    def _step(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.pt"

    def _best(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch:04d}.pt"

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"), key=lambda path: int(path.stem[5:]))

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            path.unlink()

    def _read(self, path: Path) -> dict | None:
        """Return the content of a file; None, with a warning, when it is missing or damaged."""
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch.load does not verify the checksums
            if damaged is None:
                return torch.load(path, map_location="cpu", weights_only=True)
            reason = f"damaged: checksum of {damaged}"
        except FileNotFoundError:
            reason = "missing"
        except Exception as error:  # torch.load raises a dozen kinds for damaged bytes
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise  # no permission, no memory: the file may be intact
            reason = "damaged: " + next(iter(str(error).splitlines()), type(error).__name__)
        log.warning(f"{path}: {reason}")
        return None


def _check_name(path: Path, number: int, expected: Path) -> None:
    """Raise UserError for a file of state under the name of another step or epoch."""
    if path != expected:
        raise UserError(
            f"{path}: contains the state of {expected.name} ({number}). Fix: restore a copy of "
            f"{path.name}, or remove {path.parent.parent} to train anew"
        )


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint in a folder, readable or not; 0 for none."""
    return max((int(path.stem[5:]) for path in folder.glob("step-*.pt")), default=0)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict without frozen parameters."""
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_trained(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load `trained_tensors` into a model. UserError for missing and unexpected names."""
    expected = trained_tensors(model).keys()
    if expected != tensors.keys():
        raise UserError(
            "checkpoint: other parameters than the model has: "
            f"{sorted(expected ^ tensors.keys())[:3]}. Fix: remove the run's state to train anew"
        )
    model.load_state_dict(tensors, strict=False)
