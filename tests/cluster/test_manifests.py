"""KubeRay, cloud launcher, compose and images: against schemas, linters, and the command line they call.

Official schemas come with packages and their licenses: pods are checked against Kubernetes' (kubernetes-validate), the
compose file against the Compose Specification's (check-jsonschema), the launcher's file against Ray's own; Dockerfiles
by hadolint. KubeRay publishes its schemas in no package registry, so the fields around the pods are checked against the
list below, written by hand from the types of its API version ray.io/v1. Overlays are rendered by kubectl's kustomize,
where there is one.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from cluster.health import raylet_runs, should_be_node
from cluster.start import command_of
from psp_ray.actors.cluster import GROWS_TO, grows_to
from psp_ray.core.version import __version__
from tests.cluster.conftest import ROOT, command_line

FOLDER = ROOT / "cluster" / "kuberay"
KUBERAY = [*sorted(FOLDER.glob("*.yaml")), FOLDER / "base" / "raycluster.yaml"]
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
CLUSTER = {
    "type": "object",
    "additionalProperties": False,
    "required": ["headGroupSpec", "rayVersion"],
    "properties": {
        "rayVersion": {"type": "string"},
        "authOptions": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"mode": {"enum": ["disabled", "token"]}, "secretName": {"type": "string"}},
        },
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "idleTimeoutSeconds": COUNT,
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                "securityContext": {"type": "object"},
            },
        },
        "headGroupSpec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["rayStartParams", "template"],
            "properties": {"rayStartParams": STRINGS, "template": {"type": "object"}},
        },
        "workerGroupSpecs": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                "properties": {
                    "groupName": {"type": "string"},
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "rayStartParams": STRINGS,
                    "template": {"type": "object"},
                },
            },
        },
    },
}
JOB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["entrypoint"],
    "properties": {
        "entrypoint": {"type": "string"},
        "entrypointNumCpus": {"type": "number"},
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        "backoffLimit": COUNT,
        "submitterConfig": {"type": "object", "additionalProperties": False, "properties": {"backoffLimit": COUNT}},
        "submitterPodTemplate": {"type": "object"},
        "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": COUNT,
        "clusterSelector": STRINGS,
        "rayClusterSpec": CLUSTER,
    },
}


def load(path):
    return yaml.safe_load(path.read_text())


def cluster_of(manifest):
    return manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"].get("rayClusterSpec")


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_kuberay_manifests(path):
    from kubernetes_validate import validate

    manifest = load(path)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert re.fullmatch(r"[a-z0-9-]{1,40}", manifest["metadata"]["name"]), "KubeRay puts suffixes behind it"
    jsonschema.validate(manifest["spec"], CLUSTER if manifest["kind"] == "RayCluster" else JOB)
    cluster = cluster_of(manifest)
    if cluster is None:
        return
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "nothing but drivers runs there"
    assert cluster["authOptions"] == {"mode": "token"}, "without a token whoever reaches the head runs code"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template["metadata"]}}
        validate({**pod, "spec": template["spec"]}, "1.30", strict=True)
        (container,) = template["spec"]["containers"]
        assert container["image"].startswith(f"psp-ray:{__version__}-")
        resources = container["resources"]
        assert resources["requests"] == resources["limits"], "Ray counts what it is given for good"
        assert container["envFrom"] == [{"secretRef": {"name": "psp-ray"}}]
    assert may_become(cluster) == said(cluster), "runs are compared with what the autoscaler could add"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert ("nvidia.com/gpu" in str(group["template"])) == (group["groupName"] == "gpu")


def may_become(cluster):
    """CPUs and GPUs with every group at its maxReplicas; the head offers none."""
    found = {}
    for group in cluster["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        for kind, name in (("CPU", "cpu"), ("GPU", "nvidia.com/gpu")):
            if name in limits:
                found[kind] = found.get(kind, 0) + group["maxReplicas"] * float(limits[name])
    return found


def said(cluster):
    """What the pods' environment says of it, the same in all."""
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    texts = {
        item["value"]
        for group in groups
        for item in group["template"]["spec"]["containers"][0]["env"]
        if item["name"] == GROWS_TO
    }
    (text,) = texts
    return grows_to(text)


def pods_of(manifest):
    """Every pod that KubeRay makes of a manifest by a template of ours."""
    cluster = cluster_of(manifest) or {"headGroupSpec": None, "workerGroupSpecs": []}
    groups = [group for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]) if group]
    submitter = manifest["spec"].get("submitterPodTemplate")
    return [group["template"]["spec"] for group in groups] + ([submitter["spec"]] if submitter else [])


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_pods_are_what_pod_security_calls_restricted(path):
    """By the list in Kubernetes' documentation of Pod Security Standards, version 1.30; and their root is read-only."""
    manifest = load(path)
    pods = pods_of(manifest)
    assert pods
    for pod in pods:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert pod["serviceAccountName"] == "psp-ray", "whom the cloud knows"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] != 0
        assert pod["securityContext"]["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
        assert all(set(volume) - {"name"} <= allowed | {"secret"} for volume in pod["volumes"])
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert not any("hostPort" in port for port in container.get("ports", []))
            places = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/home/psp"} <= places, "what Ray and libraries write to"
            out = re.search(r"--out (/[a-z]+)/", manifest["spec"].get("entrypoint", ""))
            assert container["name"] == "ray-job-submitter" or out is None or out[1] in places
    cluster = cluster_of(manifest)
    if cluster is not None:  # KubeRay adds the autoscaler to the head's pod
        assert cluster["autoscalerOptions"]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def rendered(folder):
    """What `kubectl apply -k` would apply, by kind and name."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; it has kustomize in it")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(done.stdout)}


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
@pytest.mark.parametrize("images", ["", "pvc", "s3"])
def test_overlays(overlay, images, tmp_path):
    from kubernetes_validate import validate

    shutil.copytree(FOLDER, tmp_path / "kuberay")
    file = tmp_path / "kuberay" / "overlays" / overlay / "kustomization.yaml"
    text = file.read_text().replace("newName: psp-ray", "newName: registry.example/psp-ray")
    file.write_text(text + (f"components: [../../components/images-{images}]\n" if images else ""))
    found = rendered(file.parent)
    claims = [name for kind, name in found if kind == "PersistentVolumeClaim"]
    assert len(claims) == bool(images)
    for (kind, _), item in found.items():
        assert kind in ("Namespace", "PersistentVolume") or item["metadata"]["namespace"] == "psp-ray"
        if not item["apiVersion"].startswith(("ray.io", "monitoring")):
            validate(item, "1.30", strict=True)
    cluster = found["RayCluster", "psp-ray"]["spec"]
    jsonschema.validate(cluster, CLUSTER)
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == ["cpu", "gpu"][: 1 + (overlay == "gpu")]
    assert may_become(cluster) == said(cluster)
    for pod in pods_of(found["RayCluster", "psp-ray"]):
        assert pod["containers"][0]["image"].startswith("registry.example/psp-ray:")
        mounted = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == "/images"]
        assert mounted == ([{"name": "images", "mountPath": "/images", "readOnly": True}] if images else [])
        volumes = [volume for volume in pod["volumes"] if volume["name"] == "images"]
        assert [volume["persistentVolumeClaim"]["claimName"] for volume in volumes] == claims


def test_the_network_lets_in_nodes_operator_and_metrics_alone():
    """Every pod of ours is chosen by a policy, and every port that one names is a port of a container."""
    policies = list(yaml.safe_load_all((FOLDER / "base" / "networkpolicy.yaml").read_text()))
    monitor = load(FOLDER / "base" / "podmonitor.yaml")["spec"]
    ours = {"app.kubernetes.io/name": "psp-ray"}
    assert policies[0]["spec"]["podSelector"] == monitor["selector"] == {"matchLabels": ours}
    cluster = load(FOLDER / "base" / "raycluster.yaml")["spec"]
    submitters = [load(FOLDER / name)["spec"]["submitterPodTemplate"] for name in ("rayjob.yaml", "rayjob-shared.yaml")]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all(pod["metadata"]["labels"] == ours for pod in (*(group["template"] for group in groups), *submitters))
    ports = [
        {port["containerPort"]: port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]}
        for group in groups
    ]
    (metrics,) = monitor["podMetricsEndpoints"]
    assert all(names[8080] == metrics["port"] for names in ports)
    named = {
        port["port"] for policy in policies for rule in policy["spec"]["ingress"] for port in rule.get("ports", [])
    }
    assert named == {8080, 8265} <= set(ports[0])
    for policy in policies:
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert all(rule.get("from") for rule in policy["spec"]["ingress"]), "a rule without `from` lets in everybody"


def test_both_kinds_of_cluster_are_the_same():
    cluster, job = (load(FOLDER / name) for name in ("base/raycluster.yaml", "rayjob.yaml"))
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    shared = load(FOLDER / "rayjob-shared.yaml")["spec"]
    assert shared["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayjob-shared.yaml"])
def test_jobs_are_safe_to_run_twice_and_end(name):
    spec = load(FOLDER / name)["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["submitterConfig"]["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] == ("rayClusterSpec" in spec), "a shared cluster must outlive the job"
    words = shlex.split(spec["entrypoint"])
    assert words[:2] == ["psp-ray", "run"]
    assert "--resume" in words
    assert words[words.index("--storage") + 1].startswith("s3://")
    code, text = command_line(*words[1:], "--dry-run")
    assert code == 0, text
    assert yaml.safe_load(text)["resume"] is True


def test_no_secret_is_in_a_file():
    for path in [*FOLDER.rglob("*.yaml"), ROOT / "cluster/cloud/aws.yaml", ROOT / "docker/compose.yaml"]:
        text = path.read_text()
        assert not re.search(r"(?i)(password|secret_access_key|token)\s*[:=]\s*[\"']?[A-Za-z0-9/+]{6,}", text), path


def test_the_cloud_launcher_accepts_its_file():
    config = load(ROOT / "cluster" / "cloud" / "aws.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert "spot" not in str(config["available_node_types"][config["head_node_type"]])
    assert f"psp-ray:{__version__}-" in config["docker"]["image"]
    kinds = config["available_node_types"].items()
    cpus = sum(kind["resources"]["CPU"] * (1 if name == "head" else kind["max_workers"]) for name, kind in kinds)
    assert config["docker"]["run_options"] == ["--env RAY_AUTH_MODE=token", f"--env {GROWS_TO}=CPU={cpus}"]
    assert list(config["file_mounts"]) == ["~/.ray/auth_token"], "where Ray looks for the token"


def test_compose_agrees_with_the_specification():
    from check_jsonschema.builtin_schemas import get_builtin_schema

    schema = get_builtin_schema("vendor.compose-spec")
    config = load(ROOT / "docker" / "compose.yaml")
    jsonschema.validate(config, schema)
    config["services"]["head"]["depend_on"] = config["services"]["head"].pop("depends_on")
    with pytest.raises(jsonschema.ValidationError, match="depend_on"):
        jsonschema.validate(config, schema)


def test_compose():
    services = load(ROOT / "docker" / "compose.yaml")["services"]
    assert set(services) == {"head", "worker", "postgres"}
    assert services["worker"]["deploy"]["replicas"] == 2
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert set(service["security_opt"]) == {"no-new-privileges:true", "seccomp=builtin"}
        assert service["pids_limit"] > 0
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), "reachable from outside"
    for name in ("head", "worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert command_of(services[name]["command"], {"RAY_AUTH_TOKEN": "x"})[:2] == ["ray", "start"]
        assert services[name]["depends_on"]
    dockerfile = (ROOT / "docker" / "cpu.Dockerfile").read_text()
    made = re.search(r"install -d -o psp -g psp (.*)", dockerfile).group(1).split()
    for volume in services["head"]["volumes"]:
        assert volume.split(":")[1] in made, "a volume takes its owner from the image's folder"


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_images_fit_the_project(name):
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
    assert text.count("FROM ") == 2, "multi-stage"
    assert re.search(r"^USER 10001$", text, re.M)
    assert "HEALTHCHECK" in text
    (base,) = re.findall(r"^ARG BASE=(\S+)$", text, re.M)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    assert re.findall(r"^FROM (\S+)", text, re.M) == ["${BASE}", "${BASE}"], "pinned in one place"
    for source in re.findall(r"^COPY (?!--from)(?:--chown=\S+ )?(.+)$", text, re.M):
        for path in source.split()[:-1]:
            assert (ROOT / path).exists(), path
    constraints = (ROOT / "constraints.txt").read_text()
    for pinned in re.findall(r"\b(torch(?:vision)?==[\d.]+)", text):
        assert pinned in constraints
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in re.findall(r"^COPY (?!--from)(?:--chown=\S+ )?(.+)$", text, re.M):
        assert all(path in allowed or path.split("/")[0] in allowed for path in source.split()[:-1]), (
            "left out of the context"
        )


def linter(name):
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found is not None, f"{name} is not installed; it comes with psp-ray[test]"
    return found


def test_yaml_is_clean():
    command = [linter("yamllint"), "--strict", "-c", ".yamllint", "cluster", "docker"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_dockerfiles_are_clean(tmp_path):
    hadolint = linter("hadolint")
    files = sorted(str(path) for path in (ROOT / "docker").glob("*.Dockerfile"))
    done = subprocess.run([hadolint, *files], capture_output=True, text=True)
    assert (len(files), done.returncode) == (2, 0), done.stdout
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /tmp && apt-get install wget\n")
    done = subprocess.run([hadolint, str(tmp_path / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "DL3007" in done.stdout, "it does lint"


def test_container_commands():
    token = {"RAY_AUTH_TOKEN": "x"}
    assert command_of(["psp-ray", "doctor"], {}) == ["psp-ray", "doctor"]
    assert "--head" in command_of(["head", "--num-cpus=1"], token)
    assert command_of(["worker", "head:6379"], token)[2] == "--address=head:6379"
    for words, environment in ((["head"], {}), (["worker", "head:6379"], {}), (["worker"], token)):
        with pytest.raises(ValueError, match=r"RAY_AUTH_TOKEN|address"):
            command_of(words, environment)
    done = subprocess.run([sys.executable, "-m", "cluster.start", "head"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_health_of_a_container(tmp_path):
    assert should_be_node(b"/opt/psp-ray/bin/python\0/opt/psp-ray/bin/ray\0start\0--head\0")
    assert not should_be_node(b"/opt/psp-ray/bin/python\0psp-ray\0run\0")
    for number, command in (("1", b"python\0"), ("27", b"/x/raylet\0--raylet_socket_name\0")):
        (tmp_path / number).mkdir()
        (tmp_path / number / "cmdline").write_bytes(command)
        assert raylet_runs(tmp_path) == (number == "27")


def test_a_job_ships_what_it_needs_and_no_more(tmp_path):
    """Packed by Ray's own code as `ray job submit --working-dir .` does."""
    from ray._private.runtime_env.packaging import create_package

    here = tmp_path / "project"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in {*tracked, ".rayignore"}:
        if (ROOT / name).is_file():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, here / name)
    for name in (
        ".git/objects/pack",
        ".venv/lib/big.so",
        "runs/old/ledger.sqlite",
        "sweeps/first/tune/events.out",
        "studies/mine/results.csv",
        "mine.sqlite-wal",
        "x/__pycache__/y.pyc",
    ):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(bytes(10_000))
    package = tmp_path / "package.zip"
    create_package(str(here), package, include_gitignore=True, excludes=[])
    import zipfile

    names = set(zipfile.ZipFile(package).namelist())
    assert {"psp_ray/main.py", "tuning/sweep.py", "cluster/local.py", "pyproject.toml"} <= names
    assert "psp_ray/clip/psp_lite/psp-lite.safetensors" in names
    foreign = [
        name
        for name in names
        if name.split("/")[0] in (".git", ".venv", "runs", "sweeps", "studies", "tests", "docs")
        or "sqlite" in name
        or "pyc" in name
    ]
    assert foreign == []
    assert package.stat().st_size < 60 * 2**20
