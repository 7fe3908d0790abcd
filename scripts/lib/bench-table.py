#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The table of scripts/bench, from its raw data.

usage: bench-table.py CSV [--markdown | --record REPO]

  --markdown      print results.md, or ublk.md
  --record REPO   also write REPO/bench/: the data, results.md and two plots; and the
                  summary in two cover letters.  Data of the part ublk goes to ublk.csv
                  and ublk.md

A cost is nanoseconds per unit: a folio, a KiB, a request. Each round gives the
ratio of two costs that were measured one after the other; the table has the
median of the rounds, and the quartiles as the spread.
"""

import collections
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

TIME, INSNS = "um", "x86_64"
UNIT = {TIME: "time", INSNS: "instructions"}
SIZES = [str(1 << n) for n in range(17)]
OUTCOMES = collections.defaultdict(dict)    # of guest/ublk: OUTCOMES[case][variant]


def load(path):
    """costs[machine, row, case][variant][round], and the lines that say where from."""
    costs = collections.defaultdict(lambda: collections.defaultdict(dict))
    head = []
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            head.append(line[1:].strip())
            continue
        machine, row, case, variant, nr, ns, amount = (line.split(",") + 2 * [""])[:7]
        if row == "outcome":
            OUTCOMES[case][variant] = nr
        elif ns != "ns":
            costs[machine, row, case][variant][int(nr)] = int(ns) / int(amount)
    return costs, head


class Row:
    """One line of the table: ratios, one a round, and what they should be."""

    def __init__(self, family, what, machine, ratios, least, target, note=""):
        self.family, self.what, self.unit = family, what, UNIT[machine]
        self.ratio, self.note = statistics.median(ratios), note
        low, _, high = statistics.quantiles(ratios, n=4)
        self.spread = f"{low:.3f} .. {high:.3f}"
        self.judged = target is not None
        self.met = self.judged and (self.ratio >= target if least else self.ratio <= target)
        self.target = f"{'>=' if least else '<='} {target:g}" if self.judged else "none"

    def cells(self):
        verdict = "met" if self.met else "NOT MET" if self.judged else "for comparison"
        return (self.what, self.unit, f"{self.ratio:.3f}", self.spread, self.target,
                f"{verdict} ({self.note})" if self.note else verdict)


def family(costs, title, machine, row, cases, ratio, targets):
    """Rows that differ in one word of the title, {}. cases is {what to print: case of the data};
    ratio is ("faster" or "dearer", variant, variant to compare with); targets one, one each, or None."""
    kind, a, b = ratio
    if kind == "faster":
        a, b = b, a
    for i, (name, case) in enumerate(cases.items()):
        x, y = costs[machine, row, case][a], costs[machine, row, case][b]
        got = [x[nr] / y[nr] for nr in sorted(x) if nr in y]
        if len(got) > 1:
            yield Row(title.format("N" if len(cases) > 1 else name), title.format(name), machine, got, kind == "faster",
                      targets[i] if isinstance(targets, tuple) else targets)


def same(*cases):
    return {case: case for case in cases}


def rows_of_grab(costs):
    sizes = same("16", "64", "512")
    both = (TIME, INSNS)
    for machine, target in (TIME, 2.0), (INSNS, 2.5):
        yield from family(costs, "grab {} cached folios: faster than per index", machine, "cached", sizes,
                          ("faster", "helper", "per_index"), target)
    for machine, target in (TIME, 1.35), (INSNS, None):
        yield from family(costs, "grab {} cached folios: cost over the floor", machine, "cached", sizes,
                          ("dearer", "helper", "floor"), target)
    for machine, target in (TIME, 0.9), (INSNS, None):
        yield from family(costs, "grab {} folio: faster than filemap_grab_folio()", machine, "single", same("1"),
                          ("faster", "helper", "single"), target)
    yield from family(costs, "fill a hole of {} pages, large folios: faster than per index, order 0", INSNS,
                      "large_holes", sizes, ("faster", "helper", "per_index"), (7, 40, 80))
    yield from family(costs, "fill a hole of {} pages, large folios: cost over allocation and insertion", INSNS,
                      "large_holes", sizes, ("dearer", "helper", "create"), None)
    for machine in both:
        yield from family(costs, "fill a hole of {} pages, order 0: faster than per index", machine, "holes", sizes,
                          ("faster", "helper", "per_index"), 1.2)
        yield from family(costs, "fill a hole of {} pages, order 0: cost over allocation and insertion", machine,
                          "holes", sizes, ("dearer", "helper", "create"), None)
        yield from family(costs, "the same, allocation in bulk: cost over single allocation", machine,
                          "holes", sizes, ("dearer", "bulk", "create"), None)
    yield from scaling(costs)
    for machine in both:
        yield from family(costs, "one of {} folios locked before: faster than if not", machine, "locked", sizes,
                          ("faster", "locked", "helper"), 0.95)
    for machine in both:
        yield from flat(costs, machine)


def scaling(costs):
    """Does the helper gain as much from more threads as the loop does?"""
    one = costs[TIME, "threads", "1"]
    for nr in "2", "4":
        more = costs[TIME, "threads", nr]
        gains = {c: [one[c][r] / more[c][r] for r in sorted(more[c])] for c in ("helper", "per_index")}
        got = [a / b for a, b in zip(*gains.values())]
        if got:
            yield Row("N threads: gain over 1, relative to per index", f"{nr} threads: gain over 1, relative to per index",
                      TIME, got, True, 1.0, "{:.2f} and {:.2f}".format(*map(statistics.median, gains.values())))


def flat(costs, machine):
    """The dearest folio of any size of the range over the cheapest."""
    cells = {nr: costs[machine, "cached", nr]["helper"] for nr in SIZES}
    if not all(cells.values()):
        return
    floor = {nr: costs[machine, "cached", nr]["floor"] for nr in SIZES}
    for first in 0, 4:
        part = {nr: cells[nr] for nr in SIZES[first:]}
        got = [max(c[r] for c in part.values()) / min(c[r] for c in part.values()) for r in cells["1"]]
        cost = {nr: statistics.median(c.values()) for nr, c in part.items()}
        high, low = max(cost, key=cost.get), min(cost, key=cost.get)
        title = f"cost per folio, {SIZES[first]} to 65536 at a time: largest over smallest"
        yield Row(title, title, machine, got, False, 1.2,
                  f"{cost[high]:.1f} at {high}, {cost[low]:.1f} at {low}; the floor there: "
                  f"{statistics.median(floor[high].values()):.1f}, {statistics.median(floor[low].values()):.1f}")


def rows_of_loop(costs):
    for where in "tmpfs", "ext4":
        cases = {f"{kind} {size}": f"{where} {size} {kind}" for size in ("4k", "128k") for kind in ("write", "read")}
        yield from family(costs, f"loop on {where}, {{}}: cost over 7.3", INSNS, "native", cases,
                          ("dearer", "after", "before"), 1.01)
    for size, target in ("4k", 0.80), ("128k", 0.92), ("1m", 0.95):
        yield from family(costs, f"loop without iter methods, {size} {{}}: speed of that with", TIME, "fallback",
                          fio_cases(size), ("faster", "write", "iter"), target)


def fio_cases(size):
    return {f"{kind}, depth {depth}": f"{size} {kind} {depth}"
            for kind in ("write", "read", "randwrite", "randread") for depth in ("1", "32")}


def rows_of_ublk(costs):
    for size in "4k", "128k", "1m":
        yield from family(costs, f"loop without iter methods, {size} {{}}: speed over that of ublk", TIME, "ublk",
                          fio_cases(size), ("faster", "loop", "ublk"), None)


def rows_of_units(costs):
    names = same("ntfs", "ntfs3", "ocfs2")
    yield from family(costs, "random writes, {}: speed with the helper over that with the fixes alone", TIME, "units",
                      names, ("faster", "after", "fixes"), 0.95)
    yield from family(costs, "random writes, {}: speed with the fixes over that of 7.3", TIME, "units", names,
                      ("faster", "fixes", "before"), None)


def table(rows):
    lines = [("what", "by", "ratio", "quartiles", "target", ""), *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(5)] + [0]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines]


def families(rows):
    """(title, unit, ratios as text, rows) of the rows that are judged."""
    groups = collections.defaultdict(list)
    for row in rows:
        if row.judged:
            groups[row.family, row.unit].append(row)
    for (title, unit), group in groups.items():
        got = ", ".join(f"{row.ratio:.2f}" for row in group)
        if len(group) > 4:
            got = f"{min(row.ratio for row in group):.2f} to {max(row.ratio for row in group):.2f}"
        yield title, unit, got, group


def short_table(rows):
    lines = ["| what | by | ratios | targets | met |", "| --- | --- | --- | --- | --- |"]
    for title, unit, got, group in families(rows):
        targets = ", ".join(dict.fromkeys(row.target for row in group))
        lines.append(f"| {title} | {unit} | {got} | {targets} | {sum(row.met for row in group)} of {len(group)} |")
    return lines


# what the cover letters of the topics say, by the beginning of the title
COVER = {
    "2-filemap": ("grab ", "fill "),
    "3-window": ("loop ",),
}


def mail_lines(rows, titles):
    lines = []
    for title, unit, got, _ in families(rows):
        if title.startswith(titles):
            lines += [f"  {title},", f"\tby {unit}: {got}"]
    return lines


def replace_marked(path, begin, end, lines):
    """Put lines between the line of path that has begin and that which has end."""
    text = path.read_text(encoding="utf-8")
    new, found = re.subn(rf"(?m)(^.*{begin}.*\n)(?s:.*?)(^.*{end})",
                         lambda m: m[1] + "".join(f"{line}\n" for line in lines) + m[2], text)
    if found != 1:
        sys.exit(f'{path}: no line with "{begin}" and one with "{end}" after it')
    path.write_text(new, encoding="utf-8")


def plot(out, title, axes, curves):
    """curves is {name: [(x, y), ...]}"""
    xlabel, ylabel, more = axes
    data = "".join(f"$d{i} << EOD\n" + "".join(f"{x} {y}\n" for x, y in points) + "EOD\n"
                   for i, points in enumerate(curves.values()))
    lines = ", ".join(f'$d{i} with linespoints lw 2 title "{name}"' for i, name in enumerate(curves))
    with tempfile.NamedTemporaryFile("w", suffix=".gnuplot") as script:
        script.write(f'{data}set terminal svg size 800,500 background "white"\nset output "{out}"\n'
                     f'set title "{title}"\nset xlabel "{xlabel}"\nset ylabel "{ylabel}"\n'
                     f"set logscale x 2\nset yrange [0:*]\nset grid\nset key bottom right\n{more}\nplot {lines}\n")
        script.flush()
        subprocess.run(["gnuplot", script.name], check=True)


def medians(costs, machine, row, cases, variant):
    return [(x, statistics.median(costs[machine, row, case][variant].values())) for x, case in cases]


def results(head, rows):
    """results.md"""
    return "\n".join(["<!-- SPDX-License-Identifier: GPL-2.0; written by scripts/bench --record -->", "# Results of scripts/bench",
                      "", *(f"- {line}" for line in head), "", *short_table(rows), "", "Each row:", "", "```", *table(rows), "```", ""])


def outcomes():
    return ["| case | loop | ublk |", "| --- | --- | --- |",
            *(f"| {case} | {got.get('loop', 'has no server')} | {got.get('ublk', '')} |" for case, got in OUTCOMES.items())]


def speeds(costs):
    """MiB/s of both, and the rows of rows_of_ublk()."""
    lines = ["| request | loop, MiB/s | ublk, MiB/s | loop / ublk | quartiles |", "| --- | --- | --- | --- | --- |"]
    rows = list(rows_of_ublk(costs))
    cases = [f"{size} {case}" for size in ("4k", "128k", "1m") for case in fio_cases(size)]
    for case, row in zip(cases, rows, strict=True):
        got = [1e9 / 1024 / statistics.median(costs[TIME, "ublk", case.replace(", depth", "")][v].values())
               for v in ("loop", "ublk")]
        lines.append(f"| {case} | {got[0]:.0f} | {got[1]:.0f} | {row.ratio:.2f} | {row.spread} |")
    return lines


def ublk_results(costs, head):
    """ublk.md"""
    return "\n".join(["<!-- SPDX-License-Identifier: GPL-2.0; written by scripts/bench --record -->",
                      "# loop and ublk on a file without iter methods", "", *(f"- {line}" for line in head), "",
                      *speeds(costs), "", *outcomes(), ""])


def record_ublk(costs, head, repo, csv):
    shutil.copy(csv, repo / "bench" / "ublk.csv")
    (repo / "bench" / "ublk.md").write_text(ublk_results(costs, head), encoding="utf-8")


def record(costs, head, rows, repo, csv):
    for needed in (INSNS, "cached", "1"), (TIME, "fallback", "4k write 1"):
        if needed not in costs:
            sys.exit(f"{csv}: no line {','.join(needed)}: --record needs the measurements of all parts, nothing is written")
    where = repo / "bench"
    where.mkdir(exist_ok=True)
    shutil.copy(csv, where / "results.csv")
    sizes = [(nr, nr) for nr in SIZES]
    plot(where / "cost-per-folio.svg", f"Lock and release cached folios ({head[0]})",
         ("folios in the range", "instructions per folio (x86\\\\_64)", "set key top right"),
         {name: medians(costs, INSNS, "cached", sizes, variant) for name, variant in
          (("a lookup per index", "per_index"), ("filemap\\\\_grab\\\\_folios()", "helper"), ("the locks alone", "floor"))})
    sizes = [(4, "4k"), (16, "16k"), (64, "64k"), (128, "128k"), (512, "512k"), (1024, "1m")]
    curves = {}
    for kind in "write", "read":
        points = [[(x, 1e9 / 1024 / y) for x, y in medians(
            costs, TIME, "fallback", [(x, f"{size} {kind} 1") for x, size in sizes], io)] for io in ("iter", "write")]
        curves |= {f"{kind}, iter methods": points[0], f"{kind}, ->read and ->write": points[1]}
    plot(where / "fallback.svg", f"loop over faultfs, one request at a time ({head[0]})",
         ("KiB per request", "MiB/s", "set key top left"), curves)
    (where / "results.md").write_text(results(head, rows), encoding="utf-8")
    for topic, titles in COVER.items():
        replace_marked(repo / "patches" / topic / "cover-letter", "scripts/bench has measured", "The whole table is in",
                       [*("  " + line for line in head), "", *mail_lines(rows, titles), ""])


def main():
    args = sys.argv[1:]
    if args in (["--help"], []) or len(args) not in (1, 2, 3) or (len(args) == 3 and args[1] != "--record"):
        sys.exit(__doc__.split("\n\n")[1])
    costs, head = load(args[0])
    rows = [*rows_of_grab(costs), *rows_of_loop(costs), *rows_of_units(costs), *rows_of_ublk(costs)]
    if not rows:
        sys.exit(f"{args[0]}: no measurements")
    if args[1:] == ["--markdown"]:
        print(ublk_results(costs, head) if OUTCOMES else results(head, rows), end="")
        return
    print("\n".join([*head, "", *table(rows)]))
    print(f"\ntargets met: {sum(row.met for row in rows)} of {sum(row.judged for row in rows)}")
    if OUTCOMES:
        print("\n".join(["", *outcomes()]))
    if len(args) == 3 and OUTCOMES:
        record_ublk(costs, head, pathlib.Path(args[2]), args[0])
    elif len(args) == 3:
        record(costs, head, rows, pathlib.Path(args[2]), args[0])


main()
