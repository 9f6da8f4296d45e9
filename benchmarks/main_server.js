// A main server on the npm socket.io server that gives relays commands and measures how they do.  It is driven by JSON
// lines: a request on stdin, its answer on stdout, with the same id.
//
//     node main_server.js --api-key-file PATH [--max-buffer BYTES] [--watch]      first prints {listening: PORT}
//
//     {id, op: "wait", proxyId, timeout}          answers {} once that relay is connected
//     {id, op: "execute", proxyId, command}       sends one execute_command, answers {result}: all that arrived
//     {id, op: "tell", proxyId, data, ack, count, timeout}
//         sends `data` as it is, with or without a request for an acknowledgement; answers {acks, results}: all that came
//         for its commandId until `count` results were there, or within `timeout`
//     {id, op: "load", proxyId, targets, command, expect, count, concurrency, timeout}
//         runs `count` commands, `concurrency` at a time, over `targets` in turn, each of which must give what `expect`
//         says; answers {seconds, rate, median, p95, failures, reasons}: latencies in ms, rate in successes a second
//
// With --watch it tells each event that it sends or gets (tests/node/wire.js). It ends when its stdin does.
'use strict';

const crypto = require('node:crypto');
const { readFileSync } = require('node:fs');
const { createServer } = require('node:http');
const { createRequire } = require('node:module');
const readline = require('node:readline');
const { parseArgs } = require('node:util');

const packages = createRequire(require.resolve('../tests/node/package.json'));
const { Server } = packages('socket.io');

const { values: options } = parseArgs({
  options: {
    'api-key-file': { type: 'string' },
    'max-buffer': { type: 'string', default: '1000000' },
    watch: { type: 'boolean', default: false },
  },
});
const wire = options.watch ? require('../tests/node/wire.js') : null;
const apiKey = readFileSync(options['api-key-file'], 'utf8').trim();
const relays = new Map(); // proxyId -> socket
const waiting = new Map(); // proxyId -> what to call once that relay is connected
const pending = new Map(); // commandId -> resolve
const told = new Set(); // what to call with each result, for `tell`
let commandNumber = 0;

const http = createServer();
const server = new Server(http, { maxHttpBufferSize: Number(options['max-buffer']) });

server.of('/proxy').on('connection', (socket) => {
  const { proxyId } = socket.handshake.query;
  if (socket.handshake.query.apiKey !== apiKey) {
    socket.disconnect();
    return;
  }
  wire?.watch(socket);
  socket.on('command_result', (data) => {
    told.forEach((on) => on(data));
    const resolve = pending.get(data.commandId);
    pending.delete(data.commandId);
    socket.emit('command_result_received', { success: true });
    if (resolve) {
      resolve(data.result);
    }
  });
  socket.on('disconnect', () => {
    if (relays.get(proxyId) === socket) {
      relays.delete(proxyId);
    }
  });
  relays.set(proxyId, socket);
  const resolve = waiting.get(proxyId);
  waiting.delete(proxyId);
  if (resolve) {
    resolve();
  }
});

function within(milliseconds, what, begin) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${what} took over ${milliseconds} ms`)), milliseconds);
    begin((value) => {
      clearTimeout(timer);
      resolve(value);
    }, reject);
  });
}

function connected(proxyId, milliseconds) {
  return within(milliseconds, `the connection of ${proxyId}`, (resolve) => {
    if (relays.has(proxyId)) {
      resolve();
    } else {
      waiting.set(proxyId, resolve);
    }
  });
}

// The grace lets the relay's own answer to a timeout arrive.
function execute(proxyId, command, grace = 10000) {
  const commandId = command.commandId ?? `cmd_${Date.now()}_${++commandNumber}`;
  return within((command.timeout || 30000) + grace, 'the result', (resolve, reject) => {
    const relay = relays.get(proxyId);
    if (!relay) {
      reject(new Error(`${proxyId} is not connected`));
      return;
    }
    pending.set(commandId, resolve);
    relay.emit('execute_command', { commandId, ...command }, (answer) => {
      // the example relay answers with an empty object, relayd with nothing
      if (answer && Object.keys(answer).length) wire?.acknowledged('execute_command', [answer]);
      if (answer && answer.error) {
        pending.delete(commandId);
        reject(new Error(`refused: ${answer.error}`));
      }
    });
  }).finally(() => pending.delete(commandId));
}

function tell({ proxyId, data, ack, count, timeout }) {
  return new Promise((resolve) => {
    const acks = [];
    const results = [];
    const end = () => {
      clearTimeout(timer);
      told.delete(on);
      resolve({ acks, results });
    };
    const on = (answer) => {
      // of a command without a readable id, whatever comes
      if (answer.commandId === data.commandId || typeof data.commandId !== 'string') results.push(answer);
      if (results.length === count) end();
    };
    const timer = setTimeout(end, timeout);
    told.add(on);
    const more = ack ? [(...answer) => acks.push(answer)] : [];
    relays.get(proxyId).emit('execute_command', data, ...more);
  });
}

function fault(result, expect) {
  if (result.exitCode !== expect.exitCode) {
    return `exit code ${result.exitCode}: ${result.stderr.slice(0, 200)}`;
  }
  if (result.stdout.length !== expect.length) {
    return `${result.stdout.length} characters of output instead of ${expect.length}`;
  }
  const digest = crypto.createHash('sha256').update(result.stdout).digest('hex');
  return digest === expect.sha256 ? null : 'the output is another';
}

function percentile(sorted, share) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] : null;
}

async function load({ proxyId, targets, command, expect, count, concurrency, timeout }) {
  const latencies = [];
  const reasons = {};
  let sent = 0;
  let ended = 0;

  async function worker() {
    while (sent < count) {
      const target = targets[sent++ % targets.length];
      const start = performance.now();
      let latency;
      let reason;
      try {
        const result = await execute(proxyId, { ...target, command, timeout });
        ended = performance.now();
        latency = ended - start;
        reason = fault(result, expect);
      } catch (error) {
        ended = performance.now();
        reason = error.message;
      }
      if (reason) {
        reasons[reason] = (reasons[reason] || 0) + 1;
      } else {
        latencies.push(latency);
      }
    }
  }

  const begin = performance.now();
  await Promise.all(Array.from({ length: Math.min(concurrency, count) }, worker));
  latencies.sort((a, b) => a - b);
  const seconds = (ended - begin) / 1000;
  return {
    seconds,
    rate: latencies.length / seconds,
    median: percentile(latencies, 0.5),
    p95: percentile(latencies, 0.95),
    failures: count - latencies.length,
    reasons,
  };
}

const operations = {
  wait: ({ proxyId, timeout }) => connected(proxyId, timeout).then(() => ({})),
  execute: ({ proxyId, command }) => execute(proxyId, command).then((result) => ({ result })),
  tell,
  load,
};

http.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ listening: http.address().port }));
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', async (line) => {
    const request = JSON.parse(line);
    let answer;
    try {
      answer = await operations[request.op](request);
    } catch (error) {
      answer = { error: error.message };
    }
    console.log(JSON.stringify({ id: request.id, ...answer }));
  });
  lines.on('close', () => process.exit(0));
});
