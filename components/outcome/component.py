"""The exit handler as a Kubeflow component: it runs at the end of a run, however that ends."""

from kfp import dsl

from components.command import TRAIN


@dsl.container_component
def outcome(status: dsl.PipelineTaskFinalStatus):
    """Clean up after a run, tag its MLflow runs with the outcome, and call the webhook in `SEGLINE_WEBHOOK`.

    Args:
        status: The final status of the stages as a whole.
    """
    return dsl.ContainerSpec(
        image=TRAIN,
        command=["segline", "outcome"],
        args=["--status", status],
    )
