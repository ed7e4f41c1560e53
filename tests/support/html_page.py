"""A page of HTML as tests read it."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """A page's elements: (tag, attributes, text) in their order, what is in its tables, and its source."""

    VOID = ("meta", "img", "input", "wbr")

    @classmethod
    def of(cls, file):
        return cls(file.read_text(encoding="utf-8"))

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.elements, self._open = [], []
        self.feed(text)
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag, attributes):
        element = [tag, dict(attributes), ""]
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def all(self, *tags):
        return [element for element in self.elements if element[0] in tags]

    def rows(self, caption, heading):
        """The rows of the tables with this caption under this heading: lists of (text, attributes)."""
        found, under, inside = [], "", ""
        for tag, attributes, text in self.elements:
            if tag == "h3":
                under = text
            elif tag in ("caption", "table"):
                inside = text if tag == "caption" else ""
            elif (under, inside) == (heading, caption):
                if tag == "tr":
                    found.append([])
                elif tag in ("th", "td"):
                    found[-1].append((text, attributes))
        return found[1:]
