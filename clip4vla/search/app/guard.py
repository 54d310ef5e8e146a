"""Which requests the server answers: those of its own page, under a name of this machine."""

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = {  # of every response
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MOST_BYTES = 100_000  # of a query in words


class Guard:
    """Middleware that refuses foreign host names and requests that other pages make.

    A foreign page may resolve its own name to 127.0.0.1 (DNS rebinding), and then reads whatever a
    local server answers under that name. So the Host header must be an IP address, localhost, this
    machine's name, or one of `hosts`. Any port is accepted: it may be the end of an SSH tunnel.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()):
        self.app = app
        self.hosts = {name.lower() for name in ("localhost", socket.gethostname(), *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in POLICY.items():
                    headers.setdefault(name, value)
            await send(message)

        problem = self.problem(scope["path"], Headers(scope=scope))
        app = JSONResponse({"error": problem}, status_code=403) if problem else self.app
        await app(scope, receive, send_with_policy)

    def problem(self, path: str, headers: Headers) -> str:
        """Return why a request is refused, as one sentence, or ""."""
        host = headers.get("host", "")
        if not self._known(_name(host)):
            return (
                f"{host or 'a request without a host'}: not a name of this server. Fix: open the "
                "address that `clip4vla app` printed, or start it with --host and this name"
            )
        site = headers.get("sec-fetch-site", "none")
        opened = path == "/" and headers.get("sec-fetch-mode") == "navigate"  # a link to the page
        origin = headers.get("origin")
        if (site not in ("none", "same-origin") and not opened) or (
            origin is not None and urlsplit(origin).netloc != host
        ):
            return "a request of another page. Fix: use the page of `clip4vla app` itself"
        if path == "/api/search":  # is read into memory as a whole
            length = headers.get("content-length", "")
            if not re.fullmatch("[0-9]{1,9}", length) or int(length) > MOST_BYTES:
                return "search: a request of unknown or huge size. Fix: shorten the words"
        return ""

    def _known(self, name: str) -> bool:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True


def _name(host: str) -> str:
    """Return the host name or address of a Host header, without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
