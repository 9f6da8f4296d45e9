#!/bin/sh
# Builds a Debian package of relayd with its own virtual environment in /opt/relayd, for the Python of this system.
#
#   build.sh PIP DIRECTORY
#
# PIP is the Python whose pip fetches the libraries. The package goes to DIRECTORY; its path is printed.
set -eu
umask 022

pip=$1
mkdir -p "$2"
directory=$(cd "$2" && pwd)
cd "$(dirname "$0")/../.."
here=packaging/debian
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
home=$root/opt/relayd

/usr/bin/python3 -m venv --without-pip "$home"
python=$home/bin/python3
"$pip" -m pip wheel --quiet --no-deps --wheel-dir "$work" . >&2
"$pip" -m pip --python "$python" install --quiet --no-compile "$work"/relayd-*.whl >&2
version=$("$python" -c 'import relayd; print(relayd.__version__)')
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')

# Have Twisted write its cache of plugins now, so that removing the package leaves nothing behind.
"$python" -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'
# A service needs no tests of libraries, no compiler that comes with autobahn, and no scripts that activate environments.
find "$home/lib" -type d \( -name __pycache__ -o -name test -o -name newsfragments -o -name _flatc \) -prune -exec rm -rf {} +
rm -f "$home"/bin/[Aa]ctivate*
for file in "$home"/pyvenv.cfg "$home"/bin/*; do
    [ -L "$file" ] || sed -i "s|$root||g" "$file"
done
"$python" -m compileall -q -s "$root" -p / "$home/lib" >&2
find "$home/lib" -type f -exec chmod 644 {} +
find "$home/lib" -name '*.so' -exec strip --strip-unneeded {} +
if grep -rlF "$root" "$home"; then
    echo "build.sh: these files still name the directory they were built in" >&2
    exit 1
fi

put() { # MODE SOURCE TARGET
    install -D -m "$1" "$2" "$root$3"
}
doc=/usr/share/doc/relayd
put 644 packaging/systemd/relayd.service /lib/systemd/system/relayd.service
put 644 packaging/systemd/relayd@.service /lib/systemd/system/relayd@.service
for name in relayd relayctl; do
    put 644 packaging/completion/$name /usr/share/bash-completion/completions/$name
    put 644 packaging/completion/_$name /usr/share/zsh/vendor-completions/_$name
done
put 644 $here/relayd.toml /etc/relayd/relayd.toml
put 600 $here/default /etc/default/relayd
put 644 $here/lintian-overrides /usr/share/lintian/overrides/relayd
sh $here/documents.sh "$root$doc"
put 644 packaging/man/relayctl.1 /usr/share/man/man1/relayctl.1
put 644 packaging/man/relayd.8 /usr/share/man/man8/relayd.8
date=$(date -R -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}")
printf 'relayd (%s) unstable; urgency=medium\n\n  * See CHANGELOG.rst beside this file.\n\n -- %s  %s\n' \
    "$version" "$(sed -n 's/^Maintainer: //p' $here/control)" "$date" >"$root$doc/changelog"
gzip -9n "$root$doc/changelog" "$root"/usr/share/man/*/*
mkdir "$root/usr/bin"
ln -s /opt/relayd/bin/relayd /opt/relayd/bin/relayctl "$root/usr/bin"

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 $here/$script "$root/DEBIAN/$script"
done
printf '%s\n' /etc/relayd/relayd.toml /etc/default/relayd >"$root/DEBIAN/conffiles"
sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$(dpkg --print-architecture)/" \
    -e "s/@MINOR@/$minor/g; s/@NEXT@/$((minor + 1))/g; s/@SIZE@/$(du -sk --exclude=DEBIAN "$root" | cut -f1)/" \
    $here/control >"$root/DEBIAN/control"
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb --root-owner-group -Zxz --build "$root" "$directory" >&2
echo "$directory/relayd_${version}_$(dpkg --print-architecture).deb"
