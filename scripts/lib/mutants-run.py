# SPDX-License-Identifier: GPL-2.0
# scripts/mutants: boot the kernel with one mutant after the other, two guests at a time,
# and say as TAP which of them the tests notice.
#
# usage: mutants-run.py STATE kunit LINUX [OPTION]...
#        mutants-run.py STATE guest REPO LINUX INSTALLED_KSELFTESTS [OPTION]...
#        mutants-run.py STATES report
#
# STATE is a directory in STATES, kunit or guest: list (of the generator), cover.* (what each test reaches and how
# long it takes), results (the verdicts so far, by the key of the mutant). Options:
#   first=N    begin there          until=T    begin nothing after T (of EPOCHSECONDS)
#   only=RE    keys that match      missed     those that were not noticed before
#   untried    those without a verdict
#   reports=RE what in a console means that the kernel is broken
#   budget=S   of kselftests, only what takes that many seconds in all
#   sample=N   N of them, chosen at random, the same each time
import collections
import json
import os
import queue
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time

STATE = sys.argv[1]
HERE = os.path.dirname(os.path.abspath(__file__))
IS_OPTION = re.compile(r'(first|until|only|missed|untried|reports|budget|sample)(=|$)').match
OPTIONS = dict(a.partition('=')[::2] for a in sys.argv[3:] if IS_OPTION(a))
ARGS = [a for a in sys.argv[3:] if not IS_OPTION(a)]
KUNIT = {'mm/filemap.c': 'filemap_*', 'fs/user_window.c': 'user_window*'}
PROGRAMS = {
    'drivers/block': ['loop:loop_config_test', 'loop:loop_io_test', 'loop:loop_window_test', 'loop:loop_life_test',
                      'loop:loop_hostile_test'],
    'fs/ntfs': ['filesystems/ntfs:compressed_write_test', 'filesystems/units:ntfs_wof_test'],
    'fs/ntfs3': ['filesystems/units:ntfs3_test'],
    'fs/ocfs2': ['filesystems/units:ocfs2_test'],
    'fs/squashfs': ['filesystems/units:squashfs_test'],
    'fs/f2fs': ['filesystems/units:f2fs_test'],
}
# The time limit of a test is FACTOR times what it took without a mutant, plus MORE seconds:
# other programs may use the processors, too.
FACTOR, MORE = 8, 7
LONG = 12000    # milliseconds: too long, of a kselftest
KILLS = collections.Counter()


def load(name, default):
    try:
        with open(f'{STATE}/{name}') as f:
            return json.load(f)
    except FileNotFoundError:
        return default


def save(name, what):
    with open(f'{STATE}/{name}.new', 'w') as f:
        json.dump(what, f, indent=0)
    os.rename(f'{STATE}/{name}.new', f'{STATE}/{name}')


def same():
    """mutants.same: "= REASON", and below it the mutants, as the report names them"""
    reasons, reason = {}, ''
    with open(f'{HERE}/mutants.same') as f:
        for line in f:
            line = line.rstrip('\n')
            if line.startswith('= '):
                reason = line[2:]
            elif line and not line.startswith('#'):
                reasons[line] = reason
    return reasons


def boot_kunit(linux, suites, tests, number, limit, seconds, directory):
    """The console up to the first failure; what that was, or '' or "hangs". `seconds` has
    how long each test may take."""
    command = [linux, 'seccomp=on', 'ncpus=4', f'kunit.filter_glob={suites}', 'kunit.enable=1', 'mem=1G', 'console=tty', 'slab_debug=FZPU',
               'kunit_shutdown=halt', f'mutant={number}', f'mutant_limit={limit}', f'uml_dir={directory}']
    if tests:
        command.append(f'mutant_tests={tests}')
    end, console, why, where = time.time() + 60, b'', 'hangs', ''
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                         cwd=directory)
    while time.time() < end:
        if not select.select([p.stdout], [], [], 1)[0]:
            continue
        more = os.read(p.stdout.fileno(), 65536)
        new = console[console.rfind(b'\n') + 1:] + more
        console += more
        begun = re.findall(rb'mutants: begin (\S+)\r?\n', new)
        if begun:
            where = begun[-1].decode()
            end = time.time() + MORE + FACTOR * seconds.get(where, 60)
        found = re.search(rb'not ok \d+ [^\n\r]*|[^\n\r]*(?:' + OPTIONS['reports'].encode() + rb')[^\n\r]*', new)
        if found:
            where = (re.findall(rb'mutants: begin (\S+)\r?\n', console[:len(console) - len(new) + found.start()]) or [b''])[-1].decode()
            why = found.group(0).decode(errors='replace').strip()
            break
        if not more:
            why = '' if b'reboot: System halted' in console else 'dies'
            break
    try:
        os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    p.wait()
    return console.decode(errors='replace'), f'{where}: {why}' if why else ''


def cover_kunit(linux):
    """[suites, test, milliseconds, {mutant: hits}] of a boot without a mutant"""
    cover = []
    for suites in KUNIT.values():
        with tempfile.TemporaryDirectory() as d:
            console, why = boot_kunit(linux, suites, '', 0, 0, {}, d)
        if why:
            sys.exit(f'without a mutant, {suites}: {why}\n{console[-2000:]}')
        for t, ms, hits in re.findall(r'mutants: end (\S+) (\d+)\r?\n((?:\s*mutant: \d+:\d+\r?\n)*)', re.sub(r'\n\r?\n', '\n', console)):
            cover.append([suites, t, int(ms), dict(re.findall(r'(\d+):(\d+)', hits))])
    return cover


def judge_kunit(m, cover, linux):
    suites = KUNIT[m['file']]
    tests = [c for c in cover if c[0] == suites]
    bits = ''.join('01'[str(m['nr']) in c[3]] for c in tests)
    if '1' not in bits:
        return 'not reached', ''
    limit = 100000 + 20 * max(int(c[3].get(str(m['nr']), 0)) for c in tests)
    with tempfile.TemporaryDirectory() as d:
        why = boot_kunit(linux, suites, bits, m['nr'], limit, {c[1]: c[2] / 1000 for c in tests}, d)[1]
    return ('noticed', why) if why else ('not noticed', '')


def guest(repo, linux, timeout, append, *command):
    p = subprocess.run([f'{repo}/scripts/vm', '--kernel', linux, '--mem', '1G', '--timeout', str(timeout), '--append', append, '--',
                        'env', 'LOOP_TEST_FAULTS=1', 'LOOP_TEST_OPS=2000', 'LOOP_TEST_FILES=50', 'NTFS_TEST_ROUNDS=6000',
                        'UNITS_TEST_ROUNDS=6000', f'LOOP_TEST_TREE={os.path.dirname(linux)}',
                        f'{repo}/scripts/guest/mutants', *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
    return p.returncode, p.stdout


def cover_guest(directory, repo, linux, installed):
    rc, out = guest(repo, linux, 1200, 'mutant=0', 'cover', installed, *PROGRAMS[directory])
    if rc:
        sys.exit(f'without a mutant: {rc}\n{out[-3000:]}')
    cover = []
    for program, t, ms, rc, hits in re.findall(r'^cover (\S+) (\S+) (\d+) (\d+)(.*)$', out, re.M):
        if rc == '0':
            cover.append([program, t, int(ms), dict(re.findall(r'(\d+):(\d+)', hits))])
        else:
            print(f'# {program} {t}: {"skipped" if rc == "4" else "fails without a mutant"}', flush=True)
    return cover


def judge_guest(m, cover, repo, linux, installed):
    tests = sorted((c for c in cover if str(m['nr']) in c[3]), key=lambda c: c[2])
    if not tests:
        return 'not reached', ''
    # first what has noticed others in this function, then one variant of each test
    seen, order = collections.Counter(), []
    for c in tests:
        name = c[1].split('.')[-1]
        order.append((-KILLS[m['file'], m['function'], c[1]], seen[name], c[2], c))
        seen[name] += 1
    tests, left = [], 1000 * float(OPTIONS.get('budget', 'inf'))
    for _, _, ms, c in sorted(order, key=lambda o: o[:3]):
        if not tests or (ms <= LONG and left >= ms):
            tests.append(c)
            left -= ms
    hits = max(int(c[3][str(m['nr'])]) for c in tests)
    seconds = [MORE + FACTOR * c[2] // 1000 for c in tests]
    args = [str(x) for c, s in zip(tests, seconds) for x in (c[0], c[1], s)]
    rc, out = guest(repo, linux, 60 + FACTOR * sum(c[2] for c in tests) // 1000, f'mutant={m["nr"]} mutant_limit={100000 + 100 * hits}',
                    'run', installed, *args)
    if rc == 126 or rc == 127:
        sys.exit(out)
    last = (re.findall(r'^(?:begin|failed) (.*)$', out, re.M) or ['boot'])[-1]
    if rc == 0:
        return 'not noticed', ''
    report = re.search(r'vm: the kernel reported:\n\s*(.*)', out)
    KILLS[m['file'], m['function'], last.split(' ')[1].rstrip(':') if ' ' in last else ''] += 1
    return 'noticed', last + (f' {report.group(1)}' if report else '')


def directory(m):
    return os.path.dirname(m['file'])


def main():
    kind = sys.argv[2]
    if kind == 'report':
        report()
    mutants, results, reasons = load('list', []), load('results', {}), same()
    mine = [m for m in mutants if not m['dropped'] and re.search(OPTIONS.get('only', ''), m['key'])
            and (m['file'] in KUNIT) == (kind == 'kunit')]
    if 'missed' in OPTIONS:
        mine = [m for m in mine if results.get(m['key'], ['?'])[0] != 'noticed' and m['key'] not in reasons]
    if 'untried' in OPTIONS:
        mine = [m for m in mine if m['key'] not in results]
    if 'sample' in OPTIONS:
        random.Random(7).shuffle(mine)
        mine = mine[:int(OPTIONS['sample'])]
    first = int(OPTIONS.get('first', 0)) % max(1, len(mine))
    mine = mine[first:] + mine[:first]
    for m in mutants:
        if results.get(m['key'], [''])[0] == 'noticed':
            KILLS[m['file'], m['function'], (results[m['key']][1].split(' ') + [''])[1].rstrip(':')] += 1
    cover = {}
    for d in sorted({directory(m) if kind == 'guest' else 'kunit' for m in mine}):
        began = time.time()
        name = f'cover.{d.replace("/", "-")}'
        if os.path.exists(f'{STATE}/{name}') and os.path.getmtime(f'{STATE}/{name}') > os.path.getmtime(f'{STATE}/list'):
            cover[d] = load(name, [])
            continue
        cover[d] = cover_kunit(*ARGS) if kind == 'kunit' else cover_guest(d, *ARGS)
        print(f'# {d}: {len(cover[d])} tests in {sum(c[2] for c in cover[d]) / 1000:.0f} s, {time.time() - began:.0f} s with the boot', flush=True)
        save(name, cover[d])
    print(f'1..{len(mine)}', flush=True)
    todo, lock, number = queue.Queue(), threading.Lock(), 0
    for m in mine:
        todo.put(m)

    def work():
        nonlocal number
        while True:
            try:
                m = todo.get_nowait()
            except queue.Empty:
                return
            began, late = time.time(), time.time() > float(OPTIONS.get('until') or 'inf')
            # which costs nothing
            late = late and any(str(m['nr']) in c[3] for c in cover['kunit' if kind == 'kunit' else directory(m)])
            if m['key'] in reasons or late:
                verdict, why = 'skip', reasons.get(m['key'], 'no time left')
            elif kind == 'kunit':
                verdict, why = judge_kunit(m, cover['kunit'], *ARGS)
            else:
                verdict, why = judge_guest(m, cover[directory(m)], *ARGS)
            with lock:
                number += 1
                path, rest = m['key'].split(' ', 1)
                what = f'{path}:{m["line"]} {rest}'.replace('#', '\\#')
                if verdict == 'skip':
                    print(f'ok {number} - {what} # SKIP {why}', flush=True)
                    continue
                results[m['key']] = [verdict, why]
                if verdict == 'noticed':
                    print(f'ok {number} - {what} # {why} ({time.time() - began:.1f} s)', flush=True)
                else:
                    print(f'not ok {number} - {what} # {verdict} ({time.time() - began:.1f} s)', flush=True)
                save('results', results)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def report():
    """Of all results so far, by file and by goal; the exit status is that of the goals."""
    mutants, results, reasons = [], {}, same()
    for kind in ('kunit', 'guest'):
        mutants += load(f'{kind}/list', [])
        results |= load(f'{kind}/results', {})
    columns = ('noticed', 'not noticed', 'not reached', 'not run', 'the same program', 'does not compile')
    rows, missed = collections.defaultdict(collections.Counter), collections.defaultdict(list)
    for m in mutants:
        verdict = results.get(m['key'], ['not run'])[0]
        if m['dropped'] or m['key'] in reasons:
            verdict = 'does not compile' if m['dropped'] else 'the same program'
        rows[m['file']][verdict] += 1
        if verdict in ('not noticed', 'not reached'):
            missed[m['file']].append(f'{m["line"]} {m["key"].split(" ", 1)[1]}' + (' -- not reached' if verdict == 'not reached' else ''))
    groups, good = collections.defaultdict(dict), True
    for f in sorted(rows):
        groups[f if f in KUNIT or f.startswith('drivers') else os.path.dirname(f)][f] = rows[f]
    print('| code | mutants | ' + ' | '.join(columns) + ' | score | goal |')
    print('| --- |' + ' ---: |' * (len(columns) + 3))
    for group, members in groups.items():
        total = sum(members.values(), collections.Counter())
        goal = 95 if group in KUNIT else 90 if group.startswith('drivers') else 80
        for name, r in [*(members.items() if len(members) > 1 else []), (f'**{group}**', total)]:
            tried = r['noticed'] + r['not noticed'] + r['not reached']
            score = 100 * r['noticed'] / tried if tried else 0
            said = f'{score:.1f} %' if not r['not run'] else f'{score:.1f} % of those run' if r['noticed'] else '-'
            print(f'| {name} | {sum(r.values())} | ' + ' | '.join(str(r[c]) for c in columns) + f' | {said} | '
                  + (f'{goal} % |' if name[0] == '*' else '|'))
        good = good and (score >= goal or not r['noticed'])
    print('\n## Not noticed')
    for f, lines in sorted(missed.items()):
        print(f'\n{f}:\n\n' + '\n'.join(f'    {line}' for line in lines))
    keys, had = {m['key'] for m in mutants}, {m['file'] for m in mutants}
    stale = [k for k in reasons if k not in keys and k.split(' ')[0] in had]
    noticed = [k for k in reasons if results.get(k, [''])[0] == 'noticed']
    for what, them in (('not among the mutants', stale), ('but noticed', noticed)):
        if them:
            print(f'\n## In scripts/lib/mutants.same, {what}\n\n' + '\n'.join(f'    {k}' for k in them))
    sys.exit(not good or bool(stale))


main()
