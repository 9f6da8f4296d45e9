// The relay that the specification's "implementation example" describes, as existing main servers know it: Socket.IO
// and node-ssh, connections in a table by serverId.  relayd is measured against it, and must give the same results.
//
//     node example_relay.js SERVER_URL PROXY_ID API_KEY_FILE
//
// Its faults are the example's and stay: a dead connection is never forgotten, commands that arrive together for a new
// serverId each connect, a command that has timed out runs on, and one that a signal killed has succeeded.
'use strict';

const { readFileSync } = require('node:fs');
const { createRequire } = require('node:module');

const packages = createRequire(require.resolve('../../tests/node/package.json'));
const { NodeSSH } = packages('node-ssh');
const { io } = packages('socket.io-client');

const connections = new Map(); // by serverId

async function connectionFor({ serverId, host, port, username, password, privateKey }) {
  const known = connections.get(serverId);
  if (known) {
    return known;
  }
  const credential = password ? { password } : privateKey ? { privateKey } : null;
  if (!credential) {
    throw new Error('neither a password nor a private key was given');
  }
  const ssh = new NodeSSH();
  await ssh.connect({ host, port, username, ...credential });
  connections.set(serverId, ssh);
  return ssh;
}

function rejectAfter(milliseconds) {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`the command timed out (${milliseconds} ms)`)), milliseconds);
  });
}

async function executeCommand(data) {
  const ssh = await connectionFor(data);
  const running = ssh.execCommand(data.command, { cwd: '/' });
  const { stdout, stderr, code } = await (data.timeout ? Promise.race([running, rejectAfter(data.timeout)]) : running);
  return { stdout, stderr, exitCode: code || 0 };
}

function main(serverUrl, proxyId, apiKey) {
  const socket = io(`${serverUrl}/proxy`, { query: { proxyId, apiKey }, reconnectionDelay: 5000 });
  socket.on('execute_command', async (data, acknowledge) => {
    if (acknowledge) {
      acknowledge({});
    }
    let result;
    try {
      result = await executeCommand(data);
    } catch (error) {
      result = { stdout: '', stderr: error.message, exitCode: 1 };
    }
    socket.emit('command_result', { commandId: data.commandId, result });
  });
}

main(process.argv[2], process.argv[3], readFileSync(process.argv[4], 'utf8').trim());
