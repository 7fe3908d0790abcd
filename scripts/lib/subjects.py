#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which patches and series are quoted that do not exist?

usage: subjects.py REPO

Looks for "PREFIX: SUBJECT" in quotation marks in README.md, MAINTAINERS-notes, cover
letters, notes, and in the messages and notes of the patches. Known are the subjects of the
patches, of the cover letters, of Fixes: tags, and of scripts/lib/subjects-elsewhere. Also
checks N of [PATCH 0/N], and what Needs: names. Prints a line for each problem.
"""

import email.header
import pathlib
import re
import sys

QUOTED = re.compile(r'"((?:[\w/]+|selftests/[\w/]+|mm/filemap|Documentation/[\w/]+): [^"]{8,200}?)"', re.S)


def subject(text):
    """The unfolded and decoded subject of a mail, without [PATCH ...]."""
    raw = re.search(r"(?m)^Subject: (.*(?:\n[ \t].*)*)", text).group(1)
    raw = re.sub(r"\s+", " ", str(email.header.make_header(email.header.decode_header(raw))))
    return re.sub(r"^\[[^]]*PATCH[^]]*\] *", "", raw)


def main():
    if len(sys.argv) != 2 or sys.argv[1] == "--help":
        sys.exit(__doc__)
    repo = pathlib.Path(sys.argv[1])
    patches = {p: p.read_text(encoding="utf-8", errors="replace") for p in sorted(repo.glob("patches/*/*.patch"))}
    covers = {p: p.read_text(encoding="utf-8") for p in sorted(repo.glob("patches/*/cover-letter"))}
    pages = [repo / "README.md", repo / "MAINTAINERS-notes", repo / "bench/README.md", *repo.glob("stable/*/README"),
             *repo.glob("patches/*/notes")]
    known = {subject(text) for text in [*patches.values(), *covers.values()]}
    for text in patches.values():
        known |= set(re.findall(r'(?m)^Fixes: \w+ \("(.*)"\)$', text))
    known |= set((repo / "scripts/lib/subjects-elsewhere").read_text(encoding="utf-8").splitlines())
    texts = {**covers, **{p: p.read_text(encoding="utf-8") for p in pages}}
    texts |= {p: re.split(r"(?m)^diff --git ", text)[0] for p, text in patches.items()}
    for path, text in sorted(texts.items()):
        for quote in QUOTED.findall(text):
            quote = re.sub(r"\s+", " ", quote)
            start = quote.removesuffix(" ...") if quote.endswith(" ...") else None
            if quote not in known and not (start and any(k.startswith(start) for k in known)):
                print(f'{path.relative_to(repo)}: no such subject: "{quote}"')
    topics = {path.parent.name for path in covers}
    for path, text in covers.items():
        n = len(list(path.parent.glob("*.patch")))
        if not re.match(rf"Subject: \[(RFC )?PATCH 0+/{n}\] ", text):
            print(f"{path.relative_to(repo)}: the subject is not that of {n} patches")
        for need in re.findall(r"(?m)^Needs: *(.*)$", text.split("\n\n")[0]):
            for topic in set(need.split()) - topics:
                print(f"{path.relative_to(repo)}: Needs: {topic}: no such topic")


main()
