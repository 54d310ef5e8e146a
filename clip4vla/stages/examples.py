"""Pages of examples and donors: where their clips play from, and pages written again by hand."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clip4vla.common.errors import UserError
from clip4vla.common.log import log
from clip4vla.common.progress import track
from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.config.run import Evaluate, Substitute

if TYPE_CHECKING:
    from clip4vla.pages.media import Addresses

PAGES = Path("results/preview/examples")
NEEDED = {
    "evaluate": ("metrics.json", "predictions.parquet"),
    "substitute": ("substitute.json", "substitution.tsv"),
}
TALLEST, SOUND_BITS = 180, 64_000  # of a preview: pixels, bits a second
SECONDS = 120.0  # for one preview


def local_media(version: str, folder: Path) -> "Addresses":
    """Return the addresses of a dataset version's files, for pages in a folder."""
    from clip4vla.pages.media import beside, files_of

    return beside(files_of(Path(layout.data_dir(version), "ledger.parquet")), folder)


def write_page(
    plan: Plan, named: str, against: str | None, previews: bool, out: Path | None
) -> Path:
    """Write the examples or donors of a run again, or two evaluations side by side.

    named, against: their keys or rows (`Plan.key_of`). previews: whether the page contains small
    films, kept with the cache, in place of links to the files of this machine. The page of the run
    itself is unchanged: its record names its sha256.
    """
    from clip4vla.cache.clips import ClipCache
    from clip4vla.pages.donors import write_donors
    from clip4vla.pages.examples import write_examples
    from clip4vla.pages.media import files_of, inside
    from clip4vla.pages.pair import read_evaluated, write_pair

    key = plan.key_of(named)
    against = against and plan.key_of(against)
    run = _ended(plan, key)
    other = None if against is None else _ended(plan, against)
    if other is not None and not (isinstance(run, Evaluate) and isinstance(other, Evaluate)):
        raise UserError(f"{key}, {against}: not two evaluations. Fix: see `clip4vla runs ls`")
    page = out or PAGES / f"{'-'.join(filter(None, (key, against)))}.html"
    data = run.test if isinstance(run, Evaluate) else run.donors
    cache = ClipCache(layout.manifest(data.dataset, data.cache_id))
    folder = Path(layout.result_dir(key))
    if against is not None:
        names = plan.names()
        pair = [
            read_evaluated(Path(layout.result_dir(one)), f"{names[one]} ({one})")
            for one in (key, against)
        ]
        write = partial(write_pair, cache, pair[0], pair[1], page)
    elif isinstance(run, Evaluate):
        write = partial(write_examples, cache, folder, page)
    else:
        write = partial(write_donors, cache, folder, page)
    shown = write(address=local_media(data.dataset, page.parent))
    if previews:
        files = files_of(Path(layout.data_dir(data.dataset), "ledger.parquet"))
        kept = Path(layout.cache_dir(data.dataset, data.cache_id), "previews")
        write(
            address=inside(_previews({name: files[name] for name in shown if name in files}, kept))
        )
    return page


def _ended(plan: Plan, key: str) -> Evaluate | Substitute:
    """Return a run that has a page, and has ended."""
    run = plan.run(key)
    if not isinstance(run, Evaluate | Substitute):
        raise UserError(
            f"run {key}: its stage is {run.stage}, which has no page. Fix: choose an evaluation or "
            "a substitution (`clip4vla runs ls` names them)"
        )
    for name in NEEDED[run.stage]:
        path = Path(layout.result_dir(key), name)
        if not path.is_file():
            raise UserError(f"{path}: no such file. Fix: {layout.remake(path)}")
    return run


def _previews(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Return a small film of each clip, made where the folder lacks it, without those that fail."""
    from clip4vla.common.files import sha256_of
    from clip4vla.media.decode import DecodeError
    from clip4vla.media.isolated import Crashed, Isolated
    from clip4vla.search.app.clip import write_clip

    films: dict[str, Path] = {}
    for clip_id, path in track(files.items(), "previews", total=len(files)):
        film = folder / f"{sha256_of(clip_id)[:32]}.mp4"
        if not film.is_file() and path.is_file():
            make = partial(
                write_clip, start=0.0, end=600.0, out=film, tallest=TALLEST, sound_bits=SOUND_BITS
            )
            try:
                with Isolated(make) as child:
                    child(path, SECONDS)
            except (DecodeError, Crashed) as error:
                log.warning(f"clip {clip_id}: no preview: {error}")
        if film.is_file():
            films[clip_id] = film
    return films
