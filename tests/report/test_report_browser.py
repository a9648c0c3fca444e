"""The pages in a real browser; skipped, with the reason, where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from defence_records import THRESHOLDS, defence, hostile_defence, refusing_assessment
from report_records import (
    bare_assessment,
    black_box_assessment,
    header,
    hostile_assessment,
    image_assessment,
    series_assessment,
    table_assessment,
)

from hardpoint.report import compare, write_comparison_html, write_html

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE_RUN = [hostile_assessment(), bare_assessment()]
FULL_RUN = [image_assessment(), black_box_assessment(), table_assessment(), series_assessment()]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if binary is None or chromedriver is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = Options()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start: {str(error).splitlines()[0]}")
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    better = image_assessment(findings=(), robust_accuracy=image_assessment().clean_accuracy)
    files = {
        "full": write_html(folder / "full.html", FULL_RUN, header(assessments=["l1-9"])),
        "hostile": write_html(folder / "hostile.html", HOSTILE_RUN, header()),
        "empty": write_html(folder / "empty.html", [], {}),
        "defence": write_html(
            folder / "defence.html",
            [refusing_assessment()],
            header(),
            [defence(thresholds=THRESHOLDS), hostile_defence()],
        ),
        "compare": write_comparison_html(folder / "c.html", compare([image_assessment()], [better])),
    }
    return {name: file.as_uri() for name, file in files.items()}


def show(browser: Any, address: str, width: int = 1100, theme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(address)
    browser.execute_script("localStorage.clear()")


NAMES = ["full", "hostile", "empty", "compare", "defence"]


@pytest.mark.parametrize("name", NAMES)
def test_the_console_is_silent_and_nothing_is_requested(
    browser: Any, pages: dict[str, str], name: str
) -> None:
    show(browser, pages[name])
    assert browser.get_log("browser") == []
    requested = [
        entry["message"].split('"url":"')[1].split('"')[0]
        for entry in browser.get_log("performance")
        if "Network.requestWillBeSent" in entry["message"] and '"url":"' in entry["message"]
    ]
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
    assert browser.execute_script("return [...document.images].every(i => i.naturalWidth > 0)")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [320, 400, 1100])
def test_no_page_scrolls_sideways(browser: Any, pages: dict[str, str], name: str, width: int) -> None:
    show(browser, pages[name], width=width)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def background(browser: Any) -> str:
    return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_button_switches_the_theme_and_back(browser: Any, pages: dict[str, str], theme: str) -> None:
    show(browser, pages["full"], theme=theme)
    browser.execute_script("delete document.documentElement.dataset.theme")
    before = background(browser)
    button = browser.find_element("id", "theme")
    assert button.is_displayed()
    button.click()
    after = background(browser)
    assert after != before
    assert button.get_attribute("aria-pressed") == ("true" if theme == "light" else "false")
    button.click()
    assert background(browser) == before


def test_everything_can_be_reached_by_keyboard(browser: Any, pages: dict[str, str]) -> None:
    show(browser, pages["full"])
    body = browser.find_element("tag name", "body")
    body.send_keys(Keys.TAB)
    skip = browser.switch_to.active_element
    assert skip.get_attribute("class") == "skip"
    assert skip.rect["y"] >= 0
    wanted = browser.execute_script(
        "return document.querySelectorAll('a[href], button, summary, [tabindex=\"0\"]').length"
        " - document.querySelectorAll('details:not([open]) :is(a[href], button, [tabindex=\"0\"])').length"
    )
    seen, outlined = set(), 0
    for _ in range(wanted + 5):
        element = browser.switch_to.active_element
        if element.id in seen or element.tag_name == "body":
            break
        seen.add(element.id)
        style = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", element)
        outlined += style != "none"
        element.send_keys(Keys.TAB)
    assert len(seen) == wanted
    assert outlined == wanted
    skip.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.activeElement.id") == "main"


def test_folded_parts_open_for_the_printer_and_by_key(browser: Any, pages: dict[str, str]) -> None:
    show(browser, pages["full"])
    folded = "return [...document.querySelectorAll('details[data-print]')].filter(d => d.open).length"
    assert browser.execute_script(folded) == 0
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(folded) > 0
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(folded) == 0
    summary = browser.find_element("css selector", "details[data-print] > summary")
    summary.send_keys(Keys.ENTER)
    assert browser.execute_script(folded) == 1


def test_text_stands_out_from_its_background(browser: Any, pages: dict[str, str]) -> None:
    contrast = """
      const lum = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
        .map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
        return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
      const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255,255,255)'; };
      return [...document.querySelectorAll('main *')].filter(e => e.closest('svg') === null
          && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
        .map(e => { const a = lum(getComputedStyle(e).color), b = lum(back(e));
          return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); })
        .reduce((x, y) => Math.min(x, y), 21);
    """
    for theme in ("light", "dark"):
        show(browser, pages["full"], theme=theme)
        browser.execute_script("delete document.documentElement.dataset.theme")
        assert browser.execute_script(contrast) >= 4.5
