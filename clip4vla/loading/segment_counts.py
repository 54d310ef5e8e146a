"""Numbers of segments of a clip's log-mel, without torch: `clip4vla plan` needs them."""

from clip4vla.config.sections import Inputs


def segment_count(steps: int, inputs: Inputs) -> int:
    """Return the segments of T = `steps` frames: ceil(T / 224), or floor(T / 224) + 1 (D5).

    224 stands for `inputs.segment_steps`.
    """
    length = inputs.segment_steps
    return steps // length + 1 if inputs.extra_segment else -(-steps // length)


def kept_segments(steps: int, inputs: Inputs) -> int:
    """Return S, the number of segments that `split` gives for T = `steps` frames."""
    return min(segment_count(steps, inputs), inputs.max_segments)
