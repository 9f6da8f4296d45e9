// A main server on the npm ws package: {"event", "data"} frames at /proxy, driven by JSON lines on standard input.
// Options, as JSON in the first argument: port, apiKey, silent (other paths are not answered, instead of a 400), ping
// (ms between two pings; a relay that has not answered one when the next is due is dropped), greet (an event and its data
// for the first relay, at once), maxPayload (bytes), rude (what is larger is not answered with 1009, but the connection is
// dropped), path (of the WebSocket, instead of /proxy).
"use strict";
const http = require("node:http");
const readline = require("node:readline");
const { WebSocketServer } = require("ws");
const wire = require("./wire.js");

const options = JSON.parse(process.argv[2] || "{}");
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const server = http.createServer();
const wss = new WebSocketServer({ noServer: true, perMessageDeflate: true, maxPayload: options.maxPayload || 104857600 });
server.on("upgrade", (request, socket, head) => {
  const url = new URL(request.url, "http://localhost");
  say({ upgrade: url.pathname });
  if (url.pathname === (options.path || "/proxy")) wss.handleUpgrade(request, socket, head, (ws) => wss.emit("connection", ws, url.searchParams));
  else if (!options.silent) socket.end("HTTP/1.1 400 Bad Request\r\n\r\n");
});

const emit = (ws, event, data, binary) => {
  wire.sent(event, data);
  const text = JSON.stringify({ event, data });
  ws.send(binary ? Buffer.from(text) : text);
};

const textOf = (order) => (order.text || "") + (order.repeat || "").repeat(order.times || 0) + (order.tail || "");

let current = null;
const pending = new Map(); // commands without a result, by id: what "again" sends once more
wss.on("connection", (ws, query) => {
  if (query.get("apiKey") !== options.apiKey) {
    say({ refused: query.get("proxyId") });
    ws.close(4401, "who are you");
    return;
  }
  current = ws;
  if (options.rude) ws._receiver.prependListener("error", () => ws._socket.destroy());
  ws.on("error", (error) => say({ error: error.code }));
  say({ connected: query.get("proxyId"), extensions: ws.extensions });
  if (options.path) say({ query: [...query].filter(([name]) => name !== "apiKey") });
  if (options.greet) {
    const [event, data] = options.greet;
    options.greet = null;
    pending.set(data.commandId, data);
    emit(ws, event, data);
  }
  ws.on("message", (raw, isBinary) => {
    const { event, data } = JSON.parse(raw);
    wire.got(event, data);
    say({ event, data, isBinary });
    if (event === "command_result") pending.delete(data.commandId);
    if (event === "command_result") emit(ws, "command_result_received", { success: true });
  });
  ws.on("pong", () => say({ pong: true }));
  if (options.ping) {
    let alive = true;
    ws.on("pong", () => (alive = true));
    const beat = setInterval(() => {
      if (!alive) return ws.terminate();
      alive = false;
      ws.ping();
    }, options.ping);
    ws.on("close", () => clearInterval(beat));
  }
  ws.on("ping", () => say({ ping: true }));
  ws.on("close", (code) => say({ disconnected: code }));
});

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const order = JSON.parse(line);
  // fields that are to go as Buffers, of which JSON.stringify makes objects
  for (const name of order.buffers || []) order.data[name] = Buffer.from(order.data[name]);
  if (order.op === "execute") pending.set(order.data.commandId, order.data);
  if (order.op === "execute") emit(current, "execute_command", order.data, order.binary);
  if (order.op === "again") for (const data of pending.values()) emit(current, "execute_command", data);
  else if (order.op === "bytes as text") current.send(Buffer.from(order.base64, "base64"), { binary: false });
  else if (order.op === "raw") current.send(order.base64 ? Buffer.from(order.base64, "base64") : order.binary ? Buffer.from(textOf(order)) : textOf(order));
  else if (order.op === "close") current.close(order.code);
  else if (order.op === "ping") current.ping();
});

server.listen(options.port || 0, "127.0.0.1", () => say({ listening: server.address().port }));
process.on("SIGTERM", () => process.exit(0));
