"""Sections that several stages share: inputs, masking, optimiser, decoding and others.

Together with `clip4vla.config.run` they are the scientific config of a run.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from clip4vla.config.base import Section, added, refuse_unread, runtime
from clip4vla.config.data import IMAGE_SIZE

Modality = Literal["audio", "vision"]
TaskName = Literal["retrieval", "captioning", "classification", "tagging"]
LABEL_TASKS: tuple[TaskName, ...] = ("classification", "tagging")  # their head is a probe
Trainable = Literal["head", "all"]
Sampling = Literal["uniform", "balanced"]
Query = Literal["text", "audio", "vision"]  # what a retrieval is asked by
FrameChoice = Literal["spread", "middle"]
Selection = Literal["last", "best_val", "best_test_as_paper"]
Activation = Literal["quick_gelu", "gelu"]
Stopping = Literal["frozen", "released"]
Positions = Literal["fixed", "sliding"]


class Inputs(Section):
    """How a cached clip becomes tensors (facts 1.4-1.7, 4)."""

    max_frames: int = Field(12, ge=1, description="frames, chosen as `frame_choice` says")
    frame_choice: FrameChoice = added(
        "spread",
        "spread: from the first frame to the last, evenly (of one frame: the first); middle: the "
        "middle of each of max_frames equal parts (of one frame: the middle one)",
    )
    max_segments: int = Field(
        10, ge=1, description="segments of a clip's sound; central ones are kept"
    )
    segment_steps: int = added(
        IMAGE_SIZE, "steps of the log-mel in a segment: 1.792 s at a hop of 8 ms", ge=1
    )
    max_words: int = Field(32, ge=3, le=77, description="tokens with start and end")
    extra_word: bool = added(
        False,
        "captioning: max_words tokens are read, predicted and, at most, written, so that a caption "
        "has one more word (released, facts 8.2); else one fewer of each",
    )
    extra_segment: bool = Field(
        False, description="one all-padding segment when T is a multiple of 224 (released, D5)"
    )
    pad_value: Literal["zero", "min"] = Field(
        "zero",
        description="value of padding rows: 0 (released), a loud one, or the clip's minimum (D6)",
    )
    standardisation: Literal["segment", "clip", "fixed"] = added(
        "segment",
        "log-mel to about mean 0 and deviation 1: by each segment and channel (released), by each "
        "whole clip and channel, or by log_mel_mean and log_mel_std (D4)",
    )
    log_mel_mean: float | None = added(None, "fixed: subtracted; in the log-mel's own unit")
    log_mel_std: float | None = added(None, "fixed: divided by, after the mean; above 0")
    train_frames: int | None = added(
        None,
        "training: so many frames of a clip, drawn anew in each epoch from all that the cache has; "
        "null: those of evaluation",
        ge=1,
    )
    train_crop: bool = added(
        False,
        "training: of a clip with more than max_segments segments, a window drawn anew in each "
        "epoch; false: the central segments, as in evaluation",
    )

    def without_draws(self) -> "Inputs":
        """Return the inputs of evaluation, for which nothing is drawn."""
        return self.model_copy(update={"train_frames": None, "train_crop": False})

    @property
    def of_frames(self) -> dict[str, Any]:
        """Return the settings that frames depend on, by which their cached vectors are known."""
        settings = self.scientific()
        return {name: settings[name] for name in ("max_frames", "frame_choice") if name in settings}

    @property
    def caption_tokens(self) -> int:
        """Return the number of tokens of a caption with start and end."""
        return self.max_words + self.extra_word

    @property
    def caption_steps(self) -> int:
        """Return the number of tokens that the captioner reads (and predicts): one fewer."""
        return self.caption_tokens - 1

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        refuse_unread(self, "standardisation", {"fixed": ("log_mel_mean", "log_mel_std")})
        if self.standardisation == "fixed":
            if self.log_mel_mean is None or self.log_mel_std is None:
                raise ValueError(
                    "standardisation: fixed needs log_mel_mean and log_mel_std. Fix: set both"
                )
            if self.log_mel_std <= 0:
                raise ValueError(f"log_mel_std is {self.log_mel_std:g}. Fix: set it above 0")
        return self


class Masking(Section):
    """Spectrogram masking for the intra-modal loss (facts 2, D7)."""

    mode: Literal["released", "paper"] = Field(
        "released", description="fixed count of random widths, or random starts of fixed width"
    )
    frequency: float = Field(0.05, ge=0, le=1, description="share of mel bands that start a mask")
    time: float = Field(0.15, ge=0, le=1, description="share of time steps that start a mask")
    width: int = Field(10, ge=1, description="released: width in 0..width-1; paper: exactly width")


class Freeze(Section):
    """Frozen parameters, in addition to those of the stage (facts 3.4)."""

    layer_num: int | None = Field(
        None,
        ge=0,
        description="CLIP4Clip's rule: CLIP trains only from this block on, and ln_final, "
        "text_projection and vision.proj; null: all of it",
    )
    prefixes: list[str] = Field(
        [], description="beginnings of parameter names, such as audio. or text.token_embedding"
    )


class Augment(Section):
    """Augmentation of training clips, as in CAV-MAE's loader. Each switch draws on its own.

    All but `mixup`, which mixes frames too, change sounds alone.
    """

    mixup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the clips that are mixed with another one, drawn from all: sound "
        "(needs cache.waveform), frames and targets",
    )
    frequency_mask: int = Field(
        0, ge=0, description="bands of the log-mel under one mask: less than so many (48)"
    )
    time_mask: int = Field(
        0, ge=0, description="steps of the log-mel under one mask: less than so many (192)"
    )
    noise: bool = Field(
        False, description="uniform noise on the log-mel, up to a tenth of its standard deviation"
    )
    roll: bool = Field(False, description="roll the log-mel along time by any number of steps")

    @model_validator(mode="after")
    def _masks_something(self) -> Self:
        for name in ("frequency_mask", "time_mask"):
            if getattr(self, name) == 1:
                raise ValueError(f"{name}: 1 masks less than one. Fix: set 2 or more, or 0")
        return self


class Optimiser(Section):
    """Updates and their schedule (facts 6.4 to 6.6). Default: AdamW, fp32 master weights."""

    kind: Literal["adamw", "bert_adam"] = added(
        "adamw",
        "adamw; or the released BertAdam: no bias correction, each tensor's gradient clipped too, "
        "LayerNorm gains decayed (bert_adam, facts 6.5)",
    )
    precision: Literal["full", "half_weights"] = added(
        "full",
        "full: fp32 weights and moments. half_weights: a STUDY of the released fp16 towers (facts "
        "6.6); its numbers are labelled and must not be mixed with others; bert_adam only",
    )
    lr: float = Field(1e-6, gt=0, description="peak, pretrained towers")
    head_lr: float = Field(5e-4, gt=0, description="peak, randomly initialised modules")
    weight_decay: float = Field(0.2, ge=0, description="decoupled")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(0.98, ge=0, lt=1, description="decay of the second moment")
    eps: float = Field(1e-6, gt=0, description="added to the root of the second moment")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    schedule: Literal["cosine", "step"] = added(
        "cosine",
        "of the rate after the warm-up: cosine, to 0 at the end; step: constant for `step_from` "
        "epochs, then half of the epoch before's in each epoch",
    )
    step_from: int | None = added(None, "step: epochs at the peak rate, such as 5")
    grad_clip: float = Field(
        1.0, gt=0, description="largest norm of all gradients; bert_adam: of each tensor's too"
    )
    ema: float | None = added(
        None,
        "decay of a moving average of the weights, such as 0.999; the average is validated, "
        "selected and published; null: none",
    )
    average_epochs: tuple[int, int] | None = added(
        None,
        "[first, last]: the plain mean of the weights at the ends of these epochs, counted from 1, "
        "is validated and published; null: none",
    )
    epochs: int = Field(5, ge=1, description="passes over the training clips")
    batch_size: int = Field(
        128,
        ge=2,
        description="clips per step, over all ranks; fewer if an epoch has fewer (reported)",
    )
    microbatch: int | None = runtime(
        None,
        ge=1,
        description="clips on the device at once, on each rank; the contrastive loss is still over "
        "the whole batch (gradient caching: each clip is encoded twice); null: all",
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema:g}: a decay lies between 0 and 1. Fix: set one")
        self._check_schedule()
        if self.average_epochs is not None:
            self._check_average(*self.average_epochs)
        if self.precision == "half_weights":
            if self.kind != "bert_adam":
                raise ValueError(
                    "precision: half_weights studies the released code. Fix: set kind: bert_adam"
                )
            if self.ema is not None:
                raise ValueError("ema: an average in float16 would not change. Fix: remove it")
        return self

    def _check_schedule(self) -> None:
        refuse_unread(self, "schedule", {"step": ("step_from",)})
        if self.schedule == "step" and (self.step_from is None or self.step_from < 1):
            raise ValueError(
                "schedule: step needs step_from, the number of epochs at the peak rate. Fix: set "
                "it to 1 or more"
            )

    def _check_average(self, first: int, last: int) -> None:
        if not 1 <= first <= last <= self.epochs:
            raise ValueError(
                f"average_epochs: [{first}, {last}] is no range of epochs 1 to {self.epochs}. "
                "Fix: correct it"
            )
        if self.ema is not None:
            raise ValueError(
                "average_epochs and ema are two averages of the weights. Fix: remove one"
            )


class Decoding(Section):
    """Caption decoding (facts 8.3). The default is greedy: the likeliest next token."""

    RETIRED: ClassVar[dict[str, Any]] = {"no_repeat_ngram": 0, "temperature": 1.0, "top_p": 1.0}

    method: Literal["greedy", "beam"] = Field("greedy", description="likeliest token; beam search")
    beams: int = Field(5, ge=1, le=1000, description="beam: hypotheses kept per clip")
    length_penalty: float = Field(
        0.0, ge=0, description="beam: score = sum of log-probabilities / length ** this"
    )
    stopping: Stopping = Field(
        "frozen",
        description="beam: finished hypotheses keep their score, or grow on (released)",
    )
    positions: Positions = Field(
        "fixed",
        description="vision and audio: positions as in training, or after the words (released)",
    )
    cache: bool = Field(True, description="keep keys and values of earlier words; fixed only")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.positions == "sliding" and self.cache:
            raise ValueError("positions: sliding cannot be cached. Fix: set cache: false")
        refuse_unread(self, "method", {"beam": ("beams", "length_penalty", "stopping")})
        return self
