"""Checks the pods: their security, number and place, the embedded Redis, and what can be added."""

from chart import Chart


class PodSecurity(Chart):
    def pods(self, name):
        for o in self.objects[name]:
            if o["kind"] in ("Deployment", "StatefulSet"):
                yield o["kind"], o["spec"]["template"]["spec"]
            elif o["kind"] == "Pod":
                yield "test", o["spec"]

    def test_all_pods_are_restricted(self):
        for name in self.objects:
            for kind, spec in self.pods(name):
                with self.subTest(f"{name} {kind}"):
                    context = spec["securityContext"]
                    self.assertIs(context["runAsNonRoot"], True)
                    self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
                    self.assertNotEqual(context.get("runAsUser"), 0)
                    self.assertIs(spec["automountServiceAccountToken"], False)
                    self.assertIs(spec["enableServiceLinks"], False)
                    container = spec["containers"][0]["securityContext"]
                    self.assertIs(container["allowPrivilegeEscalation"], False)
                    self.assertEqual(container["capabilities"], {"drop": ["ALL"]})
                    self.assertIs(container["readOnlyRootFilesystem"], True)
                    for volume in spec.get("volumes", []):
                        self.assertTrue({"configMap", "projected", "emptyDir", "secret"} & set(volume), volume)

    def test_users(self):
        self.assertEqual(self.pod("embedded")["securityContext"]["runAsUser"], 65532)
        self.assertNotIn("runAsUser", self.pod("openshift")["securityContext"])
        self.assertIs(self.pod("openshift")["securityContext"]["runAsNonRoot"], True)

    def test_service_account(self):
        account = self.find("embedded", "ServiceAccount")
        self.assertIs(account["automountServiceAccountToken"], False)
        self.assertEqual(self.pod("embedded")["serviceAccountName"], account["metadata"]["name"])
        self.assertEqual(self.pod("extras")["serviceAccountName"], "events-account")
        self.assertEqual(
            self.find("extras", "ServiceAccount")["metadata"]["annotations"], {"example.com/role": "events"}
        )
        self.assertNotIn("ServiceAccount", self.kinds("openshift"))
        self.assertEqual(self.pod("openshift")["serviceAccountName"], "default")


class Scaling(Chart):
    def test_hpa(self):
        self.assertNotIn("replicas", self.find("hpa", "Deployment")["spec"])
        self.assertEqual(self.find("embedded", "Deployment")["spec"]["replicas"], 3)
        spec = self.find("hpa", "HorizontalPodAutoscaler")["spec"]
        self.assertEqual((spec["minReplicas"], spec["maxReplicas"]), (2, 50))
        cpu, streams = spec["metrics"]
        self.assertEqual(cpu["containerResource"]["container"], self.gateway("hpa")["name"])
        self.assertEqual(cpu["containerResource"]["target"]["averageUtilization"], 70)
        self.assertEqual(streams["pods"]["metric"]["name"], "sse_gateway_streams_open")
        self.assertEqual(streams["pods"]["target"], {"type": "AverageValue", "averageValue": "10000000"})
        down = spec["behavior"]["scaleDown"]
        self.assertEqual(down["policies"], [{"type": "Pods", "value": 1, "periodSeconds": 180}])
        self.assertGreaterEqual(down["stabilizationWindowSeconds"], 300)

    def test_budget(self):
        spec = self.find("embedded", "PodDisruptionBudget")["spec"]
        self.assertEqual(spec["maxUnavailable"], 1)
        spec = self.find("hpa", "PodDisruptionBudget")["spec"]
        self.assertEqual((spec["minAvailable"], "maxUnavailable" in spec), ("50%", False))
        self.assertNotIn("PodDisruptionBudget", self.kinds("openshift"))

    def test_spread(self):
        constraint = self.pod("embedded")["topologySpreadConstraints"][0]
        self.assertEqual(constraint["whenUnsatisfiable"], "ScheduleAnyway")
        self.assertEqual(constraint["topologyKey"], "kubernetes.io/hostname")
        selector = self.find("embedded", "Deployment")["spec"]["selector"]["matchLabels"]
        self.assertEqual(constraint["labelSelector"], {"matchLabels": selector})
        self.assertEqual(constraint["matchLabelKeys"], ["pod-template-hash"])
        zone, mine = self.pod("extras")["topologySpreadConstraints"]
        self.assertIn("matchLabelKeys", zone)
        self.assertEqual(mine["labelSelector"], {"matchLabels": {"mine": "yes"}})
        self.assertNotIn("matchLabelKeys", mine)
        self.assertNotIn("topologySpreadConstraints", self.pod("openshift"))


class Redis(Chart):
    def test_default(self):
        spec = self.find("embedded", "StatefulSet")["spec"]
        pod = spec["template"]["spec"]
        redis = pod["containers"][0]
        self.assertEqual(redis["image"], "docker.io/library/redis:7.4-alpine")
        self.assertEqual(redis["command"], ["redis-server", "/etc/redis/redis.conf"])
        self.assertEqual(spec["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "1Gi")
        self.assertNotIn("storageClassName", spec["volumeClaimTemplates"][0]["spec"])
        self.assertEqual([volume["name"] for volume in pod["volumes"]], ["config"])
        text = self.find("embedded", "ConfigMap", "-redis")["data"]["redis.conf"]
        self.assertLessEqual(
            {"appendonly yes", "maxmemory 192mb", "maxmemory-policy noeviction", "include /etc/redis/auth.conf"},
            set(text.splitlines()),
        )
        self.assertEqual(self.find("embedded", "Service", "-redis")["spec"]["ports"][0]["port"], 6379)

    def test_without_volume(self):
        spec = self.find("extras", "StatefulSet")["spec"]
        self.assertNotIn("volumeClaimTemplates", spec)
        self.assertIn({"name": "data", "emptyDir": {}}, spec["template"]["spec"]["volumes"])

    def test_none_with_an_external_one(self):
        for name in ("external", "secrets", "config"):
            self.assertNotIn("StatefulSet", self.kinds(name))


class Extras(Chart):
    def test_all_reach_the_pod(self):
        pod, gateway = self.pod("extras"), self.gateway("extras")
        digest = "0123456789abcdef" * 4
        self.assertEqual(gateway["image"], f"registry.example.com:5000/team/sse-gateway@sha256:{digest}")
        self.assertEqual(self.gateway("embedded")["image"], "sse-gateway:0.1.0")
        self.assertEqual(pod["imagePullSecrets"], [{"name": "registry"}])
        self.assertEqual(self.env("extras")["OTEL_EXPORTER_OTLP_ENDPOINT"], "http://collector:4317")
        self.assertEqual(gateway["envFrom"], [{"configMapRef": {"name": "more"}}])
        self.assertIn({"name": "scratch", "emptyDir": {}}, pod["volumes"])
        self.assertIn({"name": "scratch", "mountPath": "/scratch"}, gateway["volumeMounts"])
        self.assertEqual([c["name"] for c in pod["containers"]], ["gateway", "sidecar"])
        self.assertEqual([c["name"] for c in pod["initContainers"]], ["first"])
        self.assertEqual(pod["nodeSelector"], {"kubernetes.io/os": "linux"})
        self.assertEqual(pod["tolerations"], [{"key": "edge", "operator": "Exists"}])
        self.assertIn("nodeAffinity", pod["affinity"])
        self.assertEqual(pod["priorityClassName"], "high")
        template = self.find("extras", "Deployment")["spec"]["template"]["metadata"]
        self.assertEqual(template["annotations"]["example.com/note"], "hello")
        self.assertEqual((template["labels"]["tier"], template["labels"]["team"]), ("edge", "platform"))

    def test_common_labels_are_on_every_object_and_select_nothing(self):
        for o in self.objects["extras"]:
            self.assertEqual(o["metadata"]["labels"]["team"], "platform", o["kind"])
        self.assertNotIn("team", self.find("extras", "Deployment")["spec"]["selector"]["matchLabels"])

    def test_names(self):
        self.assertEqual(self.find("extras", "Deployment")["metadata"]["name"], "events")
        self.assertEqual(self.find("own-name", "Deployment")["metadata"]["name"], "my-sse-gateway")
        for o in self.objects["long-name"]:
            # A StatefulSet's revision label is its name and eleven characters.
            longest = 52 if o["kind"] == "StatefulSet" else 63
            self.assertLessEqual(len(o["metadata"]["name"]), longest, o["kind"])

    def test_of_helm(self):
        pod = self.find("traefik", "Pod")
        self.assertEqual(pod["metadata"]["annotations"]["helm.sh/hook"], "test")
        container = pod["spec"]["containers"][0]
        self.assertEqual(container["image"], self.gateway("traefik")["image"])
        self.assertIn("--url=http://events-sse-gateway:80/live", container["args"])
        self.assertEqual(
            container["env"][0]["valueFrom"], {"secretKeyRef": {"name": "events-sse-gateway", "key": "publish-key"}}
        )

    def test_of_helm_tries_what_it_may(self):
        container = self.find("test-elsewhere", "Pod")["spec"]["containers"][0]
        self.assertEqual(container["command"], ["sse-loadtest"])
        self.assertIn("--url=http://events-sse-gateway:80", container["args"])
        self.assertIn("--connections=0", container["args"])
        self.assertEqual(container["env"][0]["name"], "SSE_PUBLISH_KEY")
        self.assertIn("--connections=10", self.find("embedded", "Pod")["spec"]["containers"][0]["args"])
        for name in ("tokens", "config", "test-by-hash"):
            self.assertNotIn("Pod", self.kinds(name), name)

    def test_of_helm_with_tls(self):
        pod = self.find("tls", "Pod")["spec"]
        container = pod["containers"][0]
        self.assertLessEqual(
            {"--url=https://events-sse-gateway:443", "--ca-file=/certificate/tls.crt", "--connections=0"},
            set(container["args"]),
        )
        self.assertEqual([m["mountPath"] for m in container["volumeMounts"]], ["/certificate"])
        secret = {"secretName": "events-tls", "items": [{"key": "tls.crt", "path": "tls.crt"}]}
        self.assertEqual(pod["volumes"], [{"name": "certificate", "secret": secret}])
        self.assertNotIn("volumes", self.find("embedded", "Pod")["spec"])
