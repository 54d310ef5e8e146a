"""`clip4vla checkpoint inspect` and `import`: files of weights of any kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.yaml import command_line

Tell = Callable[[str], None]  # called with each line of the report
SET_EXAMPLE = 'pass an object such as {"model.type_token": "both"}'


def inspect(path: Path) -> dict[str, Any]:
    """Describe the kind and contents of a file of weights; see `show` for the same as text."""
    from clip4vla.checkpoints.convert import family_of_file
    from clip4vla.models.common.archives import ARCHIVE, read_weight_file
    from clip4vla.models.common.published import known_openai, unverified_warning
    from clip4vla.models.common.tensor_files import read_metadata

    file = read_weight_file(path)
    sha256 = sha256_of_file(path)
    known = known_openai().get(sha256)
    report: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256,
        "form": file.layout,
        "known_as": f"OpenAI's {known[1]}" if known else None,
        "warning": unverified_warning(path, sha256, file.layout == ARCHIVE),
        "left_out": list(file.left_out),
        "metadata": None,
    }
    tensors, notes = file.tensors, []
    try:
        family = family_of_file(path, tensors)
        report["kind"] = family.kind_of(tensors) or "ours"
        tensors = family.renamed(path, report["kind"], tensors)
        report["architecture"] = family.architecture_of(path, tensors)
    except UserError as error:
        notes.append(str(error))
    if report.get("kind") == "ours":
        try:
            report["metadata"] = read_metadata(path)
        except UserError as error:
            notes.append(str(error))
    parts: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        empty = {"tensors": 0, "parameters": 0, "dtypes": []}
        part = parts.setdefault(name.split(".", 1)[0], empty)
        part["tensors"] += 1
        part["parameters"] += value.numel()
        part["dtypes"] = sorted({*part["dtypes"], str(value.dtype).removeprefix("torch.")})
    return report | {"parts": parts, "notes": notes}


def show(report: dict[str, Any]) -> str:
    """Return the report of `inspect` as text."""
    parts = report["parts"]
    total = {key: sum(part[key] for part in parts.values()) for key in ("tensors", "parameters")}
    dtypes = sorted({dtype for part in parts.values() for dtype in part["dtypes"]})
    facts = {
        "form": report["form"],
        "kind": report.get("kind", "unknown"),
        "known as": report["known_as"],
        "architecture": report.get("architecture"),
        "size": f"{report['bytes']:,} bytes",
        "sha256": report["sha256"],
        "no weights": ", ".join(report["left_out"]),
    }
    lines = [report["file"]]
    lines += [f"  {name:<14}{value}" for name, value in facts.items() if value]
    lines += ["", f"  {'part':<14}{'tensors':>8}{'parameters':>15}  dtypes"]
    for name, part in [*parts.items(), ("all", total | {"dtypes": dtypes})]:
        numbers = f"{part['tensors']:>8,}{part['parameters']:>15,}"
        lines.append(f"  {name:<14}{numbers}  {', '.join(part['dtypes'])}")
    if report["metadata"] is not None:
        text = json.dumps(report["metadata"], indent=2, sort_keys=True)
        lines += ["", "  metadata", *(f"  {line}" for line in text.splitlines())]
    lines += [f"warning: {report['warning']}"] if report["warning"] else []
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def import_(
    path: Path,
    out: Path,
    fresh: list[str],
    drop: list[str],
    clip: Path | None,
    values: str | None,
    classes: Path | None,
    tell: Tell,
) -> None:
    """Write a file of any supported kind as ours; `tell` is called with each line of the coverage.

    Raises UserError when `out` has another suffix than .safetensors, or is an input.
    """
    from clip4vla.checkpoints.checkpoint import write_checkpoint
    from clip4vla.checkpoints.convert import convert
    from clip4vla.models.common.archives import ARCHIVE
    from clip4vla.models.common.published import unverified_warning

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: not a .safetensors file. Fix: change the suffix of the output")
    for source in filter(None, (path, clip)):
        if out.exists() and source.exists() and out.samefile(source):
            raise UserError(f"{out}: is an input, which would be lost. Fix: give another output")
    settings = _settings(values)
    if classes is not None:
        if "classes" in settings:
            raise UserError(f"--classes {classes}: --set has classes, too. Fix: remove one")
        settings["classes"] = _classes(classes)
    converted = convert(path, fresh=tuple(fresh), drop=tuple(drop), clip=clip, overrides=settings)
    coverage = converted.coverage
    imported = converted.origin["imported"]
    tell(f"{path}: {converted.kind} names, {imported['form']}")
    if warning := unverified_warning(path, imported["sha256"], imported["form"] == ARCHIVE):
        tell(f"warning: {warning}")
    settings_of_file = converted.settings
    tell(f"architecture: {settings_of_file.model.architecture}; task: {settings_of_file.task}")
    tell(f"expected: {len(coverage.expected)} tensors; found: {coverage.found}")
    for kind in ("missing", "left over", "misshapen", "not finite floating point"):
        names = coverage.problems().get(kind, [])
        tell(f"{kind}: {len(names)}")
        for name in names:
            tell(f"  {name}")
    for title, listed in (
        ("initialised", converted.fresh),
        ("left out", (*drop, *converted.left_out)),
        ("assumed", tuple(converted.assumed)),
    ):
        for name in listed:
            tell(f"{title}: {name}")
    converted.fill_model()
    write_checkpoint(out, converted.model, converted.settings, converted.origin)
    tell(f"written: {out}")


def _classes(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"--classes {path}: not UTF-8. Fix: save it as UTF-8") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"--classes {path}: no classes in it. Fix: write one class per line")
    return names


def _settings(values: str | None) -> dict[str, Any]:
    try:
        settings = json.loads(values) if values else {}
    except json.JSONDecodeError as error:
        raise UserError(f"--set: not JSON ({error}). Fix: {SET_EXAMPLE}") from None
    if not isinstance(settings, dict):
        raise UserError(f"--set: not a JSON object. Fix: {SET_EXAMPLE}")
    return command_line(settings).value
