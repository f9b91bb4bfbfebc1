"""Big files are sent to a bucket in parts, with the same end as small ones."""

import os

import pytest
from servers import Cut, Refuse

from segline.errors import SourceError
from segline.files import multipart
from segline.files.retry import ATTEMPTS
from segline.files.s3 import Bucket
from segline.files.transfer import matches_etag, upload

PART = 5 * 2**20
"""The smallest part that S3 takes, but for the last."""
PARTS = 3


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of three parts."""
    monkeypatch.setattr(multipart, "PART_BYTES", PART)
    monkeypatch.setattr(multipart, "THRESHOLD_BYTES", 2 * PART)
    path = tmp_path / "folder" / "weights"
    path.parent.mkdir()
    path.write_bytes(os.urandom(2 * PART + 1))
    return path


@pytest.fixture
def store(bucket):
    return Bucket(f"s3://{bucket({'run/weights': b'before'})}/run")


def pending(client, store):
    return client.list_multipart_uploads(Bucket=store._name).get("Uploads", [])


def requests_of(server):
    return [method for method, path, _ in server.asked if path.startswith("/bucket") and method in ("PUT", "POST")]


def test_a_file_above_the_threshold_is_sent_in_parts(store, file, s3, s3_client):
    store.write("weights", file)
    assert requests_of(s3) == ["POST", *["PUT"] * PARTS, "POST"]
    assert store.read("weights") == file.read_bytes()
    stored = Bucket(store.url).files["weights"]
    assert stored.stamp == multipart.etag(file)
    assert stored.stamp.endswith(f"-{PARTS}")
    assert matches_etag(file, stored)
    assert pending(s3_client, store) == []


@pytest.mark.parametrize("size", [0, 1, 2 * PART])
def test_a_file_up_to_the_threshold_is_one_request(store, file, s3, size):
    file.write_bytes(b"x" * size)
    store.write("weights", file)
    assert requests_of(s3) == ["PUT"]
    assert matches_etag(file, Bucket(store.url).files["weights"])


def test_a_file_that_differs_in_one_byte_is_seen(store, file):
    store.write("weights", file)
    content = bytearray(file.read_bytes())
    content[PART + 7] ^= 1
    file.write_bytes(content)
    assert not matches_etag(file, Bucket(store.url).files["weights"])


def test_a_folder_is_not_sent_again(bucket, file, s3):
    url = f"s3://{bucket({})}/out"
    upload(file.parent, url)
    s3.asked.clear()
    upload(file.parent, url)
    assert requests_of(s3) == []


@pytest.mark.parametrize("at", range(PARTS + 2))
def test_a_request_that_fails_for_a_passing_reason_is_sent_again_alone(store, file, s3, s3_client, at):
    s3.faults = [None] * at + [Refuse(503, "SlowDown")] * (ATTEMPTS - 1)
    store.write("weights", file)
    assert len(requests_of(s3)) == PARTS + 2 + ATTEMPTS - 1
    assert store.read("weights") == file.read_bytes()
    assert pending(s3_client, store) == []


def test_an_answer_that_is_lost_at_the_end_is_no_failure(store, file, s3, s3_client):
    """The server has made the object, so that the repeated request finds no upload any more."""
    s3.faults = [None] * (PARTS + 1) + [Cut(0)]
    store.write("weights", file)
    assert store.read("weights") == file.read_bytes()


@pytest.mark.parametrize("at", [0, 2, PARTS + 1])
def test_what_cannot_be_sent_leaves_the_object_and_no_parts(store, file, s3, s3_client, at):
    s3.faults = [None] * at + [Refuse(403, "AccessDenied")]
    with pytest.raises(SourceError, match="access denied"):
        store.write("weights", file)
    assert store.read("weights") == b"before"
    assert pending(s3_client, store) == []


def test_the_parts_of_a_huge_file_are_bigger_and_not_more():
    for size in (1, 2**30, 160 * 2**30, 5 * 2**40):
        part = multipart.part_bytes(size)
        assert part >= multipart.PART_BYTES
        assert -(-size // part) <= multipart.MAX_PARTS
        assert part <= 5 * 2**30
