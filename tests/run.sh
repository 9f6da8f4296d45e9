#!/bin/sh
# All tests, JOBS side by side: run.sh PYTHON. Those of FIRST have the processor before those of REST, and are shown last.
set -u

shown=$(mktemp)
failed=0
"$1" -m twisted.trial --rterrors --temp-directory=_trial_temp-first $FIRST >"$shown" 2>&1 &
first=$!
trap 'kill "$first" 2>/dev/null; rm -f "$shown"' EXIT
trap 'exit 1' INT TERM
nice -n 10 "$1" -m twisted.trial -j"$JOBS" $REST || failed=1
wait "$first" || failed=1
cat "$shown"
exit "$failed"
