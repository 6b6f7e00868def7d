#!/usr/bin/python3
"""Records a terminal session as an SVG whose lines appear when they did: record.py OUT SCRIPT.

SCRIPT is a file of lines: `$ COMMAND` is shown as typed and run in a terminal of 88 columns;
`> TEXT` is typed once the program has printed what the line before, `? PATTERN`, waits for.
Used for the picture in README.md, see docs/media/README.md.
"""

import html
import os
import pty
import re
import select
import sys
import time

COLUMNS, LINE_PX, CHAR_PX, PAD = 88, 17, 8.0, 14
MAX_LINES = 40
LIMIT_S = 120


def read_script(path):
    command, steps = None, []
    with open(path, encoding="utf-8") as f:
        for line in f.read().splitlines():
            if line.startswith("$ "):
                command = line[2:]
            elif line[:2] in ("? ", "> "):
                steps.append((line[0], line[2:]))
    return command, steps


def run(command, steps):
    """[(seconds, text)] of what the terminal got."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS=str(COLUMNS), LINES=str(MAX_LINES), TERM="dumb")
        os.execvp("sh", ["sh", "-c", command])
    start, events, seen, at = time.monotonic(), [], "", 0
    steps = list(steps)
    while time.monotonic() - start < LIMIT_S:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                data = os.read(fd, 4096).decode("utf-8", "replace")
            except OSError:
                break
            if not data:
                break
            seen += data
            events.append((time.monotonic() - start, data))
        while steps:
            kind, text = steps[0]
            if kind == "?":
                found = seen.find(text, at)
                if found < 0:
                    break
                at = found + len(text)
            else:
                os.write(fd, text.encode() + b"\n")
            steps.pop(0)
    os.waitpid(pid, 0)
    if steps:
        sys.exit(f"record: {steps[0]} never came")
    return events


def lines_of(command, events):
    """[[seconds, text]]: each line with the time of its first byte."""
    lines, fresh = [[0.0, "$ " + command]], True
    for when, data in events:
        data = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data).replace("\r\n", "\n").replace("\r", "")
        for char in data:
            if fresh:
                lines.append([when, ""])
                fresh = False
            if char == "\n":
                fresh = True
            elif char == "\b":
                lines[-1][1] = lines[-1][1][:-1]
            elif char >= " ":
                lines[-1][1] += char
    return lines[:MAX_LINES]


def svg(lines):
    width, height = COLUMNS * CHAR_PX + 2 * PAD, len(lines) * LINE_PX + 2 * PAD
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
           f'viewBox="0 0 {width:.0f} {height}">',
           "<style>text{font:13.3px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
           "fill:#d8dee9;white-space:pre;opacity:0;animation:a 1ms forwards}"
           "@keyframes a{to{opacity:1}}.c{fill:#a3be8c}</style>",
           f'<rect width="100%" height="100%" rx="8" fill="#20242c"/>']
    for n, (when, text) in enumerate(lines):
        kind = ' class="c"' if n == 0 else ""
        out.append(f'<text x="{PAD}" y="{PAD + (n + 1) * LINE_PX - 5}"{kind} '
                   f'style="animation-delay:{when:.2f}s" xml:space="preserve">'
                   f"{html.escape(text[:COLUMNS])}</text>")
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    command, steps = read_script(sys.argv[2])
    events = run(command, steps)
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        f.write(svg(lines_of(command, events)))


main()
