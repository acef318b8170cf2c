"""Draws the screenshots of learn/demo-page.md: `python docs/demo_page.py --photo kitchen.jpg`."""

from __future__ import annotations

import shutil
import socket
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tyro
from playwright.sync_api import Browser, sync_playwright

from normalkit import load_model
from normalkit.demo.server import serving

DOCS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Config:
    """Serve the demo page, drop a photo on it in a browser without a window, and keep what it looks like."""

    photo: Path
    """The photo that is dropped."""
    checkpoint: Path = DOCS / "results" / "surface-normals" / "unet"
    """Folder of a trained model."""
    out: Path = DOCS / "learn"
    """Folder for demo-page.png and demo-page-phone.png."""
    browser: str = "chromium"
    """A browser of the Chromium family, by its command."""


def main(cfg: Config) -> None:
    """Do it."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(load_model(cfg.checkpoint), port=port) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which(cfg.browser), args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        shoot(browser, address, cfg.photo, cfg.out / "demo-page.png", width=1280, height=700)
        shoot(browser, address, cfg.photo, cfg.out / "demo-page-phone.png", width=390, height=844)
        browser.close()


def shoot(browser: Browser, address: str, photo: Path, out: Path, *, width: int, height: int) -> None:
    """One screenshot, with the light to the upper right."""
    phone = width < 600
    context = browser.new_context(
        viewport={"width": width, "height": height}, is_mobile=phone, has_touch=phone, color_scheme="light"
    )
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("normalkit-view")
    page.wait_for_load_state("networkidle")
    page.set_input_files("#nk-photo input[type=file]", str(photo))
    page.wait_for_selector(".nk-ready")
    page.locator("normalkit-view").evaluate("view => view.moveLight(0.75, -0.35)")
    if not phone:
        box = page.locator(".nk-normals").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.62 * box["width"], box["y"] + 0.3 * box["height"])
    page.wait_for_timeout(2000)
    page.screenshot(path=out, full_page=True)
    context.close()


if __name__ == "__main__":
    main(tyro.cli(Config))
