"""A page as a reader and a browser see it."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

VOID = {"meta", "img", "br", "link", "input", "wbr"}


class Outline(HTMLParser):
    """The headings of a page and the attributes that load something; refuses elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "action")]
        self.sources += [value or "" for name, value in attrs if name == "href" and tag != "a"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data.strip())


def text_of(html: str) -> str:
    """Return the text of a page, in one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def links_of(html: str) -> list[str]:
    """Return where the links of a page lead, in its order."""
    return [unescape(target) for target in re.findall(r'<a href="([^"]*)"', html)]


def followed(folder: Path, link: str) -> Path:
    """Return the path that a browser opens for a link of a page in a folder."""
    address = urlsplit(urljoin(f"{folder.as_uri()}/", link))
    assert address.scheme == "file"
    assert not address.query
    assert not address.fragment
    return Path(unquote(address.path))
