// A development server: serves the page's files from the working copy, and passes all other
// requests to a running daemon.
//
//   make demo                                    # in another terminal
//   PORT=8499 DAEMON=http://127.0.0.1:8432 node tests/browser/dev.mjs

import { readFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import { extname } from "node:path";

const PAGE = new URL("../../src/http/page/", import.meta.url);
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};
// Equal to the policy in src/http/page.rs.
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const { PORT = "8499", DAEMON = "http://127.0.0.1:8432" } = process.env;

async function file(name, answer) {
  const content = await readFile(new URL(name, PAGE)).catch(() => null);
  answer.writeHead(content ? 200 : 404, {
    "Content-Type": TYPES[extname(name)] ?? "text/plain",
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
  });
  answer.end(content ?? "no such file");
}

function pass(asked, answer) {
  const onward = request(
    new URL(asked.url, DAEMON),
    { method: asked.method, headers: { ...asked.headers, host: new URL(DAEMON).host } },
    (given) => {
      answer.writeHead(given.statusCode, given.headers);
      given.pipe(answer);
    },
  );
  onward.on("error", (error) =>
    answer.writableEnded || answer.headersSent
      ? answer.destroy()
      : answer.writeHead(502).end(error.message),
  );
  answer.on("close", () => onward.destroy());
  asked.pipe(onward);
}

const server = createServer((asked, answer) => {
  const path = new URL(asked.url, "http://page").pathname;
  const page = /^\/page\/([a-z]+\.[a-z]+)$/.exec(path);
  if (page) return file(page[1], answer);
  if (path === "/" && /html/.test(asked.headers.accept ?? "")) return file("index.html", answer);
  return pass(asked, answer);
});
server.listen(Number(PORT), "127.0.0.1", () => console.log(`http://127.0.0.1:${PORT}/`));
