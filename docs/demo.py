"""Make ``demo.png``: the page of ``glare demo`` after a click on one of its examples, photographs free to pass on.

    glare demo
    python docs/demo.py http://127.0.0.1:7860/ docs/demo.png

Needs Chromium, its driver, and selenium.
"""

import argparse
import shutil
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

EXAMPLE = "coffee"


def demo(address: str, picture: Path) -> None:
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(flag)
    # Named, since selenium otherwise asks the network for one.
    with webdriver.Chrome(options, Service(shutil.which("chromedriver"))) as browser:
        size = {"width": 1000, "height": 640, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(address)
        wait = WebDriverWait(browser, 120)
        example = f"button.gallery-item:has(img[src$='{EXAMPLE}.png'])"
        wait.until(lambda browser: browser.find_elements("css selector", example))[0].click()
        # Both pictures are there, decoded, and nothing lies over them any more.
        wait.until(
            lambda browser: browser.execute_script(
                "const pair = [...document.querySelectorAll('#pictures .slider-wrap img')];"
                "return pair.length == 2 && pair.every(one => one.complete && one.naturalWidth)"
                " && document.querySelector('#pictures [data-testid=status-tracker].hide')"
            )
        )
        shot = Image.open(BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    shot.quantize(128).save(picture, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    demo(args.address, args.picture)
