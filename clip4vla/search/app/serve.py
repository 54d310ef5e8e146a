"""Start the server of `clip4vla app` on an address of this machine."""

import ipaddress
import socket
import tempfile
from pathlib import Path

import uvicorn

from clip4vla.common.device import take
from clip4vla.common.errors import UserError
from clip4vla.common.hardware import Hardware
from clip4vla.common.log import log
from clip4vla.search.app.server import make_app
from clip4vla.search.app.site import Site
from clip4vla.search.index import Index

GRACE = 2  # seconds for answers under way when the server stops


def serve(
    folder: Path,
    hardware: Hardware,
    checkpoint: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> None:
    """Serve the page of the index in a folder until Ctrl-C.

    port: 0 for any free one. Raises UserError for an address that cannot be served, and as `Index`
    does.
    """
    device, _ = take(hardware)
    with (
        _bound(host, port) as listening,
        tempfile.TemporaryDirectory(prefix="clip4vla-app-") as temporary,
    ):
        site = Site(Index(folder, checkpoint, device), Path(temporary))
        address, port = listening.getsockname()[:2]
        if not ipaddress.ip_address(address.split("%")[0]).is_loopback:
            log.warning(
                f"--host {host}: whoever reaches this machine can search this index and play its "
                "files; there is no password"
            )
        log.info(f"http://{f'[{address}]' if ':' in address else address}:{port}/  (Ctrl-C: stop)")
        config = uvicorn.Config(
            make_app(site, hosts=[host]),
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, so that a port in use is noticed before the start."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: {reason}. Fix: pass another --port (0 takes a free one) "
            "or another --host"
        ) from None
