"""The commands in the documentation's code blocks, as a shell would split them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]


def commands(file, program):
    """The words after the program, of each of its commands in a Markdown file."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", (ROOT / file).read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        shlex.split(line.strip()[len(program) :], comments=True) for line in lines if line.strip().startswith(program)
    ]
