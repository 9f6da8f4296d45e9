"""
``relayctl hub check``: whether a hub would run with these settings.
"""

from __future__ import annotations

import argparse
import os

from relayd.config.state_directory import StateDirectory
from relayd.ctl.findings import Finding, Level, Report, counted
from relayd.ctl.hub_settings import add_all_options, read_hub
from relayd.errors import ConfigError
from relayd.hub.config.options import HUB_TABLE, HubConfig
from relayd.hub.config.reading import HubReading, exposures


def configure_check(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_all_options(parser)
    parser.set_defaults(act=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Check everything; 1 when a fault was found."""
    reading, note = read_hub(arguments)
    counts: dict[Level, int] = {"ok": 0, "warning": 0, "fault": 0, "skipped": 0}

    def report(level: Level, what: str, text: str) -> None:
        counts[level] += 1
        print(Finding(level, what, text), flush=True)

    if note:
        report("ok", "settings", note)
    _check_settings(reading, report)
    if reading.config is None:
        report("skipped", "everything else", "fix the settings first")
    else:
        _check_state(reading.config, report)
    faults, warnings = counts["fault"], counts["warning"]
    print(f"\n{counted(faults, 'fault')}, {counted(warnings, 'warning')}")
    return 1 if faults else 0


def _check_settings(reading: HubReading, report: Report) -> None:
    for mistake in reading.mistakes:
        report("fault", "settings", str(mistake))
    for variable in reading.unknown:
        text = f"{variable} in the environment is not an option of the hub: remove it if it was meant as one"
        report("warning", "settings", text)
    config = reading.config
    if config is None:
        return
    for option in HUB_TABLE.options:
        weakness = option.weakness
        if weakness is not None and option.spell(getattr(config, option.attribute)) == weakness.value:
            report("warning", "settings", f"{option.flag_name}: {weakness.advice}")
    for exposed in exposures(reading, os.environ):
        report("warning", "settings", exposed)
    if config.public_url is None:
        report("warning", "settings", "--public-url is not set: relays that enrol are not told where the hub is")
    if not reading.mistakes:
        report("ok", "settings", f"{len(reading.given)} options are set")


def _check_state(config: HubConfig, report: Report) -> None:
    """Report on the files that *config* names, and on the database."""
    try:
        from relayd.hub.service.database_check import database_state
        from relayd.hub.service.parts import place_of, sealer_of, shown_place
    except ModuleNotFoundError as error:
        report("fault", "libraries", f"{error.name} is not installed: pip install relayd[hub]")
        return
    _check_certificate(config, report)
    holder = None
    try:
        holder = StateDirectory(config.state_dir, "hub").holder()
    except OSError as error:
        report("fault", "state", f"{config.state_dir}: {error.strerror}")
    if holder is not None:
        report("ok", "state", f"a hub runs with {config.state_dir}" + (f" (process {holder})" if holder else ""))
    elif not os.path.isdir(config.state_dir):
        report("fault", "state", f"there is no {config.state_dir}: make it with relayctl hub init")
        return
    try:
        sealer_of(config, make=False)
        report("ok", "secrets", f"the keys of {config.secrets_file} can be used")
    except ConfigError as error:
        report("fault", "secrets", str(error))
    try:
        place = place_of(config)
        report("ok", "database", f"{shown_place(place)}: {database_state(place)}")
    except ConfigError as error:
        report("fault", "database", str(error))


def _check_certificate(config: HubConfig, report: Report) -> None:
    if config.tls_cert is None or config.tls_key is None:
        return
    from twisted.internet.task import Clock

    from relayd.hub.service.certificate import ServerCertificate

    certificate = ServerCertificate(Clock(), config.tls_cert, config.tls_key)
    try:
        certificate.read()
    except ConfigError as error:
        report("fault", "certificate", str(error))
    else:
        report("ok", "certificate", f"{config.tls_cert} and its key belong together")
