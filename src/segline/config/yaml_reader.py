"""The YAML reader of Segline: it refuses what YAML readers understand differently."""

import re
from typing import Any

import yaml


class YamlError(ValueError):
    """The text is no valid YAML; the message is one line."""


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text; ``1e-3`` is a number, as it is to DVC.

    Raises:
        YamlError: it is no valid YAML, a key is given twice, or a whole number is not decimal.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(" ".join(str(error).split())) from None


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        duplicates = [key for key in keys if keys.count(key) > 1]
        if duplicates:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: key {duplicates[0]!r} is given twice")
        self.flatten_mapping(node)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Refuse 010 and 1:30, which are 8 and 90 in YAML 1.1, and something else in YAML 1.2, which DVC reads."""
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", node.value):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: got {node.value}, expected a number such as 10")
        return int(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
