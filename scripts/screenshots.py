"""Make the pictures of the page for README and docs: a browser visits a service and shows it what is in demo/.

    python scripts/screenshots.py [FOLDER]

Needs Playwright, and chromium (or its path in CHROMIUM). FOLDER is docs/figures if not given. The service is started,
and stopped at the end; the browser's microphone is a file, made of the recordings in demo/.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
DESKTOP = (1280, 860)
PHONE = (360, 780)
MICROPHONE_RATE = 48_000  # Hz
LIVE_MS = 9_000  # of speech before the picture is taken


def welcome(page: "Page") -> None:
    """Show the page as it is found."""


def clip(page: "Page") -> None:
    """Show one clip, with what made the difference."""
    page.get_by_role("button", name="loud and fast").click()
    wait_for_clip(page)
    page.get_by_role("switch").check()
    page.wait_for_selector("#explain-choice:not([hidden])")


def timeline(page: "Page") -> None:
    """Show a longer recording."""
    page.get_by_role("button", name="five in a row").click()
    wait_for_clip(page)


def files(page: "Page") -> None:
    """Show several files."""
    page.set_input_files("#picker", sorted((ROOT / "demo").iterdir()))
    page.wait_for_selector("#files-progress", state="hidden")


def live(page: "Page") -> None:
    """Show the page while somebody speaks."""
    page.get_by_role("button", name="Live").click()
    page.wait_for_timeout(LIVE_MS)
    page.eval_on_selector(
        "#microphone-choice", "choice => { choice.hidden = true }"
    )  # names of the browser's stand-ins


@dataclass(frozen=True)
class Picture:
    """One file: what the visitor does, on which screen."""

    name: str
    act: Callable[["Page"], None]
    theme: str = "light"
    size: tuple[int, int] = DESKTOP
    whole: bool = False  # the page below the screen's edge too


PICTURES = (
    Picture("page-welcome", welcome),
    Picture("page-clip", clip, whole=True),
    Picture("page-timeline", timeline, theme="dark", whole=True),
    Picture("page-files", files),
    Picture("page-live", live, size=(1280, 760)),
    Picture("page-phone", live, theme="dark", size=PHONE),
)


def main() -> None:
    """Take all pictures and print their names and sizes."""
    from playwright.sync_api import sync_playwright

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "figures")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            chromium_sandbox=os.geteuid() != 0,
            args=[
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={write_microphone(Path(temporary))}",
            ],
        )
        service = subprocess.Popen(
            [sys.executable, "-m", "undertone", "serve", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert service.stdout is not None
        try:
            found = re.search(r"http://\S+", service.stdout.readline().decode())
            if found is None:
                raise SystemExit("the service did not start; try: undertone serve")
            for picture in PICTURES:
                path = take(browser, found[0], picture, folder)
                print(f"{path.name:<20} {path.stat().st_size / 1000:.0f} kB")
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()
            browser.close()


def take(browser: "Browser", address: str, picture: Picture, folder: Path) -> Path:
    """Visit, act, and write the picture."""
    width, height = picture.size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=picture.theme,  # type: ignore[arg-type]
        permissions=["microphone"],
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#open-card:enabled")
    picture.act(page)
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)  # bars move to their place
    path = folder / f"{picture.name}.png"
    page.screenshot(path=path, full_page=picture.whole)
    context.close()
    return path


def wait_for_clip(page: "Page") -> None:
    """Wait until a recording has its timeline."""
    page.wait_for_selector("#clip-view:not([hidden])")
    page.wait_for_selector("#clip-progress", state="hidden")


def write_microphone(folder: Path) -> Path:
    """Write the recordings one after the other, with pauses."""
    pieces = []
    for name in ("hushed-rushed.flac", "slow-quiet.opus", "loud-fast.wav", "bright.flac"):
        waveform, sample_rate = soundfile.read(ROOT / "demo" / name, dtype="float32")
        waveform = soxr.resample(waveform, sample_rate, MICROPHONE_RATE)
        pieces += [0.6 * waveform / np.abs(waveform).max(), np.zeros(MICROPHONE_RATE // 2, np.float32)]
    path = folder / "microphone.wav"
    soundfile.write(path, np.concatenate(pieces), MICROPHONE_RATE, subtype="PCM_16")
    return path


if __name__ == "__main__":
    main()
