#!/bin/sh
# Makes what compose.yaml needs, where it is not there yet: the API key in the folder $1, a private key for SSH in $2, its
# public key in $3. The first two are for the user $4 alone.
set -eu
umask 077
[ -e "$1/api-key" ] || head -c 36 /dev/urandom | base64 >"$1/api-key"
if [ ! -e "$2/key" ]; then
    ssh-keygen -q -t ed25519 -N '' -C relayd -f "$2/key"
    install -m 644 "$2/key.pub" "$3/key.pub"
fi
chmod 400 "$1/api-key" "$2/key"
chmod 755 "$1" "$2" "$3"
chown "$4" "$1/api-key" "$2/key"
