"""Buckets on a real S3 server, and through one that fails."""

import errno
import hashlib
import json
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
from servers import PAGE, Cut, Refuse, Whole, forget_client

from segline.cli import main
from segline.errors import SourceError, StageError
from segline.files import s3 as storage
from segline.files.atomic import MARK, writing
from segline.files.s3 import ATTEMPTS, Bucket, download, local_file, origin, upload
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


def test_a_file_of_a_bucket_is_copied_under_a_name_by_its_content(bucket, tmp_path):
    name = bucket({"weights/net.pth": b"one"})
    place, keep = f"s3://{name}/weights/net.pth", tmp_path / "kept"
    first = local_file(place, keep)
    assert (first.read_bytes(), first.name) == (b"one", f"{hashlib.sha256(b'one').hexdigest()[:16]}-net.pth")
    assert local_file(place, keep) == first
    bucket({"weights/net.pth": b"two"}, name)
    assert local_file(place, keep).read_bytes() == b"two"
    assert first.read_bytes() == b"one"
    assert refusal(lambda: local_file(f"s3://{name}/weights/nut.pth", keep)).startswith(f"s3://{name}/weights/nut.pth")
    assert len(list(keep.iterdir())) == 2


def test_a_file_of_this_machine_is_taken_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").write_bytes(b"one")
    assert local_file("net.pth", tmp_path / "kept") == tmp_path / "net.pth"
    assert (
        refusal(lambda: local_file("nut.pth", tmp_path / "kept"))
        == f"'nut.pth' is not a file (looked from {tmp_path}); mend the path"
    )
    assert not (tmp_path / "kept").exists()


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


def test_the_pauses_grow_and_differ(monkeypatch):
    monkeypatch.setattr(storage, "FIRST_PAUSE_S", 1.0)
    for _ in range(100):
        first, *others = storage.pauses()
        assert first == 0
        assert all(2**number / 2 <= pause <= 2**number for number, pause in enumerate(others))
    assert len(others) == ATTEMPTS - 1
    assert list(storage.pauses()) != list(storage.pauses())


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
    assert "credentials" in refusal(lambda: big.files)


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
        assert reached + after - storage.PIECE < begin <= reached + after
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


# Folders


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def written(tmp_path):
    """A folder as a stage writes it."""
    return rewrite(tmp_path / "written", {"a.txt": b"one", "x/ü y.bin": BIG, "x/y/z": b"", "docs/.hidden": b"h"})


def rewrite(folder, contents):
    with writing(folder) as work:
        for name, content in contents.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def requests(s3, *methods):
    """What was asked for since last time, by method: GET here is of an object, not of a listing."""
    asked, s3.asked = s3.asked, []
    return [path for method, path, _ in asked if method in methods and "list-type" not in path]


def test_a_folder_goes_to_a_bucket_and_comes_back_and_nothing_is_copied_twice(bucket, s3, cache, written):
    url = f"s3://{bucket({})}/runs/a b"
    upload(written, url)
    puts = requests(s3, "PUT")
    assert len([path for path in puts if MARK not in path]) == 4
    here = download(url)
    assert contents(here) == contents(written)
    assert here.parent == cache
    assert origin(here) == url
    assert origin(written) == ""
    s3.asked = []
    upload(written, f"{url}/")
    assert download(f"{url}/") == here
    assert requests(s3, "GET", "PUT", "DELETE") == []


def test_what_changed_is_sent_alone_and_what_the_folder_no_longer_has_goes(bucket, s3, s3_client, cache, written):
    name = bucket({"beside": b"stays"})
    upload(written, f"s3://{name}/out")
    before = download(f"s3://{name}/out")
    s3.asked = []
    rewrite(written, {"a.txt": b"two", "x/ü y.bin": BIG})
    upload(written, f"s3://{name}/out")
    assert [path for path in requests(s3, "PUT") if MARK not in path] == [f"/{name}/out/a.txt"]
    keys = {entry["Key"] for entry in s3_client.list_objects_v2(Bucket=name)["Contents"]}
    assert keys == {"beside", f"out/{MARK}", "out/a.txt", "out/x/ü y.bin"}
    after = download(f"s3://{name}/out")
    assert contents(after) == contents(written)
    assert after != before
    assert (before / "a.txt").read_bytes() == b"one", "someone may still read it"


def test_what_segline_did_not_write_is_not_deleted(bucket, s3, s3_client, written):
    name = bucket({"out/label/precious": b"1"})
    for url in (f"s3://{name}", f"s3://{name}/out"):
        with pytest.raises(StageError, match=r"holds objects that segline did not write; give --out another prefix$"):
            upload(written, url)
    assert requests(s3, "PUT", "DELETE") == []


def test_an_upload_that_was_cut_off_is_noticed_and_goes_on(bucket, s3, s3_client, cache, written, monkeypatch):
    url = f"s3://{bucket({})}/out"
    monkeypatch.setattr(storage, "THREADS", 1)
    s3.faults = [None, None, None, Refuse(403, "AccessDenied")]  # the listing, the sign, one file
    assert "access denied" in refusal(lambda: upload(written, url))
    assert "cut off" in refusal(lambda: download(url))
    s3.asked, s3.faults = [], []
    upload(written, url)
    assert 1 <= len([path for path in requests(s3, "PUT") if MARK not in path]) <= 3
    assert contents(download(url)) == contents(written)


def test_a_download_that_was_cut_off_goes_on(bucket, s3, cache, written, monkeypatch):
    url = f"s3://{bucket({})}/out"
    upload(written, url)
    monkeypatch.setattr(storage, "THREADS", 1)
    s3.asked, s3.faults = [], [None, None, None, Refuse(403, "AccessDenied")]
    assert "access denied" in refusal(lambda: download(url))
    assert [path.suffix for path in cache.iterdir() if path.is_dir() and path.name != "locks"] == [".partial"]
    s3.asked, s3.faults = [], []
    assert contents(download(url)) == contents(written)
    assert 1 <= len(requests(s3, "GET")) <= 3, "those that were there are not fetched again"


def test_an_object_that_changes_while_a_folder_is_copied_is_told(bucket, s3, s3_client, cache, written):
    name = bucket({})
    upload(written, f"s3://{name}/out")
    s3.faults = [None, *[Cut(0, then=lambda: s3_client.put_object(Bucket=name, Key="out/a.txt", Body=b"new"))] * 5]
    assert "changed while it was read" in refusal(lambda: download(f"s3://{name}/out"))


def download_there(url):
    return download(url), os.getpid()


def test_processes_that_want_the_same_folder_fetch_it_once(bucket, s3, cache, written):
    url = f"s3://{bucket({})}/out"
    upload(written, url)
    s3.asked = []
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        found = dict(pool.map(download_there, [url] * 8))
    assert len(found) == 1
    assert contents(next(iter(found))) == contents(written)
    assert len(requests(s3, "GET")) == len(contents(written))


def test_another_machine_gets_the_same_folder_or_none(bucket, cache, written, tmp_path):
    url = f"s3://{bucket({})}/out"
    upload(written, url)
    there = tmp_path / "elsewhere" / download(url).name
    assert download(url, there) == there
    assert contents(there) == contents(written)
    upload(rewrite(written, {"a.txt": b"two"}), url)
    assert download(url, there) == there, "it is there"
    assert "was changed since this run began" in refusal(lambda: download(url, there.with_name("another")))


def test_nothing_below_an_address_is_told_by_it(bucket, cache):
    name = bucket({"outside": b"1"})
    said = refusal(lambda: download(f"s3://{name}/out"))
    assert said == f"s3://{name}/out: there is nothing below it; mend the address, or run the stage that writes it"


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket, cache, tmp_path):
    name = bucket({"out/x/../../../evil": b"1"})
    assert "leads out of the folder" in refusal(lambda: download(f"s3://{name}/out"))
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("stays_here", [True, False])
def test_stages_read_and_write_buckets(bucket, s3, cache, tmp_path, stays_here, capfd):
    root = tmp_path / "data" if stays_here else f"s3://{bucket({})}/runs/one"
    sizes = {"drives": 6, "frames_per_drive": 2, "height": 96, "width": 128}
    words = ["--params", json.dumps({"ingest": {"synthetic": sizes}, "validate": {"min_pairs": 2}})]
    assert main(["ingest", *words, "--out", f"{root}/ingest"]) == 0, capfd.readouterr().err
    validate = ["validate", *words, "--manifest", f"{root}/ingest"]
    assert main([*validate, "--out", f"{root}/validate", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]) == 0
    found = tmp_path / "data/validate" if stays_here else download(f"{root}/validate")
    assert json.loads((found / "validation.json").read_text())
    assert (found / "docs/index.html").is_file()
    assert main([*validate, "--out", str(root)]) == StageError.exit_code
    assert "would replace --manifest" in capfd.readouterr().err
