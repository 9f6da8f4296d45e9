#!/bin/sh
# Brings what the tests need from outside Python, and says plainly when it cannot.
#
#   bootstrap.sh python PYTHON   checks that PYTHON is new enough and can make a virtual environment
#   bootstrap.sh peers           SSH servers, of which some may be left out, login shells of every kind, one-time codes for PAM, PostgreSQL, libfaketime,
#                                tmux, the checkers of what is packaged, Chromium, Node.js, and the npm packages of tests/node
#   bootstrap.sh node            Node.js and the npm packages of tests/node alone
#   bootstrap.sh deb             what builds the Debian package
#   bootstrap.sh machine         what the package is run with, under a systemd of its own
#   bootstrap.sh bench           what builds the relay in Go that the benchmarks have as a peer
set -eu

fail() {
    echo "relayd: $*" >&2
    exit 1
}

# as_root COMMAND...
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        fail "'$*' needs root, or sudo without a password. Run it yourself, then try again."
    fi
}

# install PACKAGES...: by their Debian names
install() {
    if ! command -v apt-get >/dev/null; then
        fail "missing here: what Debian calls '$*'. Install it with this system's package manager (dnf, apk, brew…)," \
            "then try again."
    fi
    echo "relayd: installing $* with apt-get" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$@" >/dev/null ||
        fail "apt-get could not install $*; its messages are above."
}

check_python() {
    command -v "$1" >/dev/null || fail "there is no $1; relayd needs Python 3.11 or later (make PYTHON=…)."
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$1" --version) is too old; relayd needs Python 3.11 or later. Name one: make PYTHON=python3.11 …"
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        install "python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
}

# has_pam MODULE: whether PAM has it
has_pam() {
    for module in /lib/security/"$1".so /lib*/*/security/"$1".so /usr/lib*/security/"$1".so /usr/lib*/*/security/"$1".so; do
        [ ! -e "$module" ] || return 0
    done
    return 1
}

bring_peers() {
    missing=
    PATH="$PATH:/usr/sbin:/sbin"
    command -v sshd >/dev/null || missing="$missing openssh-server"
    command -v useradd >/dev/null || missing="$missing passwd"
    command -v dropbear >/dev/null || missing="$missing dropbear-bin"
    command -v puttygen >/dev/null || missing="$missing putty-tools"
    command -v bsd-csh >/dev/null || missing="$missing csh"
    command -v tcsh >/dev/null || missing="$missing tcsh"
    command -v ksh >/dev/null || missing="$missing ksh"
    command -v mksh >/dev/null || missing="$missing mksh"
    command -v fish >/dev/null || missing="$missing fish"
    command -v busybox >/dev/null || missing="$missing busybox"
    command -v sudo >/dev/null || missing="$missing sudo"
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || missing="$missing postgresql"
    command -v setpriv >/dev/null || missing="$missing util-linux"
    [ -e /usr/share/i18n/locales/zh_CN ] || missing="$missing locales"
    command -v faketime >/dev/null || missing="$missing faketime"
    command -v systemd-analyze >/dev/null || missing="$missing systemd"
    command -v mandoc >/dev/null || missing="$missing mandoc"
    command -v tmux >/dev/null || missing="$missing tmux"
    command -v zsh >/dev/null || missing="$missing zsh"
    command -v logrotate >/dev/null || missing="$missing logrotate"
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing="$missing chromium"
    has_pam pam_google_authenticator || missing="$missing libpam-google-authenticator"
    has_pam pam_oath || missing="$missing libpam-oath"
    # shellcheck disable=SC2086  # a list of words
    [ -z "$missing" ] || install $missing
    bring_ssh_servers
    bring_wine
    bring_node
}

# What Debian has of SSH servers: one that cannot be brought is named, and its tests are not there.
bring_ssh_servers() {
    work=$(cd "$(dirname "$0")/.." && pwd)/build/peers
    mkdir -p "$work"
    bring_server tinysshd "command -v tinysshd && command -v socat" tinysshd socat || :
    bring_server lsh "command -v lshd && command -v lsh-keygen" lsh-server || :
    bring_fakenos || :
    bring_ansible || :
    bring_server erlang "command -v escript && ls -d /usr/lib/erlang/lib/ssh-*" erlang-ssh || :
    { bring_server go "command -v go && ls -d $GO/golang.org/x/crypto/ssh" golang-go golang-golang-x-crypto-dev &&
        build_go crypto; } || :
    { bring_server gliderlabs "command -v go && ls -d $GO/github.com/gliderlabs/ssh" \
        golang-go golang-golang-x-crypto-dev golang-github-gliderlabs-ssh-dev && build_go gliderlabs; } || :
    { bring_server libssh "command -v cc && ls /usr/include/libssh/server.h $LIBSSH_SERVER" \
        gcc libc6-dev libssh-dev libssh-doc && build_libssh; } || :
}

GO=/usr/share/gocode/src
LIBSSH_SERVER=/usr/share/doc/libssh-dev/examples/ssh_server.c

# bring_server NAME TEST PACKAGES...: says whether it is there
bring_server() {
    name=$1 there=$2
    shift 2
    if (eval "$there") >/dev/null 2>&1; then
        return
    fi
    if (install "$@") && (eval "$there") >/dev/null 2>&1; then
        return
    fi
    left_out "$name" "what Debian calls '$*' is not to be had"
}

# In an environment of its own, as it wants other versions of libraries than the tests.
bring_fakenos() {
    place=$(dirname "$work")/fakenos
    [ -e "$place/brought" ] && return
    python3 -m venv --clear "$place" >&2 && "$place/bin/python" -m pip install --quiet 'fakenos>=1.2,<2' >&2 &&
        touch "$place/brought" || { rm -rf "$place" && left_out fakenos "pip could not install it"; }
}

# For the same reason; it reads inventories, with which what the hub reads is compared.
bring_ansible() {
    place=$(dirname "$work")/ansible
    [ -e "$place/brought" ] && return
    python3 -m venv --clear "$place" >&2 && "$place/bin/python" -m pip install --quiet 'ansible-core>=2.16,<3' >&2 &&
        touch "$place/brought" || {
        rm -rf "$place"
        echo "relayd: the tests leave the comparison with Ansible out: pip could not install ansible-core." >&2
        return 1
    }
}

left_out() {
    echo "relayd: the tests leave the SSH server $1 out: $2." >&2
    rm -f "$work/$1"
    return 1
}

build_go() {
    source=$(dirname "$0")/support/servers/$1.go
    [ "$work/$1" -nt "$source" ] || GO111MODULE=off GOPATH=/usr/share/gocode go build -o "$work/$1" "$source" ||
        left_out "$1" "go could not build it"
}

# The example has a header of its build for three questions, the answers to which are yes with every C library of Linux.
build_libssh() {
    [ ! "$work/libssh" -nt "$LIBSSH_SERVER" ] || return 0
    : >"$work/config.h"
    cc -w -O1 -D_GNU_SOURCE -DHAVE_ARGP_H -I"$work" -o "$work/libssh" "$LIBSSH_SERVER" -lssh -lutil ||
        left_out libssh "cc could not build it"
}

# Windows as far as Wine is one, and what compiles the program that stands for its SSH server's part: 750 MB in Debian,
# and 700 MB for the Windows that the tests make.
bring_wine() {
    if command -v wine >/dev/null && command -v x86_64-w64-mingw32-gcc >/dev/null; then
        return
    fi
    (install wine gcc-mingw-w64-x86-64-win32) ||
        echo "relayd: the tests leave cmd.exe out: what Debian calls wine and gcc-mingw-w64-x86-64-win32 is not to be had." >&2
}

bring_node() {
    missing=
    command -v node >/dev/null || missing="$missing nodejs"
    command -v npm >/dev/null || missing="$missing npm"
    # shellcheck disable=SC2086  # a list of words
    [ -z "$missing" ] || install $missing
    cd "$(dirname "$0")/.."
    bring_promtool
    cd tests/node
    if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
        # The native parts of ssh2 are optional, and need a compiler: no scripts.
        npm ci --ignore-scripts --no-audit --no-fund --loglevel=error ||
            fail "npm could not install the packages of tests/node; its messages are above."
        touch node_modules/.package-lock.json
    fi
}

# Only the program, into build/: the package prometheus would start a server.
bring_promtool() {
    if command -v promtool >/dev/null || [ -x build/promtool ]; then
        return
    fi
    command -v apt-get >/dev/null || fail "missing here: promtool, a part of Prometheus. Install it, then try again."
    echo "relayd: fetching promtool with apt-get" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    work=$(mktemp -d)
    (cd "$work" && apt-get -qq download prometheus 2>/dev/null && dpkg-deb --extract prometheus_*.deb .) ||
        fail "apt-get could not fetch the package prometheus."
    mkdir -p build
    mv "$work/usr/bin/promtool" build/promtool
    rm -rf "$work"
}

bring_packagers() {
    missing=
    /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
    command -v strip >/dev/null || missing="$missing binutils"
    # shellcheck disable=SC2086  # a list of words
    [ -z "$missing" ] || install $missing
}

bring_machine() {
    missing=
    PATH="$PATH:/usr/sbin:/sbin"
    [ -x /lib/systemd/systemd ] || missing="$missing systemd"
    command -v dbus-daemon >/dev/null || missing="$missing dbus"
    command -v sshd >/dev/null || missing="$missing openssh-server"
    command -v useradd >/dev/null || missing="$missing passwd"
    command -v faketime >/dev/null || missing="$missing faketime"
    # shellcheck disable=SC2086  # a list of words
    [ -z "$missing" ] || install $missing
}

bring_go() {
    missing=
    command -v go >/dev/null || missing="$missing golang-go"
    for name in golang.org/x/crypto:golang-golang-x-crypto-dev github.com/gorilla/websocket:golang-github-gorilla-websocket-dev; do
        [ -e "/usr/share/gocode/src/${name%%:*}" ] || missing="$missing ${name#*:}"
    done
    # shellcheck disable=SC2086  # a list of words
    [ -z "$missing" ] || install $missing
}

case "${1-}" in
python) check_python "$2" ;;
peers) bring_peers ;;
node) bring_node ;;
deb) bring_packagers ;;
machine) bring_machine ;;
bench) bring_go ;;
*) fail "usage: bootstrap.sh python PYTHON | peers | node | deb | machine | bench" ;;
esac
