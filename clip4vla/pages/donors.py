"""Contact sheet of a substitution: silent clips beside their audio donors."""

from pathlib import Path

import pandas as pd

from clip4vla.cache.clips import ClipCache
from clip4vla.common.files import read_json, write_text
from clip4vla.common.html import render
from clip4vla.pages.media import Addresses, nowhere
from clip4vla.pages.sampling import choose, counts
from clip4vla.pages.thumbnails import LEGEND, Thumbnails

FOUND_BY = {
    "vision": "The neighbour is found by the mean over all frames.",
    "text": "The neighbour is the clip whose longest caption is nearest to the silent clip's own: "
    "of a test clip that is what it is scored by.",
}


def write_donors(
    cache: ClipCache, folder: Path, out: Path | None = None, address: Addresses = nowhere
) -> list[str]:
    """Write folder/donors.html, or `out`, from substitution.tsv and substitute.json.

    The page shows the nearest and the farthest pairs. Silent clips and donors are of one dataset
    version, that of `cache`. address: where each clip is played from. Returns the ids of the clips
    that the page shows.
    """
    summary = read_json(folder / "substitute.json")
    pairs = pd.read_csv(folder / "substitution.tsv", sep="\t", dtype={"clip_id": str, "donor": str})
    thumbnails = Thumbnails(cache, address)
    chosen = choose(pairs.cosine.to_numpy(dtype=float), names=("nearest", "farthest"))
    shown = []
    for position, groups in chosen.items():
        pair = pairs.iloc[position]
        clips = {"silent": thumbnails.of(pair.clip_id), "donor": thumbnails.of(pair.donor)}
        shown.append({"groups": groups, "numbers": {"cosine": pair.cosine}, **clips})
    splits = ", ".join(f"{split} {count}" for split, count in sorted(summary["queries"].items()))
    facts = [
        f"Run {summary['run_key']}: {summary['silent']} silent clips ({splits}; one of two "
        f"splits counts in both) and their nearest {summary['neighbours']} neighbours among "
        f"{summary['donors']} clips with sound of {summary['donors_dataset']}, split "
        f"{summary['donors_split']}. "
        f"{summary['donors_used']} of them lend their sound.",
        _spread(pairs.cosine),
        f"{LEGEND} {FOUND_BY[summary['neighbours']]}",
    ]
    html = render(
        "pages/donors.html",
        title="Silent clips and their donors",
        facts=facts,
        cards=shown,
        groups=counts(chosen),
        orders={"cosine, nearest first": "cosine -1", "cosine, farthest first": "cosine 1"},
        pictures=thumbnails.css(),
        media=thumbnails.media,
    )
    write_text(out or folder / "donors.html", html)
    return list(thumbnails.classes)


def _spread(cosine: pd.Series) -> str:
    if cosine.empty:
        return "No donor was needed."
    low, middle, high = cosine.quantile([0.05, 0.5, 0.95])
    return (
        f"Cosine of silent clip and donor: {cosine.min():.3f} least, {low:.3f} at 5 %, "
        f"{middle:.3f} median, {high:.3f} at 95 %, {cosine.max():.3f} most."
    )
