"""Tests of `relayd.ssh.become`."""
