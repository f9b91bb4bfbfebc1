"""Before a run in local containers Docker is asked for its images; here by a server that speaks as Docker does."""

import json

import pytest
from servers import free_port, serving

pytest.importorskip("kfp")
pytest.importorskip("docker")

from pipelines.local import LocalError, check_images
from pipelines.training import Site

SITE = Site(tag="t")


@pytest.fixture
def images(monkeypatch):
    """What Docker lists; each of them is gone when it is asked for on its own."""
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


def test_an_image_that_goes_while_docker_is_asked_does_not_matter(images):
    images.append({"RepoTags": ["segline/train:t"]})
    check_images(SITE)


def test_a_missing_image_is_told(images):
    with pytest.raises(LocalError, match=r"^Docker has no image segline/train:t; run `make images TAG=t`$"):
        check_images(SITE)


def test_a_docker_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    with pytest.raises(LocalError, match=r"^Docker does not answer \(.*refused.*\); start it, then try again$"):
        check_images(SITE)
