"""Turn a ``params.yaml`` of version 0.1 into the present one: keys get their new names, and ``edges`` goes.

The text is edited where the YAML reader says that a key stands, so every other character stays as it is: comments,
order, quotes and layout.
"""

import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import yaml

from segline.config.fields import suggestion
from segline.config.loader import build, parse
from segline.config.renamed import (
    EDGE_LOSS,
    EDGE_OPTIONS,
    EDGES,
    GRACE_PERIOD,
    KEYS,
    PERTURBATION_INTERVAL,
    REMOVED,
    SPLIT_KEY,
)
from segline.errors import ParamsError

SMALLEST_GAP = 2
COMMENT_GAP = 4
"""The spaces before a comment that a longer key pushes to the right."""
MERGE_TAG = "tag:yaml.org,2002:merge"
Pair = tuple[yaml.ScalarNode, yaml.Node]


@dataclass(frozen=True)
class _Edit:
    """A part of the text, from ``start`` to ``end``, and what replaces it."""

    start: int
    end: int
    new: str


def migrate(text: str, where: str) -> str:
    """Return the text with the present keys; an up-to-date text is returned as it is.

    Args:
        text: The content of a ``params.yaml``.
        where: Its path, for messages.

    Raises:
        ParamsError: it is no YAML, it is JSON, or the result has errors that new names do not mend.
    """
    parse(text, where)
    document = _Document(text)
    root = document.root
    if isinstance(root, yaml.MappingNode) and root.flow_style:
        raise ParamsError(where, ["got JSON, expected YAML with a line for each section; write the new keys by hand"])
    if isinstance(root, yaml.MappingNode):
        renamed = list(_rename_keys(document, root, _scheduler(root)))
        removed = list(_remove_keys(document, root))
        text = document.apply([*renamed, *removed, *_move_edges(document, root, where)])
    build(parse(text, where), where)
    return text


class _Document:
    """A YAML text with its nodes, and what stands on each of its lines."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.splitlines(keepends=True)
        self.newline = "\r\n" if "\r\n" in text else "\n"
        self.root = yaml.compose(text, yaml.SafeLoader)

    @cached_property
    def line_starts(self) -> list[int]:
        """The index of the first character of each line, and of the end."""
        starts = [0]
        for line in self.lines:
            starts.append(starts[-1] + len(line))
        return starts

    @cached_property
    def comments(self) -> dict[int, tuple[int, int]]:
        """Line number -> the index after the last token of the line, and the index of the comment that follows."""
        ends = dict.fromkeys(range(len(self.lines)), 0)
        for token in yaml.scan(self.text, yaml.SafeLoader):
            line = token.end_mark.line
            if line in ends:
                ends[line] = max(ends[line], token.end_mark.column)
        comments = {}
        for line, end in ends.items():
            rest = self.lines[line][end:]
            if rest.lstrip().startswith("#"):
                start = self.line_starts[line] + end
                comments[line] = (start, start + len(rest) - len(rest.lstrip()))
        return comments

    def comment(self, line: int) -> str:
        """Return the comment of a line without its mark, or an empty text."""
        if line not in self.comments:
            return ""
        return self.text[self.comments[line][1] : self.line_starts[line + 1]].strip().lstrip("#").strip()

    def apply(self, edits: list[_Edit]) -> str:
        """Return the text with the edits; comments behind them keep their column where there is room."""
        # An alias leads to the text of its anchor a second time.
        edits = list({(edit.start, edit.end): edit for edit in edits}.values())
        growth: dict[int, int] = {}
        for edit in edits:
            line = bisect(self.line_starts, edit.start) - 1
            is_within = not edit.new.endswith("\n")
            if is_within and line in self.comments and edit.end <= self.comments[line][0]:
                growth[line] = growth.get(line, 0) + len(edit.new) - (edit.end - edit.start)
        for line, more in growth.items():
            start, end = self.comments[line]
            room = end - start - more
            edits.append(_Edit(start, end, " " * (room if room >= SMALLEST_GAP else COMMENT_GAP)))
        text = self.text
        for edit in sorted(edits, key=lambda edit: (edit.start, edit.end), reverse=True):
            text = text[: edit.start] + edit.new + text[edit.end :]
        return text


def _rename_keys(document: _Document, node: yaml.Node, scheduler: str, where: str = "") -> Iterator[_Edit]:
    """Yield an edit for every key below ``node`` that has a new name."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.tag == MERGE_TAG:
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _rename_keys(document, merged, scheduler, where)
            continue
        dotted = f"{where}.{key.value}" if where else str(key.value)
        new = PERTURBATION_INTERVAL if scheduler == "pbt" else GRACE_PERIOD
        new = new if dotted == SPLIT_KEY else KEYS.get(dotted, "")
        if new:
            start, end = key.start_mark.index, key.end_mark.index
            yield _Edit(start, end, document.text[start:end].replace(key.value, new))
        yield from _rename_keys(document, value, scheduler, dotted)


def _remove_keys(document: _Document, root: yaml.MappingNode) -> Iterator[_Edit]:
    """Yield an edit for every key that is gone: the lines of its own, or its part of a mapping on one line."""
    for dotted in REMOVED:
        *sections, name = dotted.split(".")
        node = _find(root, *sections)
        if not isinstance(node, yaml.MappingNode):
            continue
        pairs = node.value
        place = next((number for number, (key, _) in enumerate(pairs) if key.value == name), None)
        if place is None:
            continue
        key, value = pairs[place]
        start, end = key.start_mark.index, value.end_mark.index
        if len(pairs) == 1:
            yield _Edit(start, end, "" if node.flow_style else "{}")
        elif node.flow_style:
            is_first = place == 0
            start = start if is_first else pairs[place - 1][1].end_mark.index
            yield _Edit(start, pairs[1][0].start_mark.index if is_first else end, "")
        else:
            lines = document.line_starts
            yield _Edit(lines[key.start_mark.line], lines[_last_line(key, value) + 1], "")


def _scheduler(root: yaml.MappingNode) -> str:
    """Return the scheduler of the search, which says what min_epochs means."""
    node = _find(root, "train", "search", "scheduler")
    return str(node.value) if node else "halving"


def _find(node: yaml.Node | None, *keys: str) -> yaml.Node | None:
    """Return the value of a nested key, or None when there is none."""
    for name in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for key, value in pairs if key.value == name), None)
    return node


def _move_edges(document: _Document, root: yaml.MappingNode, where: str) -> Iterator[_Edit]:
    """Yield the edits that remove the section ``edges`` and put its values into each loss that uses them."""
    section = next((pair for pair in root.value if pair[0].value == EDGES), None)
    if not section:
        return
    pairs = section[1].value if isinstance(section[1], yaml.MappingNode) else []
    unknown = [key.value for key, _ in pairs if key.value not in EDGE_OPTIONS]
    if unknown:
        raise ParamsError(where, [f"edges.{key}: unknown key{suggestion(key, EDGE_OPTIONS)}" for key in unknown])
    options = [f"{EDGE_OPTIONS[key.value]}: {value.value}" for key, value in pairs]
    first, last = _section_lines(document, section)
    losses = _find(root, "train", "losses")
    items = losses.value if isinstance(losses, yaml.SequenceNode) else []
    in_flow = isinstance(losses, yaml.SequenceNode) and bool(losses.flow_style)
    users = [item for item in items if options and _uses_edges(item)]
    for item in users:
        yield _add_options(document, item, options, in_flow=in_flow)
    if users:
        comments = list(_comments_of(document, pairs, first, last))
        start = document.line_starts[users[0].start_mark.line]
        line = document.lines[users[0].start_mark.line]
        indent = line[: len(line) - len(line.lstrip())]
        if comments:
            yield _Edit(start, start, "".join(f"{indent}# {comment}{document.newline}" for comment in comments))
    yield _Edit(document.line_starts[first], document.line_starts[last], "")


def _section_lines(document: _Document, section: Pair) -> tuple[int, int]:
    """Return the first line of a section and the line after its last one, with its comments and one blank line."""
    key, value = section
    first, last = key.start_mark.line, _last_line(key, value) + 1
    above = first
    while above > 0 and document.lines[above - 1].startswith("#"):
        above -= 1
    first = above if above > 0 else first  # A comment at the top of the file is about the file.
    lines = document.lines
    while last < len(lines) and re.match(r"\s*$|\s+#", lines[last]):
        last += 1
    while last == len(lines) and first > 0 and not lines[first - 1].strip():
        first -= 1
    return first, last


def _last_line(key: yaml.Node, value: yaml.Node) -> int:
    """Return the line on which a value ends; the YAML reader lets a block end where the next token begins."""
    if isinstance(value, yaml.CollectionNode) and not value.flow_style and value.value:
        last = value.value[-1]
        return _last_line(*last) if isinstance(last, tuple) else _last_line(last, last)
    return max(key.end_mark.line, value.end_mark.line if value.end_mark.index > value.start_mark.index else 0)


def _comments_of(document: _Document, pairs: list[Pair], first: int, last: int) -> Iterator[str]:
    """Yield the comments of the section's lines, with the new name of the key that they stand beside."""
    names = {key.start_mark.line: EDGE_OPTIONS[key.value] for key, _ in pairs}
    for line in range(first, last):
        comment = document.comment(line)
        if comment:
            yield f"{names[line]}: {comment}" if line in names else comment


def _uses_edges(item: yaml.Node) -> bool:
    """Return whether an entry of the losses is the loss with the edge network, or a sum that holds it."""
    if isinstance(item, yaml.MappingNode):
        return any(key.value == EDGE_LOSS for key, _ in item.value)
    return bool(item.value == EDGE_LOSS)


def _add_options(document: _Document, item: yaml.Node, options: list[str], *, in_flow: bool) -> _Edit:
    """Return the edit that gives an entry of the losses more options, in the style in which it is written."""
    flow = "{" + ", ".join(options) + "}"
    if not isinstance(item, yaml.MappingNode):
        new = f"{EDGE_LOSS}: {flow}"
        return _Edit(item.start_mark.index, item.end_mark.index, "{" + new + "}" if in_flow else new)
    key, value = next((key, value) for key, value in item.value if key.value == EDGE_LOSS)
    if not isinstance(value, yaml.MappingNode):
        start, end = value.start_mark.index, value.end_mark.index
        if end > start:
            return _Edit(start, end, flow)
        after = key.end_mark.index
        colon = document.text[after : after + 1] == ":"
        return _Edit(after + colon, after + colon, f" {flow}" if colon else f": {flow}")
    if not value.value:
        return _Edit(value.start_mark.index, value.end_mark.index, flow)
    if value.flow_style:
        end = value.value[-1][1].end_mark.index
        return _Edit(end, end, "".join(f", {option}" for option in options))
    end = document.line_starts[_last_line(*value.value[-1]) + 1]
    column = value.value[0][0].start_mark.column
    new = "".join(f"{' ' * column}{option}{document.newline}" for option in options)
    is_cut = end == len(document.text) and not document.text.endswith("\n")
    return _Edit(end, end, document.newline + new if is_cut else new)
