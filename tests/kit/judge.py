"""judge.py ROWS.json SECURITY.md [AGAIN.json]: what a run of the kit comes to; or judge.py --late ROWS.json: which cases to play again.

A `should` case may fail where docs/security.md names it with the reason; such a case counts as skipped. The kit waits for a second or
two, which a machine may take by itself: a case that failed for want of an answer in time, and for nothing else, has a second try, alone."""

import json
import re
import sys
from pathlib import Path

LATE = re.compile(r"no answer|^status none|got .* in [1-9][\d.]* s$|no recovery")


def key(row):
    return row["group"], row["family"], row["name"]


def is_late(row):
    return row["result"] == "fail" and LATE.search(row["reason"] or "")


if sys.argv[1] == "--late":
    late = filter(is_late, json.loads(Path(sys.argv[2]).read_text()))
    print("|".join(f"^{re.escape(row['family'])}/{re.escape(row['name'])}$" for row in late))
    sys.exit()

rows = json.loads(Path(sys.argv[1]).read_text())
if len(sys.argv) > 3:
    again = {key(row): row for row in json.loads(Path(sys.argv[3]).read_text())}
    for row in filter(is_late, rows):
        print(f"played again: {row['family']}/{row['name']}: {row['reason']}")
    rows = [again.get(key(row), row) if is_late(row) else row for row in rows]
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
