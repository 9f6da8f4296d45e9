// Tells the test, which checks it against docs/schemas, of each event that a main server sends to a relay or gets from one.
"use strict";

const tell = (direction, event, data) => process.stdout.write(JSON.stringify({ wire: [direction, event, data ?? null] }) + "\n");

const sent = (event, data) => tell("to-relay", event, data);
const got = (event, data) => tell("to-main-server", event, data);

// All events of a Socket.IO socket, and what CONNECT brought. A relay that is not relayd may bring nothing there.
function watch(socket) {
  if (Object.keys(socket.handshake.auth).length) got("connect", socket.handshake.auth);
  socket.onAny(got);
  socket.onAnyOutgoing(sent);
}

// The arguments of the acknowledgement of an event.
function acknowledged(event, answer) {
  if (answer.length) got(`${event}.ack`, answer[0]);
}

module.exports = { sent, got, watch, acknowledged };
