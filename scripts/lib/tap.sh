# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# TAP, as kselftests and prove(1) have it. Every verdict of every script is printed
# here. The counters are in a file, so that subshells can report, too.

# shellcheck source=scripts/lib/common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"

verdicts=''
# tap_begin: before subshells report
tap_begin() {
	[[ -z $verdicts ]] || return 0
	verdicts=$(mktemp)
	on_exit rm -f "$verdicts" "$verdicts.said"
}
verdict_of() {
	tap_begin
	printf '%s\n' "$1" >>"$verdicts"
	printf '%s\n' "$2"
}

ok() { verdict_of ok "ok - $*"; }
not_ok() { verdict_of not_ok "not ok - $*"; }
skip() { verdict_of skip "ok - $1 # SKIP ${2:-}"; }
diag() { printf '# %s\n' "${*//$'\n'/$'\n# '}"; }
bail_out() { not_ok "$*"; plan; exit 1; }
skip_all() { echo "1..0 # SKIP $*"; exit 0; }

# counted ok|not_ok|skip: how many there were
counted() { grep -c "^$1\$" "$verdicts" || :; }

# plan: the last line. The status says whether all was well.
plan() {
	tap_begin
	echo "1..$(wc -l <"$verdicts")"
	(($(counted not_ok) == 0))
}

# expect WHAT COMMAND...: one check; what COMMAND says on stdout is shown if it fails
expect() {
	local what=$1
	shift
	tap_begin
	if "$@" >"$verdicts.said"; then ok "$what"; else
		not_ok "$what"
		[[ ! -s $verdicts.said ]] || diag "$(tail -n 20 "$verdicts.said")"
	fi
}

# expect_empty WHAT FILE: a check that wrote what it found to FILE
expect_empty() {
	if [[ ! -s $2 ]]; then ok "$1"; else
		not_ok "$1"
		diag "$(head -n 10 "$2")"
	fi
}

# tap_results FILE: "ok NAME", "not ok NAME", "skip NAME" of that TAP; and "bad plan" when
# the number of results is not the one announced
tap_results() {
	awk '/^1\.\.[0-9]+/ { sub(/^1\.\./, ""); plan = $1 + 0; seen = 1 }
		/^(not )?ok / {
			n++
			r = /^not / ? "not ok" : /# SKIP/ ? "skip" : "ok"
			sub(/^(not )?ok [0-9]* *(- )?/, ""); sub(/ *# .*/, "")
			print r, $0
		}
		END { if (!seen || plan != n) print "bad plan: " plan + 0 " announced, " n + 0 " seen" }' "$1"
}

# tap_from PREFIX FILE: pass the results in FILE on
tap_from() {
	local line
	while IFS= read -r line; do
		case $line in
		ok\ *) ok "$1: ${line#ok }" ;;
		skip\ *) skip "$1: ${line#skip }" ;;
		*) not_ok "$1: ${line#not ok }" ;;
		esac
	done < <(tap_results "$2")
}

# shell_scripts: all of them
shell_scripts() {
	local file
	find "$repo/scripts" "$repo/.ci" -type f ! -name '*.diff' ! -name '*.c' | sort | while IFS= read -r file; do
		[[ $file == *.sh || $(head -c 64 "$file" | tr -d '\0' | sed -n 1p) == '#!'*sh ]] && printf '%s\n' "$file"
	done
	return 0
}
