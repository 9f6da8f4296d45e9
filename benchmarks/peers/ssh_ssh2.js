// Driver of npm's ssh2: one connection a host, client.exec for each command.  See benchmarks/ssh.py.
'use strict';

const { readFileSync } = require('node:fs');
const { createRequire } = require('node:module');
const { createInterface } = require('node:readline');

const packages = createRequire(require.resolve('../../tests/node/package.json'));
const { Client } = packages('ssh2');

const setup = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const privateKey = readFileSync(setup.key, 'utf8');
const connections = new Map(); // by number of the target

function connect([host, port]) {
  return new Promise((resolve, reject) => {
    const client = new Client();
    client.on('ready', () => {
      client.setNoDelay(true);
      resolve(client);
    });
    client.on('error', reject);
    client.connect({
      host,
      port,
      username: setup.user,
      privateKey,
      keepaliveInterval: setup.keepalive * 1000,
      readyTimeout: 60000,
    });
  });
}

function run(client) {
  return new Promise((resolve, reject) => {
    client.exec(setup.command, (error, stream) => {
      if (error) {
        reject(error);
        return;
      }
      let stdout = '';
      let stderr = '';
      let status = null;
      stream.setEncoding('utf8').on('data', (text) => { stdout += text; });
      stream.stderr.setEncoding('utf8').on('data', (text) => { stderr += text; });
      stream.on('exit', (code) => { status = code; });
      stream.on('close', () => {
        if (status === 0 && stdout === 'hello\n') {
          resolve();
        } else {
          reject(new Error(`exit code ${status}, output ${stdout.slice(0, 40)}`));
        }
      });
      stream.end();
    });
  });
}

async function one(number) {
  const at = number % setup.targets.length;
  let client = connections.get(at);
  if (!client) {
    client = await connect(setup.targets[at]);
    connections.set(at, client);
  }
  await run(client);
}

async function work(count, concurrency) {
  const latencies = [];
  const reasons = {};
  let failures = 0;
  let next = 0;
  const begun = performance.now();
  async function worker() {
    while (next < count) {
      const number = next++;
      const began = performance.now();
      try {
        await one(number);
        latencies.push((performance.now() - began) / 1000);
      } catch (error) {
        failures += 1;
        const reason = String(error.message).slice(0, 200);
        reasons[reason] = (reasons[reason] || 0) + 1;
      }
    }
  }
  await Promise.all(Array.from({ length: concurrency }, worker));
  return { seconds: (performance.now() - begun) / 1000, latencies, failures, reasons };
}

async function main() {
  process.stdout.write('{"ready": true}\n');
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let answer = {};
    if (request.do === 'settle') {
      global.gc();
    } else {
      answer = await work(request.count, request.concurrency);
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
}

main();
