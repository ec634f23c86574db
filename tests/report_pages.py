"""For the tests of reports: how a page is read, a hostile name, and the smallest picture."""

import json
from html.parser import HTMLParser
from typing import Any

HOSTILE = '</script><b onload="x">&amp;'
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


class Page(HTMLParser):
    """Reads a page; raises for tags that don't match."""

    VOID = frozenset({"meta", "img", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.addresses: list[str] = []
        self.options: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self.data = self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [str(found[name]) for name in ("src", "href") if name in found]
        self.ids += [str(found["id"])] if "id" in found else []
        if tag == "table":
            self.tables[str(found["data-name"])] = []
        elif tag == "tr":
            list(self.tables.values())[-1].append([])
        elif tag in ("td", "th"):
            list(self.tables.values())[-1][-1].append(("", found.get("title")))
        if tag not in self.VOID:
            self.open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if tags and tags[-1] == "script" and self.open[-1][1].get("id") == "data":
            self.data += data
        elif "td" in tags or "th" in tags:
            row = list(self.tables.values())[-1][-1]
            row[-1] = (row[-1][0] + data, row[-1][1])
        elif not {"script", "style"} & set(tags):
            self.text += data

    def json(self) -> Any:
        return json.loads(self.data)
