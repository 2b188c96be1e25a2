"""check_configs.py POSTERN: every file in config/, and every whole configuration in README.md, passes `postern check`.

A block of README.md is a whole configuration if it holds `version = 1`. What such an example names but a reader has yet
to make is made here: the variable of an `env = "…"`, the file of a `file = "…"`, an absolute one at another place."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def examples(work):
    """The README's configurations, each as a file in a folder of its own."""
    blocks = re.findall(r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    for number, block in enumerate((b for b in blocks if re.search(r"^version = 1$", b, re.M)), 1):
        folder = work / f"README-{number}"
        folder.mkdir()
        file = folder / "postern.toml"
        file.write_text(furnish(block, folder))
        yield file


def furnish(text, folder):
    """Makes what the text names, and returns it with absolute paths moved into the folder."""
    for name in re.findall(r'\benv = "([^"]+)"', text):
        os.environ.setdefault(name, "example")
    for name in set(re.findall(r'\bfile = "([^"]+)"', text)):
        place = folder / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("example\n")
        text = text.replace(f'"{name}"', f'"{place}"')
    return text


def main():
    postern = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="postern-check-") as work:
        shipped, readme = sorted((ROOT / "config").glob("*.toml")), list(examples(Path(work)))
        failed = 0
        for file in shipped + readme:
            if subprocess.run([postern, "check", file], stdin=subprocess.DEVNULL).returncode:
                failed += 1
                print(f"FAILED {file}")
        for what, found in (("file in config/", shipped), ("configuration in README.md", readme)):
            if not found:
                failed += 1
                print(f"FAILED there is no {what}")
    print(f"{len(shipped) + len(readme) - min(failed, len(shipped) + len(readme))} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
