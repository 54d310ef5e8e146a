"""Batches smaller than `optimiser.batch_size`, because an epoch has fewer samples.

A contrastive loss depends on the size of its batch, so the log, train.json, the weights and every
table report the size that was used.
"""

from clip4vla.common.log import log
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.training.loop import Batches

KEY = "small_batches"  # stage -> {"asked": batch_size, "used": samples of a step}


def small_batches(run: Pretrain | Finetune, batches: Batches, initial_metadata: dict) -> dict:
    """Return the stages of a model, earlier ones included, with smaller batches, as its label.

    initial_metadata: of the weights that the run was initialised from.
    """
    stages = dict(initial_metadata.get(KEY) or {})
    batch_size = run.optimiser.batch_size
    if batches.size < batch_size:
        stages[_stage(run)] = {"asked": batch_size, "used": batches.size}
    return {KEY: stages} if stages else {}


def log_batches(run: Pretrain | Finetune, batches: Batches) -> None:
    """Log the steps of an epoch, and a warning if its batches are smaller than configured."""
    dropped = batches.samples - batches.steps * batches.size
    log.info(
        f"{batches.samples} samples an epoch: {batches.steps} steps of {batches.size}, "
        f"{dropped} left out of each epoch"
    )
    batch_size = run.optimiser.batch_size
    if batches.size < batch_size:
        contrasts = isinstance(run, Pretrain) or run.task == "retrieval"
        log.warning(
            f"optimiser.batch_size is {batch_size}, but there are only {batches.samples} samples: "
            f"every step has {batches.size}"
            + (", so each sample is contrasted with fewer others" if contrasts else "")
            + ". Fix: lower optimiser.batch_size, or look for missing clips in coverage.csv"
        )


def _stage(run: Pretrain | Finetune) -> str:
    """Return `finetune`, `pretrain`, or `second_stage` for one that continues a pre-training."""
    continues = isinstance(run, Pretrain) and run.start is not None
    return "second_stage" if continues else run.stage
