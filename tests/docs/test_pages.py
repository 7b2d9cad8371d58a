"""Every page can be reached, every link leads somewhere, and what README names exists."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"`([\w/.]+\.(?:py|cpp))`: `(\w+)`")


def pages_in(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                yield from pages_in(value)


def navigation() -> list[str]:
    return list(pages_in(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]))


def links(text: str) -> list[str]:
    found = LINK.findall(FENCE.sub("", text))
    return [link for link in found if not re.match(r"https?:|mailto:|#", link)]


def test_the_navigation_holds_every_page_once() -> None:
    """The site builder warns of a broken link, and of neither an orphan nor an entry without its page."""
    assert sorted(navigation()) == PAGES, "put the page into zensical.toml"


@pytest.mark.parametrize("page", navigation())
def test_a_page_s_links_stay_in_the_site_and_lead_somewhere(page: str) -> None:
    """What is not Markdown (an image, say) the site builder doesn't look for."""
    for link in links((DOCS / page).read_text("utf-8")):
        target = (DOCS / page).parent / link.split("#")[0]
        assert target.resolve().is_relative_to(DOCS), f"{page}: {link} leaves the site; name the file instead"
        assert target.exists(), f"{page}: {link} does not exist"


def test_a_page_begins_with_its_title_and_has_one() -> None:
    for page in navigation():
        text = FENCE.sub("", (DOCS / page).read_text("utf-8"))
        assert re.findall(r"^# ", text, re.MULTILINE) == ["# "], page
        assert text.startswith("# "), page


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= 120
    for link in links(README):
        file, _, anchor = link.partition("#")
        assert (ROOT / file).exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, link


def test_readme_says_where_each_step_of_the_paper_is() -> None:
    places = PLACE.findall(README)
    assert {Path(file).stem for file, _ in places} >= {
        "anomaly",
        "outlier_repair",
        "similarity",
        "attention",
        "decode",
    }
    for file, name in places:
        text = (ROOT / file).read_text("utf-8")
        defined = rf"^ *def {name}\(" if file.endswith(".py") else rf"^\S.*\b{name}\(.*\) {{$"
        assert re.search(defined, text, re.MULTILINE), f"{file} defines no {name}"
