"""Reports on a phone, in headless Chromium: what is wide scrolls in its own box, in light and in dark."""

from __future__ import annotations

import re
import shutil

import pytest

from psp_ray.report.document import document_page, text_part

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES = [f"a strategy of some length {number}" for number in range(14)]
WIDE = "\n".join(["|".join(["", *NAMES, ""]), "|".join(["", *["---"] * len(NAMES), ""]), "|".join(["", *NAMES, ""])])
CUT_OFF = """() => [...document.querySelectorAll("main *")].filter((item) => {
  const box = item.getBoundingClientRect();
  return box.right > document.documentElement.clientWidth + 1 && !item.closest(".scroll");
}).map((item) => item.outerHTML.slice(0, 80))"""


def page_of(markdown: str) -> str:
    return document_page("a comparison", "An answer.", "finished", [text_part(markdown)])


def test_every_table_has_a_box_of_its_own():
    page = page_of(f"{WIDE}\n\nand\n\n{WIDE}\n")
    assert page.count("<table>") == 2
    assert len(re.findall(r'<div class="scroll" tabindex="0" [^>]*><table>.*?</table></div>', page, re.DOTALL)) == 2


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_wide_tables_scroll_and_their_rows_keep_their_names(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    (tmp_path / "page.html").write_text(page_of(WIDE))
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        looks = set()
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
            page.goto((tmp_path / "page.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            assert page.evaluate(CUT_OFF) == []
            box = page.locator(".scroll")
            assert box.evaluate("item => item.scrollWidth > 3 * item.clientWidth")
            box.focus()
            box.evaluate("item => item.scrollTo(500, 0)")
            assert box.evaluate("item => item.scrollLeft") == 500
            name = page.locator("tbody td").first.bounding_box()
            assert name is not None
            assert 0 <= name["x"] < 60, "the first column stays in sight"
            looks.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(looks) == 2
        browser.close()
