#!/bin/sh
# Runs these tests, each module in a machine of its own, side by side. $PACKAGE_UNDER_TEST is the path of the package.
#
#   run.sh PYTHON
set -eu

python=$1
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# in_a_machine NAME TESTS...
in_a_machine() {
    name=$1
    shift
    code=0
    sh tests/installed/machine.sh "$python" -m twisted.trial --temp-directory="_trial_temp-installed-$name" "$@" \
        >"$work/$name" 2>&1 || code=$?
    echo "$code" >"$work/$name.code"
}
faults=tests.installed.test_faults.FaultTests
in_a_machine service tests.installed.test_service &
in_a_machine faults $faults.test_keys $faults.test_settings $faults.test_the_way_to_the_main_server &
in_a_machine more-faults $faults.test_the_machine $faults.test_hosts &
wait
failed=0
for name in service faults more-faults; do
    cat "$work/$name"
    code=$(cat "$work/$name.code")
    [ "$code" -eq 0 ] || [ "$code" -eq 77 ] || failed=1
done
exit $failed
