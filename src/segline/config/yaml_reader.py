"""The YAML reader of Segline: it bounds what a text may stand for, and refuses what YAML readers read differently."""

import re
from collections import Counter
from typing import Any, NoReturn

import yaml

from segline.errors import LONGEST_VALUE, clip, one_line

MAX_CHARACTERS = 128 * 1024
"""The longest text; the parameters and classes of a large project have about 10,000 characters."""
MAX_DEPTH = 50
MAX_EXPANDED = 1_000_000
"""The most characters and values that a text may stand for, with each alias replaced by what it names."""
LARGEST_INTEGER = 2**63 - 1
SHOWN_CHARACTERS = 60
"""How much of a text a message shows."""
BOOL, TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
FLOAT = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$")
"""A number to YAML 1.2, and to DVC, that is text to PyYAML."""


class YamlError(ValueError):
    """The text is no valid YAML; the message is one line."""


def parse_yaml(text: str, *, strict: bool = True) -> Any:
    """Return the content of a YAML text; ``1e-3`` is a number, as it is to DVC.

    Args:
        text: the text.
        strict: whether to refuse dates and numbers that are not plainly decimal, such as 010 and 1:30; for what other
            programs read as well, they are what YAML 1.1 says.

    Raises:
        YamlError: it is no valid YAML, a key is given twice, a value is refused, or the text is too long, is nested too
            deeply or stands for too much.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"got {len(text):,} characters, expected at most {MAX_CHARACTERS:,}")
    try:
        return yaml.load(text, Loader=_StrictLoader if strict else _BoundedLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(clip(one_line(error), 2 * LONGEST_VALUE)) from None


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's loader with limits; whatever fails is a YAMLError with its line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.path: list[str] = []
        """The keys and indices that lead to the node that is being composed."""
        self.measured: dict[yaml.Node, tuple[int, int]] = {}
        """Node -> the characters and values that it stands for, and its depth."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]  # types-PyYAML has no types for it
        self.path.append(_shown(getattr(index, "value", index)))
        if len(self.path) > MAX_DEPTH:
            _refuse(line, f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        if node is not None and is_alias and node not in self.measured:
            _refuse(line, f"{'.'.join(self.path[1:])} is an alias of the value that it is in")
        if node is not None and not is_alias:
            self.measured[node] = self._measure(node, line)
        self.path.pop()
        return node

    def _measure(self, node: yaml.Node, line: int) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value), 1
        children = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        size = 1 + sum(self.measured[child][0] for child in children)
        depth = 1 + max((self.measured[child][1] for child in children), default=0)
        if size > MAX_EXPANDED or depth > MAX_DEPTH:
            _refuse(line, f"the aliases stand for more than {MAX_EXPANDED:,} characters or {MAX_DEPTH} levels")
        return size, depth

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML raises whatever int, date and base64 do
            kind = node.tag.rpartition(":")[2]
            _refuse(node.start_mark.line + 1, f"got {_shown(node.value)}, which is no {kind} ({type(error).__name__})")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = next((key for key, count in keys.items() if count > 1), None)
        if twice is not None:
            _refuse(node.start_mark.line + 1, f"key {_shown(twice)!r} is given twice")
        self.flatten_mapping(node)
        return super().construct_mapping(node, deep)


class _StrictLoader(_BoundedLoader):
    """Refuses what YAML 1.1 and 1.2 read differently; the key ``on`` is text, as in YAML 1.2, which DVC reads."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if key.value == "on" and key.tag == BOOL:
                key.tag = TEXT
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Refuse 010 and 1:30, which are 8 and 90 in YAML 1.1, and something else in YAML 1.2, which DVC reads."""
        text = self._text(node)
        if not INTEGER.fullmatch(text):
            _refuse(node.start_mark.line + 1, f"got {_shown(text)}, expected a number such as 10")
        if len(text) > 20 or abs(int(text)) > LARGEST_INTEGER:
            _refuse(node.start_mark.line + 1, f"got {_shown(text)}, expected a number of at most 18 digits")
        return int(text)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Refuse 1:30.5, which is 90.5 in YAML 1.1."""
        text = self._text(node)
        if not FLOAT.fullmatch(text):
            _refuse(node.start_mark.line + 1, f"got {_shown(text)}, expected a number such as 0.5")
        return float(super().construct_yaml_float(node))

    def construct_yaml_timestamp(self, node: yaml.ScalarNode) -> NoReturn:
        """Refuse a date: no parameter is one, and not every day is in the calendar."""
        _refuse(node.start_mark.line + 1, f"got {_shown(node.value)}, which YAML reads as a date; write it in quotes")

    def _text(self, node: yaml.ScalarNode) -> str:
        return str(self.construct_scalar(node))


def _refuse(line: int, problem: str) -> NoReturn:
    raise yaml.YAMLError(f"line {line}: {problem}")


def _shown(text: object) -> str:
    """Return the beginning of a text, in one line."""
    words = " ".join(str(text)[: 2 * SHOWN_CHARACTERS].split())
    return words if len(words) <= SHOWN_CHARACTERS else f"{words[:SHOWN_CHARACTERS]}..."


for _tag, _construct in {
    "int": _StrictLoader.construct_yaml_int,
    "float": _StrictLoader.construct_yaml_float,
    "timestamp": _StrictLoader.construct_yaml_timestamp,
}.items():
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))
