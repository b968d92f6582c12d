"""JupyterLab, opened on the book."""

import os
import socket
import sys
import webbrowser
from pathlib import Path

from lossbook.catalog import START_HERE

FIRST_PORT = 8888


def command(home: Path, port: int | None = None) -> list[str]:
    """Returns the command line that serves the book from its checkout.

    JupyterLab listens on this machine only, asks for its token, and prints its address.

    Args:
        home: the checkout.
        port: the port to use; None takes the first free one from 8888 on.

    Raises:
        ValueError: the given port is in use.
    """
    if port is None:
        port = next(p for p in range(FIRST_PORT, 65536) if is_free(p))
        if port != FIRST_PORT:
            print(f"port {FIRST_PORT} is in use; serving on {port}", file=sys.stderr)
    elif not is_free(port):
        raise ValueError(f"port {port} is in use; choose another, or leave PORT out")
    options = [
        "--ServerApp.ip=localhost",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={home}",
        f"--LabApp.default_url=/lab/tree/{START_HERE}",
    ]
    if getattr(os, "geteuid", lambda: 1)() == 0:
        options.append("--allow-root")
    if not has_browser():
        options.append("--no-browser")
    return [sys.executable, "-m", "jupyterlab", *options]


def is_free(port: int) -> bool:
    """Whether nothing on this machine listens on a port."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(0.2)
                if probe.connect_ex((address, port)) == 0:
                    return False
        except OSError:  # no such family here
            continue
    return True


def has_browser() -> bool:
    """Whether a browser can open a window here."""
    if sys.platform not in {"win32", "darwin"} and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False  # a text browser would take over the terminal
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
