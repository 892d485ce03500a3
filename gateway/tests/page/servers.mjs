// Redis, gateways and HAProxy for the page test, each ended by `stop`.

import { execFile, spawn } from "node:child_process";
import { mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const deploy = fileURLToPath(new URL("../../../deploy/", import.meta.url));

export const directory = mkdtempSync(path.join(tmpdir(), "sse-page-"));
const children = new Set();

export async function stop() {
  const ended = [...children].map((child) => new Promise((done) => child.once("exit", done)));
  for (const child of children) child.kill("SIGKILL");
  await Promise.all(ended);
  rmSync(directory, { recursive: true, force: true });
}

// Polls until `look` gives something true.
export async function eventually(what, look, within = 30_000) {
  const deadline = Date.now() + within;
  let last;
  for (;;) {
    try {
      last = await look();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`never: ${what}; at last: ${last}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

const given = new Set();

async function freePort() {
  const { stdout } = await run("python3", [path.join(deploy, "free_ports.py"), "1"]);
  const port = Number(stdout);
  if (given.has(port)) return freePort();
  given.add(port);
  return port;
}

function start(name, command, args, { cwd, variables } = {}) {
  const log = openSync(path.join(directory, `${name}.log`), "a");
  // Settings of whoever runs the test are not the test's.
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith("SSE_")));
  const child = spawn(command, args, { stdio: ["ignore", log, log], cwd, env: { ...env, ...variables } });
  children.add(child);
  child.once("exit", () => children.delete(child));
  return child;
}

export function logs(name) {
  return readFileSync(path.join(directory, `${name}.log`), "utf8");
}

export class Redis {
  async start() {
    this.port = await freePort();
    start("redis", "redis-server", ["--port", this.port, "--bind", "127.0.0.1", "--save", "", "--dir", directory]);
    await eventually("redis-server answers", async () => (await this.call("PING")) === "PONG");
    return this;
  }

  async call(...words) {
    const { stdout } = await run("redis-cli", ["-p", this.port, ...words]);
    return stdout.trim();
  }

  async ids(room) {
    const script = "local ids = {} for _, e in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do ids[#ids + 1] = e[1] end return table.concat(ids, ' ')";
    const ids = await this.call("EVAL", script, "1", `sse:room:${room}`);
    return ids ? ids.split(" ") : [];
  }
}

export class Gateway {
  // `variables` are settings, such as SSE_DEV.
  constructor(name, redis, variables = {}) {
    Object.assign(this, { name, redis, variables: { SSE_DEV: "true", ...variables } });
  }

  async start() {
    this.port ??= await freePort();
    this.admin ??= await freePort();
    this.child = start(this.name, process.env.SSE_GATEWAY, [
      "--node", this.name, "--redis", `redis://127.0.0.1:${this.redis.port}`,
      "--listen", `127.0.0.1:${this.port}`, "--admin-listen", `127.0.0.1:${this.admin}`,
    ], { variables: this.variables });
    const ready = async () => (await fetch(`http://127.0.0.1:${this.admin}/readyz`)).ok;
    await eventually(`${this.name} is ready`, ready).catch((error) => {
      throw new Error(`${error.message}\n${logs(this.name)}`);
    });
    return this;
  }

  async metric(series) {
    const answer = await fetch(`http://127.0.0.1:${this.admin}/metrics`);
    const line = (await answer.text()).split("\n").find((line) => line.startsWith(`${series} `));
    return Number(line?.split(" ")[1]);
  }

  async kill() {
    const ended = new Promise((done) => this.child.once("exit", done));
    this.child.kill("SIGKILL");
    await ended;
  }
}

// HAProxy with the configuration that this project ships; only the addresses are the test's.
export class HaProxy {
  async start(gateways) {
    this.port = await freePort();
    this.url = `http://127.0.0.1:${this.port}`;
    const variables = { BIND: `127.0.0.1:${this.port}` };
    gateways.forEach((gateway, index) => {
      variables[`GATEWAY_${index + 1}`] = `127.0.0.1:${gateway.port}`;
      variables[`GATEWAY_${index + 1}_ADMIN_PORT`] = String(gateway.admin);
    });
    start("haproxy", "haproxy", ["-db", "-f", "haproxy.cfg"], { cwd: deploy, variables });
    await eventually("HAProxy answers", async () => (await fetch(`${this.url}/rooms/probe`)).ok);
    return this;
  }

  // Which node answers a request now.
  async node() {
    return (await (await fetch(`${this.url}/rooms/probe`)).json()).node;
  }
}
