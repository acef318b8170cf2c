"""Serving the page until it is stopped."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

from torch import nn

from normalkit.demo.guard import MAX_UPLOAD, Guard
from normalkit.demo.page import build_page, page_head, page_style
from normalkit.signals import on_stop_signals

__all__ = ["serve", "serving"]

_THIS_MACHINE = ("127.0.0.1", "localhost", "[::1]")


def serve(model: nn.Module, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until Ctrl-C, SIGTERM or SIGHUP, as of a closed terminal; then remove its photos and results.

    Args:
        model: As in `normalkit.models`, with its parameters where it is to run.
        host: Address to listen on. The default is reached from this machine alone; there is no password.
        port: Port to listen on.

    Raises:
        ImportError: Gradio is not installed.
        OSError: The port is taken, or not allowed; or the host is none of this machine.
        ValueError: The port is out of range.
    """
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    with on_stop_signals(stop), serving(model, host=host, port=port) as address:
        print(f"{address} (Ctrl-C stops it)", flush=True)
        stopped.wait()


@contextmanager
def serving(model: nn.Module, *, host: str = "127.0.0.1", port: int = 7860) -> Iterator[str]:
    """Serve the page within the block, from a thread of its own.

    Args:
        model: As in `normalkit.models`.
        host: Address to listen on.
        port: Port to listen on.

    Yields:
        The page's address.

    Raises:
        ImportError: Gradio is not installed.
        OSError: The port is taken, or not allowed; or the host is none of this machine.
        ValueError: The port is out of range.
    """
    _check_port(host, port)
    with tempfile.TemporaryDirectory(prefix="normalkit-demo-", ignore_cleanup_errors=True) as place:
        folder = Path(place).resolve()
        with _environment(GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False"):
            gr = _import_gradio()
            from starlette.middleware import Middleware

            hosts = _THIS_MACHINE if host in _THIS_MACHINE else None
            page = build_page(model, folder)
            try:
                _, address, _ = page.launch(
                    server_name=host,
                    server_port=port,
                    share=False,
                    quiet=True,
                    prevent_thread_lock=True,
                    max_file_size=MAX_UPLOAD,
                    state_session_capacity=1000,
                    footer_links=[],
                    run_history=False,
                    enable_monitoring=False,
                    ssr_mode=False,
                    pwa=False,
                    mcp_server=False,
                    app_kwargs={"middleware": [Middleware(Guard, folder=folder, hosts=hosts)]},
                    # Fonts of the system: those of Gradio's own themes come from elsewhere.
                    theme=gr.themes.Base(
                        primary_hue="violet",
                        font=["system-ui", "sans-serif"],
                        font_mono=["ui-monospace", "monospace"],
                    ),
                    css=page_style(),
                    head=page_head(),
                )
                yield address
            finally:
                page.close(verbose=False)


def _check_port(host: str, port: int) -> None:
    """Find what Gradio would report as if every port were taken."""
    if not 0 < port < 65536:
        raise ValueError(f"--port {port}: wanted 1 to 65535")
    try:
        family = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), port))
    except OSError as error:
        raise OSError(f"cannot serve on --host {host} --port {port} ({error.strerror}); choose another") from error


def _import_gradio() -> ModuleType:
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the demo page needs Gradio: pip install "normalkit[demo]"') from error
    return gradio


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables within a block: Gradio reads some of its settings from there alone."""
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
