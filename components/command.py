"""The container of a component: its image, the options of ``segline <stage>``, and the parameters as JSON text."""

from typing import Any

from kfp import dsl

DATA = "segline/data:dev"
"""The image of the stages that need neither torch nor MLflow; a compiled pipeline has its own registry and tag."""
TRAIN = "segline/train:dev"
"""The image of all other stages."""
EXECUTOR_INPUT = "{{$}}"
"""The placeholder that Kubeflow replaces with the outputs' paths, and the path of the file that describes them."""


def command(
    image: str, stage: str, *, params: dict[str, Any], overrides: dict[str, Any] | None = None, **options: Any
) -> dsl.ContainerSpec:
    """Return the container that runs ``segline <stage> --params {...} --<option> <value> ...``.

    Args:
        image: The image of the container.
        stage: The name of the stage.
        params: The name, seed and sections of ``params.yaml``; a section is JSON text, the others are values.
        overrides: Single parameters by their dotted key; an empty value keeps the one of the section.
        options: Other options of the command line.
    """
    arguments: list[Any] = ["--params", sections_text(params)]
    for key, value in (overrides or {}).items():
        arguments += ["--set", f"{key}={value}"]
    for name, value in options.items():
        arguments += [f"--{name}", value]
    return dsl.ContainerSpec(
        image=image, command=["segline", stage], args=[*arguments, "--executor-input", EXECUTOR_INPUT]
    )


def sections_text(params: dict[str, Any]) -> str:
    """Return a JSON object of the parameters; ``name`` is quoted, since it is not JSON as a section is.

    It is one text with placeholders: Kubeflow's ``Concat`` is itself JSON, which the quotes in a section break.
    """
    items = [f'"{key}": "{value}"' if key == "name" else f'"{key}": {value}' for key, value in params.items()]
    return f"{{{', '.join(items)}}}"
