"""What the official ``tensorflow/serving`` image needs beside the exported models to serve them.

FOLDER/
  models.config      the models, their versions and labels
  batching.config    how requests are put together, where batching is on
  monitoring.config  metrics for Prometheus at /monitoring/prometheus/metrics
  compose.yaml       docker compose up
  kubernetes.yaml    kubectl apply
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from spectrovae import files
from spectrovae.errors import InputError
from spectrovae.serving.server.config import is_version

IMAGE = "tensorflow/serving:2.19.1"
GRPC_PORT, REST_PORT = 8500, 8501
CPUS, MEMORY_GB = 2, 2
NOBODY = 65534
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # what a URL of TF Serving and a YAML file take as it is


def deploy(
    folder: str | os.PathLike,
    *,
    labels: Mapping[str, Mapping[str, int]] | None = None,
    batching: bool = False,
    image: str = IMAGE,
    force: bool = False,
) -> list[Path]:
    """Write the configuration of TF Serving and the files that start it beside exported models.

    Ports are on loopback in ``compose.yaml`` and inside the cluster in ``kubernetes.yaml``; the models are mounted
    read-only, the process is not root, and cores and memory are limited.

    Args:
        folder: what was exported to; it holds NAME/VERSION.
        labels: model -> label -> version, as ``{"digits": {"stable": 1, "canary": 2}}``. A labelled model keeps these
            versions and the newest one loaded, another its newest alone.
        batching: have the server put requests together. Those that meet in a batch must be equally long: TF Serving
            refuses a batch of several lengths, or with padding fills sounds with their first sample.
        image: of TF Serving.
        force: replace files that differ.

    Returns:
        The files written.

    Raises:
        InputError: no models there, a label for what is not there, a file that someone has changed, or a folder that
            cannot be written.
    """
    folder = Path(folder)
    models = exported_models(folder)
    labels = dict(labels or {})
    for name, versions in labels.items():
        missing = sorted(set(versions.values()) - set(models.get(name, ())))
        if missing:
            raise InputError(f"{folder} has no version {missing[0]} of {name!r}; it has {_listed(models)}")
    home = folder.stat()
    user = f"{home.st_uid}:{home.st_gid}" if home.st_uid else f"{NOBODY}:{NOBODY}"
    arguments = [
        "--model_config_file=/models/models.config",
        "--model_config_file_poll_wait_seconds=30",
        "--allow_version_labels_for_unavailable_models=true",
        "--monitoring_config_file=/models/monitoring.config",
        f"--tensorflow_intra_op_parallelism={CPUS}",
        f"--tensorflow_inter_op_parallelism={CPUS}",
    ] + ["--enable_batching=true", "--batching_parameters_file=/models/batching.config"] * batching
    texts = {
        "models.config": _models_config(models, labels),
        "batching.config": _BATCHING,
        "monitoring.config": _MONITORING,
        "compose.yaml": _compose(arguments, list(models), image, user),
        "kubernetes.yaml": _kubernetes(arguments, list(models), image, user, folder.resolve()),
    }
    for name, text in texts.items():
        file = folder / name
        if os.path.lexists(file) and not file.is_file():
            raise InputError(f"{file} is a folder, pipe or device, and a file is to be written there; move it away")
        if not force and file.exists() and file.read_bytes() != text.encode():
            raise InputError(f"{file} exists and says something else; --force to replace it")
    for name, text in texts.items():
        files.write_text(folder / name, text)
    return [folder / name for name in texts]


def exported_models(folder: str | os.PathLike) -> dict[str, list[int]]:
    """Names and versions of the SavedModels in FOLDER/NAME/VERSION.

    Raises:
        InputError: there is none, or one has a name that TF Serving cannot be asked for.
    """
    found: dict[str, list[int]] = {}
    for file in sorted(Path(folder).glob("*/*/saved_model.pb")):
        version, name = file.parent, file.parent.parent.name
        if is_version(version) and not name.startswith("."):
            found.setdefault(name, []).append(int(version.name))
    if not found:
        raise InputError(
            f"no exported model in {folder}: expected NAME/VERSION/saved_model.pb, as spectrovae export writes"
        )
    return {checked_name(name): sorted(versions) for name, versions in found.items()}


def checked_name(name: str) -> str:
    """The name of a served model, or an :class:`InputError` that says what one is."""
    if not NAME.fullmatch(name):
        raise InputError(
            "name must be a plain folder name of letters, digits, '.', '_' and '-' (URLs hold the name of a served "
            f"model), received {name!r}"
        )
    return name


def check_target(target: Path, bundle: object, description: Path, force: bool) -> None:
    """Refuse a folder of an exported model that lies in the bundle or holds it, or that may not be replaced.

    Args:
        bundle: path of a bundle; anything else is no path.
        description: the file in ``target`` by which an earlier export is known.

    Raises:
        InputError: see above.
    """
    if isinstance(bundle, str | os.PathLike):
        places = [Path(os.path.realpath(path)) for path in (target, bundle)]
        if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
            raise InputError(f"{target} lies in the input {bundle}, or holds it; export to a folder beside the bundle")
    if not os.path.lexists(target):
        return
    if not force:
        raise InputError(f"{target} exists; choose another folder, name or version, or --force to replace it")
    if any(target.iterdir() if target.is_dir() else [target]) and not (target / description).is_file():
        raise InputError(f"{target} holds no {description}, so it is not an earlier export and is not replaced")


def how_to_try(folder: str | os.PathLike) -> str:
    """The commands that start the server on one machine and ask it: its state, and four samples of sound."""
    path, name = Path(folder).resolve(), next(iter(exported_models(folder)))
    url = f"http://127.0.0.1:{REST_PORT}/v1/models/{name}"
    return (
        f"docker compose -f {shlex.quote(str(path / 'compose.yaml'))} up --wait\n"
        f"curl {url}\n"
        f"curl -d '{{\"instances\": [[0.0, 0.5, 0.0, -0.5]]}}' {url}:predict"
    )


def parse_labels(given: list[str], folder: str | os.PathLike) -> dict[str, dict[str, int]]:
    """``["stable=1", "digits:canary=2"]`` as :func:`deploy` takes it; without a model's name, that of the only one.

    Raises:
        InputError: not of this form, or no name where there are several models.
    """
    labels: dict[str, dict[str, int]] = {}
    for text in given:
        parts = re.fullmatch(r"(?:([^:=]+):)?([A-Za-z0-9_.-]+)=([1-9][0-9]*)", text)
        if not parts:
            raise InputError(f"a label is written LABEL=VERSION or MODEL:LABEL=VERSION, received {text!r}")
        name, label, version = parts.groups()
        if name is None:
            models = list(exported_models(folder))
            if len(models) > 1:
                raise InputError(f"{folder} holds {', '.join(models)}; write MODEL:{text}")
            name = models[0]
        labels.setdefault(name, {})[label] = int(version)
    return labels


def _listed(models: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {' '.join(map(str, versions))}" for name, versions in models.items())


def _models_config(models: dict[str, list[int]], labels: Mapping[str, Mapping[str, int]]) -> str:
    text = "# ModelServerConfig. TF Serving looks for new versions every second and at this file every 30.\n"
    text += "model_config_list {\n"
    for name, versions in models.items():
        own = labels.get(name, {})
        kept = sorted({*own.values(), versions[-1]})
        policy = f"specific {{ {' '.join(f'versions: {v}' for v in kept)} }}" if own else "latest { num_versions: 1 }"
        text += "".join(
            f"{line}\n"
            for line in (
                "  config {",
                f'    name: "{name}"',
                f'    base_path: "/models/{name}"',
                '    model_platform: "tensorflow"',
                f"    model_version_policy {{ {policy} }}",
                *(f'    version_labels {{ key: "{label}" value: {version} }}' for label, version in own.items()),
                "  }",
            )
        )
    return text + "}\n"


_BATCHING = f"""\
# BatchingParameters, in force with --enable_batching (spectrovae deploy --batching).
# Requests that meet in a batch must be equally long: with padding, TF Serving would fill shorter sounds with their
# first sample and answer with the length of the longest; without, it refuses a batch of several lengths.
max_batch_size {{ value: 32 }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: {CPUS} }}
pad_variable_length_inputs: false
"""

_MONITORING = """\
# MonitoringConfig.
prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }
"""


def _health(models: list[str]) -> str:
    """A script for the image's bash, which has no curl: every model has a version that answers."""
    return (
        f"for model in {' '.join(models)}; do "
        f"exec 3<>/dev/tcp/127.0.0.1/{REST_PORT} && "
        r"printf 'GET /v1/models/%s HTTP/1.0\r\n\r\n' $model >&3 && "
        "grep -q '\"AVAILABLE\"' <&3 || exit 1; done"
    )


def _compose(arguments: list[str], models: list[str], image: str, user: str) -> str:
    # In a Compose file $ begins a variable, $$ is one.
    health = json.dumps(_health(models).replace("$", "$$"))
    return f"""\
# docker compose up --wait
services:
  serving:
    image: {json.dumps(image)}
    command:
{_items(arguments, 6)}
    ports:  # this machine alone; put a proxy with TLS and authentication before others
      - "127.0.0.1:{GRPC_PORT}:{GRPC_PORT}"  # gRPC
      - "127.0.0.1:{REST_PORT}:{REST_PORT}"  # REST
    volumes:
      - type: bind
        source: .
        target: /models
        read_only: true
    user: "{user}"
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
    stop_grace_period: 30s
    healthcheck:
      test: ["CMD", "bash", "-c", {health}]
      interval: 10s
      timeout: 5s
      start_period: 60s
    deploy:
      resources:
        limits:
          cpus: "{CPUS}"
          memory: {MEMORY_GB}G
"""


def _kubernetes(arguments: list[str], models: list[str], image: str, user: str, folder: Path) -> str:
    probe = f"exec: {{command: [bash, -c, {json.dumps(_health(models))}]}}"
    uid, gid = user.split(":")
    return f"""\
# kubectl apply -f kubernetes.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: spectrovae-serving
  labels: {{app: spectrovae-serving}}
spec:
  replicas: 1
  selector:
    matchLabels: {{app: spectrovae-serving}}
  template:
    metadata:
      labels: {{app: spectrovae-serving}}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "{REST_PORT}"
        prometheus.io/path: /monitoring/prometheus/metrics
    spec:
      automountServiceAccountToken: false
      securityContext:
        runAsNonRoot: true
        runAsUser: {uid}
        runAsGroup: {gid}
        seccompProfile: {{type: RuntimeDefault}}
      containers:
        - name: serving
          image: {json.dumps(image)}
          args:
{_items(arguments, 12)}
          ports:
            - {{name: grpc, containerPort: {GRPC_PORT}}}
            - {{name: rest, containerPort: {REST_PORT}}}
          startupProbe:  # ten minutes to load
            {probe}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 120
          readinessProbe:
            {probe}
            periodSeconds: 10
            timeoutSeconds: 5
          livenessProbe:
            tcpSocket: {{port: grpc}}
            periodSeconds: 20
          resources:
            requests: {{cpu: "{CPUS}", memory: {MEMORY_GB}Gi}}
            limits: {{cpu: "{CPUS}", memory: {MEMORY_GB}Gi}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
          volumeMounts:
            - {{name: models, mountPath: /models, readOnly: true}}
            - {{name: tmp, mountPath: /tmp}}
      volumes:
        - name: models
          hostPath:  # a folder of the node; with several nodes, a persistentVolumeClaim that holds the same
            path: {json.dumps(str(folder))}
            type: Directory
        - name: tmp
          emptyDir: {{}}
---
apiVersion: v1
kind: Service
metadata:
  name: spectrovae-serving
spec:
  selector: {{app: spectrovae-serving}}
  ports:
    - {{name: grpc, port: {GRPC_PORT}, targetPort: grpc}}
    - {{name: rest, port: {REST_PORT}, targetPort: rest}}
"""


def _items(values: list[str], indent: int) -> str:
    return "\n".join(f"{' ' * indent}- {json.dumps(value)}" for value in values)
