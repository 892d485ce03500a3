"""What the checks of the renderings share."""

import base64
import unittest

from rendering import CHART, OPEN, parse, together, value_sets


class Chart(unittest.TestCase):
    """All value sets, and some more, rendered once for all checks."""

    @classmethod
    def setUpClass(cls):
        if not hasattr(Chart, "objects"):
            jobs = {name: ((path,), {}) for name, path in value_sets().items()}
            embedded = CHART / "ci/embedded-values.yaml"
            jobs["again"] = ((embedded,), {})
            jobs["replicas"] = ((embedded,), {"sets": "replicas=7"})
            jobs["redis-password"] = ((embedded,), {"sets": "redis.embedded.password=other"})
            jobs["long-name"] = ((embedded,), {"release": "r" * 53})
            jobs["own-name"] = ((embedded,), {"release": "my-sse-gateway"})
            jobs["fast"] = ((embedded,), {"sets": "config.drain.delay=0s,config.drain.spread=1ms,config.drain.grace=500ms"})
            jobs["minutes"] = ((embedded,), {"sets": "config.drain.grace=2m"})
            jobs["whole-hour"] = ((embedded,), {"sets": "config.drain.grace=1h"})
            jobs["leading-zero"] = ((embedded,), {"sets": "config.drain.grace=090s"})
            jobs["exact"] = ((embedded,), {"sets": "config.drain.delay=10s,config.drain.spread=30s,config.drain.grace=40s"})
            jobs["sentinel"] = ((), {"sets": f"redis.url=redis+sentinel://s1:26379\\,s2:26379/main,{OPEN}"})
            jobs["embedded-network"] = ((embedded,), {"sets": "networkPolicy.enabled=true"})
            jobs["test-elsewhere"] = ((embedded,), {"sets": "config.access.subscribe={load-* forward,* open},config.forward.url=https://b.example.com"})
            jobs["test-by-hash"] = ((embedded,), {"sets": "publish.keys={sha256:abc}"})
            jobs["node-metrics"] = ((CHART / "ci/monitoring-values.yaml",), {"sets": "config.admin.metrics_open=true"})
            Chart.objects = parse(together(jobs))

    def find(self, name, kind, suffix=""):
        """The object of that kind whose name ends so; fails unless there is one."""
        found = [o for o in self.objects[name] if o["kind"] == kind and o["metadata"]["name"].endswith(suffix)]
        if not suffix and len(found) > 1:
            shortest = min(len(o["metadata"]["name"]) for o in found)
            found = [o for o in found if len(o["metadata"]["name"]) == shortest]
        self.assertEqual(len(found), 1, f"{name}: {kind} *{suffix}")
        return found[0]

    def kinds(self, name):
        return {o["kind"] for o in self.objects[name]}

    def pod(self, name):
        return self.find(name, "Deployment")["spec"]["template"]["spec"]

    def gateway(self, name):
        return self.pod(name)["containers"][0]

    def env(self, name):
        return {e["name"]: e.get("valueFrom", e.get("value")) for e in self.gateway(name)["env"]}

    def secret(self, name):
        data = self.find(name, "Secret")["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def toml(self, name):
        return self.find(name, "ConfigMap")["data"]["config.toml"]
