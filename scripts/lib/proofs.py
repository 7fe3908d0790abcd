#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Plan the kernels that show that fixes are needed, from the notes of the commits.

usage: proofs.py TREE [SUBJECT]...

Prints a line "KERNEL<tab>COMMITS<tab>PROGRAM<tab>TESTS<tab>WHAT" for each program to run:
on a kernel without the COMMITS, or with the mutant +NAME, each of the TESTS fails. One
kernel lacks one fix of each topic; kernel 0 lacks the whole series. A line
"missing<tab>SUBJECT" is a fix without a "Test:" line. With SUBJECTs, only these, a kernel
each.

In the note of a commit, which is the text below the --- of its patch:

    Test: COLLECTION:PROGRAM TEST, TEST, ...
    Test: none (REASON)
    Test: COMMAND ...          run by another test of scripts/test.d, not here
    Revert-with: SUBJECT       cannot be there without this fix, either

"TEST!" does not fail without the whole series, where another bug hides this one. Lines
are continued by indented ones.
"""

import pathlib
import re
import subprocess
import sys

AT_ONCE = 8
MUTANTS = pathlib.Path(__file__).resolve().parent.parent / "prove.d"


def git(tree, *args):
    return subprocess.run(["git", "-c", "safe.directory=*", "-C", tree, *args], check=True, capture_output=True, text=True).stdout


def trailers(text):
    """The (key, value) of the Test: and Revert-with: lines of a text, unfolded."""
    unfolded = re.sub(r"\n[ \t]+", " ", text)
    return re.findall(r"(?m)^(Test|Revert-with|Mutant): *(.*)$", unfolded)


def commits(tree):
    """(topic, id, subject, has Fixes:, trailers) of the series, in order."""
    starts = git(tree, "for-each-ref", "--sort=refname", "--format=%(refname:lstrip=2)", "refs/heads/start/").split()
    for topic, end in zip(starts, [*starts[1:], "series"]):
        log = git(tree, "log", "--reverse", "--notes", "--format=%H%x00%s%x00%b%x00%N%x01", f"{topic}..{end}")
        for entry in log.split("\x01\n"):
            if entry.strip():
                commit, subject, body, note = entry.split("\0")
                fixes = re.search(r"(?m)^Fixes: ", body) is not None
                yield topic[len("start/"):], commit, subject, fixes, trailers(note)


def tests(lines):
    """(COLLECTION:PROGRAM, [TEST...]) of the Test: lines that run in a guest."""
    for key, value in lines:
        if key == "Test" and re.match(r"[\w/]+:\w+ ", value):
            program, names = value.split(" ", 1)
            yield program, [t.strip() for t in names.split(",")]


def mutants():
    for path in sorted(MUTANTS.glob("*.diff")):
        text = path.read_text(encoding="utf-8").split("\n--- ", 1)[0]
        for program, names in tests(trailers(text)):
            yield "+" + path.stem, program, names


def main():
    if len(sys.argv) < 2 or sys.argv[1] == "--help":
        sys.exit(__doc__)
    tree, wanted = sys.argv[1], sys.argv[2:]
    series = list(commits(tree))
    ids = {subject: commit for _, commit, subject, _, _ in series}
    kernels, per_topic, all_tests = 0, {}, {}
    for topic, commit, subject, fixes, lines in series:
        if not topic.startswith("1-") or (wanted and subject not in wanted):
            continue
        if fixes and not any(key == "Test" for key, _ in lines):
            print(f"missing\t{subject}")
        if not list(tests(lines)):
            continue
        per_topic[topic] = per_topic.get(topic, 0) + 1
        kernel = sum(per_topic.values()) if wanted else per_topic[topic]
        kernels = max(kernels, kernel)
        for key, value in lines:
            if key == "Revert-with" and value not in ids:
                sys.exit(f'"{subject}": Revert-with: "{value}" is not in the series')
        others = [ids[s] for s in reversed(ids) if s in [v for k, v in lines if k == "Revert-with"]]
        for program, names in tests(lines):
            print(kernel, " ".join([*others, commit]), program, ",".join(t.rstrip("!") for t in names),
                  f'without "{subject}"', sep="\t")
            all_tests.setdefault(program, []).extend(t for t in names if not t.endswith("!"))
    for name, program, names in mutants():
        if not wanted or name in wanted:
            print(kernels + 1, name, program, ",".join(names), f"with the mutant {name[1:]}", sep="\t")
    if not wanted:
        for program, names in sorted(all_tests.items()):
            names = list(dict.fromkeys(names))
            for i in range(0, len(names), AT_ONCE):  # some hang, each up to its limit
                part = "without the series" + (f", part {i // AT_ONCE + 1}" if i else "")
                print(0, "series", program, ",".join(names[i:i + AT_ONCE]), part, sep="\t")


main()
