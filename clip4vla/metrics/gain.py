"""Per-query gain from a clip's own audio."""

import numpy as np
import pandas as pd

from clip4vla.config.metrics import Metric

EXAMPLES = 10  # queries listed for gain, and for loss


def gain_of(own: pd.Series, other: pd.Series, score: Metric) -> pd.Series:
    """Return how much better each query does with the clip's own audio; queries that both have."""
    own, other = own.align(other, join="inner")
    return other - own if score.lower_is_better else own - other


def gain_metrics(gain: pd.Series, measure: str) -> dict[str, float]:
    """Return the mean gain, and the shares of queries in percent that own audio helps or hurts.

    `measure`: such as `t2v_rank`, which gives t2v_rank_gain, t2v_rank_helped and t2v_rank_hurt.
    """
    return {
        f"{measure}_gain": float(gain.mean()),
        f"{measure}_helped": 100.0 * float((gain > 0).mean()),
        f"{measure}_hurt": 100.0 * float((gain < 0).mean()),
    }


def confusion(own: pd.Series, other: pd.Series) -> float:
    """Return the share of queries, in percent, that are right under a variant alone.

    own, other: whether each query is right; queries that both have count. With sound or picture
    taken away by the variant, it is the modality confusion of VGGSounder.
    """
    own, other = own.align(other, join="inner")
    return 100.0 * float((other & ~own).mean())


def gain_examples(gain: pd.Series) -> dict[str, list]:
    """Return the queries with the largest gain and loss, largest first; ties keep their order."""
    values, index = gain.to_numpy(), gain.index.to_numpy()
    order = np.argsort(-values, kind="stable")
    helped = [index[i].item() if hasattr(index[i], "item") else index[i] for i in order]
    gains = values[order]
    return {
        "helped": [q for q, value in zip(helped, gains, strict=True) if value > 0][:EXAMPLES],
        "hurt": [q for q, value in zip(helped[::-1], gains[::-1], strict=True) if value < 0][
            :EXAMPLES
        ],
    }
