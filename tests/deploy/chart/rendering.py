"""The chart as helm renders it: as text, and as the resources that Kubernetes would get."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from typing import Any

import yaml

from tests.deploy.chart.helm_binary import TOOLS, helm_binary
from tests.deploy.chart_documents import CHART

RELEASE = "release"
NAMESPACE = "shop"
Resource = dict[str, Any]
Values = dict[str, Any]


def helm(*arguments: str, major: int = 4, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm on its own, without any configuration of the user; values that name no keys are insecure by wish."""
    if values is not None and "insecure" not in values:
        values = values | {"insecure": "apiKeys" not in values}
    homes = {f"HELM_{kind}_HOME": str(TOOLS / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(
        [helm_binary(major), *arguments, *(["--values", "-"] if values is not None else [])],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        env=os.environ | homes | {"KUBECONFIG": os.devnull},
    )


def render(values: Values, major: int = 4) -> str:
    """The chart rendered as one text."""
    return _rendered(json.dumps(values), major)


@cache
def _rendered(values: str, major: int) -> str:
    command = ("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.34.0")
    done = helm(*command, major=major, values=json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def resources(values: Values, kind: str = "") -> list[Resource]:
    """What would be installed, or what of it is of one kind."""
    found: list[Resource] = json.loads(_documents(render(values)))
    return [resource for resource in found if not kind or resource["kind"] == kind]


@cache
def _documents(text: str) -> str:
    """The documents of a YAML text as JSON, which is read a hundred times faster."""
    return json.dumps([document for document in yaml.safe_load_all(text) if document])


def one(values: Values, kind: str) -> Resource:
    """The only resource of a kind, the pod of `helm test` aside."""
    (found,) = resources(values, kind)
    return found


def pod_spec(values: Values) -> Resource:
    """The specification of the service's pods."""
    spec: Resource = one(values, "Deployment")["spec"]["template"]["spec"]
    return spec


def refusal(values: Values, major: int = 4) -> str:
    """What helm says where it refuses values; empty where it takes them."""
    done = helm("template", RELEASE, str(CHART), major=major, values=values)
    return "" if done.returncode == 0 else done.stderr


GPU: Values = {"gpu": {"enabled": True, "count": 2}, "rollout": {"maxSurge": 0, "maxUnavailable": 1}}
KEDA: Values = {"autoscaling": {"enabled": False}, "keda": {"enabled": True, "serverAddress": "http://prometheus:9090"}}
KEYS: Values = {"apiKeys": {"existingSecret": "keys"}, "settings": {"metrics_need_key": True}}
WATCHED: Values = {
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Inference"}},
    "tracing": {"enabled": True},
}
MATRIX: dict[str, Values] = {
    "defaults": {},
    "gpu": GPU,
    "keda": KEDA,
    "fixed": {"autoscaling": {"enabled": False}, "replicaCount": 1, "serviceAccount": {"create": False}},
    "all-signals": {"autoscaling": {"inFlight": {"enabled": True}, "queueTime": {"enabled": True}}},
    "keys": KEYS | {"serviceMonitor": {"enabled": True, "bearerSecret": {"name": "scraper", "key": "token"}}},
    "tls": {"tls": {"existingSecret": "certificate"}, "serviceMonitor": {"enabled": True}},
    "mutual-tls": {"tls": {"existingSecret": "certificate", "clients": True}, "serviceMonitor": {"enabled": True}},
    "watched": WATCHED,
    "claim": {"modelRepository": {"persistentVolumeClaim": {"enabled": True, "storageClassName": "fast"}}},
    "existing-claim": {
        "modelRepository": {"shipped": False, "persistentVolumeClaim": {"enabled": True, "existingClaim": "ours"}}
    },
    "fetched": {
        "modelRepository": {
            "initContainer": {
                "enabled": True,
                "image": "fetcher:1",
                "args": ["get"],
                "env": [{"name": "A", "value": "b"}],
            }
        },
        "networkPolicy": {
            "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 443}]}]
        },
    },
    "exposed": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "32m"},
            "tls": [{"secretName": "certificate", "hosts": ["hotplate.example"]}],
        },
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["hotplate.example"]},
        "service": {"type": "LoadBalancer", "httpPort": 80, "annotations": {"a": "b"}},
    },
    "closed": {"networkPolicy": {"clients": [], "scrapers": [], "dns": []}, "grpc": {"enabled": False}},
    "platform-users": {"security": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "everything-extra": {
        "image": {"repository": "registry.example/hotplate", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "settings": {
            "max_body_bytes": 33554432,
            "max_queue_delay_seconds": 0.002,
            "access_log": True,
            "models": "mnist",
        },
        "podLabels": {"team": "vision"},
        "podAnnotations": {"note": "text"},
        "priorityClassName": "high",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [],
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "temporaryFolder": {"medium": ""},
        "fullnameOverride": "a-name-of-sixty-three-characters-which-is-what-a-label-can-hold",
    },
}
