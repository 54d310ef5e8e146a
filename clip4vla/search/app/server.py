"""The server of `clip4vla app`: a page, searches as JSON, and the media of windows by row."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi import Query as InAddress
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from clip4vla.common.errors import FIXABLE, UserError, describe_os_error
from clip4vla.search.app.about import about, described
from clip4vla.search.app.files import Unavailable
from clip4vla.search.app.guard import Guard
from clip4vla.search.app.site import Site
from clip4vla.search.query import Hit, Query

HERE = Path(__file__).parent
PAGE = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
LONGEST = 1000  # characters of a query; the models read the first 32 words or so
MOST = 120  # results
READ = ["GET", "HEAD"]
KEPT = {"Cache-Control": "private, max-age=3600"}  # a window's pictures stay as they are

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Asked(BaseModel):
    """A part of a query, how results are weighted, and how many are wanted."""

    model_config = ConfigDict(extra="forbid")

    words: str = ""
    sound_weight: Share | None = None
    nonverbal_share: Share | None = None
    top: Annotated[int, Field(ge=1, le=MOST)] = 12

    @property
    def text(self) -> str | None:
        """Return the words on one line, or None. UserError for more than a model can read."""
        if len(self.words) > LONGEST:
            raise UserError(
                f"search: {len(self.words):,} characters, of which a model reads a sentence or "
                f"two. Fix: shorten them to {LONGEST:,} or fewer"
            )
        return " ".join(self.words.split()) or None


class Search(Asked):
    """A search by words, by a window of the index, or by both."""

    like: int | None = None


class Upload(Asked):
    """A search by a file, the body of the request. name: for messages."""

    name: str = ""


def make_app(site: Site, hosts: Sequence[str] = ()) -> FastAPI:
    """Return the web application. hosts: names, beside this machine's own, that it answers to."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, hosts=hosts)
    for kind, answer in ANSWERS.items():
        app.add_exception_handler(kind, answer)
    _add_page(app)
    _add_searches(app, site)
    _add_windows(app, site)
    return app


def _add_page(app: FastAPI) -> None:
    def served(path: Path) -> Any:
        return lambda: FileResponse(path, headers={"Cache-Control": "no-cache"})

    for address, name in PAGE.items():
        app.add_api_route(address, served(HERE / name), methods=READ)


def _add_searches(app: FastAPI, site: Site) -> None:
    @app.api_route("/api/about", methods=READ)
    def read_about() -> dict[str, Any]:
        return about(site.index)

    @app.post("/api/search")
    async def search(request: Request, asked: Search) -> dict[str, Any]:
        began = time.monotonic()
        if asked.like is not None:
            await site.window(asked.like)  # refuses unknown ones
        elif asked.text is None:
            raise UserError("search: no words. Fix: type some, or choose a file")
        query = Query(
            text=asked.text,
            like=asked.like,
            sound_weight=asked.sound_weight,
            nonverbal_share=asked.nonverbal_share,
        )
        return _found(await site.search(query, asked.top, request.is_disconnected), began)

    @app.post("/api/search/file")
    async def search_file(
        request: Request, asked: Annotated[Upload, InAddress()]
    ) -> dict[str, Any]:
        began = time.monotonic()
        name = Path(asked.name).name[:100] or "your file"
        async with site.uploaded(request.stream(), name) as (kind, path):
            query = Query(
                text=asked.text,
                audio=path if kind == "audio" else None,
                image=path if kind == "image" else None,
                video=path if kind == "video" else None,
                sound_weight=asked.sound_weight,
                nonverbal_share=asked.nonverbal_share,
            )
            hits = await site.search(query, asked.top, request.is_disconnected)
        return _found(hits, began)


def _add_windows(app: FastAPI, site: Site) -> None:
    @app.api_route("/api/windows/{row}", methods=READ)
    async def window(row: int) -> dict[str, Any]:
        return described(await site.window(row))

    @app.api_route("/api/windows/{row}/play", methods=READ)
    async def play(row: int, converted: bool = False) -> dict[str, Any]:
        window = await site.window(row)
        if not converted and await site.played_type(row) is not None:
            address, begin = f"/windows/{row}/file", window.start
        else:
            await site.clip(row)
            address, begin, converted = f"/windows/{row}/clip.mp4", 0.0, True
        seconds = window.end - window.start
        return {"url": address, "from": begin, "to": begin + seconds, "converted": converted}

    @app.api_route("/windows/{row}/file", methods=READ)
    async def file(row: int) -> FileResponse:
        media_type = await site.played_type(row)
        if media_type is None:
            raise UserError(f"window {row}: not a format of browsers. Fix: ask for clip.mp4")
        return FileResponse(await site.file(row), media_type=media_type)

    @app.api_route("/windows/{row}/clip.mp4", methods=READ)
    async def clip(row: int) -> FileResponse:
        return FileResponse(await site.clip(row), media_type="video/mp4")

    @app.api_route("/windows/{row}/thumbnail.jpg", methods=READ)
    async def thumbnail(row: int) -> Response:
        window = await site.window(row)
        return Response(window.thumbnail, media_type="image/jpeg", headers=KEPT)

    @app.api_route("/windows/{row}/picture.jpg", methods=READ)
    async def picture(row: int) -> Response:
        return Response(await site.picture(row), media_type="image/jpeg", headers=KEPT)

    @app.api_route("/windows/{row}/spectrogram.png", methods=READ)
    async def spectrogram(row: int) -> Response:
        return Response(await site.spectrogram(row), media_type="image/png", headers=KEPT)


def _found(hits: Sequence[Hit], began: float) -> dict[str, Any]:
    shown = [
        described(hit.window)
        | {"score": hit.score, "picture": hit.picture, "sound": hit.sound}
        | ({"pair": hit.score} if hit.rescored else {})
        for hit in hits
    ]
    return {"hits": shown, "seconds": time.monotonic() - began}


def _refused(request: Request, error: Exception) -> JSONResponse:
    code = error.code if isinstance(error, Unavailable) else 400
    return JSONResponse({"error": " ".join(str(error).split())}, status_code=code)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(part for part in first["loc"][1:] if isinstance(part, str))
    if not place:
        place, problem = "request", "its body is not a JSON object"
    elif first["type"] == "extra_forbidden":
        problem = "not known to this server"
    else:
        must = first["msg"].replace("Input should", "it should")
        problem = f"{str(first['input'])[:40]!r} is not valid: {must}"
    return JSONResponse({"error": f"{place}: {problem}. Fix: reload the page"}, status_code=422)


def _unknown(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    problem = {
        404: "no such address",
        405: f"this address answers no {request.method} requests",
    }.get(error.status_code, error.detail)
    message = f"{request.url.path[:100]}: {problem}. Fix: open / for the page"
    return JSONResponse({"error": message}, status_code=error.status_code)


def _full(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    if error.errno not in FIXABLE:
        raise error
    return JSONResponse({"error": describe_os_error(error)}, status_code=507)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    message = "server: an unexpected error. Fix: see the terminal of `clip4vla app`"
    return JSONResponse({"error": message}, status_code=500)


ANSWERS = {
    UserError: _refused,
    RequestValidationError: _invalid,
    HTTPException: _unknown,
    OSError: _full,
    Exception: _unexpected,
}
