// The known main server, as it is: namespace /proxy on npm socket.io, with a table of relays by proxyId. It drops a row
// when ANY connection of that id ends, tells all relays of it, and waits for a result exactly `timeout || 30000` ms from
// sending. Driven by JSON lines on standard input.
// Options, as JSON in the first argument: apiKey, pingInterval and pingTimeout (ms), pushOut (an older connection of the
// same id is disconnected, and only a row of its own dropped), slow (ms that it takes to drop a row).
"use strict";
const readline = require("node:readline");
const { Server } = require("socket.io");
const wire = require("./wire.js");

const options = JSON.parse(process.argv[2] || "{}");
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const server = require("node:http").createServer();
const { pingInterval = 25000, pingTimeout = 20000 } = options;
const proxies = new Server(server, { pingInterval, pingTimeout }).of("/proxy");
const table = new Map();
const pending = new Map();

proxies.on("connection", (socket) => {
  const { proxyId: id, apiKey } = socket.handshake.query;
  wire.watch(socket);
  if (apiKey !== options.apiKey) return socket.disconnect();
  const older = table.get(id);
  table.set(id, socket);
  say({ connected: id });
  if (options.pushOut && older) older.disconnect();
  proxies.emit("proxy_status_update", { id, status: "online" });
  socket.on("command_result", (data) => {
    const order = pending.get(data.commandId);
    const { stdout, stderr, exitCode } = data.result;
    say({ [order ? "answer" : "late"]: data.commandId, stdout, stderr, exitCode, left: order && order.until - Date.now() });
    if (order) clearTimeout(order.timer);
    pending.delete(data.commandId);
    socket.emit("command_result_received", { success: true });
  });
  socket.on("disconnect", (reason) => {
    const drop = () => {
      if (options.pushOut && table.get(id) !== socket) return;
      table.delete(id);
      say({ dropped: id, reason });
      proxies.emit("proxy_status_update", { id, status: "offline" });
    };
    options.slow ? setTimeout(drop, options.slow) : drop();
  });
});

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { proxyId, data } = JSON.parse(line);
  const id = data.commandId;
  const socket = table.get(proxyId);
  if (!socket) return say({ answer: id, error: "relay not connected" });
  const wait = data.timeout || 30000;
  const timer = setTimeout(() => {
    pending.delete(id);
    say({ answer: id, error: "timeout" });
  }, wait);
  pending.set(id, { timer, until: Date.now() + wait });
  socket.emit("execute_command", data);
});

server.listen(0, "127.0.0.1", () => say({ listening: server.address().port }));
process.on("SIGTERM", () => process.exit(0));
