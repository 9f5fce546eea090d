// Relays a TCP port to the Unix socket of a server. A test interrupts it by ending this process.
//
//   node tests/browser/relay.mjs PORT SOCKET

import { connect, createServer } from "node:net";

const [port, path] = process.argv.slice(2);

const server = createServer((near) => {
  const far = connect(path);
  for (const [one, other] of [
    [near, far],
    [far, near],
  ]) {
    one.on("error", () => other.destroy());
    one.on("close", () => other.destroy());
    one.pipe(other);
  }
});
server.on("error", (error) => {
  console.error(`relay: ${error.message}`);
  process.exit(1);
});
server.listen(Number(port), "127.0.0.1");
