"""What MLflow is told of a finished stage: a record, written beside its outputs."""

from pathlib import Path
from typing import Any

from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.config.run import sources_of


def run_record(
    plan: Plan, key: str, out: Path, summary: dict[str, Any], curve: Path | None = None
) -> None:
    """Record a run: its config as params, its numbers as metrics, its files as artifacts."""
    from clip4vla.tracking import write_record

    run = plan.run(key)
    data = [f"{s.dataset}/{s.cache_id}" for s in sources_of(run)]
    write_record(
        out / "record.json",
        kind=run.stage,
        key=key,
        name=f"{run.stage}-{key}",
        params=flat(run.scientific()),
        tags={"run_key": key, "stage": run.stage, "data": ", ".join(dict.fromkeys(data))},
        metrics=numbers(summary),
        curve=curve,
        artifacts=[
            out / name
            for name in layout.RUN_FILES[run.stage]
            if name not in ("record.json", "model.safetensors")
        ],
        inputs=[*dict.fromkeys(data), *plan.parents(key)],
    )


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists by position."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = enumerate(value)
    else:
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in items:
        result |= flat(item, f"{prefix}.{key}" if prefix else str(key))
    return result


def numbers(summary: dict[str, Any]) -> dict[str, float]:
    """Every number of a summary under its dotted name, as MLflow metrics (slashes for dots)."""
    return {
        name.replace(".", "/"): float(value)
        for name, value in flat(summary).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
