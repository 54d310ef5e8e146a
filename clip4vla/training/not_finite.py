"""The report of a training whose loss or gradient is NaN or infinite.

The step is repeated with the same dropout under observation. <folder>/report.json names the first
module whose output is not finite, which is nearer to the cause than the loss, and the clips,
weights and gradients that are not finite. `clip4vla not-finite <folder>` shows it.
"""

import math
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from clip4vla.common.device import half_type
from clip4vla.common.errors import UserError
from clip4vla.common.files import write_json
from clip4vla.models.common.task import Task
from clip4vla.training.gradients import backward
from clip4vla.training.ranks import Ranks

SHOWN = 8  # names in a list for a person
FINDINGS = {  # of a rank, the likeliest cause first: key of the report -> what it holds
    "not_finite_weights": "weights that are not finite",
    "not_finite_clips": "clips with inputs or features that are not finite",
    "first_not_finite_module": "first module whose output is not finite",
    "not_finite_gradients": "gradients that are not finite",
}


class Finding(BaseModel):
    """What one rank found, as far as `show` tells it."""

    rank: int
    clip_ids: list[str]
    not_finite_weights: list[str]
    not_finite_clips: list[str]
    first_not_finite_module: str | None
    not_finite_gradients: list[str]
    largest_gradients: list[tuple[str, float]]


class Report(BaseModel):
    """The content of report.json, as far as `show` tells it."""

    step: int
    loss: str
    terms: dict[str, str]
    precision: str
    ranks: list[Finding]


def dump(
    folder: Path, task: Task, chunks: list[dict], device: torch.device, step: int, ranks: Ranks
) -> str:
    """Write the report; return the finding in a few words.

    Every rank calls it, because the step is repeated. torch's random generators must be in the
    state that they had at its beginning.
    """
    watch = Watch(task)
    task.model.zero_grad(set_to_none=True)
    with watch, torch.compiler.set_stance("force_eager"):
        loss, terms = backward(task, chunks, device, lambda loss: loss)
    norms = {
        name: float(parameter.grad.float().norm())
        for name, parameter in task.model.named_parameters()
        if parameter.grad is not None
    }
    task.model.zero_grad(set_to_none=True)
    for chunk in chunks:
        watch.note_clips(chunk["clip_id"], chunk.values())
    finite = {name: norm for name, norm in norms.items() if math.isfinite(norm)}
    finding = {
        "rank": ranks.rank,
        "clip_ids": [clip_id for chunk in chunks for clip_id in chunk["clip_id"]],
        "captions": [text for chunk in chunks for text in chunk.get("caption", [])],
        "not_finite_clips": sorted(watch.clips),
        "first_not_finite_module": watch.first,
        "not_finite_gradients": [name for name in norms if name not in finite],
        "largest_gradients": sorted(finite.items(), key=lambda item: -item[1])[:SHOWN],
        "not_finite_weights": [
            name for name, x in task.model.named_parameters() if not x.isfinite().all()
        ],
    }
    findings = ranks.gathered([finding])
    report = {
        "step": step,
        "loss": repr(loss.item()),
        "terms": {name: repr(float(term)) for name, term in terms.items()},
        "precision": str(half_type(device) or torch.float32).removeprefix("torch."),
        "ranks": findings,
    }
    if ranks.leads:
        write_json(folder / "report.json", report)
    return _summary(findings)


class Watch:
    """A recorder of the first module with an output that is not finite, and of such clips."""

    def __init__(self, task: Task):
        self.task = task
        self.first: str | None = None
        self.clips: set[str] = set()
        self._hooks: list[Any] = []
        self._lock = threading.Lock()

    def note_clips(self, clip_ids: list[str], values: Iterable[Any]) -> None:
        """Record clips whose inputs or features contain a value that is not finite."""
        for x in _floats(values):
            if len(x) == len(clip_ids):
                rows = (~x.isfinite()).reshape(len(x), -1).any(dim=1).tolist()
                self.clips |= {name for name, bad in zip(clip_ids, rows, strict=True) if bad}

    def __enter__(self) -> "Watch":
        for name, module in self.task.model.named_modules():
            if name:  # hooks of inner modules run before those of outer ones
                self._hooks.append(module.register_forward_hook(self._note(name)))
        encode = getattr(self.task, "encode", None)
        if encode is not None:

            def encoding(batch: dict, again: bool = False) -> dict[str, Tensor]:
                features = encode(batch, again)
                self.note_clips(batch["clip_id"], features.values())
                return features

            vars(self.task)["encode"] = encoding
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()
        vars(self.task).pop("encode", None)

    def _note(self, name: str) -> Callable[[nn.Module, tuple, Any], None]:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            values = output if isinstance(output, (list, tuple)) else [output]
            if self.first is None and any(not x.isfinite().all() for x in _floats(values)):
                with self._lock:  # recomputed blocks run in autograd's threads
                    self.first = self.first or name

        return hook


def show(folder: Path) -> str:
    """Return a report as text. Raises UserError for a folder without one, or a damaged one."""
    report = _read(folder / "report.json")
    lines = [f"step {report.step}, {report.precision}: loss {report.loss}"]
    lines += [f"  {name} = {value}" for name, value in report.terms.items()]
    for rank in report.ranks:
        lines.append(f"rank {rank.rank}, {len(rank.clip_ids)} clips")
        for key, title in FINDINGS.items():
            value = getattr(rank, key) or "none"
            lines.append(f"  {title}: {_some(value) if isinstance(value, list) else value}")
        largest = ", ".join(f"{name} {norm:.3g}" for name, norm in rank.largest_gradients)
        lines.append(f"  largest finite gradients: {largest or 'none'}")
    return "\n".join(lines)


def _read(path: Path) -> Report:
    if not path.is_file():
        raise UserError(
            f"{path.parent}: no report.json in it. Fix: name a folder not-finite-step-..."
        )
    try:
        return Report.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        reason = " ".join(f"{key}: {first['msg']}".lstrip(": ").split())
        raise UserError(
            f"{path}: damaged ({reason}). Fix: restore a copy, or train again, which writes it anew"
        ) from None


def _floats(values: Iterable[Any]) -> list[Tensor]:
    return [x for x in values if isinstance(x, Tensor) and x.is_floating_point() and x.ndim]


def _summary(ranks: list[dict]) -> str:
    """Return the likeliest cause among the findings."""
    for key, title in FINDINGS.items():
        values = [rank[key] for rank in ranks if rank[key]]
        if values and key == "first_not_finite_module":
            return f"first in the output of {values[0]}, with clips {_some(ranks[0]['clip_ids'])}"
        if values:
            return f"{title}: {_some([name for names in values for name in names])}"
    return f"on clips {_some([clip for rank in ranks for clip in rank['clip_ids']])}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
