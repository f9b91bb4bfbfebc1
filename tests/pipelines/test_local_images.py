"""The check of images before a run in local containers, against a server with Docker's API."""

import json

import pytest
from servers import free_port, serving

pytest.importorskip("kfp")
pytest.importorskip("docker")

from pipelines.local import LocalError, check_images
from pipelines.training import DeploymentConfig

CONFIG = DeploymentConfig(tag="t")


@pytest.fixture
def images(monkeypatch):
    """Yield the list of images in Docker; a request for a single image finds none."""
    listed = [{"RepoTags": None}, {"RepoTags": ["segline/data:t", "segline/data:old"]}]

    def answer(handler):
        path = handler.path.partition("?")[0]
        known = {"/version": {"ApiVersion": "1.44"}, "/v1.44/images/json": listed}
        found = known.get(path)
        body = found if found is not None else {"message": "No such image"}
        return 404 if found is None else 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    with serving(answer) as docker:
        monkeypatch.setenv("DOCKER_HOST", docker.address.replace("http", "tcp"))
        yield listed


def test_an_image_that_is_removed_meanwhile_does_not_matter(images):
    images.append({"RepoTags": ["segline/train:t"]})
    check_images(CONFIG)


def test_a_missing_image_is_reported(images):
    with pytest.raises(LocalError, match=r"^Docker has no image segline/train:t; run `make images TAG=t`$"):
        check_images(CONFIG)


def test_a_docker_that_does_not_answer_is_reported(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    with pytest.raises(LocalError, match=r"^Docker does not answer \(.*refused.*\); start it, then try again$"):
        check_images(CONFIG)
