"""The delays that the tests have seen, for the last lines of a run."""

_seen = {}


def record(what, seconds):
    _seen.setdefault(what, []).append(seconds)


def show(reporter, heading="seconds from Keycloak's answer to the first request that was treated anew"):
    """A table: what was changed, how often, and how long after it the new state was first seen."""
    if not _seen:
        return
    reporter.write_sep("-", heading)
    for what, delays in sorted(_seen.items()):
        reporter.write_line(f"{what:<44} {len(delays):>4} x   median {median(delays):5.2f}   max {max(delays):5.2f}")


def median(values):
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
