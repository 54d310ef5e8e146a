"""What the page can ask of an index: searches, and the media of its windows."""

import asyncio
import contextlib
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.common.errors import UserError
from clip4vla.search.app.clip import write_clip
from clip4vla.search.app.files import Unavailable, checked_file, isolated
from clip4vla.search.app.formats import FileKind, kind_of, played_type
from clip4vla.search.app.images import spectrogram, still
from clip4vla.search.index import Index, Window
from clip4vla.search.query import Hit, Query, find

WAITING = 8  # searches that may wait for the model; more are refused
DECODERS = 2  # processes that decode at once
CLIPS = 64  # converted windows that are kept, a few MB each
MOST_ROWS = 1 << 53  # numbers that JavaScript keeps exactly
MOST_BYTES = 200_000_000  # of an upload

T = TypeVar("T")


class Site:
    """An index behind a page. Searches use the model one after another, in the order they came.

    folder: for uploads and converted windows, emptied by the caller in the end.
    """

    def __init__(self, index: Index, folder: Path):
        self.index, self.folder = index, folder
        self._front_end = LogMelFrontend(index.embedder.settings.cache.log_mel)
        self._model = asyncio.Lock()
        self._searches = 0  # running or waiting
        self._decoders = CapacityLimiter(DECODERS)
        self._clips: OrderedDict[int, Path] = OrderedDict()

    async def window(self, row: int) -> Window:
        """Return a window. Raises Unavailable for a row that the index does not have."""
        known = 0 <= row < MOST_ROWS
        windows = await to_thread.run_sync(self.index.windows, [row]) if known else []
        if not windows:
            raise Unavailable(f"window {row}: not in this index. Fix: search again", code=404)
        return windows[0]

    async def search(
        self, query: Query, top: int, given_up: Callable[[], Awaitable[bool]]
    ) -> list[Hit]:
        """Return the windows that fit best. Raises UserError for a query that has no answer.

        given_up: whether nobody waits for the answer any more, such as while a slider is moved.
        """
        if self._searches > WAITING:
            raise Unavailable(
                "search: too many searches at once. Fix: try again in a moment", code=503
            )
        self._searches += 1
        try:
            async with self._model:
                if await given_up():
                    raise Unavailable("search: given up. Fix: search again", code=499)
                return await to_thread.run_sync(partial(find, self.index, query, top=top))
        finally:
            self._searches -= 1

    @contextlib.asynccontextmanager
    async def uploaded(
        self, chunks: AsyncIterator[bytes], name: str
    ) -> AsyncIterator[tuple[FileKind, Path]]:
        """Yield the kind of an upload and a temporary file of it, which is removed in the end.

        Raises Unavailable beyond MOST_BYTES, and UserError for what is no sound, picture or video.
        Errors say `name`, not the temporary file.
        """
        with tempfile.NamedTemporaryFile(prefix="upload-", dir=self.folder) as stream:
            size = 0
            async for chunk in chunks:
                size += len(chunk)
                if size > MOST_BYTES:
                    most = f"{MOST_BYTES // 1_000_000} MB"
                    raise Unavailable(
                        f"{name}: larger than {most}. Fix: cut out the part that matters", code=413
                    )
                stream.write(chunk)
            if size == 0:
                raise UserError(f"{name}: empty. Fix: choose another file")
            stream.flush()
            path = Path(stream.name)
            try:
                yield await self._isolated(kind_of, path, name), path
            except Unavailable:
                raise
            except UserError as error:  # also of the search by it
                raise UserError(str(error).replace(str(path), name)) from None

    async def file(self, row: int) -> Path:
        """Return the real path of a window's file, checked."""
        return await to_thread.run_sync(self._file, await self.window(row))

    async def played_type(self, row: int) -> str | None:
        """Return the media type of a window's file if browsers play it as it is, or None."""
        return await self._isolated(played_type, await self.file(row))

    async def picture(self, row: int) -> bytes:
        """Return a JPEG from the middle of a window."""
        window = await self.window(row)
        draw = partial(still, start=window.start, end=window.end)
        return await self._isolated(draw, await self.file(row))

    async def spectrogram(self, row: int) -> bytes:
        """Return a PNG of what the model hears of a window."""
        window = await self.window(row)
        draw = partial(spectrogram, start=window.start, end=window.end, front_end=self._front_end)
        return await self._isolated(draw, await self.file(row))

    async def clip(self, row: int) -> Path:
        """Return a window as an mp4 that every browser plays; the last CLIPS ones are kept."""
        window, path = await self.window(row), await self.file(row)
        out = self.folder / f"{row}.mp4"
        if not out.is_file():
            write = partial(write_clip, start=window.start, end=window.end, out=out)
            await self._isolated(write, path)
        self._clips[row] = out
        self._clips.move_to_end(row)
        while len(self._clips) > CLIPS:
            self._clips.popitem(last=False)[1].unlink(missing_ok=True)
        return out

    async def _isolated(self, decode: Callable[[Path], T], path: Path, name: str = "") -> T:
        return await to_thread.run_sync(
            isolated, decode, path, name or path.name, limiter=self._decoders
        )

    def _file(self, window: Window) -> Path:
        return checked_file(self.index.media, window.path, self.index.stamp_of(window))
