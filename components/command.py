"""What the components' commands share: the image, the words of ``segline <stage>``, and the parameters as JSON text."""

from typing import Any

from kfp import dsl

DATA = "segline/data:dev"
"""Image of the stages that need neither torch nor MLflow. A pipeline is compiled with its own registry and tag."""
TRAIN = "segline/train:dev"
"""Image of all others."""
EXECUTOR_INPUT = "{{$}}"
"""Kubeflow puts in what it wants to know of the outputs, and where it looks for the answer."""


def command(
    image: str, stage: str, *, params: dict[str, Any], overrides: dict[str, Any] | None = None, **words: Any
) -> dsl.ContainerSpec:
    """``segline <stage> --params {...} --<word> <value> ...``.

    Args:
        image: that it runs in.
        stage: its name.
        params: name, seed and sections of ``params.yaml``; a section is JSON text, the others are values.
        overrides: single parameters by their dotted key; an empty value leaves what the section says.
        words: arguments of the command line.
    """
    arguments: list[Any] = ["--params", _document(params)]
    for key, value in (overrides or {}).items():
        arguments += ["--set", f"{key}={value}"]
    for name, value in words.items():
        arguments += [f"--{name}", value]
    return dsl.ContainerSpec(
        image=image, command=["segline", stage], args=[*arguments, "--executor-input", EXECUTOR_INPUT]
    )


def _document(params: dict[str, Any]) -> str:
    """One JSON object of all; ``name`` is a text, which a section is not.

    One text with placeholders in it: Kubeflow's ``Concat`` is itself JSON, which the quotes of a section break.
    """
    shown = [f'"{key}": "{value}"' if key == "name" else f'"{key}": {value}' for key, value in params.items()]
    return f"{{{', '.join(shown)}}}"
