"""``report.html`` in a browser: what it fetches, logs and shows, and what axe-core finds wrong with it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.html_page import Page
from support.known_run import assert_numbers_are_those_of, write_run

from graft.experiments.report.__main__ import main

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (360, 1600)  # pixels


@contextmanager
def browser():
    """The system's Chromium, else that of ``playwright install chromium``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip(f"no browser: none of {', '.join(BROWSERS)}, and `playwright install chromium` was not run")
        launched = playwright.chromium.launch(executable_path=found)
        yield launched
        launched.close()


def write_clips(out):
    """So much that the page takes no more of it: noise, which does not compress."""
    dice = np.random.default_rng(0)
    for number in range(6):
        frames = [Image.fromarray(dice.integers(0, 256, (256, 256), np.uint8)) for _ in range(8)]
        frames[0].save(out / f"clip_{number}.gif", save_all=True, append_images=frames[1:])


def opened(browser, file, width):
    """The page of ``file``, and the addresses that it asked for and what went wrong in it, which grow."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(file.as_uri())
    return page, asked, wrong


def serious(page):
    """Names of axe-core's serious and critical findings, and its report."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    assert found.response["passes"], "it has looked at something"
    names = {v["id"] for v in found.response["violations"] if v["impact"] in ("serious", "critical")}
    return names, found.generate_report()


def use_chart(page):
    """A method is hidden by a click, and the arrow keys read the table of points out."""
    charts = page.locator(".charts").first
    figure, buttons = charts.locator("figure.chart").first, charts.locator("button[data-line]")
    button = buttons.first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not figure.locator('.plot g[data-line="0"]').is_visible()
    slider, name = figure.locator("input"), buttons.nth(1).inner_text().strip()
    slider.focus()
    before = int(slider.input_value())
    page.keyboard.press("ArrowLeft")
    row = figure.locator(".points tbody tr").nth(before - 1).locator("th, td").all_text_contents()
    said = figure.locator(".read").inner_text()
    assert f"at {row[0]}" in said
    assert f"{name}: {row[2]}" in said


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_page_of_100_stages_with_clips(tmp_path):
    data, file = write_run(tmp_path, seeds=33), tmp_path / "report.html"
    write_clips(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert len(data["stages"]) == 100
    assert 3e6 < file.stat().st_size < 6e6
    with browser() as chromium:
        for width in WIDTHS:
            page, asked, wrong = opened(chromium, file, width)
            for colours in ("light", "dark"):
                page.emulate_media(color_scheme=colours)
                found, report = serious(page)
                assert not found, report
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "nobody scrolls sideways"
            assert_numbers_are_those_of(data, Page(page.content()))
            use_chart(page)
            assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
            assert not wrong


@pytest.mark.slow
def test_what_the_checks_look_for_is_seen(tmp_path):
    """On a page with a fault of each kind."""
    file = tmp_path / "bad.html"
    file.write_text('<html><body><img src="no.png"><p style="width: 999px">a</p><script>x.y</script></body></html>')
    with browser() as chromium:
        page, asked, wrong = opened(chromium, file, 360)
        assert {"image-alt", "html-has-lang"} <= serious(page)[0]
        assert page.evaluate("document.documentElement.scrollWidth") > 360
        assert [url.rsplit("/", 1)[1] for url in asked] == ["bad.html", "no.png"]
        assert "x is not defined" in " ".join(wrong)
