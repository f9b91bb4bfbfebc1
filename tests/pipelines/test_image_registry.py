"""Digests and bills of materials in a real registry, Debian's docker-registry; logins at servers that ask for them."""

import base64
import hashlib
import json
import shutil
import urllib.request

import pytest
import yaml
from servers import free_port, running, serving, wait_for

pytest.importorskip("kfp")

from pipelines import __main__ as program
from pipelines import registry
from pipelines.registry import RegistryError, Repository, find_digest

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
BILLS = {"sbom.cdx.json": b'{"bomFormat": "CycloneDX"}', "sbom-debian.txt": b"libc6\t2.36\n"}


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def request(method, url, body=None, **headers):
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, body, told, method=method)) as answer:
        return answer.read(), dict(answer.headers)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The host and port of a registry without logins."""
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry is not installed (Debian's package of that name)")
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    content = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.yml").write_text(yaml.safe_dump(content))
    words = ["docker-registry", "serve", str(folder / "config.yml")]
    with running(words, {"OTEL_TRACES_EXPORTER": "none"}, folder / "log") as process:
        wait_for(port, process)
        yield f"127.0.0.1:{port}"


def push_image(host, name, tag, content=b"layer"):
    """Push a small image as the registry's API has it, and return the digest of its manifest."""
    root = f"http://{host}/v2/{name}"
    entries = []
    for kind, blob in ((CONFIG, b'{"architecture": "amd64", "os": "linux"}'), (LAYER, content)):
        place = request("POST", f"{root}/blobs/uploads/")[1]["Location"]
        request("PUT", f"{place}&digest={digest_of(blob)}", blob, Content_Type="application/octet-stream")
        entries.append({"mediaType": kind, "size": len(blob), "digest": digest_of(blob)})
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": entries[0], "layers": entries[1:]}
    text = json.dumps(manifest).encode()
    request("PUT", f"{root}/manifests/{tag}", text, Content_Type=MANIFEST)
    return digest_of(text)


@pytest.fixture(scope="module")
def images(host):
    """The registry with the three images, and their digests."""
    digests = {name: push_image(host, f"segline/{name}", "1.0", name.encode()) for name in ("data", "train", "mlflow")}
    return f"{host}/segline", digests


def executors(path):
    return next(iter(yaml.safe_load_all(path.read_text())))["deploymentSpec"]["executors"]


def test_a_pipeline_is_compiled_with_the_digests_that_the_registry_has(images, tmp_path, capsys):
    place, digests = images
    out = tmp_path / "pipeline.yaml"
    words = ["compile", "--registry", place, "--tag", "1.0", "--out", str(out), "--rayjob"]
    assert program.main([*words, "--digest"]) == 0
    assert f"{place}/train:1.0 is {place}/train@{digests['train']}" in capsys.readouterr().out
    found = {name: entry["container"]["image"] for name, entry in executors(out).items()}
    assert found["exec-ingest"] == found["exec-label"] == f"{place}/data@{digests['data']}"
    assert found["exec-train"] == found["exec-outcome"] == f"{place}/train@{digests['train']}"
    assert not [image for image in found.values() if "@sha256:" not in image]
    variables = executors(out)["exec-train"]["container"]["env"]
    assert {"name": "SEGLINE_IMAGE", "value": f"{place}/train@{digests['train']}"} in variables


def test_a_tag_that_moved_has_another_digest(host):
    first = push_image(host, "moved", "1.0", b"first")
    assert find_digest(f"{host}/moved", "1.0") == first
    second = push_image(host, "moved", "1.0", b"second")
    assert find_digest(f"{host}/moved", "1.0") == second != first


def test_the_digest_of_an_image_of_several_platforms_is_that_of_its_index(host):
    kind = "application/vnd.oci.image.index.v1+json"
    digest = push_image(host, "several", "amd64")
    size = len(request("GET", f"http://{host}/v2/several/manifests/{digest}", Accept=MANIFEST)[0])
    entry = {"mediaType": MANIFEST, "digest": digest, "size": size}
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": [{**entry, "platform": {"os": "linux"}}]}
    text = json.dumps(index).encode()
    request("PUT", f"http://{host}/v2/several/manifests/1.0", text, Content_Type=kind)
    assert find_digest(f"{host}/several", "1.0") == digest_of(text)


def test_a_tag_that_is_missing_is_named(images, capsys, tmp_path):
    place, _ = images
    words = ["compile", "--registry", place, "--tag", "none", "--digest", "--out", str(tmp_path / "x.yaml")]
    assert program.main(words) == RegistryError.exit_code
    assert capsys.readouterr().err == (
        f"pipelines compile: {place}/data has no tag none; push the image first, or fix --registry and --tag\n"
    )
    assert not (tmp_path / "x.yaml").exists()


def test_where_the_registry_does_not_answer_the_local_engine_is_asked(monkeypatch):
    name = f"127.0.0.1:{free_port()}/segline/train"
    monkeypatch.setattr(registry, "_digest_in_engine", lambda *given: f"digest of {given}")
    assert find_digest(name, "1.0") == f"digest of {(name, '1.0')}"
    monkeypatch.setattr(registry, "_digest_in_engine", lambda *_: "")
    with pytest.raises(RegistryError, match=r"cannot be reached \(Connection refused\); nor does Docker here know"):
        find_digest(name, "1.0")


@pytest.mark.parametrize("command", ["compile", "sbom --tag 1.0"])
def test_a_registry_without_a_host_has_no_digests(command, capsys):
    digest = [] if "sbom" in command else ["--digest"]
    assert program.main([*command.split(), "--registry", "segline", *digest]) == 2
    assert "--registry: got 'segline', which names no server" in capsys.readouterr().err


@pytest.fixture
def engine(tmp_path):
    """A program that prints the file that it is told to print in the image."""
    for name, content in BILLS.items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / "engine"
    path.write_text(f'#!/bin/sh\nfor last in "$@"; do :; done\ncat "{tmp_path}/${{last##*/}}"\n')
    path.chmod(0o755)
    return path


def referrers(host, name, digest):
    """Return the list that clients read where a registry has no referrers API."""
    kind = "application/vnd.oci.image.index.v1+json"
    return json.loads(request("GET", f"http://{host}/v2/{name}/manifests/{digest.replace(':', '-')}", Accept=kind)[0])


def test_the_bill_of_materials_is_attached_once_and_can_be_read(host, images, engine):
    place, digests = images
    for _ in range(2):
        assert program.main(["sbom", "--registry", place, "--tag", "1.0", "--engine", str(engine)]) == 0
    for name, digest in digests.items():
        (entry,) = referrers(host, f"segline/{name}", digest)["manifests"]
        assert entry["artifactType"] == "application/vnd.cyclonedx+json"
        url = f"http://{host}/v2/segline/{name}"
        text, _ = request("GET", f"{url}/manifests/{entry['digest']}", Accept=entry["mediaType"])
        assert (digest_of(text), len(text)) == (entry["digest"], entry["size"])
        manifest = json.loads(text)
        assert manifest["subject"]["digest"] == digest
        assert manifest["artifactType"] == entry["artifactType"]
        found = {
            layer["annotations"]["org.opencontainers.image.title"]: request("GET", f"{url}/blobs/{layer['digest']}")[0]
            for layer in manifest["layers"]
        }
        assert found == BILLS
        # The image is the one that it was.
        assert find_digest(f"{place}/{name}", "1.0") == digest


def test_what_others_attached_stays(host, engine):
    digest = push_image(host, "shared", "1.0")
    kind = "application/vnd.oci.image.index.v1+json"
    size = len(request("GET", f"http://{host}/v2/shared/manifests/{digest}", Accept=MANIFEST)[0])
    other = {"mediaType": MANIFEST, "digest": digest, "size": size, "artifactType": "application/x-signature"}
    text = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [other]}).encode()
    request("PUT", f"http://{host}/v2/shared/manifests/{digest.replace(':', '-')}", text, Content_Type=kind)
    from pipelines.bill import attach_bill

    attached = attach_bill(f"{host}/shared", "1.0", str(engine))
    assert [entry["digest"] for entry in referrers(host, "shared", digest)["manifests"]] == [digest, attached]


def test_an_engine_that_fails_is_named(images, tmp_path, capsys):
    place, _ = images
    (tmp_path / "engine").write_text("#!/bin/sh\necho 'no such image' >&2\nexit 1\n")
    (tmp_path / "engine").chmod(0o755)
    for name, words in (("engine", "no such image"), ("none", "expected docker or podman")):
        words_ = ["sbom", "--registry", place, "--tag", "1.0", "--engine", str(tmp_path / name)]
        assert program.main(words_) == RegistryError.exit_code
        assert words in capsys.readouterr().err


@pytest.fixture
def login(tmp_path, monkeypatch):
    """Keep a login as docker login does."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)

    def keep(host, **entry):
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: entry}}))

    return keep


BASIC = base64.b64encode(b"anna:secret").decode()
KNOWN = "sha256:" + "a" * 64


def guarded(challenge, admitted, token=None):
    """Answer as a registry that asks for a login, and as the server of its tokens."""
    asked = []

    def answer(handler):
        address = f"http://{handler.headers['Host']}"
        body = handler.rfile.read(int(handler.headers["Content-Length"] or 0)).decode()
        if handler.path.startswith("/token"):
            asked.append((handler.command, handler.path, handler.headers["Authorization"], body))
            return token(handler, body)
        if handler.headers["Authorization"] == admitted:
            return 200, {"Docker-Content-Digest": KNOWN}, b""
        return 401, {"WWW-Authenticate": challenge.format(address=address)}, b""

    return answer, asked


def test_the_login_of_podman_is_taken_from_the_file_that_is_named(login, tmp_path, monkeypatch):
    answer, _ = guarded('Basic realm="here"', f"Basic {BASIC}")
    with serving(answer) as server:
        host = server.address.removeprefix("http://")
        login(host, auth=base64.b64encode(b"anna:wrong").decode())
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {host: {"auth": BASIC}}}), encoding="utf-8")
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
        assert find_digest(f"{host}/segline/train", "1.0") == KNOWN


BEARER = 'Bearer realm="{address}/token",service="registry",scope="repository:segline/train:pull"'


def test_a_registry_that_asks_for_a_password_gets_it(login):
    answer, _ = guarded('Basic realm="here"', f"Basic {BASIC}")
    with serving(answer) as server:
        host = server.address.removeprefix("http://")
        login(host, auth=BASIC)
        assert find_digest(f"{host}/segline/train", "1.0") == KNOWN
        login(host, auth=base64.b64encode(b"anna:wrong").decode())
        with pytest.raises(RegistryError, match=rf"refuses {host}/segline/train \(401\); use `docker login {host}`"):
            find_digest(f"{host}/segline/train", "1.0")


@pytest.mark.parametrize(
    ("entry", "method", "expected"),
    [
        ({"auth": BASIC}, "GET", f"Basic {BASIC}"),
        ({}, "GET", None),
        ({"auth": BASIC, "identitytoken": "lasting"}, "POST", None),
    ],
    ids=["a password", "anonymous", "a lasting token"],
)
def test_a_token_is_fetched_where_the_registry_says(login, entry, method, expected):
    def token(handler, body):
        return 200, {"Content-Type": "application/json"}, json.dumps({"token": "short"}).encode()

    answer, asked = guarded(BEARER, "Bearer short", token)
    with serving(answer) as server:
        host = server.address.removeprefix("http://")
        login(host, **entry)
        assert find_digest(f"{host}/segline/train", "1.0") == KNOWN
    ((how, path, authorization, body),) = asked
    assert (how, authorization) == (method, expected)
    assert "repository%3Asegline%2Ftrain%3Apull" in path + body
    assert ("refresh_token=lasting" in body) == ("identitytoken" in entry)


def test_a_login_is_sent_to_no_server_without_tls(login):
    answer, _ = guarded('Bearer realm="http://example.org/token",service="registry"', "Bearer short")
    with serving(answer) as server:
        host = server.address.removeprefix("http://")
        login(host, auth=BASIC)
        with pytest.raises(RegistryError, match="refuses"):
            find_digest(f"{host}/segline/train", "1.0")


def test_a_digest_that_the_registry_does_not_tell_is_computed():
    def answer(handler):
        return 200, {"Content-Type": MANIFEST}, b"manifest"

    with serving(answer) as server:
        host = server.address.removeprefix("http://")
        assert find_digest(f"{host}/segline/train", "1.0") == digest_of(b"manifest")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("registry.example.org/segline/train", "https://registry.example.org/v2/segline/train/"),
        ("docker.io/anna/train", "https://registry-1.docker.io/v2/anna/train/"),
        ("localhost:5000/train", "http://localhost:5000/v2/train/"),
        ("127.0.0.1.example.org/train", "https://127.0.0.1.example.org/v2/train/"),
    ],
)
def test_only_this_machine_is_asked_without_tls(name, url):
    assert Repository(name)._url == url


def test_a_registry_with_the_referrers_api_gets_no_list(engine):
    """Registries that answer with OCI-Subject keep the list themselves."""
    put = []

    def answer(handler):
        handler.rfile.read(int(handler.headers["Content-Length"] or 0))
        if handler.command == "PUT":
            put.append(handler.path.rpartition("/")[2])
            return 201, {"OCI-Subject": KNOWN}, b""
        return 200, {"Content-Type": MANIFEST, "Docker-Content-Digest": KNOWN}, b"manifest"

    from pipelines.bill import attach_bill

    with serving(answer) as server:
        host = server.address.removeprefix("http://")
        assert put == []
        assert [attach_bill(f"{host}/train", "1.0", str(engine))] == put
