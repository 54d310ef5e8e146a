"""A small web site on this machine that stands in for the internet in the demo.

It serves `clips/*.mp4` of this folder, `film.mp4`, ten-second clips joined into a longer film, and
the clips of the synthetic world (demo_world.py), each made when first asked for. It answers 404,
410 or 403 for the clips that `film.tsv` calls gone. To look at it by itself:

    python demo/serve.py --port 8347 --build build/demo/site
"""

import argparse
import csv
import errno
import os
import re
import sys
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av

DEMO = Path(__file__).resolve().parent
sys.path.insert(0, str(DEMO))

from demo_world import CLIPS, file_name, write_clip  # noqa: E402

from clip4vla.common.errors import UserError  # noqa: E402
from clip4vla.common.files import whole_file  # noqa: E402

PORT = 8347
FILM_CLIPS = [f"bbb_{second}" for second in range(360, 450, 10)]  # 90 s; the first has no sound
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
WORLD = {f"/world/{file_name(number)}": number for number in range(CLIPS)}
_CLIP = re.compile(r"/clips/([A-Za-z0-9_-]{1,100}\.mp4)", re.ASCII)


class DemoSite:
    """Serves the demo on 127.0.0.1 while its `with` block runs.

    `demo` holds clips/ and film.tsv; `build` gets film.mp4 and world/ (made if missing; equal clips
    give equal bytes). `port` 0 takes any free port. Raises UserError if the port is in use.
    """

    def __init__(self, build: str | Path, port: int = PORT, demo: str | Path = DEMO):
        self.demo, self.build = Path(demo), Path(build)
        self.film = self.build / "film.mp4"
        self.gone = gone_files(self.demo / "film.tsv")
        if not self.film.is_file():
            join_film([self.demo / "clips" / f"{clip}.mp4" for clip in FILM_CLIPS], self.film)
        try:
            self.server = _Server(("127.0.0.1", port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise UserError(
                f"port {port} of 127.0.0.1 cannot be taken ({os.strerror(error.errno).lower()}): "
                "stop what uses it, or choose another with --port and in the dataset's url"
            ) from None
        self.server.site = self
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "DemoSite":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def file(self, address: str) -> Path | None:
        """The file behind the path of an address, or None. Only three forms of path exist."""
        if address == "/film.mp4":
            return self.film
        if address in WORLD:
            path = self.build / address.removeprefix("/")
            if not path.is_file():
                write_clip(WORLD[address], path)
            return path
        clip = _CLIP.fullmatch(address)
        path = self.demo / "clips" / clip[1] if clip else None
        return path if path and path.is_file() and not path.is_symlink() else None


class _Server(ThreadingHTTPServer):
    """Clients that hang up, as ffmpeg does when it has its ten seconds, are nothing to report."""

    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD with byte ranges (ffmpeg needs 206 answers to cut a clip from a film)."""

    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds a silent client is kept

    def do_GET(self) -> None:
        """Answer with the file or the part of it that was asked for."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._answer(with_body=False)

    def log_message(self, *_) -> None:
        """Stay silent: the demo's own output matters."""

    def _answer(self, with_body: bool) -> None:
        address = self.path.partition("?")[0]
        site = self.server.site
        path = site.file(address)
        if address in site.gone or path is None:
            self._empty(site.gone.get(address, 404))
            return
        size = path.stat().st_size
        first, last = 0, size - 1
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        partial = asked is not None and asked[0] != "bytes=-"
        if partial:
            first, last = _part(asked[1], asked[2], size)
            if first > last:
                self._empty(416, ("Content-Range", f"bytes */{size}"))
                return
        self.send_response(206 if partial else 200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if with_body:
            self._send(path, first, last)

    def _empty(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, path: Path, first: int, last: int) -> None:
        with open(path, "rb") as stream:
            stream.seek(first)
            left = last - first + 1
            while left:
                block = stream.read(min(left, 1 << 16))
                self.wfile.write(block)
                left -= len(block)


def _part(first: str, last: str, size: int) -> tuple[int, int]:
    """First and last byte of a range; the form `-n` means the last n bytes."""
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last) if last else size - 1, size - 1)


def gone_files(table: Path) -> dict[str, int]:
    """{"/clips/x.mp4": status} of the files that film.tsv gives an http_status."""
    with open(table, encoding="utf-8", newline="") as stream:
        return {
            f"/{row['file']}": int(row["http_status"])
            for row in csv.DictReader(stream, delimiter="\t")
            if row["http_status"]
        }


def join_film(clips: list[Path], film: Path) -> None:
    """Join clips end to end without re-encoding; a clip without sound leaves a gap in the sound.

    All clips must share the codec settings of the first picture and of the first sound. Every clip
    takes its whole length of pictures, so that clip k begins at the sum of the lengths before it.
    """
    with whole_file(film) as temporary:
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(str(temporary), "w", format="mp4", options=options) as out:
            streams = _streams_like(clips, out)
            offset = Fraction(0)
            sound_until = Fraction(0)
            for clip in clips:
                with av.open(str(clip)) as source:
                    length = Fraction(source.streams.video[0].duration) * (
                        source.streams.video[0].time_base
                    )
                    for packet in source.demux():
                        if packet.dts is None:
                            continue
                        kind, base = packet.stream.type, packet.time_base
                        begins = offset + packet.pts * base
                        if kind == "audio":
                            # whole packets only, one after another: neither the lead-in nor the
                            # padded end of a clip may overlap the sound of its neighbour
                            codec = packet.stream.codec_context
                            ends = begins + Fraction(codec.frame_size, codec.sample_rate)
                            if begins < sound_until or ends > offset + length:
                                continue
                            sound_until = ends
                        packet.pts += round(offset / base)
                        packet.dts += round(offset / base)
                        packet.stream = streams[kind]
                        out.mux(packet)
                offset += length


def _streams_like(clips: list[Path], out) -> dict:
    streams = {}
    for clip in clips:
        with av.open(str(clip)) as source:
            for stream in source.streams:
                if stream.type not in streams:
                    streams[stream.type] = out.add_stream_from_template(stream)
    return streams


def main(arguments: list[str] | None = None) -> int:
    """Serve until ctrl-c."""
    parser = argparse.ArgumentParser(description="serve the demo's media on this machine")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--build", type=Path, default=Path("build/demo/site"))
    options = parser.parse_args(arguments)
    try:
        with DemoSite(options.build, options.port) as site:
            print(f"serving the demo at {site.url}; ctrl-c stops it", flush=True)
            threading.Event().wait()
    except UserError as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
