"""Make ``report.png``: the report of `experiments/detect_exdark.py` on the built-in set, as a browser shows it.

    python experiments/detect_exdark.py --out runs/detect_exdark
    python docs/screenshot.py runs/detect_exdark/report.html docs/report.png

Needs Chromium, its driver, and selenium.
"""

import argparse
import shutil
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service


def screenshot(page: Path, picture: Path, width: int, height: int, dark: bool, at: str) -> None:
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1"):
        options.add_argument(flag)
    # Named, since selenium otherwise asks the network for one.
    with webdriver.Chrome(options, Service(shutil.which("chromedriver"))) as browser:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        # By the protocol: a window is never narrower than 500 pixels.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.resolve().as_uri())
        browser.execute_script("document.querySelector(arguments[0]).scrollIntoView()", at)
        picture.write_bytes(browser.get_screenshot_as_png())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument(
        "--width", type=int, default=1100, help="in pixels; below 500 as a phone (default: 1100)"
    )
    parser.add_argument("--height", type=int, default=1400, help="in pixels (default: 1400)")
    parser.add_argument("--dark", action="store_true", help="in the dark colour scheme")
    parser.add_argument("--at", default="html", help="CSS selector of what is at the top (default: the page)")
    args = parser.parse_args()
    screenshot(args.page, args.picture, args.width, args.height, args.dark, args.at)
