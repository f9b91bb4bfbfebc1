"""Before a run in local containers Docker is asked for its images; here a client that answers as Docker does."""

from types import SimpleNamespace

import pytest

pytest.importorskip("kfp")

from pipelines.local import LocalError, check_images
from pipelines.training import Site

docker = pytest.importorskip("docker")

SITE = Site(tag="t")


@pytest.fixture
def images(monkeypatch):
    """What Docker lists; each of them is gone when it is asked for on its own."""
    listed = [{"RepoTags": None}, {"RepoTags": ["segline/data:t", "segline/data:old"]}]

    def gone(*_, **__):
        raise docker.errors.ImageNotFound("no such image")

    client = SimpleNamespace(
        api=SimpleNamespace(images=lambda: listed), images=SimpleNamespace(list=gone, get=gone), close=lambda: None
    )
    monkeypatch.setattr(docker, "from_env", lambda: client)
    return listed


def test_an_image_that_goes_while_docker_is_asked_does_not_matter(images):
    images.append({"RepoTags": ["segline/train:t"]})
    check_images(SITE)


def test_a_missing_image_is_told(images):
    with pytest.raises(LocalError, match=r"^Docker has no image segline/train:t; run `make images TAG=t`$"):
        check_images(SITE)


def test_a_docker_that_does_not_answer_is_told(monkeypatch):
    def refuse():
        raise docker.errors.DockerException("Connection refused\nand more")

    monkeypatch.setattr(docker, "from_env", refuse)
    with pytest.raises(LocalError, match=r"^Docker does not answer \(Connection refused\); start it, then try again$"):
        check_images(SITE)
