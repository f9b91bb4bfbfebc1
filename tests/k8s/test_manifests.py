"""Each overlay builds, is valid for Kubernetes and KubeRay, and keeps the rules; every breach of a rule is noticed."""

import os
import re

import pytest
import yaml
from admission import over_quota
from manifests import (
    GPU,
    OVERLAYS,
    ROOT,
    SITE,
    VERSIONS,
    allows,
    build,
    change_template,
    dangling,
    example_secrets,
    find,
    identities,
    kustomize,
    name_of,
    of_kind,
    pods,
    readers,
    seaweed_allows,
    template,
    unfit,
    unfit_rayjob,
    unlimited,
    unpinned,
    unready_for_gpus,
    unsafe,
    unused_rights,
)
from network import HEAD, INTERNET, KUBERNETES, MAINTENANCE, MLFLOW, RUN, WORKER, Peer, aimless, allowed

from segline.platforms.kubernetes import PERMISSIONS

CHECKS = {
    "unsafe": unsafe,
    "unpinned": unpinned,
    "unlimited": unlimited,
    "unready_for_gpus": unready_for_gpus,
    "dangling": dangling,
    "unused_rights": lambda objects: unused_rights(objects, PERMISSIONS),
    "aimless": aimless,
    "over_quota": over_quota,
}
OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture
def objects(overlay):
    return build(overlay)


@OVERLAY
@pytest.mark.parametrize("version", VERSIONS)
def test_it_fits_kubernetes(objects, version):
    assert unfit(objects, version) == []


@OVERLAY
def test_the_ray_template_fits_kuberay(objects):
    assert unfit_rayjob(template(objects)) == []


@OVERLAY
@pytest.mark.parametrize("check", CHECKS)
def test_a_rule_holds(objects, check):
    assert CHECKS[check](objects) == []


@OVERLAY
def test_no_object_is_there_twice_or_outside_its_namespace(objects):
    names = [name_of(entry) for entry in objects]
    assert sorted(names) == sorted(set(names))
    assert {entry["metadata"].get("namespace") for entry in objects if entry["kind"] != "Namespace"} == {"segline"}


def test_both_overlays_refuse_pods_that_are_not_restricted():
    for overlay in OVERLAYS:
        labels = find(build(overlay), "Namespace", "segline")["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def mlflow(objects):
    return find(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]


def container(objects):
    return mlflow(objects)["containers"][0]


def backup(objects):
    return find(objects, "CronJob", "mlflow-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]


def policy(objects, name="ray"):
    return find(objects, "NetworkPolicy", name)["spec"]


def rule(objects, name="segline-rayjobs"):
    return find(objects, "Role", name)["rules"][0]


def worker(change):
    return lambda objects: change_template(objects, lambda job: change(group(job)["template"]["spec"]))


def group(job):
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


def head(change):
    return lambda objects: change_template(
        objects, lambda job: change(job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"])
    )


# Check, what is changed, and what is then complained of.
BREACHES = [
    ("unsafe", lambda o: container(o)["securityContext"].update(privileged=True), "mlflow mlflow: privileged is True"),
    ("unsafe", lambda o: container(o)["securityContext"].pop("capabilities"), "mlflow mlflow: capabilities is None"),
    (
        "unsafe",
        lambda o: container(o)["securityContext"].update(readOnlyRootFilesystem=False),
        "readOnlyRootFilesystem",
    ),
    ("unsafe", lambda o: mlflow(o)["securityContext"].update(runAsUser=0), "runAsUser is 0"),
    ("unsafe", lambda o: mlflow(o)["securityContext"].pop("seccompProfile"), "seccompProfile is None"),
    ("unsafe", lambda o: mlflow(o).update(hostNetwork=True), "Deployment/mlflow: hostNetwork"),
    ("unsafe", lambda o: mlflow(o)["volumes"].append({"name": "host", "hostPath": {"path": "/"}}), "volume host"),
    ("unsafe", lambda o: container(o)["ports"][0].update(hostPort=5000), "hostPort"),
    ("unsafe", lambda o: backup(o)["securityContext"].pop("allowPrivilegeEscalation"), "CronJob/mlflow-backup backup"),
    (
        "unsafe",
        worker(lambda pod: pod["securityContext"].pop("runAsNonRoot")),
        "RayJob worker ray-worker: runAsNonRoot",
    ),
    (
        "unsafe",
        lambda o: change_template(
            o, lambda job: job["spec"]["rayClusterSpec"]["autoscalerOptions"].pop("securityContext")
        ),
        "RayJob head autoscaler",
    ),
    ("unpinned", lambda o: container(o).update(image="segline/mlflow"), "Deployment/mlflow mlflow: segline/mlflow"),
    ("unpinned", lambda o: container(o).update(image="registry:5000/mlflow"), "registry:5000/mlflow"),
    ("unpinned", lambda o: container(o).update(image="segline/mlflow:latest"), "segline/mlflow:latest"),
    ("unpinned", worker(lambda pod: pod["containers"][0].update(image="rayproject/ray:2.60.0")), "RayJob worker"),
    ("unlimited", lambda o: container(o)["resources"].pop("limits"), "no memory in limits"),
    ("unlimited", head(lambda pod: pod["containers"][0].pop("resources")), "RayJob head ray-head: no cpu in requests"),
    ("unready_for_gpus", worker(lambda pod: pod["containers"][0]["resources"]["limits"].pop(GPU)), "no limit"),
    ("unready_for_gpus", worker(lambda pod: pod.pop("tolerations")), "no toleration"),
    ("unready_for_gpus", worker(lambda pod: pod.pop("nodeSelector")), "no node selector"),
    ("unready_for_gpus", worker(lambda pod: pod["volumes"][1]["emptyDir"].pop("medium")), "/dev/shm is not in memory"),
    ("unready_for_gpus", worker(lambda pod: pod["containers"][0]["volumeMounts"].pop()), "/dev/shm is not in memory"),
    ("unready_for_gpus", lambda o: container(o)["resources"]["limits"].update({GPU: 1}), "Deployment/mlflow mlflow"),
    ("dangling", lambda o: container(o)["envFrom"][1]["secretRef"].update(name="s3"), "no secret s3"),
    ("dangling", lambda o: backup(o)["env"][0]["valueFrom"]["secretKeyRef"].update(key="HOST"), "no HOST in secret"),
    (
        "dangling",
        lambda o: mlflow(o)["volumes"].append({"name": "x", "configMap": {"name": "scripts"}}),
        "no config map scripts",
    ),
    (
        "dangling",
        lambda o: container(o).update(command=["sh", "/opt/segline/mlflow/start.sh"]),
        "no /opt/segline/mlflow/start.sh in the image",
    ),
    ("dangling", lambda o: mlflow(o).pop("enableServiceLinks"), "MLFLOW_PORT"),
    ("dangling", lambda o: mlflow(o).update(serviceAccountName="someone"), "no service account someone"),
    ("dangling", lambda o: mlflow(o)["volumes"].pop(), "no volume tmp"),
    (
        "dangling",
        lambda o: mlflow(o)["volumes"].append({"name": "x", "persistentVolumeClaim": {"claimName": "runs"}}),
        "no claim runs",
    ),
    ("dangling", lambda o: container(o)["ports"][0].update(name="web"), "no pod has a port http"),
    (
        "dangling",
        lambda o: container(o)["livenessProbe"]["httpGet"].update(port="web"),
        "no port web for livenessProbe",
    ),
    ("dangling", lambda o: find(o, "Service", "mlflow")["spec"]["ports"].pop(), "ServiceMonitor/mlflow"),
    ("dangling", lambda o: find(o, "Service", "mlflow")["spec"]["ports"][0].update(port=80), "no service at"),
    (
        "dangling",
        lambda o: find(o, "PodDisruptionBudget", "mlflow")["spec"].update(selector={"matchLabels": {"a": "b"}}),
        "no pod",
    ),
    ("dangling", lambda o: o.remove(find(o, "Role", "segline-rayjobs")), "no Role/segline-rayjobs"),
    ("dangling", head(lambda pod: pod["containers"][0]["envFrom"][0]["configMapRef"].update(name="x")), "RayJob head"),
    ("unused_rights", lambda o: rule(o)["verbs"].append("update"), "may update rayjobs, which nothing does"),
    ("unused_rights", lambda o: rule(o)["verbs"].remove("delete"), "segline-pipeline may not delete rayjobs"),
    ("unused_rights", lambda o: rule(o).update(resources=["rayjobs", "services"]), "may create services"),
    ("unused_rights", lambda o: rule(o).update(verbs=["*"]), "may * rayjobs"),
    (
        "unused_rights",
        lambda o: find(o, "RoleBinding", "segline-rayjobs")["subjects"][0].update(name="segline-ray"),
        "segline-ray may create rayjobs",
    ),
    ("unused_rights", lambda o: find(o, "Role", "kubeflow-executor")["rules"][2].pop("resourceNames"), "without names"),
    ("unused_rights", lambda o: mlflow(o).pop("automountServiceAccountToken"), "Deployment/mlflow: has a token"),
    (
        "unused_rights",
        lambda o: find(o, "RoleBinding", "segline-rayjobs").update(kind="ClusterRoleBinding"),
        "everywhere",
    ),
    (
        "aimless",
        lambda o: policy(o)["podSelector"].update(matchLabels={"app": "ray"}),
        "NetworkPolicy/ray: selects no pod",
    ),
    (
        "aimless",
        lambda o: find(o, "NetworkPolicy", "pipeline")["metadata"].pop("annotations"),
        "NetworkPolicy/pipeline",
    ),
    (
        "aimless",
        lambda o: policy(o)["egress"][1]["to"][0]["podSelector"].update(matchLabels={"app": "mlflow"}),
        "is no pod",
    ),
    (
        "over_quota",
        lambda o: change_template(o, lambda job: group(job).update(maxReplicas=10)),
        "nvidia.com/gpu: 10 of 9",
    ),
    ("over_quota", lambda o: change_template(o, lambda job: group(job).update(maxReplicas=50)), "cpu"),
]


@pytest.mark.parametrize(("check", "change", "complaint"), BREACHES)
def test_a_breach_is_noticed(check, change, complaint):
    objects = build("gpu")
    change(objects)
    assert complaint in "\n".join(CHECKS[check](objects))


def test_every_rule_can_be_broken():
    assert {check for check, *_ in BREACHES} == set(CHECKS)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_kubernetes_does_not_know_is_noticed(version):
    objects = build("gpu")
    find(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    find(objects, "Service", "mlflow")["spec"]["ports"][0]["port"] = "5000"
    objects.append({"apiVersion": "policy/v1beta1", "kind": "PodSecurityPolicy", "metadata": {"name": "x"}})
    named = [complaint.partition(":")[0] for complaint in unfit(objects, version)]
    assert sorted(named) == ["Deployment/mlflow", "PodSecurityPolicy/x", "Service/mlflow"]


@pytest.mark.parametrize(
    "change",
    [
        lambda job: job["spec"].update(ttl=5),
        lambda job: job["spec"].update(activeDeadlineSeconds="1d"),
        lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="password"),
        lambda job: group(job).pop("maxReplicas"),
        lambda job: group(job)["template"]["spec"]["containers"][0].update(imagePolicy="Always"),
        lambda job: group(job)["rayStartParams"].update({"num-cpus": 1}),
    ],
)
def test_what_kuberay_does_not_know_is_noticed(change):
    job = template(build("gpu"))
    change(job)
    assert unfit_rayjob(job)


def test_the_cluster_of_a_run_costs_nothing_before_and_after_it():
    spec = template(build("gpu"))["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"]
    assert (spec["backoffLimit"], spec["suspend"], spec["submissionMode"]) == (0, False, "K8sJobMode")
    assert 0 < spec["ttlSecondsAfterFinished"] < spec["activeDeadlineSeconds"]
    assert cluster["enableInTreeAutoscaling"]
    assert group({"spec": spec})["minReplicas"] == group({"spec": spec}).get("replicas") == 0


@OVERLAY
def test_the_head_trains_nothing_and_is_on_no_spot_node(objects):
    head = template(objects)["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    (terms,) = head["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {entry["operator"] for entry in terms["matchExpressions"]} == {"NotIn"}
    assert all("spot" in str(entry).lower() for entry in terms["matchExpressions"])


def test_the_template_names_the_ray_of_the_image():
    locked = re.search(r"^ray==([\d.]+)", (ROOT / "requirements" / "train.lock").read_text(), re.MULTILINE)
    for overlay in OVERLAYS:
        assert template(build(overlay))["spec"]["rayClusterSpec"]["rayVersion"] == locked[1]


def test_the_small_template_is_the_large_one_without_gpus():
    """They are equal except for sizes and for what selects a node with a GPU."""

    def plain(value):
        if isinstance(value, dict):
            sizes = {"resources", "sizeLimit", "maxReplicas", "object-store-memory", "nodeSelector", "groupName"}
            return {name: plain(entry) for name, entry in value.items() if name not in sizes}
        if isinstance(value, list):
            return [plain(entry) for entry in value if not (isinstance(entry, dict) and entry.get("key") == GPU)]
        return value

    small, large = (template(build(overlay)) for overlay in OVERLAYS)
    assert plain(small) == plain(large)
    assert GPU not in str(small)


def test_the_object_store_fits_into_shared_memory():
    for overlay in OVERLAYS:
        cluster = template(build(overlay))["spec"]["rayClusterSpec"]
        for part in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            (limit,) = [
                entry["emptyDir"]["sizeLimit"]
                for entry in part["template"]["spec"]["volumes"]
                if entry["name"] == "shm"
            ]
            assert int(part["rayStartParams"]["object-store-memory"]) < int(limit.removesuffix("Gi")) * 2**30


KEY, SERVER, BACKUP = "segline-s3", "segline-mlflow-s3", "segline-backup-s3"
READERS = {
    KEY: {"RayJob head ray-head", "RayJob worker ray-worker"},
    "segline-mlflow-login": {"RayJob head ray-head"},
    SERVER: {"Deployment/mlflow mlflow", "Deployment/mlflow metrics"},
    BACKUP: {"CronJob/mlflow-backup backup", "CronJob/mlflow-restore restore"},
    "segline-mlflow-database": {
        "Deployment/mlflow mlflow",
        "CronJob/mlflow-backup backup",
        "CronJob/mlflow-restore restore",
        "CronJob/mlflow-upgrade upgrade",
    },
}
# What is in the small cluster alone.
STORES = {
    KEY: {"StatefulSet/s3 s3"},
    SERVER: {"StatefulSet/s3 s3"},
    BACKUP: {"StatefulSet/s3 s3", "Deployment/mlflow bucket"},
    "segline-mlflow-database": {"StatefulSet/postgres postgres"},
}


@OVERLAY
def test_each_secret_is_read_by_no_other_than_these(objects, overlay):
    stores = STORES if overlay == "dev" else {}
    expected = {name: where | stores.get(name, set()) for name, where in READERS.items()}
    assert {name: set(where) for name, where in readers(objects).items()} == expected


@OVERLAY
def test_a_key_may_be_absent_where_an_account_can_stand_in_for_it(objects):
    for name, found in readers(objects).items():
        for where, optional in found.items():
            clients = READERS[name] - {"StatefulSet/s3 s3"}
            assert optional is (name != "segline-mlflow-database" and where in clients), (name, where)


def test_the_s3_server_has_no_key_under_the_names_of_aws():
    """SeaweedFS takes the key AWS_ACCESS_KEY_ID in its environment for an administrator's."""
    (container,) = find(build("dev"), "StatefulSet", "s3")["spec"]["template"]["spec"]["containers"]
    prefixes = [entry.get("prefix", "") for entry in container["envFrom"]]
    assert all(prefixes)
    assert len(set(prefixes)) == len(prefixes)
    names = {entry["secretRef"]["name"]: entry["prefix"] for entry in container["envFrom"]}
    for name, identity in identities(build("dev")).items():
        (credential,) = identity["credentials"]
        assert credential["accessKey"] == f"${names[name]}AWS_ACCESS_KEY_ID"
        assert credential["secretKey"] == f"${names[name]}AWS_SECRET_ACCESS_KEY"


GET, PUT, DELETE, LIST = "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"
ABORT = "s3:AbortMultipartUpload"


@pytest.mark.parametrize(
    ("name", "action", "key", "may"),
    [
        # Sources, exclusions and weights of encoders; shards, checkpoints and candidates.
        *((KEY, action, "data/streets/a.png", True) for action in (GET, LIST)),
        (KEY, LIST, "data/streets/", True),
        *((KEY, action, "ray/0123/train/model.json", True) for action in (GET, PUT, DELETE, ABORT)),
        (KEY, LIST, "ray/0123/train/", True),
        *((KEY, action, "data/streets/a.png", False) for action in (PUT, DELETE)),
        *((KEY, action, "mlflow/1/ab/artifacts/model", False) for action in (GET, PUT, DELETE, LIST)),
        *((KEY, action, "backups/mlflow/x.dump", False) for action in (GET, PUT, DELETE, LIST)),
        (KEY, LIST, "", False),
        *((SERVER, action, "mlflow/1/ab/artifacts/model", True) for action in (GET, PUT, DELETE, LIST)),
        (SERVER, LIST, "mlflow/", True),
        # How old the newest backup is, it tells Prometheus.
        (SERVER, LIST, "backups/mlflow/", True),
        *((SERVER, action, "backups/mlflow/x.dump", False) for action in (GET, PUT, DELETE)),
        *((SERVER, action, "ray/0123/train/model.json", False) for action in (GET, PUT, DELETE)),
        *((BACKUP, action, "backups/mlflow/x.dump", True) for action in (GET, PUT, DELETE)),
        (BACKUP, LIST, "backups/mlflow/", True),
    ],
)
def test_a_key_may_do_what_its_pods_do_and_no_more(name, action, key, may):
    assert allows(name, action, key) is may
    assert seaweed_allows(identities(build("dev"))[name], action, key) is may


@pytest.mark.parametrize("key", ["mlflow/1/ab/artifacts/model", "ray/0123/train/model.json", "data/streets/a.png"])
@pytest.mark.parametrize("action", [GET, PUT, DELETE])
def test_the_key_of_the_backup_reaches_no_more_than_backups(key, action):
    """The small cluster is the exception, where it makes the bucket."""
    assert not allows(BACKUP, action, key)


def test_the_policy_names_the_prefixes_of_the_settings():
    settings = find(build("gpu"), "ConfigMap", "segline-settings")["data"]
    places = {KEY: settings["SEGLINE_STORE"], BACKUP: settings["SEGLINE_BACKUPS"]}
    (destination,) = [
        entry["value"] for entry in container(build("gpu"))["env"] if entry["name"] == "MLFLOW_ARTIFACTS_DESTINATION"
    ]
    places[SERVER] = destination
    for name, place in places.items():
        assert allows(name, PUT, f"{place.removeprefix('s3://segline/')}/x"), name


@OVERLAY
def test_no_object_names_the_domain_of_the_cluster(objects):
    """Only the names by which a client may call MLflow do, as one that says the whole name is to be admitted, too."""
    (hosts,) = [entry for entry in container(objects)["env"] if entry["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert "cluster.local" in hosts.pop("value")
    assert "cluster.local" not in yaml.safe_dump_all(objects)


@OVERLAY
def test_no_secret_is_in_the_manifests(objects):
    assert of_kind(objects, "Secret") == []
    for name, values in example_secrets().items():
        assert all("CHANGE-ME" in value for key, value in values.items() if key != "PGDATABASE"), name


def test_the_page_names_every_secret_and_every_file_of_k8s_is_used():
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    for name, values in example_secrets().items():
        assert all(f"`{word}`" in page for word in (name, *values)), name
    listed = set()
    for path in [*(ROOT / "k8s").rglob("kustomization.yaml")]:
        text = yaml.safe_load(path.read_text())
        files = [*text["resources"], *(patch["path"] for patch in text.get("patches", []) if "path" in patch)]
        files += [
            file.partition("=")[2] or file for entry in text["configMapGenerator"] for file in entry.get("files", [])
        ]
        listed |= {(path.parent / file).resolve() for file in [*files, path.name]}
    there = {path for path in (ROOT / "k8s").rglob("*") if path.is_file() and path.parent.name != "examples"}
    assert there == {path for path in listed if path.is_file()}


def documented():
    """Return the YAML on the page: parts of an overlay, and objects."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "kubernetes.md").read_text(), re.MULTILINE | re.DOTALL)
    found = [yaml.safe_load(block) for block in blocks]
    return [entry for entry in found if "kind" not in entry], [entry for entry in found if "kind" in entry]


@pytest.fixture
def adapted(tmp_path):
    """Return production with all optional parts of the page."""
    parts, more = documented()
    overlay = {"resources": [os.path.relpath(ROOT / "k8s" / "overlays" / "gpu", tmp_path), "more.yaml"]}
    for part in parts:
        overlay = {key: overlay.get(key, []) + part.get(key, []) for key in overlay | part}
    names = {"namespace": "segline", "generatorOptions": {"disableNameSuffixHash": True}}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay | names))
    (tmp_path / "more.yaml").write_text(yaml.safe_dump_all(more))
    (tmp_path / "ca.crt").write_text("a certificate", encoding="utf-8")
    return kustomize(tmp_path)


def test_what_the_page_adds_to_an_overlay_does_what_it_says(adapted):
    assert [complaint for version in VERSIONS for complaint in unfit(adapted, version)] == []
    account = find(adapted, "ServiceAccount", "segline-mlflow")
    assert list(account["metadata"]["annotations"]) == ["eks.amazonaws.com/role-arn"]
    assert find(adapted, "Deployment", "mlflow")["spec"]["replicas"] == 0
    assert find(adapted, "CronJob", "mlflow-backup")["spec"]["suspend"]
    before = find(build("gpu"), "ConfigMap", "segline-settings")["data"]
    changed = dict(find(adapted, "ConfigMap", "segline-settings")["data"].items() - before.items())
    trusted = dict.fromkeys(("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), "/etc/segline-site/ca.crt")
    assert changed == {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"} | trusted
    assert find(adapted, "ConfigMap", "segline-site")["data"] == {"ca.crt": "a certificate"}
    agent, server = Peer(address="169.254.170.23"), INTERNET
    for source in (RUN, HEAD, WORKER, MLFLOW, MAINTENANCE):
        assert allowed(adapted, source, agent, 80)
        assert not allowed(build("gpu"), source, agent, 80)
    for source in (RUN, HEAD):
        assert allowed(adapted, source, server, 5000)
        assert allowed(build("gpu"), source, server, 443)
        assert not allowed(build("gpu"), source, server, 5000)
    for source in (RUN, HEAD):
        assert allowed(adapted, source, KUBERNETES, 16443)
        assert not allowed(build("gpu"), source, KUBERNETES, 16443)
    assert not allowed(adapted, WORKER, KUBERNETES, 16443)


@OVERLAY
def test_the_files_of_a_site_are_mounted_where_the_settings_name_them(objects):
    """In all that reads a bucket: MLflow, its metrics and backup, and the head and workers of Ray."""
    for pod in pods(objects):
        for entry in pod.containers:
            settings = [
                source["configMapRef"]["name"] for source in entry.get("envFrom", []) if "configMapRef" in source
            ]
            mounts = {mount["name"]: mount for mount in entry.get("volumeMounts", [])}
            if "segline-settings" in settings:
                assert mounts["site"] == {"name": "site", "mountPath": "/etc/segline-site", "readOnly": True}
                assert {"name": "site", "configMap": SITE} in pod.spec["volumes"]


def test_a_client_may_name_the_server_with_and_without_its_port():
    service = find(build("gpu"), "Service", "mlflow")
    names = ["mlflow", "mlflow.segline", "mlflow.segline.svc", "mlflow.segline.svc.cluster.local", "localhost"]
    (variable,) = [
        entry["value"] for entry in container(build("gpu"))["env"] if entry["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"
    ]
    port = service["spec"]["ports"][0]["port"]
    assert sorted(variable.split(",")) == sorted(name + end for name in names for end in ("", f":{port}"))


def test_the_monitor_has_the_label_of_prometheus_own_chart():
    """kube-prometheus-stack selects monitors by the name of its Helm release unless it is told otherwise."""
    assert find(build("gpu"), "ServiceMonitor", "mlflow")["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_only_the_backup_runs_by_itself():
    jobs = of_kind(build("gpu"), "CronJob")
    assert {entry["metadata"]["name"]: entry["spec"]["suspend"] for entry in jobs} == {
        "mlflow-backup": False,
        "mlflow-restore": True,
        "mlflow-upgrade": True,
    }


def test_one_pod_of_the_server_stays_while_nodes_are_drained():
    objects = build("gpu")
    budget = find(objects, "PodDisruptionBudget", "mlflow")["spec"]["minAvailable"]
    assert find(objects, "Deployment", "mlflow")["spec"]["replicas"] > budget >= 1


@OVERLAY
def test_every_pod_is_seen_by_the_checks(objects, overlay):
    expected = {"Deployment/mlflow", "RayJob submitter", "RayJob head", "RayJob worker"}
    expected |= {f"CronJob/mlflow-{name}" for name in ("backup", "restore", "upgrade")}
    expected |= {"StatefulSet/postgres", "StatefulSet/s3"} if overlay == "dev" else set()
    assert {pod.where for pod in pods(objects)} == expected
