"""README.md of exported weights."""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from clip4vla.config.data import IMAGE_SIZE, LogMel, policy_text
from clip4vla.config.families import model_in
from clip4vla.config.metrics import label_of
from clip4vla.config.sections import Inputs
from clip4vla.results.metrics_file import Metrics
from clip4vla.results.text import markdown, markdown_cell, one_line

KINDS = {"mel": "log-mel (mel: librosa's, in dB)", "fbank": "log-mel (fbank: kaldi's, natural log)"}
CHOSEN = {"spread": "spread over the clip", "middle": "from the middle of equal parts"}
TASK_TAGS = {
    "retrieval": ["text-video-retrieval"],
    "captioning": ["video-captioning"],
    "classification": ["video-classification"],
    "tagging": ["video-classification", "multi-label"],
}
PIPELINES = {  # by task, as the Hub names them; its search shows the model under it
    "captioning": "video-text-to-text",
    "classification": "video-classification",
    "tagging": "video-classification",
}
EMBEDS = "feature-extraction"  # every other task: vectors
SHA256 = "SHA256-OF-THE-WEIGHTS"  # in a card: replaced once the weights are written
LOADING = {
    "ours": """```python
import clip4vla

model = clip4vla.load("{file}")  # from the Hub: "hf://OWNER/NAME", of this page
```

Its methods embed texts, sounds and videos, and compare them; `model.model` is the network in
evaluation mode, `model.settings` and `model.metadata` describe it. On the command line,
`clip4vla embed video hf://OWNER/NAME FOLDER` does the same. To initialise a row of the workflow
from it, name the file under `weights` in the config and set `pretrain: {{from: NAME}}`.""",
    "released": """A state dict under the names of the released CLIP4VLA code, for its
`--init_model {file}`; in this project `clip4vla checkpoint import {file} OUT.safetensors` takes it
back.""",
}


def model_card(
    metadata: dict[str, Any],
    names: str,
    file: str,
    parameters: int,
    scores: list[Metrics],
    licence: str | None,
    run: Any = None,
) -> str:
    """Return Markdown with a YAML front matter, made of a checkpoint's metadata and scores.

    names: `ours` or `released`; scores: metrics of evaluations of these weights; run: the config of
    the run that trained them, as far as it is known.
    """
    model, inputs = model_in(metadata), metadata["inputs"]
    frames = metadata["cache"]["frames"]
    preprocessing = model.preprocessing()
    front = _front_matter(metadata, scores, licence)
    facts = {
        "file": f"`{file}`, sha256 `{SHA256}`",
        "architecture": ", ".join(filter(None, model.described().values())),
        "parameters": f"{parameters:,}",
        **model.card(metadata),
        "modalities": ", ".join(metadata["modalities"]),
        "classes": "; ".join(metadata["classes"]) if metadata["classes"] else None,
        "run": _run(metadata),
        "trained with": _trained_with(run),
        "imported from": _imported(metadata),
    }
    return "\n".join(
        [
            "---",
            front,
            "---",
            "",
            f"# {model.TITLE}",
            "",
            model.ABOUT,
            "",
            *(f"* {name}: {markdown(one_line(value))}" for name, value in facts.items() if value),
            "",
            "## Data",
            "",
            *_data(metadata),
            "",
            "## Metrics",
            "",
            *_metrics(scores),
            "",
            "## Inputs",
            "",
            f"* Frames: {frames['fps']:g} a second, at most {inputs['max_frames']} "
            f"{CHOSEN[Inputs(**inputs).frame_choice]}; short side to {IMAGE_SIZE} (bicubic), "
            f"centre crop, {preprocessing['pixels']}.",
            f"* Sound: {_sound(LogMel(**metadata['cache']['log_mel']))}; at most "
            f"{inputs['max_segments']} segments of {Inputs(**inputs).segment_steps} steps, "
            f"{_standardised(Inputs(**inputs))}.",
            f"* Text: {preprocessing['tokens']}, at most {Inputs(**inputs).caption_tokens} with "
            "start and end.",
            "",
            "## How to load it",
            "",
            LOADING[names].format(file=file),
            "",
            "## Limits",
            "",
            "It carries the biases of the images and videos that it and its initial weights were "
            "trained on. It was made for research on short clips with English text; no other use "
            "was tested.",
            "",
            "## Licence",
            "",
            markdown(one_line(licence or ""))
            or "Not stated. The publisher of this file must state it, considering the licences of "
            "its initial weights and of the data above.",
            "",
        ]
    )


def _front_matter(metadata: dict[str, Any], scores: list[Metrics], licence: str | None) -> str:
    """Return the YAML that the Hub reads: its search, its filters, its list of results."""
    model, task = model_in(metadata), metadata["task"]
    versions = {name.split("/")[0] for name in metadata.get("manifests") or {}}
    data = ModelCardData(
        license=one_line(licence) if licence else None,
        library_name="clip4vla",
        pipeline_tag=PIPELINES.get(task, EMBEDS),
        tags=[*model.TAGS, "audio", "video", *TASK_TAGS.get(task, ())],
        datasets=sorted({version.rsplit("-", 2)[0] for version in versions}) or None,
        model_name=model.TITLE if scores else None,
        eval_results=_results(scores) or None,
    )
    return str(data.to_yaml())


def _results(scores: list[Metrics]) -> list[EvalResult]:
    """Return the numbers in the form of the Hub's `model-index`, each with its clips."""
    return [
        EvalResult(
            task_type=PIPELINES.get(score.task, EMBEDS),
            task_name=score.task,
            dataset_type=score.dataset,
            dataset_name=score.data_version,
            dataset_config=f"{gallery.protocol} ({name})",
            dataset_split=score.split,
            dataset_revision=score.manifest_sha256,
            dataset_args={
                "queries": gallery.n_queries,
                "clips": gallery.n_gallery,
                "ids_sha256": gallery.ids_sha256,
                "missing_audio": policy_text(score.missing_audio),
            },
            metric_type=metric,
            metric_name=label_of(metric),
            metric_value=round(value, 4),
        )
        for score in scores
        for name, gallery in score.galleries.items()
        for metric, value in gallery.metrics.items()
    ]


def _sound(config: LogMel) -> str:
    """Describe the audio front-end (docs/deviations.md, D2 and D3)."""
    kind, after = KINDS[config.kind], f"floor {config.top_db:g} dB below the maximum"
    if config.kind == "fbank":
        after = f"pre-emphasis {config.preemphasis:g}"
        after += ", each window less its mean" if config.remove_dc else ""
    channels = "left, mean and right" if config.channels == "left_mean_right" else "the mean"
    return (
        f"{config.sample_rate} Hz, of stereo {channels}; {kind} of {config.n_mels} bands from "
        f"{config.f_min:g} to {config.f_max:g} Hz, {config.window} window of {config.n_fft} "
        f"samples every {config.hop}, {after}"
    )


def _standardised(inputs: Inputs) -> str:
    match inputs.standardisation:
        case "segment":
            return "each standardised by channel"
        case "clip":
            return "standardised by the mean and deviation of the whole clip, by channel"
        case "fixed":
            return f"less {inputs.log_mel_mean:g} and divided by {inputs.log_mel_std:g}"


def _run(metadata: dict[str, Any]) -> str | None:
    if not metadata.get("run_key"):
        return None
    text = f"`{metadata['run_key']}` ({metadata.get('stage')}), epoch "
    text += f"{metadata.get('selected_epoch')} by {metadata.get('selection')}"
    if metadata.get("val_value") is not None:
        text += f" ({metadata.get('val_metric')} {metadata['val_value']:.4g})"
    if metadata.get("selected_on"):
        text += f"; selected on {metadata['selected_on']}"
    if metadata.get("ema"):
        text += f"; weights averaged with decay {metadata['ema']:g}"
    if metadata.get("average_epochs"):
        first, last = metadata["average_epochs"]
        text += f"; mean of the weights of epochs {first} to {last}"
    for stage, size in (metadata.get("small_batches") or {}).items():
        text += f"; batches of {size['used']} in place of {size['asked']} ({stage})"
    if metadata.get("half_weights"):
        text += f"; half-weight study ({', '.join(metadata['half_weights'])})"
    return text


def _trained_with(run: Any) -> str | None:
    """Describe the training by the config of its run, which may be a file of any content."""
    run = run if isinstance(run, dict) else {}
    optimiser = run.get("optimiser") if isinstance(run.get("optimiser"), dict) else {}
    facts = {
        "seed": run.get("seed"),
        "epochs": optimiser.get("epochs"),
        "batch size": optimiser.get("batch_size"),
        "learning rate": optimiser.get("lr"),
    }
    stated = [f"{name} {value}" for name, value in facts.items() if value is not None]
    return ", ".join([*stated, "all settings, presets resolved, in `run.json`"]) if run else None


def _imported(metadata: dict[str, Any]) -> str | None:
    source = metadata.get("imported")
    return source and f"`{source['file']}` ({source['kind']} names), sha256 `{source['sha256']}`"


def _data(metadata: dict[str, Any]) -> list[str]:
    manifests = metadata.get("manifests")
    if not manifests:
        return ["Unknown: the file does not state its training data."]
    head = ["| data version | sha256 of its manifest |", "| --- | --- |"]
    return head + [
        f"| {markdown_cell(one_line(name))} | `{sha256}` |"
        for name, sha256 in sorted(manifests.items())
    ]


def _metrics(scores: list[Metrics]) -> list[str]:
    if not scores:
        return ["None were measured with these weights."]
    lines = [
        "| data | split | protocol | gallery | silent clips | queries | clips | ids sha256 | "
        "metrics |",
        "| --- | --- | --- | --- | --- | ---: | ---: | --- | --- |",
    ]
    for score in scores:
        for name, gallery in score.galleries.items():
            values = ", ".join(f"{k} {v:.4g}" for k, v in gallery.metrics.items())
            lines.append(
                f"| {score.data_version} | {score.split} | {markdown_cell(gallery.protocol)} | "
                f"{name} | {policy_text(score.missing_audio)} | {gallery.n_queries} | "
                f"{gallery.n_gallery} | `{gallery.ids_sha256[:12]}` | {values} |"
            )
    rules: dict[str, set[Any]] = {
        "Checkpoint": {score.selection for score in scores},
        "Rank of equal scores": {score.tie_rule for score in scores},
        "Candidates scored again by pairs": {score.rescored for score in scores},
    }
    stated = {
        rule: ", ".join(sorted(markdown(one_line(str(value))) for value in values - {None}))
        for rule, values in rules.items()
    }
    lines += ["", *(f"* {rule}: {text}." for rule, text in stated.items() if text)]
    return [
        *lines,
        "* `ids sha256` identifies the set of clips: numbers compare where it is equal.",
    ]
