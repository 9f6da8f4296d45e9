"""
The Debian package as an operator meets it: installed by dpkg, run by a real systemd. ``make test-deb`` runs these in
``machine.sh``, a machine of their own.
"""
