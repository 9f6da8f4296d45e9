// An SSH server on npm's ssh2: runs commands in /bin/sh. See tests/support/asyncssh_server.py for its argument; beside
// that, `algorithms`: those that it offers, by kind.
'use strict';

const { spawn } = require('child_process');
const { readFileSync } = require('fs');
const { Server, utils } = require('ssh2');

const config = JSON.parse(readFileSync(process.argv[2]));

function lets(context) {
    const user = config.users[context.username] || { passwords: [], keys: [] };
    if (context.method === 'password') {
        return user.passwords.includes(context.password);
    }
    if (context.method !== 'publickey') {
        return false;
    }
    const known = user.keys.map((text) => utils.parseKey(text)).find((key) => key.getPublicSSH().equals(context.key.data));
    return known !== undefined
        && (!context.signature || known.verify(context.blob, context.signature, context.hashAlgo) === true);
}

const server = new Server({ hostKeys: [config.host_key], algorithms: config.algorithms }, (client) => {
    client.on('authentication', (context) => {
        lets(context) ? context.accept() : context.reject(['publickey', 'password']);
    });
    client.on('ready', () => client.on('session', (accept) => {
        accept().on('exec', (accept, reject, info) => {
            const stream = accept();
            const child = spawn('/bin/sh', ['-c', info.command], { stdio: ['ignore', 'pipe', 'pipe'] });
            child.stdout.pipe(stream, { end: false });
            child.stderr.pipe(stream.stderr, { end: false });
            child.on('close', (code, signal) => {
                signal ? stream.exit(signal.slice(3)) : stream.exit(code);
                stream.end();
            });
        });
    }));
    client.on('error', (error) => console.error(error.message));
});

server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ listening: server.address().port })));
