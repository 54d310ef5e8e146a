"""Infer the settings of a model from its tensors; list those that had to be assumed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.config.yaml import merge, undotted
from clip4vla.models.clip4vla.architecture import Architecture, known_names, resolve
from clip4vla.models.clip4vla.presets import preset_values
from clip4vla.models.common.tensor_files import Tensors

BLOCKS = "transformer.resblocks."


@dataclass
class InferredSettings:
    """Nested settings, and one line for each value that cannot be inferred from the tensors."""

    values: dict[str, Any]
    assumed: list[str] = field(default_factory=list)

    def assume(self, key: str, value: Any, why: str, overrides: dict[str, Any]) -> None:
        """Set a dotted key, and list it as assumed unless the user overrides it."""
        self.values = merge(self.values, undotted({key: value}))
        override: Any = overrides
        for part in key.split("."):
            override = override.get(part) if isinstance(override, dict) else None
        if override is None:
            self.assumed.append(f"{key}: {value} ({why})")


def infer_settings(
    path: Path, kind: str, tensors: Tensors, overrides: dict[str, Any], quick_gelu: bool
) -> InferredSettings:
    """Infer the settings of a file that does not state them from its tensors under our names.

    overrides: nested settings of the user, which take precedence. quick_gelu: whether the file is
    known to use QuickGELU. UserError when no known architecture has these shapes.
    """
    model = overrides.get("model")
    stated = model.get("architecture") if isinstance(model, dict) else None
    architecture = stated or architecture_of(path, tensors)
    inferred = InferredSettings({"model": {"weights": None, "architecture": architecture}})
    if not quick_gelu:
        why = "OpenAI's, DFN's and MetaCLIP's; gelu for LAION's and DataComp's"
        inferred.assume("model.activation", "quick_gelu", why, overrides)
    _infer_type_token(inferred, tensors, overrides)
    _infer_head(inferred, tensors, overrides)
    if kind in ("released", "mclip4vla"):
        task = inferred.values.get("task", "retrieval")
        released = preset_values("released", {"task": task}, reader=None)
        inferred.values = merge(inferred.values, {"inputs": released["inputs"]})
    return InferredSettings(merge(inferred.values, overrides), inferred.assumed)


def architecture_of(path: Path, tensors: Tensors) -> str:
    """Return the name of the architecture with these shapes. UserError for unknown shapes."""
    sizes = sizes_of(tensors)
    names = [name for name, known in _known_architectures().items() if _has_sizes(known, sizes)]
    if not names:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(
            f"{path}: no known plain CLIP has these sizes: {shown}. Fix: choose one with "
            '--set \'{"model.architecture": "ViT-B-32"}\' to list the differences'
        )
    return min(names, key=lambda name: ("quickgelu" in name, len(name), name))


def sizes_of(tensors: Tensors) -> dict[str, int]:
    """Return the sizes of the towers, except for their numbers of heads, which no tensor shows."""

    def size(name: str, axis: int) -> int | None:
        shape = tensors[name].shape if name in tensors else ()
        return shape[axis] if len(shape) > axis else None

    sizes = {
        "patch_size": size("vision.conv1.weight", 3),
        "vision_width": size("vision.conv1.weight", 0),
        "vision_layers": _layers(tensors, f"vision.{BLOCKS}"),
        "grid_positions": size("vision.positional_embedding", 0),
        "embed_dim": size("vision.proj", 1),
        "text_width": size("text.ln_final.weight", 0),
        "text_layers": _layers(tensors, f"text.{BLOCKS}"),
        "context_length": size("text.positional_embedding", 0),
    }
    return {name: value for name, value in sizes.items() if value}


def _known_architectures() -> dict[str, Architecture]:
    known = {}
    for name in known_names():
        try:
            known[name] = resolve(name)
        except UserError:  # not a plain CLIP at 224 pixels
            continue
    return known


def _has_sizes(architecture: Architecture, sizes: dict[str, int]) -> bool:
    return all(getattr(architecture, name) == size for name, size in sizes.items())


def _layers(tensors: Tensors, prefix: str) -> int:
    """Return the number of blocks whose names begin with a prefix."""
    return len({n[len(prefix) :].split(".", 1)[0] for n in tensors if n.startswith(prefix)})


def _infer_type_token(
    inferred: InferredSettings, tensors: Tensors, overrides: dict[str, Any]
) -> None:
    if "audio.background_embedding" in tensors:
        inferred.values["model"]["type_token"] = "background"
    elif "audio.control_embedding" in tensors:
        why = "`both` has the same tensors"
        inferred.assume("model.type_token", "single", why, overrides)
        why = "0 is [VB], 1 is [NB]; no tensor shows it"
        inferred.assume("nonverbal_share", 0.5, why, overrides)
    elif "audio.conv1.weight" in tensors:
        inferred.values["model"]["type_token"] = "none"


def _infer_head(inferred: InferredSettings, tensors: Tensors, overrides: dict[str, Any]) -> None:
    model, parts = inferred.values["model"], {name.split(".", 1)[0] for name in tensors}
    joint = "captioner.joint." if "captioner" in parts else "fusion.joint."
    if "captioner" in parts or "fusion" in parts:
        bert = any(name.startswith(f"{joint}layers.") for name in tensors)
        blocks = f"{joint}layers." if bert else joint + BLOCKS
        model["joint"] = "bert" if bert else "clip"
        model["joint_layers"] = max(_layers(tensors, blocks), 1)
        for key, value in (("max_words", 32), ("max_frames", 12)):
            why = "positions depend on it; no tensor shows it"
            inferred.assume(f"inputs.{key}", value, why, overrides)
    if "captioner" in parts:
        inferred.values["task"] = "captioning"
    elif "fusion" in parts:
        inferred.values["task"] = "retrieval"
        why = "tight and local_to_local have the same tensors"
        inferred.assume("model.fusion", "global_to_local", why, overrides)
    elif "gate" in parts:
        inferred.values["task"] = "retrieval"
        gate, text = tensors.get("gate.linear.weight"), tensors.get("text.text_projection")
        by_text = gate is not None and text is not None and gate.shape[-1] == text.shape[-1]
        model["fusion"] = "query2sim" if by_text else "feat2sim"
    elif "probe" in parts:
        inferred.values["task"] = "classification"
        outputs = tensors.get("probe.linear.weight", ())
        names = [str(index) for index in range(len(outputs))]
        if names and "classes" not in overrides:
            inferred.values["classes"] = names
            inferred.assumed.append(
                f"classes: 0 to {len(names) - 1} (name them with --classes FILE)"
            )
