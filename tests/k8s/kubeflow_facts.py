"""What others put into a cluster beside these manifests: facts of Kubeflow and KubeRay, each with its source."""

# The labels that Kubeflow's profile controller gives a namespace, each only where no label of that name is there
# already: applications/profiles/upstream/base/namespace-labels.yaml of kubeflow/manifests (commit c3adca0).
PROFILE_LABELS = {
    "katib.kubeflow.org/metrics-collector-injection": "enabled",
    "serving.kubeflow.org/inferenceservice": "enabled",
    "pipelines.kubeflow.org/enabled": "true",
    "app.kubernetes.io/part-of": "kubeflow-profile",
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
    "pod-security.kubernetes.io/warn": "restricted",
    "pod-security.kubernetes.io/warn-version": "latest",
}
# And the one that it sets again at each change, unless the mesh is an ambient one: setNamespaceLabelsAndServiceMesh in
# components/profile-controller/controllers/profile_controller.go of kubeflow/dashboard (commit 063d073).
MESH_LABELS = {"istio-injection": "enabled"}
# The pods of a run are outside the mesh already: Kubeflow's API server gives them the annotation
# {"sidecar.istio.io/inject": "false"} (backend/src/apiserver/template/v2_template.go of kubeflow/pipelines).

# The pods of Kubeflow that a run, or its page, connects to: the API and the cache; the metadata; the artifact store, to
# which the service minio-service:9000 forwards; the page; and the viewer of artifacts in a profile's namespace, which
# the page asks (artifact_proxy_resources.json of kubeflow/pipelines, with ARTIFACTS_PROXY_ENABLED).
API = {"app": "ml-pipeline"}
METADATA = {"component": "metadata-grpc-server"}
STORE = {"app": "seaweedfs"}
PAGE = {"app": "ml-pipeline-ui"}
ARTIFACT_VIEWER = {"app": "ml-pipeline-ui-artifact"}
API_PORTS, METADATA_PORT, STORE_PORT, PAGE_PORT = (8887, 8888), 8080, 8333, 3000

_PROFILES = {"namespaceSelector": {"matchLabels": {"app.kubernetes.io/part-of": "kubeflow-profile"}}}
_MESH = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "istio-system"}}}
_SAME = {"podSelector": {}}
# Name, pods and rules of the policies of ingress in the namespace kubeflow: common/kubeflow-namespace/base/kubeflow of
# kubeflow/manifests (before: common/networkpolicies/base, commits 408b64d and 301e38a), and
# manifests/kustomize/third-party/seaweedfs/base/seaweedfs/seaweedfs-networkpolicy.yaml of kubeflow/pipelines (75c1b8f).
_RULES = [
    ("default-allow-same-namespace", {}, [{"from": [_SAME]}]),
    ("ml-pipeline", API, [{"from": [_PROFILES, _MESH]}]),
    ("metadata-grpc-server", METADATA, [{"from": [_PROFILES, _SAME]}]),
    ("ml-pipeline-ui", PAGE, [{"from": [_MESH]}]),
    (
        "seaweedfs",
        STORE,
        [
            {"from": [_PROFILES], "ports": [{"port": STORE_PORT}]},
            {"from": [_MESH]},
            {"from": [_SAME], "ports": [{"port": STORE_PORT}]},
        ],
    ),
]
POLICIES = [
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "kubeflow"},
        "spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"], "ingress": rules},
    }
    for name, labels, rules in _RULES
]

# The resources of Kubeflow's own containers in a run: driverResources and launcherResources in
# backend/src/v2/compiler/argocompiler of kubeflow/pipelines. The launcher's memory has a limit and no request.
DRIVER = {"requests": {"cpu": "0.1", "memory": "64Mi"}, "limits": {"cpu": "0.5", "memory": "0.5Gi"}}
LAUNCHER = {"requests": {"cpu": "0.1"}, "limits": {"cpu": "0.5", "memory": "128Mi"}}

# The labels of KubeRay's operator: by its chart (helm-chart/kuberay-operator/templates/deployment.yaml), and by
# kustomize (ray-operator/config/manager/manager.yaml of ray-project/kuberay).
OPERATORS = {
    "Helm": {
        "app.kubernetes.io/name": "kuberay-operator",
        "app.kubernetes.io/instance": "kuberay",
        "app.kubernetes.io/component": "kuberay-operator",
    },
    "kustomize": {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"},
}
