"""judge.py ROWS.json SECURITY.md: what a run of the kit comes to.

A `should` case may fail where docs/security.md names it with the reason; such a case counts as skipped."""

import json
import re
import sys
from pathlib import Path

rows = json.loads(Path(sys.argv[1]).read_text())
reasons = Path(sys.argv[2]).read_text() if Path(sys.argv[2]).exists() else ""
named = set(re.findall(r"[\w-]+", reasons))
excused = [r for r in rows if r["result"] == "fail" and r["severity"] == "should" and r["name"] in named]
failed = [r for r in rows if r["result"] == "fail" and r not in excused]
passed = sum(r["result"] == "pass" for r in rows)

for group in dict.fromkeys(r["group"] for r in rows):
    part = [r for r in rows if r["group"] == group]
    for severity in ("must", "should"):
        total = [r for r in part if r["severity"] == severity]
        print(f"{group:10} {severity:7}{sum(r['result'] == 'pass' for r in total):5} of {len(total)}")
for r in rows:
    if r["result"] != "pass":
        verdict = "FAILED" if r in failed else "excused" if r in excused else "skipped"
        print(f"{verdict:8} {r['severity']:7} {r['group']}/{r['family']}/{r['name']}: {r['reason']}")
print(f"{passed} passed, {len(failed)} failed, {len(rows) - passed - len(failed)} skipped")
sys.exit(1 if failed or not rows else 0)
