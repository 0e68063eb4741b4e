"""The folder of a report on this machine alone, and word to open pages when it was built anew."""

import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
STATE = "/state.js"
"""What an open page asks for every few seconds: a script that says which build it would get now."""


class ReportServer(ThreadingHTTPServer):
    """Serves one folder to programs of this machine."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__((HOST, port), partial(_Handler, directory=str(folder)))
        self.build = ""

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}/index.html"

    def run(self, rebuild: Callable[[], str], *, seconds: float) -> None:
        """Serve until interrupted; call `rebuild` every so often, which returns the name of what stands there now."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        waiting = threading.Event()
        try:
            while True:
                self.build = rebuild()
                waiting.wait(seconds)
        finally:
            self.shutdown()
            self.server_close()


class _Handler(SimpleHTTPRequestHandler):
    """Files of the folder and the state, to requests that name this machine; a foreign name gets nothing."""

    def parse_request(self) -> bool:
        """Refuse what does not ask for this machine by name."""
        if not super().parse_request():
            return False
        is_ours = self.headers.get("Host", "").rsplit(":", 1)[0] in (HOST, "localhost")
        if not is_ours:
            self.send_error(HTTPStatus.FORBIDDEN)
        return is_ours

    def do_GET(self) -> None:
        if self.path.split("?")[0] != STATE:
            super().do_GET()
            return
        build = self.server.build if isinstance(self.server, ReportServer) else ""
        content = f'document.documentElement.dataset.build = "{build}";\n'.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/javascript")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def list_directory(self, path: Any) -> None:  # noqa: ANN401, ARG002  as its parent
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401  as its parent
        """Say nothing."""
