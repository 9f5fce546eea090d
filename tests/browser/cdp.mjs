// Controls a browser by its DevTools protocol over a pair of pipes: no port, no dependency, and a
// timeout for every wait.

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const COMMAND_MS = 15000;
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

export class Browser {
  static async start() {
    const browser = new Browser();
    browser.profile = await mkdtemp(join(tmpdir(), "page-test-"));
    const flags = [
      "--headless=new",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--no-first-run",
      "--disable-extensions",
      "--disable-background-networking",
      "--mute-audio",
      "--hide-scrollbars",
      "--remote-debugging-pipe",
      `--user-data-dir=${browser.profile}`,
      "about:blank",
    ];
    browser.process = spawn(CHROMIUM, flags, {
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
      detached: true,
    });
    browser.ended = new Promise((resolve) => browser.process.once("exit", resolve));
    browser.process.once("error", (error) =>
      browser.fail(new Error(`${CHROMIUM}: ${error.message}`)),
    );
    browser.ended.then(() => browser.fail(new Error("the browser ended")));
    browser.listen();
    return browser;
  }

  waiting = new Map();
  handlers = new Map();
  number = 0;

  listen() {
    let text = "";
    const pipe = this.process.stdio[4];
    pipe.setEncoding("utf8");
    pipe.on("data", (piece) => {
      const messages = (text + piece).split("\0");
      text = messages.pop();
      for (const message of messages) this.received(JSON.parse(message));
    });
    this.process.stdio[3].on("error", () => {});
  }

  received({ id, result, error, method, params, sessionId }) {
    if (id === undefined) {
      for (const call of this.handlers.get(`${sessionId ?? ""}/${method}`) ?? []) call(params);
      return;
    }
    const { resolve, reject, timer } = this.waiting.get(id) ?? {};
    clearTimeout(timer);
    this.waiting.delete(id);
    if (error) reject?.(new Error(error.message));
    else resolve?.(result);
  }

  fail(error) {
    this.broken = error;
    for (const { reject, timer } of this.waiting.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.waiting.clear();
  }

  send(method, params = {}, sessionId = undefined) {
    if (this.broken) return Promise.reject(this.broken);
    const id = ++this.number;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        reject(new Error(`${method}: no answer within ${COMMAND_MS / 1000} s`));
      }, COMMAND_MS);
      this.waiting.set(id, { resolve, reject, timer });
      this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  on(sessionId, method, call) {
    const name = `${sessionId ?? ""}/${method}`;
    this.handlers.set(name, [...(this.handlers.get(name) ?? []), call]);
  }

  async page() {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, sessionId);
    await page.begin();
    return page;
  }

  /** Asks it to end; whatever of its own process group is left after a while is killed. */
  async stop() {
    await this.send("Browser.close").catch(() => {});
    const late = setTimeout(() => this.kill(), 3000);
    await this.ended;
    clearTimeout(late);
    this.kill();
    await rm(this.profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }

  kill() {
    try {
      process.kill(-this.process.pid, "SIGKILL");
    } catch {
      /* it has ended */
    }
  }
}

export class Page {
  constructor(browser, sessionId) {
    Object.assign(this, { browser, sessionId, problems: [], dialogs: 0 });
  }

  send(method, params) {
    return this.browser.send(method, params, this.sessionId);
  }

  async begin() {
    const on = (method, call) => this.browser.on(this.sessionId, method, call);
    // A `network` entry is a response with an error status. Some tests provoke these, so the text
    // has the status.
    on(
      "Log.entryAdded",
      ({ entry }) =>
        entry.level === "error" &&
        this.problems.push({ kind: entry.source, text: `${entry.text} ${entry.url ?? ""}` }),
    );
    on(
      "Runtime.consoleAPICalled",
      ({ type, args }) =>
        ["error", "assert", "warning"].includes(type) &&
        this.problems.push({
          kind: "console",
          text: args.map((arg) => arg.value ?? arg.description).join(" "),
        }),
    );
    on("Runtime.exceptionThrown", ({ exceptionDetails: { text, exception } }) =>
      this.problems.push({ kind: "exception", text: exception?.description ?? text }),
    );
    on("Page.javascriptDialogOpening", () => {
      this.dialogs += 1;
      this.send("Page.handleJavaScriptDialog", { accept: false }).catch(() => {});
    });
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await this.send(`${domain}.enable`);
  }

  /** What runs in each document before the page's own scripts. */
  async before(script) {
    await this.send("Page.addScriptToEvaluateOnNewDocument", { source: `(${script})();` });
  }

  async open(url) {
    await this.send("Page.navigate", { url });
    await this.until("document.readyState === 'complete'", "the page to load");
  }

  async eval(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
      userGesture: true,
    });
    if (exceptionDetails)
      throw new Error(
        `${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`,
      );
    return result.value;
  }

  /** Waits until an expression holds, and gives its value. */
  async until(expression, what, ms = 15000) {
    const end = Date.now() + ms;
    for (;;) {
      const value = await this.eval(expression).catch((error) =>
        /context|navigat/i.test(error.message) ? null : Promise.reject(error),
      );
      if (value) return value;
      if (Date.now() > end) throw new Error(`waited ${ms / 1000} s for ${what}`);
      await new Promise((done) => setTimeout(done, 150));
    }
  }

  async click(selector) {
    const found = JSON.stringify(selector);
    await this.until(`document.querySelector(${found}) !== null`, selector);
    await this.eval(`document.querySelector(${found}).scrollIntoView({ block: "center" })`);
    const box = await this.eval(
      `(() => {
        const { x, y, width, height } = document.querySelector(${found}).getBoundingClientRect();
        return { x: x + width / 2, y: y + height / 2 };
      })()`,
    );
    const event = { ...box, button: "left", clickCount: 1 };
    await this.send("Input.dispatchMouseEvent", { type: "mousePressed", ...event });
    await this.send("Input.dispatchMouseEvent", { type: "mouseReleased", ...event });
  }

  async type(selector, text) {
    await this.eval(
      `(() => {
        const input = document.querySelector(${JSON.stringify(selector)});
        input.focus();
        input.select();
      })()`,
    );
    await this.send("Input.insertText", { text });
  }

  async key(
    key,
    code = key,
    windowsVirtualKeyCode = { Tab: 9, Enter: 13, Escape: 27, ArrowLeft: 37 }[key],
  ) {
    const event = { key, code, windowsVirtualKeyCode, text: key === "Enter" ? "\r" : undefined };
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  async size(width, height = 900) {
    await this.send("Emulation.setDeviceMetricsOverride", {
      width,
      height,
      deviceScaleFactor: 1,
      mobile: false,
    });
  }

  async scheme(value) {
    await this.send("Emulation.setEmulatedMedia", {
      features: [{ name: "prefers-color-scheme", value }],
    });
  }

  async screenshot(full = true) {
    const {
      cssContentSize: { width, height },
    } = await this.send("Page.getLayoutMetrics");
    const clip = { x: 0, y: 0, width, height: Math.min(height, 6000), scale: 1 };
    const { data } = await this.send("Page.captureScreenshot", {
      format: "png",
      captureBeyondViewport: full,
      ...(full ? { clip } : {}),
    });
    return Buffer.from(data, "base64");
  }
}
