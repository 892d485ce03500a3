"""Checks the ways to the pods, who may use them, monitoring, and what NOTES.txt says."""

import json
import tempfile
import unittest

from chart import Chart
from rendering import CHART, DASHBOARD, notes, parse, render, with_dashboard


class Network(Chart):
    def test_services(self):
        clients = self.find("embedded", "Service")["spec"]
        self.assertEqual((clients["type"], clients["ports"]), ("ClusterIP", [{"name": "http", "port": 80, "targetPort": "http"}]))
        admin = self.find("embedded", "Service", "-admin")["spec"]
        self.assertEqual((admin["clusterIP"], admin["publishNotReadyAddresses"]), ("None", True))
        self.assertEqual(admin["ports"], [{"name": "admin", "port": 9080, "targetPort": "admin"}])

    def test_protocols(self):
        def of(name, suffix=""):
            return self.find(name, "Service", suffix)["spec"]["ports"][0].get("appProtocol")

        self.assertEqual((of("tls"), of("tls", "-admin")), ("https", "https"))
        self.assertEqual((of("h2c"), of("h2c", "-admin")), ("kubernetes.io/h2c", None))
        self.assertEqual(self.find("tls", "Service")["spec"]["ports"][0]["port"], 443)

    def test_load_balancer(self):
        service = self.find("loadbalancer", "Service")
        spec = service["spec"]
        self.assertEqual(spec["ports"][0], {"name": "http", "port": 8080, "targetPort": "http", "nodePort": 30080})
        self.assertEqual(spec["externalTrafficPolicy"], "Local")
        self.assertEqual(spec["loadBalancerClass"], "example.com/lb")
        self.assertEqual(spec["loadBalancerSourceRanges"], ["192.0.2.0/24"])
        self.assertEqual(service["metadata"]["annotations"], {"example.com/kind": "network"})

    def test_everything_selects_the_gateways(self):
        for name in self.objects:
            with self.subTest(name):
                deployment = self.find(name, "Deployment")["spec"]
                labels = deployment["template"]["metadata"]["labels"]
                selectors = [deployment["selector"]["matchLabels"]]
                for o in self.objects[name]:
                    if o["metadata"].get("labels", {}).get("app.kubernetes.io/component") != "gateway":
                        continue
                    if o["kind"] == "Service":
                        selectors.append(o["spec"]["selector"])
                    elif o["kind"] in ("PodDisruptionBudget", "PodMonitor"):
                        selectors.append(o["spec"]["selector"]["matchLabels"])
                    elif o["kind"] == "NetworkPolicy":
                        selectors.append(o["spec"]["podSelector"]["matchLabels"])
                self.assertGreaterEqual(len(selectors), 3)
                for selector in selectors:
                    self.assertEqual(len(selector), 3)
                    self.assertLessEqual(selector.items(), labels.items())
                for o in self.objects[name]:
                    if o["kind"] == "StatefulSet":
                        redis = o["spec"]["template"]["metadata"]["labels"]
                        self.assertFalse(selectors[0].items() <= redis.items())

    def test_ingress(self):
        spec = self.find("haproxy", "Ingress")["spec"]
        self.assertEqual(spec["ingressClassName"], "haproxy")
        self.assertEqual(spec["tls"], [{"secretName": "events-tls", "hosts": ["events.example.com"]}])
        rule = spec["rules"][0]
        self.assertEqual(rule["host"], "events.example.com")
        backend = {"service": {"name": "events-sse-gateway", "port": {"name": "http"}}}
        self.assertEqual(rule["http"]["paths"], [{"path": "/", "pathType": "Prefix", "backend": backend}])
        rule = self.find("traefik", "Ingress")["spec"]["rules"][0]
        self.assertNotIn("host", rule)
        self.assertEqual(rule["http"]["paths"][0]["path"], "/live")

    def test_route(self):
        spec = self.find("envoy", "HTTPRoute")["spec"]
        self.assertEqual(spec["parentRefs"], [{"name": "public", "namespace": "gateways"}])
        self.assertEqual(spec["hostnames"], ["events.example.com"])
        rule = spec["rules"][0]
        self.assertEqual(rule["timeouts"], {"request": "0s"})
        self.assertEqual(rule["backendRefs"], [{"name": "events-sse-gateway", "port": 80}])
        self.assertEqual(rule["matches"], [{"path": {"type": "PathPrefix", "value": "/"}}])
        self.assertNotIn("timeouts", self.find("gke", "HTTPRoute")["spec"]["rules"][0])

    def test_extra_objects_are_templates(self):
        policy = self.find("envoy", "BackendTrafficPolicy")
        self.assertEqual(policy["metadata"]["name"], "events-sse-gateway")
        self.assertEqual(policy["spec"]["circuitBreaker"]["maxConnections"], 200000)
        self.assertLessEqual({"GCPBackendPolicy", "HealthCheckPolicy"}, self.kinds("gke"))

    def test_policy(self):
        spec = self.find("network", "NetworkPolicy")["spec"]
        self.assertEqual(spec["policyTypes"], ["Ingress", "Egress"])
        # No rule for the admin port: no one may.
        self.assertEqual([rule["ports"] for rule in spec["ingress"]], [[{"port": "http"}]])
        peers = spec["ingress"][0]["from"]
        self.assertEqual(peers[0]["namespaceSelector"]["matchLabels"], {"kubernetes.io/metadata.name": "ingress"})
        test = self.find("network", "Pod")["metadata"]["labels"]
        self.assertLessEqual(peers[1]["podSelector"]["matchLabels"].items(), test.items())
        dns, redis, extra = spec["egress"]
        self.assertEqual({port["port"] for port in dns["ports"]}, {53})
        self.assertEqual([port["port"] for port in redis["ports"]], [6379, 26379])
        self.assertEqual(redis["to"], [{"ipBlock": {"cidr": "10.1.0.0/16"}}])
        self.assertEqual(extra, {"ports": [{"port": 4317}]})

    def test_policy_lets_gateways_ask_others(self):
        dns, redis, forward, jwks = self.find("h2c", "NetworkPolicy")["spec"]["egress"]
        shop = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
        self.assertEqual(forward, {"ports": [{"port": 8000}], "to": [shop]})
        self.assertEqual(jwks, {"ports": [{"port": 443}]})
        self.assertEqual(len(self.find("tls", "NetworkPolicy")["spec"]["egress"]), 2)
        objects = parse({"n": render(CHART / "ci/config-values.yaml", sets="networkPolicy.enabled=true")})["n"]
        policy = next(o for o in objects if o["kind"] == "NetworkPolicy")
        self.assertEqual([rule["ports"] for rule in policy["spec"]["egress"][2:]], [[{"port": 8000}], [{"port": 443}]])

    def test_policy_of_the_embedded_redis(self):
        gateways = self.find("embedded-network", "NetworkPolicy")["spec"]
        self.assertNotIn("from", gateways["ingress"][0])
        self.assertEqual(gateways["ingress"][1]["from"], [{"namespaceSelector": {}}])
        redis = self.find("embedded-network", "StatefulSet")["spec"]["template"]["metadata"]["labels"]
        to = gateways["egress"][1]["to"][0]["podSelector"]["matchLabels"]
        self.assertLessEqual(to.items(), redis.items())
        policy = self.find("embedded-network", "NetworkPolicy", "-redis")["spec"]
        self.assertLessEqual(policy["podSelector"]["matchLabels"].items(), redis.items())
        peers = policy["ingress"][0]["from"]
        self.assertEqual(len(peers), 1)
        self.assertEqual(peers[0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"], "gateway")
        self.assertNotIn("egress", policy)


class Monitoring(Chart):
    def test_pod_monitor(self):
        monitor = self.find("monitoring", "PodMonitor")
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prometheus")
        endpoint = monitor["spec"]["podMetricsEndpoints"][0]
        common = {"port": "admin", "path": "/metrics", "interval": "30s", "scrapeTimeout": "10s"}
        token = {"credentials": {"name": "events-sse-gateway", "key": "admin-token"}}
        self.assertEqual(endpoint, common | {"authorization": token})
        self.assertEqual(self.find("node-metrics", "PodMonitor")["spec"]["podMetricsEndpoints"], [common])
        endpoint = self.find("tls", "PodMonitor")["spec"]["podMetricsEndpoints"][0]
        self.assertEqual((endpoint["scheme"], endpoint["tlsConfig"]["serverName"]), ("https", "events"))

    def test_alerts_are_those_of_the_file(self):
        rule = self.find("monitoring", "PrometheusRule")
        self.assertEqual(rule["metadata"]["labels"]["release"], "prometheus")
        file = parse({"alerts": (CHART / "files/alerts.yaml").read_text()})["alerts"][0]
        self.assertEqual(rule["spec"], file)
        self.assertTrue(file["groups"][0]["rules"][0]["expr"])

    def test_dashboards(self):
        with tempfile.TemporaryDirectory() as folder:
            chart = with_dashboard(folder)
            objects = parse({"d": render(CHART / "ci/monitoring-values.yaml", chart=chart)})["d"]
        maps = [o for o in objects if o["kind"] == "ConfigMap" and "test.json" in o["data"]]
        self.assertEqual(len(maps), 1)
        self.assertEqual(maps[0]["metadata"]["name"], "events-sse-gateway-test")
        self.assertEqual(maps[0]["metadata"]["labels"]["grafana_dashboard"], "1")
        self.assertEqual(maps[0]["metadata"]["annotations"], {"grafana_folder": "Events"})
        self.assertEqual(json.loads(maps[0]["data"]["test.json"]), json.loads(DASHBOARD))


class Notes(unittest.TestCase):
    def test_with_the_embedded_redis(self):
        text = notes(CHART / "ci/embedded-values.yaml", sets="config.redis.prefix=x:,config.http.path_prefix=/live")
        for part in [
            "kubectl --namespace apps port-forward service/events-sse-gateway 8080:80 &",
            "curl -N http://127.0.0.1:8080/live/rooms/demo/events",
            """get secret events-sse-gateway -o go-template='{{index .data "publish-key" | base64decode}}'""",
            """get secret events-sse-gateway -o go-template='{{index .data "admin-token" | base64decode}}'""",
            "Who may read:\n\n  *: anyone\n\nWho may publish over HTTP, beside those who have a publish key:\n\n  every room: nobody, as",
            "exec events-sse-gateway-redis-0 -- redis-cli FCALL sse_publish 1 x:room:demo event chat data hi",
            "delete pvc data-events-sse-gateway-redis-0",
            "helm --namespace apps test events",
            "Nothing outside of the cluster reaches it yet",
        ]:
            self.assertIn(part, text)

    def test_with_what_is_there(self):
        text = notes(CHART / "ci/secrets-values.yaml", sets="ingress.enabled=true")
        self.assertIn("get secret my-keys -o go-template='{{index .data \"backend\"", text)
        self.assertIn("get secret my-operators -o go-template='{{index .data \"token\"", text)
        for part in ("redis-cli", "pvc", "Nothing outside"):
            self.assertNotIn(part, text)

    def test_says_who_may_read_and_publish(self):
        text = notes(CHART / "ci/h2c-values.yaml")
        for part in [
            "Who may read:\n\n  news:*: anyone\n  chat:*: who shows a token that names the room\n  *: whom http://backend.shop/may lets in\n\n",
            "who have a publish key:\n\n  every room: who shows a token that names the room\n\n",
            'curl -N -H "Cookie: $COOKIE" http://127.0.0.1:8080/rooms/demo/events',
        ]:
            self.assertIn(part, text)
        text = notes(CHART / "ci/tls-values.yaml")
        self.assertIn('curl -k -N -H "Authorization: Bearer $TOKEN" https://127.0.0.1:8080/rooms/demo/events', text)
        self.assertIn("https://127.0.0.1:9080/metrics", text)
        self.assertIn("helm --namespace apps test events", text)
        # Its program does not speak the PROXY protocol.
        proxied = "config.http.proxy_protocol=true,config.http.trusted_proxies={10.0.0.0/8}"
        self.assertNotIn("helm --namespace", notes(CHART / "ci/embedded-values.yaml", sets=proxied))
        text = notes(CHART / "ci/embedded-values.yaml", sets="config.dev=true,config.access=null")
        self.assertEqual(text.count("every room: anyone (config.dev)"), 2)
