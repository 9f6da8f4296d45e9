#!/bin/sh
# Runs sshd in the foreground: only the public key in the file $1 can log in, and the host's own key is in the folder $2.
# Further arguments are for sshd.
set -eu
authorized=$1 key=$2/ssh_host_ed25519_key
shift 2
[ -e "$key" ] || ssh-keygen -q -t ed25519 -N '' -C '' -f "$key"
exec /usr/sbin/sshd -D -e -h "$key" -o "AuthorizedKeysFile=$authorized" -o PasswordAuthentication=no \
    -o KbdInteractiveAuthentication=no -o PermitRootLogin=no "$@"
