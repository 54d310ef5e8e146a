"""The settings of a model from its tensors, and what had to be assumed because none tells."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.config.yaml import merge, undotted
from clip4vla.models.clip4vla.architecture import Architecture, known_names, resolve
from clip4vla.models.clip4vla.presets import preset_values

BLOCKS = "transformer.resblocks."


@dataclass
class Deduction:
    """Settings as a nested mapping, and one line for each value that the tensors do not tell."""

    values: dict[str, Any]
    assumed: list[str] = field(default_factory=list)

    def assume(self, key: str, value: Any, why: str, given: dict[str, Any]) -> None:
        """Set a dotted key, and note it unless the user has given it."""
        self.values = merge(self.values, undotted({key: value}))
        stated: Any = given
        for part in key.split("."):
            stated = stated.get(part) if isinstance(stated, dict) else None
        if stated is None:
            self.assumed.append(f"{key}: {value} ({why})")


def deduce(
    path: Path, kind: str, tensors: dict[str, Tensor], given: dict[str, Any], quick_gelu: bool
) -> Deduction:
    """Settings of a file that does not state them, from its tensors under our names.

    given: what the user says, nested; it wins. quick_gelu: whether the file is known to need it.
    UserError when no known architecture has these shapes.
    """
    model = given.get("model")
    stated = model.get("architecture") if isinstance(model, dict) else None
    architecture = stated or architecture_of(path, tensors)
    found = Deduction({"model": {"weights": None, "architecture": architecture}})
    if not quick_gelu:
        why = "OpenAI's, DFN's and MetaCLIP's; gelu for LAION's and DataComp's"
        found.assume("model.activation", "quick_gelu", why, given)
    _type_token(found, tensors, given)
    _head(found, tensors, given)
    if kind in ("released", "mclip4vla"):
        task = found.values.get("task", "retrieval")
        released = preset_values("released", {"task": task}, reader=None)
        found.values = merge(found.values, {"inputs": released["inputs"]})
    return Deduction(merge(found.values, given), found.assumed)


def architecture_of(path: Path, tensors: dict[str, Tensor]) -> str:
    """The name of the architecture with these shapes; UserError when there is none."""
    sizes = sizes_of(tensors)
    names = [name for name, known in _known().items() if _fits(known, sizes)]
    if not names:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(
            f"{path}: no known plain CLIP has these sizes: {shown}; name one with "
            '--set \'{"model.architecture": "ViT-B-32"}\' to see what differs'
        )
    return min(names, key=lambda name: ("quickgelu" in name, len(name), name))


def sizes_of(tensors: dict[str, Tensor]) -> dict[str, int]:
    """The sizes that the tensors of the towers show; the number of heads is not among them."""

    def size(name: str, axis: int) -> int | None:
        shape = tensors[name].shape if name in tensors else ()
        return shape[axis] if len(shape) > axis else None

    found = {
        "patch_size": size("vision.conv1.weight", 3),
        "vision_width": size("vision.conv1.weight", 0),
        "vision_layers": _layers(tensors, f"vision.{BLOCKS}"),
        "grid_positions": size("vision.positional_embedding", 0),
        "embed_dim": size("vision.proj", 1),
        "text_width": size("text.ln_final.weight", 0),
        "text_layers": _layers(tensors, f"text.{BLOCKS}"),
        "context_length": size("text.positional_embedding", 0),
    }
    return {name: value for name, value in found.items() if value}


def _known() -> dict[str, Architecture]:
    known = {}
    for name in known_names():
        try:
            known[name] = resolve(name)
        except UserError:  # not a plain CLIP at 224 pixels
            continue
    return known


def _fits(known: Architecture, sizes: dict[str, int]) -> bool:
    return all(getattr(known, name) == size for name, size in sizes.items())


def _layers(tensors: dict[str, Tensor], prefix: str) -> int:
    """How many blocks stand under a prefix."""
    return len({n[len(prefix) :].split(".", 1)[0] for n in tensors if n.startswith(prefix)})


def _type_token(found: Deduction, tensors: dict[str, Tensor], given: dict[str, Any]) -> None:
    if "audio.background_embedding" in tensors:
        found.values["model"]["type_token"] = "background"
    elif "audio.control_embedding" in tensors:
        why = "`both` has the same tensors"
        found.assume("model.type_token", "single", why, given)
        found.assume("nonverbal_share", 0.5, "0 is [VB], 1 is [NB]; no tensor tells", given)
    elif "audio.conv1.weight" in tensors:
        found.values["model"]["type_token"] = "none"


def _head(found: Deduction, tensors: dict[str, Tensor], given: dict[str, Any]) -> None:
    model, parts = found.values["model"], {name.split(".", 1)[0] for name in tensors}
    joint = "captioner.joint." if "captioner" in parts else "fusion.joint."
    if "captioner" in parts or "fusion" in parts:
        bert = any(name.startswith(f"{joint}layers.") for name in tensors)
        blocks = f"{joint}layers." if bert else joint + BLOCKS
        model["joint"] = "bert" if bert else "clip"
        model["joint_layers"] = max(_layers(tensors, blocks), 1)
        for key, value in (("max_words", 32), ("max_frames", 12)):
            found.assume(f"inputs.{key}", value, "positions follow it; no tensor tells", given)
    if "captioner" in parts:
        found.values["task"] = "captioning"
    elif "fusion" in parts:
        found.values["task"] = "retrieval"
        why = "tight and local_to_local have the same tensors"
        found.assume("model.fusion", "global_to_local", why, given)
    elif "gate" in parts:
        found.values["task"] = "retrieval"
        gate, words = tensors.get("gate.linear.weight"), tensors.get("text.text_projection")
        by_text = gate is not None and words is not None and gate.shape[-1] == words.shape[-1]
        model["fusion"] = "query2sim" if by_text else "feat2sim"
    elif "probe" in parts:
        found.values["task"] = "classification"
        outputs = tensors.get("probe.linear.weight", ())
        names = [str(index) for index in range(len(outputs))]
        if names and "classes" not in given:
            found.values["classes"] = names
            found.assumed.append(f"classes: 0 to {len(names) - 1} (name them with --classes FILE)")
