#!/bin/sh
# Puts what people read, and what they copy, into the directory of the package's documents.
#
#   documents.sh DIRECTORY
#
# The folders are those of the source, so that the links between the documents hold.
set -eu

to=$1
cd "$(dirname "$0")/../.."

put() { # SOURCE TARGET
    install -D -m 644 "$1" "$to/$2"
}
for file in README.rst README.zh.rst CHANGELOG.rst CONTRIBUTING.rst docs/*.rst docs/howto/*.rst docs/images/*.png docs/images/*.svg; do
    put "$file" "$file"
done
put packaging/debian/copyright copyright
put packaging/logrotate/relayd examples/logrotate
put packaging/prometheus/relayd.rules.yml examples/prometheus/relayd.rules.yml
put packaging/grafana/relayd.json examples/grafana/relayd.json
