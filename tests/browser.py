"""Pages in headless Chromium, for the tests of those that write them."""

import contextlib
import os
import shutil
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESK = 390, 1280


def find_chromium():
    """The path of a Chromium, ``SPECTROVAE_CHROMIUM`` first; None if there is none."""
    names = [os.environ.get("SPECTROVAE_CHROMIUM", ""), *NAMES]
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Browser:
    """Opens pages from disk, and holds against them whatever they complain of or ask the network for."""

    def __init__(self, chromium):
        self.chromium = chromium

    @contextlib.contextmanager
    def open(self, path: Path, *, width: int = DESK, dark: bool = False):
        """The page at ``path``, with an empty store of its own, ``width`` CSS pixels wide."""
        context = self.chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        page = context.new_page()
        complaints = []
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                complaints.append(f"asks for {request.url[:80]}")
                if request.url.split(":")[0] not in ("data", "blob") and request.url != path.as_uri()
                else None
            ),
        )
        try:
            page.goto(path.as_uri())
            yield page
            assert not complaints, complaints
        finally:
            context.close()


def overflow(page) -> float:
    """CSS pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def contrast(page, selector: str) -> float:
    """Contrast (WCAG 2, 1 to 21) of the text of the first such element with the page's background."""
    colours = page.evaluate(
        """(selector) => [getComputedStyle(document.querySelector(selector)).color,
                          getComputedStyle(document.body).backgroundColor]""",
        selector,
    )
    lights = []
    for colour in colours:
        channels = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def plays(page, selector: str) -> bool:
    """Play the audio element and wait until its time moves on, or it ends; False where it does not within 10 s."""
    return page.evaluate(
        """async (selector) => {
            const audio = document.querySelector(selector);
            const moved = new Promise((resolve) => {
                audio.addEventListener("timeupdate", () => { if (audio.currentTime > 0) resolve(true); });
                audio.addEventListener("error", () => resolve(false));
                setTimeout(() => resolve(false), 10000);
            });
            audio.muted = true;
            await audio.play();
            return moved;
        }""",
        selector,
    )
