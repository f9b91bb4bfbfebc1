"""What a run came to, told at its end, however it ends."""

from kfp import dsl

from components.command import TRAIN


@dsl.container_component
def outcome(status: dsl.PipelineTaskFinalStatus):
    """Clean up after a run, tag its MLflow runs with its outcome, and tell the webhook in ``SEGLINE_WEBHOOK``.

    Args:
        status: Of the stages as a whole.
    """
    return dsl.ContainerSpec(
        image=TRAIN,
        command=["segline", "outcome"],
        args=["--status", status],
    )
