import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detection.report.page import SIDE, SIZE, Comparison, Figure, Notes, Section, Table, jpeg, write_html
from tests.browser import chromium

NAN = float("nan")
FRAME = pd.DataFrame(
    {
        "enhancer": ["raw", "g<amma", "clahe"],
        "mAP50": [0.5, 0.25, 0.75],
        "PSNR": [9.5, NAN, 10.25],
        "against raw": ["", "-0.25 [-0.3, -0.2] worse", "+0.25 [-0.1, +0.6] within noise"],
    }
)


def plain(colour: tuple[int, int, int]) -> bytes:
    return jpeg(np.full((120, 200, 3), colour, np.uint8))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chart = BytesIO()
    Image.new("RGB", (300, 200), "white").save(chart, format="PNG")
    columns = {f"a column with a long name {i}": [i, i + 1] for i in range(12)}
    wide = pd.DataFrame({"light": ["dark", "dark"], "enhancer": ["raw", "gamma"], **columns})
    pairs = [Comparison(f"{name}.png", plain((0, 0, 0)), plain((250, 0, 0)), "21.3 dB") for name in "ab"]
    file = tmp_path_factory.mktemp("html") / "report.html"
    write_html(
        file,
        "What & why",
        [
            Section("Results", [Table("All", FRAME), Notes(["One.", "An < other."]), Table("Wide", wide)]),
            Section("Pictures", [Figure("A chart", chart.getvalue()), *pairs]),
        ],
    )
    return file


def test_page_needs_nothing_beside_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [file.name for file in page.parent.iterdir()] == ["report.html"]
    assert set(re.findall(r'(?:src|href)="(\w+:[\w/]*)', text)) == {
        "data:",
        "data:image/png",
        "data:image/jpeg",
    }
    assert not re.search(r"https?://|@import|url\(", text)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "<title>What &amp; why</title>" in text
    assert '<td class="key">g&lt;amma</td><td class="number">0.2500</td><td class="number"></td>' in text
    assert "<li>An &lt; other.</li>" in text


def test_pictures_are_bounded() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    file = jpeg(noise)
    assert len(file) <= SIZE
    assert Image.open(BytesIO(file)).size == (SIDE, SIDE * 3 // 4)
    assert Image.open(BytesIO(jpeg(noise[:20, :30]))).size == (30, 20)  # never larger than it was


def test_pictures_of_two_sizes() -> None:
    with pytest.raises(ValueError, match=r"one size but got \(200, 120\) and \(30, 20\)"):
        Comparison("a", plain((0, 0, 0)), jpeg(np.zeros((20, 30, 3), np.uint8)))


class TestInABrowser:
    @pytest.fixture(scope="class")
    def window(self) -> Iterator[Any]:
        with chromium("--window-size=1000,800") as browser:
            yield browser

    @pytest.fixture
    def browser(self, window: Any, page: Path) -> Any:
        window.get(page.as_uri())
        return window

    def test_a_click_sorts(self, browser) -> None:  # type: ignore[no-untyped-def]
        def rows(column: int) -> list[str]:
            cells = browser.find_elements("css selector", f"table:first-of-type td:nth-child({column})")
            return [cell.text for cell in cells[:3]]

        def click(column: int) -> str:
            head = browser.find_elements("css selector", "th")[column - 1]
            head.find_element("css selector", "button").click()
            return str(head.get_attribute("aria-sort"))

        assert rows(1) == ["raw", "g<amma", "clahe"]
        assert click(2) == "descending"
        assert rows(1) == ["clahe", "raw", "g<amma"]
        assert click(2) == "ascending"
        assert rows(2) == ["0.2500", "0.5000", "0.7500"]
        click(3)
        assert rows(3) == ["10.25", "9.50", ""]  # as numbers, and what is not there last
        click(3)
        assert rows(3) == ["9.50", "10.25", ""]
        click(4)
        assert rows(1) == ["clahe", "g<amma", "raw"]
        click(1)
        click(1)
        assert rows(1) == ["clahe", "g<amma", "raw"]
        assert len(browser.find_elements("css selector", "th[aria-sort]")) == 1

    def test_the_slider_shows_more_of_one(self, browser) -> None:  # type: ignore[no-untyped-def]
        from selenium.webdriver import ActionChains, Keys

        first, second = browser.find_elements("css selector", ".slider")

        def seen(share: float) -> int:
            """How red the first pair of pictures is at a share of its width."""
            picture = Image.open(BytesIO(first.screenshot_as_png)).convert("RGB")
            return int(np.asarray(picture)[picture.height // 4, int(share * picture.width)][0])

        assert seen(0.3) < 60
        assert seen(0.7) > 190
        width = first.size["width"]
        ActionChains(browser).move_to_element(first).click_and_hold().move_by_offset(
            width // 3, 0
        ).release().perform()
        assert seen(0.7) < 60
        assert seen(0.95) > 190
        at = [
            float(pair.find_element("css selector", "input").get_property("value"))
            for pair in (first, second)
        ]
        assert at == pytest.approx([83, 50], abs=2)  # the other one stays
        first.find_element("css selector", "input").send_keys(Keys.HOME)  # by the keyboard
        assert seen(0.1) > 190

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_on_a_phone(self, browser, scheme: str) -> None:  # type: ignore[no-untyped-def]
        phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
        try:
            run = browser.execute_script
            assert run("return document.documentElement.scrollWidth") <= 360
            assert run(
                "return [...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
            )
            # The second table has its enhancers in the second column, and keeps them.
            assert run(
                "const box = document.querySelectorAll('.scroll')[1], left = e => e.getBoundingClientRect().left;"
                "box.scrollLeft = 9999;"
                "return ['td', 'th'].every(kind => Math.abs(left(box.querySelector(`${kind}.key`)) - left(box)) < 3)"
            )
            assert all(pair.size["width"] <= 360 for pair in browser.find_elements("css selector", ".slider"))
            background = run("return getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(0, 0, 0)")
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def test_nothing_is_complained_of(self, browser) -> None:  # type: ignore[no-untyped-def]
        assert browser.get_log("browser") == []
