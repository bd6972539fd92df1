"""A walk through MLflow's pages in headless Chromium, from the server's first page to a champion's sample grid.

    python -m tests.integration.browsing http://127.0.0.1:5000 quickstart FOLDER

writes `study.png` and `samples.png` into the folder. Chromium and its driver are Debian's (`chromium-driver`).
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as conditions
from selenium.webdriver.support.ui import WebDriverWait

GET_IT = "apt-get install chromium-driver"

WAIT_SECONDS = 60.0
"""Seconds that a part of a page may take to appear; on busy cores MLflow's take long."""

SETTLE_SECONDS = 1.5
"""Seconds for the animations of a page, before its picture is taken."""

OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,900")


class Browser:
    """A browser window, in which elements are clicked as soon as they can be."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver
        self._wait = WebDriverWait(driver, WAIT_SECONDS)

    def to_the_study(self, address: str, study: str) -> None:
        """Go from MLflow's first page to the page of a study's run."""
        self._driver.get(address)
        self._click("//*[text()='Model training']")  # as it is, MLflow shows what it has for language models
        self._click("//button[@aria-label='Close' or .//span[contains(@class, 'Close')]]", seconds=5.0)
        self._click(f"//a[text()='{study}']")
        self._click(f"//a[contains(@href, '/runs/')][contains(., '{study}')]")
        self._find("//*[text()='hidfd.best']")

    def to_its_champion(self) -> str:
        """Go from a study's run to the run that its tag names, and return that name."""
        tag = self._find("//*[text()='hidfd.best']/following::span[normalize-space()][1]")
        champion = tag.text.removeprefix(":").strip()
        self._click(f"//a[normalize-space()='{champion}']")
        self._find(f"//h1[contains(., '{champion}')]|//h2[contains(., '{champion}')]")
        return champion

    def to_the_samples(self) -> WebElement:
        """Go from a student's run to its sample grid, and return the picture in the page."""
        self._click("//*[@role='tab'][contains(., 'Artifacts')]")
        self._click("//*[text()='pictures']")
        self._click("//*[text()='samples.png']")
        return self._shown_samples()

    def _shown_samples(self) -> WebElement:
        picture = self._find("//img[starts-with(@src, 'blob:') or contains(@src, 'samples.png')]")
        self._wait.until(lambda driver: driver.execute_script("return arguments[0].naturalWidth", picture))
        return picture

    def to_the_curves(self, address: str, experiment: str, run: str) -> None:
        """Go to the page of a run's curves."""
        self._driver.get(f"{address}/#/experiments/{experiment}/runs/{run}/model-metrics")
        self._driver.refresh()  # an address that differs after the `#` alone loads nothing anew
        self._find("//*[contains(@class, 'js-plotly-plot')]")

    def num_points(self) -> int:
        """Return how many points all curves of the page have."""
        points = "plot => (plot.data || []).reduce((sum, line) => sum + line.x.length, 0)"
        plots = "Array.from(document.querySelectorAll('.js-plotly-plot'))"
        return int(self._driver.execute_script(f"return {plots}.map({points}).reduce((a, b) => a + b, 0)"))

    def to_the_view(self, link: str) -> list[str]:
        """Go to a study's view, and return the heads of its columns."""
        self._driver.get(link)
        self._click("//button[@aria-label='Close' or .//span[contains(@class, 'Close')]]", seconds=5.0)
        self._find("//*[@role='columnheader'][contains(., 'agreement')]")
        heads = self._driver.find_elements(By.XPATH, "//*[@role='columnheader']")
        return [head.text for head in heads if head.text]

    def to_the_samples_of_the_champion(self) -> WebElement:
        """Go from a page with the study's description to the champion's sample grid, by one click."""
        self._click("//a[text()='Its samples']")
        self._driver.switch_to.window(self._driver.window_handles[-1])  # in a tab of its own
        return self._shown_samples()

    def overflow_of(self, page: Path, width: int) -> int:
        """Return by how many pixels a page on the disk is wider than a window; it has to scroll sideways for those."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self._driver.get(page.as_uri())
        time.sleep(SETTLE_SECONDS if "Plotly" in self._driver.page_source else 0.0)
        element = "document.documentElement"
        overflow: int = self._driver.execute_script(f"return {element}.scrollWidth - {element}.clientWidth")
        return overflow

    def top_of(self, selector: str) -> float:
        """Return how far below the top of the page the first element lies that a CSS selector finds."""
        return float(self._driver.find_element(By.CSS_SELECTOR, selector).rect["y"])

    def follow(self, words: str) -> Path:
        """Click the link with these words, and return the file that the browser shows then."""
        self._click(f"//a[normalize-space()='{words}']")
        return Path(unquote(urlsplit(self._driver.current_url).path))

    def keep(self, path: Path) -> None:
        """Write what the window shows now as a PNG."""
        time.sleep(SETTLE_SECONDS)
        self._driver.save_screenshot(str(path))

    def _find(self, where: str) -> WebElement:
        return self._wait.until(conditions.visibility_of_element_located((By.XPATH, where)), f"not shown: {where}")

    def _click(self, where: str, seconds: float | None = None) -> None:
        """Click an element; with `seconds`, wait only that long, and go on where it does not appear."""
        wait = self._wait if seconds is None else WebDriverWait(self._driver, seconds)
        with contextlib.suppress(*[] if seconds is None else [TimeoutException]):
            wait.until(conditions.element_to_be_clickable((By.XPATH, where)), f"not to be clicked: {where}").click()


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run Chromium for as long as the block lasts; skip the test, and say how to get it, where there is none."""
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip(f"no Chromium with its driver here; get one: {GET_IT}")
    options = ChromeOptions()
    for option in OPTIONS:
        options.add_argument(option)
    window = Chrome(options=options, service=ChromeService(driver))
    try:
        yield Browser(window)
    finally:
        window.quit()


def main(address: str, study: str, folder: str) -> None:
    """Write the pictures of a study on a running server."""
    with browser() as window:
        window.to_the_study(address, study)
        window.keep(Path(folder) / "study.png")
        window.to_its_champion()
        window.to_the_samples()
        window.keep(Path(folder) / "samples.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
