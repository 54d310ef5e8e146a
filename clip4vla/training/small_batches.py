"""Batches smaller than `optimiser.batch_size`, because an epoch has fewer samples.

A contrastive loss depends on the size of its batch, so the log, train.json, the weights and every
table report the size that was used.
"""

from clip4vla.config.run import Finetune, Pretrain
from clip4vla.training.loop import Batches

KEY = "small_batches"  # stage -> {"asked": batch_size, "used": samples of a step}


def small_batches(run: Pretrain | Finetune, batches: Batches, before: dict) -> dict:
    """Return the stages of a model, earlier ones included, with smaller batches, as its label.

    `before`: the metadata of the weights that the run started from.
    """
    found = dict(before.get(KEY) or {})
    asked = run.optimiser.batch_size
    if batches.size < asked:
        found[_stage(run)] = {"asked": asked, "used": batches.size}
    return {KEY: found} if found else {}


def describe(run: Pretrain | Finetune, batches: Batches) -> list[str]:
    """Return the lines for the log: the steps of an epoch, and a warning about a smaller batch."""
    left = batches.samples - batches.steps * batches.size
    lines = [
        f"{batches.samples} samples an epoch: {batches.steps} steps of {batches.size}, "
        f"{left} left out of each epoch"
    ]
    asked = run.optimiser.batch_size
    if batches.size < asked:
        contrasts = isinstance(run, Pretrain) or run.task == "retrieval"
        lines.append(
            f"clip4vla: warning: optimiser.batch_size is {asked}, but there are only "
            f"{batches.samples} samples: every step has {batches.size}"
            + (", so each sample is contrasted with fewer others" if contrasts else "")
            + ". Fix: lower optimiser.batch_size, or look for missing clips in coverage.csv"
        )
    return lines


def _stage(run: Pretrain | Finetune) -> str:
    """Return `finetune`, `pretrain`, or `second_stage` for one that continues a pre-training."""
    continues = isinstance(run, Pretrain) and run.start is not None
    return "second_stage" if continues else run.stage
