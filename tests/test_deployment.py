"""What stands around an export: warm-up requests, and the files that start TF Serving's image on it."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from spectrovae.cli import main
from spectrovae.errors import InputError
from spectrovae.serving import deployment, warmup


@pytest.fixture
def models(tmp_path):
    """Three versions of one model and one of another, as far as deploy looks at them, and what it must not take."""
    for path in ("digits/1", "digits/2", "digits/10", "music.v2/1", ".digits-x/3"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "saved_model.pb").touch()
    (tmp_path / "digits" / "11").mkdir()
    (tmp_path / "recordings").mkdir()
    return tmp_path


def test_warm_up_records_are_what_tf_serving_reads(tmp_path):
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    requests = {
        "serving_default": {"waveform": np.random.default_rng(0).standard_normal((1, 8064)).astype(np.float32)},
        "decode": {"latent_0": np.ones((1, 2, 3), np.float32), "latent_1": np.arange(6, dtype=np.int32)[None, None]},
    }
    warmup.write_warmup(tmp_path, "digits", requests)
    records = list(tf.data.TFRecordDataset(str(tmp_path / "assets.extra" / "tf_serving_warmup_requests")))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    for log, (signature, tensors) in zip(logs, requests.items(), strict=True):
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("digits", signature)
        found = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(found[name], tensor, strict=True)
        assert log.SerializeToString(deterministic=True) == warmup.prediction_log("digits", signature, tensors)


def message(name: str, fields: dict[str, str], types: dict[str, dict[str, str]] | None = None):
    """An empty message of these fields, for those configurations of TF Serving whose classes no package has."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    for kind, own in {"Main": fields, **(types or {})}.items():
        described = file.message_type.add(name=kind)
        for number, (field, of) in enumerate(own.items(), start=1):
            scalar = getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{of.upper()}", None)
            kinds = {"type": scalar} if scalar else {"type": 11, "type_name": f".{name}.{of}"}
            described.field.add(name=field, number=number, label=1, **kinds)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{name}.Main"))()


def test_models_and_labels(models):
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    deployment.deploy(models, labels={"digits": {"stable": 1, "canary": 2}})
    text = (models / "models.config").read_text()
    digits, music = text_format.Parse(text, config.ModelServerConfig()).model_config_list.config
    assert (digits.name, digits.base_path, digits.model_platform) == ("digits", "/models/digits", "tensorflow")
    assert list(digits.model_version_policy.specific.versions) == [1, 2, 10]
    assert dict(digits.version_labels) == {"stable": 1, "canary": 2}
    assert (music.name, music.base_path) == ("music.v2", "/models/music.v2")
    assert music.model_version_policy.latest.num_versions == 1
    assert not music.version_labels


def test_batching_and_monitoring(models):
    """By the fields of session_bundle_config.proto and monitoring_config.proto."""
    deployment.deploy(models)
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    fields = {**dict.fromkeys(names, "Value"), "pad_variable_length_inputs": "bool"}
    batching = message("batching", fields, {"Value": {"value": "int64"}})
    text_format.Parse((models / "batching.config").read_text(), batching)
    assert batching.max_batch_size.value >= 8
    assert 0 < batching.batch_timeout_micros.value < 10_000
    assert not batching.pad_variable_length_inputs
    monitoring = message(
        "monitoring", {"prometheus_config": "Prometheus"}, {"Prometheus": {"enable": "bool", "path": "string"}}
    )
    text_format.Parse((models / "monitoring.config").read_text(), monitoring)
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path.startswith("/")


@pytest.mark.parametrize("batching", [False, True])
def test_compose_and_kubernetes(models, batching):
    yaml = pytest.importorskip("yaml")
    deployment.deploy(models, batching=batching, image="registry.example/serving:1")
    serving = yaml.safe_load((models / "compose.yaml").read_text())["services"]["serving"]
    assert serving["image"] == "registry.example/serving:1"
    assert serving["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert serving["volumes"] == [{"type": "bind", "source": ".", "target": "/models", "read_only": True}]
    assert serving["read_only"] is True
    assert not serving["user"].startswith("0:")
    assert set(serving["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    named = [argument.split("=") for argument in serving["command"]]
    assert all(name.startswith("--") for name, _ in named)
    for _, value in named:
        if value.startswith("/models/"):
            assert (models / value.removeprefix("/models/")).is_file()
    assert ("--enable_batching=true" in serving["command"]) is batching

    deployed, service = yaml.safe_load_all((models / "kubernetes.yaml").read_text())
    pod = deployed["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == serving["command"]
    assert container["image"] == serving["image"]
    assert deployed["spec"]["selector"]["matchLabels"] == deployed["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployed["spec"]["selector"]["matchLabels"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {p["name"] for p in container["ports"]}
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "models")
    assert mount == {"name": "models", "mountPath": "/models", "readOnly": True}
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "models")
    assert volume["hostPath"]["path"] == str(models)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] != 0
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    probe = container["readinessProbe"]["exec"]["command"]
    assert probe[:2] == ["bash", "-c"]
    assert serving["healthcheck"]["test"] == ["CMD", "bash", "-c", probe[2].replace("$", "$$")]


@pytest.mark.skipif(sys.platform == "win32", reason="the image's shell")
@pytest.mark.parametrize(("state", "healthy"), [("AVAILABLE", True), ("LOADING", False)])
def test_the_health_check_asks_every_model(models, monkeypatch, state, healthy):
    """The script that the image's bash runs, against a server that answers as TF Serving's REST does."""
    asked = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status = {"version": "1", "state": "AVAILABLE" if self.path.endswith("digits") else state}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"model_version_status": [status]}, indent=1).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(deployment, "REST_PORT", server.server_port)
        script = deployment._health(list(deployment.exported_models(models)))
        finished = subprocess.run(["bash", "-c", script], timeout=20, check=False)
        server.shutdown()
    assert (finished.returncode == 0) is healthy
    assert asked == ["/v1/models/digits", "/v1/models/music.v2"]
    assert subprocess.run(["bash", "-c", script], stderr=subprocess.DEVNULL, check=False).returncode  # nobody listens


def test_what_someone_changed_is_not_replaced(models):
    first = deployment.deploy(models)
    assert deployment.deploy(models) == first
    (models / "compose.yaml").write_text("mine")
    (models / "models.config").unlink()
    with pytest.raises(InputError, match=r"compose\.yaml exists .*--force"):
        deployment.deploy(models)
    assert (models / "compose.yaml").read_text() == "mine"
    assert not (models / "models.config").exists()
    deployment.deploy(models, force=True)
    assert "services" in (models / "compose.yaml").read_text()


@pytest.mark.parametrize("kind", ["bytes", "pipe", "folder", "link"])
def test_what_is_no_text_or_no_file_is_not_replaced(models, kind):
    file = models / "kubernetes.yaml"
    if kind == "bytes":
        file.write_bytes(b"\xff")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(models / "nowhere")
    for force in (False, True) if kind != "bytes" else (False,):
        with pytest.raises(InputError, match="something else" if kind == "bytes" else "move it away"):
            deployment.deploy(models, force=force)
    assert not (models / "models.config").exists()


def test_versions_are_those_that_the_server_takes(models, tmp_path):
    for name in ("\u0663", "9" * 19):
        (models / "digits" / name).mkdir()
        (models / "digits" / name / "saved_model.pb").touch()
    assert deployment.exported_models(models)["digits"] == [1, 2, 10]
    with pytest.raises(InputError, match="LABEL=VERSION"):
        deployment.parse_labels(["digits:stable=1\u0660"], models)


def test_an_export_neither_holds_its_bundle_nor_lies_in_it(tmp_path):
    target = tmp_path / "toy" / "1"
    (target / "model").mkdir(parents=True)
    (target / "about.json").touch()
    for bundle in (target / "model", target, tmp_path):
        with pytest.raises(InputError, match="the input"):
            deployment.check_target(target, bundle, Path("about.json"), True)
    deployment.check_target(target, tmp_path / "model", Path("about.json"), True)


def test_bad_requests(models, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(InputError, match="no exported model"):
            deployment.deploy(folder)
    with pytest.raises(InputError, match="no version 3 of 'digits'; it has digits 1 2 10, music"):
        deployment.deploy(models, labels={"digits": {"stable": 3}})
    with pytest.raises(InputError, match="no version 1 of 'speech'"):
        deployment.deploy(models, labels={"speech": {"stable": 1}})
    (models / "a name" / "1").mkdir(parents=True)
    (models / "a name" / "1" / "saved_model.pb").touch()
    with pytest.raises(InputError, match="URLs hold .* received 'a name'"):
        deployment.deploy(models)


def test_the_command(models, capsys):
    assert main(["deploy", str(models), "--label", "digits:stable=2"]) == 0
    printed = capsys.readouterr().out
    assert "docker compose" in printed
    assert printed.count("curl ") == 2
    assert 'key: "stable" value: 2' in (models / "models.config").read_text()
    for label, says in (("stable=2", "MODEL:"), ("stable", "LABEL=VERSION"), ("digits:stable=0", "LABEL=VERSION")):
        assert main(["deploy", str(models), "--label", label]) == 2
        assert says in capsys.readouterr().err
