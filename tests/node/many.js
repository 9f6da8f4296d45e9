// Runs scripts of this folder in one process, each as if it had one of its own: the start of Node.js and of its packages is
// most of the work of a small server. Each connection to the Unix socket of the first argument is a script: its first line
// is {"script", "argv"}, and from then on it is the standard input and output. Where that input ends, the script does: its
// servers, and all that is connected to them. The process ends with its own standard input.
"use strict";
const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");
const readline = require("node:readline");
const { PassThrough } = require("node:stream");

function run(connection, script, argv, stdin) {
  const servers = [];
  const sockets = new Set();
  const keep = (server) => {
    servers.push(server);
    server.on("connection", (socket) => sockets.add(socket.on("close", () => sockets.delete(socket))));
    return server;
  };
  const own = {};
  for (const name of ["node:http", "node:https"]) {
    const real = require(name);
    own[name] = { ...real, createServer: (...options) => keep(real.createServer(...options)) };
  }
  const stdout = { write: (text) => connection.writable && connection.write(text) };
  const mine = { argv: ["node", script, ...argv], stdin, stdout, on: () => {}, exit: () => {} };
  const load = (file) => {
    const module = { exports: {} };
    const find = (name) => own[name] || (name.startsWith("./") ? load(path.join(path.dirname(file), name)) : require(name));
    new Function("require", "module", "process", fs.readFileSync(file, "utf8"))(find, module, mine);
    return module.exports;
  };
  load(script);
  return async () => {
    const closed = servers.map((server) => new Promise((resolve) => server.close(resolve)));
    for (const socket of sockets) socket.destroy();
    await Promise.all(closed);
  };
}

net.createServer({ allowHalfOpen: true }, (connection) => {
  const stdin = new PassThrough();
  let end = null;
  readline.createInterface({ input: connection }).on("line", (line) => {
    if (end) return stdin.write(line + "\n");
    const { script, argv } = JSON.parse(line);
    end = run(connection, script, argv, stdin);
  });
  connection.on("error", () => {}); // the test has ended
  connection.on("end", async () => {
    if (end) await end();
    connection.end();
  });
}).listen(process.argv[2], () => console.log("listening"));
process.stdin.on("end", () => process.exit(0)).resume();
