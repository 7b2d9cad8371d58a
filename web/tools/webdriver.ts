/**
 * Browsers that Playwright can't drive as the system has them: Firefox by Marionette, WebKit by its WebDriver. Both take
 * the commands of W3C's WebDriver; only what a test of the page needs is here.
 */

import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProgram } from "./chromium.js";

const START_MS = 60_000;
const SCRIPT_MS = 180_000;
const POLL_MS = 200;

/** A window of a browser. */
export interface BrowserWindow {
  open(url: string): Promise<void>;
  /** The value of a JavaScript function's body, which may await. */
  run<Value>(body: string): Promise<Value>;
  close(): Promise<void>;
}

/** Send a command of WebDriver: its path under the session, and its parameters. */
type Send = (command: "url" | "execute/async" | "timeouts", parameters: object) => Promise<unknown>;

const MARIONETTE = { url: "WebDriver:Navigate", "execute/async": "WebDriver:ExecuteAsyncScript", timeouts: "WebDriver:SetTimeouts" };
const WEBKIT_BROWSERS = ["/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser", "/usr/lib/x86_64-linux-gnu/webkit2gtk-4.0/MiniBrowser"];

/** What opens a window of each browser that is here, by the browser's name; null where it isn't. */
export const OTHERS: Readonly<Record<"Firefox" | "WebKit", (() => Promise<BrowserWindow>) | null>> = {
  Firefox: opener(findProgram("firefox-esr", "firefox"), openFirefox),
  WebKit: opener(findProgram("WebKitWebDriver"), openWebKit),
};

function opener(path: string | null, open: (path: string) => Promise<BrowserWindow>): (() => Promise<BrowserWindow>) | null {
  return path === null ? null : () => open(path);
}

async function windowOf(send: Send, close: () => Promise<void>): Promise<BrowserWindow> {
  await send("timeouts", { script: SCRIPT_MS, pageLoad: SCRIPT_MS });
  return {
    open: async (url) => void (await send("url", { url })),
    run: async <Value>(body: string) => {
      const script = `const [settle] = arguments;
        (async () => { ${body} })().then((value) => settle({ value }), (error) => settle({ error: String(error) }));`;
      const answer = (await send("execute/async", { script, args: [] })) as { value?: Value; error?: string };
      if (answer.error !== undefined) throw new Error(answer.error);
      return answer.value as Value;
    },
    close,
  };
}

function freePort(): Promise<number> {
  return new Promise((settle) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => settle(port));
    });
  });
}

async function untilReady<Value>(attempt: () => Promise<Value>): Promise<Value> {
  for (const end = Date.now() + START_MS; ; ) {
    try {
      return await attempt();
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((settle) => setTimeout(settle, POLL_MS));
    }
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((settle) => child.once("exit", settle));
  child.kill();
  await gone;
}

async function openFirefox(path: string): Promise<BrowserWindow> {
  const profile = mkdtempSync(join(tmpdir(), "scclip-firefox-"));
  const port = await freePort();
  writeFileSync(join(profile, "user.js"), `user_pref("marionette.port", ${port});\n`);
  const child = spawn(path, ["--headless", "--marionette", "--no-remote", "--profile", profile], { stdio: "ignore" });
  const socket = await untilReady(() => new Promise<Socket>((settle, fail) => {
    const attempt = connect(port, "127.0.0.1", () => settle(attempt)).once("error", fail);
  }));
  const call = marionette(socket);
  await call("WebDriver:NewSession", {});
  return windowOf(
    async (command, parameters) => {
      const answer = (await call(MARIONETTE[command], parameters)) as { value?: unknown } | null;
      return answer?.value;
    },
    async () => {
      socket.destroy();
      await ended(child);
      rmSync(profile, { recursive: true, force: true, maxRetries: 3 });
    },
  );
}

/** Messages are JSON behind their length in bytes and a colon: `[0, id, command, parameters]`, and `[1, id, error, result]` back. */
function marionette(socket: Socket): (command: string, parameters: object) => Promise<unknown> {
  let received = Buffer.alloc(0);
  let last = 0;
  const waiting = new Map<number, { settle: (result: unknown) => void; fail: (error: Error) => void }>();
  socket.on("data", (part) => {
    received = Buffer.concat([received, part]);
    for (let colon = received.indexOf(":"); colon > 0; colon = received.indexOf(":")) {
      const end = colon + 1 + Number(received.subarray(0, colon).toString());
      if (received.length < end) return;
      const message = JSON.parse(received.subarray(colon + 1, end).toString()) as unknown;
      received = received.subarray(end);
      if (!Array.isArray(message)) continue; // its greeting
      const [, id, error, result] = message as [number, number, { message: string } | null, unknown];
      if (error) waiting.get(id)?.fail(new Error(error.message));
      else waiting.get(id)?.settle(result);
      waiting.delete(id);
    }
  });
  return (command, parameters) => new Promise((settle, fail) => {
    waiting.set(++last, { settle, fail });
    const text = JSON.stringify([0, last, command, parameters]);
    socket.write(`${Buffer.byteLength(text)}:${text}`);
  });
}

async function openWebKit(path: string): Promise<BrowserWindow> {
  const port = await freePort();
  // It has no headless mode: a virtual screen is needed where there is none.
  const screen = process.env["DISPLAY"] ? null : findProgram("xvfb-run");
  const [program, ...before] = screen === null ? [path] : [screen, "--auto-servernum", path];
  const child = spawn(program, [...before, `--port=${port}`], { stdio: "ignore" });
  const post = async (address: string, body: object): Promise<any> => {
    const response = await fetch(`http://127.0.0.1:${port}/session${address}`, { method: "POST", body: JSON.stringify(body) });
    const { value } = (await response.json()) as { value: any };
    if (!response.ok) throw new Error(value.message);
    return value;
  };
  const binary = WEBKIT_BROWSERS.find((one) => existsSync(one));
  const options = binary ? { "webkitgtk:browserOptions": { binary, args: ["--automation"] } } : {};
  const { sessionId } = await untilReady(() => post("", { capabilities: { alwaysMatch: options } }));
  return windowOf(
    (command, parameters) => post(`/${sessionId}/${command}`, parameters),
    async () => {
      await fetch(`http://127.0.0.1:${port}/session/${sessionId}`, { method: "DELETE" });
      await ended(child);
    },
  );
}
