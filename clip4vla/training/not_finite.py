"""What a training leaves behind when its loss or a gradient is NaN or infinite.

<folder>/report.json                what is not finite: where first, in which clips and parameters
<folder>/rank-<n>.safetensors       that rank's clips: inputs, features and gradients' norms

The step is done again with the same dropout, watched: so the report names the first module whose
output is not finite, which is nearer to the cause than the loss. `clip4vla not-finite <folder>`
shows both; both are plain data (JSON, safetensors), nothing in them runs.
"""

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from clip4vla.common.device import half_type
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, write_json
from clip4vla.models.common.batch_features import joined
from clip4vla.models.common.task import Task
from clip4vla.models.common.tensor_files import save_tensors
from clip4vla.training.gradients import backward
from clip4vla.training.ranks import Ranks

MOST_BYTES = 256 * 2**20  # of inputs in a rank's file: suspicious clips first, as many as fit
SHOWN = 8  # names in a list for a person


def dump(
    folder: Path, task: Task, chunks: list[dict], device: torch.device, step: int, ranks: Ranks
) -> str:
    """Write the report and this rank's tensors; gives the finding in a few words.

    Every rank calls it: the step is done again. torch's generators must stand as at its beginning.
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
    broken = [name for name, x in task.model.named_parameters() if not x.isfinite().all()]
    task.model.zero_grad(set_to_none=True)
    features = watch.features()
    clips = [clip_id for chunk in chunks for clip_id in chunk["clip_id"]]
    suspects = _suspects(chunks, features)
    order = suspects + [row for row in range(len(clips)) if row not in suspects]
    inputs, kept = _inputs(chunks, order)
    tensors = {f"features/{name}": x for name, x in features.items()}
    tensors |= {"gradient_norms": torch.tensor(list(norms.values()))}
    save_tensors(folder / f"rank-{ranks.rank}.safetensors", inputs | tensors)
    own = {
        "rank": ranks.rank,
        "clip_ids": clips,
        "clips_in_file": [clips[row] for row in kept],
        "captions": [text for chunk in chunks for text in chunk.get("caption", [])],
        "not_finite_clips": [clips[row] for row in suspects],
        "not_finite_tensors": _not_finite(inputs | tensors),
        "first_not_finite_module": watch.first,
        "parameters_in_order": list(norms),
        "not_finite_gradients": [name for name, norm in norms.items() if not math.isfinite(norm)],
        "largest_gradients": _largest(norms),
        "not_finite_weights": broken,
    }
    every = ranks.all([own])
    report = {
        "step": step,
        "loss": repr(loss.item()),
        "terms": {name: repr(float(term)) for name, term in terms.items()},
        "precision": str(half_type(device) or torch.float32).removeprefix("torch."),
        "ranks": every,
    }
    if ranks.leads:
        write_json(folder / "report.json", report)
    return _in_words(every)


class Watch:
    """Notes the first module whose output is not finite, and what the task encodes."""

    def __init__(self, task: Task):
        self.task = task
        self.first: str | None = None
        self._encoded: list[dict[str, Tensor]] = []
        self._hooks: list[Any] = []
        self._lock = threading.Lock()

    def features(self) -> dict[str, Tensor]:
        """The clips' features, of all chunks; empty for tasks that encode nothing."""
        floats = [{k: x for k, x in part.items() if k != "clip"} for part in self._encoded]
        return joined(floats) if floats else {}

    def __enter__(self) -> "Watch":
        for name, module in self.task.model.named_modules():
            if name:  # inner ones end first
                self._hooks.append(module.register_forward_hook(self._note(name)))
        encode = getattr(self.task, "encode", None)
        if encode is not None:

            def encoding(batch: dict, again: bool = False) -> dict[str, Tensor]:
                features = encode(batch, again)
                if not again:
                    self._encoded.append({name: x.detach() for name, x in features.items()})
                return features

            vars(self.task)["encode"] = encoding
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()
        vars(self.task).pop("encode", None)

    def _note(self, name: str) -> Callable[[nn.Module, tuple, Any], None]:
        def hook(module: nn.Module, given: tuple, output: Any) -> None:
            if self.first is None and any(not x.isfinite().all() for x in _floats(output)):
                with self._lock:  # recomputed blocks run in autograd's threads
                    self.first = self.first or name

        return hook


def show(folder: Path) -> str:
    """A dump for a person. Raises UserError for a folder that is none."""
    if not (folder / "report.json").is_file():
        raise UserError(f"{folder}: no report.json in it; name a folder not-finite-step-...")
    report = read_json(folder / "report.json")
    lines = [f"step {report['step']}, {report['precision']}: loss {report['loss']}"]
    lines += [f"  {name} = {value}" for name, value in report["terms"].items()]
    for rank in report["ranks"]:
        lines.append(f"rank {rank['rank']}, {len(rank['clip_ids'])} clips")
        for title, key in (
            ("first module whose output is not finite", "first_not_finite_module"),
            ("clips with inputs or features that are not finite", "not_finite_clips"),
            ("weights that are not finite", "not_finite_weights"),
            ("gradients that are not finite", "not_finite_gradients"),
        ):
            value = rank[key] or "none"
            lines.append(f"  {title}: {_some(value) if isinstance(value, list) else value}")
        largest = ", ".join(f"{name} {norm:.3g}" for name, norm in rank["largest_gradients"])
        lines.append(f"  largest finite gradients: {largest or 'none'}")
        path = folder / f"rank-{rank['rank']}.safetensors"
        if not path.is_file():
            lines.append(f"  {path}: missing")
            continue
        lines.append(f"  {path} ({_some(rank['clips_in_file'])}):")
        lines += [f"    {line}" for line in _table(path)]
    return "\n".join(lines)


def _table(path: Path) -> Iterator[str]:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            x = file.get_tensor(name)
            line = f"{name} {str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
            if x.numel() and x.dtype is not torch.bool:
                finite = x[x.isfinite()].float()
                span = f"{finite.min():.4g} to {finite.max():.4g}" if len(finite) else "nothing"
                line += f": {span}, {x.numel() - len(finite)} not finite"
            yield line


def _inputs(chunks: list[dict], order: list[int]) -> tuple[dict[str, Tensor], list[int]]:
    """The tensors of as many clips as fit, and which these are. `order`: first come, first kept."""
    rows = [
        {k: x[i] for k, x in chunk.items() if isinstance(x, Tensor)}
        for chunk in chunks
        for i in range(len(chunk["clip_id"]))
    ]
    kept: list[int] = []
    size = 0
    for row in order:
        size += sum(x.nbytes for x in rows[row].values())
        if kept and size > MOST_BYTES:
            break
        kept.append(row)
    whole = joined([{k: x[None] for k, x in rows[row].items()} for row in kept])
    return {f"inputs/{name}": x for name, x in whole.items()}, kept


def _suspects(chunks: list[dict], features: dict[str, Tensor]) -> list[int]:
    """Rows of clips with something in their inputs or features that is not finite."""
    count = sum(len(chunk["clip_id"]) for chunk in chunks)
    bad = torch.zeros(count, dtype=torch.bool)
    start = 0
    for chunk in chunks:
        end = start + len(chunk["clip_id"])
        for x in _floats(list(chunk.values())):
            bad[start:end] |= _rows_not_finite(x)
        start = end
    for x in _floats(list(features.values())):
        if len(x) == count:
            bad |= _rows_not_finite(x)
    return bad.nonzero().flatten().tolist()


def _rows_not_finite(x: Tensor) -> Tensor:
    return (~x.isfinite()).reshape(len(x), -1).any(dim=1).cpu()


def _not_finite(tensors: dict[str, Tensor]) -> dict[str, int]:
    counts = {name: int((~x.isfinite()).sum()) for name, x in tensors.items()}
    return {name: count for name, count in counts.items() if count}


def _floats(value: Any) -> list[Tensor]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [x for x in values if isinstance(x, Tensor) and x.is_floating_point() and x.ndim]


def _largest(norms: dict[str, float]) -> list[tuple[str, float]]:
    finite = [(name, norm) for name, norm in norms.items() if math.isfinite(norm)]
    return sorted(finite, key=lambda item: -item[1])[:SHOWN]


def _in_words(ranks: list[dict]) -> str:
    """The likeliest cause of all that was found."""
    for title, key in (
        ("weights that are not finite", "not_finite_weights"),
        ("clips", "not_finite_clips"),
        ("module", "first_not_finite_module"),
        ("gradients of", "not_finite_gradients"),
    ):
        found = [rank[key] for rank in ranks if rank[key]]
        if found and key == "first_not_finite_module":
            return f"first in the output of {found[0]}, with clips {_some(ranks[0]['clip_ids'])}"
        if found:
            return f"{title} {_some([name for names in found for name in names])}"
    return f"on clips {_some([clip for rank in ranks for clip in rank['clip_ids']])}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
