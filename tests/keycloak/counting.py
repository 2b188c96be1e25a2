"""What pytest is told by every suite that runs on it: `--full`, a clean end on SIGTERM, and the count in the last line."""

import signal
import sys

import pytest

RESULTS = {"passed": set(), "failed": set(), "skipped": set()}


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="repeat what depends on timing, and run what takes long")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: takes long; runs with --full only")
    # A time limit ends the suite with SIGTERM; Keycloak and the gateways must go with it.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("ended by SIGTERM", 1))


def pytest_collection_modifyitems(config, items):
    if not config.getoption("full"):
        items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_runtest_logreport(report):
    """Counts a test once, whatever its set-up and clean-up do."""
    if report.outcome != "passed" or report.when == "call":
        RESULTS[report.outcome].add(report.nodeid)


def pytest_collectreport(report):
    if report.failed:
        RESULTS["failed"].add(report.nodeid)


def pytest_unconfigure():
    failed = RESULTS["failed"]
    passed = RESULTS["passed"] - failed
    sys.stdout.write(f"{len(passed)} passed, {len(failed)} failed, {len(RESULTS['skipped'])} skipped\n")
    sys.stdout.flush()
