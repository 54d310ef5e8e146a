"""The recorded loss curves of tiny runs: 20 steps each, float32, on the CPU.

    python tests/training/golden_curves.py --reason "what changed and why that is right"

writes golden/loss_tiny.json anew, with the reason behind those before it. Without a change of the
curves nothing is written.
"""

import argparse
import json
import sys
import tempfile
from datetime import date
from pathlib import Path

FILE = Path(__file__).parent / "golden" / "loss_tiny.json"
STEPS = 20
# CPUs with other instructions sum float32 in another order. SSE instead of AVX (ATEN_CPU_CAPABILITY,
# MKL_ENABLE_INSTRUCTIONS, ONEDNN_MAX_CPU_ISA) moved these losses by 5e-6 (pre-training) and 6e-7
# (retrieval) of their size at most, so 1e-4 is wide enough for another machine; equality would not
# be. A skipped update, another learning rate or another order of clips moves them by far more.
TOLERANCE = 1e-4


def runs():
    """One run of every kind of loss; the rates are small enough not to amplify rounding."""
    from tiny_world import finetune, optimiser, pretrain

    from clip4vla.models.clip4vla.objective import Objective

    def given(batch_size, steps_an_epoch):
        epochs = -(-STEPS // steps_an_epoch)
        return optimiser(lr=1e-4, head_lr=1e-3, epochs=epochs, batch_size=batch_size)

    tuned = {"val": None, "selection": "last", "missing_audio": "none", "optimiser": given(3, 6)}
    return {
        "pretrain": pretrain(trainable="all", optimiser=given(4, 3)),
        "retrieval": finetune(objective=Objective(symmetric=False, scale=10.0), **tuned),
        "captioning": finetune("captioning", **tuned),
    }


def curves(folder: Path) -> dict[str, list[float]]:
    """The losses of the first 20 steps of each run."""
    import torch
    from tiny_world import build_world

    from clip4vla.training.train import train

    torch.set_num_threads(1)
    manifests, found = build_world(folder / "world"), {}
    for name, run in runs().items():
        train(run, manifests, None, {}, None, folder / name / "state", folder / name / "out")
        lines = (folder / name / "out" / "metrics.jsonl").read_text().splitlines()
        found[name] = [json.loads(line)["train/loss"] for line in lines][:STEPS]
        assert len(found[name]) == STEPS
    return found


def differences(found: dict, golden: dict) -> dict[str, float]:
    """The largest relative difference of each curve."""
    return {
        name: max(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(found[name], curve, strict=True))
        for name, curve in golden.items()
    }


def main() -> None:
    """Refresh the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reason", help="what changed, and why the new curves are right")
    parser.add_argument("--noise", action="store_true", help="only print how far they are off here")
    options = parser.parse_args()
    import torch

    old = json.loads(FILE.read_text()) if FILE.exists() else {"curves": {}, "reasons": []}
    with tempfile.TemporaryDirectory() as folder:
        found = curves(Path(folder))
    if options.noise:
        print(json.dumps(differences(found, old["curves"])))
        return
    if found == old["curves"]:
        print(f"{FILE.name}: the curves are as recorded; nothing written")
        return
    if not options.reason or len(options.reason.split()) < 3:
        sys.exit("the curves differ: say --reason, what changed and why the new ones are right")
    old["reasons"].append(
        {"date": date.today().isoformat(), "torch": torch.__version__, "reason": options.reason}
    )
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({**old, "curves": found}, indent=1) + "\n")
    print(f"{FILE.name}: written")


if __name__ == "__main__":
    main()
