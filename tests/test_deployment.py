"""The manifest for Kubernetes, compose.yaml and the Dockerfile agree with the service and with each other."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest
import yaml

from gapl.serving import runner
from gapl.serving.command import MARGIN_S, add_options
from gapl.serving.limits import DecodeLimits, ExplorationLimits, RequestLimits
from gapl.workers import Limits
from tests.service_process import PROJECT

MANIFEST = PROJECT / "deploy/kubernetes.yaml"
DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
Object = dict[str, Any]


@pytest.fixture(scope="module")
def objects() -> dict[str, Object]:
    """The objects of the manifest, by their kind."""
    found = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


@pytest.fixture(scope="module")
def pod(objects: dict[str, Object]) -> Object:
    spec: Object = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: Object) -> Object:
    (only,) = pod["containers"]
    return dict(only)


def test_objects_belong_together(objects: dict[str, Object]) -> None:
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = {
        "Deployment": objects["Deployment"]["spec"]["selector"]["matchLabels"],
        "Service": objects["Service"]["spec"]["selector"],
        "PodDisruptionBudget": objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    }
    assert all(selector == labels for selector in selectors.values())
    scaled, name = objects["HorizontalPodAutoscaler"]["spec"], objects["Deployment"]["metadata"]["name"]
    assert (scaled["scaleTargetRef"]["kind"], scaled["scaleTargetRef"]["name"]) == ("Deployment", name)
    assert scaled["minReplicas"] > objects["PodDisruptionBudget"]["spec"]["minAvailable"]


def test_its_options_are_those_of_the_service(container: Object) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    args = parser.parse_args(container["args"])
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert (args.host, str(args.config.parent), str(args.jobs)) == ("0.0.0.0", "/config", "/jobs")
    assert mounts == {"/config", "/jobs", "/tmp"}
    assert [each["name"] for each in container["env"]] == ["GAPL_JOBS_URL"]
    assert f'"--config", "{args.config}", "--jobs", "{args.jobs}"' in DOCKERFILE


def test_ports_and_probes_are_those_of_the_service(objects: dict[str, Object], container: Object) -> None:
    (port,) = container["ports"]
    assert port == {"name": "http", "containerPort": 8000}
    assert f"EXPOSE {port['containerPort']}" in DOCKERFILE
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert objects["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] == port["name"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}


def test_it_may_do_little(pod: Object, container: Object) -> None:
    security, user = container["securityContext"], re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, flags=re.MULTILINE)
    assert user
    assert [pod["securityContext"][name] for name in ("runAsUser", "runAsGroup")] == [
        int(each) for each in user.groups()
    ]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]


def test_it_has_the_time_to_end_in_order(pod: Object, container: Object) -> None:
    limits = RequestLimits()
    (pause,) = (int(each) for each in container["lifecycle"]["preStop"]["exec"]["command"] if each.isdecimal())
    longest = limits.upload_seconds + limits.deadline_seconds + MARGIN_S + runner.STOP_S
    assert pod["terminationGracePeriodSeconds"] >= pause + longest
    compose = yaml.safe_load((PROJECT / "compose.yaml").read_text(encoding="utf-8"))
    assert int(compose["services"]["gapl"]["stop_grace_period"].removesuffix("s")) >= longest


def test_it_has_the_memory_that_the_service_may_take(container: Object) -> None:
    decoding, args = DecodeLimits(), container["args"]
    num_decoders = int(args[args.index("--workers") + 1]) + 1  # and one for a job
    decoder, explorer = (
        Limits(megapixels, decoding.seconds).bytes
        for megapixels in (decoding.megapixels, ExplorationLimits().megapixels)
    )
    most = 10**9 + 2 * RequestLimits().memory_bytes + num_decoders * decoder + explorer
    compose = yaml.safe_load((PROJECT / "compose.yaml").read_text(encoding="utf-8"))
    limits = container["resources"]["limits"]["memory"], compose["services"]["gapl"]["mem_limit"]
    gib = [int(limit.removesuffix(unit)) for limit, unit in zip(limits, ("Gi", "g"), strict=True)]
    assert min(gib) << 30 >= most


def test_no_secret_is_in_it(objects: dict[str, Object], pod: Object, container: Object) -> None:
    assert "Secret" not in objects
    (variable,) = container["env"]
    assert variable["valueFrom"]["secretKeyRef"]["name"] == "gapl"
    assert [each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each] == ["gapl"]
