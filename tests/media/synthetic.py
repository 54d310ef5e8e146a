"""Tiny generated media, and a web server that misbehaves on request."""

import contextlib
import os
import socket
import struct
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np

MPD = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT4S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
<Representation id="1" bandwidth="1000" codecs="mp4v.20" width="32" height="16">
<BaseURL>{other}</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>"""
NAMING = {  # what names another file
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{other}\n#EXT-X-ENDLIST\n",
    "dash": MPD,
    "ffconcat": "ffconcat version 1.0\nfile {other}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


def make_clip(
    path,
    seconds=1.0,
    fps=8,
    size=(32, 16),
    sound=("mono", 16000),
    amplitude=0.3,
    times=None,
    format=None,
    pictures=True,
    codecs=("mpeg4", "aac"),
    pix_fmt="yuv420p",
):
    """A clip whose picture k is gray 10 k; `sound` is (layout, rate) or None; `times` in 1/1000 s."""
    with av.open(str(path), "w", format=format) as out:
        video = audio = None
        if pictures:
            video = out.add_stream(codecs[0], rate=fps)
            video.width, video.height, video.pix_fmt = *size, pix_fmt
            video.codec_context.gop_size = 4
            if times:
                video.codec_context.time_base = Fraction(1, 1000)
        if sound:
            layout, rate = sound
            audio = out.add_stream(codecs[1], rate=rate, layout=layout)
        for number, at in enumerate(times or range(round(seconds * fps)) if video else []):
            gray = np.full((size[1], size[0], 3), min(255, 10 * number), np.uint8)
            frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000 if times else fps)
            out.mux(video.encode(frame))
        if audio:
            count = round(seconds * rate)
            channels = audio.codec_context.layout.nb_channels
            wave = amplitude * np.sin(np.arange(count) * 2 * np.pi * 440 / rate)
            samples = np.stack([wave] * channels).astype(np.float32)
            for at in range(0, count, 1024):
                block = np.ascontiguousarray(samples[:, at : at + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                frame.sample_rate, frame.pts = rate, at
                frame.time_base = Fraction(1, rate)
                out.mux(audio.encode(frame))
        for stream in (video, audio):
            if stream:
                out.mux(stream.encode(None))
    return path


class Misbehaving:
    """Answers by the first part of the path: /404/x.mp4, /500x2/x.mp4 (twice, then ok), ..."""

    def __init__(self, body: bytes):
        self.body, self.asked = body, []
        self.failures: dict[str, int] = {}
        self.busy, self.busiest = 0, 0  # requests at once
        self.retry_after: str | None = None
        self.content_type = "video/mp4"
        self.in_parts = True  # whether Range is heeded
        self.first_ok = (
            False  # whether the first request for an address is answered as it should be
        )
        self.to_ffmpeg: int | None = None  # what ffmpeg is told, whatever the path says
        self.sent = 0  # bytes of endless bodies
        self.text = b""
        self.leads_to = {
            "file": "file:///etc/hostname",
            "ftp": "ftp://127.0.0.1:9/x.mp4",
            "odd": "gopher://x/",
        }
        self.kind_of: dict[str, str] = {}  # path -> another kind than the path says

    @contextlib.contextmanager
    def serving(self):
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                site.asked.append(self.path)
                site.busy += 1
                site.busiest = max(site.busiest, site.busy)
                try:
                    self.answer(site.kind_of.get(self.path, self.path.split("/")[1]))
                finally:
                    site.busy -= 1

            def answer(self, kind):
                if site.first_ok and site.asked.count(self.path) == 1:
                    return self.send_part()
                if site.to_ffmpeg and "Icy-MetaData" in self.headers:
                    return self.fail(site.to_ffmpeg)
                if kind == "html":
                    return self.send(
                        b"<html><video src='http://127.0.0.1:9/x.mp4'></html>", "text/html"
                    )
                if kind == "playlist":
                    text = b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"
                    return self.send(text, "application/vnd.apple.mpegurl")
                if kind == "exe":
                    return self.send(site.body, "application/octet-stream", name="x.exe")
                if kind == "truncated":
                    return self.send(site.body, "video/mp4", short=len(site.body) // 2)
                if kind == "hangup":
                    self.close_connection = True
                    return None
                if kind == "reset":
                    self.head(len(site.body))
                    self.wfile.write(site.body[:100])
                    linger = struct.pack("ii", 1, 0)  # the peer gets RST, not FIN
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    os.close(self.connection.detach())
                    return None
                if kind == "redirect":
                    self.send_response(302)
                    self.send_header("Location", self.path)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if kind == "moved":
                    self.send_response(302)
                    self.send_header("Location", f"/ok/{self.path.split('/')[2]}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if kind == "longer":  # claims more than it has
                    return self.send(site.body, "video/mp4", claim=len(site.body) + 1000)
                if kind == "shorter":  # claims less than it sends
                    return self.send(site.body, "video/mp4", claim=len(site.body) - 1000)
                if kind == "empty":
                    return self.send(b"", "video/mp4")
                if kind in ("stall", "trickle"):
                    self.head(len(site.body))
                    while not site.stopping.wait(0.2):
                        self.wfile.write(site.body[:1] if kind == "trickle" else b"")
                    return None
                if kind in ("endless", "endless_page"):
                    page, block = kind == "endless_page", b"<html>" + b"x" * 65530
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html" if page else "video/mp4")
                    self.end_headers()  # without a length
                    self.wfile.write(b"" if page else site.body)
                    while not site.stopping.is_set():
                        self.wfile.write(block)
                        site.sent += len(block)
                    return None
                if kind == "vast":  # a length that no disk has
                    return self.send(site.body, "video/mp4", claim=10**15)
                if kind == "icy":
                    self.close_connection = True
                    return self.wfile.write(b"ICY 200 OK\r\nicy-metaint: 8192\r\n\r\n" + site.body)
                if kind == "headers":
                    self.send_response(200)
                    for number in range(150):
                        self.send_header(f"X-{number}", "x")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if kind in ("chunked", "badchunk"):
                    self.send_response(200)
                    self.send_header("Content-Type", "video/mp4")
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    half = site.body[: len(site.body) // 2]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
                    self.wfile.write(b"zzz\r\n" if kind == "badchunk" else b"ffff\r\nhalf")
                    self.close_connection = True
                    return None
                if kind in site.leads_to:
                    self.send_response(302)
                    self.send_header("Location", site.leads_to[kind])
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if kind == "text":
                    return self.send(site.text, site.content_type)
                if kind == "slow":
                    site.stopping.wait(0.05)
                if "x" in kind:
                    code, times = (int(part) for part in kind.split("x"))
                    site.failures[self.path] = site.failures.get(self.path, 0) + 1
                    if site.failures[self.path] <= times:
                        return self.fail(code)
                elif kind.isdigit():
                    return self.fail(int(kind))
                return self.send_part()

            def send_part(self):
                first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
                size = len(site.body)
                if not site.in_parts or not first.isdigit() or int(first) >= size:
                    return self.send(site.body, site.content_type)
                end = min(int(last), size - 1) if last else size - 1
                self.send_response(206)
                self.send_header("Content-Type", site.content_type)
                self.send_header("Content-Length", str(end + 1 - int(first)))
                self.send_header("Content-Range", f"bytes {first}-{end}/{size}")
                self.end_headers()
                self.wfile.write(site.body[int(first) : end + 1])

            def fail(self, code):
                self.send_response(code)
                if site.retry_after:
                    self.send_header("Retry-After", site.retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def head(self, size, kind="video/mp4", name=None):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(size))
                if name:
                    self.send_header("Content-Disposition", f'attachment; filename="../{name}"')
                self.end_headers()

            def send(self, body, kind, short=0, name=None, claim=None):
                self.head(len(body) if claim is None else claim, kind, name)
                self.wfile.write(body[: len(body) - short])
                self.close_connection = bool(short or claim)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        site.stopping = threading.Event()
        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            site.stopping.set()
            server.shutdown()
            server.server_close()
            thread.join()
