// A main server on the npm socket.io package, namespace /proxy, driven by JSON lines on standard input.
// Options, as JSON in the first argument: port, apiKey, refuse (instead of a disconnect: a connect error), buffer, tls,
// auth (look for the key in CONNECT, not in the query), pingInterval and pingTimeout (ms), greet (an event and its data
// for the first relay, at once), transports (those of Engine.IO that are offered).
"use strict";
const fs = require("node:fs");
const readline = require("node:readline");
const { Server } = require("socket.io");
const wire = require("./wire.js");

const options = JSON.parse(process.argv[2] || "{}");
const shown = (socket) => (options.auth ? socket.handshake.auth : socket.handshake.query);
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const server = options.tls
  ? require("node:https").createServer({
      cert: fs.readFileSync(options.tls.cert),
      key: fs.readFileSync(options.tls.key),
      ca: options.tls.ca && fs.readFileSync(options.tls.ca),
      requestCert: Boolean(options.tls.ca), // then only relays with a certificate of that authority get in
    })
  : require("node:http").createServer();
server.on("tlsClientError", (error) => say({ tlsError: error.code || error.message }));
// with a listener, Node.js leaves the answer to that: a server that offers polling only has none
if (!options.transports || options.transports.includes("websocket")) server.on("upgrade", (request) => say({ upgrade: true, key: request.url.includes("apiKey="), extensions: request.headers["sec-websocket-extensions"] || null }));
const limits = options.buffer ? { maxHttpBufferSize: options.buffer } : {};
if (options.pingInterval) Object.assign(limits, { pingInterval: options.pingInterval, pingTimeout: options.pingTimeout });
if (options.transports) limits.transports = options.transports;
const io = new Server(server, limits);
const proxies = io.of("/proxy");

if (options.refuse) {
  proxies.use((socket, next) => next(shown(socket).apiKey === options.apiKey ? undefined : new Error("Invalid credentials")));
}

let current = null;
const pending = new Map(); // commands without a result, by id: what "again" sends once more
proxies.on("connection", (socket) => {
  wire.watch(socket);
  if (shown(socket).apiKey !== options.apiKey) {
    say({ refused: socket.handshake.query.proxyId });
    socket.disconnect(); // as the known main server does: accepted first, and then 41
    return;
  }
  current = socket;
  say({ connected: socket.handshake.query.proxyId, query: { ...socket.handshake.query, apiKey: undefined } });
  if (options.greet) {
    const [name, data] = options.greet;
    options.greet = null;
    pending.set(data.commandId, data);
    socket.emit(name, data, (...answer) => {
      wire.acknowledged(name, answer);
      say({ ack: data.commandId, answer });
    });
  }
  socket.on("command_result", (data) => {
    const { stdout, stderr, exitCode, ...more } = data.result;
    pending.delete(data.commandId);
    say({ result: data.commandId, stdout: stdout.length > 5000 ? stdout.slice(0, 100) + stdout.slice(-100) : stdout, length: stdout.length, stderr, exitCode, cut: (stdout.match(/\[relayd: [^\]]*\]/) || [null])[0], more });
    socket.emit("command_result_received", { success: true });
  });
  socket.on("command_output", (data) => say({ output: data.commandId, ...data }));
  socket.on("disconnect", (reason) => {
    say({ disconnected: reason });
    if (current === socket) current = null;
  });
});

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const order = JSON.parse(line);
  // fields that are to go as Buffers, which makes a binary event
  for (const name of order.buffers || []) order.data[name] = Buffer.from(order.data[name], order.coding || "utf8");
  if (order.op === "execute") pending.set(order.data.commandId, order.data);
  if (!current && order.op !== "emit") return say({ unsent: order }); // nobody is connected
  if (order.op === "execute") {
    if (order.ack) {
      current.emit("execute_command", order.data, (...answer) => {
        wire.acknowledged("execute_command", answer);
        say({ ack: order.data.commandId, answer });
      });
    } else current.emit("execute_command", order.data);
  } else if (order.op === "again") {
    for (const data of pending.values()) current.emit("execute_command", data);
  } else if (order.op === "emit") {
    proxies.emit(order.name, order.data);
  } else if (order.op === "binary") {
    current.emit("file", Buffer.from([1, 2, 3]), (...answer) => say({ ack: "binary", answer }));
  } else if (order.op === "raw") {
    // what no Socket.IO server would say: one WebSocket message as it is
    const text = (order.text || "") + (order.repeat || "").repeat(order.times || 0) + (order.tail || "");
    current.conn.transport.socket.send(order.binary ? Buffer.from(text) : text);
  } else if (order.op === "disconnect") {
    current.disconnect();
  }
});

server.listen(options.port || 0, "127.0.0.1", () => say({ listening: server.address().port }));
process.on("SIGTERM", () => process.exit(0));
