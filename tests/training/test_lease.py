"""Who follows and who is followed, through a bucket of a real S3 server; the minutes are hundredths of a second."""

import threading
import time

import pytest
from servers import Refuse

from segline.files.s3 import Bucket
from segline.training import lease
from segline.training.lease import heartbeat, watchdog

AWAY = Refuse(403, "AccessDenied")


@pytest.fixture
def place(bucket, monkeypatch):
    for name, value in {"HEARTBEAT_S": 0.02, "LOOK_S": 0.02, "MAX_UNCHANGED_LOOKS": 25}.items():
        monkeypatch.setattr(lease, name, value)
    return f"s3://{bucket({})}/work/0123/followed/segline-train-one"


def stamp(place):
    folder, _, name = place.rpartition("/")
    return Bucket(folder).etag(name)


def requests(s3, place):
    """The requests for the object; a thread of an earlier test may still ask for another one."""
    bucket, _, name = place.removeprefix("s3://").partition("/")
    return [path for _, path, _ in s3.asked if bucket in path and name in path]


def wait_for(is_so):
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_renewal_is_another_content_and_in_the_end_the_object_goes(place):
    seen = set()
    with heartbeat(place):
        wait_for(lambda: seen.add(stamp(place)) or len(seen) > 5)
    wait_for(lambda: not stamp(place))


def test_a_renewal_that_fails_is_tried_again(place, s3):
    with heartbeat(place):
        wait_for(lambda: stamp(place))
        s3.faults = [AWAY] * 10
        wait_for(lambda: not s3.faults)
        before = stamp(place)
        wait_for(lambda: stamp(place) != before)


@pytest.mark.parametrize("objects", [{}, {"work/0123/followed/segline-train-one": b"old"}])
def test_what_nobody_renews_lapses_once_after_all_looks(place, bucket, s3, capsys, objects):
    bucket(objects, place.split("/")[2])
    lapsed = []
    with watchdog(place, lambda: lapsed.append(len(requests(s3, place)))):
        wait_for(lambda: lapsed)
        time.sleep(0.2)
    assert lapsed == [1 + lease.MAX_UNCHANGED_LOOKS]
    [line] = capsys.readouterr().out.splitlines()
    assert line == "train: nobody has followed this training for 0 minutes; it saves itself and ends"


def test_what_is_renewed_does_not_lapse_until_that_ends(place, monkeypatch):
    monkeypatch.setattr(lease, "LOOK_S", 0.1)  # longer than a renewal waits for its turn on a busy machine
    monkeypatch.setattr(lease, "MAX_UNCHANGED_LOOKS", 10)
    lapsed = threading.Event()
    with watchdog(place, lapsed.set):
        with heartbeat(place):
            assert not lapsed.wait(2 * lease.MAX_UNCHANGED_LOOKS * lease.LOOK_S)
        assert lapsed.wait(120)


def test_while_the_bucket_is_away_nothing_lapses(place, s3):
    lapsed, faults_left = threading.Event(), []
    s3.faults = [None] * 3 + [AWAY] * (2 * lease.MAX_UNCHANGED_LOOKS)
    with watchdog(place, lambda: (faults_left.append(len(s3.faults)), lapsed.set())):
        assert lapsed.wait(120)
    assert faults_left == [0]
    assert len(requests(s3, place)) == 1 + 3 * lease.MAX_UNCHANGED_LOOKS


def test_a_training_that_has_ended_or_is_not_of_a_cluster_is_not_watched(place, s3):
    lapsed = threading.Event()
    with watchdog(place, lapsed.set):
        wait_for(lambda: requests(s3, place))
    threads = threading.active_count()
    with watchdog("", lapsed.set):
        assert threading.active_count() <= threads
        assert not lapsed.wait(3 * lease.MAX_UNCHANGED_LOOKS * lease.LOOK_S)
