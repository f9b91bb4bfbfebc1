"""Folders of DVC repositories at their revisions; tests/test_versioning.py does the same with a remote on S3."""

import gc
import json
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from raw_s3 import raw_s3
from servers import Refuse, git, git_over_http, serving

from segline.data.sources import dvc
from segline.errors import SourceError
from segline.files import pack_writer, retry
from segline.files.packs import Packs

# DVC's own, of a library of its own.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning")

IMAGES = Path(__file__).parents[3] / "components" / "images"
OLD = {"a b/c d.txt": b"one", "keep.txt": b"kept" * 150_000, "ü/日本.txt": b"", "was a file": b"1"}
NEW = {"a b/c d.txt": b"two", "keep.txt": b"kept" * 150_000, "new/x.txt": b"new", "was a file/now a folder": b"1"}
BESIDE = b"git keeps this"


def write(root, contents):
    shutil.rmtree(root, ignore_errors=True)
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository with two versions of a folder, its data in the cache and in a remote."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("made") / "repository"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("DVC_NO_ANALYTICS", "1")
        changed.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / "site"))
        git("init", "--quiet", "--initial-branch", "main", cwd=folder)
        with Repo.init(str(folder)) as repo:
            with repo.config.edit() as config:
                config["remote"]["store"] = {"url": str(folder.parent / "store")}
                config["core"]["remote"] = "store"
            for version, contents in (("v1", OLD), ("v2", NEW)):
                write(folder / "sets" / "data", contents)
                (folder / "sets" / "beside.txt").write_bytes(BESIDE)
                repo.add(str(folder / "sets" / "data"))
                repo.push()
                git("add", ".", cwd=folder)
                git("commit", "--quiet", "-m", version, cwd=folder)
                git("tag", version, cwd=folder)
    return folder


@pytest.fixture
def repository(made, tmp_path, monkeypatch):
    """A copy of it; its remote is shared."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    return shutil.copytree(made, tmp_path / "repository", symlinks=True)


@pytest.fixture
def take(opening):
    def open_it(repository, revision="HEAD", path="sets/data"):
        return opening(f"dvc://{repository}", dvc={"path": path, "revision": revision})

    return open_it


@pytest.fixture
def refused_take(refused):
    def open_it(repository, revision="HEAD", path="sets/data"):
        return refused(f"dvc://{repository}", dvc={"path": path, "revision": revision})

    return open_it


def stamps(tree):
    return {path: file.stamp for path, file in tree.files.items()}


@pytest.mark.parametrize(
    ("revision", "expected"), [("v1", OLD), ("v2", NEW), ("HEAD", NEW), ("main~1", OLD), ("", NEW), ("main", NEW)]
)
def test_a_revision_is_as_it_was(repository, take, holds, revision, expected):
    opened = take(repository, revision)
    assert holds(opened.tree) == expected
    commit = git("rev-parse", f"{revision or 'HEAD'}^{{commit}}", cwd=repository)
    assert (opened.root, opened.revision) == ("", f"git:{commit}")


def test_what_is_in_the_working_directory_does_not_matter(repository, take, holds):
    shutil.rmtree(repository / "sets")
    before = git("status", "--porcelain", "--untracked-files=all", cwd=repository)
    assert holds(take(repository, "v1").tree) == OLD
    assert git("status", "--porcelain", "--untracked-files=all", cwd=repository) == before


def test_a_commit_is_known_by_its_hash(repository, take):
    commit = git("rev-parse", "v1", cwd=repository)
    assert take(repository, commit).revision == f"git:{commit}" == take(repository, commit[:9]).revision


def test_a_relative_path_is_looked_for_from_here(repository, take, holds, monkeypatch):
    (repository.parent / "here").mkdir()
    monkeypatch.chdir(repository.parent / "here")
    assert holds(take("../repository", "v1").tree) == OLD
    assert holds(take(repository, "v1").tree) == OLD


@pytest.mark.parametrize("revision", ["v1", "HEAD", "main"])
def test_a_git_url_is_cloned_and_the_clone_removed(repository, take, holds, revision, monkeypatch, tmp_path):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    assert holds(take(f"file://{repository}", revision).tree) == (OLD if revision == "v1" else NEW)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_git_itself_is_not_needed(repository, take, holds, scheme, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert holds(take(f"{scheme}{repository}", "v1").tree) == OLD


@pytest.fixture
def asking(repository, monkeypatch):
    """A git server that wants a login, and the image's way to give one; yields the source."""
    monkeypatch.setenv("GIT_ASKPASS", str(IMAGES / "askpass.sh"))
    monkeypatch.setenv("SEGLINE_GIT_USERNAME", "somebody")
    with serving(git_over_http(repository.parent, "somebody:a secret")) as server:
        yield f"{server.address}/repository"
    with warnings.catch_warnings():
        # DVC's git leaves its connections open.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.parametrize("revision", ["v1", "main~1"])
def test_a_repository_that_wants_a_login_gets_it(asking, take, holds, revision, monkeypatch):
    monkeypatch.setenv("SEGLINE_GIT_PASSWORD", "a secret")
    assert holds(take(asking, revision).tree) == OLD


@pytest.mark.parametrize("password", ["another secret", ""])
def test_a_login_that_is_refused_is_one_line_and_not_told(asking, refused_take, password, monkeypatch):
    monkeypatch.setenv("SEGLINE_GIT_PASSWORD", password)
    said = refused_take(asking)
    assert "No valid credentials" in said
    assert "login" in said
    assert "secret" not in said


@pytest.mark.parametrize("login", ["somebody:secret", "secret-token"])
def test_a_login_in_the_address_is_refused(refused_take, login):
    said = refused_take(f"https://{login}@example.org/data.git")
    assert "GIT_ASKPASS" in said
    assert "secret" not in said


def test_without_the_cache_the_data_come_from_the_remote(repository, take, holds):
    shutil.rmtree(repository / ".dvc" / "cache")
    assert holds(take(repository, "v1").tree) == OLD


def test_a_hostile_listing_cannot_leave_the_folder(repository, take, holds, files):
    """In the cache, a folder is a file that lists its names."""
    for listing in (repository / ".dvc" / "cache").rglob("*.dir"):
        listing.chmod(0o644)
        listing.write_text(listing.read_text().replace('"keep.txt"', '"../../../evil"'))
    with suppress(SourceError):
        take(repository)
    assert not list(repository.parent.rglob("evil*"))


@pytest.mark.parametrize("path", ["sets", "/sets/", "", "."])
def test_what_git_keeps_is_taken_too(repository, take, holds, path):
    prefix = "" if path.strip("/") == "sets" else "sets/"
    got = holds(take(repository, "v1", path).tree)
    assert got == {f"{prefix}data/{name}": content for name, content in OLD.items()} | {f"{prefix}beside.txt": BESIDE}


def test_what_is_there_is_not_fetched_again(repository, take, monkeypatch):
    before = stamps(take(repository, "v1").tree)
    shutil.rmtree(repository / ".dvc" / "cache")
    shutil.move(repository.parent / "repository", repository.parent / "moved")
    with pytest.raises(OSError, match="repository"):
        os.stat(repository)
    shutil.move(repository.parent / "moved", repository.parent / "repository")
    assert stamps(take(repository, "v1").tree) == before


@pytest.fixture
def fetched(monkeypatch):
    """The names of the files that are fetched, in the order of their names."""
    names = []
    fetch = dvc._fetch

    def record(system, where, remote, path):
        names.append(remote.path.removeprefix("/sets/data/"))
        fetch(system, where, remote, path)

    monkeypatch.setattr(dvc, "_fetch", record)
    return lambda: sorted(names)


@pytest.mark.parametrize("damage", ["a byte", "the end", "the index", "the pack"])
def test_what_is_missing_or_damaged_is_fetched_again(repository, take, holds, files, fetched, damage):
    take(repository, "v1")
    before, packs = fetched(), {path.name: path.read_bytes() for path in files.iterdir()}
    pack, index = files / "00000.tar", files / "index.json"
    if damage == "a byte":
        content = bytearray(pack.read_bytes())
        content[json.loads(index.read_text())["files"]["keep.txt"][1]] ^= 1
        pack.write_bytes(content)
    elif damage == "the end":
        pack.write_bytes(pack.read_bytes()[:-1])
    else:
        (pack if damage == "the pack" else index).unlink()
    assert holds(take(repository, "v1").tree) == OLD
    assert fetched() == sorted([*before, *(["keep.txt"] if damage == "a byte" else before)])
    assert {path.name: path.read_bytes() for path in files.iterdir()} == packs


def test_another_revision_fetches_what_differs_alone(repository, take, holds, fetched):
    take(repository, "v1")
    assert fetched() == sorted(OLD)
    assert holds(take(repository, "v2").tree) == NEW
    assert fetched() == sorted([*OLD, *(NEW.keys() - {"keep.txt"})])
    assert holds(take(repository, "v1").tree) == OLD


def test_a_run_that_was_interrupted_goes_on_behind_its_last_pack(repository, take, holds, files, fetched, monkeypatch):
    take(repository, "v1")
    expected = {path.name: path.read_bytes() for path in files.iterdir()}
    assert [name for name in expected if name.endswith(".tar")] == ["00000.tar"]
    shutil.rmtree(files)
    monkeypatch.setattr(pack_writer, "PACK_BYTES", 100_000)
    take(repository, "v1")
    expected = {path.name: path.read_bytes() for path in files.iterdir()}
    assert sum(name.endswith(".tar") for name in expected) == 2  # one is closed by keep.txt
    shutil.rmtree(files)
    before = fetched()
    add = pack_writer.PackWriter.add

    def stop(packs, path, *rest):
        if path > "keep.txt":
            raise KeyboardInterrupt
        add(packs, path, *rest)

    with monkeypatch.context() as stopped:
        stopped.setattr(pack_writer.PackWriter, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            take(repository, "v1")
    assert not files.exists()
    monkeypatch.setattr(dvc, "AHEAD", 1)
    interrupted = fetched()
    assert holds(take(repository, "v1").tree) == OLD
    assert len(fetched()) == len(interrupted) + 2  # "was a file" and "ü/日本.txt"
    assert before
    assert {path.name: path.read_bytes() for path in files.iterdir()} == expected


def test_the_manifest_of_other_files_does_not_stand(repository, take, files):
    manifest = files.parent / "manifest.parquet"
    take(repository, "v1", "sets")  # with a file that git keeps
    manifest.touch()
    take(repository, "v1", "sets")
    assert manifest.is_file()
    take(repository, "v2", "sets")
    assert not manifest.exists()


@pytest.mark.parametrize("changed", ["00000.tar", "index.json", ".segline"])
def test_the_manifest_goes_before_the_first_file_changes(repository, take, files, monkeypatch, changed):
    """A file is damaged, or all are of another origin."""
    manifest = files.parent / "manifest.parquet"
    take(repository, "v1")
    manifest.touch()
    (files / changed).write_bytes(b"changed")
    touched = []

    def watch(owner, name):
        change = getattr(owner, name)

        def watched(*paths, **settings):
            inside = [path for path in paths if Path(path).is_relative_to(files)]
            assert not inside or not manifest.exists()
            touched.extend(inside)
            return change(*paths, **settings)

        monkeypatch.setattr(owner, name, watched)

    watch(Path, "unlink")
    watch(Path, "rename")
    watch(os, "replace")
    take(repository, "v1")
    assert touched
    assert not manifest.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"revision": "v3"}, "unknown Git revision 'v3'; check ingest.source and ingest.dvc.revision"),
        ({"path": "sets/dato"}, "no files there"),
        ({"path": "sets/data.dvc"}, "no files there"),
        ({"repository": "/nowhere/at all"}, "is not there"),
        ({"repository": ""}, "is not there"),
        ({"repository": "file:///nowhere/at all"}, "nowhere"),
        ({"repository": "https://127.0.0.1:1/data.git"}, "127.0.0.1"),
    ],
)
def test_what_cannot_be_taken_is_one_line(repository, refused_take, files, changes, said):
    assert said in refused_take(**{"repository": str(repository)} | changes)
    assert not files.exists()


def test_a_folder_without_git_is_one_line(repository, refused_take):
    shutil.rmtree(repository / ".git")
    said = refused_take(repository)
    assert "is not a git repository" in said
    assert "check ingest.source and ingest.dvc.revision" in said


def test_data_that_were_never_pushed_are_one_line(repository, refused_take):
    shutil.rmtree(repository / ".dvc" / "cache")
    config = repository / ".dvc" / "config"
    config.write_text(config.read_text().replace("store", "elsewhere"))
    git("commit", "--quiet", "-am", "another remote", cwd=repository)
    said = refused_take(repository)
    assert "was it pushed" in said


def test_data_that_are_damaged_in_the_cache_are_one_line(repository, refused_take, files):
    for path in (repository / ".dvc" / "cache").rglob("*"):
        if path.is_file() and path.read_bytes() == b"two":
            path.chmod(0o644)
            path.write_bytes(b"twu")
    assert "is damaged" in refused_take(repository)
    assert not files.exists()


def test_without_dvc_it_says_what_to_install(repository, refused_take, monkeypatch):
    monkeypatch.setitem(sys.modules, "dvc.api", None)
    assert "install segline[dvc]" in refused_take(repository)


LIMITED = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
from segline.cli import main
params = {"ingest": {"source": sys.argv[1], "dvc": {"path": "sets/data"}}}
sys.exit(main(["ingest", "--params", json.dumps(params), "--out", sys.argv[2]]))
"""


def test_a_full_disk_is_one_line_and_leaves_no_half_file(repository, take, files, holds):
    take(repository)  # DVC has its own notes of the repository now, and need not write them
    shutil.rmtree(files)
    words = [sys.executable, "-c", LIMITED, f"dvc://{repository}", files.parent]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    [line] = done.stderr.splitlines()
    assert done.returncode == 3
    assert "cannot be written (File too large)" in line
    assert not files.exists()
    assert not list(files.parent.rglob("*.tar"))
    assert holds(take(repository).tree) == NEW


def test_the_parameters_of_the_line_are_enough(repository, files):
    from segline.cli import main

    params = {"ingest": {"source": f"dvc://{repository}", "dvc": {"path": "sets/data", "revision": "v1"}}}
    assert main(["ingest", "--params", json.dumps(params), "--out", str(files.parent)]) == 4  # it is no wad
    assert "keep.txt" in Packs(files).files


@pytest.fixture
def remote(monkeypatch):
    """A function: DVC's own file system of a remote on the S3 server that gives such an answer."""
    import fsspec.config
    from dvc_s3 import S3FileSystem

    monkeypatch.setattr(fsspec.config, "conf", {})
    monkeypatch.setattr("fsspec.config.apply_config.__defaults__", (fsspec.config.conf,))

    def open_remote(server):
        keys = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}
        return S3FileSystem(endpointurl=server.address, **keys).fs

    return open_remote


def test_the_requester_pays_for_a_dvc_remote_too(remote, monkeypatch):
    with serving(raw_s3({"data/a": b"one"})) as server:
        monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
        dvc._let_requester_pay()
        assert remote(server).cat_file("b/data/a") == b"one"
        assert server.headers["x-amz-request-payer"] == "requester"


def test_a_refusal_of_a_dvc_remote_is_told_with_what_to_set(remote):
    with serving(raw_s3({})) as server:
        server.faults = [Refuse(403, "AccessDenied")] * 9
        with pytest.raises(PermissionError) as refused:
            remote(server).cat_file("b/data/a")
    with pytest.raises(SourceError, match=r"the DVC remote: access denied .* set AWS_REQUEST_PAYER=requester"):
        dvc._raise_if_refused(refused.value, "dvc://x")


@pytest.mark.parametrize("name", ["a#1.txt", "a?1.txt"])
def test_a_name_that_a_version_aware_remote_does_not_give_back(
    name, s3, s3_server, s3_client, tmp_path, refused_take, monkeypatch
):
    from dvc.repo import Repo

    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    bucket = f"versioned-{ord(name[1])}"
    s3_client.create_bucket(Bucket=bucket)
    s3_client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    folder = tmp_path / "repository"
    write(folder / "data", {"plain.txt": b"1", name: b"2"})
    git("init", "--quiet", "--initial-branch", "main", cwd=folder)
    with Repo.init(str(folder)) as repo:
        with repo.config.edit() as config:
            store = {"url": f"s3://{bucket}/x", "version_aware": True, "endpointurl": s3_server}
            config["remote"]["store"], config["core"]["remote"] = store, "store"
        repo.add(str(folder / "data"))
        assert repo.push() == 2
    git("add", ".", cwd=folder)
    git("commit", "--quiet", "-m", "data", cwd=folder)
    shutil.rmtree(folder / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "site", ignore_errors=True)
    assert "DVC reads no name with # or ? from it: rename the file" in refused_take(folder, path="data")
