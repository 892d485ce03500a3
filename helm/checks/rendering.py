#!/usr/bin/env python3
"""Renders the chart with helm, and reads what comes out. Only the standard library is used: helm itself reads the YAML
and gives it back as JSON. Needs `helm`, or HELM=PATH.

    helm/checks/rendering.py DIR   writes each object that any of the renderings has, one to a file, for an
                                   API server to check (deploy/kube-test.sh)
"""

import concurrent.futures
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/sse-gateway"
HELM = os.environ.get("HELM", "helm")
KUBE_VERSION = "1.31.0"

# The main switches: what each sets, and the objects that it adds.
SWITCHES = {
    "embedded": ("redis.embedded.enabled=true,redis.url=", ["ConfigMap", "Service", "StatefulSet"]),
    "ingress": ("ingress.enabled=true", ["Ingress"]),
    "route": ("httpRoute.enabled=true,httpRoute.parentRefs[0].name=public", ["HTTPRoute"]),
    "hpa": ("hpa.enabled=true", ["HorizontalPodAutoscaler"]),
    "pdb": ("pdb.enabled=true", ["PodDisruptionBudget"]),
    "network": ("networkPolicy.enabled=true", ["NetworkPolicy"]),
    "monitor": ("podMonitor.enabled=true", ["PodMonitor"]),
    "rule": ("prometheusRule.enabled=true", ["PrometheusRule"]),
    "dashboards": ("dashboards.enabled=true", ["ConfigMap"]),
}
ALWAYS = ["ConfigMap", "Deployment", "Pod", "Secret", "Service", "Service", "ServiceAccount"]

# Who may subscribe, for renderings that are about something else.
OPEN = "config.access.subscribe={* open}"

DASHBOARD = '{"title": "Test", "panels": [{"legendFormat": "{{pod}} {{ .x }}"}]}'


class Refused(Exception):
    """helm did not render it; the message says why."""


def render(*values, sets="", release="events", chart=CHART):
    """The manifests as text."""
    command = [HELM, "template", release, str(chart), "--namespace", "apps", "--kube-version", KUBE_VERSION]
    for file in values:
        command += ["--values", str(file)]
    if sets:
        command += ["--set", sets]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def parse(texts):
    """The objects of each text: helm reads them, as the files of a chart that only prints files."""
    with tempfile.TemporaryDirectory() as folder:
        reader = pathlib.Path(folder)
        (reader / "templates").mkdir()
        (reader / "read").mkdir()
        (reader / "Chart.yaml").write_text("apiVersion: v2\nname: reader\nversion: 0.0.0\n")
        (reader / "templates/all.yaml").write_text(
            '{{- range $path, $_ := .Files.Glob "read/*" }}\n'
            '{{- range splitList "\\n---\\n" (printf "\\n%s" ($.Files.Get $path)) }}\n'
            "---\n"
            '{{ dict "kind" "Read" "name" (base $path) "object" (fromYaml .) | toJson }}\n'
            "{{- end }}\n{{- end }}\n"
        )
        for name, text in texts.items():
            (reader / "read" / name).write_text(text)
        out = subprocess.run([HELM, "template", str(reader)], capture_output=True, text=True)
        if out.returncode:
            raise Refused(out.stderr)
    objects = {name: [] for name in texts}
    for line in out.stdout.splitlines():
        if not line.startswith("{"):
            continue
        read = json.loads(line)
        if "Error" in read["object"]:
            raise Refused(f"{read['name']}: {read['object']['Error']}")
        if read["object"]:
            objects[read["name"]].append(read["object"])
    return objects


def together(jobs):
    """Runs `render` for each (name, arguments) at the same time."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {name: pool.submit(render, *args, **more) for name, (args, more) in jobs.items()}
        return {name: future.result() for name, future in futures.items()}


def with_dashboard(folder):
    """A copy of the chart that has a dashboard, whatever the chart has by now."""
    chart = pathlib.Path(folder) / "sse-gateway"
    shutil.copytree(CHART, chart)
    for file in (chart / "files/dashboards").glob("*.json"):
        file.unlink()
    (chart / "files/dashboards/test.json").write_text(DASHBOARD)
    return chart


def notes(*values, sets=""):
    """What NOTES.txt says: `helm template` leaves it out, so it becomes an object in a copy of the chart."""
    with tempfile.TemporaryDirectory() as folder:
        chart = pathlib.Path(folder) / "sse-gateway"
        shutil.copytree(CHART, chart)
        text = (chart / "templates/NOTES.txt").read_text()
        (chart / "templates/_notes.tpl").write_text('{{ define "notes" }}' + text + "{{ end }}")
        (chart / "templates/notes.yaml").write_text(
            'kind: Notes\ntext: |\n  {{- include "notes" . | trim | nindent 2 }}\n'
        )
        objects = parse({"n": render(*values, sets=sets, chart=chart)})["n"]
    return next(o["text"] for o in objects if o["kind"] == "Notes")


def combinations(chart):
    """All combinations of the main switches, as jobs, and the switches that each has."""
    jobs, chosen = {}, {}
    for picks in itertools.product([False, True], repeat=len(SWITCHES)):
        on = [name for name, pick in zip(SWITCHES, picks) if pick]
        name = "+".join(on) or "none"
        sets = ",".join(["redis.url=redis://redis.example.com", "pdb.enabled=false", OPEN] + [SWITCHES[s][0] for s in on])
        # A later --set wins: `pdb` and `embedded` undo the first two.
        jobs[name] = ((), {"sets": sets, "chart": chart})
        chosen[name] = on
    return jobs, chosen


def value_sets():
    return {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}


def write(folder):
    """Each different object of all renderings; the same names again and again are no matter to a dry run."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as copy:
        chart = with_dashboard(copy)
        jobs = combinations(chart)[0] | {name: ((path,), {"chart": chart}) for name, path in value_sets().items()}
        texts = together(jobs)
    seen = {}
    for text in texts.values():
        for document in re.split(r"^---\n", text, flags=re.MULTILINE):
            kind = re.search(r"^kind: (\w+)$", document, re.MULTILINE)
            if kind:
                # Generated values are not what makes an object another one.
                plain = re.sub(r"^  (redis|publish|admin)-[a-z.-]+: .*$", "", document, flags=re.MULTILINE)
                seen.setdefault(plain, (kind[1], document))
    for number, (kind, document) in enumerate(seen.values()):
        (folder / f"{number:04}-{kind}.yaml").write_text(document)
    print(f"{len(seen)} different objects of {len(texts)} renderings in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    write(sys.argv[1])
