#!/bin/sh
# Runs tests with each Python that relayd supports and that is to be found here, each in an environment of its own:
#
#   pythons.sh TESTS...
#
# The last lines say which passed, which failed, and which are not to be found here.
set -u

# find_python VERSION: prints the path of one that runs and can make environments
find_python() {
    for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python "/opt/python/$1/bin/python"; do
        if "$python" -c 'import ensurepip, sqlite3, ssl, venv' >/dev/null 2>&1; then
            echo "$python"
            return
        fi
    done
}

status=0
report=
for version in 3.11 3.12 3.13 3.14; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        report="$report
$version  not to be found here"
        continue
    fi
    directory=.venvs/$version
    if [ -x "$directory/bin/python" ] || "$python" -m venv "$directory" &&
        "$directory/bin/python" -m pip install --quiet --editable '.[test]' &&
        "$directory/bin/python" -m twisted.trial --temp-directory="_trial_temp-$version" --reporter=text "$@"; then
        outcome=passed
    else
        outcome=FAILED
        status=1
    fi
    report="$report
$version  $outcome ($("$python" --version 2>&1))"
done
echo "$report"
exit $status
