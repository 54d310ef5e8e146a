"""Labels of clips in tables of splits: a list for each clip.

Tables that older versions planned have one text for each clip, `label`, "" for none. They are read
as they are, and frozen or planned again in their own form, so that a dataset version keeps its
bytes.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

OLDER = {"labels": "label"}  # column -> its name in tables of older versions


def label_column(splits: "pd.DataFrame") -> str:
    """Return the name of the column of labels in a table of splits."""
    return "label" if "label" in splits.columns else "labels"


def with_labels(splits: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table of splits whose column `labels` holds a tuple of texts for each row."""
    import pandas as pd

    if label_column(splits) == "labels":
        labels = [tuple(labels) for labels in splits["labels"]]
    else:
        labels = [(label,) if label else () for label in splits["label"].fillna("")]
    kept = splits.drop(columns=label_column(splits))
    return kept.assign(labels=pd.Series(labels, index=splits.index, dtype=object))
