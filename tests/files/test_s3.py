"""Buckets on a real S3 server, and through one that fails."""

import errno
import hashlib
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
from servers import PAGE, Cut, Refuse, Whole, forget_client

from segline.errors import SourceError
from segline.files.retry import ATTEMPTS
from segline.files.s3 import CHUNK_BYTES, Bucket
from segline.files.trees import Folder

NAMES = ["a.txt", "a b/c d.txt", "ü/日本.txt", "a+b%20c&d=e#f?.txt", "x/y/z/deep.txt"]
BIG = os.urandom(300_000)


@pytest.fixture
def big(bucket):
    """A bucket with one big object."""
    return Bucket(f"s3://{bucket({'data/big': BIG})}/data")


def refusal(call):
    """The one line of the SourceError that ends the run."""
    with pytest.raises(SourceError) as caught:
        call()
    [line] = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("prefix", ["", "/", "/data", "/data/", "/da ta/ü"])
def test_a_bucket_is_as_the_folder_with_the_same_files(bucket, tmp_path, prefix):
    contents = {name: f"{number} {name}".encode() * number for number, name in enumerate(NAMES)}
    hidden = {".hidden": b"1", "a/.git/x": b"2", "x/y/.z": b"3"}
    for name, content in (contents | hidden).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    inside = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    objects = {f"{inside}{name}": content for name, content in (contents | hidden).items()}
    others = {f"{inside}folder/": b""} | ({"database/q": b"4", "datum": b"5"} if inside else {})
    tree, folder = Bucket(f"s3://{bucket(objects | others)}{prefix}"), Folder(tmp_path)
    assert list(tree.files) == list(folder.files)
    for name in folder.files:
        assert tree.files[name].size == folder.files[name].size
        assert tree.read(name) == folder.read(name)
        for size in (1, 5, 10_000):
            assert tree.head(name, size) == folder.head(name, size)


def test_an_object_is_read_as_it_was_when_its_checksum_was_taken(bucket):
    name = bucket({"a": b"one"})
    tree = Bucket(f"s3://{name}")
    checksum = tree.checksum("a")
    assert tree.read("a", checksum) == b"one"
    bucket({"a": b"six"}, name)
    assert tree.read("a") == b"six"
    with pytest.raises(OSError, match="since it was ingested"):
        tree.read("a", checksum)


def test_a_listing_of_several_pages_is_whole(bucket):
    names = [f"{number:03d}" for number in range(3 * PAGE + 1)]
    tree = Bucket(f"s3://{bucket({f'p/{name}': b'1' for name in names})}/p")
    assert list(tree.files) == names


def test_the_etag_stands_for_the_content(bucket):
    name = bucket({"a": b"one", "b": b"one", "c": b"two"})
    before = Bucket(f"s3://{name}")
    assert before.checksum("a") == f"etag:{hashlib.md5(b'one').hexdigest()}-3"
    assert before.checksum("a") == before.checksum("b") != before.checksum("c")
    bucket({"a": b"six"}, name)
    after = Bucket(f"s3://{name}")
    assert after.checksum("a") != before.checksum("a")
    assert after.files["a"].stamp != before.files["a"].stamp
    assert after.files["b"] == before.files["b"]
    with pytest.raises(OSError, match="no longer") as caught:
        after.checksum("nothing")
    assert caught.value.filename == "nothing"


def read_one(tree):
    return os.getpid(), tree.read("a"), tree.head("a", 2)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_bucket_goes_to_other_processes(bucket, method):
    tree = Bucket(f"s3://{bucket({'a': b'text'})}")
    assert tree.files
    assert pickle.loads(pickle.dumps(tree)).read("a") == b"text"
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        process, content, head = pool.submit(read_one, tree).result()
    assert process != os.getpid()
    assert (content, head) == (b"text", b"te")


def test_threads_share_a_bucket(bucket):
    contents = {f"{number}": os.urandom(1000) for number in range(20)}
    tree = Bucket(f"s3://{bucket(contents)}")
    forget_client()
    with ThreadPoolExecutor(8) as pool:
        assert dict(zip(contents, pool.map(tree.read, contents), strict=True)) == contents


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_busy_server_is_asked_again(big, s3, status):
    s3.faults = [Refuse(status)] * (ATTEMPTS - 1)
    assert big.read("big") == BIG
    assert len(s3.asked) == ATTEMPTS
    s3.faults = [Refuse(503, "SlowDown"), None, Refuse(400, "RequestTimeout")]
    assert list(big.files) == ["big"]
    assert big.head("big", 10) == BIG[:10]


@pytest.mark.parametrize(
    "call", [lambda tree: tree.files, lambda tree: tree.read("big"), lambda tree: tree.head("big", 1)]
)
def test_a_server_that_stays_busy_ends_the_run(big, s3, call):
    s3.faults = [Refuse(503, "SlowDown")] * 100
    said = refusal(lambda: call(big))
    assert len(s3.asked) == ATTEMPTS
    assert f"{ATTEMPTS} attempts" in said
    assert "SlowDown" in said
    assert "run the same command again" in said


@pytest.mark.parametrize("code", ["AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId"])
@pytest.mark.parametrize(
    "call", [lambda tree: tree.files, lambda tree: tree.read("big"), lambda tree: tree.head("big", 1)]
)
def test_a_refusal_ends_the_run_at_once(big, s3, call, code):
    s3.faults = [Refuse(403, code)]
    said = refusal(lambda: call(big))
    assert len(s3.asked) == 1
    assert f"access denied ({code})" in said
    assert big.url in said


def test_an_expired_token_ends_the_run(big, s3):
    s3.faults = [Refuse(400, "ExpiredToken")]
    assert "AWS_SESSION_TOKEN" in refusal(lambda: big.files)


def test_what_cannot_be_set_up_is_one_line(bucket, monkeypatch):
    bucket({})
    assert "'nothing-here'" in refusal(lambda: Bucket("s3://nothing-here/x").files)
    assert "check the URL" in refusal(lambda: Bucket("s3://no_such bucket/x").files)
    for name, value, said in [
        ("AWS_ACCESS_KEY_ID", "", "AWS_PROFILE"),
        ("AWS_PROFILE", "nobody", "nobody"),
        ("AWS_ENDPOINT_URL", "no address", "AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", f"{ATTEMPTS} attempts"),
    ]:
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            if not value:
                changed.delenv("AWS_SECRET_ACCESS_KEY")
            forget_client()
            assert said in refusal(lambda: Bucket("s3://some-bucket/x").files)
    forget_client()


def test_a_cut_body_goes_on_where_it_stopped(big, s3):
    cuts = [100_000, 70_000, 65_536]
    s3.faults = [Cut(after) for after in cuts]
    assert big.read("big") == BIG
    assert len(s3.asked) == 4
    reached = 0
    for after, begin in zip(cuts, s3.ranges, strict=True):
        assert reached + after - CHUNK_BYTES < begin <= reached + after
        reached = begin


def test_a_listing_that_is_cut_is_asked_again(big, s3):
    s3.faults = [Cut(50)]
    assert list(big.files) == ["big"]


def test_a_body_that_is_always_cut_ends_the_run(big, s3):
    s3.faults = [Cut(10)] * 100
    assert f"{ATTEMPTS} attempts" in refusal(lambda: big.read("big"))


def test_a_server_that_knows_no_range_sends_the_whole_again(big, s3):
    s3.faults = [Cut(200_000), Whole()]
    assert big.read("big") == BIG


@pytest.mark.parametrize("knows_if_match", [True, False])
@pytest.mark.parametrize("size", [300_000, 150_000, 10])
def test_an_object_that_changes_while_it_is_read_is_not_mixed(big, s3, s3_client, knows_if_match, size):
    name = big.url.split("/")[2]

    def change():
        s3_client.put_object(Bucket=name, Key="data/big", Body=os.urandom(size))

    s3.faults = [Cut(200_000, then=change), *([] if knows_if_match else [Whole()])]
    with pytest.raises(OSError, match="changed while it was read") as caught:
        big.read("big")
    assert caught.value.filename == "big"
    assert len(s3.asked) == 2
    assert s3.headers["If-Match"] == f'"{hashlib.md5(BIG).hexdigest()}"'


@pytest.mark.parametrize("call", [lambda tree: tree.read("gone"), lambda tree: tree.head("gone", 4)])
def test_an_object_that_vanished_is_a_fault_of_the_file(big, call):
    with pytest.raises(OSError, match="no longer in the bucket") as caught:
        call(big)
    assert caught.value.filename == "gone"


def test_an_archived_object_is_a_fault_of_the_file(big, s3):
    s3.faults = [Refuse(403, "InvalidObjectState")]
    with pytest.raises(OSError, match="restore it") as caught:
        big.read("big")
    assert caught.value.errno == errno.EIO
