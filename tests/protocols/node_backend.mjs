// A server on Node's own `http`: it keeps what its parser saw of each request, and what URL makes of the path. `GET /__seen` gives
// that out and forgets it. Prints its port.
import http from "node:http";
import path from "node:path";

let seen = [];

function resolved(target) {
  try {
    // `*` and what is no path resolve to themselves.
    return path.posix.normalize(decodeURIComponent(new URL(target, "http://backend").pathname));
  } catch (error) {
    return `unreadable: ${error.message}`;
  }
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    if (request.url === "/__seen") {
      response.end(JSON.stringify(seen));
      seen = [];
      return;
    }
    const headers = [];
    for (let n = 0; n < request.rawHeaders.length; n += 2) {
      headers.push([request.rawHeaders[n].toLowerCase(), request.rawHeaders[n + 1]]);
    }
    seen.push({
      method: request.method, target: request.url, headers, body: Buffer.concat(chunks).toString("latin1"),
      resolved: resolved(request.url),
    });
    response.end("ok");
  });
});
// What it cannot read it has seen all the same.
server.on("clientError", (error, socket) => {
  if (error.code !== "ECONNRESET") seen.push({ error: error.code });
  socket.end("HTTP/1.1 400 Bad Request\r\n\r\n");
});
server.keepAliveTimeout = 0;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit());
process.stdin.resume();
