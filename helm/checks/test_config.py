"""Checks the configuration file, secrets and the stop: what comes of the values, and what is refused."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from chart import Chart
from rendering import CHART, ROOT, Refused, parse, render, value_sets

DEFAULTS = ROOT / "gateway/src/config/defaults.toml"

# What the chart sets itself.
OWN_SETTINGS = {
    "node", "listen", "admin.listen", "redis.url", "publish.keys", "redis.password_file", "redis.ca_file", "redis.cert_file",
    "redis.key_file", "redis.sentinel_password", "redis.sentinel_password_file", "publish.key_files", "tokens.keys",
    "tokens.key_files", "tls.cert_file", "tls.key_file", "tls.client_ca_file", "admin.token", "admin.token_file",
    "admin.cert_file", "admin.key_file", "admin.client_ca_file",
}

# A public key, as key servers show it.
KEY_SET = """{"keys": [{"kty": "EC", "crv": "P-256", "kid": "b",
  "x": "EVs_o5-uQbTjL3chynL4wXgUg2R9q9UU8I5mEovUf84", "y": "kGe5DgSIycKp8w9aJmoHhB1sB3QTugfnRWm5nU_TzsY"}]}"""


class Refusals(unittest.TestCase):
    def test_each_says_why(self):
        files = sorted((CHART / "ci/refused").glob("*.yaml"))
        self.assertGreater(len(files), 20)
        for file in files:
            with self.subTest(file.stem):
                says = file.read_text().splitlines()[0].removeprefix("# says: ")
                with self.assertRaises(Refused) as refused:
                    render(file)
                self.assertIn(says, str(refused.exception))


class Configuration(Chart):
    def settings(self, schema, path=""):
        for key, below in schema["properties"].items():
            if "properties" in below:
                yield from self.settings(below, f"{path}{key}.")
            else:
                yield path + key

    @staticmethod
    def toml_library():
        try:
            import tomllib
        except ImportError:
            raise unittest.SkipTest("Python before 3.11 reads no TOML")
        return tomllib

    def known(self):
        known = set()
        for key, value in self.toml_library().loads(DEFAULTS.read_text()).items():
            known |= {f"{key}.{inner}" for inner in value} if isinstance(value, dict) else {key}
        return known

    def test_schema_has_every_setting_of_the_gateway(self):
        known = self.known()
        schema = json.loads((CHART / "values.schema.json").read_text())
        mine = set(self.settings(schema["properties"]["config"]))
        self.assertEqual(known - OWN_SETTINGS - mine, set(), "the schema lacks settings of the gateway")
        self.assertEqual(mine - known, set(), "the gateway has no such settings")
        self.assertEqual(mine & OWN_SETTINGS, set())

    def test_file_says_what_the_values_say(self):
        toml = self.toml_library()
        values = parse({"config": (CHART / "ci/config-values.yaml").read_text()})["config"][0]["config"]
        admin = {"listen": "0.0.0.0:9080", "token_file": "/etc/sse-gateway-admin/admin-token"}
        values |= {"listen": "0.0.0.0:8080", "admin": admin | {"metrics_open": True}}
        self.assertEqual(toml.loads(self.toml("config")), values)
        self.assertEqual(
            toml.loads(self.toml("embedded")),
            {
                "listen": "0.0.0.0:8080",
                "access": {"subscribe": ["* open"], "publish": []},
                "admin": admin,
                "log": {"format": "json"},
                "drain": {"delay": "5s", "spread": "15s", "grace": "40s"},
            },
        )

    def test_numbers_are_whole(self):
        text = self.toml("config")
        self.assertIn("\nlog_memory = 1073741824\n", text)
        self.assertIn("\nmax_len = 10000000\n", text)
        self.assertNotRegex(text, r"= [0-9.]+e\+")

    def test_addresses(self):
        self.assertIn('listen = "[::]:8080"', self.toml("extras"))
        self.assertIn('[admin]\nlisten = "[::]:9080"', self.toml("extras"))
        # The image's own environment would win over the file.
        env = self.env("extras")
        self.assertEqual((env["SSE_LISTEN"], env["SSE_ADMIN__LISTEN"]), ("[::]:8080", "[::]:9080"))

    def test_files_of_secrets(self):
        toml = self.toml_library()
        tokens = toml.loads(self.toml("tokens"))
        self.assertEqual(
            tokens["tokens"]["key_files"],
            [
                "kid=2026-11 ES256 /etc/sse-gateway-tokens/token.pem",
                "HS256 /etc/sse-gateway-tokens/secret",
                "/etc/sse-gateway-tokens/jwks.json",
            ],
        )
        publish = [f"/etc/sse-gateway-publish/{name}" for name in ("backend", "partner")]
        self.assertEqual(tokens["publish"]["key_files"], publish)
        tls = toml.loads(self.toml("tls"))
        at = "/etc/sse-gateway-"
        self.assertEqual(
            tls["tls"],
            {"cert_file": at + "tls/tls.crt", "key_file": at + "tls/tls.key", "client_ca_file": at + "tls-ca/ca.crt"},
        )
        self.assertEqual(
            tls["admin"],
            {
                "listen": "0.0.0.0:9080",
                "token_file": at + "admin/admin-token",
                "cert_file": at + "admin-tls/tls.crt",
                "key_file": at + "admin-tls/tls.key",
                "client_ca_file": at + "admin-ca/operators.pem",
            },
        )

    def test_every_file_that_is_named_is_mounted(self):
        for name in self.objects:
            mounts = {mount["mountPath"]: mount["name"] for mount in self.gateway(name)["volumeMounts"]}
            volumes = {volume["name"] for volume in self.pod(name)["volumes"]}
            for path in re.findall(r"(/etc/sse-gateway[a-z-]*)/", self.toml(name)):
                self.assertIn(mounts.get(path), volumes, f"{name}: {path}")
            self.assertTrue(set(mounts.values()) <= volumes | {"data"}, name)

    def test_gateway_takes_the_files(self):
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        programs = [target / f"{kind}/sse-gateway" for kind in ("release", "debug")]
        fresh = [p for p in programs if p.exists() and p.stat().st_mtime > DEFAULTS.stat().st_mtime]
        if not fresh:
            raise unittest.SkipTest("no gateway is built that has the present settings")
        program = max(fresh, key=lambda program: program.stat().st_mtime)
        for name in value_sets():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                if not self.mounted(name, folder):
                    continue
                file = pathlib.Path(folder) / "config.toml"
                file.write_text(self.toml(name).replace("/etc/", folder + "/"))
                env = {"SSE_REDIS__URL": "redis://:password@events-sse-gateway-redis:6379", "SSE_NODE": "pod-1"}
                for variable, value in self.env(name).items():
                    reference = isinstance(value, dict) and value.get("secretKeyRef", {})
                    if variable in ("SSE_PUBLISH__KEYS", "SSE_TOKENS__KEYS") and reference["name"] == "events-sse-gateway":
                        env[variable] = self.secret(name)[reference["key"]]
                done = subprocess.run([program, "--config", file, "check-config"], capture_output=True, text=True, env=env)
                self.assertEqual(done.returncode, 0, done.stderr)

    def mounted(self, name, folder):
        """Something of the right kind for each file that the configuration names; false where openssl is needed and
        not there."""
        paths = [pathlib.Path(folder + path.removeprefix("/etc")) for path in re.findall(r"/etc/[^\" ]+", self.toml(name))]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            if path.name == "jwks.json":
                path.write_text(KEY_SET)
            elif path.suffix in (".crt", ".pem", ".key"):
                if not shutil.which("openssl"):
                    return False
                self.certificate(path)
            else:
                path.write_text("0123456789abcdef0123456789abcdef\n")
        return True

    @staticmethod
    def certificate(path):
        """A key pair, of which `path` is the certificate, the key or, as token.pem, the public key."""
        key, crt = path.with_suffix(".key"), path.with_suffix(".crt" if path.suffix == ".key" else path.suffix)
        make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=events".split()
        if not (key.exists() and crt.exists()):
            subprocess.run(["openssl", *make, "-keyout", key, "-out", crt], check=True, capture_output=True)
        if path.name == "token.pem":
            subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", path], check=True, capture_output=True)


class Stopping(Chart):
    def grace(self, name):
        return self.pod(name)["terminationGracePeriodSeconds"]

    def test_grace_period_is_that_of_the_gateway_and_five_seconds(self):
        wanted = {
            "embedded": 45,
            "config": 96,
            "alb": 65,
            "fast": 6,
            "minutes": 125,
            "whole-hour": 3605,
            "leading-zero": 95,
            "exact": 45,
        }
        self.assertEqual({name: self.grace(name) for name in wanted}, wanted)

    def test_no_pod_goes_before_its_successor_is_ready(self):
        spec = self.find("embedded", "Deployment")["spec"]
        self.assertEqual(
            spec["strategy"], {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        )
        self.assertEqual(spec["minReadySeconds"], 5)
        self.assertNotIn("lifecycle", self.gateway("embedded"))

    def test_probes(self):
        gateway = self.gateway("embedded")
        for probe, path in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]:
            self.assertEqual(gateway[probe]["httpGet"], {"path": path, "port": "admin"})
            with_tls = self.gateway("tls")[probe]["httpGet"]
            self.assertEqual(with_tls, {"path": path, "port": "admin", "scheme": "HTTPS"})
        self.assertEqual(gateway["ports"][1], {"name": "admin", "containerPort": 9080})
        # Out of the endpoints well before the drain's delay is over.
        probe = gateway["readinessProbe"]
        self.assertLess(probe["periodSeconds"] * probe["failureThreshold"], 5)


class RollOut(Chart):
    def annotations(self, name):
        return self.find(name, "Deployment")["spec"]["template"]["metadata"]["annotations"]

    def test_generated_values_bring_no_new_pods(self):
        self.assertNotEqual(self.secret("embedded")["publish-keys"], self.secret("again")["publish-keys"])
        self.assertEqual(self.annotations("embedded"), self.annotations("again"))
        self.assertEqual(self.annotations("embedded"), self.annotations("replicas"))

    def test_settings_and_given_secrets_do(self):
        config = "checksum/config"
        self.assertNotEqual(self.annotations("embedded")[config], self.annotations("minutes")[config])
        self.assertEqual(self.annotations("embedded")[config], self.annotations("redis-password")[config])
        secret = "checksum/secret"
        self.assertNotEqual(self.annotations("embedded")[secret], self.annotations("redis-password")[secret])
        self.assertNotEqual(self.annotations("embedded")[secret], self.annotations("external")[secret])

    def test_checksum_is_that_of_the_file(self):
        text = self.toml("config").rstrip("\n")
        self.assertEqual(self.annotations("config")["checksum/config"], hashlib.sha256(text.encode()).hexdigest())


class Secrets(Chart):
    def test_embedded(self):
        secret = self.secret("embedded")
        self.assertRegex(secret["redis-password"], r"^[A-Za-z0-9]{32}$")
        self.assertEqual(secret["redis-url"], f"redis://:{secret['redis-password']}@events-sse-gateway-redis:6379")
        self.assertEqual(secret["redis-auth.conf"], f"requirepass {secret['redis-password']}\n")
        self.assertRegex(secret["publish-keys"], r"^[A-Za-z0-9]{32}$")
        self.assertEqual(secret["publish-key"], secret["publish-keys"])
        self.assertNotEqual(secret["publish-key"], secret["redis-password"])
        self.assertEqual(self.secret("extras")["redis-url"], "redis://:letmein@events-redis:6379")

    def test_external(self):
        secret = self.secret("external")
        self.assertEqual(secret["redis-url"], "redis://:p%40ss@redis.example.com:6379/0")
        self.assertEqual(secret["publish-keys"], "first-publish-key,second-publish-key")
        self.assertEqual(secret["publish-key"], "first-publish-key")
        self.assertNotIn("redis-password", secret)
        self.assertEqual(self.secret("sentinel")["redis-url"], "redis+sentinel://s1:26379,s2:26379/main")

    def test_files_of_redis(self):
        env = self.env("redis-files")
        files = {name: value for name, value in env.items() if name.endswith("_FILE")}
        at = "/etc/sse-gateway-redis/"
        self.assertEqual(
            files,
            {
                "SSE_REDIS__PASSWORD_FILE": at + "password",
                "SSE_REDIS__CA_FILE": at + "ca.crt",
                "SSE_REDIS__CERT_FILE": at + "tls.crt",
                "SSE_REDIS__KEY_FILE": at + "tls.key",
            },
        )
        pod = self.find("redis-files", "Deployment")["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        self.assertEqual(volumes["redis"]["secret"], {"secretName": "redis-login"})
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        self.assertEqual(mounts["redis"] + "/", at)

    def test_existing(self):
        self.assertNotIn("Secret", self.kinds("secrets"))
        env = self.env("secrets")
        self.assertEqual(env["SSE_REDIS__URL"], {"secretKeyRef": {"name": "my-redis", "key": "url"}})
        self.assertEqual(env["SSE_PUBLISH__KEYS"], {"secretKeyRef": {"name": "my-keys", "key": "all"}})
        test = self.find("secrets", "Pod")["spec"]["containers"][0]["env"][0]
        self.assertEqual(test["valueFrom"], {"secretKeyRef": {"name": "my-keys", "key": "backend"}})
        # Only the Redis is someone else's: the rest is still made here.
        self.assertEqual(set(self.secret("haproxy")), {"publish-keys", "publish-key", "admin-token"})

    def test_of_operators(self):
        self.assertRegex(self.secret("embedded")["admin-token"], r"^[A-Za-z0-9]{32}$")
        self.assertNotEqual(self.secret("embedded")["admin-token"], self.secret("embedded")["publish-key"])
        self.assertEqual(self.secret("tls")["admin-token"], "operators-token")
        volumes = {volume["name"]: volume["secret"] for volume in self.pod("embedded")["volumes"] if "secret" in volume}
        self.assertEqual(volumes["admin"], {"secretName": "events-sse-gateway", "items": [{"key": "admin-token", "path": "admin-token"}]})
        volumes = {volume["name"]: volume["secret"] for volume in self.pod("secrets")["volumes"] if "secret" in volume}
        self.assertEqual(volumes, {"admin": {"secretName": "my-operators"}})

    def test_of_tokens_and_publishers(self):
        secret = self.secret("tls")
        self.assertTrue(secret["token-keys"].startswith("kid=a ES256 -----BEGIN PUBLIC KEY-----\n"))
        self.assertEqual(secret["publish-key"], "key-for-everywhere")
        self.assertIn("sha256:2bd806c9", secret["publish-keys"])
        reference = {"secretKeyRef": {"name": "events-sse-gateway", "key": "token-keys"}}
        self.assertEqual(self.env("tls")["SSE_TOKENS__KEYS"], reference)
        env = self.env("tokens")
        self.assertNotIn("SSE_TOKENS__KEYS", env)
        self.assertNotIn("SSE_PUBLISH__KEYS", env)
        volumes = {volume["name"]: volume.get("secret") for volume in self.pod("tokens")["volumes"]}
        self.assertEqual(volumes["tokens"], {"secretName": "token-keys"})
        self.assertEqual(volumes["publish"], {"secretName": "my-keys"})
        self.assertNotIn("publish-key", self.secret("test-by-hash"))

    def test_environment(self):
        env = self.env("embedded")
        self.assertEqual(env["SSE_NODE"], {"fieldRef": {"fieldPath": "metadata.name"}})
        self.assertEqual(env["SSE_REDIS__URL"], {"secretKeyRef": {"name": "events-sse-gateway", "key": "redis-url"}})
        self.assertEqual(
            env["SSE_PUBLISH__KEYS"], {"secretKeyRef": {"name": "events-sse-gateway", "key": "publish-keys"}}
        )
        self.assertEqual(self.gateway("embedded")["args"], ["--config", "/etc/sse-gateway/config.toml"])

    def test_none_is_in_a_config_map_or_a_pod(self):
        for name in ("external", "extras", "tls"):
            public = json.dumps([o for o in self.objects[name] if o["kind"] != "Secret"])
            for secret in ("p%40ss", "first-publish-key", "letmein", "key-for-everywhere", "operators-token", "BEGIN PUBLIC KEY"):
                self.assertNotIn(secret, public)
