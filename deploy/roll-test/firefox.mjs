// Headless Firefox by Marionette, its own remote control, which needs no other program: a TCP connection that carries
// `length:[type, id, command, parameters]`.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

export class Firefox {
  #waiting = new Map();
  #sent = 0;
  #turn = Promise.resolve();

  static async launch(executable) {
    const browser = new Firefox();
    browser.profile = mkdtempSync(path.join(tmpdir(), "sse-firefox-"));
    const settings = {
      "marionette.port": 0,
      // A JSON answer is shown as it is: the viewer is no page of the site.
      "devtools.jsonview.enabled": false,
      "datareporting.policy.dataSubmissionEnabled": false,
      "app.update.enabled": false,
      "network.captive-portal-service.enabled": false,
      "network.connectivity-service.enabled": false,
    };
    const lines = Object.entries(settings).map(([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});`);
    writeFileSync(path.join(browser.profile, "user.js"), lines.join("\n"));
    const args = ["--headless", "--marionette", "--no-remote", "--profile", browser.profile];
    browser.process = spawn(executable, args, { stdio: "ignore", env: { ...process.env, HOME: browser.profile, MOZ_CRASHREPORTER_DISABLE: "1" } });
    browser.process.once("exit", (code) => browser.#fail(new Error(`Firefox ended with ${code}`)));
    browser.process.once("error", (error) => browser.#fail(error));
    await browser.#open();
    await browser.#call("WebDriver:NewSession", {});
    return browser;
  }

  async newPage(url) {
    const { handle } = await this.#call("WebDriver:NewWindow", { type: "tab" });
    await this.#in(handle, "WebDriver:Navigate", { url });
    const run = (script) => this.#in(handle, "WebDriver:ExecuteScript", { script, args: [], sandbox: null });
    return { run: async (script) => (await run(script)).value };
  }

  async close() {
    const ended = new Promise((done) => this.process.once("exit", done));
    this.process.kill("SIGKILL");
    await ended;
    this.socket.destroy();
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 5 });
  }

  // Commands go to the window that was switched to last: one at a time.
  #in(handle, command, parameters) {
    const turn = this.#turn.then(async () => {
      await this.#call("WebDriver:SwitchToWindow", { handle, focus: false });
      return this.#call(command, parameters);
    });
    this.#turn = turn.catch(() => {});
    return turn;
  }

  #call(command, parameters) {
    return new Promise((resolve, reject) => {
      const id = (this.#sent += 1);
      this.#waiting.set(id, { resolve, reject });
      const text = JSON.stringify([0, id, command, parameters]);
      this.socket.write(`${Buffer.byteLength(text)}:${text}`);
    });
  }

  #fail(error) {
    this.failure = error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  // Firefox writes the port that it chose into its profile.
  async #open() {
    const deadline = Date.now() + 60_000;
    for (;;) {
      if (this.failure) throw this.failure;
      try {
        const port = Number(readFileSync(path.join(this.profile, "MarionetteActivePort"), "utf8"));
        this.socket = await new Promise((resolve, reject) => {
          const socket = connect(port, "127.0.0.1", () => resolve(socket)).once("error", reject);
        });
        break;
      } catch (error) {
        if (Date.now() > deadline) throw new Error(`Firefox does not answer: ${error.message}`);
        await new Promise((done) => setTimeout(done, 100));
      }
    }
    let rest = Buffer.alloc(0);
    this.socket.on("error", (error) => this.#fail(error));
    this.socket.on("data", (data) => {
      rest = Buffer.concat([rest, data]);
      for (;;) {
        const colon = rest.indexOf(":");
        const length = Number(rest.subarray(0, colon));
        if (colon < 0 || rest.length < colon + 1 + length) return;
        const message = JSON.parse(rest.subarray(colon + 1, colon + 1 + length));
        rest = rest.subarray(colon + 1 + length);
        if (!Array.isArray(message)) continue;
        const [, id, error, result] = message;
        const call = this.#waiting.get(id);
        this.#waiting.delete(id);
        if (error) call?.reject(new Error(error.message));
        else call?.resolve(result);
      }
    });
  }
}
