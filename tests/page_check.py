"""What every HTML page must be, for the tests of those that write one."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "source", "br", "input"}


class Page(HTMLParser):
    """Collect elements and text, and check that tags close in the order they open."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(html):
    """Parse a page and check that it is well-formed, self-contained and accessible; return it parsed."""
    page = Page(html)
    assert not re.search(r"https?:|//\w+\.\w", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    for attributes in page.all("img") + page.all("audio"):
        assert attributes["src"].startswith("data:")
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert all(attributes["aria-label"] for attributes in page.all("audio"))
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert any(attributes.get("name") == "viewport" for attributes in page.all("meta"))
    assert "prefers-color-scheme: dark" in html
    return page
