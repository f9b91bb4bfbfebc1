"""The bill of materials that an image holds, attached to the image in its registry, where scanners look for it."""

import json
import subprocess
from typing import Any

from pipelines.registry import OCI_INDEX, OCI_MANIFEST, RegistryError, Repository, sha256

FOLDER = "/usr/share/segline"
"""The folder of the images that holds the files; components/images/install.sh and the Dockerfile write them."""
CYCLONEDX = "application/vnd.cyclonedx+json"
FILES = {"sbom.cdx.json": CYCLONEDX, "sbom-debian.txt": "text/plain"}
"""The files and their types: the Python packages, and the packages of Debian."""
EMPTY = b"{}"
"""The configuration of what is no image, see "Guidance for an Empty Descriptor" of the OCI image specification 1.1."""
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def attach_bill(name: str, tag: str, engine: str) -> str:
    """Attach the bill of an image to it in its registry, and return the digest of what was attached.

    The same bill again changes nothing.

    Args:
        name: The name of the image, which begins with the registry's host.
        tag: Its tag.
        engine: The program that runs the image, ``docker`` or ``podman``.

    Raises:
        RegistryError: The image cannot be run, or the registry lacks it or refuses.
    """
    repository = Repository(name)
    digest = repository.digest(tag)
    contents = {file: _read(engine, f"{name}@{digest}", file) for file in FILES}
    subject, kind = repository.manifest(digest)
    layers = [
        _push_blob(repository, contents[file], kind) | {"annotations": {"org.opencontainers.image.title": file}}
        for file, kind in FILES.items()
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": CYCLONEDX,
        "config": _push_blob(repository, EMPTY, EMPTY_TYPE),
        "layers": layers,
        "subject": _descriptor(subject, kind),
    }
    content = json.dumps(manifest, sort_keys=True).encode()
    answer = _push_manifest(repository, sha256(content), content, OCI_MANIFEST)
    if "OCI-Subject" not in answer.headers:
        _add_to_list(repository, digest, _descriptor(content, OCI_MANIFEST) | {"artifactType": CYCLONEDX})
    return sha256(content)


def _read(engine: str, image: str, file: str) -> bytes:
    """Return a file of an image, which runs for that without network and rights."""
    confined = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--entrypoint", "cat"]
    try:
        done = subprocess.run([engine, "run", *confined, image, f"{FOLDER}/{file}"], capture_output=True, check=False)
    except OSError as error:
        raise RegistryError(f"--engine {engine}: {error.strerror}; expected docker or podman") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines() or ["no message"]
        raise RegistryError(f"{engine} did not read {FOLDER}/{file} of {image} ({lines[-1][:200]})")
    return done.stdout


def _descriptor(content: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": sha256(content), "size": len(content)}


def _push_blob(repository: Repository, content: bytes, kind: str) -> dict[str, Any]:
    """Upload a content unless the registry has it, and return its descriptor."""
    digest = sha256(content)
    if repository.request("HEAD", f"blobs/{digest}", allowed=(404,)).status_code == 404:
        place = repository.request("POST", "blobs/uploads/").headers.get("Location", "")
        headers = {"Content-Type": "application/octet-stream"}
        joint = "&" if "?" in place else "?"
        repository.request("PUT", f"{place}{joint}digest={digest}", data=content, headers=headers)
    return _descriptor(content, kind)


def _push_manifest(repository: Repository, reference: str, content: bytes, kind: str) -> Any:
    return repository.request("PUT", f"manifests/{reference}", data=content, headers={"Content-Type": kind})


def _add_to_list(repository: Repository, digest: str, entry: dict[str, Any]) -> None:
    """Add an entry to the list of what belongs to an image, which a registry without the referrers API has as a tag.

    See "Referrers Tag Schema" of the OCI distribution specification 1.1.
    """
    tag = digest.replace(":", "-")
    known, _ = repository.manifest(tag)
    entries = json.loads(known)["manifests"] if known else []
    if entry["digest"] not in [other["digest"] for other in entries]:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, entry]}
        _push_manifest(repository, tag, json.dumps(index, sort_keys=True).encode(), OCI_INDEX)
