"""The definition of the images, and the images themselves if Docker has them (`make images TAG=dev`)."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = (ROOT / "components" / "images" / "Dockerfile").read_text().replace("\\\n", " ")
LINES = [line.split(maxsplit=1) for line in FILE.splitlines() if line and not line.startswith("#")]
LOCKS = ("data", "train", "server", "build")
TAG = "dev"
CONFINED = ["--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL", "--user", "10001:10001"]
MOST_DATA_BYTES = 700e6


def stages():
    """Return the lines of each target, in order."""
    found = {}
    for word, rest in LINES:
        if word == "FROM":
            name = rest.rpartition(" AS ")[2]
            found[name] = []
        elif found:
            found[name].append((word, rest))
    return found


def test_every_stage_begins_at_the_base_or_at_another():
    origins = [rest.split()[0] for word, rest in LINES if word == "FROM"]
    assert all(origin == "${BASE}" or origin in stages() for origin in origins)
    (default,) = [rest for word, rest in LINES if word == "ARG" and rest.startswith("BASE=")]
    assert not default.endswith(":latest")
    assert ":" in default.rpartition("/")[2]


@pytest.mark.parametrize("target", ["data", "train", "mlflow"])
def test_an_image_ends_as_a_user_without_rights_and_names_its_commit(target):
    users = [rest for word, rest in stages()[target] if word == "USER"]
    assert users[-1:] == ["10001:10001"]
    last = [word for word, _ in stages()[target]]
    assert last.index("USER") < last.index("CMD")
    # What it can run is tried as that user.
    assert "RUN" in last[last.index("USER") :]
    labels = " ".join(rest for word, rest in stages()[target] if word == "LABEL")
    assert 'org.opencontainers.image.revision="${COMMIT}"' in labels
    assert 'org.opencontainers.image.version="${VERSION}"' in labels


@pytest.mark.parametrize("target", ["data", "train"])
def test_a_new_commit_makes_no_new_layer_of_libraries(target):
    copies = [rest for word, rest in stages()[target] if word == "COPY"]
    assert copies == [f"--from={target}-libraries /opt/segline /opt/segline", f"--from={target}-environment /added /"]
    reads = [rest for word, rest in stages()[f"{target}-libraries"] if word == "COPY"]
    assert reads == [f"requirements/{target}.lock requirements/"]


def test_nothing_is_fetched_by_name_and_no_secret_is_asked_for():
    assert "ADD" not in [word for word, _ in LINES]
    told = [rest for word, rest in LINES if word in ("ARG", "ENV")]
    assert not [rest for rest in told if re.search("secret|password|token|key", rest, re.IGNORECASE)]
    installs = [rest for word, rest in LINES if word == "RUN" and re.search("pip (install|sync)", rest)]
    assert installs
    assert all("--require-hashes" in rest for rest in installs)


def test_the_context_is_only_what_is_copied():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {source for word, rest in LINES if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]}
    assert {source.partition("/")[0] for source in copied} == {entry.partition("/")[0] for entry in allowed}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_agrees_with_the_one_of_the_tests(lock):
    def pins(name):
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        return set(re.findall(r"^([a-z0-9.-]+==[^ ;\\]+)", text, re.MULTILINE))

    def known(pin):
        return pin.partition("==")[0] in {other.partition("==")[0] for other in pins("dev")}

    # What lists the contents of an image is in the lock of the build alone.
    shared = {pin for pin in pins(lock) if lock != "build" or known(pin)}
    assert shared
    assert shared <= pins("dev")
    assert (lock == "train") == any(pin.startswith("torch==") for pin in pins(lock))


def test_every_dependency_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    data = (ROOT / "requirements" / "data.lock").read_text()
    train = (ROOT / "requirements" / "train.lock").read_text()
    for lock, wanted in ((data, project["dependencies"]), (train, project["optional-dependencies"]["train"])):
        names = [re.match(r"[a-z0-9-]+", entry)[0] for entry in wanted]
        assert [name for name in names if f"\n{name}" not in f"\n{lock}"] == []


def engine(*words):
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=240)


def image(name):
    """Return what Docker knows about an image."""
    try:
        found = engine("image", "inspect", f"segline/{name}:{TAG}")
    except FileNotFoundError:
        pytest.skip("docker is not installed")
    if found.returncode:
        pytest.skip(f"docker has no segline/{name}:{TAG} (make images TAG={TAG}): {found.stderr.strip()[:80]}")
    return json.loads(found.stdout)[0]


def run(name, *words):
    """Run a command in a container that can write only to /tmp and has neither network nor privileges."""
    known = image(name)
    done = engine("run", "--rm", *CONFINED, "--entrypoint", words[0], known["Id"], *words[1:])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_data_image_is_small_and_has_no_torch():
    assert image("data")["Size"] < MOST_DATA_BYTES
    assert run("data", "python", "-c", "from importlib.util import find_spec; print(find_spec('torch'))") == "None\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "train"])
def test_segline_runs_confined_as_nobody(name):
    assert run(name, "segline", "--version").startswith("segline ")
    assert run(name, "id", "-u") == "10001\n"
    labels = image(name)["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"]
    assert labels["org.opencontainers.image.version"] in run(name, "segline", "--version")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lock"), [("data", "data"), ("train", "train"), ("mlflow", "server")])
def test_the_bill_of_materials_is_what_the_lock_says(name, lock):
    bill = json.loads(run(name, "cat", "/usr/share/segline/sbom.cdx.json"))
    found = {f"{entry['name'].lower().replace('_', '-')}=={entry['version']}" for entry in bill["components"]}
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    numpy = re.search(r"^numpy==\S+", text, re.MULTILINE)[0]
    assert numpy in found
    assert len(found) > 30
    debian = run(name, "cat", "/usr/share/segline/sbom-debian.txt").splitlines()
    assert [line for line in debian if line.startswith("ca-certificates\t")]
