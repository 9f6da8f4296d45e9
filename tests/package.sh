#!/bin/sh
# Takes the Debian package from its installation to its purge on this system, as root: its commands, a relay that is
# started as systemd would start it, the upgrade to a later version, and that nothing is left.
#
#   package.sh PACKAGE PYTHON
#
# PYTHON is one that has relayd: it runs the main server.
set -eu

package=$1
python=$2
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
hub=
relay=
finish() {
    [ -z "$relay" ] || kill "$relay" 2>/dev/null || true
    [ -z "$hub" ] || kill "$hub" 2>/dev/null || true
    dpkg --purge relayd >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

fail() {
    echo "package.sh: $*" >&2
    [ ! -e "$work/log" ] || cat "$work/log" >&2
    exit 1
}
equal() {
    [ "$1" = "$2" ] || fail "expected '$2', not '$1'"
}
# until_log WORDS
until_log() {
    for _ in $(seq 300); do
        ! grep -q "$1" "$work/log" || return 0
        sleep 0.1
    done
    fail "no '$1' in the log:"
}
files() {
    find / -ignore_readdir_race -xdev \( -path /proc -o -path "$work" -o -path /tmp -o -path "$here" -o -path /var/cache -o -path /var/lib/dpkg \) \
        -prune -o \( -path '*/relayd*' -o -name '*relayctl*' \) -newer "$work/began" -print
}

[ "$(id -u)" -eq 0 ] || fail "needs root"
! dpkg -s relayd >/dev/null 2>&1 || fail "relayd is installed here already; that would be lost"
touch "$work/began"

version=$(dpkg-deb -f "$package" Version)
dpkg --install "$package" >"$work/said"
cat "$work/said"
grep -q "systemctl enable --now relayd" "$work/said" || fail "the installation does not say what to do next"
dpkg-deb --extract "$package" "$work/root"
doc=$work/root/usr/share/doc/relayd
for file in README.rst README.zh.rst docs/operations.rst examples/prometheus/relayd.rules.yml examples/grafana/relayd.json; do
    [ -s "$doc/$file" ] || fail "the package lacks $file"
done
grep -q '^#status = ' "$work/root/etc/relayd/relayd.toml" || fail "the file of options does not show status"
rm -r "$work/root"
equal "$(relayctl --version)" "relayctl $version"
equal "$(relayd --version)" "relayd $version"
equal "$(/opt/relayd/bin/twistd relayd --version)" "relayd $version"
dpkg --verify relayd
[ ! -e /etc/systemd/system/multi-user.target.wants/relayd.service ] || fail "it was enabled by itself"
/opt/relayd/bin/twistd relayd --config /etc/relayd/relayd.toml 2>&1 | grep -q "^relayd: --server, --proxy-id" ||
    fail "the configuration file that comes with it is not sound"

# A main server, and the relay that the unit would start.
"$python" - "$work/port" <<'END' &
import sys
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from relayd.hub import Hub
from relayd.wire.messages import Secret
listening = Hub(reactor, {"site-1": Secret("k" * 40)}).listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
listening.addCallback(lambda port: Path(sys.argv[1]).write_text(str(port.getHost().port)))
reactor.run()
END
hub=$!
for _ in $(seq 300); do
    [ ! -s "$work/port" ] || break
    sleep 0.1
done
printf 'server = "ws://127.0.0.1:%s"\nproxy-id = "site-1"\n' "$(cat "$work/port")" >>/etc/relayd/relayd.toml
(umask 077 && printf 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\n' >/etc/relayd/api-key)
start() {
    : >"$work/log"
    # shellcheck disable=SC2046  # a command line
    CREDENTIALS_DIRECTORY=/etc/relayd STATE_DIRECTORY=/var/lib/relayd \
        $(sed -n 's/^ExecStart=//p' /lib/systemd/system/relayd.service) >"$work/log" 2>&1 &
    relay=$!
    until_log "Accepted by ws://127.0.0.1"
}
stop() {
    kill "$relay"
    wait "$relay" || fail "the relay ended with $?"
    relay=
}
start
stop

# A later version: the same files, but for the number.
later=$version.1
dpkg-deb --raw-extract "$package" "$work/later"
sed -i "s/^Version: .*/Version: $later/" "$work/later/DEBIAN/control"
sed -i "s/^__version__ = .*/__version__ = \"$later\"/" "$work"/later/opt/relayd/lib/python3*/site-packages/relayd/__init__.py
# Compiled anew, as otherwise root's Python would do that, and the removal would leave it.
/usr/bin/python3 -m compileall -q -f -s "$work/later" -p / \
    "$work"/later/opt/relayd/lib/python3*/site-packages/relayd/__init__.py
dpkg-deb --root-owner-group -Zgzip -z1 --build "$work/later" "$work/later.deb" >/dev/null
dpkg --install "$work/later.deb" >"$work/said"
! grep -q "systemctl enable" "$work/said" || fail "the upgrade says how to begin"
equal "$(/opt/relayd/bin/relayctl --version)" "relayctl $later"
grep -q 'proxy-id = "site-1"' /etc/relayd/relayd.toml || fail "the upgrade lost the site's configuration"
start
grep -q "relayd $later starts as site-1" "$work/log" || fail "the old version runs:"
stop

dpkg --remove relayd
[ -e /etc/relayd/relayd.toml ] && [ -d /var/lib/relayd ] || fail "the removal took what only a purge may take"
[ ! -e /opt/relayd ] || fail "left in /opt: $(find /opt/relayd | head)"
dpkg --purge relayd
left=$(files)
[ -z "$left" ] || fail "left after the purge: $left"
echo "the package was installed, upgraded, removed and purged"
