"""h2spec, the conformance suite for HTTP/2 (RFC 7540), as it is: all of it, or what docs/traffic.md argues."""

import subprocess
import xml.etree.ElementTree as ElementTree

from servers import PROGRAMS

# What docs/traffic.md argues, by h2spec's section and description. In clear text the first bytes choose the protocol.
EXCEPTIONS = {("http2/3.5", "Sends invalid connection preface")}
CASES = 140  # at least; fewer would be another h2spec


def test_all_of_h2spec(either, tmp_path, record_figure):
    report = tmp_path / "report.xml"
    command = [PROGRAMS / "h2spec", "--host", either.address, "--port", str(either.port), "--path", "/bytes/100000", "--strict"]
    command += ["--timeout", "20", "--junit-report", report, *(["--tls", "--insecure"] if either.tls else [])]
    result = subprocess.run(command, capture_output=True, timeout=540, check=False)
    assert report.exists(), result.stdout[-3000:] + result.stderr[-3000:]
    failed, skipped, total = set(), set(), 0
    for case in ElementTree.parse(report).iter("testcase"):
        total += 1
        name = (case.get("package"), case.get("classname"))
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(name)
        elif case.find("skipped") is not None:
            skipped.add(name)
    record_figure(f"h2spec over {'TLS' if either.tls else 'clear text'}: {total} cases, {len(failed)} failed, {len(skipped)} skipped")
    assert failed == (set() if either.tls else EXCEPTIONS)
    assert not skipped, skipped
    assert total >= CASES


