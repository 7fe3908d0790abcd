# SPDX-License-Identifier: GPL-2.0
# scripts/mutants make: rewrite the functions that the series adds or changes, in a
# copy of the tree, so that a boot parameter chooses one small mistake: mutants.
#
# A statement is parsed as far as it takes to know where it ends and where its
# conditions are. The rewriting inserts text and never a newline, so what the compiler
# says about a line is about the mutants of that line: they are dropped, by line.
import bisect
import json
import os
import re
import subprocess
import sys

TOKEN = re.compile(
    r'(?:\s|/\*.*?\*/|//[^\n]*|(?m:^\#(?:[^\n\\]|\\.)*\n))+'
    r'|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[A-Za-z_]\w*|\d\w*'
    r'|<<=|>>=|\.\.\.|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|.', re.S)
FUNCTION = re.compile(r'^\{\n.*?^\}', re.M | re.S)

# What has no effect on what the kernel does: messages, assertions, annotations
SILENT = re.compile(
    r'(pr_\w+|\w*printk\w*|trace_\w+|ntfs_(err|warn|notice|inode_(err|warn)|error|warning|debug)|ntfs_\w*_dbg'
    r'|mlog\w*|ERROR|TRACE|f2fs_(err|warn|notice)\w*|lockdep_\w+|might_\w+|VM_(BUG|WARN)_ON\w*|BUG_ON|BUILD_BUG_ON\w*'
    r'|f2fs_bug_on|debug_folio_\w+|cond_resched|mutex_destroy|KUNIT_STATIC_STUB_REDIRECT|instrument_\w+|static_assert'
    r'|kunit_\w+|WARN_ON(_ONCE)?)$')
# What must be constant, or is no expression
OPAQUE = {'sizeof', 'offsetof', 'container_of', 'typeof', '__typeof__', 'asm', 'list_entry', 'IS_ENABLED'}
RELEASE = re.compile(r'(unlock|put|free|release|unmap|kunmap|_end|restore|exit|abort|unfreeze|drop|brelse|clear|unpin)')
MOVED = {'<': '<=', '<=': '<', '>': '>=', '>=': '>', '==': '!=', '!=': '=='}
LOWER = {'&&', '||', '?', ':', ',', ';', 'return', '=', '+=', '-=', '*=', '/=', '%=', '&=', '|=', '^=', '<<=', '>>=', '|', '^'}
ZERO = {'BLK_STS_OK', 'REQ_OP_READ'}
CONFIGURED = re.compile(r'!?IS_ENABLED\(\w+\)')
KINDS = ['left out', 'not released', 'true', 'false', 'negated', 'operand true', 'operand false', 'compared', 'replaced']
OPERAND = re.compile(r'[\w)\]"\']')


class Function:
    """One function: its tokens (those that count), and where mutants can be."""

    def __init__(self, path, name, text, start, line):
        self.path, self.name = path, name
        self.raw = [m.group(0) for m in TOKEN.finditer(text)]
        self.at = [i for i, t in enumerate(self.raw) if not re.match(r'\s|/\*|//|#', t)]
        self.tok = [self.raw[i] for i in self.at]
        self.line, n = [], line
        for i, t in enumerate(self.raw):
            if i in set(self.at[len(self.line):len(self.line) + 1]):
                self.line.append(n)
            n += t.count('\n')
        self.pair, stack = {}, []
        for i, t in enumerate(self.tok):
            if t in '([{':
                stack.append(i)
            elif t in ')]}':
                self.pair[stack.pop()] = i
        self.sites = []   # (first, last, kind, change, before, middle, after)
        i = 1
        while i < len(self.tok) - 1:
            i = self.statement(i)

    # site(): a place [first, last]; %d in the texts is the number of the mutant
    def site(self, first, last, kind, change, before='', after='', replace=None):
        self.sites.append((first, last, kind, change, before, after, replace))

    def text(self, first, last):
        raw = ''.join(self.raw[self.at[first]:self.at[last] + 1])
        return re.sub(r'\s+', ' ', re.sub(r'/\*.*?\*/|(?m:^#.*$)', ' ', raw, flags=re.S))

    def end(self, i, stop=';'):
        while self.tok[i] != stop:
            i = self.pair.get(i, i) + 1
        return i

    def statement(self, i, alone=False):
        """Find the mutants of the statement at i; return where the next one begins."""
        tok = self.tok
        t = tok[i]
        if t == '{':
            j, close = i + 1, self.pair[i]
            single = alone and self.simple(j) and self.end(j) + 1 == close
            while j < close:
                j = self.statement(j, single)
            return close + 1
        if t in ('if', 'while', 'switch') or (t == 'for' and tok[i + 1] == '('):
            close = self.pair[i + 1]
            silent = close + 1 + (tok[close + 1] == '{')
            if t == 'if' and SILENT.match(tok[silent]):
                after = self.end(silent) + 1
                if (tok[close + 1] != '{' or tok[after] == '}') and tok[after + (tok[close + 1] == '{')] != 'else':
                    return after + (tok[close + 1] == '{')
            if t == 'for':
                semi = self.end(i + 2)
                semi2 = self.end(semi + 1)
                self.expression(i + 2, semi - 1)
                if semi2 > semi + 1:
                    self.condition(semi + 1, semi2 - 1)
                    self.expression(semi + 1, semi2 - 1)
            else:
                if t != 'switch':
                    self.condition(i + 2, close - 1)
                self.expression(i + 2, close - 1)
            jump = close + 1
            after = jump + 1 if tok[jump] != '{' else self.pair[jump] + 1
            if tok[jump] != '{' and self.simple(jump):
                after = self.end(jump) + 1
            lone = t == 'if' and not (after < len(tok) and tok[after] == 'else')
            nxt = self.statement(jump, lone)
            if t == 'if' and tok[nxt] == 'else':
                nxt = self.statement(nxt + 1)
            return nxt
        if t == 'do':
            i = self.statement(i + 1)
            close = self.pair[i + 1]
            self.condition(i + 2, close - 1)
            self.expression(i + 2, close - 1)
            return close + 2
        if t in ('case', 'default'):
            return self.end(i, ':') + 1
        if re.match(r'\w', t) and tok[i + 1] == ':':
            return i + 2
        if re.match(r'\w', t) and tok[i + 1] == '(' and t != 'return':
            close = self.pair[i + 1]
            if re.match(r'[{\w]', tok[close + 1]):      # for_each(...) statement
                return self.statement(close + 1)
        j = self.end(i)
        if j == i:
            return i + 1
        if self.declaration(i):
            for k in range(i, j):
                if tok[k] == '=' and tok[k + 1] != '{':
                    comma = k
                    while comma < j and tok[comma] != ',':
                        comma = self.pair.get(comma, comma) + 1
                    self.expression(k + 1, comma - 1)
            return j + 1
        if SILENT.match(t):
            return j + 1
        if t == 'return':
            self.expression(i + 1, j - 1)
        elif t not in ('goto', 'break', 'continue'):
            self.expression(i, j - 1)
        # The only statement of an "if" is left out when its condition is false, and the
        # last "return" cannot be left out.
        if not alone and not (t == 'return' and j + 2 == len(tok)):
            call = re.match(r'\w+', t) and tok[i + 1] == '(' and RELEASE.search(t)
            self.site(i, j, 'not released' if call else 'left out', self.text(i, j), '{ if (!mutant(%d)) ', ' }')
        return j + 1

    def simple(self, i):
        return self.tok[i] not in ('{', 'if', 'for', 'while', 'do', 'switch', 'case', 'default')

    def declaration(self, i):
        tok = self.tok
        if tok[i] in ('return', 'goto', 'break', 'continue'):
            return False
        if tok[i] in ('const', 'static', 'struct', 'union', 'enum', 'unsigned') or re.match(r'(DEFINE|DECLARE)_|guard$|LIST_HEAD$|__free', tok[i]):
            return True
        return bool(re.match(r'\w+ (__\w+ )?(\*+ ?)?\w+( __\w+)?( \(.*\))? [=;,[]', ' '.join(tok[i:self.end(i) + 1]).replace('* *', '**')))

    def condition(self, first, last):
        what = self.text(first, last)
        if what in ('1', 'true', '0'):
            return
        if CONFIGURED.fullmatch(what):      # true or false for this kernel
            self.site(first, last, 'negated', what, '(mutant(%d) ^ !!(', '))')
            return
        self.site(first, last, 'true', what, '(mutant(%d) || (', '))')
        self.site(first, last, 'false', what, '(!mutant(%d) && (', '))')
        self.site(first, last, 'negated', what, '(mutant(%d) ^ !!(', '))')

    def expression(self, first, last):
        """The operands of && and ||, comparisons and constants in [first, last]."""
        tok, i, level = self.tok, first, []
        while i <= last:
            t = tok[i]
            if i in self.pair:
                if t == '{' or (t == '(' and tok[i - 1] in OPAQUE) or (t == '(' and SILENT.match(tok[i - 1]) and not tok[i - 1].startswith('WARN')):
                    pass
                elif not (t == '(' and self.cast(i)):
                    self.expression(i + 1, self.pair[i] - 1)
                i = self.pair[i]
            elif t in ('&&', '||', '?', ':', ',', '=', 'return') or re.match(r'(<<|>>|[-+*/%&|^])=$', t):
                level.append(i)
            elif t in MOVED:
                self.comparison(i, first, last)
            else:
                self.constant(i, first, last)
            i += 1
        for n, i in enumerate(level):
            left = level[n - 1] + 1 if n else first
            if tok[i] == '?':
                if tok[i + 1] != ':':       # "a ?: b" is the value of a
                    self.condition(left, i - 1)
                continue
            for a, z in ((left, i - 1), (i + 1, (level[n + 1] if n + 1 < len(level) else last + 1) - 1)):
                if a <= z and CONFIGURED.fullmatch(self.text(a, z)):
                    continue
                if tok[i] == '&&' and a <= z and not (a == left and n and tok[level[n - 1]] == '&&'):
                    self.site(a, z, 'operand true', self.text(a, z), '(mutant(%d) || (', '))')
                elif tok[i] == '||' and a <= z and not (a == left and n and tok[level[n - 1]] in ('||', '&&')) \
                        and not (a > i and n + 1 < len(level) and tok[level[n + 1]] == '&&'):
                    self.site(a, z, 'operand false', self.text(a, z), '(!mutant(%d) && (', '))')

    def cast(self, i):
        inside = self.tok[i + 1:self.pair[i]]
        return bool(inside) and (inside[-1] == '*' or inside[0] in ('struct', 'unsigned', 'const')
                                 or (len(inside) == 1 and re.match(r'(\w+_t|[us]\d+|int|long|size_t|bool)$', inside[0])))

    def comparison(self, i, first, last):
        tok, equal = self.tok, self.tok[i] in ('==', '!=')

        def stops(k):
            return tok[k] in LOWER or (tok[k] == '&' and OPERAND.match(tok[k - 1][-1])) or tok[k] in MOVED and (not equal or tok[k] in ('==', '!='))
        a = z = i
        closing = {v: k for k, v in self.pair.items()}
        while a > first and not stops(a - 1):
            a = closing.get(a - 1, a - 1)
        while z < last and not stops(z + 1):
            z = self.pair.get(z + 1, z + 1)
        # of a whole condition this is the same as "negated"
        if not (equal and a == first and z == last and tok[a - 1] == '(' and tok[a - 2] in ('if', 'while')):
            self.site(a, z, 'compared', f'{self.text(a, z)}: {MOVED[tok[i]]}', f'mutant_cmp(%d, {tok[i]}, {MOVED[tok[i]]}, ', ')', (i, ','))

    def constant(self, i, first, last):
        tok, t = self.tok, self.tok[i]
        before, after = tok[i - 1], tok[i + 1]
        alt = None
        if before in ('.', '->', 'goto') or after in ('(', '++', '--') or (before == '?' and after == ':'):
            return
        if re.match(r'(0x)?[0-9a-fA-F]+[uUlL]*$', t) and t[0].isdigit():
            alt = '0' if t == '1' else '1' if t == '0' else f'{t} + 1'
        elif t in ('true', 'false'):
            alt = 'false' if t == 'true' else 'true'
        elif re.match(r'E[A-Z0-9]{2,}$', t) and before == '-':
            alt = 'EINVAL' if t == 'EIO' else 'EIO'
        elif re.match(r'_*[A-Z][A-Z0-9]*_[A-Z0-9_]+$|Lo_\w+$', t):
            if t in ZERO:
                return
            if {before, after} & {'|', '&', '~', '|=', '&='} or t.startswith('STATX_'):
                alt = '0'
            elif re.search(r'SIZE|SZ_|SHIFT|MAX', t):
                alt = f'{t} + 1'
            elif {before, after} & {'==', '!='} and not (i == first or i == last):
                return
            else:
                alt = f'{t} + 1' if re.match(r'Lo_|ITER_', t) else '0'
        if alt:
            self.site(i, i, 'replaced', f'{t}: {alt}', f'(mutant(%d) ? ({alt}) : ', ')')


def changed_lines(tree, base, path):
    """The lines of the file that the series adds"""
    diff = subprocess.run(['git', '-C', tree, 'diff', '-U0', base, '--', path], capture_output=True, text=True, check=True).stdout
    lines = set()
    for start, count in re.findall(r'^@@ -\S+ \+(\d+)(?:,(\d+))? @@', diff, re.M):
        lines.update(range(int(start), int(start) + int(count or 1)))
    return lines


def functions(path, text, lines):
    """Those of the text that have one of the lines"""
    begin = [0] + [m.end() for m in re.finditer('\n', text)]
    for m in FUNCTION.finditer(text):
        head = text.rfind('\n\n', 0, m.start()) + 2
        head = max(head, text.rfind('*/\n', 0, m.start()) + 3, text.rfind(';\n', 0, m.start()) + 2, text.rfind('}\n', 0, m.start()) + 2)
        name = re.search(r'(\w+)\((?:[^()]|\([^()]*\))*\)\s*(?:__\w+(?:\([^)]*\))?\s*)*$', text[head:m.start()])
        if not name:
            continue
        first, last = bisect.bisect(begin, head), bisect.bisect(begin, m.end() - 1)
        if any(first <= n <= last for n in lines):
            yield Function(path, name.group(1), m.group(0), m.start(), bisect.bisect(begin, m.start())), m.start()


def make(path, text, lines, number, dropped, whole):
    """The text with its mutants, and their list; numbers begin at `number`. They are of
    what has one of the lines, or of the whole of the functions that have one."""
    mutants, source, seen = [], text.split('\n'), {}
    out, done = [], 0
    for f, start in functions(path, text, lines):
        before, after = [''] * len(f.raw), [''] * len(f.raw)
        raw = list(f.raw)
        numbered = []
        for s in sorted(f.sites, key=lambda s: (s[0], -s[1])):
            if not whole and not any(n in lines for n in range(f.line[s[0]], f.line[s[1]] + 1)):
                continue
            line = source[f.line[s[0]] - 1].strip()
            key = f'{path} {f.name}: {s[2]}: {s[3]} [{line}]'
            seen[key] = seen.get(key, 0) + 1
            if seen[key] > 1:
                key += f' #{seen[key]}'
            mutants.append({'nr': number, 'key': key, 'file': path, 'function': f.name, 'kind': s[2], 'change': s[3],
                            'line': f.line[s[0]], 'last': f.line[s[1]]})
            numbered.append((s, number))
            number += 1
        # outer ones first: their text is farther out
        for s, n in sorted(numbered, key=lambda x: (x[0][0] - x[0][1], KINDS.index(x[0][2]))):
            if n in dropped:
                continue
            a, z = f.at[s[0]], f.at[s[1]]
            before[a] += s[4] % n
            after[z] = s[5] + after[z]
            if s[6]:
                raw[f.at[s[6][0]]] = s[6][1]
        out += [text[done:start], ''.join(b + r + a for b, r, a in zip(before, raw, after))]
        done = start + sum(map(len, f.raw))
    out.append(text[done:])
    return '#include <linux/mutant.h> ' + ''.join(out), mutants


HEADER = r'''/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_MUTANT_H
#define _LINUX_MUTANT_H
_Bool mutant(int nr);
#define mutant_cmp(nr, op, alt, a, b) (mutant(nr) ? (a) alt (b) : (a) op (b))
#endif
'''
KERNEL = r'''// SPDX-License-Identifier: GPL-2.0
#include <linux/debugfs.h>
#include <linux/export.h>
#include <linux/init.h>
#include <linux/ktime.h>
#include <linux/moduleparam.h>
#include <linux/mutant.h>
#include <linux/panic.h>
#include <linux/seq_file.h>

static int mutant_nr;
core_param(mutant, mutant_nr, int, 0444);
static unsigned int mutant_limit;	/* an endless loop ends the kernel */
core_param(mutant_limit, mutant_limit, uint, 0444);
static unsigned int hits[MUTANTS + 1];

_Bool mutant(int nr)
{
	hits[nr]++;
	if (likely(nr != mutant_nr))
		return 0;
	if (mutant_limit && hits[nr] > mutant_limit)
		panic("mutant %d: endless loop", nr);
	return 1;
}
EXPORT_SYMBOL(mutant);

/* /sys/kernel/debug/mutants: what was reached since it was last read */
static int mutants_show(struct seq_file *m, void *v)
{
	for (int i = 1; i <= MUTANTS; i++)
		if (hits[i])
			seq_printf(m, " %d:%u", i, hits[i]);
	seq_putc(m, '\n');
	if (!seq_has_overflowed(m))	/* otherwise this is called again */
		memset(hits, 0, sizeof(hits));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(mutants);

static int __init mutants_init(void)
{
	debugfs_create_file("mutants", 0400, NULL, NULL, &mutants_fops);
	return 0;
}
late_initcall(mutants_init);

/* mutant_tests=01101...: which of the KUnit cases run; without it all do, and what
 * each reaches goes to the console.
 */
static const char *tests;
static int test;
static ktime_t began;
static int __init mutant_tests(char *s)
{
	tests = s;
	return 1;
}
__setup("mutant_tests=", mutant_tests);

_Bool mutant_wants(const char *suite, const char *name);
_Bool mutant_wants(const char *suite, const char *name)
{
	if (tests && tests[test++] != '1')
		return 0;
	printk("\nmutants: begin %s.%s\n", suite, name);
	began = ktime_get();
	memset(hits, 0, sizeof(hits));
	return 1;
}

void mutant_report(const char *suite, const char *name);
void mutant_report(const char *suite, const char *name)
{
	if (tests)
		return;
	printk("\nmutants: end %s.%s %lld\n", suite, name, ktime_ms_delta(ktime_get(), began));
	for (int i = 1; i <= MUTANTS; i++)
		if (hits[i])
			printk("\nmutant: %d:%u\n", i, hits[i]);
}
'''


def run(*args):
    return subprocess.run(args, capture_output=True, text=True, check=True).stdout


def write(path, text):
    try:
        with open(path) as f:
            if f.read() == text:
                return
    except FileNotFoundError:
        pass
    with open(path, 'w') as f:
        f.write(text)


def edit(path, old, new):
    with open(path) as f:
        text = f.read()
    assert old in text or new in text, path
    write(path, text if new in text else text.replace(old, new, 1))


def main(tree, base, out, whole, build, *files):
    """Mutate these files of the checked out copy `tree`; write the list to `out`. In the
    configured build directory `build` they must compile."""
    if run('git', '-C', tree, 'branch', '--show-current'):
        sys.exit(f'{tree} is on a branch: not a copy to make mutants in')
    text = {f: run('git', '-C', tree, 'show', f'HEAD:{f}') for f in files}
    lines = {f: changed_lines(tree, base, f) for f in files}
    dropped = set()
    edit(f'{tree}/lib/Makefile', '\n\n', '\nobj-y += mutant.o\n\n')
    edit(f'{tree}/lib/kunit/test.c', 'test_case)\n\t\tkunit_run_one_test(suite, test_case, &suite_stats, &total_stats);\n',
         'test_case) {\n\t\textern _Bool mutant_wants(const char *, const char *); extern void mutant_report(const char *, const char *);\n'
         '\t\tif (!mutant_wants(suite->name, test_case->name)) continue;\n'
         '\t\tkunit_run_one_test(suite, test_case, &suite_stats, &total_stats);\n'
         '\t\tmutant_report(suite->name, test_case->name);\n\t}\n')
    write(f'{tree}/include/linux/mutant.h', HEADER)
    while True:
        mutants = []
        for f in files:
            new, found = make(f, text[f], lines[f], len(mutants) + 1, dropped, whole == 'whole')
            write(f'{tree}/{f}', new)
            mutants += found
        write(f'{tree}/lib/mutant.c', f'#define MUTANTS {len(mutants)}\n{KERNEL}')
        log = subprocess.run(['make', '-k', f'-j{os.cpu_count()}', '-C', tree, f'O={build}', 'ARCH=um',
                              *(f[:-1] + 'o' for f in files)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        errors = re.findall(r'^\S*?((?:mm|fs|drivers)/\S+\.c):(\d+):(?:\d+:)? error', log.stdout, re.M)
        bad = {m['nr'] for m in mutants if m['nr'] not in dropped
               and any(m['file'] == f and m['line'] <= int(n) <= m['last'] for f, n in errors)}
        if log.returncode and not bad:
            sys.exit(log.stdout[-3000:])
        if not bad:
            break
        dropped |= bad
    for m in mutants:
        m['dropped'] = m['nr'] in dropped
    with open(out, 'w') as f:
        json.dump(mutants, f, indent=0)
    print(f'{len(mutants)} mutants, {len(dropped)} of them do not compile')


if __name__ == '__main__':
    main(*sys.argv[1:])
