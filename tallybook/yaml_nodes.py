"""YAML text as nodes that know their lines, and nothing else of YAML.

Enters: the bytes of one catalog file. Leaves: mappings, lists and scalars, every scalar as the text that was written.
Refuses: what is not UTF-8 or not YAML, keys that stand twice, tags, more than one document, files over 16 MiB, nesting
deeper than 32, and aliases that unfold into more than the file could hold without them.

The parser's events are read one by one, because composing deeply nested text overflows the stack of the C library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

FILE_BYTES_MAX = 16 * 1024 * 1024
DEPTH_MAX = 32
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = "tag:yaml.org,2002:"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


class Unreadable(Exception):
    """Text that is not a document of ours; `line` counts from 1, 0 where there is none."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(slots=True)
class Node:
    """One value of the document. `line` counts from 1. `value` is text, None, a list of nodes, or nodes by key."""

    line: int
    value: str | list[Node] | dict[str, Node] | None
    key_lines: dict[str, int] = field(default_factory=dict)
    size: int = 1


def read_nodes(raw: bytes) -> tuple[Node | None, list[Unreadable]]:
    """Return the one document of a file (None when there is nothing in it) and the mistakes that it can be read despite.

    Raises Unreadable when it cannot be read at all.
    """
    if len(raw) > FILE_BYTES_MAX:
        raise Unreadable(0, f"the file has {len(raw)} bytes, more than {FILE_BYTES_MAX}; split it into several files")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as refused:
        line = raw.count(b"\n", 0, refused.start) + 1
        raise Unreadable(line, "this is not UTF-8 text; save the file as YAML text in UTF-8") from None
    try:
        builder = _Builder(len(text))
        return builder.build(yaml.parse(text, Loader=_LOADER)), builder.mistakes
    except yaml.MarkedYAMLError as refused:
        mark = refused.problem_mark or refused.context_mark
        problem = ": ".join(part for part in (refused.context, refused.problem) if part)
        raise Unreadable(mark.line + 1 if mark else 0, f"this is not YAML ({problem}); correct the line") from None
    except yaml.reader.ReaderError as refused:
        line = text.count("\n", 0, refused.position) + 1
        raise Unreadable(line, f"a character is not allowed in YAML ({refused.reason}); remove it") from None


def plain(node: Node) -> Any:
    """Return the node as text, None, list and dict, without its lines."""
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return node.value


class _Builder:
    """Builds the tree bottom up from events, with a stack of its own instead of recursion."""

    def __init__(self, characters: int) -> None:
        # Every node takes a character of its own when written out, so only aliases can exceed this.
        self._size_max = characters + 100_000
        self._anchors: dict[str, Node] = {}
        self._open: list[tuple[Node, str | None, tuple[str | None, int] | None]] = []
        self._root: Node | None = None
        self.mistakes: list[Unreadable] = []

    def build(self, events: Iterator[Any]) -> Node | None:
        documents = 0
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise Unreadable(line, "a second document begins here (---); write it as a file of its own")
            elif isinstance(event, yaml.AliasEvent):
                self._add_alias(event.anchor, line)
            elif isinstance(event, yaml.ScalarEvent):
                self._check_tag(event, line)
                # Only what is not quoted can be null; "null" in quotes is a word.
                empty = event.implicit[0] and not event.style and event.value in _NULLS
                self._add(Node(line, None if empty else event.value), event.anchor)
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                self._check_tag(event, line)
                if len(self._open) >= DEPTH_MAX:
                    raise Unreadable(line, f"lists and mappings are nested deeper than {DEPTH_MAX}; check the brackets")
                self._open.append(
                    (Node(line, {} if isinstance(event, yaml.MappingStartEvent) else []), event.anchor, None)
                )
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                node, anchor, _ = self._open.pop()
                self._add(node, anchor)
        return self._root

    def _add_alias(self, anchor: str | None, line: int) -> None:
        if anchor is None or anchor not in self._anchors:
            raise Unreadable(
                line, f"*{anchor} refers to an anchor that does not exist before it; write &{anchor} earlier"
            )
        self._add(self._anchors[anchor], None)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            self._root = node
            return
        parent, parent_anchor, key = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif isinstance(parent.value, dict) and key is None:
            self._open[-1] = (parent, parent_anchor, self._read_key(parent, node))
            return
        elif isinstance(parent.value, dict) and key is not None:
            name, line = key
            if name is not None:
                parent.value[name] = node
                parent.key_lines[name] = line
            self._open[-1] = (parent, parent_anchor, None)
        parent.size += node.size
        if parent.size > self._size_max:
            raise Unreadable(node.line, "aliases unfold into too much; write the values out")

    def _read_key(self, parent: Node, node: Node) -> tuple[str | None, int]:
        """Return the key and its line; without a key when the value that follows is to be thrown away."""
        if not isinstance(node.value, str):
            self.mistakes.append(Unreadable(node.line, "a key must be a word; write key: value"))
            return None, node.line
        if node.value in parent.key_lines:
            first = parent.key_lines[node.value]
            message = f"the key {node.value!r} stands here twice (first in line {first}); remove one"
            self.mistakes.append(Unreadable(node.line, message))
            return None, node.line
        return node.value, node.line

    def _check_tag(self, event: Any, line: int) -> None:
        # Tags make objects out of text; a catalog is text only.
        if event.tag is not None and (not event.tag.startswith(_TAGS) or event.tag.startswith(_TAGS + "python")):
            self.mistakes.append(Unreadable(line, f"the tag {event.tag} means nothing here; remove it"))
