"""A RayJob is followed by `segline train`, loses its follower, is killed, and is resumed."""

import json
import secrets

import pytest
import yaml
from installing import ROOT, make_pod

pytestmark = pytest.mark.timeout(3 * 3600)

RUN = {"workflows.argoproj.io/workflow": "segline-tests"}
"""The label by which the network policies know the pods of a run."""
SCRIPT = """
set -e
cd /tmp
segline ingest --params "$PARAMS" --out ingest
segline validate --params "$PARAMS" --manifest ingest --out validate
segline label --params "$PARAMS" --manifest ingest --validation validate --out label
exec segline train --params "$PARAMS" --dataset label --out train --run "$RUN"
"""
MADE, FOLLOWED, ENDED = "created in", "exists already; following it", " done, validation mIoU"
CHANGES = {
    "name": "segline-tests",
    "ingest": {"synthetic": {"drives": 30, "frames_per_drive": 3}},
    "train": {
        "models": [{"unet": {"width": 8}}, {"unet_resnet34": {"pretrained": False}}],
        "losses": ["dice", "cross_entropy"],
        "search": {"scheduler": "none"},
        "epochs": 6,
        "checkpoint_minutes": 0.1,
        "cpus_per_worker": 2,
    },
}
"""A training of four trials, of which a worker of the small cluster trains one at a time."""


def params():
    """Return the parameters of params.yaml with the changes, as JSON text."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, changes in CHANGES.items():
        document[section] = document[section] | changes if isinstance(changes, dict) else changes
    # Another seed each time, so that no checkpoints of an earlier session are found.
    return json.dumps(document | {"seed": secrets.randbelow(10**6)})


class Training:
    """A training, and the pods that follow it one after the other, as Kubeflow starts train again."""

    def __init__(self, cluster, namespace, image):
        self.cluster, self.namespace, self.image = cluster, namespace, image
        self.run, self.params, self.pods = f"tests-{secrets.token_hex(4)}", params(), []

    def follow(self):
        """Start the next pod, and return its name."""
        name = f"train-{self.run}-{len(self.pods) + 1}"
        values = {
            "PARAMS": self.params,
            "RUN": self.run,
            "SEGLINE_RAYJOB": "/etc/segline/rayjob.yaml",
            "SEGLINE_IMAGE": self.image,
            "SEGLINE_NAMESPACE": self.namespace,
            "HOME": "/tmp",
        }
        pod = make_pod(
            name,
            self.image,
            ["sh", "-c", SCRIPT],
            namespace=self.namespace,
            labels=RUN,
            account="segline-pipeline",
            env=[{"name": key, "value": value} for key, value in values.items()],
            envFrom=[{"configMapRef": {"name": "segline-settings"}}, {"secretRef": {"name": "segline-s3"}}],
            volumes=[{"name": "template", "configMap": {"name": "segline-rayjob"}}],
            mounts=[{"name": "template", "mountPath": "/etc/segline"}],
            resources={"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        )
        self.cluster.apply([pod])
        self.pods.append(name)
        self.cluster.wait_for_pod(name, self.namespace, phases=("Running", "Succeeded", "Failed"))
        return name

    def log(self, pod):
        return self.cluster.log(pod, self.namespace)

    def wait_for_line(self, pod, text):
        """Wait for a line in the log of a pod that still runs."""

        def look():
            said = self.log(pod)
            phase = self.cluster.get("pod", pod, self.namespace)["status"]["phase"]
            if text not in said and phase in ("Succeeded", "Failed"):
                pytest.fail(f"pod {pod} ended ({phase}) without a line with {text!r}; its log:\n{said}", pytrace=False)
            return (said if text in said else None), f"{phase}; {self.rayjob_state()}; the last line: {said[-300:]}"

        return self.cluster.wait(f"the log of {pod} to say {text!r}", look, "training")

    def rayjob_state(self):
        found = self.rayjobs()
        return f"RayJob {found[0].get('status', {})}"[:500] if found else "no RayJob"

    def rayjobs(self):
        return self.cluster.list("rayjobs.ray.io", self.namespace, f"segline/run={self.run}")

    def end(self):
        for pod in self.pods:
            self.cluster.delete("pod", pod, f"--namespace={self.namespace}", wait=False)
        self.cluster.delete("rayjobs.ray.io", f"--selector=segline/run={self.run}", f"--namespace={self.namespace}")


@pytest.fixture
def training(cluster, installation, kuberay, options):
    made = Training(cluster, installation, options.image("train"))
    yield made
    if not options.keep:
        made.end()


def test_a_training_survives_the_loss_of_its_follower_and_of_its_cluster(cluster, installation, training):
    first = training.follow()
    training.wait_for_line(first, MADE)
    cluster.run("delete", "pod", first, f"--namespace={installation}", "--grace-period=0", "--force")

    second = training.follow()
    training.wait_for_line(second, FOLLOWED)
    before = training.wait_for_line(second, ENDED)
    done = {line.split()[1] for line in before.splitlines() if ENDED in line}
    assert len(done) < 4, f"the training ended before it could be killed; give CHANGES more epochs:\n{before}"
    cluster.delete("rayjobs.ray.io", f"--selector=segline/run={training.run}", f"--namespace={installation}")
    pod = cluster.wait_for_pod(second, installation)
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    assert code in (6, 75), training.log(second)

    third = training.follow()
    pod = cluster.wait_for_pod(third, installation, limit="training")
    after = training.log(third)
    assert pod["status"]["phase"] == "Succeeded", after
    again = {line.split()[1] for line in after.splitlines() if ENDED in line}
    assert again, after
    assert not again & done, f"trials that were done were trained again:\n{after}"
    assert "train: 4 candidates in" in after
    assert training.rayjobs() == [], "the RayJob of a training that ended is deleted"


def test_a_training_that_nobody_can_place_is_refused_at_once(cluster, installation, training):
    """No worker of the template has so many cores; without the check Ray would wait for one."""
    document = json.loads(training.params)
    document["train"]["cpus_per_worker"] = 64
    training.params = json.dumps(document)
    pod = cluster.wait_for_pod(training.follow(), installation)
    said = training.log(training.pods[-1])
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 5, said
    assert "train.cpus_per_worker is 64" in said
    assert training.rayjobs() == []
